use traflow_graph::model::parts;

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
    /// Memory for two numbers of each channel of each of its [`parts`], as
    /// [`scratch_bytes`](traflow_graph::model::scratch_bytes) says.
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
        let parts = parts(pixels);
        let part = pixels.div_ceil(parts) * channels;
        let moments = &mut scratch[..parts * 2 * channels];

        let input = x.unwrap_or(y);
        let of_thread = parts.div_ceil(cpu.threads());
        let tasks = moments.chunks_mut(of_thread * 2 * channels).zip(input.chunks((of_thread * part).max(1)));
        cpu.run(tasks.map(|(moments, x)| Moments { x, part, channels, moments }), &mut []);
        cpu.isa().run(Combine { part: part / channels, pixels, channels, moments }, &mut []);

        let (combined, others) = moments.split_at_mut(2 * channels);
        let (factors, offsets) = combined.split_at_mut(channels);
        let of_group = (channels / groups.max(1)).max(1);
        let parameters = scale.chunks_exact(of_group).zip(shift.chunks_exact(of_group));
        let places = factors.chunks_exact_mut(of_group).zip(offsets.chunks_exact_mut(of_group));
        for (index, (moments, parameters)) in places.zip(parameters).enumerate() {
            let beyond = others.get(index * of_group..(index + 1) * of_group).unwrap_or_default();
            affine(moments, beyond, pixels, epsilon, parameters);
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

/// Turns means and sums of squared deviations of the channels of a group into factors and offsets that normalise them. The
/// means are to be moved by what is beyond them.
fn affine(
    (means, squares): (&mut [f32], &mut [f32]),
    beyond: &[f32],
    pixels: usize,
    epsilon: f32,
    (scale, shift): (&[f32], &[f32]),
) {
    let (channels, pixels) = (means.len() as f64, pixels as f64);
    let beyond = beyond.iter().chain(core::iter::repeat(&0.0));
    let exact = means.iter().zip(beyond).map(|(&mean, &beyond)| f64::from(mean) + f64::from(beyond));
    let mean = exact.clone().sum::<f64>() / channels;
    let of_channels = exact.zip(&*squares).map(|(of_channel, &squares)| {
        let apart = of_channel - mean;
        f64::from(squares) + pixels * apart * apart
    });
    let factor = rsqrt((of_channels.sum::<f64>() / (channels * pixels)) as f32 + epsilon);
    for ((factor_of, offset_of), (scale, shift)) in means.iter_mut().zip(squares).zip(scale.iter().zip(shift))
    {
        *factor_of = factor * scale;
        *offset_of = (f64::from(*shift) - mean * f64::from(*factor_of)) as f32;
    }
}

/// The mean of each channel, and the sum of its squared deviations from it, of some parts of the pixels.
struct Moments<'a> {
    x: &'a [f32],
    /// Elements of a part.
    part: usize,
    channels: usize,
    /// For each part the means, then the sums.
    moments: &'a mut [f32],
}

/// Pixels that are summed before the sum goes into the total, so that errors do not grow with the size of the picture.
const RUN: usize = 32;

impl Kernel for Moments<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        let channels = self.channels;
        for (moments, x) in self.moments.chunks_exact_mut(2 * channels).zip(self.x.chunks(self.part.max(1))) {
            let (means, squares) = moments.split_at_mut(channels);
            let mut first = 0;
            while first < channels {
                if channels - first >= 4 * S::LANES {
                    moments_of::<S, 4>(s, x, first, means, squares);
                    first += 4 * S::LANES;
                } else {
                    moments_of::<S, 1>(s, x, first, means, squares);
                    first += S::LANES;
                }
            }
        }
    }
}

/// Of N vectors of channels. What is summed is the distance from the first pixel, since the squares of numbers far from 0
/// would cancel.
#[inline(always)]
fn moments_of<S: Simd, const N: usize>(
    s: S,
    x: &[f32],
    first: usize,
    means: &mut [f32],
    squares_of: &mut [f32],
) {
    let (zero, channels) = ([s.splat(0.0); N], means.len());
    let channel = |n: usize| first + n * S::LANES..channels.min(first + (n + 1) * S::LANES);
    let mut origin = zero;
    for (n, origin) in origin.iter_mut().enumerate() {
        *origin = s.load(&x[channel(n)]);
    }
    let (mut sums, mut squares) = (zero, zero);
    for run in x.chunks(RUN * channels) {
        let (mut sums_of_run, mut squares_of_run) = (zero, zero);
        for pixel in run.chunks_exact(channels) {
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
    let inverse = s.splat(1.0 / (x.len() / channels) as f32);
    for n in 0..N {
        let mean = s.mul(sums[n], inverse);
        s.store(s.add(origin[n], mean), &mut means[channel(n)]);
        let square = s.sub(squares[n], s.mul(sums[n], mean));
        s.store(s.max(square, s.splat(0.0)), &mut squares_of[channel(n)]);
    }
}

/// Combines the moments of all parts, one after the other: their sums come in the place of those of the first part, whose means
/// stay, and by how much the mean of all is beyond them in the place of the second part's. One number would lose digits where
/// means are far from 0.
struct Combine<'a> {
    /// Pixels of a part; the last one may have fewer.
    part: usize,
    pixels: usize,
    channels: usize,
    /// For each part the means, then the sums.
    moments: &'a mut [f32],
}

impl Kernel for Combine<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        let Self { part, pixels, channels, moments } = self;
        for first in (0..channels).step_by(S::LANES) {
            let means = first..channels.min(first + S::LANES);
            let squares_of = means.start + channels..means.end + channels;
            let origin = s.load(&moments[means.clone()]);
            let (mut beyond, mut squares) = (s.splat(0.0), s.splat(0.0));
            for (index, moments) in moments.chunks_exact(2 * channels).enumerate() {
                let (before, new) = (index * part, part.min(pixels - index * part));
                let share = new as f32 / (before + new) as f32;
                let apart = s.sub(s.sub(s.load(&moments[means.clone()]), origin), beyond);
                beyond = s.mul_add(apart, s.splat(share), beyond);
                squares = s.add(squares, s.load(&moments[squares_of.clone()]));
                squares = s.mul_add(s.mul(apart, apart), s.splat(before as f32 * share), squares);
            }
            s.store(squares, &mut moments[squares_of]);
            if let Some(place) = moments.get_mut(means.start + 2 * channels..means.end + 2 * channels) {
                s.store(beyond, place);
            }
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
        for first in (0..channels).step_by(S::LANES) {
            let end = channels.min(first + S::LANES);
            let (factor, offset) = (s.load(&self.factors[first..end]), s.load(&self.offsets[first..end]));
            for (index, y) in self.y.chunks_exact_mut(channels).enumerate() {
                let y = &mut y[first..end];
                let x = s.load(match self.x {
                    Some(x) => &x[index * channels..][first..end],
                    None => y,
                });
                let x = s.mul_add(x, factor, offset);
                s.store(if self.silu { vector::silu(s, x) } else { x }, y);
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
            for pixels in [1, 4, 49, 196, 300, 700, 1030] {
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
                        let (epsilon, scratch) = (1e-2, &mut random(3, 2 * channels * parts(pixels))[..]);
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
            let scratch = &mut std::vec![0.0; 2 * 32 * parts(1024)];
            let norm = GroupNorm { x: None, scale, shift, groups: 8, epsilon: 1e-6, silu: false, scratch, y };
            match cpu {
                Some(cpu) => norm.run(&cpu),
                None => norm.reference(),
            }
        }
        close(&y, &expected, 1000, "far from zero");
    }
}
