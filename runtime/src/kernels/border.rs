use traflow_graph::op::Shape;

/// Adds `by` rows and columns of zeros on each side; where negative, takes as many away.
#[derive(Debug)]
pub struct Border<'a> {
    /// Input, `[height, width, channels]`.
    pub x: &'a [f32],
    /// Its shape.
    pub shape: Shape,
    /// Rows and columns that are added on each side.
    pub by: isize,
    /// Output, `[height + 2·by, width + 2·by, channels]`.
    pub y: &'a mut [f32],
}

impl Border<'_> {
    /// Computes it.
    pub fn run(self) {
        let channels = usize::from(self.shape.channels);
        let width = usize::from(self.shape.width);
        let columns = width.saturating_add_signed(2 * self.by);
        let [added, taken] = [self.by, -self.by].map(|by| by.max(0) as usize);
        let common = width.min(columns) * channels;
        self.y.fill(0.0);
        let from = self.x.chunks_exact((width * channels).max(1)).skip(taken);
        for (x, y) in from.zip(self.y.chunks_exact_mut((columns * channels).max(1)).skip(added)) {
            let (taken, added) = (taken * channels, added * channels);
            if let (Some(x), Some(y)) = (x.get(taken..taken + common), y.get_mut(added..added + common)) {
                y.copy_from_slice(x);
            }
        }
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let Shape { channels, height, width } = self.shape;
        let [channels, height, width] = [channels, height, width].map(|size| size as isize);
        let columns = width + 2 * self.by;
        for (i, y) in self.y.iter_mut().enumerate() {
            let i = i as isize;
            let (channel, row, column) = (i % channels, i / channels / columns, i / channels % columns);
            let (row, column) = (row - self.by, column - self.by);
            let inside = (0..height).contains(&row) && (0..width).contains(&column);
            *y = if inside { self.x[((row * width + column) * channels + channel) as usize] } else { 0.0 };
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
                    let shape = Shape::new(channels, height, width);
                    let x = &random(0, shape.elements());
                    let grown = |size: u16| usize::from(size).saturating_add_signed(2 * by);
                    let size = usize::from(channels) * grown(height) * grown(width);
                    let (mut y, mut expected) = (random(1, size), random(2, size));
                    Border { x, shape, by, y: &mut y }.run();
                    Border { x, shape, by, y: &mut expected }.reference();
                    assert_eq!(y, expected);
                }
            }
        }
    }
}
