use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};

/// `y = y · b`, where b is a vector of y's channels, or one number.
#[derive(Debug)]
pub struct Multiply<'a> {
    /// The factors, `[channels]` or `[1]`.
    pub b: &'a [f32],
    /// Input and output, `[pixels, channels]`.
    pub y: &'a mut [f32],
}

impl Multiply<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run([self].into_iter(), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        for (i, y) in self.y.iter_mut().enumerate() {
            *y *= self.b[i % self.b.len()];
        }
    }
}

impl Kernel for Multiply<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, _: &mut [f32]) {
        if let [b] = self.b {
            return self.y.iter_mut().for_each(|y| *y *= b);
        }
        for pixel in self.y.chunks_exact_mut(self.b.len().max(1)) {
            pixel.iter_mut().zip(self.b).for_each(|(y, b)| *y *= b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn run_is_the_definition() {
        for (isa, channels) in crate::Isa::all().flat_map(|isa| [1, 3, 5, 13].map(|c| (isa, c))) {
            for pixels in [1, 4, 49] {
                for b in [random(1, channels), random(1, 1)] {
                    let mut y = random(0, channels * pixels);
                    let mut expected = y.clone();
                    Multiply { b: &b, y: &mut y }.run(&Cpu::new(isa));
                    Multiply { b: &b, y: &mut expected }.reference();
                    assert_eq!(y, expected);
                }
            }
        }
    }
}
