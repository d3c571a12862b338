use core::ops::Range;

use traflow_graph::quant::{AFFINE_BITS, FACTOR, QUAD, TABLE, Wide, long};

use super::elementwise::{silu, silu_shift};
use super::{Number, Values, ValuesMut, copy, load, reciprocal, scale, shifted};
use crate::cpu::Cpu;
use crate::simd::dot::{Channel, Dot};
use crate::simd::{Device, IntegerKernel, LANES, Lanes};

/// Normalises each group of channels, scales and shifts each channel, and applies SiLU where there is a table.
#[derive(Debug)]
pub struct GroupNorm<'a> {
    /// Input; `None` where y holds it.
    pub x: Option<Values<'a>>,
    /// Fraction bits of the gains.
    pub gain_shift: u32,
    /// Of each group, added to N² times its variance.
    pub epsilon: &'a [Wide],
    /// Of each channel.
    pub gain: &'a [i32],
    /// Of each channel.
    pub bias: &'a [Wide],
    /// SiLU, or empty.
    pub table: &'a [i16],
    /// Memory for a factor and a bias of each channel.
    pub scratch: &'a mut [[i64; 2]],
    /// Output.
    pub y: ValuesMut<'a>,
}

/// Number of elements of a group, their sum and the sum of their squares.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: u64,
    sum: i64,
    squares: u64,
}

impl Sums {
    fn add(&mut self, q: i32) {
        self.count += 1;
        self.sum += i64::from(q);
        self.squares += u64::from((q * q) as u32);
    }

    /// The sums of a group.
    fn of<X: Number>(x: &[X], first: usize, of_group: usize, channels: usize) -> Self {
        let mut sums = Self::default();
        for pixel in x.chunks_exact(channels.max(1)) {
            for &q in pixel.get(first..first + of_group).unwrap_or_default() {
                sums.add(q.into());
            }
        }
        sums
    }

    /// The sums of a group of whole quads.
    fn of_quads(x: &[i8], first: usize, of_group: usize, channels: usize) -> Self {
        /// Elements whose squares are surely summed in 31 bits.
        const BLOCK: usize = 1 << 16;
        let mut sums = Self::default();
        for block in x.chunks((channels * BLOCK / QUAD).max(1)) {
            for channel in (first..first + of_group).step_by(QUAD) {
                let [sum, squares] = Device.moments(block.get(channel..).unwrap_or_default(), channels);
                sums.count += (block.len() / channels * QUAD) as u64;
                sums.sum += i64::from(sum);
                sums.squares += u64::from(squares as u32);
            }
        }
        sums
    }

    /// What normalises the group.
    fn normal(&self, epsilon: i64) -> Normal {
        // N² times the variance; both products are below 2⁶².
        let spread = self.count * self.squares - self.sum.unsigned_abs().pow(2);
        let spread = spread + epsilon as u64;
        // 1 / √spread = reciprocal · 2^(even / 2 - 62), the reciprocal in [2³⁰, 2³¹].
        let even = spread.leading_zeros() & !1;
        let reciprocal = reciprocal(root(spread << even));
        // N times that in 31 bits, and times the gain.
        let product = self.count * reciprocal;
        let excess = 33u32.saturating_sub(product.leading_zeros());
        let product = scale(product as i64, excess.into());
        let exponent = i64::from(excess) + i64::from(even / 2) - 62 + i64::from(AFFINE_BITS);
        Normal { product, exponent, mean: self.mean() }
    }

    /// The mean with 16 fraction bits, rounded to the nearest: divisions of 32 bits, which small processors have. The sum
    /// is of up to 2²⁴ elements of 8 bits, or 2¹⁶ of 16.
    fn mean(&self) -> i64 {
        let (sum, count) = (self.sum as i32, (self.count as i32).max(1));
        let whole = sum.div_euclid(count);
        let (mut rest, count) = (sum.rem_euclid(count) as u32, count as u32);
        let mut fraction = 0;
        for _ in 0..2 {
            // The rest is below 2²⁴.
            fraction = (fraction << 8) | ((rest << 8) / count);
            rest = (rest << 8) % count;
        }
        (i64::from(whole) << 16) + i64::from(fraction + u32::from(2 * rest >= count))
    }
}

/// The root of a number of at least 2⁶², rounded down: that of its upper half, and one step of Zimmermann's "Karatsuba
/// Square Root", for which divisions of 32 bits are enough.
fn root(number: u64) -> u32 {
    let high = (number >> 32) as u32;
    let root = high.isqrt().max(1);
    // At most twice the root, which is at least 2¹⁵.
    let rest = high - root * root;
    let next = rest << 15 | (number >> 17) as u32 & 0x7fff;
    let digit = next / root;
    let low = u64::from(next % root) << 17 | number & 0x1_ffff;
    let square = u64::from(digit) * u64::from(digit);
    // The digit may be 2¹⁶.
    let sum = (u64::from(root) << 16) + u64::from(digit);
    if low < square { (sum - 1) as u32 } else { sum as u32 }
}

/// A group's mean with 16 fraction bits, and the reciprocal of its deviation, `product · 2^exponent`, so that a factor has
/// as many.
#[derive(Clone, Copy, Debug)]
struct Normal {
    product: i64,
    exponent: i64,
    mean: i64,
}

impl Normal {
    /// Factor and bias of a channel of the group: `(q · factor + bias) >> 16` is the channel's output.
    fn affine(&self, gain: i32, gain_shift: u32, bias: i64) -> [i64; 2] {
        let factor = scale(self.product * i64::from(gain), i64::from(gain_shift) - self.exponent);
        let factor = factor.clamp(-FACTOR, FACTOR);
        let product = factor * self.mean;
        [factor, (bias - ((product >> 16) + (product >> 15 & 1))).clamp(-BIAS, BIAS)]
    }
}

/// A larger bias of a channel gives the same results as this one: an end of the range, whatever the input. Smaller ones
/// give sums that fit 32 bits when they have been shifted.
pub(super) const BIAS: i64 = (1 << 45) + (1 << 32);

/// What gives ⌊(q · factor + bias) / 2¹⁶⌋ of 16 bits' q with numbers of 32 bits alone, a factor and a bias to each lane: a
/// factor of at most 2³⁰ is `upper · 2¹⁶ + lower`, both of 16 bits, and so is a bias.
#[derive(Clone, Copy)]
pub(super) struct Affine<V> {
    upper: V,
    lower: V,
    upper_bias: V,
    lower_bias: V,
}

impl<V: Copy> Affine<V> {
    /// Of factors, and of biases up to [`BIAS`]; the lanes after them give zeros.
    #[inline(always)]
    pub(super) fn load<S: Lanes<V = V>>(s: S, affine: &[[i64; 2]]) -> Self {
        let (mut factors, mut biases) = ([[0; LANES]; 2], [[0; LANES]; 2]);
        for (lane, &[factor, bias]) in affine.iter().enumerate().take(LANES) {
            let lower = factor as i16;
            // Pairs of which the second is zero.
            factors[0][lane] = i32::from(((factor - i64::from(lower)) >> 16) as u16);
            factors[1][lane] = i32::from(lower as u16);
            biases[0][lane] = (bias >> 16) as i32;
            biases[1][lane] = (bias & 0xffff) as i32;
        }
        Self {
            upper: s.load(&factors[0]),
            lower: s.load(&factors[1]),
            upper_bias: s.load(&biases[0]),
            lower_bias: s.load(&biases[1]),
        }
    }

    /// The numbers.
    #[inline(always)]
    pub(super) fn of<S: Lanes<V = V>>(&self, s: S, q: V) -> V {
        let lower = s.floor(s.dot_pairs(self.lower_bias, q, self.lower), AFFINE_BITS);
        s.add(s.dot_pairs(self.upper_bias, q, self.upper), lower)
    }
}

impl GroupNorm<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Some(vectors) = cpu.isa().vectors() else { return self.words() };
        let Self { x, gain_shift, epsilon, gain, bias, table, scratch, y } = self;
        let channels = gain.len().max(1);
        let of_group = (channels / epsilon.len().max(1)).max(1);
        let pixels = y.len() / channels;

        // Parts of whole lines of memory.
        let part = channels.div_ceil(cpu.threads()).next_multiple_of(64);
        let input = x.unwrap_or(y.values());
        let parts = scratch[..channels].chunks_mut(part).enumerate();
        let parts = parts.map(|(index, sums)| Moments { x: input, channels, first: index * part, sums });
        cpu.run_integers(vectors, parts, &mut []);

        for (group, affine) in scratch.chunks_exact_mut(of_group).take(epsilon.len()).enumerate() {
            let add = |total: i64, number: &i64| total + number;
            let sums = Sums {
                count: (of_group * pixels) as u64,
                sum: affine.iter().map(|[sum, _]| sum).fold(0, add),
                squares: affine.iter().map(|[_, squares]| squares).fold(0, add) as u64,
            };
            let normal = sums.normal(long(epsilon[group]));
            for (affine, channel) in affine.iter_mut().zip(group * of_group..) {
                *affine = normal.affine(gain[channel], gain_shift, long(bias[channel]));
            }
        }

        let part = pixels.div_ceil(cpu.threads()).next_multiple_of(2) * channels;
        let (affine, table) = (&scratch[..channels], table.first_chunk());
        let parts = y.chunks(part).enumerate().map(|(index, y)| {
            let x = x.map(|x| x.slice(index * part..index * part + y.len()));
            Normalise { x, affine, table, y }
        });
        cpu.run_integers(vectors, parts, &mut []);
    }

    /// The definition.
    pub fn reference(mut self) {
        let channels = self.gain.len();
        let (of_group, pixels) = (channels / self.epsilon.len(), self.y.len() / channels);
        let shift = silu_shift(&self.y);
        for (group, &epsilon) in self.epsilon.iter().enumerate() {
            let indices = |channel: usize| (0..pixels).map(move |pixel| pixel * channels + channel);
            let of_group = group * of_group..(group + 1) * of_group;
            let mut sums = Sums::default();
            for index in of_group.clone().flat_map(indices) {
                sums.add(self.x.map_or_else(|| self.y.get(index), |x| x.get(index)));
            }
            let normal = sums.normal(long(epsilon));
            for channel in of_group {
                let [factor, bias] =
                    normal.affine(self.gain[channel], self.gain_shift, long(self.bias[channel]));
                for index in indices(channel) {
                    let sum =
                        i64::from(self.x.map_or_else(|| self.y.get(index), |x| x.get(index))) * factor + bias;
                    let ends = [i32::MIN, i32::MAX].map(i64::from);
                    let number = (sum >> AFFINE_BITS).clamp(ends[0], ends[1]) as i32;
                    let y = self.table.first_chunk().map_or(number, |table| silu(table, number, shift));
                    self.y.set(index, y);
                }
            }
        }
    }

    /// For processors with nothing but general registers.
    fn words(mut self) {
        let channels = self.gain.len().max(1);
        let of_group = (channels / self.epsilon.len().max(1)).max(1);
        let pixels = self.y.len() / channels;
        let table: Option<&[i16; TABLE]> = self.table.first_chunk();
        for (group, &epsilon) in self.epsilon.iter().enumerate() {
            let first = group * of_group;
            let sums = match self.x.unwrap_or_else(|| self.y.values()) {
                Values::Narrow(x) if of_group.is_multiple_of(QUAD) => {
                    Sums::of_quads(x, first, of_group, channels)
                }
                Values::Narrow(x) => Sums::of(x, first, of_group, channels),
                Values::Wide(x) => Sums::of(x, first, of_group, channels),
            };
            let normal = sums.normal(long(epsilon));
            let of_channels = self.scratch.iter_mut().zip(self.gain.iter().zip(self.bias));
            for (affine, (&gain, &bias)) in of_channels.skip(first).take(of_group) {
                *affine = normal.affine(gain, self.gain_shift, long(bias));
            }
        }
        #[cfg(mve)]
        if let (ValuesMut::Narrow(y), Some(table), Some(affine)) =
            (&mut self.y, table, self.scratch.get(..channels))
            && crate::simd::mve::silu(self.x, affine, table, y)
        {
            return;
        }
        let shift = silu_shift(&self.y);
        if let (Some(Values::Narrow(x)), ValuesMut::Narrow(y)) = (self.x, &mut self.y) {
            copy(x, y);
            self.x = None;
        }
        if let (Some(Values::Wide(x)), ValuesMut::Narrow(y), Some(table)) = (self.x, &mut self.y, table) {
            let mut pixels = y.chunks_exact_mut(channels);
            for x in x.chunks_exact(channels) {
                let Some(y) = pixels.next() else { return };
                for ((&q, y), &[factor, bias]) in x.iter().zip(y).zip(self.scratch.iter()) {
                    let sum = i64::from(q) * i64::from(factor as i32) + bias;
                    *y = i8::nearest(silu(table, shifted(sum, AFFINE_BITS), shift));
                }
            }
            return;
        }
        for (channel, &[factor, bias]) in self.scratch.iter().enumerate().take(channels) {
            if let (None, ValuesMut::Narrow(y), Some(table)) = (self.x, &mut self.y, table) {
                let of_channel = Channel { factor, bias, table, stride: channels };
                if Device.silu(of_channel, y.get_mut(channel..).unwrap_or_default()) {
                    continue;
                }
            }
            let factor = factor as i32;
            self.y.map(self.x, [channel, channels, pixels], &|_, numbers| {
                for number in numbers {
                    *number = shifted(i64::from(*number) * i64::from(factor) + bias, AFFINE_BITS);
                    *number = table.map_or(*number, |table| silu(table, *number, shift));
                }
            });
        }
    }
}

/// Sums of channels and of their squares, from a channel on.
struct Moments<'a> {
    x: Values<'a>,
    channels: usize,
    first: usize,
    sums: &'a mut [[i64; 2]],
}

impl IntegerKernel for Moments<'_> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        let mut channel = 0;
        while channel < self.sums.len() {
            let left = self.sums.len() - channel;
            channel += match self.x {
                Values::Narrow(_) if left >= 4 * LANES => self.narrow::<S, 4>(s, channel, LANES),
                Values::Narrow(_) => self.narrow::<S, 1>(s, channel, LANES.min(left)),
                Values::Wide(_) => self.wide(s, channel, LANES.min(left)),
            };
        }
    }
}

impl Moments<'_> {
    /// N vectors of channels with 8 bits.
    #[inline(always)]
    fn narrow<S: Lanes, const N: usize>(&mut self, s: S, channel: usize, width: usize) -> usize {
        /// Pixels whose squares fit 32 bits.
        const PIXELS: usize = 1 << 16;
        let Values::Narrow(x) = self.x else { return width };
        let of_part = &mut self.sums[channel..channel + N * width];
        of_part.fill([0; 2]);
        let ones = s.splat(0x0001_0001);
        for x in x.chunks(PIXELS * self.channels) {
            let mut sums = [[s.splat(0); 2]; N];
            // Two pixels at once.
            for x in x.chunks(2 * self.channels) {
                for (n, [sum, squares]) in sums.iter_mut().enumerate() {
                    let first = self.first + channel + n * LANES;
                    let x0 = Values::Narrow(x).load(s, first, width);
                    let x1 = match x.len() > self.channels {
                        true => Values::Narrow(x).load(s, first + self.channels, width),
                        false => s.splat(0),
                    };
                    let q = s.pair(x0, x1);
                    *sum = s.dot_pairs(*sum, q, ones);
                    *squares = s.dot_pairs(*squares, q, q);
                }
            }
            for (of_part, sums) in of_part.chunks_mut(LANES).zip(sums) {
                for (place, sum) in sums.into_iter().enumerate() {
                    let mut lanes = [0; LANES];
                    s.store(sum, &mut lanes);
                    of_part.iter_mut().zip(lanes).for_each(|(total, lane)| total[place] += i64::from(lane));
                }
            }
        }
        N * width
    }

    /// A vector of channels with 16 bits, of which there are at most 2¹⁶ pixels.
    #[inline(always)]
    fn wide<S: Lanes>(&mut self, s: S, channel: usize, width: usize) -> usize {
        let pixels = self.x.len() / self.channels;
        let (mut sum, mut squares) = (s.splat(0), s.splat_long(0));
        for pixel in 0..pixels {
            let q = self.x.load(s, pixel * self.channels + self.first + channel, width);
            sum = s.add(sum, q);
            squares = s.add_long(squares, s.mul_long(q, q));
        }
        let (mut lanes, mut longs) = ([0; LANES], [0; LANES]);
        s.store(sum, &mut lanes);
        s.store_long(squares, &mut longs);
        for (i, total) in self.sums[channel..channel + width].iter_mut().enumerate() {
            *total = [lanes[i].into(), longs[i]];
        }
        width
    }
}

/// Some pixels of the output.
struct Normalise<'a> {
    x: Option<Values<'a>>,
    /// Factor and bias of each channel.
    affine: &'a [[i64; 2]],
    table: Option<&'a [i16; TABLE]>,
    y: ValuesMut<'a>,
}

impl IntegerKernel for Normalise<'_> {
    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, _: &mut [u8]) {
        /// Elements that stay in the nearest cache while their channels are visited in turn.
        const NEAR: usize = 1 << 14;
        let channels = self.affine.len().max(1);
        let pixels = self.y.len() / channels;
        let table = self.table.map(|table| s.table(table));
        let near = (NEAR / channels).next_multiple_of(2);
        for start in (0..pixels).step_by(near) {
            let pixels = start..pixels.min(start + near);
            for channel in (0..channels).step_by(LANES) {
                let width = LANES.min(channels - channel);
                self.channels(s, table.as_ref(), pixels.clone(), channel, width);
            }
        }
    }
}

impl Normalise<'_> {
    #[inline(always)]
    fn channels<S: Lanes>(
        &mut self,
        s: S,
        table: Option<&S::Table>,
        pixels: Range<usize>,
        channel: usize,
        width: usize,
    ) {
        let channels = self.affine.len();
        let affine = Affine::load(s, &self.affine[channel..channel + width]);
        let Some(table) = table else {
            for pixel in pixels {
                let index = pixel * channels + channel;
                let q = load(s, self.x, &self.y, index, width);
                self.y.store(s, affine.of(s, q), index, width);
            }
            return;
        };
        let places = silu_shift(&self.y);
        for pixel in pixels.clone().step_by(2) {
            // The second of two may be the first once more.
            let both = [pixel * channels + channel, (pixel + 1).min(pixels.end - 1) * channels + channel];
            let first = affine.of(s, load(s, self.x, &self.y, both[0], width));
            let second = affine.of(s, load(s, self.x, &self.y, both[1], width));
            let [first, second] = s.interpolate(table, [first, second]);
            self.y.store(s, s.round(first, places), both[0], width);
            self.y.store(s, s.round(second, places), both[1], width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::int8::tests::{narrow, same, wide as random_wide, wide_ends};
    use std::vec;
    use std::vec::Vec;
    use traflow_graph::noise::Noise;
    use traflow_graph::quant::wide;

    #[test]
    fn divisions_of_32_bits_are_exact() {
        let numbers = (0..100_000).map(|i| Noise::stream(3, 0).word(2 * i));
        let numbers: Vec<u32> = numbers.chain([0, 1, 0xffff, 0x1_0000, 0x7fff_ffff, u32::MAX]).collect();
        for (&high, &low) in numbers.iter().zip(numbers.iter().rev()) {
            for number in [u64::from(high) << 32 | u64::from(low), u64::from(high) * u64::from(high)] {
                let number = number | 1 << 62;
                assert_eq!(u64::from(root(number)), number.isqrt(), "{number}");
            }
            let (divisor, root_of) = (high | 1 << 31, u64::from(low | 1 << 31));
            assert_eq!(reciprocal(divisor), (1 << 62) / u64::from(divisor), "{divisor}");
            for square in [root_of.pow(2), root_of.pow(2) - 1, root_of * (root_of + 2)] {
                if square >= 1 << 62 {
                    assert_eq!(u64::from(root(square)), square.isqrt(), "{square}");
                }
            }
            for count in [1, 3, 48, 784, 1 << 16, (1 << 24) - 1, 1 << 24] {
                let sum = i64::from(low as i32) * 127 / 128;
                let exact = (2 * (sum << 16) + count as i64).div_euclid(2 * count as i64);
                assert_eq!(Sums { count, sum, squares: 0 }.mean(), exact, "{sum} / {count}");
            }
        }
    }

    /// The formula in f64 is met within the rounding of the output and of the factor, for 16-bit numbers whose spread is
    /// large or small.
    #[test]
    fn groups_are_normalised() {
        let (channels, groups, pixels) = (6, 3, 35);
        for spread in [1, 40, 3000] {
            let x: Vec<i16> = random_wide(1, channels * pixels).iter().map(|x| x / spread).collect();
            let (epsilon, gain_shift, unit) = (1000i64, 18, 4000.0);
            let gains: Vec<f64> = (0..channels).map(|c| (c as f64 - 2.3) * unit).collect();
            let gain: Vec<i32> =
                gains.iter().map(|g| (g * f64::from(1 << gain_shift) / 64.0) as i32).collect();
            let bias: Vec<_> = (0..channels as i64).map(|c| wide(((c * 100) << 16) + (1 << 15))).collect();
            let mut y = vec![0i16; x.len()];
            let norm = GroupNorm {
                x: Some(Values::Wide(&x)),
                gain_shift: gain_shift - 6,
                epsilon: &[wide(epsilon); 3],
                gain: &gain,
                bias: &bias,
                table: &[],
                scratch: &mut vec![[0; 2]; channels],
                y: ValuesMut::Wide(&mut y),
            };
            norm.run(&Cpu::new(Isa::SCALAR));
            let of_group = channels / groups;
            for group in 0..groups {
                let inside = |i: &usize| i % channels / of_group == group;
                let at = |i: usize| f64::from(x[i]);
                let count = (of_group * pixels) as f64;
                let mean = (0..x.len()).filter(inside).map(at).sum::<f64>() / count;
                let squares: f64 = (0..x.len()).filter(inside).map(|i| (at(i) - mean).powi(2)).sum();
                let deviation = (squares / count + epsilon as f64 / count / count).sqrt();
                for i in (0..x.len()).filter(inside) {
                    let c = i % channels;
                    let exact = (at(i) - mean) / deviation * gains[c] + 100.0 * c as f64;
                    let exact = exact.clamp(-32768.0, 32767.0);
                    assert!((f64::from(y[i]) - exact).abs() < 0.9, "{} is not {exact}", y[i]);
                }
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        // Every bound of the check at once: 2¹⁶ elements of 16 bits in one group, and 2²⁴ of 8 bits.
        for epsilon in [1, 1 << 62] {
            for gain in [i32::MIN, i32::MAX] {
                for fill in [i16::MIN, i16::MAX] {
                    let mut y = vec![fill; 1 << 16];
                    y[..1 << 15].fill(i16::MAX);
                    let norm = GroupNorm {
                        x: None,
                        gain_shift: 0,
                        epsilon: &[wide(epsilon)],
                        gain: &[gain],
                        bias: &[wide(1 << 60)],
                        table: &[],
                        scratch: &mut [[0; 2]],
                        y: ValuesMut::Wide(&mut y),
                    };
                    norm.run(&Cpu::new(Isa::SCALAR));
                }
            }
        }
        let mut y = vec![i8::MIN; 1 << 24];
        y[..1 << 23].fill(i8::MAX);
        let norm = GroupNorm {
            x: None,
            gain_shift: 24,
            epsilon: &[wide(1)],
            gain: &[100 << 24],
            bias: &[wide(1 << 15)],
            table: &[],
            scratch: &mut [[0; 2]],
            y: ValuesMut::Narrow(&mut y),
        };
        norm.run(&Cpu::new(Isa::SCALAR));
        assert_eq!([y[0], y[(1 << 24) - 1]], [100, -100]);
    }

    #[test]
    fn in_place_is_the_same() {
        let x = narrow(3, 4 * 49);
        let norm = |x, y: &mut [i8]| {
            let norm = GroupNorm {
                x,
                gain_shift: 20,
                epsilon: &[wide(90); 2],
                gain: &[40 << 20, -30 << 20, 0, 10 << 20],
                bias: &[wide(1 << 15); 4],
                table: &[],
                scratch: &mut [[0; 2]; 4],
                y: ValuesMut::Narrow(y),
            };
            norm.run(&Cpu::new(Isa::SCALAR));
        };
        let (mut apart, mut over) = (vec![0; x.len()], x.clone());
        norm(Some(Values::Narrow(&x)), &mut apart);
        norm(None, &mut over);
        assert_eq!(apart, over);
    }

    #[test]
    fn every_processor_gives_the_same() {
        for (channels, groups, pixels) in
            [(1, 1, 1), (6, 3, 35), (16, 4, 9), (80, 5, 33), (130, 2, 64), (256, 32, 50)]
        {
            let len = channels * pixels;
            let inputs = [random_wide(1, len), wide_ends(2, len), vec![i16::MIN; len], vec![7; len]];
            for (case, x) in inputs.iter().enumerate() {
                for (gain_shift, gain, bias) in
                    [(18, 1 << 24, 1 << 20), (0, i32::MAX, 1 << 60), (10, i32::MIN, -(1 << 60))]
                {
                    let gain: Vec<i32> = (0..channels as i32).map(|c| gain / (c + 1)).collect();
                    let bias = vec![wide(bias); channels];
                    let epsilon = vec![wide(1 + (case as i64) * 1000); groups];
                    let mut table: Vec<i16> = (0..TABLE as i32).map(|i| (i * i / 5 - 3000) as i16).collect();
                    table[TABLE - 1] = 0;
                    for table in [&[][..], &table] {
                        let narrow: Vec<i8> = x.iter().map(|&x| (x >> 8) as i8).collect();
                        for input in [None, Some(Values::Narrow(&narrow)), Some(Values::Wide(x))] {
                            same(
                                x,
                                &std::format!("{channels} channels, {pixels} pixels, {case}"),
                                |y, cpu| {
                                    let scratch = &mut vec![[0; 2]; channels];
                                    let (epsilon, gain, bias) = (&epsilon, &gain, &bias);
                                    GroupNorm {
                                        x: input,
                                        gain_shift,
                                        epsilon,
                                        gain,
                                        bias,
                                        table,
                                        scratch,
                                        y,
                                    }
                                    .run(cpu);
                                },
                            );
                        }
                    }
                }
            }
        }
    }
}
