//! The inner loop of matrix products of integers: a tile of sums that stays in registers.

use traflow_graph::quant::QUAD;

use super::{LANES, Lanes, Row};

/// A number of 8 or of 16 bits that weights are multiplied by.
pub(crate) trait Element: bytemuck::Pod + Send + Sync {
    /// A row of weights.
    type Row<S: Lanes>: Copy;
    /// What the products add to each weight.
    fn offset<S: Lanes>() -> i32;
    /// Prepares a row of weights.
    fn row<S: Lanes>(s: S, row: &Row) -> Self::Row<S>;
    /// The sum of numbers.
    fn total<S: Lanes>(s: S, x: &[Self]) -> i32;
    /// Adds the products of N vectors of rows with four numbers.
    fn dot<S: Lanes, const N: usize>(s: S, sums: &mut [S::V; N], rows: &[Self::Row<S>; N], x: &[Self; QUAD]);
}

impl Element for i8 {
    type Row<S: Lanes> = S::Row;

    #[inline(always)]
    fn offset<S: Lanes>() -> i32 {
        S::OFFSET
    }

    #[inline(always)]
    fn row<S: Lanes>(s: S, row: &Row) -> S::Row {
        s.row(row)
    }

    #[inline(always)]
    fn total<S: Lanes>(s: S, x: &[Self]) -> i32 {
        s.total(x)
    }

    #[inline(always)]
    fn dot<S: Lanes, const N: usize>(s: S, sums: &mut [S::V; N], rows: &[S::Row; N], x: &[Self; QUAD]) {
        let x = s.quad(x);
        for (sum, &row) in sums.iter_mut().zip(rows) {
            *sum = s.dot(*sum, row, x);
        }
    }
}

impl Element for i16 {
    type Row<S: Lanes> = [S::Pairs; 2];

    #[inline(always)]
    fn offset<S: Lanes>() -> i32 {
        0
    }

    #[inline(always)]
    fn row<S: Lanes>(s: S, row: &Row) -> [S::Pairs; 2] {
        s.pairs(row)
    }

    #[inline(always)]
    fn total<S: Lanes>(_: S, x: &[Self]) -> i32 {
        x.iter().map(|&x| i32::from(x)).sum()
    }

    #[inline(always)]
    fn dot<S: Lanes, const N: usize>(
        s: S,
        sums: &mut [S::V; N],
        rows: &[[S::Pairs; 2]; N],
        x: &[Self; QUAD],
    ) {
        for (sum, rows) in sums.iter_mut().zip(rows) {
            *sum = s.dot_pairs(*sum, rows[0], [x[0], x[1]]);
            *sum = s.dot_pairs(*sum, rows[1], [x[2], x[3]]);
        }
    }
}

/// Adds the products of M pixels, each so many numbers, with N panels, each of a row for four of the numbers.
#[inline(always)]
pub(crate) fn dots<S: Lanes, X: Element, const M: usize, const N: usize>(
    s: S,
    pixels: [&[X]; M],
    panels: [&[Row]; N],
    sums: &mut [[S::V; N]; M],
) {
    let quads = panels[0].len();
    assert!(panels.iter().all(|panel| panel.len() == quads), "panels of different lengths");
    assert!(pixels.iter().all(|pixel| pixel.len() >= quads * QUAD), "pixels shorter than their weights");
    if quads == 0 {
        return;
    }
    let mut local = *sums;
    for quad in 0..quads {
        // SAFETY: every panel has so many rows.
        let rows = panels.map(|panel| X::row(s, unsafe { panel.get_unchecked(quad) }));
        for (pixel, sums) in pixels.iter().zip(&mut local) {
            // SAFETY: every pixel has so many quads, and an array needs no more alignment than its elements.
            let x = unsafe { &*pixel.as_ptr().add(quad * QUAD).cast::<[X; QUAD]>() };
            X::dot(s, sums, &rows, x);
        }
    }
    *sums = local;
}

/// The same for one panel of any number of output channels, whose rows follow each other, each of so many weights; and for
/// pixels whose last numbers fill no quad.
#[inline(always)]
pub(crate) fn dots_part<S: Lanes, X: Element, const M: usize, const N: usize>(
    s: S,
    pixels: [&[X]; M],
    panel: &[i8],
    width: usize,
    sums: &mut [[S::V; N]; M],
) {
    for (quad, weights) in panel.chunks_exact(width).enumerate() {
        let mut row = [0; LANES * QUAD];
        row[..width].copy_from_slice(weights);
        let row = [X::row(s, &row); N];
        for (pixel, sums) in pixels.iter().zip(&mut *sums) {
            let x = &pixel[quad * QUAD..];
            let mut last = [X::zeroed(); QUAD];
            let x = x.first_chunk().unwrap_or_else(|| {
                last[..x.len()].copy_from_slice(x);
                &last
            });
            X::dot(s, sums, &row, x);
        }
    }
}
