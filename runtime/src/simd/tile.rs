//! The inner loop of every matrix product: a tile of sums that stays in registers.

use super::{Element, Simd, check};

/// M rows of a matrix, of so many elements each: the first begins at an index, each at this distance from the one before.
#[inline(always)]
pub(crate) fn rows<const M: usize>(x: &[f32], index: usize, next: usize, len: usize) -> [&[f32]; M] {
    check::<M>(x.len(), index, next, len);
    // SAFETY: `len` elements follow each index.
    core::array::from_fn(|m| unsafe { x.get_unchecked(index + m * next..index + m * next + len) })
}

/// Like [`rows`], to be written.
#[inline(always)]
pub(crate) fn rows_mut<const M: usize>(
    y: &mut [f32],
    index: usize,
    next: usize,
    len: usize,
) -> [&mut [f32]; M] {
    assert!(len <= next, "rows that overlap");
    check::<M>(y.len(), index, next, len);
    let start = y.as_mut_ptr();
    // SAFETY: `len` elements follow each index, which are at least as far apart.
    core::array::from_fn(|m| unsafe { core::slice::from_raw_parts_mut(start.add(index + m * next), len) })
}

/// Columns of the second factor of a matrix product, N vectors of them: row k has the vectors at
/// `k · row + n · next`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a, E> {
    /// All elements, from the first of these columns.
    pub(crate) elements: &'a [E],
    /// Distance of rows.
    pub(crate) row: usize,
    /// Distance of vectors.
    pub(crate) next: usize,
    /// Elements of a row where they do not fill a vector, of which there is one then.
    pub(crate) part: Option<usize>,
}

/// `sums[m][n] += Σ_k a[m][k] · b[k][n]`, in the order of k; the rows of a have one length.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, E: Element, const M: usize, const N: usize>(
    s: S,
    a: [&[f32]; M],
    b: Columns<'_, E>,
    sums: &mut [[S::V; N]; M],
) {
    let depth = a[0].len();
    assert!(a.iter().all(|row| row.len() == depth), "rows of different lengths");
    if depth == 0 {
        return;
    }
    // Rows that are read as whole vectors. What that takes beyond the columns is added to sums that are nobody's; only after
    // the last rows nothing follows.
    let whole = match b.part {
        None => depth,
        Some(_) => {
            (b.elements.len() + b.row).saturating_sub(S::LANES).checked_div(b.row).unwrap_or(0).min(depth)
        }
    };
    let end = whole.checked_sub(1).map_or(0, |last| last * b.row + (N - 1) * b.next + S::LANES);
    assert!(end <= b.elements.len(), "columns outside the matrix");
    let mut local = *sums;
    for k in 0..whole {
        let mut columns = [s.splat(0.0); N];
        for (n, column) in columns.iter_mut().enumerate() {
            // SAFETY: k < whole and n < N, so this vector ends at most at `end`.
            *column = unsafe { E::read(s, b.elements.as_ptr().add(k * b.row + n * b.next)) };
        }
        for (row, sums) in a.iter().zip(&mut local) {
            // SAFETY: every row has `depth` elements.
            let factor = s.splat(unsafe { *row.get_unchecked(k) });
            for (sum, &column) in sums.iter_mut().zip(&columns) {
                *sum = s.mul_add(factor, column, *sum);
            }
        }
    }
    if let Some(part) = b.part {
        for k in whole..depth {
            let column = E::load(s, &b.elements[k * b.row..][..part]);
            for (row, sums) in a.iter().zip(&mut local) {
                sums[0] = s.mul_add(s.splat(row[k]), column, sums[0]);
            }
        }
    }
    *sums = local;
}
