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
    /// Elements of a row where they fill no whole vectors; then the vectors follow each other.
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
    if let Some(part) = b.part {
        return accumulate_part(s, a, b, part, sums);
    }
    let last = (depth - 1) * b.row + (N - 1) * b.next;
    assert!(last + S::LANES <= b.elements.len(), "columns outside the matrix");
    let mut local = *sums;
    for k in 0..depth {
        let mut columns = [s.splat(0.0); N];
        for (n, column) in columns.iter_mut().enumerate() {
            // SAFETY: k < depth and n < N, so this vector begins at most at `last`, after which LANES elements follow.
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
    *sums = local;
}

/// The same for columns that fill no whole vectors.
#[inline(always)]
fn accumulate_part<S: Simd, E: Element, const M: usize, const N: usize>(
    s: S,
    a: [&[f32]; M],
    b: Columns<'_, E>,
    part: usize,
    sums: &mut [[S::V; N]; M],
) {
    let mut local = *sums;
    for k in 0..a[0].len() {
        for n in 0..N.min(part.div_ceil(S::LANES)) {
            // A whole vector also takes what follows the row; its sums are nobody's. Only at the end nothing follows.
            let elements = &b.elements[k * b.row + n * S::LANES..];
            let column = if elements.len() >= S::LANES {
                E::load(s, elements)
            } else {
                E::load(s, &elements[..part - n * S::LANES])
            };
            for (row, sums) in a.iter().zip(&mut local) {
                sums[n] = s.mul_add(s.splat(row[k]), column, sums[n]);
            }
        }
    }
    *sums = local;
}
