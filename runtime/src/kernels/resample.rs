/// Mean of each 2×2 square.
#[derive(Debug)]
pub struct Downsample<'a> {
    /// Input, `[channels, 2·height, 2·width]`.
    pub x: &'a [f32],
    /// Columns of the output.
    pub width: usize,
    /// Output, `[channels, height, width]`.
    pub y: &'a mut [f32],
}

impl Downsample<'_> {
    /// Computes it.
    pub fn run(self) {
        // Channels of even height are one tall picture.
        let rows = self.x.chunks_exact(4 * self.width.max(1));
        for (y, x) in self.y.chunks_exact_mut(self.width.max(1)).zip(rows) {
            let (above, below) = x.split_at(2 * self.width);
            let pairs = above.as_chunks::<2>().0.iter().zip(below.as_chunks::<2>().0);
            for (y, ([a, b], [c, d])) in y.iter_mut().zip(pairs) {
                *y = ((a + b) + (c + d)) * 0.25;
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let wide = 2 * self.width;
        for (i, y) in self.y.iter_mut().enumerate() {
            let (row, column) = (2 * (i / self.width), 2 * (i % self.width));
            let at = |dy: usize, dx: usize| f64::from(self.x[(row + dy) * wide + column + dx]);
            *y = ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0) as f32;
        }
    }
}

/// Each pixel becomes a 2×2 square.
#[derive(Debug)]
pub struct Upsample<'a> {
    /// Input, `[channels, height, width]`.
    pub x: &'a [f32],
    /// Columns of the input.
    pub width: usize,
    /// Output, `[channels, 2·height, 2·width]`.
    pub y: &'a mut [f32],
}

impl Upsample<'_> {
    /// Computes it.
    pub fn run(self) {
        let rows = self.x.chunks_exact(self.width.max(1));
        for (y, x) in self.y.chunks_exact_mut(4 * self.width.max(1)).zip(rows) {
            let (above, below) = y.split_at_mut(2 * self.width);
            for (pair, &x) in above.as_chunks_mut::<2>().0.iter_mut().zip(x) {
                *pair = [x, x];
            }
            below.copy_from_slice(above);
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let wide = 2 * self.width;
        for (i, y) in self.y.iter_mut().enumerate() {
            *y = self.x[(i / wide / 2) * self.width + (i % wide) / 2];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for channels in [1, 3, 5] {
            for (height, width) in [(1, 1), (2, 7), (7, 2), (14, 14)] {
                let (small, large) = (channels * height * width, 4 * channels * height * width);
                let x = random(0, large);
                let (mut y, mut expected) = (std::vec![0.0; small], std::vec![0.0; small]);
                Downsample { x: &x, width, y: &mut y }.run();
                Downsample { x: &x, width, y: &mut expected }.reference();
                close(&y, &expected, 4, "downsample");
                let (mut y, mut expected) = (std::vec![0.0; large], std::vec![0.0; large]);
                Upsample { x: &x[..small], width, y: &mut y }.run();
                Upsample { x: &x[..small], width, y: &mut expected }.reference();
                assert_eq!(y, expected);
            }
        }
    }
}
