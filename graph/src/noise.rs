//! The numbers that a picture starts from.
//!
//! Element *i* of stream *k* of a seed is a pure function of (seed, k, i): Philox4x32-10 (Salmon et al., "Parallel
//! random numbers: as easy as 1, 2, 3", 2011) with the seed as key and `[i/4 low, i/4 high, k, 0]` as counter gives
//! four 32-bit words, of which element *i* takes word `i mod 4`. Words become numbers by integer arithmetic alone, so
//! a seed is the same picture's noise on every machine, in every order and on any number of threads.
//!
//! Elements of a picture are counted by channel, then row, then column. Stream 0 is the noise x_1 of pictures; other
//! streams are for whoever needs more numbers of the same seed.

mod table;

use table::ROWS;

/// One Philox4x32-10 block: four words for a key and a counter.
#[inline(always)]
pub const fn philox(mut key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut a, mut b, mut c, mut d] = counter;
    let mut round = 0;
    while round < 10 {
        let x = a as u64 * 0xD251_1F53;
        let y = c as u64 * 0xCD9E_8D57;
        [a, b, c, d] = [(y >> 32) as u32 ^ b ^ key[0], y as u32, (x >> 32) as u32 ^ d ^ key[1], x as u32];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        round += 1;
    }
    [a, b, c, d]
}

/// Blocks that vectors compute side by side. Pages' modules, which are loaded before they compute, have no room for it.
pub const BLOCKS: usize = if cfg!(target_arch = "wasm32") { 1 } else { 16 };

/// Fraction bits of [`gaussian`].
pub const FRACTION_BITS: u32 = 21;

/// One unit of [`gaussian`].
pub const UNIT: f32 = 1.0 / (1 << FRACTION_BITS) as f32;

/// The normally distributed number of a word, in units of 2⁻²¹.
///
/// The top bit is the sign and the others are the tail probability `(2m + 1) / 2³³`, so flipping the top bit negates
/// the number, and the largest is 6.34. The magnitude is below 2²⁴ units: as an `f32` it is exact. It differs from
/// the inverse of the normal distribution by at most 1.4·10⁻⁶ (0.3·10⁻⁶ on average).
#[inline(always)]
pub const fn gaussian(word: u32) -> i32 {
    let tail = (word << 1) | 1;
    let octave = tail.leading_zeros();
    let piece = tail << octave;
    let [c0, c1, c2] = ROWS[(octave as usize) << 4 | (piece >> 27) as usize & 15];
    // Across the piece u runs over [-1, 1), here in units of 2⁻³¹.
    let u = ((piece << 5) ^ (1 << 31)) as i32 as i64;
    let slope = c1 as i64 + ((c2 as i64 * u) >> 31);
    let z = c0 as i64 + ((slope * u) >> 31);
    let magnitude = ((z + 64) >> 7) as i32;
    // Without a branch, which nobody could predict.
    let sign = (word as i32) >> 31;
    (magnitude ^ sign) - sign
}

/// A stream of random numbers, each by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    key: [u32; 2],
    stream: u32,
}

impl Noise {
    /// Stream 0 of a seed: the noise of pictures.
    pub const fn new(seed: u64) -> Self {
        Self::stream(seed, 0)
    }

    /// A stream of a seed.
    pub const fn stream(seed: u64, stream: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream }
    }

    #[inline(always)]
    const fn block(self, block: u64) -> [u32; 4] {
        philox(self.key, [block as u32, (block >> 32) as u32, self.stream, 0])
    }

    /// The word of an index, uniform over all words.
    pub const fn word(self, index: u64) -> u32 {
        self.block(index / 4)[(index % 4) as usize]
    }

    /// The normally distributed number of an index, in units of 2⁻²¹ ([`UNIT`]).
    pub const fn at(self, index: u64) -> i32 {
        gaussian(self.word(index))
    }

    /// The four normally distributed numbers from index 4 · block on, which take no longer than one of them.
    pub fn four(self, block: u64) -> [i32; 4] {
        let [four] = self.blocks(block);
        four
    }

    /// The number of an index, uniform over [0, 1) in steps of 2⁻²⁴, which are exact.
    pub const fn uniform(self, index: u64) -> f32 {
        (self.word(index) >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// [`four`](Self::four) of N blocks, which vectors compute side by side.
    #[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), inline(always))]
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), inline(never))]
    fn blocks<const N: usize>(self, first: u64) -> [[i32; 4]; N] {
        let mut words = [[0; 4]; N];
        for (block, words) in (first..).zip(&mut words) {
            *words = self.block(block);
        }
        let mut numbers = [[0; 4]; N];
        for (number, word) in numbers.as_flattened_mut().iter_mut().zip(words.as_flattened()) {
            *number = gaussian(*word);
        }
        numbers
    }

    /// Fills with the normally distributed numbers of the indices from 0.
    pub fn fill(self, numbers: &mut [f32]) {
        self.fill_from(0, numbers);
    }

    /// Fills with the normally distributed numbers of the indices from `start`; after index 2⁶⁴ - 1 comes 0.
    pub fn fill_from(self, start: u64, numbers: &mut [f32]) {
        // Up to the first whole block there are words to skip.
        let head = numbers.len().min(((4 - start % 4) % 4) as usize);
        let (head, tail) = numbers.split_at_mut(head);
        let mut index = start;
        for number in head {
            *number = self.at(index) as f32 * UNIT;
            index = index.wrapping_add(1);
        }
        for four in tail.chunks_mut(4) {
            for (number, z) in four.iter_mut().zip(self.four(index / 4)) {
                *number = z as f32 * UNIT;
            }
            index = index.wrapping_add(4);
        }
    }
}

/// The noise of four seeds, which stand at the corners of a square, for a point in it.
///
/// A weighted sum of independent normal numbers, whose weights' squares add up to one, is normal again: so between the
/// corners are pictures as good as theirs. Along an edge this is the great circle from one noise to the other, up to speed.
/// Integers alone make it: a point is the same noise on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mix {
    corners: [Noise; 4],
    /// In units of 2⁻¹⁵.
    weights: [i64; 4],
}

impl Mix {
    /// Length of the square's sides.
    pub const SIDE: u16 = 256;

    /// Seeds at the upper left, upper right, lower left and lower right, and the point's distances from the left and from
    /// above. Beyond the side is on it. A seed may stand at several corners.
    pub fn new(seeds: [u64; 4], at: [u16; 2]) -> Self {
        let [x, y] = at.map(|place| u64::from(place.min(Self::SIDE)));
        let (left, above) = (u64::from(Self::SIDE) - x, u64::from(Self::SIDE) - y);
        // Bilinear first; the same noise twice is one noise with both weights.
        let mut weights = [left * above, x * above, left * y, x * y];
        for corner in 1..4 {
            if let Some(first) = seeds[..corner].iter().position(|seed| *seed == seeds[corner]) {
                weights[first] += weights[corner];
                weights[corner] = 0;
            }
        }
        // Not zero: the largest of the weights, which add up to 2¹⁶, is at least a quarter of that.
        let norm = weights.iter().map(|weight| weight * weight).sum::<u64>().isqrt().max(1);
        let weights = weights.map(|weight| ((weight << 15) + norm / 2) as i64 / norm as i64);
        Self { corners: seeds.map(Noise::new), weights }
    }

    /// The noise of one seed.
    pub const fn of(seed: u64) -> Self {
        Self { corners: [Noise::new(seed); 4], weights: [1 << 15, 0, 0, 0] }
    }

    /// The four normally distributed numbers from index 4 · block on, in units of 2⁻²¹ ([`UNIT`]).
    pub fn four(&self, block: u64) -> [i32; 4] {
        let [four] = self.blocks(block);
        four
    }

    /// [`four`](Self::four) of N blocks, which vectors compute side by side.
    #[inline(always)]
    pub fn blocks<const N: usize>(&self, first: u64) -> [[i32; 4]; N] {
        let alone = self.weights.iter().sum::<i64>() == 1 << 15;
        let mut sums = [[1 << 14; 4]; N];
        for (noise, weight) in self.corners.iter().zip(self.weights).filter(|(_, weight)| *weight != 0) {
            let numbers = noise.blocks::<N>(first);
            if alone {
                return numbers;
            }
            for (sum, z) in sums.as_flattened_mut().iter_mut().zip(numbers.as_flattened()) {
                *sum += i64::from(*z) * weight;
            }
        }
        let mut numbers = [[0; 4]; N];
        for (number, sum) in numbers.as_flattened_mut().iter_mut().zip(sums.as_flattened()) {
            *number = (sum >> 15) as i32;
        }
        numbers
    }

    /// Fills with the normally distributed numbers of the indices from 0.
    #[inline(always)]
    pub fn fill(&self, numbers: &mut [f32]) {
        for (index, numbers) in numbers.chunks_mut(4 * BLOCKS).enumerate() {
            let blocks = self.blocks::<BLOCKS>((index * BLOCKS) as u64);
            for (number, z) in numbers.iter_mut().zip(blocks.as_flattened()) {
                *number = *z as f32 * UNIT;
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use std::prelude::v1::*;

    /// Known answers of Random123 1.09.
    #[test]
    fn philox_gives_the_published_words() {
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let vectors = [
            ([0; 2], [0; 4], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 2], [u32::MAX; 4], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            ([0xa409_3822, 0x299f_31d0], pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]),
        ];
        for (key, counter, words) in vectors {
            assert_eq!(philox(key, counter), words);
        }
    }

    /// |z - exact| of a word, by one step of Newton from z: the exact z is that close.
    fn error(word: u32) -> f64 {
        let z = f64::from(gaussian(word & !(1 << 31))) / f64::from(1 << 21);
        let tail = f64::from((word << 1) | 1) / 2f64.powi(33);
        let density = (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        ((0.5 * libm::erfc(z / 2f64.sqrt()) - tail) / density).abs()
    }

    #[test]
    fn gaussian_inverts_the_normal_distribution() {
        // The whole range evenly, then every octave of the tail with its ends.
        let even = (0..1 << 20).map(|i| i << 11 | 0x3ff);
        let octaves = (0..31).flat_map(|octave| {
            let low = 1u32 << octave >> 1;
            (0..4096u64).map(move |i| low + (u64::from(low) * i / 4096) as u32)
        });
        let even = even.map(error).collect::<Vec<_>>();
        let worst = octaves.map(error).chain(even.iter().copied()).fold(0.0, f64::max);
        let mean = even.iter().sum::<f64>() / even.len() as f64;
        assert!(worst < 1.4e-6 && mean < 0.31e-6, "worst {worst:e}, mean {mean:e}");
    }

    #[test]
    fn gaussian_is_symmetric_and_exact_as_f32() {
        for index in 0..100_000 {
            let word = Noise::new(1).word(index);
            let z = gaussian(word);
            assert_eq!(gaussian(word ^ 1 << 31), -z);
            assert_eq!((z as f32 * UNIT / UNIT) as i32, z);
        }
        assert!(gaussian(0) < 1 << 24);
        assert_eq!(gaussian(i32::MAX as u32), 1);
    }

    /// A million samples: moments within 4 standard errors, and Kolmogorov-Smirnov at the level of 1 in 1,000.
    #[test]
    fn samples_are_normal() {
        let n = 1_000_000;
        let mut x = vec![0.0; n];
        Noise::new(2024).fill(&mut x);
        let moment = |k: i32| x.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / n as f64;
        for (k, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let bound = 4.0 * f64::sqrt(variance / n as f64);
            assert!((moment(k) - expected).abs() < bound, "moment {k} is {}", moment(k));
        }
        x.sort_unstable_by(f32::total_cmp);
        let cdf = |x: f32| 0.5 * libm::erfc(-f64::from(x) / 2f64.sqrt());
        let distance = |(i, &x): (usize, &f32)| {
            let (below, above) = (i as f64 / n as f64, (i + 1) as f64 / n as f64);
            (cdf(x) - below).abs().max((cdf(x) - above).abs())
        };
        let ks = x.iter().enumerate().map(distance).fold(0.0, f64::max);
        assert!(ks < 1.95 / (n as f64).sqrt(), "the largest distance is {ks}");
    }

    #[test]
    fn streams_and_seeds_are_uncorrelated() {
        let n = 100_000;
        let fill = |noise: Noise| {
            let mut x = vec![0.0f32; n];
            noise.fill(&mut x);
            x
        };
        let x = fill(Noise::new(7));
        for other in [fill(Noise::new(8)), fill(Noise::stream(7, 1)), fill(Noise::new(7 + (1 << 32)))] {
            let correlation = x.iter().zip(&other).map(|(a, b)| a * b).sum::<f32>() / n as f32;
            assert!(correlation.abs() < 4.0 / (n as f32).sqrt());
        }
    }

    #[test]
    fn a_mix_is_a_corner_at_the_corners() {
        let seeds = [3, u64::MAX, 5, 4];
        for (corner, at) in [[0, 0], [256, 0], [0, 256], [256, 256]].into_iter().enumerate() {
            let (mix, noise) = (Mix::new(seeds, at), Noise::new(seeds[corner]));
            assert!((0..250).all(|block| mix.four(block) == noise.four(block)));
        }
        // Wherever it is between corners of one seed.
        let (mix, noise) = (Mix::new([9; 4], [17, 101]), Noise::new(9));
        assert_eq!(mix, Mix::of(9));
        assert!((0..250).all(|block| mix.four(block) == noise.four(block)));
        assert_eq!(Mix::new(seeds, [300, 9]), Mix::new(seeds, [256, 9]));
    }

    #[test]
    fn a_mix_is_normal() {
        for at in [[128, 0], [128, 128], [3, 250], [64, 200]] {
            let n = 100_000;
            let mut x = vec![0.0; n];
            Mix::new([1, 2, 3, 4], at).fill(&mut x);
            let moment = |k: i32| x.iter().map(|&x| f64::from(x).powi(k)).sum::<f64>() / n as f64;
            for (k, expected, variance) in [(1, 0.0, 1.0), (2, 1.0, 2.0), (4, 3.0, 96.0)] {
                let bound = 4.5 * f64::sqrt(variance / n as f64);
                assert!((moment(k) - expected).abs() < bound, "at {at:?} moment {k} is {}", moment(k));
            }
        }
    }

    #[test]
    fn filling_starts_anywhere() {
        let noise = Noise::stream(3, 5);
        for start in [0, 1, 2, 3, 4, (1 << 34) - 3, u64::MAX - 4] {
            for len in 0..11 {
                let mut x = vec![0.0; len];
                noise.fill_from(start, &mut x);
                for (i, x) in (0..).zip(x) {
                    assert_eq!(x, noise.at(start.wrapping_add(i)) as f32 * UNIT);
                }
            }
        }
    }

    #[test]
    fn uniform_is_in_the_unit_interval() {
        let uniform = (0..10_000).map(|i| Noise::new(9).uniform(i));
        assert!(uniform.clone().all(|u| (0.0..1.0).contains(&u)));
        assert!((uniform.sum::<f32>() / 10_000.0 - 0.5).abs() < 0.012);
    }

    /// These numbers are what a seed means: they never change.
    #[test]
    fn golden_numbers() {
        let noise = Noise::new(7);
        let first: Vec<i32> = (0..8).map(|i| noise.at(i)).collect();
        assert_eq!(first, [-239191, -1413501, 2526246, 2868879, 493608, -1128294, 1986174, -221966]);
        let fnv = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let bytes = (0..10_000).flat_map(|i| noise.at(i).to_le_bytes());
        assert_eq!(
            bytes.fold(0xcbf2_9ce4_8422_2325, fnv),
            0x5a41_4fea_49b9_f5f2,
            "FNV-1a of the first 10,000"
        );
        let mix = Mix::new([7, 8, 9, 10], [100, 30]);
        assert_eq!(mix.four(0), [-2889524, -2698855, 2051121, 2452272]);
    }
}
