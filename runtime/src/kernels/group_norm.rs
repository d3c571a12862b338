use crate::math::{rsqrt, silu, sum};

/// Normalises each group of channels to mean 0 and variance 1, scales and shifts each channel, and applies SiLU if
/// asked to.
#[derive(Debug)]
pub struct GroupNorm<'a> {
    /// Scale of each channel.
    pub scale: &'a [f32],
    /// Shift of each channel.
    pub shift: &'a [f32],
    /// Number of groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether SiLU follows.
    pub silu: bool,
    /// Input and output, `[channels, pixels]`.
    pub y: &'a mut [f32],
}

impl GroupNorm<'_> {
    /// Computes it.
    pub fn run(self) {
        let channels = self.scale.len().max(1);
        let of_group = (channels / self.groups.max(1)).max(1);
        let pixels = (self.y.len() / channels).max(1);
        let parameters = self.scale.chunks_exact(of_group).zip(self.shift.chunks_exact(of_group));
        for (group, (scale, shift)) in self.y.chunks_exact_mut(of_group * pixels).zip(parameters) {
            let count = group.len() as f32;
            let mean = sum(group, |x| x) / count;
            let variance = sum(group, |x| (x - mean) * (x - mean)) / count;
            let factor = rsqrt(variance + self.epsilon);
            for (channel, (scale, shift)) in group.chunks_exact_mut(pixels).zip(scale.iter().zip(shift)) {
                let factor = factor * scale;
                if self.silu {
                    channel.iter_mut().for_each(|y| *y = silu((*y - mean) * factor + shift));
                } else {
                    channel.iter_mut().for_each(|y| *y = (*y - mean) * factor + shift);
                }
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let pixels = self.y.len() / self.scale.len();
        let of_group = self.scale.len() / self.groups;
        for (index, group) in self.y.chunks_exact_mut(of_group * pixels).enumerate() {
            let count = group.len() as f64;
            let mean = group.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let variance = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
            for (i, y) in group.iter_mut().enumerate() {
                let channel = index * of_group + i / pixels;
                let normal = (f64::from(*y) - mean) / (variance + f64::from(self.epsilon)).sqrt();
                let x = normal * f64::from(self.scale[channel]) + f64::from(self.shift[channel]);
                *y = if self.silu { x / (1.0 + (-x).exp()) } else { x } as f32;
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
        for (channels, groups) in [(1, 1), (3, 3), (5, 1), (12, 4), (26, 13)] {
            for pixels in [1, 4, 49, 196] {
                for silu in [false, true] {
                    let (scale, shift) = (&random(1, channels), &random(2, channels));
                    let mut y: std::vec::Vec<f32> =
                        random(0, channels * pixels).iter().map(|x| 3.0 * x + 5.0).collect();
                    let mut expected = y.clone();
                    // A large epsilon keeps groups of one element comparable.
                    GroupNorm { scale, shift, groups, epsilon: 1e-2, silu, y: &mut y }.run();
                    GroupNorm { scale, shift, groups, epsilon: 1e-2, silu, y: &mut expected }.reference();
                    close(&y, &expected, 100, &std::format!("{channels}, {groups}, {pixels}"));
                }
            }
        }
    }
}
