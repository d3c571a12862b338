use traflow_graph::quant::QUERIES;

use super::{ValuesMut, scale};
use crate::cpu::Cpu;
use crate::simd::IntegerKernel;

/// `65535 · 2^(-i / 256)`, rounded to the nearest, half up.
static POWERS: [u16; 257] = {
    let mut powers = [0; 257];
    // 2⁶³ times the power, and 2⁶³ times 2^(-1 / 256).
    let (mut power, step) = (1u128 << 63, 9_198_432_556_164_277_331_u128);
    let mut i = 0;
    while i < 256 {
        powers[i] = ((65535 * power + (1 << 62)) >> 63) as u16;
        power = (power * step) >> 63;
        i += 1;
    }
    // Exactly between two integers, so the upper one.
    powers[256] = 32768;
    powers
};

/// `65535 · 2^-z`, z in units of 2⁻¹⁶, by 256 straight pieces an octave, rounded to the nearest.
fn power(z: u64) -> u32 {
    let (octave, piece, part) = (z >> 16, (z >> 8 & 0xff) as usize, (z & 0xff) as u32);
    let sum = u32::from(POWERS[piece]) * (256 - part) + u32::from(POWERS[piece + 1]) * part;
    // Beyond 17 octaves nothing is left.
    let octave = octave.min(22) as u32;
    (sum + (1 << (7 + octave))) >> (8 + octave)
}

/// Scaled dot-product attention between pixels: `y_i = Σ_j softmax_j(q_i · k_j) v_j` for each head.
#[derive(Debug)]
pub struct Attention<'a> {
    /// For each pixel the queries of all heads, then the keys, then the values.
    pub qkv: &'a [i8],
    /// Number of heads; divides the channels.
    pub heads: usize,
    /// Factor of differences of scores.
    pub exponent: i32,
    /// Places to shift their product by.
    pub exponent_shift: u32,
    /// Factor of the mean value.
    pub factor: i32,
    /// Added to the product.
    pub bias: i64,
    /// Places to shift by.
    pub shift: u32,
    /// Memory for a score of each pixel and each of [`QUERIES`].
    pub scores: &'a mut [i32],
    /// Output.
    pub y: ValuesMut<'a>,
}

impl Attention<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Attention<'_> {
    fn words(mut self, _: &mut [u8]) {
        let pixels = (self.scores.len() / QUERIES).max(1);
        let channels = self.y.len() / pixels;
        // One query at a time.
        self.scores = &mut core::mem::take(&mut self.scores)[..pixels];
        let of_head = channels / self.heads.max(1);
        for head in 0..self.heads {
            let first = head * of_head;
            let at =
                |kind: usize, pixel: usize| &self.qkv[(3 * pixel + kind) * channels + first..][..of_head];
            for pixel in 0..pixels {
                let query = at(0, pixel);
                for (j, score) in self.scores.iter_mut().enumerate() {
                    let products = query.iter().zip(at(1, j)).map(|(&q, &k)| i32::from(q) * i32::from(k));
                    *score = products.sum();
                }
                let largest = self.scores.iter().copied().max().unwrap_or(0);
                let mut total = 0u32;
                for score in self.scores.iter_mut() {
                    let below = i64::from(largest) - i64::from(*score);
                    let weight = power(((below * i64::from(self.exponent)) >> self.exponent_shift) as u64);
                    total += weight;
                    *score = weight as i32;
                }
                // The sum has 16 to 32 bits. 1 / total = reciprocal · 2^-(30 + bits), the reciprocal in [2³⁰, 2³¹].
                let bits = i64::from(32 - total.leading_zeros());
                let reciprocal = (1 << (30 + bits)) / i64::from(total.max(1));
                for channel in 0..of_head {
                    let products = self.scores.iter().enumerate();
                    let sum: i64 = products.map(|(j, &w)| i64::from(w) * i64::from(at(2, j)[channel])).sum();
                    // The mean in units of 2⁻²³; the sum is below 128 · total.
                    let mean = scale(scale(sum, bits - 23) * reciprocal, 30);
                    let y = (mean * i64::from(self.factor) + self.bias) >> self.shift;
                    self.y.set(pixel * channels + first + channel, y);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::int8::tests::narrow;
    use std::vec;

    #[test]
    fn powers_are_right_in_16_bits() {
        for (i, &power) in POWERS.iter().enumerate() {
            assert_eq!(power, (65535.0 * f64::exp2(-(i as f64) / 256.0)).round() as u16);
        }
        for z in 0..20u64 << 16 {
            let exact = 65535.0 * f64::exp2(-(z as f64) / 65536.0);
            assert!((f64::from(power(z)) - exact).abs() < 1.05, "{z}: {} is not {exact}", power(z));
        }
        assert_eq!((power(u64::MAX), power(0)), (0, 65535));
    }

    #[test]
    fn the_formula_in_f64_is_met() {
        for (of_head, heads, pixels) in [(1, 1, 1), (4, 2, 9), (16, 1, 49), (7, 3, 300)] {
            let channels = of_head * heads;
            let qkv = narrow(0, 3 * channels * pixels);
            let mut y = vec![0i16; channels * pixels];
            // Scores in units of 2⁻¹³ nepers, the output in units of 1 / 200.
            let exponent = (f64::from(1 << 20) * 8.0 * std::f64::consts::LOG2_E).round() as i32;
            let attention = Attention {
                qkv: &qkv,
                heads,
                exponent,
                exponent_shift: 20,
                factor: 200 << 13,
                bias: 1 << 35,
                shift: 36,
                scores: &mut vec![0; QUERIES * pixels],
                y: ValuesMut::Wide(&mut y),
            };
            attention.run(&Cpu::new(Isa::SCALAR));
            let at = |kind: usize, pixel: usize, channel: usize| {
                f64::from(qkv[(3 * pixel + kind) * channels + channel])
            };
            for pixel in 0..pixels {
                for channel in 0..channels {
                    let of_head = channel / of_head * of_head..(channel / of_head + 1) * of_head;
                    let score =
                        |j| of_head.clone().map(|c| at(0, pixel, c) * at(1, j, c)).sum::<f64>() / 8192.0;
                    let weights: vec::Vec<f64> = (0..pixels).map(|j| f64::exp(score(j))).collect();
                    let total: f64 = weights.iter().sum();
                    let mean: f64 = (0..pixels).map(|j| weights[j] / total * at(2, j, channel)).sum();
                    let found = f64::from(y[pixel * channels + channel]);
                    assert!((found - 200.0 * mean).abs() < 0.5 + 4.0, "{found} is not {}", 200.0 * mean);
                }
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let pixels = 1 << 11;
        let mut qkv = vec![-128i8; 3 * pixels];
        let mut y = [0i8; 1];
        let run = |qkv: &[i8], y: &mut [i8]| {
            let scores = &mut vec![0; QUERIES * qkv.len() / 3];
            let attention = Attention {
                qkv,
                heads: 1,
                exponent: i32::MAX,
                exponent_shift: 16,
                factor: 1 << 8,
                bias: 1 << 30,
                shift: 31,
                scores,
                y: ValuesMut::Narrow(y),
            };
            attention.run(&Cpu::new(Isa::SCALAR));
        };
        run(&qkv[..3], &mut y);
        assert_eq!(y, [-128]);
        qkv.iter_mut().skip(2).step_by(3).for_each(|v| *v = 127);
        let mut y = vec![0; pixels];
        run(&qkv, &mut y);
        assert!(y.iter().all(|&y| y == 127));
    }
}
