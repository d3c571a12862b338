use core::array::from_fn;
use core::ops::Range;

use traflow_graph::op::Shape;
use traflow_graph::quant::{PANEL, QUAD, Wide};

use super::{Values, ValuesMut, lanes, rows};
use crate::cpu::Cpu;
use crate::simd::{Device, IntegerElement, IntegerKernel, Lanes, Vectors, dots, dots_part};
use crate::tiles::group;

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
    /// Memory for the rows of the input that a row of the output reads, aligned to 4 bytes.
    pub scratch: &'a mut [u8],
    /// Output.
    pub y: ValuesMut<'a>,
}

/// An element of the input.
trait Element: IntegerElement {
    /// A zero point.
    fn of(zero: i32) -> Self;
}

impl Element for i8 {
    fn of(zero: i32) -> Self {
        zero as Self
    }
}

impl Element for i16 {
    fn of(zero: i32) -> Self {
        zero as Self
    }
}

impl<'a> Conv2d<'a> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        match self.x {
            Values::Narrow(x) => self.share(cpu, vectors, x),
            Values::Wide(x) => self.share(cpu, vectors, x),
        }
    }

    /// For processors with nothing but general registers.
    fn words(self) {
        #[cfg(mve)]
        if let Values::Narrow(_) = self.x {
            return rows::run(crate::simd::mve::Mve, self);
        }
        rows::run(Device, self);
    }

    /// A pixel of zero points.
    fn beside<X: Element>(&mut self) -> &'a [X] {
        let scratch = core::mem::take(&mut self.scratch);
        let beside: &mut [X] = bytemuck::try_cast_slice_mut(scratch).unwrap_or_default();
        let channels = self.shape.channels.into();
        for (channel, x) in beside.iter_mut().enumerate().take(channels) {
            *x = X::of(self.zeros[usize::from(channel >= self.split)]);
        }
        beside
    }

    /// The definition.
    pub fn reference(mut self) {
        use traflow_graph::quant::{long, panel_index};
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

/// Some pixels of the output, computed on vectors.
struct Part<'a, X> {
    x: &'a [X],
    shape: Shape,
    kernel: usize,
    panels: &'a [i8],
    split: usize,
    factors: [&'a [i32]; 2],
    bias: &'a [Wide],
    shift: u32,
    residual: i32,
    r: Option<Values<'a>>,
    /// What is outside the picture.
    beside: &'a [X],
    /// The first of the pixels.
    first: usize,
    y: ValuesMut<'a>,
}

impl<'a> Conv2d<'a> {
    /// Shares out the pixels.
    fn share<X: Element>(mut self, cpu: &Cpu, vectors: Vectors, x: &'a [X]) {
        let beside = self.beside();
        let outs = self.bias.len().max(1);
        let Self { shape, kernel, panels, split, factors, bias, shift, residual, r, y, .. } = self;
        let r = r.filter(|_| residual != 0);
        // Parts of whole tiles.
        let part = shape.pixels().div_ceil(cpu.threads()).next_multiple_of(24);
        let parts = y.chunks(part * outs).enumerate().map(|(index, y)| {
            let first = index * part;
            let r = r.map(|r| r.slice(first * outs..first * outs + y.len()));
            Part { x, shape, kernel, panels, split, factors, bias, shift, residual, r, beside, first, y }
        });
        cpu.run_integers(vectors, parts, &mut []);
    }
}

impl<X: Element> IntegerKernel for Part<'_, X> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        let (outs, channels) = (self.bias.len(), usize::from(self.shape.channels));
        let whole = if channels.is_multiple_of(QUAD) { outs / PANEL } else { 0 };
        let mut panel = 0;
        while panel < whole {
            let panels = group(whole - panel, S::TILE[1]);
            match S::TILE[0] * 4 + panels {
                35 => self.tiles::<S, 8, 3>(s, panel, true),
                34 => self.tiles::<S, 8, 2>(s, panel, true),
                33 => self.tiles::<S, 8, 1>(s, panel, true),
                _ => self.tiles::<S, 4, 1>(s, panel, true),
            }
            panel += panels;
        }
        // Panels of fewer output channels, and channels that fill no quad.
        for panel in panel..outs.div_ceil(PANEL) {
            match S::TILE[0] {
                8 => self.tiles::<S, 8, 1>(s, panel, false),
                _ => self.tiles::<S, 4, 1>(s, panel, false),
            }
        }
    }
}

impl<X: Element> Part<'_, X> {
    /// All pixels by N panels, M pixels at once.
    #[inline(always)]
    fn tiles<S: Lanes, const M: usize, const N: usize>(&mut self, s: S, panel: usize, whole: bool) {
        let (channels, outs) = (usize::from(self.shape.channels), self.bias.len());
        let parts = [0..self.split, self.split..channels];
        for pixel in (0..self.y.len() / outs.max(1)).step_by(M) {
            let mut sums = [[[s.splat(0); N]; M]; 2];
            for (sums, part) in sums.iter_mut().zip(&parts).filter(|(_, part)| !part.is_empty()) {
                self.sums(s, pixel, panel, part.clone(), whole, sums);
            }
            self.store(s, pixel, panel, &sums);
        }
    }

    /// Rescales the sums of a tile.
    #[inline(always)]
    fn store<S: Lanes, const M: usize, const N: usize>(
        &mut self,
        s: S,
        pixel: usize,
        panel: usize,
        sums: &[[[S::V; N]; M]; 2],
    ) {
        let outs = self.bias.len();
        let pixels = M.min(self.y.len() / outs - pixel);
        let residual = s.splat(self.residual);
        for n in 0..N {
            let out = (panel + n) * PANEL;
            let width = PANEL.min(outs - out);
            let bias = s.load_long(&lanes(&self.bias[out..out + width]));
            let factors =
                self.factors.map(|factors| s.load(&lanes(factors.get(out..out + width).unwrap_or_default())));
            for (m, (first, second)) in sums[0].iter().zip(&sums[1]).take(pixels).enumerate() {
                let index = (pixel + m) * outs + out;
                let mut sum = s.add_long(bias, s.mul_long(first[n], factors[0]));
                if !self.factors[1].is_empty() {
                    sum = s.add_long(sum, s.mul_long(second[n], factors[1]));
                }
                if self.residual != 0 {
                    let r = match self.r {
                        Some(r) => r.load(s, index, width),
                        None => self.y.values().load(s, index, width),
                    };
                    sum = s.add_long(sum, s.mul_long(r, residual));
                }
                self.y.store(s, s.narrow(sum, self.shift), index, width);
            }
        }
    }

    /// Adds the products of a tile, over a range of channels: with whole panels, or with anything.
    #[inline(always)]
    fn sums<S: Lanes, const M: usize, const N: usize>(
        &self,
        s: S,
        pixel: usize,
        panel: usize,
        part: Range<usize>,
        whole: bool,
        sums: &mut [[S::V; N]; M],
    ) {
        let Self { x, shape, kernel, bias, beside, .. } = *self;
        let (channels, height, width) =
            (usize::from(shape.channels), usize::from(shape.height), usize::from(shape.width));
        let (taps, quads) = (kernel * kernel, channels.div_ceil(QUAD));
        // Pixels after the last one repeat it, and are not stored.
        let last = self.y.len() / bias.len() - 1;
        let places: [[usize; 2]; M] = from_fn(|m| {
            let place = self.first + last.min(pixel + m);
            [place / width, place % width]
        });
        let of_tap = |tap: usize| -> [&[X]; M] {
            let (down, right) = (tap / kernel, tap % kernel);
            places.map(|[row, column]| {
                // Before the first row and column this wraps around, and is outside the picture too.
                let row = (row + down).wrapping_sub(kernel / 2);
                let column = (column + right).wrapping_sub(kernel / 2);
                let pixel = match row < height && column < width {
                    true => &x[(row * width + column) * channels..][..channels],
                    false => beside,
                };
                &pixel[part.clone()]
            })
        };
        if X::offset::<S>() != 0 {
            // What the factors without sign add is taken away beforehand.
            let mut totals = [0i32; M];
            for tap in 0..taps {
                for (total, pixel) in totals.iter_mut().zip(of_tap(tap)) {
                    *total = total.wrapping_add(X::total(s, pixel));
                }
            }
            *sums = totals.map(|total| [s.splat(total.wrapping_mul(-X::offset::<S>())); N]);
        }
        let first = panel * PANEL;
        let of_panel = PANEL.min(bias.len() - first);
        let bytes = taps * quads * QUAD;
        let panels: [&[i8]; N] = from_fn(|n| &self.panels[(first + n * PANEL) * bytes..][..of_panel * bytes]);
        let rows = part.start / QUAD..part.end.div_ceil(QUAD);
        for tap in 0..taps {
            let (pixels, rows) = (of_tap(tap), tap * quads + rows.start..tap * quads + rows.end);
            if whole {
                dots(s, pixels, panels.map(|panel| &panel.as_chunks().0[rows.clone()]), sums);
            } else {
                let width = of_panel * QUAD;
                dots_part(s, pixels, &panels[0][rows.start * width..rows.end * width], width, sums);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::int8::tests::{cpus, narrow, wide as random_wide};
    use std::vec;
    use std::vec::Vec;
    use traflow_graph::op::{Method, Op};
    use traflow_graph::quant::{panel_elements, scratch_bytes, wide};

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
        let op = Op::Conv2d {
            out: outs as u16,
            kernel: kernel as u8,
            bias: true,
            residual: None,
            method: Method::Direct,
        };
        for (residual, separate) in [(0, false), (-123_456, false), (1 << 27, true)] {
            let run = |y: ValuesMut<'_>, cpu: Option<&Cpu>| {
                let mut scratch = vec![0u64; scratch_bytes(op, &[shape]).div_ceil(8) as usize];
                let conv = Conv2d {
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
                    // Without a residual there may be an empty one.
                    r: match separate || residual == 0 {
                        true => Some(Values::Wide(if separate { &start } else { &[] })),
                        false => None,
                    },
                    scratch: bytemuck::cast_slice_mut(&mut scratch),
                    y,
                };
                match cpu {
                    Some(cpu) => conv.run(cpu),
                    None => conv.reference(),
                }
            };
            let narrow: Vec<i8> = start.iter().map(|&x| x as i8).collect();
            let (mut expected_narrow, mut expected) = (narrow.clone(), start.clone());
            run(ValuesMut::Narrow(&mut expected_narrow), None);
            run(ValuesMut::Wide(&mut expected), None);
            for cpu in cpus() {
                let (mut y_narrow, mut y) = (narrow.clone(), start.clone());
                run(ValuesMut::Narrow(&mut y_narrow), Some(&cpu));
                run(ValuesMut::Wide(&mut y), Some(&cpu));
                assert_eq!(y, expected, "{cpu:?}: {shape}, {kernel}, {outs}, {residual}");
                assert_eq!(
                    y_narrow, expected_narrow,
                    "{cpu:?}: {shape}, {kernel}, {outs}, {residual}, in 8 bits"
                );
            }
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
        for (channels, outs) in [(1, 1), (3, 2), (5, 17), (8, 16), (12, 40), (20, 64), (16, 99)] {
            for (height, width) in [(1, 1), (2, 2), (7, 7), (3, 5), (1, 9), (9, 1), (8, 8)] {
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
            // A whole panel.
            let panels = vec![weight; panel_elements([16, 1024, 3, 3])];
            compare(shape, 3, 16, Values::Narrow(&x), &panels, 1024, [127, 0]);
        }
        // The largest sum of weights that inputs of 16 bits allow.
        let shape = Shape::new(512, 1, 1);
        let mut panels = vec![-128; 512];
        panels[0] = -127;
        let x = vec![i16::MIN; 512];
        compare(shape, 1, 1, Values::Wide(&x), &panels, 512, [0, 0]);
        let mut panels = vec![-128; 512 * 16];
        (0..16).for_each(|out| panels[out * QUAD] = -127);
        compare(shape, 1, 16, Values::Wide(&x), &panels, 512, [0, 0]);
    }
}
