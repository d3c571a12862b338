//! A matrix in memory whose columns can be given to different tasks.

use core::marker::PhantomData;

/// Some columns of a matrix of `f32`, to be written; other columns of the same rows may belong to others.
#[derive(Debug)]
pub(crate) struct Grid<'a> {
    start: *mut f32,
    rows: usize,
    /// Distance of rows.
    stride: usize,
    columns: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: a grid is the only access to its elements, as a mutable slice is.
unsafe impl Send for Grid<'_> {}

impl<'a> Grid<'a> {
    /// The matrix whose rows follow each other in a slice; what is too short for a row is left out.
    pub(crate) fn new(elements: &'a mut [f32], columns: usize) -> Self {
        let rows = elements.len() / columns.max(1);
        Self { start: elements.as_mut_ptr(), rows, stride: columns, columns, lifetime: PhantomData }
    }

    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The first columns, at most as many as asked for, and the others.
    pub(crate) fn split(self, columns: usize) -> (Self, Self) {
        let columns = columns.min(self.columns);
        let start = self.start.wrapping_add(columns);
        (Self { columns, ..self }, Self { start, columns: self.columns - columns, ..self })
    }

    /// A row of these columns.
    #[inline(always)]
    pub(crate) fn row(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "a row outside the matrix");
        // SAFETY: the row is inside the slice that the grid was made of. Grids of one slice have no column in common, and
        // this one is borrowed as long as the row is used.
        unsafe { core::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.columns) }
    }
}
