use traflow_graph::noise::Mix;

use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};

/// y = noise, many numbers at once.
#[derive(Debug)]
pub struct Start<'a> {
    /// The noise.
    pub noise: &'a Mix,
    /// Output, in the order of the noise.
    pub y: &'a mut [f32],
}

impl Start<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run([self].into_iter(), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        self.noise.fill(self.y);
    }
}

impl Kernel for Start<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, _: &mut [f32]) {
        self.noise.fill(self.y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn every_processor_has_the_same_noise() {
        let noise = &Mix::new([1, 2, 3, 4], [100, 30]);
        let mut expected = [0.0; 30];
        Start { noise, y: &mut expected }.reference();
        for isa in Isa::all() {
            let mut y = [0.0; 30];
            Start { noise, y: &mut y }.run(&Cpu::new(isa));
            assert_eq!(y, expected);
        }
    }
}
