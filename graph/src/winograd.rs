//! Sizes of Winograd's convolution, which planner and kernel have to agree on, and so do the writer and the readers of a file:
//! the memory plan in it has room for them.
//!
//! A 3×3 convolution of a square of `tile` × `tile` pixels is, after linear transforms of its input and of the kernel, a
//! product element by element, and a transform of the result (Lavin & Gray, "Fast algorithms for convolutional neural
//! networks", 2015). Each of the `points²` elements makes a matrix product of all tiles with all channels.

use core::ops::Range;

use crate::model::PANEL;
use crate::op::{Method, Shape};

/// Tiles whose transformed inputs lie together, as many as the largest tile of sums has rows.
pub const TILE_GROUP: usize = 8;

/// Panels of output channels that are computed together, as many as a tile of sums has.
pub const PANEL_GROUP: usize = 2;

/// The most tiles that are computed together, so that scratch memory does not grow with the picture.
const TILE_BLOCK: usize = 64;

/// The most channels of the input that are multiplied together, see [`Winograd::depth`].
const DEPTH: usize = 128;

/// A Winograd convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winograd {
    /// Pixels of a tile of the output in each direction.
    pub tile: usize,
    /// Rows of tiles.
    pub rows: usize,
    /// Tiles of a row; the last one may stand out of the picture, and so may the last row.
    pub columns: usize,
    /// Channels of the input.
    pub channels: usize,
    /// Channels of the output.
    pub out: usize,
}

impl Winograd {
    /// The convolution of an input of this shape to so many channels; `None` for a direct one, as it is where a panel has room
    /// for more channels than the input has: transforms of vectors that are not full take longer than they save.
    pub const fn new(method: Method, input: Shape, out: u16) -> Option<Self> {
        if (input.channels as usize) < PANEL {
            return None;
        }
        let tile = match method {
            Method::Direct => return None,
            Method::Winograd2 => 2,
            Method::Winograd4 => 4,
        };
        let rows = (input.height as usize).div_ceil(tile);
        let columns = (input.width as usize).div_ceil(tile);
        Some(Self { tile, rows, columns, channels: input.channels as usize, out: out as usize })
    }

    /// Elements of a transformed tile in each direction.
    pub const fn points(&self) -> usize {
        self.tile + 2
    }

    /// All tiles.
    pub const fn tiles(&self) -> usize {
        self.rows * self.columns
    }

    /// Tiles that are computed together.
    pub fn block(&self) -> usize {
        self.tiles().min(TILE_BLOCK)
    }

    /// Rows of tiles that each of so many threads computes of a block, where it is of whole rows, and their tiles are whole
    /// groups and so many that each thread may transform the weights for itself. `None` where threads had better share out
    /// the channels of the output.
    pub fn rows_of_part(&self, tiles: Range<usize>, threads: usize) -> Option<usize> {
        let whole = tiles.start.is_multiple_of(self.columns) && tiles.end.is_multiple_of(self.columns);
        let rows = (tiles.len() / self.columns.max(1)).div_ceil(threads);
        let part = rows * self.columns;
        // The weights' transform costs as much as the products of a group of tiles.
        let least = if self.out.div_ceil(PANEL) < threads { TILE_GROUP } else { 4 * TILE_GROUP };
        (whole && part >= least && part.is_multiple_of(TILE_GROUP)).then_some(rows)
    }

    /// Elements of one point of the transformed inputs of a group of tiles. The points of a tile are written together, and
    /// the products of a tile read so: a panel more between them keeps them from competing for the same lines of a cache,
    /// as do distances that are powers of two.
    pub const fn group_point(&self) -> usize {
        TILE_GROUP * self.channels + PANEL
    }

    /// Elements of the transformed inputs of a group of tiles.
    pub const fn group_elements(&self) -> usize {
        self.points() * self.points() * self.group_point()
    }

    /// Elements of the transformed inputs of a block of tiles.
    pub fn input_elements(&self) -> usize {
        self.block().div_ceil(TILE_GROUP) * self.group_elements()
    }

    /// Panels of output channels that are computed together.
    pub fn panels(&self) -> usize {
        self.out.div_ceil(PANEL).min(PANEL_GROUP)
    }

    /// Channels of the input whose products are summed before those of the next ones, so that the transformed weights stay
    /// in the second-level cache until they are used.
    pub fn depth(&self) -> usize {
        self.channels.min(DEPTH)
    }

    /// Elements of two rows of transformed weights of a channel and a panel.
    pub const fn weight_row(&self) -> usize {
        (2 * self.points() + 1) * PANEL
    }

    /// Elements of two rows of transformed weights, for the panels and the channels that are computed together.
    pub fn weight_elements(&self) -> usize {
        self.panels() * self.depth() * self.weight_row()
    }

    /// Elements of the products of a block of tiles, for the panels that are computed together, with a panel between those
    /// of one point and the next.
    pub fn product_elements(&self) -> usize {
        (self.points() * self.points() * (self.block() * self.panels() + 1) - 1) * PANEL
    }

    /// Elements of scratch memory.
    pub fn scratch_elements(&self) -> usize {
        self.input_elements() + self.weight_elements() + self.product_elements()
    }
}
