use crate::math::{dot, exp, rsqrt};

/// Scaled dot-product attention between pixels: `y_i = Σ_j softmax_j(q_i · k_j / √d) v_j` for each head of d channels.
#[derive(Debug)]
pub struct Attention<'a> {
    /// Queries of all heads, then keys, then values, `[3·channels, pixels]`.
    pub qkv: &'a [f32],
    /// Number of heads; divides the channels.
    pub heads: usize,
    /// Memory for one row of scores, `[pixels]`.
    pub scores: &'a mut [f32],
    /// Output, `[channels, pixels]`.
    pub y: &'a mut [f32],
}

impl Attention<'_> {
    /// Computes it.
    pub fn run(self) {
        let pixels = self.scores.len().max(1);
        let of_head = (self.y.len() / self.heads.max(1)).max(1);
        let factor = rsqrt((of_head / pixels) as f32);
        let (queries, rest) = self.qkv.split_at(self.y.len());
        let (keys, values) = rest.split_at(self.y.len());
        let heads = queries.chunks_exact(of_head).zip(keys.chunks_exact(of_head));
        let heads = heads.zip(values.chunks_exact(of_head)).zip(self.y.chunks_exact_mut(of_head));
        for (((queries, keys), values), y) in heads {
            for pixel in 0..pixels {
                self.scores.fill(0.0);
                let channels = queries.chunks_exact(pixels).zip(keys.chunks_exact(pixels));
                for (query, keys) in channels {
                    let query = query[pixel] * factor;
                    for (score, key) in self.scores.iter_mut().zip(keys) {
                        *score += query * key;
                    }
                }
                let largest = self.scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
                for score in self.scores.iter_mut() {
                    *score = exp(*score - largest);
                }
                let total = crate::math::sum(self.scores, |score| score);
                for (y, values) in y.chunks_exact_mut(pixels).zip(values.chunks_exact(pixels)) {
                    y[pixel] = dot(self.scores, values) / total;
                }
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let pixels = self.scores.len();
        let channels = self.y.len() / pixels;
        let of_head = channels / self.heads;
        let at = |channel: usize, pixel: usize| f64::from(self.qkv[channel * pixels + pixel]);
        for head in 0..self.heads {
            let of_head = head * of_head..(head + 1) * of_head;
            for i in 0..pixels {
                let score = |j| of_head.clone().map(|c| at(c, i) * at(channels + c, j)).sum::<f64>();
                let weight = |j| (score(j) / (of_head.len() as f64).sqrt()).exp();
                let total: f64 = (0..pixels).map(weight).sum();
                for channel in of_head.clone() {
                    let mixed: f64 = (0..pixels).map(|j| weight(j) * at(2 * channels + channel, j)).sum();
                    self.y[channel * pixels + i] = (mixed / total) as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for (channels, heads) in [(1, 1), (3, 1), (5, 5), (14, 2), (13, 1)] {
            for pixels in [1, 4, 9, 49] {
                let qkv = &random(0, 3 * channels * pixels);
                let mut scores = random(1, pixels);
                let (mut y, mut expected) = (random(1, channels * pixels), random(2, channels * pixels));
                Attention { qkv, heads, scores: &mut scores, y: &mut y }.run();
                Attention { qkv, heads, scores: &mut scores, y: &mut expected }.reference();
                close(&y, &expected, pixels, &std::format!("{channels}, {heads}, {pixels}"));
            }
        }
    }
}
