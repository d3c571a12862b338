//! What registers that hold matrices multiply, on processors that have them.

use traflow_graph::quant::QUAD;

use super::{LANES, Row};

/// The most rows of a register, which are pixels, or quads of channels.
pub(crate) const ROWS: usize = 16;

/// Blocks of pixels that are multiplied by one call.
pub(crate) const BLOCKS: usize = 8;

/// The sums of a block for two panels, by pixel and output channel.
pub(crate) type Sums = [[[i32; LANES]; ROWS]; 2];

/// Blocks of pixels, and two panels of weights.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    /// Numbers of 8 bits, as [`Lanes::dot`](super::Lanes::dot) takes them.
    pub factors: &'a [u8],
    /// Where the first pixel of each block is.
    pub places: [usize; BLOCKS],
    /// Pixels of a block, at most [`ROWS`].
    pub pixels: usize,
    /// Distance of pixels.
    pub next: usize,
    /// Rows of the kernel.
    pub kernel: usize,
    /// Distance of the rows.
    pub row: usize,
    /// Numbers that a row of the kernel reads of a pixel, whole quads.
    pub depth: usize,
    /// For each row of the kernel the quads of weights.
    pub panels: [&'a [Row]; 2],
}

impl Blocks<'_> {
    /// Numbers that fill a row of a register, where so many are to be split into such rows.
    pub fn chunk(depth: usize) -> usize {
        let quads = depth / QUAD;
        QUAD * (1..=ROWS).rev().find(|&chunk| quads.is_multiple_of(chunk)).unwrap_or(1)
    }

    /// Sees to it that all that is read is there.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn check(&self) {
        let Self { factors, places, pixels, next, kernel, row, depth, panels } = *self;
        assert!((1..=ROWS).contains(&pixels) && kernel > 0, "a block of no size, or too large");
        assert!(depth > 0 && depth.is_multiple_of(QUAD), "quads that are not whole");
        // No slice is as long as the largest number.
        let (down, right) = ((kernel - 1).saturating_mul(row), (pixels - 1).saturating_mul(next));
        let of_block = down.saturating_add(right).saturating_add(depth);
        let inside = |place: usize| place.saturating_add(of_block) <= factors.len();
        assert!(places.into_iter().all(inside), "a block outside the factors");
        let quads = (depth / QUAD).saturating_mul(kernel);
        assert!(panels.iter().all(|panel| quads <= panel.len()), "a panel too short");
    }
}
