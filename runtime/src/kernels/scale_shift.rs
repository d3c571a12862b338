use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};
use crate::vector::silu;

/// `y = y · (1 + scale) + shift` for each channel, and SiLU if asked to.
#[derive(Debug)]
pub struct ScaleShift<'a> {
    /// The scale of each channel, then the shift of each, `[2·channels]`.
    pub b: &'a [f32],
    /// Whether SiLU follows.
    pub silu: bool,
    /// Input and output, `[pixels, channels]`.
    pub y: &'a mut [f32],
}

impl ScaleShift<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run([self].into_iter(), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let channels = self.b.len() / 2;
        for (i, y) in self.y.iter_mut().enumerate() {
            let (scale, shift) = (self.b[i % channels], self.b[channels + i % channels]);
            let x = f64::from(*y) * (1.0 + f64::from(scale)) + f64::from(shift);
            *y = if self.silu { x / (1.0 + (-x).exp()) } else { x } as f32;
        }
    }
}

impl Kernel for ScaleShift<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        let (scales, shifts) = self.b.split_at(self.b.len() / 2);
        let one = s.splat(1.0);
        for pixel in self.y.chunks_exact_mut(scales.len().max(1)) {
            let factors = scales.chunks(S::LANES).zip(shifts.chunks(S::LANES));
            for (y, (scale, shift)) in pixel.chunks_mut(S::LANES).zip(factors) {
                let x = s.mul_add(s.load(y), s.add(one, s.load(scale)), s.load(shift));
                s.store(if self.silu { silu(s, x) } else { x }, y);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::{close, random};

    #[test]
    fn run_is_the_definition() {
        for (isa, channels) in crate::Isa::all().flat_map(|isa| [1, 3, 5, 13, 64].map(|c| (isa, c))) {
            for pixels in [1, 4, 49] {
                for silu in [false, true] {
                    let b = &random(1, 2 * channels);
                    let mut y = random(0, channels * pixels);
                    let mut expected = y.clone();
                    ScaleShift { b, silu, y: &mut y }.run(&Cpu::new(isa));
                    ScaleShift { b, silu, y: &mut expected }.reference();
                    close(&y, &expected, 2, &std::format!("{channels}, {pixels}"));
                }
            }
        }
    }
}
