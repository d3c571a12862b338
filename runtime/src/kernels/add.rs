use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};

/// `y = (y + b) · scale`, where b has y's shape or is one pixel of it.
#[derive(Debug)]
pub struct Add<'a> {
    /// What is added, `[pixels, channels]` or `[channels]`.
    pub b: &'a [f32],
    /// Factor of the sum.
    pub scale: f32,
    /// Input and output, `[pixels, channels]`.
    pub y: &'a mut [f32],
}

impl Add<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run([self].into_iter(), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        for (i, y) in self.y.iter_mut().enumerate() {
            *y = (*y + self.b[i % self.b.len()]) * self.scale;
        }
    }
}

impl Kernel for Add<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, _: &mut [f32]) {
        for y in self.y.chunks_exact_mut(self.b.len().max(1)) {
            for (y, b) in y.iter_mut().zip(self.b) {
                *y = (*y + b) * self.scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn run_is_the_definition() {
        for (isa, channels) in crate::Isa::all().flat_map(|isa| [1, 3, 5, 7, 13, 64].map(|c| (isa, c))) {
            for pixels in [1, 4, 49, 196] {
                for b in [random(1, channels), random(1, channels * pixels)] {
                    let mut y = random(0, channels * pixels);
                    let mut expected = y.clone();
                    Add { b: &b, scale: 0.7, y: &mut y }.run(&Cpu::new(isa));
                    Add { b: &b, scale: 0.7, y: &mut expected }.reference();
                    assert_eq!(y, expected);
                }
            }
        }
    }
}
