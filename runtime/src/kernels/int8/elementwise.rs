use traflow_graph::quant::AFFINE_BITS;

use super::{Values, ValuesMut};
use crate::cpu::Cpu;
use crate::simd::IntegerKernel;

/// SiLU of a number in units of 2⁻¹⁶ that the table's first entry is at 0 of, as 256 straight pieces. `shift` is 15
/// where the output has 8 bits, and 8 where it has 16.
#[inline]
pub(super) fn silu(table: &[i16], sum: i64, shift: u32) -> i64 {
    let p = (sum >> AFFINE_BITS).clamp(0, 0xffff) as usize;
    let (piece, part) = (p >> 8, (p & 0xff) as i64);
    let sum = i64::from(table[piece]) * (256 - part) + i64::from(table[piece + 1]) * part;
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

impl Silu<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Silu<'_> {
    fn words(mut self, _: &mut [u8]) {
        let shift = silu_shift(&self.y);
        let affine = |q| i64::from(q) * i64::from(self.factor) + self.bias;
        self.y.map(self.x, |_, q| silu(self.table, affine(q), shift));
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

impl Add<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Add<'_> {
    fn words(mut self, _: &mut [u8]) {
        let [a_factor, b_factor] = self.factors.map(i64::from);
        // A vector is repeated for every pixel.
        let period = self.b.len().max(1);
        self.y.map(self.a, |index, a| {
            let b = i64::from(self.b.get(index % period));
            (i64::from(a) * a_factor + b * b_factor + self.bias) >> self.shift
        });
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

impl Concat<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Concat<'_> {
    fn words(mut self, _: &mut [u8]) {
        let pixels = self.pixels.max(1);
        let channels = self.y.len() / pixels;
        let mut first = 0;
        for ((x, factor), bias) in [self.a, self.b].into_iter().zip(self.factors).zip(self.biases) {
            let of_x = x.len() / pixels;
            for pixel in 0..pixels {
                for channel in 0..of_x {
                    let q = i64::from(x.get(pixel * of_x + channel));
                    let sum = q * i64::from(factor) + bias;
                    self.y.set(pixel * channels + first + channel, sum >> self.shift);
                }
            }
            first += of_x;
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

impl Downsample<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Downsample<'_> {
    fn words(mut self, _: &mut [u8]) {
        let (channels, wide) = (self.channels, 2 * self.width * self.channels);
        for pixel in 0..self.y.len() / channels.max(1) {
            let corner = pixel / self.width * 2 * wide + pixel % self.width * 2 * channels;
            for channel in 0..channels {
                let at = |offset: usize| self.x.get(corner + channel + offset);
                let sum = at(0) + at(channels) + at(wide) + at(wide + channels);
                let sum = i64::from(sum) * i64::from(self.factor) + self.bias;
                self.y.set(pixel * channels + channel, sum >> self.shift);
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
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Upsample<'_> {
    fn words(mut self, _: &mut [u8]) {
        let (channels, wide) = (self.channels, 2 * self.width);
        for pixel in 0..self.y.len() / channels.max(1) {
            let from = pixel / wide / 2 * self.width + pixel % wide / 2;
            for channel in 0..channels {
                self.y.set(pixel * channels + channel, self.x.get(from * channels + channel).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::int8::tests::{narrow, wide};
    use std::vec;
    use traflow_graph::quant::TABLE;

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
}
