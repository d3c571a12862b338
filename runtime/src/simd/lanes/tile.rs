//! The inner loop of matrix products of integers: a tile of sums that stays in registers.

use traflow_graph::quant::QUAD;

use super::{LANES, Lanes, Row};

/// A number that weights are multiplied by: of 16 bits, or of 8 as [`Lanes::dot`] takes them.
pub(crate) trait Factor: bytemuck::Pod + Send + Sync {
    /// A row of weights.
    type Row<S: Lanes>: Copy;
    /// Panels of the largest tile.
    fn panels<S: Lanes>() -> usize;
    /// What is added to a number to make it one of these.
    fn offset<S: Lanes>() -> i32;
    /// The number with that.
    fn of<S: Lanes>(x: i32) -> Self;
    /// Prepares a row of weights.
    fn row<S: Lanes>(s: S, row: S::V) -> Self::Row<S>;
    /// Adds the products of N rows with four numbers.
    fn dot<S: Lanes, const N: usize>(s: S, sums: &mut [S::V; N], rows: &[Self::Row<S>; N], x: &[Self; QUAD]);
}

impl Factor for u8 {
    type Row<S: Lanes> = S::V;

    #[inline(always)]
    fn panels<S: Lanes>() -> usize {
        S::TILE[1]
    }

    #[inline(always)]
    fn offset<S: Lanes>() -> i32 {
        S::BYTES.map_or(0, i32::from)
    }

    #[inline(always)]
    fn of<S: Lanes>(x: i32) -> Self {
        (x as Self).wrapping_add(S::BYTES.unwrap_or(0))
    }

    #[inline(always)]
    fn row<S: Lanes>(_: S, row: S::V) -> S::V {
        row
    }

    #[inline(always)]
    fn dot<S: Lanes, const N: usize>(s: S, sums: &mut [S::V; N], rows: &[S::V; N], x: &[Self; QUAD]) {
        let x = s.splat(i32::from_le_bytes(*x));
        for (sum, row) in sums.iter_mut().zip(rows) {
            *sum = s.dot(*sum, *row, x);
        }
    }
}

/// Numbers as they lie in a value.
impl Factor for i8 {
    type Row<S: Lanes> = [S::V; 2];

    #[inline(always)]
    fn panels<S: Lanes>() -> usize {
        i16::panels::<S>()
    }

    #[inline(always)]
    fn offset<S: Lanes>() -> i32 {
        u8::offset::<S>()
    }

    #[inline(always)]
    fn of<S: Lanes>(x: i32) -> Self {
        x as Self
    }

    #[inline(always)]
    fn row<S: Lanes>(s: S, row: S::V) -> [S::V; 2] {
        if S::BYTES.is_some() { [row; 2] } else { s.pairs(row) }
    }

    #[inline(always)]
    fn dot<S: Lanes, const N: usize>(s: S, sums: &mut [S::V; N], rows: &[[S::V; 2]; N], x: &[Self; QUAD]) {
        let x = s.splat(i32::from_le_bytes([x[0] as u8, x[1] as u8, x[2] as u8, x[3] as u8]));
        if let Some(offset) = S::BYTES {
            let x = if offset == 0 { x } else { s.xor(x, s.splat(i32::from_le_bytes([offset; 4]))) };
            for (sum, rows) in sums.iter_mut().zip(rows) {
                *sum = s.dot(*sum, rows[0], x);
            }
        } else {
            let x = s.pairs(x);
            for (sum, rows) in sums.iter_mut().zip(rows) {
                *sum = s.dot_pairs(s.dot_pairs(*sum, rows[0], x[0]), rows[1], x[1]);
            }
        }
    }
}

impl Factor for i16 {
    type Row<S: Lanes> = [S::V; 2];

    #[inline(always)]
    fn panels<S: Lanes>() -> usize {
        // A row of weights takes two registers.
        S::TILE[1].min(2)
    }

    #[inline(always)]
    fn offset<S: Lanes>() -> i32 {
        0
    }

    #[inline(always)]
    fn of<S: Lanes>(x: i32) -> Self {
        x as Self
    }

    #[inline(always)]
    fn row<S: Lanes>(s: S, row: S::V) -> [S::V; 2] {
        s.pairs(row)
    }

    #[inline(always)]
    fn dot<S: Lanes, const N: usize>(s: S, sums: &mut [S::V; N], rows: &[[S::V; 2]; N], x: &[Self; QUAD]) {
        let first = s.splat(i32::from(x[0] as u16) | i32::from(x[1]) << 16);
        let second = s.splat(i32::from(x[2] as u16) | i32::from(x[3]) << 16);
        for (sum, rows) in sums.iter_mut().zip(rows) {
            *sum = s.dot_pairs(s.dot_pairs(*sum, rows[0], first), rows[1], second);
        }
    }
}

/// What sums of products of factors with these rows begin with: what is added to the factors is taken away beforehand.
#[inline(always)]
pub(crate) fn begin<S: Lanes, X: Factor>(s: S, rows: &[Row]) -> S::V {
    let mut begin = s.splat(0);
    if X::offset::<S>() != 0 {
        for row in rows {
            begin = s.dot(begin, s.row(row), s.splat(0x0101_0101));
        }
        begin = s.mul(begin, s.splat(-X::offset::<S>()));
    }
    begin
}

/// Adds the products of M pixels, each so many numbers, with N panels, each of a row for four of the numbers.
#[inline(always)]
pub(crate) fn dots<S: Lanes, X: Factor, const M: usize, const N: usize>(
    s: S,
    pixels: [&[X]; M],
    panels: [&[Row]; N],
    sums: &mut [[S::V; N]; M],
) {
    let quads = panels[0].len();
    for panel in panels {
        assert!(panel.len() == quads, "panels of different lengths");
    }
    for pixel in pixels {
        assert!(pixel.len() >= quads * QUAD, "pixels shorter than their weights");
    }
    let mut local = *sums;
    // SAFETY: all of it was just seen to be so.
    let done = unsafe { s.dots(pixels, panels, &mut local) };
    for quad in done..quads {
        let mut rows = [X::row(s, s.splat(0)); N];
        for (row, panel) in rows.iter_mut().zip(panels) {
            // SAFETY: every panel has so many rows.
            *row = X::row(s, s.row(unsafe { panel.get_unchecked(quad) }));
        }
        for (pixel, sums) in pixels.iter().zip(&mut local) {
            // SAFETY: every pixel has so many quads, and an array needs no more alignment than its elements.
            let x = unsafe { &*pixel.as_ptr().add(quad * QUAD).cast::<[X; QUAD]>() };
            X::dot(s, sums, &rows, x);
        }
    }
    *sums = local;
}

/// The same for one panel of fewer output channels, whose rows follow each other, each of so many quads.
#[inline(always)]
pub(crate) fn dots_part<S: Lanes, X: Factor, const M: usize, const N: usize>(
    s: S,
    pixels: [&[X]; M],
    panel: &[[i8; QUAD]],
    width: usize,
    sums: &mut [[S::V; N]; M],
) {
    let mut local = *sums;
    for (quad, weights) in panel.chunks_exact(width).enumerate() {
        let row = [X::row(s, s.row_part(weights)); N];
        for (pixel, sums) in pixels.iter().zip(&mut local) {
            if let Some(x) = pixel[quad * QUAD..].first_chunk() {
                X::dot(s, sums, &row, x);
            }
        }
    }
    *sums = local;
}

/// Adds the products of M tiles, each pairs of numbers, with a row of pairs of weights for each of their pairs.
#[inline(always)]
pub(crate) fn dot_rows<S: Lanes, const M: usize>(
    s: S,
    tiles: [&[i16]; M],
    rows: &[[i32; LANES]],
    sums: &mut [S::V; M],
) {
    for tile in tiles {
        assert!(tile.len() >= 2 * rows.len(), "tiles shorter than their weights");
    }
    let mut local = *sums;
    // SAFETY: it was just seen to be so.
    let done = unsafe { s.dot_rows(tiles, rows, &mut local) };
    let tiles = tiles.map(|tile| tile.as_ptr());
    for (pair, row) in rows.iter().enumerate().skip(done) {
        let weights = s.load(row);
        for (tile, sum) in tiles.iter().zip(&mut local) {
            // SAFETY: every tile has so many pairs.
            let x = s.splat(unsafe { tile.add(2 * pair).cast::<i32>().read_unaligned() });
            *sum = s.dot_pairs(*sum, weights, x);
        }
    }
    *sums = local;
}
