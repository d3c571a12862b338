use core::num::NonZeroUsize;

use traflow_graph::noise::{BLOCKS, FRACTION_BITS, Mix};
use traflow_graph::quant::{AFFINE_BITS, IMAGE_BITS, TABLE};

use super::group_norm::{Affine, BIAS};
use super::{Number, Values, ValuesMut, copy, load, shifted};
use crate::cpu::Cpu;
use crate::simd::{IntegerKernel, LANES, Lanes};

/// SiLU of a number in units of 2⁻¹⁶ that the table's first entry is at 0 of, as 256 straight pieces. `shift` is 15
/// where the output has 8 bits, and 8 where it has 16.
#[inline]
pub(super) fn silu(table: &[i16; TABLE], number: i32, shift: u32) -> i32 {
    let p = number.clamp(0, 0xffff) as usize;
    let (piece, part) = (p >> 8, (p & 0xff) as i32);
    let sum = i32::from(table[piece]) * (256 - part) + i32::from(table[piece + 1]) * part;
    (sum + (1 << (shift - 1))) >> shift
}

/// The shift of [`silu`] for an output.
pub(super) fn silu_shift(y: &ValuesMut<'_>) -> u32 {
    if matches!(y, ValuesMut::Narrow(_)) { 15 } else { 8 }
}

/// `y = SiLU(x)`.
#[derive(Debug)]
pub struct Silu<'a> {
    /// Input; `None` where y holds it.
    pub x: Option<Values<'a>>,
    /// Factor of the input.
    pub factor: i32,
    /// Added to the product.
    pub bias: i64,
    /// The ends of the pieces.
    pub table: &'a [i16],
    /// Output.
    pub y: ValuesMut<'a>,
}

impl<'a> Silu<'a> {
    /// Computes it.
    pub fn run(mut self, cpu: &Cpu) {
        self.bias = self.bias.clamp(-BIAS, BIAS);
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        let Self { x, factor, bias, table, y } = self;
        let part = y.len().div_ceil(cpu.threads()).next_multiple_of(64);
        let parts = y.chunks(part).enumerate().map(|(index, y)| {
            let x = x.map(|x| x.slice(index * part..index * part + y.len()));
            Silu { x, factor, bias, table, y }
        });
        cpu.run_integers(vectors, parts, &mut []);
    }

    /// For processors with nothing but general registers.
    fn words(mut self) {
        let (Some(table), shift) = (self.table.first_chunk(), silu_shift(&self.y)) else { return };
        let affine = |q| shifted(i64::from(q) * i64::from(self.factor) + self.bias, AFFINE_BITS);
        self.y.map(self.x, [0, 1, self.y.len()], &|_, numbers| {
            numbers.iter_mut().for_each(|number| *number = silu(table, affine(*number), shift));
        });
    }
}

/// `y = (a · factors_0 + b · factors_1 + bias) >> shift`.
#[derive(Debug)]
pub struct Add<'a> {
    /// First input; `None` where y holds it.
    pub a: Option<Values<'a>>,
    /// Second input: of the output's shape, or one element a channel.
    pub b: Values<'a>,
    /// Factors of a and b.
    pub factors: [i32; 2],
    /// Added to the products.
    pub bias: i64,
    /// Places to shift by.
    pub shift: u32,
    /// Output.
    pub y: ValuesMut<'a>,
}

impl<'a> Add<'a> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        let Self { a, b, factors, bias, shift, y } = self;
        let of_part = y.len().div_ceil(cpu.threads());
        // A vector is repeated for every pixel.
        let (part, vector) = match b.len() == y.len() {
            true => (of_part.next_multiple_of(64), false),
            false => (of_part.next_multiple_of(b.len().max(1)), true),
        };
        let parts = y.chunks(part).enumerate().map(|(index, y)| {
            let slice = |x: Values<'a>| x.slice(index * part..index * part + y.len());
            let (a, b) = (a.map(slice), if vector { b } else { slice(b) });
            Add { a, b, factors, bias, shift, y }
        });
        cpu.run_integers(vectors, parts, &mut []);
    }

    /// For processors with nothing but general registers.
    fn words(mut self) {
        let [a_factor, b_factor] = self.factors.map(i64::from);
        // A vector is repeated for every pixel.
        let Some(period) = NonZeroUsize::new(self.b.len()) else { return };
        self.y.map(self.a, [0, 1, self.y.len()], &|first, numbers| {
            for (number, index) in numbers.iter_mut().zip(first..) {
                let b = i64::from(self.b.get(index % period));
                *number = shifted(i64::from(*number) * a_factor + b * b_factor + self.bias, self.shift);
            }
        });
    }
}

/// x = noise, in the order and the units of a picture.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its elements are counted by channel first.
    pub noise: &'a Mix,
    /// Number of pixels.
    pub pixels: usize,
    /// The picture.
    pub x: &'a mut [i16],
}

impl Start<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        match cpu.isa().vectors() {
            None => self.blocks::<1>(),
            Some(vectors) => cpu.run_integers(vectors, core::iter::once(self), &mut []),
        }
    }

    /// N blocks of the noise at once.
    #[inline(always)]
    fn blocks<const N: usize>(self) {
        /// Fraction bits of the noise's numbers that a picture has not.
        const SHIFT: u32 = FRACTION_BITS - IMAGE_BITS;
        let channels = self.x.len() / self.pixels.max(1);
        let (mut channel, mut pixel) = (0, 0);
        for first in (0..self.x.len().div_ceil(4)).step_by(N) {
            let left = self.x.len() - 4 * first;
            for number in self.noise.blocks::<N>(first as u64).as_flattened().iter().take(left) {
                let number = (number + (1 << (SHIFT - 1))) >> SHIFT;
                if let Some(x) = self.x.get_mut(pixel * channels + channel) {
                    *x = number.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
                }
                pixel += 1;
                if pixel == self.pixels {
                    (channel, pixel) = (channel + 1, 0);
                }
            }
        }
    }
}

/// `x = x + ((u · factor + half) >> shift)`.
#[derive(Debug)]
pub struct Step<'a> {
    /// The velocity.
    pub u: Values<'a>,
    /// Factor of the velocity.
    pub factor: i32,
    /// Places to shift by.
    pub shift: u32,
    /// The picture.
    pub x: ValuesMut<'a>,
}

impl Step<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        // A picture is too small to be shared out.
        cpu.run_integers(vectors, core::iter::once(self), &mut []);
    }

    /// For processors with nothing but general registers.
    fn words(mut self) {
        for index in 0..self.x.len() {
            let product = i64::from(self.u.get(index)) * i64::from(self.factor);
            let step = shifted(product + (1 << (self.shift - 1)), self.shift);
            self.x.set(index, self.x.get(index).saturating_add(step));
        }
    }
}

/// The channels of a, then those of b, each rescaled.
#[derive(Debug)]
pub struct Concat<'a> {
    /// First input.
    pub a: Values<'a>,
    /// Second input.
    pub b: Values<'a>,
    /// Number of pixels.
    pub pixels: usize,
    /// Factors of a and b.
    pub factors: [i32; 2],
    /// Added to the products.
    pub biases: [i64; 2],
    /// Places to shift by.
    pub shift: u32,
    /// Output.
    pub y: ValuesMut<'a>,
}

impl<'a> Concat<'a> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        let Self { a, b, pixels, factors, biases, shift, y } = self;
        let [of_a, of_b] = [a, b].map(|x| x.len() / pixels.max(1));
        let part = pixels.div_ceil(cpu.threads()).max(1);
        let parts = y.chunks(part * (of_a + of_b)).enumerate().map(|(index, y)| {
            let (first, pixels) = (index * part, y.len() / (of_a + of_b));
            let slice =
                |x: Values<'a>, channels: usize| x.slice(first * channels..(first + pixels) * channels);
            Concat { a: slice(a, of_a), b: slice(b, of_b), pixels, factors, biases, shift, y }
        });
        cpu.run_integers(vectors, parts, &mut []);
    }

    /// For processors with nothing but general registers.
    fn words(mut self) {
        let pixels = self.pixels.max(1);
        let channels = self.y.len() / pixels;
        let mut first = 0;
        for ((x, factor), bias) in [self.a, self.b].into_iter().zip(self.factors).zip(self.biases) {
            let of_x = (x.len() / pixels).max(1);
            let affine = |q: i32| shifted(i64::from(q) * i64::from(factor) + bias, self.shift);
            let places = [of_x, first, channels.max(1)];
            match (x, &mut self.y) {
                (Values::Narrow(x), ValuesMut::Narrow(y)) => rescale(x, y, places, affine),
                (Values::Narrow(x), ValuesMut::Wide(y)) => rescale(x, y, places, affine),
                (Values::Wide(x), ValuesMut::Narrow(y)) => rescale(x, y, places, affine),
                (Values::Wide(x), ValuesMut::Wide(y)) => rescale(x, y, places, affine),
            }
            first += of_x;
        }
    }
}

/// Rescales pixels of so many channels, into pixels of more, from one of theirs on.
fn rescale<X: Number, Y: Number>(
    x: &[X],
    y: &mut [Y],
    [of_x, first, of_y]: [usize; 3],
    affine: impl Fn(i32) -> i32,
) {
    let mut pixels = y.chunks_exact_mut(of_y);
    for x in x.chunks_exact(of_x) {
        let Some(y) = pixels.next() else { return };
        for (&x, y) in x.iter().zip(y.get_mut(first..).unwrap_or_default()) {
            *y = Y::nearest(affine(x.into()));
        }
    }
}

/// `y = (sum of each 2×2 square · factor + bias) >> shift`.
#[derive(Debug)]
pub struct Downsample<'a> {
    /// Input.
    pub x: Values<'a>,
    /// Channels.
    pub channels: usize,
    /// Columns of the output.
    pub width: usize,
    /// Factor of the sum of four.
    pub factor: i32,
    /// Added to the product.
    pub bias: i64,
    /// Places to shift by.
    pub shift: u32,
    /// Output.
    pub y: ValuesMut<'a>,
}

impl<'a> Downsample<'a> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        let Self { x, channels, width, factor, bias, shift, y } = self;
        // Parts of rows.
        let row = (channels * width).max(1);
        let part = (y.len() / row).div_ceil(cpu.threads()) * row;
        let parts = y.chunks(part.max(1)).enumerate().map(|(index, y)| {
            let x = x.slice(4 * index * part..4 * (index * part + y.len()));
            Downsample { x, channels, width, factor, bias, shift, y }
        });
        cpu.run_integers(vectors, parts, &mut []);
    }

    /// For processors with nothing but general registers.
    fn words(mut self) {
        let (channels, wide) = (self.channels, 2 * self.width * self.channels);
        let width = self.width.max(1);
        for pixel in 0..self.y.len() / channels.max(1) {
            let corner = pixel / width * 2 * wide + pixel % width * 2 * channels;
            for channel in 0..channels {
                let at = |offset: usize| self.x.get(corner + channel + offset);
                let sum = at(0) + at(channels) + at(wide) + at(wide + channels);
                let sum = i64::from(sum) * i64::from(self.factor) + self.bias;
                self.y.set(pixel * channels + channel, shifted(sum, self.shift));
            }
        }
    }
}

/// Each pixel becomes a 2×2 square.
#[derive(Debug)]
pub struct Upsample<'a> {
    /// Input.
    pub x: Values<'a>,
    /// Channels.
    pub channels: usize,
    /// Columns of the input.
    pub width: usize,
    /// Output.
    pub y: ValuesMut<'a>,
}

impl Upsample<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        // A copy, which memory alone limits.
        _ = cpu;
        match (self.x, self.y) {
            (Values::Narrow(x), ValuesMut::Narrow(y)) => double(x, y, self.channels, self.width),
            (Values::Wide(x), ValuesMut::Wide(y)) => double(x, y, self.channels, self.width),
            // The check wants one width.
            _ => {}
        }
    }
}

/// Each pixel of so many channels becomes a square.
fn double<T: Copy>(x: &[T], y: &mut [T], channels: usize, width: usize) {
    let (row, channels) = ((channels * width).max(1), channels.max(1));
    let mut rows = y.chunks_exact_mut((4 * row).max(1));
    for x in x.chunks_exact(row) {
        let two_rows = rows.next().and_then(|y| y.split_at_mut_checked(2 * row));
        let Some((above, below)) = two_rows else { return };
        let mut pixels = above.chunks_exact_mut((2 * channels).max(1));
        for x in x.chunks_exact(channels) {
            let two = pixels.next().and_then(|y| y.split_at_mut_checked(channels));
            let Some((left, right)) = two else { return };
            copy(x, left);
            copy(x, right);
        }
        copy(above, below);
    }
}

impl IntegerKernel for Silu<'_> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        let Some(table) = self.table.first_chunk() else { return };
        let (table, places) = (s.table(table), silu_shift(&self.y));
        let affine = Affine::load(s, &[[self.factor.into(), self.bias]; LANES]);
        let len = self.y.len();
        for index in (0..len).step_by(2 * LANES) {
            // The second vector may be empty.
            let next = len.min(index + LANES);
            let widths = [LANES.min(len - index), LANES.min(len - next)];
            let first = affine.of(s, load(s, self.x, &self.y, index, widths[0]));
            let second = affine.of(s, load(s, self.x, &self.y, next, widths[1]));
            let [first, second] = s.interpolate(&table, [first, second]);
            self.y.store(s, s.round(first, places), index, widths[0]);
            self.y.store(s, s.round(second, places), next, widths[1]);
        }
    }
}

impl IntegerKernel for Add<'_> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        let (factors, bias) = ([s.splat(self.factors[0]), s.splat(self.factors[1])], s.splat_long(self.bias));
        let period = self.b.len().max(1);
        for row in (0..self.y.len()).step_by(period) {
            for first in (0..period).step_by(LANES) {
                let (index, width) = (row + first, LANES.min(period - first));
                let a = load(s, self.a, &self.y, index, width);
                let b = s.mul_long(self.b.load(s, first, width), factors[1]);
                let sum = s.add_long(s.add_long(bias, b), s.mul_long(a, factors[0]));
                self.y.store(s, s.narrow(sum, self.shift), index, width);
            }
        }
    }
}

impl IntegerKernel for Step<'_> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        let (factor, half) = (s.splat(self.factor), s.splat_long(1 << (self.shift - 1)));
        // Further steps leave the range as well.
        let (least, most) = (s.splat(-(1 << 17)), s.splat(1 << 17));
        for index in (0..self.x.len()).step_by(LANES) {
            let width = LANES.min(self.x.len() - index);
            let u = s.mul_long(self.u.load(s, index, width), factor);
            let step = s.min(s.max(s.narrow(s.add_long(u, half), self.shift), least), most);
            let x = self.x.values().load(s, index, width);
            self.x.store(s, s.add(x, step), index, width);
        }
    }
}

impl IntegerKernel for Concat<'_> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        let pixels = self.pixels.max(1);
        let channels = self.y.len() / pixels;
        let mut start = 0;
        for ((x, factor), bias) in [self.a, self.b].into_iter().zip(self.factors).zip(self.biases) {
            let of_x = x.len() / pixels;
            // Half a unit is added, and the scale stays: then nothing changes.
            let same = i64::from(factor) == 1 << self.shift && bias == 1 << (self.shift - 1);
            match (x, &mut self.y) {
                (Values::Narrow(x), ValuesMut::Narrow(y)) if same => {
                    for (x, y) in x.chunks_exact(of_x.max(1)).zip(y.chunks_exact_mut(channels.max(1))) {
                        y[start..start + of_x].copy_from_slice(x);
                    }
                }
                (x, y) => {
                    let (factor, bias) = (s.splat(factor), s.splat_long(bias));
                    for pixel in 0..pixels {
                        for channel in (0..of_x).step_by(LANES) {
                            let width = LANES.min(of_x - channel);
                            let q = x.load(s, pixel * of_x + channel, width);
                            let sum = s.add_long(bias, s.mul_long(q, factor));
                            y.store(s, s.narrow(sum, self.shift), pixel * channels + start + channel, width);
                        }
                    }
                }
            }
            start += of_x;
        }
    }
}

impl IntegerKernel for Start<'_> {
    #[inline(always)]
    fn run<S: Lanes>(self, _: S, _: &mut [u8]) {
        self.blocks::<BLOCKS>();
    }
}

impl IntegerKernel for Downsample<'_> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        let (channels, wide) = (self.channels, 2 * self.width * self.channels);
        let (factor, bias) = (s.splat(self.factor), s.splat_long(self.bias));
        for pixel in 0..self.y.len() / channels.max(1) {
            let corner = pixel / self.width * 2 * wide + pixel % self.width * 2 * channels;
            for channel in (0..channels).step_by(LANES) {
                let width = LANES.min(channels - channel);
                let mut square = s.splat(0);
                for offset in [0, channels, wide, wide + channels] {
                    square = s.add(square, self.x.load(s, corner + channel + offset, width));
                }
                let sum = s.add_long(bias, s.mul_long(square, factor));
                self.y.store(s, s.narrow(sum, self.shift), pixel * channels + channel, width);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::int8::tests::{narrow, same, wide, wide_ends};
    use std::vec;
    use traflow_graph::noise::Noise;

    #[test]
    fn silu_is_straight_between_the_ends_of_its_pieces() {
        // The table of y = p / 2 in an output of 16 bits, and of its upper 8 bits in one of 8.
        let mut table = [0; TABLE];
        (0..=256).for_each(|i| table[i] = (128 * i).min(32767) as i16);
        let x = wide(0, 1000);
        let mut y = vec![0i16; 1000];
        let bias = 32768 << AFFINE_BITS;
        let y_wide = ValuesMut::Wide(&mut y);
        Silu { x: Some(Values::Wide(&x)), factor: 1 << AFFINE_BITS, bias, table: &table, y: y_wide }
            .run(&Cpu::new(Isa::SCALAR));
        for (x, y) in x.iter().zip(&y).filter(|(x, _)| **x < 32767 - 256) {
            assert_eq!(i32::from(*y), (i32::from(*x) + 32768 + 1) >> 1);
        }
        // In place, and beyond both ends.
        let mut y = [-128i8, 0, 127];
        let factor = 1 << 30;
        Silu { x: None, factor, bias: 0, table: &[64 * 128; TABLE], y: ValuesMut::Narrow(&mut y) }
            .run(&Cpu::new(Isa::SCALAR));
        assert_eq!(y, [64; 3]);
    }

    #[test]
    fn a_start_is_the_noise_of_the_seed() {
        for isa in Isa::all() {
            let mut x = [0; 45];
            Start { noise: &Mix::of(9), pixels: 15, x: &mut x }.run(&Cpu::new(isa));
            for index in 0..45 {
                let exact = f64::from(Noise::new(9).at(index as u64)) / 512.0;
                let found = f64::from(x[index % 15 * 3 + index / 15]);
                assert!((found - exact).abs() <= 0.5, "{isa}: {index} is {found}, not {exact}");
            }
        }
    }

    #[test]
    fn sums_and_concatenations_rescale_each_input() {
        let (a, b) = (narrow(0, 6), wide(1, 6));
        let (factors, shift) = ([3 << 20, -5 << 10], 22);
        let sum = |a: i8, b: i16| {
            let exact = f64::from(a) * 0.75 - f64::from(b) * 5.0 / 4096.0 + 2.0;
            (exact + 0.5).floor().clamp(-128.0, 127.0) as i8
        };
        let bias = (2 << shift) + (1 << (shift - 1));
        let mut y = [0i8; 6];
        let (a_values, y_values) = (Some(Values::Narrow(&a)), ValuesMut::Narrow(&mut y));
        Add { a: a_values, b: Values::Wide(&b), factors, bias, shift, y: y_values }
            .run(&Cpu::new(Isa::SCALAR));
        assert!(a.iter().zip(&b).zip(y).all(|((&a, &b), y)| sum(a, b) == y));
        // A vector of two channels, in place.
        y.copy_from_slice(&a);
        let y_values = ValuesMut::Narrow(&mut y);
        Add { a: None, b: Values::Wide(&b[..2]), factors, bias, shift, y: y_values }
            .run(&Cpu::new(Isa::SCALAR));
        assert!((0..6).all(|i| y[i] == sum(a[i], b[i % 2])));

        let mut y = [0i16; 12];
        let (a, b) = (Values::Narrow(&a), Values::Wide(&b));
        let concat = Concat {
            a,
            b,
            pixels: 3,
            factors: [2 << shift, 1 << shift],
            biases: [0, 7 << shift],
            shift,
            y: ValuesMut::Wide(&mut y),
        };
        concat.run(&Cpu::new(Isa::SCALAR));
        for pixel in 0..3 {
            for channel in 0..2 {
                let i = 2 * pixel + channel;
                assert_eq!(i32::from(y[4 * pixel + channel]), 2 * a.get(i));
                assert_eq!(i32::from(y[4 * pixel + 2 + channel]), (b.get(i) + 7).min(i16::MAX.into()));
            }
        }
    }

    #[test]
    fn resampling_takes_squares() {
        // Two channels, two rows and four columns.
        let x: vec::Vec<i8> = (0..16).collect();
        let mut y = [0i8; 4];
        let (x, bias) = (Values::Narrow(&x), 1 << 9);
        let y_values = ValuesMut::Narrow(&mut y);
        Downsample { x, channels: 2, width: 2, factor: 1 << 8, bias, shift: 10, y: y_values }
            .run(&Cpu::new(Isa::SCALAR));
        assert_eq!(y, [5, 6, 9, 10]);
        let mut y = [0i8; 8];
        Upsample { x: Values::Narrow(&[1, 2]), channels: 2, width: 1, y: ValuesMut::Narrow(&mut y) }
            .run(&Cpu::new(Isa::SCALAR));
        assert_eq!(y, [1, 2, 1, 2, 1, 2, 1, 2]);
        let mut y = [0i8; 16];
        let x = Values::Narrow(&[1, 2, 3, 4]);
        Upsample { x, channels: 1, width: 2, y: ValuesMut::Narrow(&mut y) }.run(&Cpu::new(Isa::SCALAR));
        assert_eq!(y, [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
    }

    #[test]
    fn every_processor_gives_the_same() {
        let mut table = [0; TABLE];
        (0..=256).for_each(|i| table[i] = (127 * i as i32 - 16000) as i16);
        for (channels, width, height) in [(1, 2, 2), (3, 4, 2), (16, 6, 4), (37, 4, 6), (64, 8, 8)] {
            let len = channels * width * height;
            let what = &std::format!("{channels}×{width}×{height}");
            for (a, b) in [(wide(0, len), wide(1, len)), (wide_ends(2, len), wide_ends(3, len))] {
                let narrow: vec::Vec<i8> = a.iter().map(|&a| (a >> 8) as i8).collect();
                for x in [None, Some(Values::Narrow(&narrow)), Some(Values::Wide(&a))] {
                    for (factor, bias) in [(5 << 16, 1 << 31), (1 << 30, -(1 << 60)), (-(1 << 30), 1 << 60)] {
                        same(&a, what, |y, cpu| Silu { x, factor, bias, table: &table, y }.run(cpu));
                    }
                    for b in [Values::Wide(&b), Values::Wide(&b[..channels]), Values::Narrow(&narrow)] {
                        for (factors, bias, shift) in
                            [([3 << 20, -5 << 10], 99, 22), ([1 << 14; 2], 1 << 29, 1)]
                        {
                            same(&a, what, |y, cpu| Add { a: x, b, factors, bias, shift, y }.run(cpu));
                        }
                    }
                    let Some(x) = x else { continue };
                    for (factor, shift) in [(-(1 << 29), 20), (1 << 16, 1), (77, 9)] {
                        same(&b, what, |y, cpu| Step { u: x, factor, shift, x: y }.run(cpu));
                    }
                    let pixels = width * height;
                    for b in [Values::Wide(&b), Values::Narrow(&narrow[..pixels])] {
                        let begin = vec![0; x.len() + b.len()];
                        for factors in [[1 << 20, 3 << 18], [1 << 22; 2]] {
                            same(&begin, what, |y, cpu| {
                                let biases = [1 << 21, 5 << 30];
                                Concat { a: x, b, pixels, factors, biases, shift: 22, y }.run(cpu);
                            });
                        }
                    }
                    same(&vec![0; len / 4], what, |y, cpu| {
                        let width = width / 2;
                        Downsample { x, channels, width, factor: 3 << 20, bias: -77, shift: 23, y }.run(cpu);
                    });
                }
            }
        }
    }
}
