use traflow_graph::model::{PANEL, QUERIES};

use crate::cpu::Cpu;
use crate::math::rsqrt;
use crate::simd::{Kernel, Simd};
use crate::tiles::{Gemm, Panels, Rows};
use crate::vector::exp;

/// Scaled dot-product attention between pixels: `y_i = Σ_j softmax_j(q_i · k_j / √d) v_j` for each head of d channels.
#[derive(Debug)]
pub struct Attention<'a> {
    /// For each pixel the queries of all heads, then the keys, then the values, `[pixels, 3·channels]`.
    pub qkv: &'a [f32],
    /// Number of pixels.
    pub pixels: usize,
    /// Number of heads; divides the channels.
    pub heads: usize,
    /// Memory, as much as [`scratch_bytes`](traflow_graph::model::scratch_bytes) says.
    pub scratch: &'a mut [f32],
    /// Output, `[pixels, channels]`.
    pub y: &'a mut [f32],
}

impl Attention<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Self { qkv, pixels, heads, scratch, y } = self;
        let channels = y.len() / pixels.max(1);
        let depth = channels / heads.max(1);
        let (keys, scores) = scratch.split_at_mut(pixels.next_multiple_of(PANEL) * depth);
        let part = pixels.div_ceil(cpu.threads()).next_multiple_of(QUERIES);
        for head in 0..heads {
            // Panels are whole but the last.
            let keys_of_part = part.next_multiple_of(PANEL);
            let packed = keys.chunks_mut((keys_of_part * depth).max(1));
            let packed = packed.zip(qkv.chunks((keys_of_part * 3 * channels).max(1)));
            let packed = packed.map(|(keys, qkv)| Keys { qkv, channels, head, depth, keys });
            cpu.share(packed, &mut [], |keys, _| keys.pack());
            let parts = y.chunks_mut(part * channels).enumerate().map(|(index, y)| Head {
                qkv,
                keys,
                pixels,
                channels,
                head,
                depth,
                first: index * part,
                y,
            });
            cpu.run(parts, scores);
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let channels = self.y.len() / self.pixels;
        let of_head = channels / self.heads;
        let at = |channel: usize, pixel: usize| f64::from(self.qkv[pixel * 3 * channels + channel]);
        for head in 0..self.heads {
            let of_head = head * of_head..(head + 1) * of_head;
            for i in 0..self.pixels {
                let score = |j| of_head.clone().map(|c| at(c, i) * at(channels + c, j)).sum::<f64>();
                let weight = |j| (score(j) / (of_head.len() as f64).sqrt()).exp();
                let total: f64 = (0..self.pixels).map(weight).sum();
                for channel in of_head.clone() {
                    let mixed: f64 =
                        (0..self.pixels).map(|j| weight(j) * at(2 * channels + channel, j)).sum();
                    self.y[i * channels + channel] = (mixed / total) as f32;
                }
            }
        }
    }
}

/// The keys of some pixels in panels of [`PANEL`] pixels, `[channel, pixel]`, as a product reads its second factor.
struct Keys<'a> {
    qkv: &'a [f32],
    channels: usize,
    head: usize,
    depth: usize,
    keys: &'a mut [f32],
}

impl Keys<'_> {
    fn pack(self) {
        let Self { qkv, channels, head, depth, keys } = self;
        let panels = qkv.chunks(3 * channels * PANEL).zip(keys.chunks_exact_mut(depth * PANEL));
        for (pixels, panel) in panels {
            let width = pixels.len() / (3 * channels);
            for (lane, pixel) in pixels.chunks_exact(3 * channels).enumerate() {
                let key = &pixel[channels + head * depth..][..depth];
                for (place, key) in panel[lane..].iter_mut().step_by(width).zip(key) {
                    *place = *key;
                }
            }
        }
    }
}

/// One head, for the pixels of `y`, of which this one is the first of the picture.
struct Head<'a> {
    qkv: &'a [f32],
    keys: &'a [f32],
    pixels: usize,
    channels: usize,
    head: usize,
    depth: usize,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for Head<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, scratch: &mut [f32]) {
        let Self { qkv, keys, pixels, channels, head, depth, first, y } = self;
        let tail = pixels % PANEL;
        let keys = Panels { elements: keys, panel: depth * PANEL, row: PANEL, tail };
        let values = &qkv[2 * channels + head * depth..];
        let row = 3 * channels;
        let values = Panels { elements: values, panel: PANEL, row, tail: row };
        for (index, y) in y.chunks_mut(QUERIES * channels).enumerate() {
            let queries = &qkv[(first + index * QUERIES) * row..];
            let count = y.len() / channels;
            let scores = &mut scratch[..count * pixels];
            let mut totals = [0.0; QUERIES];
            let queries =
                Rows { elements: &queries[head * depth..], group: count, next_group: 0, next: row, depth };
            let size = [count, pixels];
            Gemm { a: queries, b: keys, size, add: false, y: scores, stride: pixels }.run(s);
            let factor = rsqrt(depth as f32);
            for (scores, total) in scores.chunks_exact_mut(pixels).zip(&mut totals) {
                *total = softmax(s, scores, factor);
            }
            let weights = Rows { elements: scores, group: count, next_group: 0, next: pixels, depth: pixels };
            let (size, of_head) = ([count, depth], &mut y[head * depth..]);
            Gemm { a: weights, b: values, size, add: false, y: of_head, stride: channels }.run(s);
            for (y, total) in y.chunks_exact_mut(channels).zip(totals) {
                let factor = s.splat(1.0 / total);
                for y in y[head * depth..][..depth].chunks_mut(S::LANES) {
                    s.store(s.mul(s.load(y), factor), y);
                }
            }
        }
    }
}

/// Turns scores into e to the power of their distance from the largest, times the factor, and gives the sum.
#[inline(always)]
fn softmax<S: Simd>(s: S, scores: &mut [f32], factor: f32) -> f32 {
    let (whole, rest) = scores.split_at_mut(scores.len() / S::LANES * S::LANES);
    // Four at a time, which do not wait for each other.
    let mut largest = [s.splat(f32::NEG_INFINITY); 4];
    for scores in whole.chunks_exact(4 * S::LANES) {
        for (n, largest) in largest.iter_mut().enumerate() {
            *largest = s.max(s.at(scores, n * S::LANES), *largest);
        }
    }
    for scores in whole.chunks_exact(4 * S::LANES).remainder().chunks_exact(S::LANES) {
        largest[0] = s.max(s.load(scores), largest[0]);
    }
    let [a, b, c, d] = largest;
    let largest = s.fold(s.max(s.max(a, b), s.max(c, d)), f32::max);
    let largest = rest.iter().fold(largest, |a, &b| a.max(b));
    let (factor, offset) = (s.splat(factor), s.splat(-largest * factor));
    let mut total = s.splat(0.0);
    for scores in whole.chunks_exact_mut(S::LANES) {
        let x = exp(s, s.mul_add(s.load(scores), factor, offset));
        total = s.add(total, x);
        s.store(x, scores);
    }
    let mut sum = s.fold(total, |a, b| a + b);
    if !rest.is_empty() {
        s.store(exp(s, s.mul_add(s.load(rest), factor, offset)), rest);
        sum += rest.iter().sum::<f32>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for (channels, heads) in [(1, 1), (3, 1), (5, 5), (14, 2), (13, 1), (64, 1), (96, 2)] {
            for pixels in [1, 4, 9, 49, 64] {
                let qkv = &random(0, 3 * channels * pixels);
                let scratch = pixels.next_multiple_of(PANEL) * channels / heads + QUERIES * pixels;
                let mut expected = random(2, channels * pixels);
                let scratch = &mut std::vec![f32::NAN; scratch];
                Attention { qkv, pixels, heads, scratch, y: &mut expected }.reference();
                for isa in crate::Isa::all() {
                    let mut y = random(1, channels * pixels);
                    scratch.fill(f32::NAN);
                    Attention { qkv, pixels, heads, scratch, y: &mut y }.run(&Cpu::new(isa));
                    close(&y, &expected, pixels, &std::format!("{isa}: {channels}, {heads}, {pixels}"));
                }
            }
        }
    }
}
