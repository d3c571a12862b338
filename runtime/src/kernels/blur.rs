use traflow_graph::model::BLUR_REACH;
use traflow_graph::op::Shape;

use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};

/// Convolution of each channel with `far, near, middle, near, far` along rows and along columns, where the five sum to 1
/// and zeros surround the picture.
#[derive(Debug)]
pub struct Blur<'a> {
    /// Input, `[height, width, channels]`.
    pub x: &'a [f32],
    /// Its shape.
    pub shape: Shape,
    /// Factor of the neighbours.
    pub near: f32,
    /// Factor of their neighbours.
    pub far: f32,
    /// Memory for one row between borders, `[width + 2·BLUR_REACH, channels]`.
    pub row: &'a mut [f32],
    /// Output, as the input.
    pub y: &'a mut [f32],
}

impl Blur<'_> {
    fn taps(near: f32, far: f32) -> [f32; 2 * BLUR_REACH + 1] {
        [far, near, 1.0 - 2.0 * near - 2.0 * far, near, far]
    }

    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run([self].into_iter(), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let taps = Self::taps(self.near, self.far).map(f64::from);
        let Shape { channels, height, width } = self.shape;
        let [channels, height, width] = [channels, height, width].map(usize::from);
        for (i, y) in self.y.iter_mut().enumerate() {
            let (channel, row, column) = (i % channels, i / channels / width, i / channels % width);
            let mut sum = 0.0;
            for (down, vertical) in taps.into_iter().enumerate() {
                for (right, horizontal) in taps.into_iter().enumerate() {
                    let (row, column) = ((row + down).wrapping_sub(2), (column + right).wrapping_sub(2));
                    if row < height && column < width {
                        let x = self.x[(row * width + column) * channels + channel];
                        sum += vertical * horizontal * f64::from(x);
                    }
                }
            }
            *y = sum as f32;
        }
    }
}

impl Kernel for Blur<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        let channels = usize::from(self.shape.channels).max(1);
        let across = (usize::from(self.shape.width) * channels).max(1);
        let border = BLUR_REACH * channels;
        let taps = Self::taps(self.near, self.far);
        let Some(padded) = self.row.get_mut(..across + 2 * border) else { return };
        for (above, y) in self.y.chunks_exact_mut(across).enumerate() {
            // The column's sum goes between the borders of the row, then the row's sum into the output.
            padded.fill(0.0);
            let Some(row) = padded.get_mut(border..border + across) else { return };
            for (tap, factor) in taps.into_iter().enumerate() {
                let above = (above + tap).checked_sub(BLUR_REACH);
                if let Some(x) = above.and_then(|above| self.x.chunks_exact(across).nth(above)) {
                    add(s, factor, x, row);
                }
            }
            y.fill(0.0);
            for (tap, factor) in taps.into_iter().enumerate() {
                add(s, factor, padded.get(tap * channels..).unwrap_or_default(), y);
            }
        }
    }
}

/// `y += factor · x`, for as many elements as both have.
#[inline(always)]
fn add<S: Simd>(s: S, factor: f32, x: &[f32], y: &mut [f32]) {
    let len = x.len().min(y.len());
    let (x, y) = (x[..len].chunks(S::LANES), y[..len].chunks_mut(S::LANES));
    for (x, y) in x.zip(y) {
        s.store(s.mul_add(s.splat(factor), s.load(x), s.load(y)), y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for (isa, channels) in crate::Isa::all().flat_map(|isa| [1, 3, 16].map(|c| (isa, c))) {
            for (height, width) in [(1, 1), (2, 7), (7, 2), (14, 14)] {
                for (near, far) in [(0.25, 0.0), (0.25, 0.0625), (-0.1, 0.3)] {
                    let shape = Shape::new(channels, height, width);
                    let x = &random(0, shape.elements());
                    let mut row = random(1, usize::from(channels) * (usize::from(width) + 2 * BLUR_REACH));
                    let (mut y, mut expected) = (random(2, x.len()), random(3, x.len()));
                    Blur { x, shape, near, far, row: &mut row, y: &mut y }.run(&Cpu::new(isa));
                    Blur { x, shape, near, far, row: &mut row, y: &mut expected }.reference();
                    close(&y, &expected, 25, &std::format!("{channels}, {height}×{width}, {near}, {far}"));
                }
            }
        }
    }
}
