//! Matrix products, cut into tiles that fit into the registers of an instruction set.

use core::ops::Range;

use traflow_graph::model::PANEL;

use crate::simd::{Columns, Element, Kernel, Simd, accumulate, rows, rows_mut};

/// A matrix product, computed tile by tile.
pub(crate) trait Product {
    /// Computes M rows from this one on, of N vectors of columns from this one on: whole ones that begin with a panel, or one of
    /// so many columns as are `part`.
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        row: usize,
        column: usize,
        part: Option<usize>,
    );
}

/// Computes all tiles of these rows and of the columns from 0 on. The tiles of some columns are a function of their own, since
/// registers are better used where there is less else.
#[inline(always)]
pub(crate) fn tiles<S: Simd>(s: S, product: &mut impl Product, rows: Range<usize>, columns: usize) {
    let mut column = 0;
    while column < columns {
        let (panels, rows) = ((columns - column) / PANEL, rows.clone());
        if panels == 0 {
            let width = S::LANES.min(columns - column);
            s.run(Tiles::<_, 1, false> { product, rows, column, width }, &mut []);
            column += width;
            continue;
        }
        let width = group(panels, S::TILE[1]) * PANEL;
        match (S::LANES, width) {
            (16, PANEL) => s.run(Tiles::<_, 1, true> { product, rows, column, width }, &mut []),
            (8 | 16, _) => s.run(Tiles::<_, 2, true> { product, rows, column, width }, &mut []),
            _ => s.run(Tiles::<_, 4, true> { product, rows, column, width }, &mut []),
        }
        column += width;
    }
}

/// Panels that are computed together where so many are left: at most so many, and all groups about the same.
#[inline(always)]
pub(crate) fn group(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most).max(1))
}

/// The tiles of some rows and of N vectors of columns, or of one vector that need not be whole.
struct Tiles<'p, P, const N: usize, const WHOLE: bool> {
    product: &'p mut P,
    rows: Range<usize>,
    column: usize,
    width: usize,
}

impl<P: Product, const N: usize, const WHOLE: bool> Kernel for Tiles<'_, P, N, WHOLE> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        let Self { product, rows, column, width } = self;
        let part = if WHOLE { None } else { Some(width) };
        let mut row = rows.start;
        while row < rows.end {
            let left = rows.end - row;
            // A vector that is not whole is rare, and most of its tiles are the largest.
            row += if S::TILE[0] >= 8 && left >= 8 {
                product.tile::<S, 8, N>(s, row, column, part);
                8
            } else if S::TILE[0] == 6 && left >= 6 {
                product.tile::<S, 6, N>(s, row, column, part);
                6
            } else if WHOLE && S::TILE[0] >= 4 && left >= 4 {
                product.tile::<S, 4, N>(s, row, column, part);
                4
            } else if (WHOLE || S::TILE[0] == 2) && left >= 2 {
                product.tile::<S, 2, N>(s, row, column, part);
                2
            } else {
                product.tile::<S, 1, N>(s, row, column, part);
                1
            };
        }
    }
}

/// A matrix whose columns are kept in panels: those of panel p begin at `p · panel`, its row k `k · row` later, and
/// `k · tail` later in a last panel that is narrower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a, E> {
    pub(crate) elements: &'a [E],
    pub(crate) panel: usize,
    pub(crate) row: usize,
    pub(crate) tail: usize,
}

impl<'a, E: Element> Panels<'a, E> {
    /// The vectors of columns from this one on, or one with so many columns, without so many rows at the beginning.
    #[inline(always)]
    pub(crate) fn columns<S: Simd>(&self, column: usize, part: Option<usize>, skip: usize) -> Columns<'a, E> {
        let (panel, lane) = (column / PANEL, column % PANEL);
        let row = if part.is_some() { self.tail } else { self.row };
        let next = if S::LANES == PANEL { self.panel } else { S::LANES };
        Columns { elements: &self.elements[panel * self.panel + skip + lane..], row, next, part }
    }
}

/// Rows of a first factor: groups of some that follow each other at one distance.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    pub(crate) elements: &'a [f32],
    /// Rows of a group.
    pub(crate) group: usize,
    /// Distance of groups.
    pub(crate) next_group: usize,
    /// Distance of the rows of a group.
    pub(crate) next: usize,
    /// Elements of a row that are multiplied.
    pub(crate) depth: usize,
}

impl<'a> Rows<'a> {
    /// M rows from this one on.
    #[inline(always)]
    fn rows<const M: usize>(&self, row: usize) -> [&'a [f32]; M] {
        let (mut index, mut place) = (row / self.group, row % self.group);
        if place + M <= self.group {
            return rows(self.elements, index * self.next_group + place * self.next, self.next, self.depth);
        }
        let mut rows = [&[][..]; M];
        for row in &mut rows {
            *row = &self.elements[index * self.next_group + place * self.next..][..self.depth];
            place += 1;
            if place == self.group {
                (index, place) = (index + 1, 0);
            }
        }
        rows
    }
}

/// A matrix product of `f32`, `y = a · b`, or `y += a · b`.
pub(crate) struct Gemm<'a> {
    pub(crate) a: Rows<'a>,
    pub(crate) b: Panels<'a, f32>,
    /// Rows and columns of the result.
    pub(crate) size: [usize; 2],
    /// Where the products are added to what is there.
    pub(crate) add: bool,
    pub(crate) y: &'a mut [f32],
    /// Distance of rows of the result.
    pub(crate) stride: usize,
}

impl Gemm<'_> {
    /// Computes it.
    #[inline(always)]
    pub(crate) fn run<S: Simd>(mut self, s: S) {
        let [rows, columns] = self.size;
        tiles(s, &mut self, 0..rows, columns);
    }
}

impl Product for Gemm<'_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        row: usize,
        column: usize,
        part: Option<usize>,
    ) {
        let a = self.a.rows::<M>(row);
        let width = part.unwrap_or(N * S::LANES);
        let mut y = rows_mut::<M>(self.y, row * self.stride + column, self.stride, width);
        let mut sums = [[s.splat(0.0); N]; M];
        if self.add {
            for (sums, y) in sums.iter_mut().zip(&y) {
                sums.iter_mut().zip(y.chunks(S::LANES)).for_each(|(sum, y)| *sum = s.load(y));
            }
        }
        accumulate(s, a, self.b.columns::<S>(column, part, 0), &mut sums);
        for (sums, y) in sums.iter().zip(&mut y) {
            y.chunks_mut(S::LANES).zip(sums).for_each(|(y, &sum)| s.store(sum, y));
        }
    }
}
