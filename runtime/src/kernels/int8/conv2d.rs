use core::array::from_fn;
use core::ops::Range;

use traflow_graph::op::Shape;
use traflow_graph::quant::{PANEL, QUAD, Wide, long};

use super::{Values, ValuesMut};
use crate::cpu::Cpu;
use crate::simd::IntegerKernel;

/// Pixels that are computed together.
const TILE: usize = 4;

/// Convolution with stride 1, padded to the same size, and a residual:
/// `y = (acc_0 · factors_0 + acc_1 · factors_1 + r · residual + bias) >> shift`.
#[derive(Debug)]
pub struct Conv2d<'a> {
    /// Input.
    pub x: Values<'a>,
    /// Shape of the input.
    pub shape: Shape,
    /// Height and width of the kernel: 1 or 3.
    pub kernel: usize,
    /// Weight, as [`panel_index`](traflow_graph::quant::panel_index) orders it.
    pub panels: &'a [i8],
    /// Channels of the input's first part.
    pub split: usize,
    /// Zero points of the parts: what the input is outside the picture.
    pub zeros: [i32; 2],
    /// Factors of the sums of the parts, one for each output channel; the second is empty where there is one part.
    pub factors: [&'a [i32]; 2],
    /// Added to the products, for each output channel.
    pub bias: &'a [Wide],
    /// Places to shift by.
    pub shift: u32,
    /// Factor of the residual; 0 where there is none.
    pub residual: i32,
    /// The residual; `None` where y holds it.
    pub r: Option<Values<'a>>,
    /// Memory for a pixel of the input, of a kernel of 3.
    pub scratch: &'a mut [u8],
    /// Output.
    pub y: ValuesMut<'a>,
}

/// An element of the input.
trait Element: Copy + bytemuck::Pod {
    /// In 16 bits.
    fn short(self) -> i16;
    /// A zero point.
    fn of(zero: i32) -> Self;
}

impl Element for i8 {
    #[inline]
    fn short(self) -> i16 {
        self.into()
    }

    fn of(zero: i32) -> Self {
        zero as Self
    }
}

impl Element for i16 {
    #[inline]
    fn short(self) -> i16 {
        self
    }

    fn of(zero: i32) -> Self {
        zero as Self
    }
}

impl Conv2d<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Conv2d<'_> {
    fn words(self, _: &mut [u8]) {
        match self.x {
            Values::Narrow(x) => self.of(x),
            Values::Wide(x) => self.of(x),
        }
    }
}

impl Conv2d<'_> {
    fn of<X: Element>(mut self, x: &[X]) {
        let channels = usize::from(self.shape.channels);
        let outs = self.bias.len();
        let scratch = core::mem::take(&mut self.scratch);
        let beside: &mut [X] = bytemuck::try_cast_slice_mut(scratch).unwrap_or_default();
        for (channel, x) in beside.iter_mut().enumerate() {
            *x = X::of(self.zeros[usize::from(channel >= self.split)]);
        }
        let beside = &*beside;
        let panel_bytes = self.kernel * self.kernel * channels.next_multiple_of(QUAD);
        for start in (0..self.shape.pixels()).step_by(TILE) {
            for first in (0..outs).step_by(PANEL) {
                let width = PANEL.min(outs - first);
                let panel = &self.panels[first * panel_bytes..][..width * panel_bytes];
                let sums = self.tile(x, beside, start, panel, width);
                self.store(start, first, width, &sums);
            }
        }
    }

    /// The pixel that a tap reads, or the pixel beside the picture.
    fn pixel<'x, X>(&self, x: &'x [X], beside: &'x [X], pixel: usize, tap: usize) -> &'x [X] {
        let (channels, width) = (usize::from(self.shape.channels), usize::from(self.shape.width));
        let reach = self.kernel / 2;
        let row = (pixel / width + tap / self.kernel).wrapping_sub(reach);
        let column = (pixel % width + tap % self.kernel).wrapping_sub(reach);
        if row < self.shape.height.into() && column < width {
            &x[(row * width + column) * channels..][..channels]
        } else {
            beside
        }
    }

    /// Sums of the products of a tile with a panel, for each part of the input.
    fn tile<X: Element>(
        &self,
        x: &[X],
        beside: &[X],
        start: usize,
        panel: &[i8],
        width: usize,
    ) -> [[[i32; PANEL]; TILE]; 2] {
        let last = self.shape.pixels() - 1;
        let channels = usize::from(self.shape.channels);
        let taps = self.kernel * self.kernel;
        // Pixels after the last one repeat it, and are not stored.
        let pixel = |tap: usize, i: usize| self.pixel(x, beside, last.min(start + i), tap);
        let pixels: [[&[X]; TILE]; 9] =
            from_fn(|tap| from_fn(|i| if tap < taps { pixel(tap, i) } else { &[] }));
        let pixels = &pixels[..taps];
        let (split, quads) = (self.split.div_ceil(QUAD), channels.div_ceil(QUAD));
        let whole = width == PANEL && channels.is_multiple_of(QUAD);
        [0..split, split..quads].map(|part| match whole {
            _ if part.is_empty() => [[0; PANEL]; TILE],
            true => whole_panel(pixels, panel.as_chunks().0, part),
            false => any_panel(pixels, panel, width * QUAD, part),
        })
    }

    /// Rescales the sums of a tile.
    fn store(&mut self, start: usize, first: usize, width: usize, sums: &[[[i32; PANEL]; TILE]; 2]) {
        let outs = self.bias.len();
        let end = self.shape.pixels().min(start + TILE);
        for pixel in start..end {
            for out in first..first + width {
                let index = pixel * outs + out;
                let mut sum = long(self.bias[out]);
                for (part, factors) in self.factors.iter().enumerate() {
                    let factor = factors.get(out).copied().unwrap_or(0);
                    sum += i64::from(sums[part][pixel - start][out - first]) * i64::from(factor);
                }
                if self.residual != 0 {
                    let r = self.r.map_or_else(|| self.y.get(index), |r| r.get(index));
                    sum += i64::from(r) * i64::from(self.residual);
                }
                self.y.set(index, sum >> self.shift);
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(mut self) {
        use traflow_graph::quant::panel_index;
        let channels = usize::from(self.shape.channels);
        let (outs, taps) = (self.bias.len(), self.kernel * self.kernel);
        for pixel in 0..self.shape.pixels() {
            for out in 0..outs {
                let mut sum = i128::from(long(self.bias[out]));
                for tap in 0..taps {
                    let (row, column) =
                        (pixel / usize::from(self.shape.width), pixel % usize::from(self.shape.width));
                    let row = (row + tap / self.kernel).checked_sub(self.kernel / 2);
                    let column = (column + tap % self.kernel).checked_sub(self.kernel / 2);
                    let (height, width) = (usize::from(self.shape.height), usize::from(self.shape.width));
                    let inside = row.zip(column).filter(|&(row, column)| row < height && column < width);
                    for channel in 0..channels {
                        let part = usize::from(channel >= self.split);
                        let x = inside.map_or(self.zeros[part], |(row, column)| {
                            self.x.get((row * width + column) * channels + channel)
                        });
                        let weight = self.panels[panel_index([outs, channels, taps], [out, channel, tap])];
                        sum += i128::from(x * i32::from(weight)) * i128::from(self.factors[part][out]);
                    }
                }
                let index = pixel * outs + out;
                if self.residual != 0 {
                    let r = self.r.map_or_else(|| self.y.get(index), |r| r.get(index));
                    sum += i128::from(r) * i128::from(self.residual);
                }
                self.y.set(index, (sum >> self.shift) as i64);
            }
        }
    }
}

/// Sums of the products of pixels, for each tap, with a panel of [`PANEL`] output channels, over a range of quads of
/// channels. Products are added in pairs, which LLVM makes one instruction of where a processor has it; the check of the
/// model has seen to it that nothing wraps.
fn whole_panel<X: Element>(
    pixels: &[[&[X]; TILE]],
    panel: &[[i8; PANEL * QUAD]],
    part: Range<usize>,
) -> [[i32; PANEL]; TILE] {
    let mut sums = [[0i32; 2 * PANEL]; TILE];
    for (tap, pixels) in pixels.iter().enumerate() {
        let pixels = pixels.map(|pixel| pixel.as_chunks::<QUAD>().0);
        for quad in part.clone() {
            let row = &panel[tap * pixels[0].len() + quad];
            let weights: [i16; PANEL * QUAD] = from_fn(|i| row[i].into());
            for (pixel, sums) in pixels.iter().zip(&mut sums) {
                let x = [pixel[quad].map(|x| x.short()); PANEL];
                let x = x.as_flattened();
                let mut next = *sums;
                for (i, next) in next.iter_mut().enumerate() {
                    let product = |i: usize| i32::from(weights[i]).wrapping_mul(x[i].into());
                    *next = next.wrapping_add(product(2 * i).wrapping_add(product(2 * i + 1)));
                }
                *sums = next;
            }
        }
    }
    sums.map(|sums| from_fn(|out| sums[2 * out] + sums[2 * out + 1]))
}

/// The same for a panel of fewer output channels, whose rows have so many weights, and for channels that fill no quad.
fn any_panel<X: Element>(
    pixels: &[[&[X]; TILE]],
    panel: &[i8],
    row: usize,
    part: Range<usize>,
) -> [[i32; PANEL]; TILE] {
    let mut sums = [[0; PANEL]; TILE];
    for (tap, pixels) in pixels.iter().enumerate() {
        for (pixel, sums) in pixels.iter().zip(&mut sums) {
            let first = tap * pixel.len().div_ceil(QUAD);
            let rows = panel.chunks_exact(row).skip(first + part.start);
            for (quad, row) in pixel.chunks(QUAD).skip(part.start).zip(rows).take(part.len()) {
                for (sum, weights) in sums.iter_mut().zip(row.as_chunks::<QUAD>().0) {
                    // Channels that only fill the quad have no weight.
                    let products =
                        quad.iter().zip(weights).map(|(x, &w)| i32::from(x.short()) * i32::from(w));
                    *sum += products.sum::<i32>();
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::int8::tests::{narrow, wide as random_wide};
    use std::vec;
    use std::vec::Vec;
    use traflow_graph::quant::{panel_elements, wide};

    /// Runs both on the same data, and compares.
    fn compare(
        shape: Shape,
        kernel: usize,
        outs: usize,
        x: Values<'_>,
        panels: &[i8],
        split: usize,
        zeros: [i32; 2],
    ) {
        let channels = usize::from(shape.channels);
        let taps = kernel * kernel * channels;
        // About what keeps outputs of 16 bits inside their range.
        let factor = (1i32 << 30) / (1 + taps as i32);
        let factors: Vec<i32> = (0..outs as i32).map(|out| factor - out * 3).collect();
        let second = if split < channels { factors.iter().map(|f| -f / 2).collect() } else { vec![] };
        let bias: Vec<Wide> = (0..outs as i64).map(|out| wide((out - 2) << 38)).collect();
        let start = random_wide(9, outs * shape.pixels());
        for (residual, separate) in [(0, false), (-123_456, false), (1 << 27, true)] {
            let make = |y| Conv2d {
                x,
                shape,
                kernel,
                panels,
                split,
                zeros,
                factors: [&factors, &second],
                bias: &bias,
                shift: 38,
                residual,
                r: separate.then_some(Values::Wide(&start)),
                scratch: &mut [],
                y,
            };
            let mut scratch = vec![0u16; channels];
            let (mut y, mut expected) = (start.clone(), start.clone());
            let scratch: &mut [u8] = bytemuck::cast_slice_mut(&mut scratch);
            let wide_input = matches!(x, Values::Wide(_));
            let scratch = &mut scratch[..channels << usize::from(wide_input)];
            Conv2d { scratch, ..make(ValuesMut::Wide(&mut y)) }.run(&Cpu::new(Isa::SCALAR));
            make(ValuesMut::Wide(&mut expected)).reference();
            assert_eq!(y, expected, "{shape}, {kernel}, {outs}, {residual}");
        }
    }

    /// Weights whose padding is zero.
    fn weights(stream: u32, outs: usize, channels: usize, kernel: usize) -> Vec<i8> {
        let taps = kernel * kernel;
        let mut panels = narrow(stream, panel_elements([outs, channels, kernel, kernel]));
        for out in 0..outs {
            for tap in 0..taps {
                for channel in channels..channels.next_multiple_of(QUAD) {
                    panels[traflow_graph::quant::panel_index([outs, channels, taps], [out, channel, tap])] =
                        0;
                }
            }
        }
        panels
    }

    #[test]
    fn run_is_the_definition() {
        for (channels, outs) in [(1, 1), (3, 2), (5, 17), (8, 16), (12, 40)] {
            for (height, width) in [(1, 1), (2, 2), (7, 7), (3, 5), (1, 9), (9, 1)] {
                for kernel in [1, 3] {
                    let shape = Shape::new(channels as u16, height, width);
                    let panels = weights(1, outs, channels, kernel);
                    let x = narrow(2, shape.elements());
                    let split = if channels > 4 { 4 } else { channels };
                    let zeros = [-7, if channels > 4 { 127 } else { 0 }];
                    compare(shape, kernel, outs, Values::Narrow(&x), &panels, split, zeros);
                    let x = random_wide(3, shape.elements());
                    compare(shape, kernel, outs, Values::Wide(&x), &panels, channels, [0, 0]);
                }
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let shape = Shape::new(1024, 3, 2);
        for (weight, fill) in [(-128, -128), (-128, 127), (127, -128), (127, 127)] {
            let panels = vec![weight; panel_elements([2, 1024, 3, 3])];
            let x = vec![fill; shape.elements()];
            for zero in [-128, 127] {
                compare(shape, 3, 2, Values::Narrow(&x), &panels, 1024, [zero, 0]);
            }
        }
        // The largest sum of weights that inputs of 16 bits allow.
        let shape = Shape::new(512, 1, 1);
        let mut panels = vec![-128; 512];
        panels[0] = -127;
        let x = vec![i16::MIN; 512];
        compare(shape, 1, 1, Values::Wide(&x), &panels, 512, [0, 0]);
    }
}
