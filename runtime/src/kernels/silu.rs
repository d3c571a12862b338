use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};
use crate::vector::silu;

/// `y = y · sigmoid(y)`.
#[derive(Debug)]
pub struct Silu<'a> {
    /// Input and output.
    pub y: &'a mut [f32],
}

impl Silu<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let part = self.y.len().div_ceil(cpu.threads()).max(1);
        cpu.run(self.y.chunks_mut(part).map(|y| Silu { y }), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        for y in self.y {
            let x = f64::from(*y);
            *y = (x / (1.0 + (-x).exp())) as f32;
        }
    }
}

impl Kernel for Silu<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        for y in self.y.chunks_mut(S::LANES) {
            s.store(silu(s, s.load(y)), y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for isa in crate::Isa::all() {
            for len in [0, 1, 3, 8, 1001] {
                let mut y = random(0, len);
                y.iter_mut().for_each(|y| *y *= 20.0);
                let mut expected = y.clone();
                Silu { y: &mut y }.run(&Cpu::new(isa));
                Silu { y: &mut expected }.reference();
                close(&y, &expected, 1, "silu");
            }
        }
    }
}
