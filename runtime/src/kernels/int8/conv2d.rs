use core::ops::Range;

use traflow_graph::model::Aligned;
use traflow_graph::op::Shape;
use traflow_graph::quant::{PANEL, QUAD, Wide};

use super::few::{self, Few};
use super::matrices::{self, Matrices};
use super::rescale::{Rescale, RescalePart, Sums};
use super::winograd4::{self, Tiled};
use super::{Values, ValuesMut, rows, winograd};
use crate::cpu::Cpu;
use crate::simd::{Device, Factor, IntegerKernel, LANES, Lanes, Row, dots, dots_part};
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
    /// Memory for the rows of the input that a row of the output reads, aligned to 4 bytes. With more of it more rows are
    /// computed at once, and with as much as `conv_ample_bytes` vectors are fastest.
    pub scratch: &'a mut [u8],
    /// Output.
    pub y: ValuesMut<'a>,
}

impl<'a> Conv2d<'a> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        let (parts, scratch) = self.parts(cpu.threads());
        cpu.run_integers(vectors, parts, scratch);
    }

    /// The output in parts, of as many rows each.
    fn parts(self, count: usize) -> (impl Iterator<Item = Part<'a>> + Send, &'a mut [u8]) {
        let Self { x, shape, kernel, panels, split, zeros, factors, bias, shift, residual, r, scratch, y } =
            self;
        let r = r.filter(|_| residual != 0);
        let row = usize::from(shape.width) * bias.len().max(1);
        let rows = usize::from(shape.height).div_ceil(count);
        let parts = y.chunks(rows * row).enumerate().map(move |(index, y)| {
            let first = index * rows;
            let r = r.map(|r| r.slice(first * row..first * row + y.len()));
            Part { x, shape, kernel, panels, split, zeros, factors, bias, shift, residual, r, first, y }
        });
        (parts, scratch)
    }

    /// For processors with nothing but general registers.
    fn words(self) {
        #[cfg(mve)]
        if let Values::Narrow(_) = self.x {
            return rows::run(crate::simd::mve::Mve, self);
        }
        match winograd::pairs(Device, &self) {
            0 => rows::run(Device, self),
            pairs => winograd::run(Device, self, pairs),
        }
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
                let ends = [i32::MIN, i32::MAX].map(i128::from);
                self.y.set(index, (sum >> self.shift).clamp(ends[0], ends[1]) as i32);
            }
        }
    }
}

/// Some rows of the output, computed on vectors. The rows of the input that they read are first copied as factors, with what
/// is outside the picture around them, so that whatever a row of the kernel reads of a pixel lies together.
pub(super) struct Part<'a> {
    pub(super) x: Values<'a>,
    pub(super) shape: Shape,
    pub(super) kernel: usize,
    pub(super) panels: &'a [i8],
    pub(super) split: usize,
    pub(super) zeros: [i32; 2],
    pub(super) factors: [&'a [i32]; 2],
    pub(super) bias: &'a [Wide],
    pub(super) shift: u32,
    pub(super) residual: i32,
    pub(super) r: Option<Values<'a>>,
    /// The first of the rows.
    pub(super) first: usize,
    pub(super) y: ValuesMut<'a>,
}

impl IntegerKernel for Part<'_> {
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S, scratch: &mut [u8]) {
        if matrices::pays(s, &self) {
            s.run_integers(Matrices(self), scratch);
        } else if winograd4::pays::<S>(&self, scratch.len()) {
            s.run_integers(Tiled(self), scratch);
        } else if few::pays(&self, scratch.len()) {
            s.run_integers(Few(self), scratch);
        } else {
            match self.x {
                Values::Narrow(x) => self.narrow(s, x, scratch, &mut Panels),
                Values::Wide(x) => self.bands(s, x, numbers(scratch), &mut Panels),
            }
        }
    }
}

/// Fills pixels with one factor up to the split of their channels, and with another one after it.
#[inline(never)]
fn fill<F: Copy>(factors: &mut [F], channels: usize, split: usize, zeros: [F; 2]) {
    for factors in factors.chunks_exact_mut(channels) {
        let (first, second) = factors.split_at_mut(split);
        first.fill(zeros[0]);
        second.fill(zeros[1]);
    }
}

/// Memory for numbers of 16 bits.
pub(super) fn numbers(scratch: &mut [u8]) -> &mut [i16] {
    let whole = scratch.len() & !1;
    bytemuck::try_cast_slice_mut(&mut scratch[..whole]).unwrap_or_default()
}

/// Rows of the input as factors.
#[derive(Clone, Copy)]
pub(super) struct Band<'a, F> {
    pub(super) factors: &'a [F],
    /// Factors of a row.
    pub(super) row: usize,
    /// Factors of a pixel, whole quads.
    pub(super) channels: usize,
    /// The first pixel of the output that is computed from them, of those of the part, and the one after the last.
    pub(super) pixels: [usize; 2],
}

/// What computes the output of a band.
pub(super) trait Compute {
    /// The most bytes of a band's rows, where so many hold more than one row of the output reads: as stay in the cache.
    const BAND: usize = 16 << 10;

    /// Does it.
    fn band<S: Lanes, F: Factor>(&mut self, s: S, part: &mut Part<'_>, band: Band<'_, F>);
}

/// Panel by panel of output channels.
struct Panels;

impl Compute for Panels {
    #[inline(always)]
    fn band<S: Lanes, F: Factor>(&mut self, s: S, part: &mut Part<'_>, band: Band<'_, F>) {
        part.panels(s, band);
    }
}

impl Part<'_> {
    /// Factors of a row of the input, with what is beside the picture.
    pub(super) fn row(&self) -> usize {
        let columns = usize::from(self.shape.width) + self.kernel - 1;
        columns * usize::from(self.shape.channels).next_multiple_of(QUAD)
    }

    /// Computes it from the sums of an input of 8 bits.
    #[inline(always)]
    pub(super) fn narrow<S: Lanes>(self, s: S, x: &[i8], scratch: &mut [u8], compute: &mut impl Compute) {
        match S::BYTES {
            Some(_) => self.bands(s, x, scratch, compute),
            None => self.bands(s, x, numbers(scratch), compute),
        }
    }

    /// Computes as many rows at once as the input's rows fit into the memory for them.
    #[inline(always)]
    pub(super) fn bands<S: Lanes, X: Copy + Into<i32>, F: Factor, C: Compute>(
        mut self,
        s: S,
        x: &[X],
        memory: &mut [F],
        compute: &mut C,
    ) {
        let (width, outs) = (usize::from(self.shape.width), self.bias.len());
        let channels = usize::from(self.shape.channels).next_multiple_of(QUAD);
        let row = self.row();
        let rows = self.y.len() / (width * outs).max(1);
        let most = memory.len().min(C::BAND / size_of::<F>()) / row;
        let most = most.saturating_sub(self.kernel - 1).max(1);
        let of_band = group(rows, most);
        let mut start = 0;
        while start < rows {
            let end = rows.min(start + of_band);
            for (place, factors) in
                memory.chunks_exact_mut(row).take(end - start + self.kernel - 1).enumerate()
            {
                // Above the picture this wraps around, and is outside too.
                let row = (self.first + start + place).wrapping_sub(self.kernel / 2);
                self.factors::<S, X, F>(x, row, factors);
            }
            let band = Band { factors: memory, row, channels, pixels: [start * width, end * width] };
            compute.band(s, &mut self, band);
            start = end;
        }
    }

    /// A row of the input.
    #[inline(always)]
    fn factors<S: Lanes, X: Copy + Into<i32>, F: Factor>(&self, x: &[X], row: usize, factors: &mut [F]) {
        let channels = usize::from(self.shape.channels);
        let padded = channels.next_multiple_of(QUAD);
        let of_row = usize::from(self.shape.width) * channels;
        let zeros = [F::of::<S>(self.zeros[0]), F::of::<S>(self.zeros[1])];
        let outside = |factors: &mut [F]| fill(factors, padded, self.split, zeros);
        if row >= usize::from(self.shape.height) {
            return outside(factors);
        }
        let beside = self.kernel / 2 * padded;
        outside(&mut factors[..beside]);
        let end = factors.len() - beside;
        outside(&mut factors[end..]);
        let (x, factors) = (&x[row * of_row..][..of_row], &mut factors[beside..end]);
        if padded == channels {
            for (factor, &x) in factors.iter_mut().zip(x) {
                *factor = F::of::<S>(x.into());
            }
        } else {
            for (factors, x) in factors.chunks_exact_mut(padded).zip(x.chunks_exact(channels)) {
                for (factor, &x) in factors.iter_mut().zip(x) {
                    *factor = F::of::<S>(x.into());
                }
                // Of no consequence: these weights are zero.
                factors[channels..].fill(F::of::<S>(0));
            }
        }
    }

    /// All output channels of a band, panel by panel.
    #[inline(always)]
    fn panels<S: Lanes, F: Factor>(&mut self, s: S, band: Band<'_, F>) {
        let whole = self.bias.len() / PANEL;
        // Three panels by eight pixels leave fewer of these over than four panels by six.
        let most = if whole.is_multiple_of(3) { 3 } else { 4 }.min(F::panels::<S>());
        let mut panel = 0;
        while panel < whole {
            let panels = group(whole - panel, most);
            match (S::TILE[0], panels) {
                (8, 4) => self.tiles::<S, F, 6, 4, true>(s, band, panel),
                (8, 3) => self.tiles::<S, F, 8, 3, true>(s, band, panel),
                (8, 2) => self.tiles::<S, F, 8, 2, true>(s, band, panel),
                (8, _) => self.tiles::<S, F, 8, 1, true>(s, band, panel),
                (6, _) => self.tiles::<S, F, 6, 1, true>(s, band, panel),
                _ => self.tiles::<S, F, 4, 1, true>(s, band, panel),
            }
            panel += panels;
        }
        if !self.bias.len().is_multiple_of(PANEL) {
            match S::TILE[0] {
                8 => self.tiles::<S, F, 8, 1, false>(s, band, panel),
                6 => self.tiles::<S, F, 6, 1, false>(s, band, panel),
                _ => self.tiles::<S, F, 4, 1, false>(s, band, panel),
            }
        }
    }

    /// All pixels of a band by N panels, M pixels at once; or by one panel of fewer output channels. It is a function of its
    /// own, since registers are better used where there is less else.
    #[inline(always)]
    fn tiles<S: Lanes, F: Factor, const M: usize, const N: usize, const WHOLE: bool>(
        &mut self,
        s: S,
        band: Band<'_, F>,
        panel: usize,
    ) {
        s.run_integers(Tiles::<F, M, N, WHOLE> { part: self, band, panel }, &mut []);
    }

    /// The rows of the weights, and the factors of each pixel, that a row of the kernel reads of a part, in as many pieces as
    /// they lie in.
    #[inline(always)]
    fn pieces<F: Factor>(&self, part: &Range<usize>, band: Band<'_, F>) -> impl Iterator<Item = [usize; 3]> {
        let quads = band.channels / QUAD;
        let all = part.len() == band.channels;
        let (of_row, length) =
            if all { (1, self.kernel * quads) } else { (self.kernel, part.len().div_ceil(QUAD)) };
        let (kernel, first, row, channels) = (self.kernel, part.start, band.row, band.channels);
        (0..kernel).flat_map(move |down| {
            (0..of_row).map(move |right| {
                let rows = (down * kernel + right) * quads + first / QUAD;
                [rows, length, down * row + right * channels + first]
            })
        })
    }

    /// What has to be added to the sums of a part, since something is added to the factors.
    #[inline(always)]
    pub(super) fn begin<S: Lanes, F: Factor, const N: usize>(
        &self,
        s: S,
        band: Band<'_, F>,
        panels: [&[[i8; QUAD]]; N],
        width: usize,
        part: &Range<usize>,
    ) -> [S::V; N] {
        let mut begin = [s.splat(0); N];
        if F::offset::<S>() == 0 {
            return begin;
        }
        let ones = s.splat(0x0101_0101);
        for [first, length, _] in self.pieces(part, band) {
            let rows = panels.map(|panel| &panel[first * width..(first + length) * width]);
            for row in 0..length {
                for (begin, rows) in begin.iter_mut().zip(rows) {
                    *begin = s.dot(*begin, s.row_part(&rows[row * width..][..width]), ones);
                }
            }
        }
        for begin in &mut begin {
            *begin = s.mul(*begin, s.splat(-F::offset::<S>()));
        }
        begin
    }

    /// Adds the products of a tile, over the channels of a part.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "what is the same for all tiles, and what is not")]
    fn sums<S: Lanes, F: Factor, const M: usize, const N: usize>(
        &self,
        s: S,
        band: Band<'_, F>,
        places: [usize; M],
        panels: [&[[i8; QUAD]]; N],
        width: usize,
        part: &Range<usize>,
    ) -> [[S::V; N]; M] {
        let mut sums = [[s.splat(0); N]; M];
        for [first, length, skip] in self.pieces(part, band) {
            let mut pixels: [&[F]; M] = [&[]; M];
            for (pixel, place) in pixels.iter_mut().zip(places) {
                *pixel = &band.factors[place + skip..][..length * QUAD];
            }
            if width < PANEL {
                dots_part(s, pixels, &panels[0][first * width..(first + length) * width], width, &mut sums);
                continue;
            }
            let mut rows: [&[Row]; N] = [&[]; N];
            for (rows, panel) in rows.iter_mut().zip(panels) {
                *rows = panel[first * PANEL..(first + length) * PANEL].as_chunks().0;
            }
            dots(s, pixels, rows, &mut sums);
        }
        sums
    }

    /// Where the factors of M pixels begin. Pixels after the last one repeat it, and are not stored.
    #[inline(always)]
    fn places<F: Factor, const M: usize>(&self, band: Band<'_, F>, pixel: usize) -> [usize; M] {
        let width = usize::from(self.shape.width);
        let mut places = [0; M];
        let place = pixel - band.pixels[0];
        let (mut row, mut column) = (place / width, place % width);
        for (m, place) in places.iter_mut().enumerate() {
            *place = row * band.row + column * band.channels;
            if pixel + m + 1 < band.pixels[1] {
                column += 1;
                if column == width {
                    (row, column) = (row + 1, 0);
                }
            }
        }
        places
    }
}

/// Tiles whose sums are rescaled together.
const TILES: usize = 4;

/// Tiles of M pixels and N panels, or of one panel of fewer output channels where it is not whole.
struct Tiles<'t, 'a, F, const M: usize, const N: usize, const WHOLE: bool> {
    part: &'t mut Part<'a>,
    band: Band<'t, F>,
    panel: usize,
}

impl<F: Factor, const M: usize, const N: usize, const WHOLE: bool> IntegerKernel
    for Tiles<'_, '_, F, M, N, WHOLE>
{
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S, _: &mut [u8]) {
        let Self { part, band, panel } = self;
        let rows = part.kernel * part.kernel * band.channels / QUAD;
        let width = if WHOLE { PANEL } else { part.bias.len() - panel * PANEL };
        let (quads, _) = part.panels.as_chunks();
        let mut panels: [&[[i8; QUAD]]; N] = [&[]; N];
        for (n, quads_of_panel) in panels.iter_mut().enumerate() {
            *quads_of_panel = &quads[(panel + n) * PANEL * rows..][..width * rows];
        }
        let two_parts = !part.factors[1].is_empty();
        let split = if two_parts { part.split } else { band.channels };
        let parts = [0..split, split..band.channels];
        let parts = &parts[..if two_parts { 2 } else { 1 }];

        let mut begin = Aligned([[[0; LANES]; N]; 2]);
        for (begin, channels) in begin.0.iter_mut().zip(parts) {
            for (to, v) in begin.iter_mut().zip(part.begin::<S, F, N>(s, band, panels, width, channels)) {
                s.store(v, to);
            }
        }
        let mut sums = Aligned([[[[[0; LANES]; M]; TILES]; N]; 2]);
        for first in (band.pixels[0]..band.pixels[1]).step_by(TILES * M) {
            let pixels = first..band.pixels[1].min(first + TILES * M);
            for (tile, pixel) in pixels.clone().step_by(M).enumerate() {
                let places = part.places::<F, M>(band, pixel);
                for (sums, channels) in sums.0.iter_mut().zip(parts) {
                    let of_tile = part.sums::<S, F, M, N>(s, band, places, panels, width, channels);
                    for (m, of_pixel) in of_tile.into_iter().enumerate() {
                        for n in 0..N {
                            s.store(of_pixel[n], &mut sums[n][tile][m]);
                        }
                    }
                }
            }
            let sums = Sums {
                parts: [sums.0[0].as_flattened().as_flattened(), sums.0[1].as_flattened().as_flattened()],
                begin: [&begin.0[0], &begin.0[1]],
                panel: TILES * M,
                row: 0,
            };
            let rescale = Rescale { part, panels: panel..panel + N, pixels, rows: 1, sums };
            if WHOLE {
                s.run_integers(rescale, &mut []);
            } else {
                s.run_integers(RescalePart(rescale), &mut []);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::int8::conv_ample_bytes;
    use crate::kernels::int8::tests::{cpus, narrow, wide as random_wide};
    use std::vec::Vec;
    use std::{format, vec};
    use traflow_graph::op::{Method, Op};
    use traflow_graph::quant::{panel_elements, scratch_bytes, wide};

    /// What a convolution is given to choose from.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Case {
        /// As little memory as a file asks for.
        Least,
        /// As much as is of use.
        Ample,
        /// So much, and Winograd's method whether or not it pays.
        Winograd,
    }

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
            let run = |y: ValuesMut<'_>, cpu: Option<&Cpu>, case: Case| {
                let bytes = match case {
                    Case::Least => scratch_bytes(op, &[shape]) as usize,
                    Case::Ample | Case::Winograd => conv_ample_bytes(shape),
                };
                let mut scratch = vec![0u64; bytes.div_ceil(8)];
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
                match cpu.map(|cpu| (cpu, cpu.isa().vectors())) {
                    Some((cpu, Some(vectors))) if case == Case::Winograd => {
                        let (parts, scratch) = conv.parts(cpu.threads());
                        parts.for_each(|part| vectors.run(Tiled(part), scratch));
                    }
                    Some((cpu, _)) => conv.run(cpu),
                    None => conv.reference(),
                }
            };
            let narrow: Vec<i8> = start.iter().map(|&x| x as i8).collect();
            let (mut expected_narrow, mut expected) = (narrow.clone(), start.clone());
            run(ValuesMut::Narrow(&mut expected_narrow), None, Case::Least);
            run(ValuesMut::Wide(&mut expected), None, Case::Least);
            let tiled = kernel == 3
                && outs.is_multiple_of(PANEL)
                && channels >= winograd4::WIDE
                && matches!(x, Values::Narrow(_));
            let cases = [Case::Least, Case::Ample, Case::Winograd];
            let cases = if tiled { &cases[..] } else { &cases[..2] };
            for (cpu, &case) in cpus().iter().flat_map(|cpu| cases.iter().map(move |case| (cpu, case))) {
                let (mut y_narrow, mut y) = (narrow.clone(), start.clone());
                run(ValuesMut::Narrow(&mut y_narrow), Some(cpu), case);
                run(ValuesMut::Wide(&mut y), Some(cpu), case);
                let what = format!("{cpu:?}: {shape}, {kernel}, {outs}, {residual}, {case:?}");
                assert_eq!(y, expected, "{what}");
                assert_eq!(y_narrow, expected_narrow, "{what}, in 8 bits");
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
        for (channels, outs) in [(1, 1), (3, 2), (5, 17), (8, 16), (12, 40), (20, 64), (16, 99), (32, 48)] {
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
    fn tiles_are_the_definition() {
        for (channels, outs) in [(4, 16), (36, 48), (228, 16), (452, 32)] {
            for (height, width) in [(4, 4), (5, 14), (36, 33)] {
                if channels > 36 && height > 5 {
                    continue;
                }
                let shape = Shape::new(channels, height, width);
                let channels = usize::from(channels);
                let panels = weights(1, outs, channels, 3);
                let x = narrow(2, shape.elements());
                for split in [channels, channels.div_ceil(8) * 4] {
                    compare(shape, 3, outs, Values::Narrow(&x), &panels, split, [-7, 127]);
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
