use core::array::from_fn;

use traflow_graph::model::{OUT_BLOCK, Weights};
use traflow_graph::op::Shape;

use crate::math::widen;

/// Convolution with stride 1 and as much zero padding as keeps the size:
/// `y = conv(x, weight) + bias + residual · y`.
#[derive(Debug)]
pub struct Conv2d<'a> {
    /// Input, of this shape.
    pub x: &'a [f32],
    /// Shape of the input.
    pub shape: Shape,
    /// Height and width of the kernel: 1 or 3.
    pub kernel: usize,
    /// `[out, in, kernel, kernel]`.
    pub weight: Weights<'a>,
    /// `[out]`, or empty for none.
    pub bias: &'a [f32],
    /// Factor of what `y` held before; `None` for none.
    pub residual: Option<f32>,
    /// Memory for the weights of [`OUT_BLOCK`] output channels, if they have 16 bits.
    pub scratch: &'a mut [f32],
    /// Output, `[out, height, width]`.
    pub y: &'a mut [f32],
}

/// Pixels that are computed together. With [`OUT_BLOCK`] output channels the sums of a tile fill half of the sixteen
/// registers that the smallest x86-64 has.
const TILE: usize = 8;

impl Conv2d<'_> {
    /// Computes it.
    pub fn run(self) {
        let pixels = self.shape.pixels().max(1);
        let taps = usize::from(self.shape.channels) * self.kernel * self.kernel;
        for (block, y) in self.y.chunks_mut(OUT_BLOCK * pixels).enumerate() {
            let first = block * OUT_BLOCK;
            let outs = y.len() / pixels;
            let range = first * taps..(first + outs) * taps;
            let weight = match self.weight {
                Weights::F32(weight) => &weight[range],
                Weights::F16(weight) => {
                    let weight = &weight[range];
                    for (wide, &half) in self.scratch.iter_mut().zip(weight) {
                        *wide = widen(half);
                    }
                    &self.scratch[..weight.len()]
                }
            };
            let bias = from_fn(|out| self.bias.get(first + out).copied().unwrap_or(0.0));
            let block = Block { x: self.x, shape: self.shape, weight, bias, residual: self.residual, y };
            match (self.kernel, outs) {
                (1, 4) => block.run::<1, 1, 4>(),
                (1, 3) => block.run::<1, 1, 3>(),
                (1, 2) => block.run::<1, 1, 2>(),
                (1, _) => block.run::<1, 1, 1>(),
                (_, 4) => block.run::<3, 9, 4>(),
                (_, 3) => block.run::<3, 9, 3>(),
                (_, 2) => block.run::<3, 9, 2>(),
                (_, _) => block.run::<3, 9, 1>(),
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let Shape { channels, height, width } = self.shape;
        let (channels, height, width) = (usize::from(channels), height as isize, width as isize);
        let reach = self.kernel as isize / 2;
        for (i, y) in self.y.iter_mut().enumerate() {
            let (out, pixel) = (i / self.shape.pixels(), (i % self.shape.pixels()) as isize);
            let (row, column) = (pixel / width, pixel % width);
            let mut sum = f64::from(self.bias.get(out).copied().unwrap_or(0.0));
            sum += self.residual.map_or(0.0, |factor| f64::from(factor) * f64::from(*y));
            for channel in 0..channels {
                for dy in -reach..=reach {
                    for dx in -reach..=reach {
                        let (row, column) = (row + dy, column + dx);
                        if (0..height).contains(&row) && (0..width).contains(&column) {
                            let x = channel as isize * height * width + row * width + column;
                            let tap = (dy + reach) * self.kernel as isize + dx + reach;
                            let weight =
                                (out * channels + channel) * self.kernel * self.kernel + tap as usize;
                            let weight = match self.weight {
                                Weights::F32(weights) => weights[weight],
                                Weights::F16(weights) => widen(weights[weight]),
                            };
                            sum += f64::from(self.x[x as usize]) * f64::from(weight);
                        }
                    }
                }
            }
            *y = sum as f32;
        }
    }
}

/// The output channels that are computed together.
struct Block<'a> {
    x: &'a [f32],
    shape: Shape,
    weight: &'a [f32],
    bias: [f32; OUT_BLOCK],
    residual: Option<f32>,
    y: &'a mut [f32],
}

impl Block<'_> {
    /// `K2` is `K` squared. Pixels are taken as one row, whatever the width; a tap beside the first or the last column
    /// would then read the neighbouring row, which a mask prevents.
    fn run<const K: usize, const K2: usize, const OUTS: usize>(self) {
        let (pixels, width) = (self.shape.pixels(), usize::from(self.shape.width));
        let taps = usize::from(self.shape.channels) * K2;
        let weight: [&[[f32; K2]]; OUTS] = from_fn(|out| self.weight[out * taps..][..taps].as_chunks().0);
        let reach = (K / 2) * (width + 1);
        for start in (0..pixels).step_by(TILE) {
            let mut masks = [[u32::MAX; TILE]; K];
            if K == 3 {
                let column: [usize; TILE] = from_fn(|i| (start + i) % width);
                masks[0] = column.map(|column| if column == 0 { 0 } else { u32::MAX });
                masks[2] = column.map(|column| if column + 1 == width { 0 } else { u32::MAX });
            }
            let inside = start >= reach && start + TILE + reach <= pixels;
            let sums = if inside {
                tile::<K, K2, OUTS, true>(self.x, pixels, width, start, &masks, &weight)
            } else {
                tile::<K, K2, OUTS, false>(self.x, pixels, width, start, &masks, &weight)
            };
            let end = pixels.min(start + TILE);
            for ((y, sums), bias) in self.y.chunks_exact_mut(pixels).zip(&sums).zip(self.bias) {
                for (y, sum) in y[start..end].iter_mut().zip(sums) {
                    *y = sum + bias + self.residual.map_or(0.0, |factor| factor * *y);
                }
            }
        }
    }
}

/// Sums of one tile. `INSIDE`: all taps of all its pixels are between the first and the last pixel.
#[inline(always)]
fn tile<const K: usize, const K2: usize, const OUTS: usize, const INSIDE: bool>(
    x: &[f32],
    pixels: usize,
    width: usize,
    start: usize,
    masks: &[[u32; TILE]; K],
    weight: &[&[[f32; K2]]; OUTS],
) -> [[f32; TILE]; OUTS] {
    let mut sums = [[0.0; TILE]; OUTS];
    let reach = (K / 2) * (width + 1);
    for (channel, x) in x.chunks_exact(pixels).enumerate() {
        let weight: [&[f32; K2]; OUTS] = from_fn(|out| &weight[out][channel]);
        for ky in 0..K {
            for kx in 0..K {
                // Before the first pixel this wraps around, and there is no such pixel either.
                let from = (start + ky * width + kx).wrapping_sub(reach);
                let mut x: [f32; TILE] = if INSIDE {
                    from_fn(|i| x[from..from + TILE][i])
                } else {
                    from_fn(|i| x.get(from.wrapping_add(i)).copied().unwrap_or(0.0))
                };
                if kx != K / 2 {
                    x = from_fn(|i| f32::from_bits(x[i].to_bits() & masks[kx][i]));
                }
                for out in 0..OUTS {
                    let weight = weight[out][ky * K + kx];
                    for i in 0..TILE {
                        sums[out][i] += weight * x[i];
                    }
                }
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};
    use std::vec::Vec;

    #[test]
    fn run_is_the_definition() {
        for (channels, outs) in [(1, 1), (3, 2), (5, 3), (7, 13), (13, 4), (2, 8)] {
            for (height, width) in [(1, 1), (2, 2), (7, 7), (14, 14), (3, 5), (1, 9), (9, 1), (2, 16)] {
                for kernel in [1, 3] {
                    for (residual, biased) in [(None, true), (Some(0.7), false)] {
                        let shape = Shape::new(channels as u16, height, width);
                        let taps = channels * kernel * kernel;
                        let (x, weight) = (&random(0, shape.elements()), random(1, outs * taps));
                        let bias = &random(2, if biased { outs } else { 0 });
                        let halves: Vec<u16> =
                            weight.iter().map(|&w| half::f16::from_f32(w).to_bits()).collect();
                        for weight in [Weights::F32(&weight), Weights::F16(&halves)] {
                            let mut scratch = std::vec![0.0; OUT_BLOCK * taps];
                            let mut run = |y: &mut [f32], reference: bool| {
                                let scratch = &mut scratch;
                                let conv = Conv2d { x, shape, kernel, weight, bias, residual, scratch, y };
                                if reference { conv.reference() } else { conv.run() }
                            };
                            let mut y = random(3, outs * shape.pixels());
                            let mut expected = y.clone();
                            run(&mut y, false);
                            run(&mut expected, true);
                            let what = std::format!("{shape} to {outs}, kernel {kernel}");
                            close(&y, &expected, taps, &what);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn padding_is_zero_even_beside_infinity() {
        let (mut x, mut y) = ([0.0; 12], [0.0; 12]);
        x[3] = f32::INFINITY;
        Conv2d {
            x: &x,
            shape: Shape::new(1, 3, 4),
            kernel: 3,
            weight: Weights::F32(&[1.0; 9]),
            bias: &[],
            residual: None,
            scratch: &mut [],
            y: &mut y,
        }
        .run();
        // The end of the first row does not reach the beginning of the second.
        let infinite = y.map(|y| y == f32::INFINITY);
        assert_eq!(infinite.map(u8::from), [0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]);
        assert_eq!(y.iter().filter(|&&y| y == 0.0).count(), 8);
    }
}
