//! 3×3 convolution of 16 bits on vectors to so few channels that a vector has room for those of three columns of the kernel.
//!
//! Each pixel of the input, and each one beside the picture, is multiplied by the three weights above each other of every
//! column: a third of the products. An output is the sum of three neighbours' products, each by its column.

use traflow_graph::model::ALIGN;
use traflow_graph::op::Shape;
use traflow_graph::quant::{PANEL, QUAD};

use super::conv2d::{Band, Compute, Part, numbers};
use super::rescale::{Rescale, RescalePart, Sums};
use super::{Values, array};
use crate::simd::{Factor, IntegerKernel, LANES, Lanes, Row, begin, dots};

/// Columns of the kernel.
const COLUMNS: usize = 3;

/// Pixels that are multiplied at once.
const PIXELS: usize = 8;

/// Whether it can be computed so, and the memory suffices.
pub(super) fn pays(part: &Part<'_>, memory: usize) -> bool {
    let of_16_bits = matches!(part.x, Values::Wide(_)) && part.factors[1].is_empty();
    let fits = part.kernel == COLUMNS && part.bias.len() * COLUMNS <= PANEL;
    of_16_bits && fits && memory >= part.kernel * part.row() * size_of::<i16>() + bytes(part.shape)
}

/// A part that is computed so.
pub(super) struct Few<'a>(pub(super) Part<'a>);

impl IntegerKernel for Few<'_> {
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S, scratch: &mut [u8]) {
        let Self(part) = self;
        let Values::Wide(x) = part.x else { return };
        let (mut products, scratch) = Products::new(&part, scratch);
        part.bands(s, x, numbers(scratch), &mut products);
    }
}

/// Weights, and the sums of products with them.
struct Products<'a> {
    /// A row of the kernel after the other: a lane for each column and output channel.
    weights: &'a mut [Row],
    /// Of a row of pixels.
    sums: &'a mut [[i32; LANES]],
}

impl<'a> Products<'a> {
    /// In the first part of this memory.
    fn new(part: &Part<'_>, scratch: &'a mut [u8]) -> (Self, &'a mut [u8]) {
        let skip = scratch.as_ptr().align_offset(ALIGN).min(scratch.len());
        let (weights, rest) = scratch[skip..].split_at_mut(rows(part.shape) * size_of::<Row>());
        let (sums, rest) = rest.split_at_mut(pixels(part.shape) * size_of::<[i32; LANES]>());
        let weights: &mut [Row] = bytemuck::cast_slice_mut(weights);
        let (outs, quads) = (part.bias.len(), rows(part.shape) / COLUMNS);
        let (of_tap, _) = part.panels.as_chunks::<QUAD>();
        for (index, row) in weights.iter_mut().enumerate() {
            *row = [[0; QUAD]; LANES];
            for (column, lanes) in row.chunks_exact_mut(outs).enumerate().take(COLUMNS) {
                let tap = index / quads * COLUMNS + column;
                lanes.copy_from_slice(&of_tap[(tap * quads + index % quads) * outs..][..outs]);
            }
        }
        (Self { weights, sums: bytemuck::cast_slice_mut(sums) }, rest)
    }
}

/// Rows of weights.
fn rows(shape: Shape) -> usize {
    COLUMNS * usize::from(shape.channels).div_ceil(QUAD)
}

/// Pixels of a row with those beside it, in whole tiles, and one that is read beyond them.
fn pixels(shape: Shape) -> usize {
    (usize::from(shape.width) + COLUMNS - 1).next_multiple_of(PIXELS) + 1
}

/// Bytes of scratch memory beside that for the input's rows.
fn bytes(shape: Shape) -> usize {
    rows(shape) * size_of::<Row>() + pixels(shape) * size_of::<[i32; LANES]>() + ALIGN
}

impl Compute for Products<'_> {
    #[inline(always)]
    fn band<S: Lanes, F: Factor>(&mut self, s: S, part: &mut Part<'_>, band: Band<'_, F>) {
        let (width, outs) = (usize::from(part.shape.width), part.bias.len());
        let Self { weights, sums } = self;
        let quads = band.channels / QUAD;
        let begin = begin::<S, F>(s, weights);
        for (row, start) in (band.pixels[0]..band.pixels[1]).step_by(width).enumerate() {
            for (tile, sums) in sums.as_chunks_mut::<PIXELS>().0.iter_mut().enumerate() {
                let mut of_tile = [[begin]; PIXELS];
                for (down, weights) in weights.chunks_exact(quads).enumerate() {
                    let mut pixels: [&[F]; PIXELS] = [&[]; PIXELS];
                    for (m, pixel) in pixels.iter_mut().enumerate() {
                        // Pixels after the last one repeat it.
                        let column = (tile * PIXELS + m).min(width + COLUMNS - 2);
                        *pixel = &band.factors[(row + down) * band.row + column * band.channels..];
                    }
                    dots(s, pixels, [weights], &mut of_tile);
                }
                for (to, [sum]) in sums.iter_mut().zip(of_tile) {
                    s.store(sum, to);
                }
            }
            // In place: what a pixel reads begins at its own products.
            for pixel in 0..width {
                let products = &sums.as_flattened()[pixel * LANES..];
                let of_column = |column: usize| array(products, column * (LANES + outs));
                let sum = s.add(s.load(of_column(0)), s.add(s.load(of_column(1)), s.load(of_column(2))));
                s.store(sum, &mut sums[pixel]);
            }
            let begin: &[_] = &[[0; LANES]];
            let sums = Sums { parts: [sums, &[]], begin: [begin; 2], panel: 0, row: 0 };
            let rescale = Rescale { part, panels: 0..1, pixels: start..start + width, rows: 1, sums };
            s.run_integers(RescalePart(rescale), &mut []);
        }
    }
}
