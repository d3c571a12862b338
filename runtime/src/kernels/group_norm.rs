use crate::cpu::Cpu;
use crate::math::rsqrt;
use crate::simd::{Kernel, Simd};
use crate::vector;

/// Normalises each group of channels to mean 0 and variance 1, scales and shifts each channel, and applies SiLU if
/// asked to.
#[derive(Debug)]
pub struct GroupNorm<'a> {
    /// Input, `[pixels, channels]`; `None` where `y` holds it.
    pub x: Option<&'a [f32]>,
    /// Scale of each channel.
    pub scale: &'a [f32],
    /// Shift of each channel.
    pub shift: &'a [f32],
    /// Number of groups; divides the channels.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// Whether SiLU follows.
    pub silu: bool,
    /// Memory for two numbers of each channel.
    pub scratch: &'a mut [f32],
    /// Output, `[pixels, channels]`.
    pub y: &'a mut [f32],
}

impl GroupNorm<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        let Self { x, scale, shift, groups, epsilon, silu, scratch, y } = self;
        let channels = scale.len().max(1);
        let pixels = y.len() / channels;
        let (factors, rest) = scratch.split_at_mut(channels);
        let offsets = &mut rest[..channels];

        // Parts of whole lines of memory, and of all channels if they are few.
        let part = channels.div_ceil(cpu.threads()).next_multiple_of(16);
        let input = x.unwrap_or(y);
        let parts = factors.chunks_mut(part).zip(offsets.chunks_mut(part)).enumerate();
        let moments = parts.map(|(index, (means, squares))| Moments {
            x: input,
            channels,
            first: index * part,
            means,
            squares,
        });
        cpu.run(moments, &mut []);

        let of_group = (channels / groups.max(1)).max(1);
        let parameters = scale.chunks_exact(of_group).zip(shift.chunks_exact(of_group));
        let moments = factors.chunks_exact_mut(of_group).zip(offsets.chunks_exact_mut(of_group));
        for ((factors, offsets), (scale, shift)) in moments.zip(parameters) {
            affine(factors, offsets, scale, shift, pixels as f64, epsilon);
        }

        let part = pixels.div_ceil(cpu.threads()).max(1) * channels;
        let parts = y.chunks_mut(part).enumerate().map(|(index, y)| {
            let x = x.map(|x| &x[index * part..][..y.len()]);
            Normalise { x, factors, offsets, silu, y }
        });
        cpu.run(parts, &mut []);
    }

    /// The definition.
    #[cfg(any(test, feature = "std"))]
    pub fn reference(self) {
        let (channels, x) = (self.scale.len(), self.x.unwrap_or(self.y).to_vec());
        let of_group = channels / self.groups;
        let in_group = |i: usize, group: usize| i % channels / of_group == group;
        for group in 0..self.groups {
            let members = || (0..x.len()).filter(|&i| in_group(i, group));
            let count = members().count() as f64;
            let mean = members().map(|i| f64::from(x[i])).sum::<f64>() / count;
            let variance = members().map(|i| (f64::from(x[i]) - mean).powi(2)).sum::<f64>() / count;
            for i in members() {
                let normal = (f64::from(x[i]) - mean) / (variance + f64::from(self.epsilon)).sqrt();
                let channel = i % channels;
                let y = normal * f64::from(self.scale[channel]) + f64::from(self.shift[channel]);
                self.y[i] = if self.silu { y / (1.0 + (-y).exp()) } else { y } as f32;
            }
        }
    }
}

/// Turns means and sums of squared deviations of the channels of a group into the factors and offsets that normalise
/// them.
fn affine(factors: &mut [f32], offsets: &mut [f32], scale: &[f32], shift: &[f32], pixels: f64, epsilon: f32) {
    let channels = factors.len() as f64;
    let mean = factors.iter().map(|&mean| f64::from(mean)).sum::<f64>() / channels;
    let mut squares = 0.0;
    for (of_channel, square) in factors.iter().zip(&*offsets) {
        let apart = f64::from(*of_channel) - mean;
        squares += f64::from(*square) + pixels * apart * apart;
    }
    let factor = rsqrt((squares / (pixels * channels)) as f32 + epsilon);
    for ((factor_of, offset_of), (scale, shift)) in
        factors.iter_mut().zip(offsets).zip(scale.iter().zip(shift))
    {
        *factor_of = factor * scale;
        *offset_of = (f64::from(*shift) - mean * f64::from(*factor_of)) as f32;
    }
}

/// The mean of each channel, and the sum of its squared deviations from it.
struct Moments<'a> {
    x: &'a [f32],
    channels: usize,
    /// The first of these channels.
    first: usize,
    means: &'a mut [f32],
    squares: &'a mut [f32],
}

/// Pixels that are summed before the sum goes into the total, so that errors do not grow with the size of the picture.
const RUN: usize = 32;

impl Kernel for Moments<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S, _: &mut [f32]) {
        let mut first = 0;
        while first < self.means.len() {
            let left = self.means.len() - first;
            if left >= 4 * S::LANES {
                self.moments::<S, 4>(s, first);
                first += 4 * S::LANES;
            } else {
                self.moments::<S, 1>(s, first);
                first += S::LANES;
            }
        }
    }
}

impl Moments<'_> {
    /// Of N vectors of channels. What is summed is the distance from the first pixel, since the squares of numbers far
    /// from 0 would cancel.
    #[inline(always)]
    fn moments<S: Simd, const N: usize>(&mut self, s: S, first: usize) {
        let zero = [s.splat(0.0); N];
        let from = |n: usize| first + n * S::LANES;
        let channel = |n: usize| self.first + from(n)..self.first + self.means.len().min(from(n + 1));
        let origin: [S::V; N] = core::array::from_fn(|n| s.load(&self.x[channel(n)]));
        let (mut sums, mut squares) = (zero, zero);
        for run in self.x.chunks(RUN * self.channels) {
            let (mut sums_of_run, mut squares_of_run) = (zero, zero);
            for pixel in run.chunks_exact(self.channels) {
                for n in 0..N {
                    let x = s.sub(s.load(&pixel[channel(n)]), origin[n]);
                    sums_of_run[n] = s.add(sums_of_run[n], x);
                    squares_of_run[n] = s.mul_add(x, x, squares_of_run[n]);
                }
            }
            for n in 0..N {
                sums[n] = s.add(sums[n], sums_of_run[n]);
                squares[n] = s.add(squares[n], squares_of_run[n]);
            }
        }
        let inverse = s.splat(1.0 / (self.x.len() / self.channels) as f32);
        for n in 0..N {
            let end = self.means.len().min(from(n + 1));
            let mean = s.mul(sums[n], inverse);
            s.store(s.add(origin[n], mean), &mut self.means[from(n)..end]);
            let square = s.sub(squares[n], s.mul(sums[n], mean));
            s.store(s.max(square, s.splat(0.0)), &mut self.squares[from(n)..end]);
        }
    }
}

/// `y = x · factor + offset` for each channel, and SiLU.
struct Normalise<'a> {
    x: Option<&'a [f32]>,
    factors: &'a [f32],
    offsets: &'a [f32],
    silu: bool,
    y: &'a mut [f32],
}

impl Kernel for Normalise<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        let channels = self.factors.len();
        for pixel in (0..self.y.len()).step_by(channels.max(1)) {
            for channel in (0..channels).step_by(S::LANES) {
                let end = channels.min(channel + S::LANES);
                let (factor, offset) = (&self.factors[channel..end], &self.offsets[channel..end]);
                let place = pixel + channel..pixel + end;
                let x = s.load(match self.x {
                    Some(x) => &x[place.clone()],
                    None => &self.y[place.clone()],
                });
                let x = s.mul_add(x, s.load(factor), s.load(offset));
                s.store(if self.silu { vector::silu(s, x) } else { x }, &mut self.y[place]);
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
        for (channels, groups) in [(1, 1), (3, 3), (5, 1), (12, 4), (26, 13), (96, 24)] {
            for pixels in [1, 4, 49, 196] {
                for (isa, silu) in crate::Isa::all().flat_map(|isa| [(isa, false), (isa, true)]) {
                    let (scale, shift) = (&random(1, channels), &random(2, channels));
                    let x: std::vec::Vec<f32> =
                        random(0, channels * pixels).iter().map(|x| 3.0 * x + 5.0).collect();
                    let (mut y, mut expected) = (x.clone(), x.clone());
                    let (cpu, mut apart) = (&Cpu::new(isa), random(4, y.len()));
                    let outputs = [
                        (None, &mut expected, true),
                        (None, &mut y, false),
                        (Some(&x[..]), &mut apart, false),
                    ];
                    for (x, y, by_definition) in outputs {
                        // A large epsilon keeps groups of one element comparable.
                        let (epsilon, scratch) = (1e-2, &mut random(3, 2 * channels)[..]);
                        let norm = GroupNorm { x, scale, shift, groups, epsilon, silu, scratch, y };
                        if by_definition { norm.reference() } else { norm.run(cpu) }
                    }
                    close(&y, &expected, 100, &std::format!("{isa}, {channels}, {groups}, {pixels}"));
                    assert_eq!(apart, y);
                }
            }
        }
    }

    #[test]
    fn numbers_far_from_zero_keep_their_variance() {
        let x: std::vec::Vec<f32> = random(0, 32 * 1024).iter().map(|x| x + 300.0).collect();
        let (scale, shift) = (&[1.0; 32], &[0.0; 32]);
        let (mut y, mut expected) = (x.clone(), x);
        for (y, cpu) in [(&mut y, Some(Cpu::new(crate::Isa::detect()))), (&mut expected, None)] {
            let scratch = &mut [0.0; 64];
            let norm = GroupNorm { x: None, scale, shift, groups: 8, epsilon: 1e-6, silu: false, scratch, y };
            match cpu {
                Some(cpu) => norm.run(&cpu),
                None => norm.reference(),
            }
        }
        close(&y, &expected, 1000, "far from zero");
    }
}
