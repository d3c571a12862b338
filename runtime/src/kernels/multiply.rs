/// `y = y · b`. Each element of b is the factor of as many elements of y as y is longer: b is a vector of y's channels,
/// or one number.
#[derive(Debug)]
pub struct Multiply<'a> {
    /// The factors, `[channels]` or `[1]`.
    pub b: &'a [f32],
    /// Input and output, `[channels, pixels]`.
    pub y: &'a mut [f32],
}

impl Multiply<'_> {
    /// Computes it.
    pub fn run(self) {
        let pixels = self.y.len() / self.b.len().max(1);
        for (channel, b) in self.y.chunks_exact_mut(pixels.max(1)).zip(self.b) {
            channel.iter_mut().for_each(|y| *y *= b);
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let pixels = self.y.len() / self.b.len();
        for (i, y) in self.y.iter_mut().enumerate() {
            *y *= self.b[i / pixels];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn run_is_the_definition() {
        for channels in [1, 3, 5, 13] {
            for pixels in [1, 4, 49] {
                for b in [random(1, channels), random(1, 1)] {
                    let mut y = random(0, channels * pixels);
                    let mut expected = y.clone();
                    Multiply { b: &b, y: &mut y }.run();
                    Multiply { b: &b, y: &mut expected }.reference();
                    assert_eq!(y, expected);
                }
            }
        }
    }
}
