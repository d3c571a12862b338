/// Adds `by` rows and columns of zeros on each side of each channel; where negative, takes as many away.
#[derive(Debug)]
pub struct Border<'a> {
    /// Input, `[channels, height, width]`.
    pub x: &'a [f32],
    /// Rows of the input.
    pub height: usize,
    /// Columns of the input.
    pub width: usize,
    /// Rows and columns that are added on each side.
    pub by: isize,
    /// Output, `[channels, height + 2·by, width + 2·by]`.
    pub y: &'a mut [f32],
}

impl Border<'_> {
    /// Computes it.
    pub fn run(self) {
        let grown = |size: usize| size.saturating_add_signed(2 * self.by).max(1);
        let (rows, columns) = (grown(self.height), grown(self.width));
        let (added, taken) = (self.by.max(0) as usize, (-self.by).max(0) as usize);
        let common = self.width.min(columns);
        let of_channel = (self.height * self.width).max(1);
        for (x, y) in self.x.chunks_exact(of_channel).zip(self.y.chunks_exact_mut(rows * columns)) {
            y.fill(0.0);
            let from = x.chunks_exact(self.width.max(1)).skip(taken);
            for (x, y) in from.zip(y.chunks_exact_mut(columns).skip(added)) {
                if let (Some(x), Some(y)) = (x.get(taken..taken + common), y.get_mut(added..added + common)) {
                    y.copy_from_slice(x);
                }
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let (rows, columns) = (self.height as isize + 2 * self.by, self.width as isize + 2 * self.by);
        for (i, y) in self.y.iter_mut().enumerate() {
            let i = i as isize;
            let (channel, row, column) = (i / (rows * columns), i % (rows * columns) / columns, i % columns);
            let (row, column) = (row - self.by, column - self.by);
            let (height, width) = (self.height as isize, self.width as isize);
            let inside = (0..height).contains(&row) && (0..width).contains(&column);
            *y = if inside { self.x[((channel * height + row) * width + column) as usize] } else { 0.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn run_is_the_definition() {
        for channels in [1, 3] {
            for (height, width) in [(5, 7), (7, 5), (14, 14)] {
                for by in [-2isize, -1, 0, 1, 2] {
                    let x = &random(0, channels * height * width);
                    let size =
                        channels * height.saturating_add_signed(2 * by) * width.saturating_add_signed(2 * by);
                    let (mut y, mut expected) = (random(1, size), random(2, size));
                    Border { x, height, width, by, y: &mut y }.run();
                    Border { x, height, width, by, y: &mut expected }.reference();
                    assert_eq!(y, expected);
                }
            }
        }
    }
}
