use crate::cpu::Cpu;
use crate::simd::{Kernel, Simd};

/// Each pixel has the channels of a, then those of b.
#[derive(Debug)]
pub struct Concat<'a> {
    /// The first channels, `[pixels, channels]`.
    pub a: &'a [f32],
    /// The others, `[pixels, others]`.
    pub b: &'a [f32],
    /// Channels of the first.
    pub channels: usize,
    /// Output, as long as both.
    pub y: &'a mut [f32],
}

impl Concat<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Self { a, b, channels, y } = self;
        let pixels = a.len() / channels.max(1);
        let others = b.len() / pixels.max(1);
        let part = pixels.div_ceil(cpu.threads()).max(1);
        let inputs = a.chunks((part * channels).max(1)).zip(b.chunks((part * others).max(1)));
        let parts = y.chunks_mut((part * (channels + others)).max(1)).zip(inputs);
        cpu.run(parts.map(|(y, (a, b))| Concat { a, b, channels, y }), &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let pixels = self.a.len() / self.channels;
        let (all, others) = (self.y.len() / pixels, self.b.len() / pixels);
        for (i, y) in self.y.iter_mut().enumerate() {
            let (pixel, channel) = (i / all, i % all);
            *y = match channel.checked_sub(self.channels) {
                None => self.a[pixel * self.channels + channel],
                Some(other) => self.b[pixel * others + other],
            };
        }
    }
}

impl Kernel for Concat<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S, _: &mut [f32]) {
        let channels = self.channels.max(1);
        let pixels = (self.a.len() / channels).max(1);
        let others = (self.b.len() / pixels).max(1);
        let inputs = self.a.chunks_exact(channels).zip(self.b.chunks_exact(others));
        for (y, (a, b)) in self.y.chunks_exact_mut(channels + others).zip(inputs) {
            let (first, second) = y.split_at_mut(channels);
            first.copy_from_slice(a);
            second.copy_from_slice(b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::tests::random;

    #[test]
    fn run_is_the_definition() {
        for (channels, others) in [(1, 3), (5, 7), (13, 1)] {
            for pixels in [1, 4, 49] {
                let (a, b) = (&random(0, channels * pixels), &random(1, others * pixels));
                let mut y = std::vec![0.0; a.len() + b.len()];
                let mut expected = y.clone();
                Concat { a, b, channels, y: &mut y }.run(&Cpu::new(crate::Isa::detect()));
                Concat { a, b, channels, y: &mut expected }.reference();
                assert_eq!(y, expected);
            }
        }
    }
}
