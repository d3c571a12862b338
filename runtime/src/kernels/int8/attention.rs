use traflow_graph::quant::{NEAR, QUAD, QUERIES, TABLE};

use super::{ValuesMut, array, scale, shifted};
use crate::cpu::Cpu;
use crate::simd::{IntegerKernel, LANES, Lanes, Row, begin, dots};

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
    /// Number of pixels.
    pub pixels: usize,
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
    /// Memory for a score of each pixel. Vectors want one for each of [`QUERIES`] where there are more than [`NEAR`] pixels, and
    /// are fastest with as much as `ample_bytes`.
    pub scratch: &'a mut [i32],
    /// Output.
    pub y: ValuesMut<'a>,
}

impl Attention<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let channels = self.y.len() / self.pixels.max(1);
        let of_head = channels / self.heads.max(1);
        let whole = of_head.is_multiple_of(LANES)
            && (self.pixels <= NEAR || self.scratch.len() >= QUERIES * self.pixels);
        let Some(vectors) = cpu.isa().vectors().filter(|_| whole) else { return self.words() };
        let Self { qkv, pixels, exponent, exponent_shift, factor, bias, shift, scratch, y, .. } = self;
        let part = pixels.div_ceil(cpu.threads()).next_multiple_of(QUERIES);
        let parts = y.chunks(part * channels).enumerate().map(|(index, y)| {
            let first = index * part;
            Part { qkv, pixels, channels, of_head, exponent, exponent_shift, factor, bias, shift, first, y }
        });
        cpu.run_integers(vectors, parts, bytemuck::cast_slice_mut(scratch));
    }

    /// For processors with nothing but general registers.
    fn words(mut self) {
        let pixels = self.pixels.max(1);
        let channels = self.y.len() / pixels;
        // One query at a time.
        let scores = core::mem::take(&mut self.scratch).get_mut(..pixels).unwrap_or_default();
        let of_head = channels / self.heads.max(1);
        for head in 0..self.heads {
            let first = head * of_head;
            let at = |kind: usize, pixel: usize| {
                let start = (3 * pixel + kind) * channels + first;
                self.qkv.get(start..start + of_head).unwrap_or_default()
            };
            for pixel in 0..pixels {
                let query = at(0, pixel);
                for (j, score) in scores.iter_mut().enumerate() {
                    let products = query.iter().zip(at(1, j)).map(|(&q, &k)| i32::from(q) * i32::from(k));
                    *score = products.sum();
                }
                let largest = scores.iter().copied().max().unwrap_or(0);
                let mut total = 0u32;
                for score in scores.iter_mut() {
                    let below = i64::from(largest) - i64::from(*score);
                    let weight = power(((below * i64::from(self.exponent)) >> self.exponent_shift) as u64);
                    total += weight;
                    *score = weight as i32;
                }
                let (bits, reciprocal) = reciprocal(total);
                for channel in (0..of_head).step_by(LANES) {
                    let mut sums = [0i64; LANES];
                    for (j, &w) in scores.iter().enumerate() {
                        for (sum, &value) in sums.iter_mut().zip(at(2, j).get(channel..).unwrap_or_default())
                        {
                            *sum += i64::from(w) * i64::from(value);
                        }
                    }
                    for (index, sum) in sums.into_iter().enumerate().take(of_head - channel) {
                        // The mean in units of 2⁻²³; the sum is below 128 · total.
                        let mean = scale(scale(sum, bits - 23) * reciprocal, 30);
                        let y = shifted(mean * i64::from(self.factor) + self.bias, self.shift);
                        self.y.set(pixel * channels + first + channel + index, y);
                    }
                }
            }
        }
    }
}

/// The queries of some pixels.
struct Part<'a> {
    qkv: &'a [i8],
    pixels: usize,
    channels: usize,
    of_head: usize,
    exponent: i32,
    exponent_shift: u32,
    factor: i32,
    bias: i64,
    shift: u32,
    /// The first of the pixels.
    first: usize,
    y: ValuesMut<'a>,
}

/// [`POWERS`] less 2¹⁵, for products of numbers with sign.
static SIGNED_POWERS: [i16; TABLE] = {
    let mut powers = [0; TABLE];
    let mut i = 0;
    while i < POWERS.len() {
        powers[i] = (POWERS[i] as i32 - (1 << 15)) as i16;
        i += 1;
    }
    powers
};

/// Scores, and then weights, of a key or of two: a lane for each query.
type Scores = [i32; QUERIES];

/// Channels of queries that are kept for all keys.
const DEPTH: usize = 64;

/// Pixels whose products fit 32 bits.
const BLOCK: usize = 256;

/// Values of a vector of channels: a row for each pair of pixels, and for each block of pixels one more with their sums.
type Values = [[i32; LANES]];

/// Rows of the values of a vector of channels.
const fn rows(pixels: usize) -> usize {
    pixels.div_ceil(2) + pixels.div_ceil(BLOCK)
}

/// Bytes of scratch memory with which attention is fastest on any vectors: all values are paired once.
pub(crate) fn ample_bytes(channels: usize, pixels: usize) -> usize {
    let scores = if pixels > NEAR { pixels } else { 0 };
    (scores + channels / LANES * rows(pixels)) * size_of::<Scores>()
}

impl IntegerKernel for Part<'_> {
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Lanes>(mut self, s: S, scratch: &mut [u8]) {
        let mut near = [[0; QUERIES]; NEAR];
        let (scratch, _) = bytemuck::cast_slice_mut::<_, i32>(scratch).as_chunks_mut();
        let (scores, values) = match near.get_mut(..self.pixels) {
            Some(near) => (near, scratch),
            None => scratch.split_at_mut(self.pixels),
        };
        // Where there is no memory for all values, those of a block are paired whenever they are needed.
        let of_vector = rows(self.pixels);
        let kept = values.len() >= self.of_head / LANES * of_vector;
        let mut block = [[0; LANES]; rows(BLOCK)];
        let table = s.table(&SIGNED_POWERS);
        let pixels = self.y.len() / self.channels.max(1);
        for head in (0..self.channels).step_by(self.of_head) {
            let vectors = (head..head + self.of_head).step_by(LANES);
            if kept {
                for (channel, values) in vectors.clone().zip(values.chunks_exact_mut(of_vector)) {
                    for (index, values) in values.chunks_mut(rows(BLOCK)).enumerate() {
                        s.run_integers(Pair { part: &self, channel, block: index, values }, &mut []);
                    }
                }
            }
            for start in (0..pixels).step_by(QUERIES) {
                let mut largest = s.splat(i32::MIN);
                for channel in (head..head + self.of_head).step_by(DEPTH) {
                    let depth = DEPTH.min(head + self.of_head - channel);
                    largest = self.scores(s, start, pixels, channel, depth, channel > head, scores);
                }
                let totals = self.weights(s, &table, largest, scores);
                for (index, channel) in vectors.clone().enumerate() {
                    let kept = kept.then(|| &values[index * of_vector..][..of_vector]);
                    let (tile, block) = ([start, pixels], &mut block);
                    match S::TILE[0] {
                        8 => self.means::<S, 16>(s, tile, channel, totals, scores, kept, block),
                        _ => self.means::<S, 4>(s, tile, channel, totals, scores, kept, block),
                    }
                }
            }
        }
    }
}

impl Part<'_> {
    /// Writes the products of a tile's queries and all keys over some channels, or adds them to what is there, and gives the
    /// largest of each query. Queries after the last one repeat it.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "where the queries are, and where their channels are")]
    fn scores<S: Lanes>(
        &self,
        s: S,
        start: usize,
        pixels: usize,
        channel: usize,
        depth: usize,
        more: bool,
        scores: &mut [Scores],
    ) -> S::V {
        let next = 3 * self.channels;
        let mut rows = [[0; LANES]; DEPTH / QUAD];
        for (rows, channel) in
            rows.as_chunks_mut::<4>().0.iter_mut().zip((channel..channel + depth).step_by(LANES))
        {
            let mut queries = [&[0; LANES]; LANES];
            for (m, query) in queries.iter_mut().enumerate() {
                let pixel = self.first + pixels.min(start + m + 1) - 1;
                *query = array(self.qkv, pixel * next + channel);
            }
            for (row, v) in rows.iter_mut().zip(s.transpose(queries)) {
                s.store(v, row);
            }
        }
        let rows: &[Row] = bytemuck::cast_slice(&rows[..depth / QUAD]);
        let begin = begin::<S, i8>(s, rows);
        let keys = &self.qkv[self.channels + channel..];
        let mut largest = s.splat(i32::MIN);
        for (tile, scores) in scores.chunks_mut(TILE).enumerate() {
            let mut sums = [[begin]; TILE];
            let mut keys_of_tile = [&[][..]; TILE];
            for (m, key) in keys_of_tile.iter_mut().enumerate() {
                *key = &keys[(tile * TILE + m.min(scores.len() - 1)) * next..][..depth];
            }
            dots(s, keys_of_tile, [rows], &mut sums);
            for (scores, sum) in scores.iter_mut().zip(sums) {
                let sum = if more { s.add(sum[0], s.load(scores)) } else { sum[0] };
                largest = s.max(largest, sum);
                s.store(sum, scores);
            }
        }
        largest
    }

    /// Turns the scores of all queries into weights less 2¹⁵, of 16 bits, those of two keys to a lane, and gives the sums of
    /// the weights.
    #[inline(always)]
    fn weights<S: Lanes>(
        &self,
        s: S,
        table: &S::Table,
        largest: S::V,
        scores: &mut [Scores],
    ) -> [u32; QUERIES] {
        let exponent = s.splat(self.exponent);
        let mut totals = s.splat(0);
        for pixel in (0..self.pixels).step_by(2) {
            let last = pixel + 1 == self.pixels;
            let mut z = [s.splat(0); 2];
            for (k, z) in z.iter_mut().enumerate() {
                let below = s.sub(largest, s.load(&scores[(pixel + k).min(self.pixels - 1)]));
                *z = s.narrow(s.mul_long(below, exponent), self.exponent_shift);
            }
            let parts = [s.and(z[0], s.splat(0xffff)), s.and(z[1], s.splat(0xffff))];
            let mut weights = s.interpolate(table, parts);
            for (weight, z) in weights.iter_mut().zip(z) {
                // Beyond 17 octaves nothing is left.
                let octave = s.min(s.shift(z, s.splat(16)), s.splat(22));
                let sum = s.add(*weight, s.splat(1 << (15 + 8)));
                let half = s.shift(sum, s.add(octave, s.splat(7)));
                *weight = s.shift(s.add(half, s.splat(1)), s.splat(1));
            }
            if last {
                weights[1] = s.splat(0);
            }
            totals = s.add(totals, s.add(weights[0], weights[1]));
            let signed = s.splat(1 << 15);
            s.store(s.pair(s.sub(weights[0], signed), s.sub(weights[1], signed)), &mut scores[pixel / 2]);
        }
        let mut lanes = [0; LANES];
        s.store(totals, &mut lanes);
        let mut totals = [0; QUERIES];
        totals.iter_mut().zip(lanes).for_each(|(total, lane)| *total = lane as u32);
        totals
    }

    /// The mean values of a vector of channels, Q queries at once, from all values or from a block's that are paired here.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "where the queries are, and what is known of them")]
    fn means<S: Lanes, const Q: usize>(
        &mut self,
        s: S,
        [start, pixels]: [usize; 2],
        channel: usize,
        totals: [u32; QUERIES],
        weights: &[Scores],
        kept: Option<&Values>,
        block: &mut [[i32; LANES]; rows(BLOCK)],
    ) {
        for first in (0..QUERIES.min(pixels - start)).step_by(Q) {
            let mut longs = [s.splat_long(0); Q];
            for (index, weights) in weights[..self.pixels.div_ceil(2)].chunks(BLOCK / 2).enumerate() {
                let values = match kept {
                    Some(values) => &values[index * rows(BLOCK)..],
                    None => {
                        let values = &mut block[..];
                        s.run_integers(Pair { part: self, channel, block: index, values }, &mut []);
                        &*block
                    }
                };
                let mut sums = [s.splat(0); Q];
                for (weights, pair) in weights.iter().zip(values) {
                    s.dot_pairs_each(&mut sums, s.load(pair), array(weights, first));
                }
                let all = s.load(&values[weights.len()]);
                let all = s.mul_long(all, s.splat(1 << 15));
                for (long, sum) in longs.iter_mut().zip(sums) {
                    *long = s.add_long(*long, s.add_long(all, s.mul_long(sum, s.splat(1))));
                }
            }
            for (m, sum) in longs.into_iter().enumerate().take(pixels - start - first) {
                let (bits, reciprocal) = reciprocal(totals[first + m]);
                // The sum over 2^(bits - 23), below 2³⁰.
                let sum = match bits {
                    ..=23 => s.mul(s.narrow(sum, 0), s.splat(1 << (23 - bits))),
                    _ => s.narrow(s.add_long(sum, s.splat_long(1 << (bits - 24))), bits as u32 - 23),
                };
                // The reciprocal may be 2³¹: half of it twice, and one.
                let half = s.mul_long(sum, s.splat((reciprocal >> 1) as i32));
                let odd = s.mul_long(sum, s.splat((reciprocal & 1) as i32));
                let product = s.add_long(s.add_long(half, half), s.add_long(odd, s.splat_long(1 << 29)));
                let mean = s.narrow(product, 30);
                let y = s.add_long(s.mul_long(mean, s.splat(self.factor)), s.splat_long(self.bias));
                let index = (start + first + m) * self.channels + channel;
                self.y.store(s, s.narrow(y, self.shift), index, LANES);
            }
        }
    }
}

/// Pairs the values of a block of pixels, and sums them.
struct Pair<'a, 'p> {
    part: &'a Part<'p>,
    /// The first of the channels.
    channel: usize,
    block: usize,
    values: &'a mut Values,
}

impl IntegerKernel for Pair<'_, '_> {
    #[inline(always)]
    fn run<S: Lanes>(self, s: S, _: &mut [u8]) {
        let Self { part: &Part { qkv, channels, pixels, .. }, channel, block, values: rows } = self;
        let values = &qkv[2 * channels + channel..];
        let load = |pixel: usize| array(values, pixel * 3 * channels);
        let pixels = block * BLOCK..pixels.min((block + 1) * BLOCK);
        let mut all = s.splat(0);
        for (pixel, row) in pixels.clone().step_by(2).zip(&mut *rows) {
            let second = if pixel + 1 < pixels.end { s.load8(load(pixel + 1)) } else { s.splat(0) };
            let pair = s.pair(s.load8(load(pixel)), second);
            all = s.dot_pairs(all, pair, s.splat(0x0001_0001));
            s.store(pair, row);
        }
        s.store(all, &mut rows[pixels.len().div_ceil(2)]);
    }
}

/// Keys whose scores are summed at once.
const TILE: usize = 8;

/// The number of bits of a sum of weights, 16 to 32, and `2^(30 + bits)` over it, in [2³⁰, 2³¹].
fn reciprocal(total: u32) -> (i64, i64) {
    let bits = i64::from(32 - total.leading_zeros());
    // Both times 2^(32 - bits).
    (bits, super::reciprocal(total.max(1) << total.leading_zeros().min(31)) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::int8::tests::{ends, narrow, same};
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
                pixels,
                heads,
                exponent,
                exponent_shift: 20,
                factor: 200 << 13,
                bias: 1 << 35,
                shift: 36,
                scratch: &mut vec![0; QUERIES * pixels],
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
            let scratch = &mut vec![0; QUERIES * qkv.len() / 3];
            let attention = Attention {
                qkv,
                pixels: qkv.len() / 3,
                heads: 1,
                exponent: i32::MAX,
                exponent_shift: 16,
                factor: 1 << 8,
                bias: 1 << 30,
                shift: 31,
                scratch,
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

    #[test]
    fn every_processor_gives_the_same() {
        for (of_head, heads, pixels) in
            [(16, 1, 16), (32, 2, 49), (16, 3, 300), (7, 2, 20), (64, 1, 513), (144, 1, 7)]
        {
            let len = 3 * of_head * heads * pixels;
            for (case, qkv) in [narrow(0, len), ends(1, len), vec![-128; len]].iter().enumerate() {
                for (exponent, exponent_shift) in [(3 << 20, 22), (1 << 10, 20), (i32::MAX, 24), (0, 30)] {
                    let begin = vec![0; of_head * heads * pixels];
                    let ample = case % 2 * ample_bytes(of_head * heads, pixels) / 4;
                    same(&begin, &std::format!("{of_head}, {heads}, {pixels}, {case}"), |y, cpu| {
                        let attention = Attention {
                            qkv,
                            pixels,
                            heads,
                            exponent,
                            exponent_shift,
                            factor: 1 << 20,
                            bias: 1 << 35,
                            shift: 36,
                            scratch: &mut vec![0; ample.max(QUERIES * pixels)],
                            y,
                        };
                        attention.run(cpu);
                    });
                }
            }
        }
    }
}
