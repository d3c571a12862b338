/// `y = (y + b) · scale`. Each element of b is added to as many elements of y as y is longer: b has y's shape, or is a
/// vector of its channels.
#[derive(Debug)]
pub struct Add<'a> {
    /// What is added, `[channels, pixels]` or `[channels]`.
    pub b: &'a [f32],
    /// Factor of the sum.
    pub scale: f32,
    /// Input and output, `[channels, pixels]`.
    pub y: &'a mut [f32],
}

impl Add<'_> {
    /// Computes it.
    pub fn run(self) {
        if self.b.len() == self.y.len() {
            for (y, b) in self.y.iter_mut().zip(self.b) {
                *y = (*y + b) * self.scale;
            }
            return;
        }
        let pixels = self.y.len() / self.b.len().max(1);
        for (channel, b) in self.y.chunks_exact_mut(pixels.max(1)).zip(self.b) {
            for y in channel {
                *y = (*y + b) * self.scale;
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let pixels = self.y.len() / self.b.len();
        for (i, y) in self.y.iter_mut().enumerate() {
            *y = (*y + self.b[i / pixels]) * self.scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn run_is_the_definition() {
        for channels in [1, 3, 5, 7, 13] {
            for pixels in [1, 4, 49, 196] {
                for b in [random(1, channels), random(1, channels * pixels)] {
                    let mut y = random(0, channels * pixels);
                    let mut expected = y.clone();
                    Add { b: &b, scale: 0.7, y: &mut y }.run();
                    Add { b: &b, scale: 0.7, y: &mut expected }.reference();
                    assert_eq!(y, expected);
                }
            }
        }
    }
}
