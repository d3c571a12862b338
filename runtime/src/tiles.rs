//! Matrix products, cut into tiles that fit into the registers of an instruction set.

use core::ops::Range;

use traflow_graph::model::PANEL;

use crate::simd::{Columns, Element, Kernel, Simd, accumulate, rows, rows_mut};

/// A matrix product, computed tile by tile.
pub(crate) trait Product {
    /// Computes M rows from this one on, of N vectors of columns. The columns begin with a panel and are whole vectors;
    /// or they are the first `part` of a panel.
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        row: usize,
        panel: usize,
        part: Option<usize>,
    );
}

/// Computes all tiles of these rows and of the columns from panel 0 on.
#[inline(always)]
pub(crate) fn tiles<S: Simd>(s: S, product: &mut impl Product, rows: Range<usize>, columns: usize) {
    let whole = columns / PANEL;
    let mut panel = 0;
    while panel < whole {
        let panels = group(whole - panel, S::TILE[1]);
        match S::LANES * 4 + panels {
            67 => row_tiles::<S, 3>(s, product, &rows, panel, None),
            66 => row_tiles::<S, 2>(s, product, &rows, panel, None),
            65 => row_tiles::<S, 1>(s, product, &rows, panel, None),
            33 => row_tiles::<S, 2>(s, product, &rows, panel, None),
            _ => row_tiles::<S, 4>(s, product, &rows, panel, None),
        }
        panel += panels;
    }
    let part = Some(columns % PANEL).filter(|&part| part > 0);
    if part.is_some() {
        match S::LANES {
            16 => row_tiles::<S, 1>(s, product, &rows, panel, part),
            8 => row_tiles::<S, 2>(s, product, &rows, panel, part),
            _ => row_tiles::<S, 4>(s, product, &rows, panel, part),
        }
    }
}

/// Panels that are computed together where so many are left: at most so many, and all groups about the same.
#[inline(always)]
pub(crate) fn group(left: usize, most: usize) -> usize {
    left.div_ceil(left.div_ceil(most).max(1))
}

#[inline(always)]
fn row_tiles<S: Simd, const N: usize>(
    s: S,
    product: &mut impl Product,
    rows: &Range<usize>,
    panel: usize,
    part: Option<usize>,
) {
    let mut row = rows.start;
    while row < rows.end {
        let left = rows.end - row;
        row += if S::TILE[0] >= 8 && left >= 8 {
            product.tile::<S, 8, N>(s, row, panel, part);
            8
        } else if S::TILE[0] == 6 && left >= 6 {
            product.tile::<S, 6, N>(s, row, panel, part);
            6
        } else if S::TILE[0] >= 4 && left >= 4 {
            product.tile::<S, 4, N>(s, row, panel, part);
            4
        } else if left >= 2 {
            product.tile::<S, 2, N>(s, row, panel, part);
            2
        } else {
            product.tile::<S, 1, N>(s, row, panel, part);
            1
        };
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
    /// The columns from a panel on, or the first `part` of it, without so many elements at the beginning.
    #[inline(always)]
    pub(crate) fn columns<S: Simd>(&self, panel: usize, part: Option<usize>, skip: usize) -> Columns<'a, E> {
        let row = if part.is_some() { self.tail } else { self.row };
        let next = if S::LANES == PANEL { self.panel } else { S::LANES };
        Columns { elements: &self.elements[panel * self.panel + skip..], row, next, part }
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

impl Kernel for Gemm<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S, _: &mut [f32]) {
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
        panel: usize,
        part: Option<usize>,
    ) {
        let a = self.a.rows::<M>(row);
        let width = part.unwrap_or(N * S::LANES);
        let mut y = rows_mut::<M>(self.y, row * self.stride + panel * PANEL, self.stride, width);
        let mut sums = [[s.splat(0.0); N]; M];
        if self.add {
            for (sums, y) in sums.iter_mut().zip(&y) {
                sums.iter_mut().zip(y.chunks(S::LANES)).for_each(|(sum, y)| *sum = s.load(y));
            }
        }
        accumulate(s, a, self.b.columns::<S>(panel, part, 0), &mut sums);
        for (sums, y) in sums.iter().zip(&mut y) {
            y.chunks_mut(S::LANES).zip(sums).for_each(|(y, &sum)| s.store(sum, y));
        }
    }
}
