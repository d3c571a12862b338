use traflow_graph::model::BLUR_REACH;

/// Convolution of each channel with `far, near, middle, near, far` along rows and along columns, where the five sum to 1
/// and zeros surround the picture.
#[derive(Debug)]
pub struct Blur<'a> {
    /// Input, `[channels, height, width]`.
    pub x: &'a [f32],
    /// Rows of a channel.
    pub height: usize,
    /// Columns of a channel.
    pub width: usize,
    /// Factor of the neighbours.
    pub near: f32,
    /// Factor of their neighbours.
    pub far: f32,
    /// Memory for one row between borders, `[width + 2·BLUR_REACH]`.
    pub row: &'a mut [f32],
    /// Output, `[channels, height, width]`.
    pub y: &'a mut [f32],
}

impl Blur<'_> {
    fn taps(near: f32, far: f32) -> [f32; 2 * BLUR_REACH + 1] {
        [far, near, 1.0 - 2.0 * near - 2.0 * far, near, far]
    }

    /// Computes it.
    pub fn run(self) {
        let (height, width) = (self.height, self.width.max(1));
        let taps = Self::taps(self.near, self.far);
        let pixels = (height * width).max(1);
        for (x, y) in self.x.chunks_exact(pixels).zip(self.y.chunks_exact_mut(pixels)) {
            for (above, y) in y.chunks_exact_mut(width).enumerate() {
                // The column's sum goes between the borders of the row, then the row's sum into the output.
                self.row.fill(0.0);
                let Some(row) = self.row.get_mut(BLUR_REACH..BLUR_REACH + width) else { return };
                for (tap, factor) in taps.into_iter().enumerate() {
                    let Some(x) =
                        (above + tap).checked_sub(BLUR_REACH).and_then(|r| x.chunks_exact(width).nth(r))
                    else {
                        continue;
                    };
                    row.iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x);
                }
                for (y, window) in y.iter_mut().zip(self.row.windows(taps.len())) {
                    *y = window.iter().zip(taps).map(|(x, factor)| x * factor).sum();
                }
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let taps = Self::taps(self.near, self.far).map(f64::from);
        let pixels = self.height * self.width;
        for (i, y) in self.y.iter_mut().enumerate() {
            let (channel, row, column) = (i / pixels, i % pixels / self.width, i % self.width);
            let mut sum = 0.0;
            for (down, vertical) in taps.into_iter().enumerate() {
                for (right, horizontal) in taps.into_iter().enumerate() {
                    let (row, column) = ((row + down).wrapping_sub(2), (column + right).wrapping_sub(2));
                    if row < self.height && column < self.width {
                        let x = self.x[channel * pixels + row * self.width + column];
                        sum += vertical * horizontal * f64::from(x);
                    }
                }
            }
            *y = sum as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for channels in [1, 3] {
            for (height, width) in [(1, 1), (2, 7), (7, 2), (14, 14)] {
                for (near, far) in [(0.25, 0.0), (0.25, 0.0625), (-0.1, 0.3)] {
                    let x = &random(0, channels * height * width);
                    let mut row = random(1, width + 2 * BLUR_REACH);
                    let (mut y, mut expected) = (random(2, x.len()), random(3, x.len()));
                    Blur { x, height, width, near, far, row: &mut row, y: &mut y }.run();
                    Blur { x, height, width, near, far, row: &mut row, y: &mut expected }.reference();
                    close(&y, &expected, 25, &std::format!("{channels}, {height}×{width}, {near}, {far}"));
                }
            }
        }
    }
}
