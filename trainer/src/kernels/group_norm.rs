//! Group norm with or without SiLU, a group at a time while it is in the cache.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// A group norm: shape `[n, c, h, w]`, parameters of c elements.
#[derive(Clone, Copy)]
pub(super) struct GroupNorm<'a> {
    pub(super) shape: [usize; 4],
    pub(super) groups: usize,
    pub(super) epsilon: f32,
    pub(super) silu: bool,
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
}

impl GroupNorm<'_> {
    fn pixels(&self) -> usize {
        self.shape[2] * self.shape[3]
    }

    /// Channels of a group.
    fn depth(&self) -> usize {
        self.shape[1] / self.groups
    }

    pub(super) fn forward(&self, x: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let size = self.depth() * self.pixels();
        let arch = Arch::new();
        y.par_chunks_mut(size).zip(x.par_chunks(size)).enumerate().for_each(|(index, (y, x))| {
            arch.dispatch(Forward { norm: self, group: index % self.groups, x, y });
        });
        y
    }

    #[inline(always)]
    fn forward_group(&self, group: usize, x: &[f32], y: &mut [f32]) {
        let (mean, scale) = statistics(x, self.epsilon);
        let channels = x.chunks_exact(self.pixels()).zip(y.chunks_exact_mut(self.pixels()));
        for (channel, (x, y)) in (group * self.depth()..).zip(channels) {
            let a = scale * self.weight[channel];
            let b = self.bias[channel] - mean * a;
            if self.silu {
                for (y, x) in y.iter_mut().zip(x) {
                    let z = x.mul_add(a, b);
                    *y = z * sigmoid(z);
                }
            } else {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = x.mul_add(a, b);
                }
            }
        }
    }

    /// Gradients of x, weight and bias; the last two are summed over the batch.
    pub(super) fn backward(&self, x: &[f32], gradient: &[f32]) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let [batch, channels, ..] = self.shape;
        let size = self.depth() * self.pixels();
        let mut dx = vec![0.0; x.len()];
        // Each group's sums, to be added in the order of the batch, whichever thread made them.
        let mut sums = vec![[0.0f32; 2]; batch * channels];
        let arch = Arch::new();
        dx.par_chunks_mut(size)
            .zip(sums.par_chunks_mut(self.depth()))
            .zip(x.par_chunks(size).zip(gradient.par_chunks(size)))
            .enumerate()
            .for_each(|(index, ((dx, sums), (x, gradient)))| {
                arch.dispatch(BackwardGroup {
                    norm: self,
                    group: index % self.groups,
                    x,
                    gradient,
                    dx,
                    sums,
                });
            });
        let (mut dw, mut db) = (vec![0.0; channels], vec![0.0; channels]);
        for sums in sums.chunks_exact(channels) {
            for (channel, [w, b]) in sums.iter().enumerate() {
                dw[channel] += w;
                db[channel] += b;
            }
        }
        (dx, dw, db)
    }

    /// With x̂ = (x - mean)·scale, z = x̂·w + b and g the gradient at z:
    /// dx = scale·(w·g - mean(w·g) - x̂·mean(w·g·x̂)).
    #[inline(always)]
    fn backward_group(
        &self,
        group: usize,
        x: &[f32],
        gradient: &[f32],
        dx: &mut [f32],
        sums: &mut [[f32; 2]],
    ) {
        let pixels = self.pixels();
        let (mean, scale) = statistics(x, self.epsilon);
        let first = group * self.depth();
        let (mut sum_g, mut sum_gx) = (0.0, 0.0);
        for (i, sums) in sums.iter_mut().enumerate() {
            let range = i * pixels..(i + 1) * pixels;
            let (x, gradient, dx) = (&x[range.clone()], &gradient[range.clone()], &mut dx[range]);
            let (weight, bias) = (self.weight[first + i], self.bias[first + i]);
            if self.silu {
                for ((g, x), upstream) in dx.iter_mut().zip(x).zip(gradient) {
                    let z = ((x - mean) * scale).mul_add(weight, bias);
                    let sigma = sigmoid(z);
                    *g = upstream * sigma * (1.0 - sigma).mul_add(z, 1.0);
                }
            } else {
                dx.copy_from_slice(gradient);
            }
            let g = lane_sum(
                pixels,
                #[inline(always)]
                |i| dx[i],
            );
            let gx = lane_sum(
                pixels,
                #[inline(always)]
                |i| dx[i] * (x[i] - mean) * scale,
            );
            *sums = [gx, g];
            sum_g += g * weight;
            sum_gx += gx * weight;
        }
        let count = 1.0 / x.len() as f32;
        let (mean_g, mean_gx) = (sum_g * count, sum_gx * count);
        for (i, (dx, x)) in dx.chunks_exact_mut(pixels).zip(x.chunks_exact(pixels)).enumerate() {
            let weight = self.weight[first + i];
            for (dx, x) in dx.iter_mut().zip(x) {
                let normal = (x - mean) * scale;
                *dx = scale * (*dx * weight - mean_g - normal * mean_gx);
            }
        }
    }
}

/// The forward pass of one group, compiled for the vectors of the CPU.
struct Forward<'a> {
    norm: &'a GroupNorm<'a>,
    group: usize,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.norm.forward_group(self.group, self.x, self.y);
    }
}

/// The backward pass of one group.
struct BackwardGroup<'a> {
    norm: &'a GroupNorm<'a>,
    group: usize,
    x: &'a [f32],
    gradient: &'a [f32],
    dx: &'a mut [f32],
    sums: &'a mut [[f32; 2]],
}

impl WithSimd for BackwardGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.norm.backward_group(self.group, self.x, self.gradient, self.dx, self.sums);
    }
}

/// Mean, and 1 / √(variance + ε).
#[inline(always)]
fn statistics(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = 1.0 / x.len() as f32;
    let mean = lane_sum(
        x.len(),
        #[inline(always)]
        |i| x[i],
    ) * count;
    let variance = lane_sum(
        x.len(),
        #[inline(always)]
        |i| (x[i] - mean) * (x[i] - mean),
    ) * count;
    (mean, (variance + epsilon).sqrt().recip())
}

/// Σ f(i) over the indices below `length`, in 16 partial sums, so that the order allows vectors and is always the same.
#[inline(always)]
fn lane_sum(length: usize, f: impl Fn(usize) -> f32) -> f32 {
    const LANES: usize = 16;
    let mut lanes = [0.0f32; LANES];
    let whole = length / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += f(start + lane);
        }
    }
    lanes.iter().sum::<f32>() + (whole..length).map(f).sum::<f32>()
}

/// 1 / (1 + e^-z).
#[inline(always)]
fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + exp(-z))
}

/// e^x to 2 units in the last place, without branches: 2^n by the exponent bits, times a polynomial on ±ln 2 / 2
/// (Cephes' coefficients).
#[inline(always)]
fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2^23: adding it leaves the nearest integer in the low bits.
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(core::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, coefficient);
    }
    let p = (p * r).mul_add(r, r) + 1.0;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}
