//! The integers that a network of 8 bits computes with.
//!
//! In a model file of [`Dtype::I8`](crate::model::Dtype::I8) a node has, instead of a bias, a row of [`Integers`] for
//! each moment, or one row for all: factors, zero points and tables that were computed at export, so that a device
//! needs no floating point. `docs/integer-arithmetic.md` says what each operation computes with them.
//!
//! An element q of a value is 8 bits wide, or 16 where the value is [wide](crate::model::Node::is_wide), and stands for
//! the real number `(q - zero) · scale`; scales are known to the export alone. Almost every operation ends in the one
//! rescaling `y = clamp((Σ aᵢ · factorᵢ + bias) >> shift)`, computed in 64 bits, where the bias holds the zero points
//! and the half that rounds. [`Context::fits`] sees to it that no sum of this kind can overflow.

#[cfg(feature = "alloc")]
use std::prelude::v1::*;

use crate::op::{Op, Shape};

/// Bits behind the point of a picture between two steps: [-8, 8) in 16 bits.
pub const IMAGE_BITS: u32 = 12;

/// Fraction bits of the affine part of a norm and of SiLU.
pub const AFFINE_BITS: u32 = 16;

/// The largest factor of the affine part of a norm and of SiLU.
pub const FACTOR: i64 = 1 << 30;

/// Numbers of the table of SiLU: both ends of 256 pieces, and one that fills the last word.
pub const TABLE: usize = 258;

/// Input channels of a convolution whose weights lie together.
pub const QUAD: usize = 4;

pub use crate::model::PANEL;

/// A 64-bit integer as two words, the lower one first: rows are aligned to 4 bytes only.
pub type Wide = [u32; 2];

/// The two words of an integer.
pub const fn wide(number: i64) -> Wide {
    [number as u32, (number >> 32) as u32]
}

/// The integer of two words.
pub const fn long([low, high]: Wide) -> i64 {
    (low as u64 | (high as u64) << 32) as i64
}

/// The integers of one node at one moment, in the order in which they lie in the file, each word little-endian.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Integers<'a> {
    /// Of the picture, which takes a step: `x += (u · factor + half) >> shift`.
    Image {
        /// Places to shift by.
        shift: u32,
        /// (s - t), in units of x over units of u.
        factor: i32,
    },
    /// A constant's value.
    Constant {
        /// One number a channel, and one more if they are odd in number.
        value: &'a [i16],
    },
    /// `(Σ_i acc_i · factors_i[c] + r · residual + bias[c]) >> shift`, where acc_i sums the products of weights and of
    /// x over the channels of part i, and r is the residual. What zero points add is in the bias.
    Conv2d {
        /// Places to shift by.
        shift: u32,
        /// Factor of the residual.
        residual: i32,
        /// Channels of the first part of the input: those before the split have a scale of their own.
        split: u32,
        /// Zero points of the two parts, which x is outside the picture.
        zeros: [i32; 2],
        /// One a channel of the output.
        bias: &'a [Wide],
        /// One a channel of the output, for each part; the second is empty where there is one part.
        factors: [&'a [i32]; 2],
    },
    /// Normalises, scales and shifts; see the document.
    GroupNorm {
        /// Fraction bits of the gains.
        gain_shift: u32,
        /// Of each group, added to N² times its variance.
        epsilon: &'a [Wide],
        /// One a channel.
        bias: &'a [Wide],
        /// One a channel.
        gain: &'a [i32],
        /// SiLU, as [`Silu`](Integers::Silu) has it; empty without.
        table: &'a [i16],
    },
    /// SiLU as 256 straight pieces: `p = (x · factor + bias) >> 16`, clamped to 16 bits without sign, and the table's
    /// numbers at `p >> 8` and after it, weighted by the lower 8 bits of p.
    Silu {
        /// Factor of the input.
        factor: i32,
        /// Added to the product.
        bias: i64,
        /// The ends of the pieces, in units of the output, 128 to the unit where the output has 8 bits.
        table: &'a [i16],
    },
    /// `(a · factors_0 + b · factors_1 + bias) >> shift`.
    Add {
        /// Places to shift by.
        shift: u32,
        /// Factors of a and b.
        factors: [i32; 2],
        /// Added to the products.
        bias: i64,
    },
    /// `(a · factors_0 + biases_0) >> shift` for the channels of a, and so for b.
    Concat {
        /// Places to shift by.
        shift: u32,
        /// Factors of a and b.
        factors: [i32; 2],
        /// Added to the products.
        biases: [i64; 2],
    },
    /// `(sum of the square · factor + bias) >> shift`.
    Downsample {
        /// Places to shift by.
        shift: u32,
        /// Factor of the sum of four.
        factor: i32,
        /// Added to the product.
        bias: i64,
    },
    /// Nothing: each element is copied.
    Upsample,
    /// Softmax with exponents `((largest score - score) · exponent) >> exponent_shift` in units of 2⁻¹⁶, to the base
    /// 2; then `(mean value · factor + bias) >> shift`, the mean in units of 2⁻²³.
    Attention {
        /// Factor of differences of scores.
        exponent: i32,
        /// Places to shift their product by.
        exponent_shift: u32,
        /// Places to shift by.
        shift: u32,
        /// Factor of the mean.
        factor: i32,
        /// Added to the product.
        bias: i64,
    },
}

/// What a check of [`Integers`] has to know of a node.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The operation.
    pub op: Op,
    /// Shapes of its inputs.
    pub inputs: &'a [Shape],
    /// Which of its inputs are 16 bits wide.
    pub wide: [bool; 2],
    /// Whether its output is.
    pub wide_output: bool,
    /// Whether the input of a convolution has two parts.
    pub two_parts: bool,
    /// Its weight, in panels.
    pub panels: &'a [i8],
}

/// Takes words off the front of a row.
struct Reader<'a>(&'a [u32]);

impl<'a> Reader<'a> {
    fn words(&mut self, count: usize) -> Option<&'a [u32]> {
        let (words, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(words)
    }

    fn word(&mut self) -> Option<u32> {
        Some(self.words(1)?[0])
    }

    fn int(&mut self) -> Option<i32> {
        self.word().map(|word| word as i32)
    }

    fn long(&mut self) -> Option<i64> {
        Some(long([self.word()?, self.word()?]))
    }

    fn ints(&mut self, count: usize) -> Option<&'a [i32]> {
        bytemuck::try_cast_slice(self.words(count)?).ok()
    }

    fn longs(&mut self, count: usize) -> Option<&'a [Wide]> {
        bytemuck::try_cast_slice(self.words(count.checked_mul(2)?)?).ok()
    }

    /// As many as fill whole words.
    fn shorts(&mut self, count: usize) -> Option<&'a [i16]> {
        bytemuck::try_cast_slice(self.words(count.div_ceil(2))?).ok()
    }
}

/// Words of a row of a node's integers; 0 where it has none.
pub fn words(op: Op, inputs: &[Shape], two_parts: bool) -> usize {
    match (op, inputs) {
        (Op::Image(_), _) => 2,
        (Op::Constant { channels }, _) => usize::from(channels).div_ceil(2),
        (Op::Conv2d { out, .. }, _) => 5 + usize::from(out) * if two_parts { 4 } else { 3 },
        (Op::GroupNorm { groups, silu, .. }, &[x]) => {
            1 + 2 * usize::from(groups) + 3 * usize::from(x.channels) + if silu { TABLE / 2 } else { 0 }
        }
        (Op::Silu, _) => 3 + TABLE / 2,
        (Op::Add { .. }, _) => 5,
        (Op::Concat, _) => 7,
        (Op::Downsample, _) => 4,
        (Op::Attention { .. }, _) => 6,
        _ => 0,
    }
}

/// Elements of a convolution's weight in panels: input channels are rounded up to a whole [`QUAD`].
pub fn panel_elements([outs, channels, height, width]: [usize; 4]) -> usize {
    outs * height * width * channels.next_multiple_of(QUAD)
}

/// Where the weight of an output channel, a tap and an input channel lies in the panels: output channels are in panels
/// of [`PANEL`], the last one of what is left, and a panel is `[tap, in / 4, out, 4]`.
pub const fn panel_index([outs, channels, taps]: [usize; 3], [out, channel, tap]: [usize; 3]) -> usize {
    let first = out / PANEL * PANEL;
    let width = if outs - first < PANEL { outs - first } else { PANEL };
    let quads = channels.div_ceil(QUAD);
    let quad = tap * quads + channel / QUAD;
    first * taps * quads * QUAD + (quad * width + out - first) * QUAD + channel % QUAD
}

/// Numbers of a group that a norm of wide values may have.
pub const WIDE_GROUP: usize = 1 << 16;

/// Queries of an attention whose scores vectors keep at the same time, as many as they have lanes.
pub const QUERIES: usize = 16;

/// Pixels up to which they keep them on the stack.
pub const NEAR: usize = 256;

/// Bytes of scratch memory of a node: a norm keeps 16 bytes a channel, attention a score for each pixel, beyond [`NEAR`] of
/// them for each of [`QUERIES`], and a convolution the rows of its input that a row of its output reads, in 16 bits and by
/// whole quads, with as many columns more as the kernel reaches over, and one where they are odd in number.
pub fn scratch_bytes(op: Op, inputs: &[Shape]) -> u64 {
    match (op, inputs) {
        (Op::GroupNorm { .. }, &[x]) => u64::from(x.channels) * 16,
        (Op::Attention { .. }, &[x]) => (x.pixels() * 4 * if x.pixels() > NEAR { QUERIES } else { 1 }) as u64,
        (Op::Conv2d { kernel, .. }, &[x, ..]) => {
            let columns = usize::from(x.width).next_multiple_of(2) + usize::from(kernel - 1);
            (usize::from(kernel) * columns * usize::from(x.channels).next_multiple_of(QUAD) * 2) as u64
        }
        _ => 0,
    }
}

impl<'a> Integers<'a> {
    /// The integers of a row, which has as many words as [`words`] says.
    pub fn parse(op: Op, inputs: &[Shape], two_parts: bool, row: &'a [u32]) -> Option<Self> {
        let r = &mut Reader(row);
        let integers = match (op, inputs) {
            (Op::Image(_), _) => Self::Image { shift: r.word()?, factor: r.int()? },
            (Op::Constant { channels }, _) => Self::Constant { value: r.shorts(channels.into())? },
            (Op::Conv2d { out, .. }, _) => Self::Conv2d {
                shift: r.word()?,
                residual: r.int()?,
                split: r.word()?,
                zeros: [r.int()?, r.int()?],
                bias: r.longs(out.into())?,
                factors: [r.ints(out.into())?, r.ints(if two_parts { out.into() } else { 0 })?],
            },
            (Op::GroupNorm { groups, silu, .. }, &[x]) => Self::GroupNorm {
                gain_shift: r.word()?,
                epsilon: r.longs(groups.into())?,
                bias: r.longs(x.channels.into())?,
                gain: r.ints(x.channels.into())?,
                table: r.shorts(if silu { TABLE } else { 0 })?,
            },
            (Op::Silu, _) => Self::Silu { factor: r.int()?, bias: r.long()?, table: r.shorts(TABLE)? },
            (Op::Add { .. }, _) => {
                Self::Add { shift: r.word()?, factors: [r.int()?, r.int()?], bias: r.long()? }
            }
            (Op::Concat, _) => Self::Concat {
                shift: r.word()?,
                factors: [r.int()?, r.int()?],
                biases: [r.long()?, r.long()?],
            },
            (Op::Downsample, _) => Self::Downsample { shift: r.word()?, factor: r.int()?, bias: r.long()? },
            (Op::Upsample, _) => Self::Upsample,
            (Op::Attention { .. }, _) => Self::Attention {
                exponent: r.int()?,
                exponent_shift: r.word()?,
                shift: r.word()?,
                factor: r.int()?,
                bias: r.long()?,
            },
            _ => return None,
        };
        r.0.is_empty().then_some(integers)
    }

    /// The words of a row.
    #[cfg(feature = "alloc")]
    pub fn encode(&self) -> Vec<u32> {
        let mut row = Vec::new();
        let mut put = |words: &[u32]| row.extend_from_slice(words);
        match *self {
            Self::Image { shift, factor } => put(&[shift, factor as u32]),
            Self::Constant { value } => put(&halves(value)),
            Self::Conv2d { shift, residual, split, zeros, bias, factors } => {
                put(&[shift, residual as u32, split, zeros[0] as u32, zeros[1] as u32]);
                put(bytemuck::cast_slice(bias));
                factors.iter().for_each(|factors| put(bytemuck::cast_slice(factors)));
            }
            Self::GroupNorm { gain_shift, epsilon, bias, gain, table } => {
                put(&[gain_shift]);
                put(bytemuck::cast_slice(epsilon));
                put(bytemuck::cast_slice(bias));
                put(bytemuck::cast_slice(gain));
                put(&halves(table));
            }
            Self::Silu { factor, bias, table } => {
                put(&[factor as u32]);
                put(&wide(bias));
                put(&halves(table));
            }
            Self::Add { shift, factors: [a, b], bias } => {
                put(&[shift, a as u32, b as u32]);
                put(&wide(bias));
            }
            Self::Concat { shift, factors: [a, b], biases } => {
                put(&[shift, a as u32, b as u32]);
                biases.iter().for_each(|&bias| put(&wide(bias)));
            }
            Self::Downsample { shift, factor, bias } => {
                put(&[shift, factor as u32]);
                put(&wide(bias));
            }
            Self::Upsample => {}
            Self::Attention { exponent, exponent_shift, shift, factor, bias } => {
                put(&[exponent as u32, exponent_shift, shift, factor as u32]);
                put(&wide(bias));
            }
        }
        row
    }

    /// Whether a node can compute with these integers without an overflow, whatever its inputs hold, but for the sums of a
    /// convolution, which need its weights.
    fn check(&self, node: &Context<'_>) -> bool {
        let [a, b] = node.wide.map(largest);
        let x = node.inputs.first().copied().unwrap_or(Shape::vector(0));
        match *self {
            Self::Image { shift, factor } => node.wide_output && fits(shift, &[(1 << 15, factor)], 0),
            // The pad of an odd number is zero.
            Self::Constant { value } => {
                let pad = value.get(node.op.parameters(&[]).bias.unwrap_or(0)..);
                node.wide_output && pad.is_some_and(|pad| pad.iter().all(|&pad| pad == 0))
            }
            Self::Conv2d { residual, split, zeros, .. } => {
                let channels = usize::from(x.channels);
                let split = split as usize;
                let parts = match node.two_parts {
                    true => split > 0 && split < channels && split.is_multiple_of(QUAD),
                    false => split == channels && zeros[1] == 0,
                };
                let zeros_fit = |zero: i32| {
                    if node.wide[0] { zero == 0 } else { i8::try_from(zero).is_ok() }
                };
                let has_residual = matches!(node.op, Op::Conv2d { residual: Some(_), .. });
                parts && zeros.iter().all(|&zero| zeros_fit(zero)) && (has_residual || residual == 0)
            }
            Self::GroupNorm { gain_shift, epsilon, bias, gain: _, table } => {
                let elements = x.elements() / epsilon.len().max(1);
                gain_shift <= 62
                    && elements <= if node.wide[0] { WIDE_GROUP } else { 1 << 24 }
                    && epsilon.iter().all(|&epsilon| (1..=1 << 62).contains(&long(epsilon)))
                    && bias.iter().all(|&bias| long(bias).unsigned_abs() <= 1 << 60)
                    && table_fits(table, node.wide_output)
            }
            Self::Silu { factor, bias, table } => {
                factor.unsigned_abs() <= FACTOR as u32
                    && bias.unsigned_abs() <= 1 << 60
                    && table_fits(table, node.wide_output)
            }
            Self::Add { shift, factors, bias } => fits(shift, &[(a, factors[0]), (b, factors[1])], bias),
            Self::Concat { shift, factors, biases } => {
                fits(shift, &[(a, factors[0])], biases[0]) && fits(shift, &[(b, factors[1])], biases[1])
            }
            Self::Downsample { shift, factor, bias } => fits(shift, &[(4 * a, factor)], bias),
            Self::Upsample => node.wide[0] == node.wide_output,
            Self::Attention { exponent, exponent_shift, shift, factor, bias } => {
                let heads = if let Op::Attention { heads } = node.op { heads } else { 1 };
                // Three times the channels of a head; scores differ by twice the largest.
                let score = u64::from(x.channels / heads.max(1)) / 3 * a * a;
                !node.wide[0]
                    && exponent >= 0
                    && fits(exponent_shift, &[(2 * score, exponent)], 0)
                    && x.pixels() <= 1 << 16
                    && fits(shift, &[((1 << 30) + 1, factor)], bias)
            }
        }
    }
}

/// Whether `Σ aᵢ · factorᵢ + bias` stays below 2⁶³ where |aᵢ| has these limits, and below 2³¹ when it is shifted.
fn fits(shift: u32, terms: &[(u64, i32)], bias: i64) -> bool {
    let term = |&(limit, factor): &(u64, i32)| limit * u64::from(factor.unsigned_abs());
    let sum = terms.iter().map(term).fold(bias.unsigned_abs(), u64::saturating_add);
    (1..=62).contains(&shift) && sum < 1 << (31 + shift).min(63)
}

/// The last number of a table fills a word. A table of an 8-bit output has 128 to the unit.
fn table_fits(table: &[i16], wide_output: bool) -> bool {
    let limit = if wide_output { i16::MIN..=i16::MAX } else { -(1 << 14)..=(1 << 14) };
    table.last().is_none_or(|&last| last == 0) && table.iter().all(|entry| limit.contains(entry))
}

/// The largest absolute number of a value.
fn largest(wide: bool) -> u64 {
    if wide { 1 << 15 } else { 1 << 7 }
}

impl Context<'_> {
    /// Whether the node can compute with the integers of its rows without an overflow, whatever its inputs hold. The bounds
    /// are derived in `docs/integer-arithmetic.md`. Weights are read once, however many rows there are.
    pub fn fits<'a>(&self, rows: impl Iterator<Item = Option<Integers<'a>>> + Clone) -> bool {
        rows.clone().all(|row| row.is_some_and(|integers| integers.check(self)))
            && match self.op {
                Op::Conv2d { out, .. } => {
                    let outs = usize::from(out);
                    (0..outs).step_by(PANEL).all(|first| self.panel_fits(outs, first, rows.clone()))
                }
                _ => true,
            }
    }

    /// The same for the sums of a panel of output channels.
    fn panel_fits<'a>(
        &self,
        outs: usize,
        first: usize,
        rows: impl Iterator<Item = Option<Integers<'a>>>,
    ) -> bool {
        let [a, b] = self.wide.map(largest);
        let mut sums = None;
        rows.flatten().all(|row| {
            let Integers::Conv2d { shift, residual, split, bias, factors, .. } = row else { return false };
            let (of, sums) = sums.get_or_insert_with(|| (split, self.absolute_sums(outs, first, split)));
            // The parts of the input are the same at every moment.
            *of == split
                && (first..outs.min(first + PANEL)).zip(sums).all(|(out, sums)| {
                    let sums = sums.map(|sum| u64::from(sum) * a);
                    let [before, after] = factors.map(|factors| factors.get(out).copied().unwrap_or(0));
                    let bias = bias.get(out).copied().unwrap_or_default();
                    sums.iter().all(|&sum| sum <= i32::MAX as u64)
                        && fits(shift, &[(sums[0], before), (sums[1], after), (b, residual)], long(bias))
                })
        })
    }

    /// Sums of the absolute weights of each output channel of a panel, over the input channels before and after the split.
    fn absolute_sums(&self, outs: usize, first: usize, split: u32) -> [[u32; 2]; PANEL] {
        let width = PANEL.min(outs.saturating_sub(first)).max(1) * QUAD;
        let quads = self.inputs.first().map_or(0, |x| usize::from(x.channels).div_ceil(QUAD));
        let panel = self.panels.len() / outs.max(1) * PANEL;
        let weights = self.panels.get(first / PANEL * panel..).unwrap_or_default();
        let weights = weights.get(..panel).unwrap_or(weights);
        let mut sums = [[0; 2]; PANEL];
        for tap in weights.chunks(quads.max(1) * width) {
            let of_first = (split as usize / QUAD).min(quads) * width;
            let (before, after) = tap.split_at_checked(of_first).unwrap_or((tap, &[]));
            for (part, weights) in [before, after].into_iter().enumerate() {
                // So many absolute numbers of 8 bits have a sum of 16.
                for rows in weights.chunks(256 * width) {
                    let mut of_rows = [0u16; PANEL * QUAD];
                    for row in rows.chunks(width) {
                        of_rows.iter_mut().zip(row).for_each(|(sum, w)| *sum += u16::from(w.unsigned_abs()));
                    }
                    for (sums, quad) in sums.iter_mut().zip(of_rows.chunks(QUAD)) {
                        sums[part] += quad.iter().copied().map(u32::from).sum::<u32>();
                    }
                }
            }
        }
        sums
    }
}

/// Two numbers to a word.
#[cfg(feature = "alloc")]
fn halves(numbers: &[i16]) -> Vec<u32> {
    let word =
        |pair: &[i16]| u32::from(pair[0] as u16) | u32::from(pair.get(1).copied().unwrap_or(0) as u16) << 16;
    numbers.chunks(2).map(word).collect()
}

/// Whether the weights of channels that only fill a quad are zero.
pub(crate) fn padding_is_zero([outs, channels, height, width]: [usize; 4], panels: &[i8]) -> bool {
    let taps = height * width;
    let padded = channels..channels.next_multiple_of(QUAD);
    padded.is_empty()
        || (0..outs).all(|out| {
            (0..taps).all(|tap| {
                padded.clone().all(|channel| {
                    // The index of a padded channel is that of its quad's.
                    let at = panel_index([outs, channels, taps], [out, channel, tap]);
                    panels.get(at).is_none_or(|&weight| weight == 0)
                })
            })
        })
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::op::Method;

    #[test]
    fn every_weight_has_a_place_of_its_own() {
        for (outs, channels, taps) in [(1, 1, 1), (3, 5, 9), (16, 4, 1), (17, 8, 9), (40, 3, 9)] {
            let mut seen = vec![false; panel_elements([outs, channels, taps, 1])];
            for out in 0..outs {
                for channel in 0..channels {
                    for tap in 0..taps {
                        let at = panel_index([outs, channels, taps], [out, channel, tap]);
                        assert!(!std::mem::replace(&mut seen[at], true));
                    }
                }
            }
        }
    }

    #[test]
    fn words_and_rows_agree() {
        let x = Shape::new(5, 4, 4);
        let long = [wide(-7), wide(1 << 40)];
        let table = [3i16; TABLE];
        let rows = [
            (Op::Image(x), vec![], Integers::Image { shift: 20, factor: -5 }),
            (Op::Constant { channels: 3 }, vec![], Integers::Constant { value: &[1, -2, 3, 0] }),
            (
                Op::Conv2d { out: 2, kernel: 3, bias: true, residual: None, method: Method::Direct },
                vec![x],
                Integers::Conv2d {
                    shift: 33,
                    residual: 0,
                    split: 4,
                    zeros: [1, -2],
                    bias: &long,
                    factors: [&[3, 4], &[5, -6]],
                },
            ),
            (
                Op::GroupNorm { groups: 1, epsilon: 1.0, silu: true },
                vec![Shape::vector(2)],
                Integers::GroupNorm {
                    gain_shift: 12,
                    epsilon: &long[1..],
                    bias: &long,
                    gain: &[7, 8],
                    table: &table,
                },
            ),
            (Op::Silu, vec![x], Integers::Silu { factor: 3, bias: -1 << 50, table: &table }),
            (
                Op::Add { scale: 1.0 },
                vec![x, x],
                Integers::Add { shift: 9, factors: [1, -1], bias: i64::MIN },
            ),
            (Op::Concat, vec![x, x], Integers::Concat { shift: 9, factors: [1, -1], biases: [-9, 9] }),
            (Op::Downsample, vec![x], Integers::Downsample { shift: 9, factor: 128, bias: 256 }),
            (Op::Upsample, vec![x], Integers::Upsample),
            (
                Op::Attention { heads: 1 },
                vec![Shape::new(6, 2, 2)],
                Integers::Attention { exponent: 9, exponent_shift: 3, shift: 40, factor: -8, bias: -2 },
            ),
        ];
        for (op, shapes, integers) in rows {
            let two_parts = matches!(op, Op::Conv2d { .. });
            let row = integers.encode();
            assert_eq!(row.len(), words(op, &shapes, two_parts), "{op:?}");
            assert_eq!(Integers::parse(op, &shapes, two_parts, &row), Some(integers));
            assert_eq!(Integers::parse(op, &shapes, two_parts, &[&*row, &[0]].concat()), None);
        }
    }

    #[test]
    fn what_could_overflow_is_refused() {
        // 1,024 channels of extreme weights: 9 · 1,024 · 128 · 128 fits 31 bits, and its product with a factor 63.
        let inputs = [Shape::new(1024, 4, 4)];
        let op = Op::Conv2d { out: 1, kernel: 3, bias: true, residual: None, method: Method::Direct };
        let panels = vec![-128i8; 9 * 1024];
        let narrow = Context {
            op,
            inputs: &inputs,
            wide: [false; 2],
            wide_output: false,
            two_parts: false,
            panels: &panels,
        };
        let accepted = |shift, factor, bias, node: &Context<'_>| {
            let (bias, factors) = ([wide(bias)], [factor]);
            let zeros = [if node.wide[0] { 0 } else { 127 }, 0];
            let integers = Integers::Conv2d {
                shift,
                residual: 0,
                split: 1024,
                zeros,
                bias: &bias,
                factors: [&factors, &[]],
            };
            node.fits([Some(integers)].into_iter())
        };
        assert!(accepted(40, i32::MAX, 0, &narrow) && accepted(28, i32::MAX, 0, &narrow));
        // More than 2²⁷ times a factor of 31 bits, over 2²⁷, needs more than 32 bits.
        assert!(!accepted(27, i32::MAX, 0, &narrow));
        assert!(!accepted(63, i32::MAX, 0, &narrow) && !accepted(0, 1, 0, &narrow));
        assert!(!accepted(40, i32::MAX, i64::MAX, &narrow) && !accepted(40, 1, i64::MIN, &narrow));
        // The same sum of numbers of 16 bits does not fit 32.
        assert!(!accepted(40, 1, 0, &Context { wide: [true; 2], ..narrow }));
    }
}
