use crate::math::silu;

/// `y = y · (1 + scale) + shift` for each channel, and SiLU if asked to.
#[derive(Debug)]
pub struct ScaleShift<'a> {
    /// The scale of each channel, then the shift of each, `[2·channels]`.
    pub b: &'a [f32],
    /// Whether SiLU follows.
    pub silu: bool,
    /// Input and output, `[channels, pixels]`.
    pub y: &'a mut [f32],
}

impl ScaleShift<'_> {
    /// Computes it.
    pub fn run(self) {
        let (scales, shifts) = self.b.split_at(self.b.len() / 2);
        let pixels = (self.y.len() / scales.len().max(1)).max(1);
        for (channel, (scale, shift)) in self.y.chunks_exact_mut(pixels).zip(scales.iter().zip(shifts)) {
            let factor = 1.0 + scale;
            if self.silu {
                channel.iter_mut().for_each(|y| *y = silu(*y * factor + shift));
            } else {
                channel.iter_mut().for_each(|y| *y = *y * factor + shift);
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let channels = self.b.len() / 2;
        let pixels = self.y.len() / channels;
        for (i, y) in self.y.iter_mut().enumerate() {
            let (scale, shift) = (self.b[i / pixels], self.b[channels + i / pixels]);
            let x = f64::from(*y) * (1.0 + f64::from(scale)) + f64::from(shift);
            *y = if self.silu { x / (1.0 + (-x).exp()) } else { x } as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for channels in [1, 3, 5, 13] {
            for pixels in [1, 4, 49] {
                for silu in [false, true] {
                    let b = &random(1, 2 * channels);
                    let mut y = random(0, channels * pixels);
                    let mut expected = y.clone();
                    ScaleShift { b, silu, y: &mut y }.run();
                    ScaleShift { b, silu, y: &mut expected }.reference();
                    close(&y, &expected, 2, &std::format!("{channels}, {pixels}"));
                }
            }
        }
    }
}
