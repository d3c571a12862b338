use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};
use traflow_graph::op::Shape;

/// Mean of each 2×2 square.
#[derive(Debug)]
pub struct Downsample<'a> {
    /// Input, `[2·height, 2·width, channels]`.
    pub x: &'a [f32],
    /// Shape of the output.
    pub shape: Shape,
    /// Output, `[height, width, channels]`.
    pub y: &'a mut [f32],
}

impl Downsample<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Self { x, shape, y } = self;
        // Parts of whole rows.
        let row = (usize::from(shape.width) * usize::from(shape.channels)).max(1);
        let part = usize::from(shape.height).div_ceil(cpu.threads()).max(1) * row;
        let parts = y.chunks_mut(part).zip(x.chunks(4 * part));
        cpu.run(parts.map(|(y, x)| Downsample { x, shape, y }), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let (channels, width) = (usize::from(self.shape.channels), usize::from(self.shape.width));
        for (i, y) in self.y.iter_mut().enumerate() {
            let (row, column) = (2 * (i / channels / width), 2 * (i / channels % width));
            let at = |dy: usize, dx: usize| {
                f64::from(self.x[((row + dy) * 2 * width + column + dx) * channels + i % channels])
            };
            *y = ((at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0) as f32;
        }
    }
}

impl Kernel for Downsample<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, _: &mut [f32]) {
        let channels = usize::from(self.shape.channels).max(1);
        let row = 2 * usize::from(self.shape.width).max(1) * channels;
        for (y, x) in self.y.chunks_exact_mut(row / 2).zip(self.x.chunks_exact(2 * row)) {
            let (above, below) = x.split_at(row);
            let squares = above.chunks_exact(2 * channels).zip(below.chunks_exact(2 * channels));
            for (y, (above, below)) in y.chunks_exact_mut(channels).zip(squares) {
                let ((a, b), (c, d)) = (above.split_at(channels), below.split_at(channels));
                for (i, y) in y.iter_mut().enumerate() {
                    *y = ((a[i] + b[i]) + (c[i] + d[i])) * 0.25;
                }
            }
        }
    }
}

/// Each pixel becomes a 2×2 square.
#[derive(Debug)]
pub struct Upsample<'a> {
    /// Input, of this shape, `[height, width, channels]`.
    pub x: &'a [f32],
    /// Shape of the input.
    pub shape: Shape,
    /// Output, `[2·height, 2·width, channels]`.
    pub y: &'a mut [f32],
}

impl Upsample<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Self { x, shape, y } = self;
        // Parts of whole rows.
        let row = (usize::from(shape.width) * usize::from(shape.channels)).max(1);
        let part = usize::from(shape.height).div_ceil(cpu.threads()).max(1) * row;
        let parts = y.chunks_mut(4 * part).zip(x.chunks(part));
        cpu.run(parts.map(|(y, x)| Upsample { x, shape, y }), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let (channels, width) = (usize::from(self.shape.channels), usize::from(self.shape.width));
        for (i, y) in self.y.iter_mut().enumerate() {
            let (row, column) = (i / channels / (2 * width) / 2, i / channels % (2 * width) / 2);
            *y = self.x[(row * width + column) * channels + i % channels];
        }
    }
}

impl Kernel for Upsample<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, _: &mut [f32]) {
        let channels = usize::from(self.shape.channels).max(1);
        let row = usize::from(self.shape.width).max(1) * channels;
        for (y, x) in self.y.chunks_exact_mut(4 * row).zip(self.x.chunks_exact(row)) {
            let (above, below) = y.split_at_mut(2 * row);
            for (pair, x) in above.chunks_exact_mut(2 * channels).zip(x.chunks_exact(channels)) {
                let (left, right) = pair.split_at_mut(channels);
                left.copy_from_slice(x);
                right.copy_from_slice(x);
            }
            below.copy_from_slice(above);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for channels in [1, 3, 5, 16] {
            for (height, width) in [(1, 1), (2, 7), (7, 2), (14, 14)] {
                let shape = Shape::new(channels, height, width);
                let (small, large) = (shape.elements(), 4 * shape.elements());
                let x = random(0, large);
                let (mut y, mut expected) = (std::vec![0.0; small], std::vec![0.0; small]);
                Downsample { x: &x, shape, y: &mut expected }.reference();
                for isa in crate::Isa::all() {
                    Downsample { x: &x, shape, y: &mut y }.run(&Cpu::new(isa));
                    close(&y, &expected, 4, "downsample");
                }
                let (mut y, mut expected) = (std::vec![0.0; large], std::vec![0.0; large]);
                Upsample { x: &x[..small], shape, y: &mut y }.run(&Cpu::new(crate::Isa::detect()));
                Upsample { x: &x[..small], shape, y: &mut expected }.reference();
                assert_eq!(y, expected);
            }
        }
    }
}
