use core::ops::Range;

use traflow_graph::model::{PANEL, Weights};
use traflow_graph::op::{Method, Shape};
use traflow_graph::winograd::Winograd;

use super::winograd;
use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd, accumulate, rows, rows_mut};
use crate::tiles::{Panels, Product, tiles};

/// Convolution with stride 1 and as much zero padding as keeps the size:
/// `y = conv(x, weight) + bias + residual · y`.
#[derive(Debug)]
pub struct Conv2d<'a> {
    /// Input, of this shape, `[height, width, channels]`.
    pub x: &'a [f32],
    /// Shape of the input.
    pub shape: Shape,
    /// Height and width of the kernel: 1 or 3.
    pub kernel: usize,
    /// How it is computed.
    pub method: Method,
    /// In the order of [`weight_index`](traflow_graph::model::weight_index).
    pub weight: Weights<'a>,
    /// `[out]`, or empty for none.
    pub bias: &'a [f32],
    /// Factor of what `y` held before; `None` for none.
    pub residual: Option<f32>,
    /// Memory, as much as [`scratch_bytes`](traflow_graph::model::scratch_bytes) says.
    pub scratch: &'a mut [f32],
    /// Output, `[height, width, out]`.
    pub y: &'a mut [f32],
}

impl Conv2d<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Self { x, shape, method, weight, bias, residual, .. } = self;
        let outs = self.y.len() / shape.pixels().max(1);
        if let Some(sizes) = Winograd::new(method, shape, outs as u16) {
            let end = End { bias, residual };
            return winograd::run(cpu, sizes, x, shape, weight, end, self.scratch, self.y);
        }
        let Self { kernel, scratch, y, .. } = self;
        let end = End { bias, residual };
        // Parts of whole tiles of sums.
        let part = shape.pixels().div_ceil(cpu.threads()).next_multiple_of(8);
        let parts = y.chunks_mut(part * outs.max(1)).enumerate();
        let parts =
            parts.map(|(index, y)| Direct { x, shape, kernel, weight, end, outs, first: index * part, y });
        cpu.run(parts, scratch);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let Shape { channels, height, width } = self.shape;
        let (channels, height, width) = (usize::from(channels), height as isize, width as isize);
        let (outs, reach) = (self.y.len() / self.shape.pixels(), self.kernel as isize / 2);
        for (i, y) in self.y.iter_mut().enumerate() {
            let (out, pixel) = (i % outs, (i / outs) as isize);
            let (row, column) = (pixel / width, pixel % width);
            let mut sum = f64::from(self.bias.get(out).copied().unwrap_or(0.0));
            sum += self.residual.map_or(0.0, |factor| f64::from(factor) * f64::from(*y));
            for tap in 0..self.kernel * self.kernel {
                let row = row + (tap / self.kernel) as isize - reach;
                let column = column + (tap % self.kernel) as isize - reach;
                if !(0..height).contains(&row) || !(0..width).contains(&column) {
                    continue;
                }
                for channel in 0..channels {
                    let x = self.x[(row * width + column) as usize * channels + channel];
                    let sizes = [outs, channels, self.kernel * self.kernel];
                    let weight = traflow_graph::model::weight_index(sizes, [out, channel, tap]);
                    let weight = match self.weight {
                        Weights::F32(weights) => weights[weight],
                        Weights::F16(weights) => crate::math::widen(weights[weight]),
                    };
                    sum += f64::from(x) * f64::from(weight);
                }
            }
            *y = sum as f32;
        }
    }
}

/// What is added to the sums of a convolution when they are stored.
#[derive(Clone, Copy)]
pub(super) struct End<'a> {
    /// `[out]`, or empty for none.
    pub(super) bias: &'a [f32],
    /// Factor of what the output held before.
    pub(super) residual: Option<f32>,
}

impl End<'_> {
    /// The bias of so many output channels from this one on.
    #[inline(always)]
    pub(super) fn bias<S: Simd>(&self, s: S, out: usize, lanes: usize) -> S::V {
        if self.bias.is_empty() { s.splat(0.0) } else { s.load(&self.bias[out..out + lanes]) }
    }

    /// Stores the sums of some output channels of a pixel, with their bias.
    #[inline(always)]
    pub(super) fn store<S: Simd>(&self, s: S, sum: S::V, bias: S::V, y: &mut [f32]) {
        let mut sum = s.add(sum, bias);
        if let Some(factor) = self.residual {
            sum = s.mul_add(s.splat(factor), s.load(y), sum);
        }
        s.store(sum, y);
    }
}

/// The pixels of `y`, of which this one is the first of the picture, one product for each tap. Nothing is copied: a row
/// of the first factor is a pixel, or a pixel of zeros outside the picture.
struct Direct<'a> {
    x: &'a [f32],
    shape: Shape,
    kernel: usize,
    weight: Weights<'a>,
    end: End<'a>,
    outs: usize,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Direct<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, scratch: &mut [f32]) {
        let channels = usize::from(self.shape.channels);
        let border = if self.kernel == 1 { 0 } else { channels };
        let zeros = &mut scratch[..border];
        zeros.fill(0.0);
        let rows: Range<usize> = 0..self.y.len() / self.outs.max(1);
        let outs = self.outs;
        tiles(s, &mut DirectProduct { direct: self, channels, zeros }, rows, outs);
    }
}

struct DirectProduct<'a, 'z> {
    direct: Direct<'a>,
    channels: usize,
    zeros: &'z [f32],
}

impl DirectProduct<'_, '_> {
    /// The first of the pixels that a tap reads for so many pixels of a row, where all of them are in the picture.
    #[inline(always)]
    fn inside(&self, tap: usize, (top, left): (usize, usize), count: usize) -> Option<usize> {
        let Direct { kernel, shape, .. } = self.direct;
        let (height, width) = (usize::from(shape.height), usize::from(shape.width));
        // Before the first row and column this wraps around, and is outside the picture too.
        let top = (top + tap / kernel).wrapping_sub(kernel / 2);
        let left = (left + tap % kernel).wrapping_sub(kernel / 2);
        (top < height && left < width && left + count <= width).then(|| top * width + left)
    }

    /// What a tap reads for pixels of which some are at the border. A function of its own, since it is not often called and
    /// there are many kinds of tiles.
    #[inline(never)]
    fn beside<'x>(&'x self, tap: usize, first: usize, pixels: &mut [&'x [f32]]) {
        let width = usize::from(self.direct.shape.width);
        for (m, pixel) in pixels.iter_mut().enumerate() {
            *pixel = match self.inside(tap, ((first + m) / width, (first + m) % width), 1) {
                Some(pixel) => &self.direct.x[pixel * self.channels..][..self.channels],
                None => self.zeros,
            };
        }
    }

    /// Weights in their panels.
    #[inline(always)]
    fn panels<'w, E>(&self, elements: &'w [E]) -> Panels<'w, E> {
        let taps = self.direct.kernel * self.direct.kernel;
        let (row, tail) = (taps * PANEL, taps * (self.direct.outs % PANEL));
        Panels { elements, panel: self.channels * row, row, tail }
    }
}

impl Product for DirectProduct<'_, '_> {
    #[inline(always)]
    fn tile<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        row: usize,
        column: usize,
        part: Option<usize>,
    ) {
        let Direct { x, shape, kernel, weight, end, outs, first, .. } = self.direct;
        let mut sums = [[s.splat(0.0); N]; M];
        let (first, channels) = (first + row, self.channels);
        // Pixels that follow each other have no place of their own where the kernel has one tap.
        let width = usize::from(shape.width);
        let place = if kernel == 1 { (0, 0) } else { (first / width, first % width) };
        for tap in 0..kernel * kernel {
            let pixel = if kernel == 1 {
                Some(first)
            } else if place.1 + M <= width {
                self.inside(tap, place, M)
            } else {
                None
            };
            let x_of_pixels = match pixel {
                Some(pixel) => rows(x, pixel * channels, channels, channels),
                None => {
                    let mut pixels = [&[][..]; M];
                    self.beside(tap, first, &mut pixels);
                    pixels
                }
            };
            let skip = tap * if part.is_some() { outs % PANEL } else { PANEL };
            match weight {
                Weights::F32(weight) => {
                    let columns = self.panels(weight).columns::<S>(column, part, skip);
                    accumulate(s, x_of_pixels, columns, &mut sums);
                }
                Weights::F16(weight) => {
                    let columns = self.panels(weight).columns::<S>(column, part, skip);
                    accumulate(s, x_of_pixels, columns, &mut sums);
                }
            }
        }
        // Known when this is compiled, but for a part of a vector.
        let width = part.unwrap_or(N * S::LANES);
        let mut y = rows_mut::<M>(self.direct.y, row * outs + column, outs, width);
        for n in 0..N {
            let lanes = n * S::LANES..width.min((n + 1) * S::LANES);
            let bias = end.bias(s, column + lanes.start, lanes.len());
            for (y, sums) in y.iter_mut().zip(&sums) {
                end.store(s, sums[n], bias, &mut y[lanes.clone()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::tests::{close, random};
    use std::vec::Vec;
    use traflow_graph::model::scratch_bytes;
    use traflow_graph::op::Op;

    const SIZES: [(u16, u16); 10] =
        [(1, 1), (2, 2), (7, 7), (14, 14), (3, 5), (1, 9), (9, 1), (2, 16), (8, 8), (18, 17)];

    /// Compares a method with the definition for all sizes, with all that may be added.
    fn compare(method: Method, kernel: usize, tolerance: usize) {
        for (channels, outs) in
            [(1, 1), (3, 2), (5, 3), (7, 13), (13, 4), (2, 16), (16, 35), (20, 64), (33, 51)]
        {
            for (height, width) in SIZES {
                let shape = Shape::new(channels, height, width);
                let taps = usize::from(channels) * kernel * kernel;
                let (x, weight) = (&random(0, shape.elements()), random(1, outs * taps));
                let halves: Vec<u16> = weight.iter().map(|&w| half::f16::from_f32(w).to_bits()).collect();
                let op =
                    Op::Conv2d { out: outs as u16, kernel: kernel as u8, bias: true, residual: None, method };
                let scratch = scratch_bytes(op, &[shape], 4) as usize / 4;
                for (residual, biased) in [(None, true), (Some(0.7), false)] {
                    let bias = &random(2, if biased { outs } else { 0 });
                    for weight in [Weights::F32(&weight), Weights::F16(&halves)] {
                        let run = |y: &mut [f32], cpu: Option<Cpu>| {
                            // What is in the scratch memory does not matter.
                            let scratch = &mut std::vec![f32::NAN; scratch];
                            let conv =
                                Conv2d { x, shape, kernel, method, weight, bias, residual, scratch, y };
                            match cpu {
                                Some(cpu) => conv.run(&cpu),
                                None => conv.reference(),
                            }
                        };
                        let before = random(3, outs * shape.pixels());
                        let mut expected = before.clone();
                        run(&mut expected, None);
                        for isa in Isa::all() {
                            let mut y = before.clone();
                            run(&mut y, Some(Cpu::new(isa)));
                            let what = std::format!("{isa}: {shape} to {outs}, kernel {kernel}, {method:?}");
                            close(&y, &expected, taps * tolerance, &what);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn direct_is_the_definition() {
        compare(Method::Direct, 1, 1);
        compare(Method::Direct, 3, 1);
    }

    #[test]
    fn winograd_is_the_definition_but_for_rounding() {
        compare(Method::Winograd2, 3, 16);
        compare(Method::Winograd4, 3, 64);
    }

    #[test]
    fn padding_is_zero_even_beside_infinity() {
        let (mut x, mut y) = ([0.0; 12], [0.0; 12]);
        x[3] = f32::INFINITY;
        Conv2d {
            x: &x,
            shape: Shape::new(1, 3, 4),
            kernel: 3,
            method: Method::Direct,
            weight: Weights::F32(&[1.0; 9]),
            bias: &[],
            residual: None,
            scratch: &mut [0.0],
            y: &mut y,
        }
        .run(&Cpu::new(Isa::detect()));
        // The end of the first row does not reach the beginning of the second.
        let infinite = y.map(|y| y == f32::INFINITY);
        assert_eq!(infinite.map(u8::from), [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]);
        assert_eq!(y.iter().filter(|&&y| y == 0.0).count(), 8);
    }
}
