//! Convolution with stride 1 and the padding that keeps the size.
//!
//! A picture is copied once into planes with a border of zeros. In such a plane a tap of the kernel is a shift: output
//! `p` reads input `p + offset(tap)`, whatever its row, so the convolution is a matrix product whose right-hand rows
//! are shifted views of the picture and need no im2col. The border's columns give outputs that nobody reads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Output channels of a block; with [`VECTORS`] it fills the registers.
const BLOCK: usize = 8;
/// Vectors of outputs of a block.
const VECTORS: usize = 2;
/// Shifted views that a block of the weight gradient takes at once.
const TAPS: usize = 3;
/// Floats after the last plane, so that a vector may read past the last output.
const SLACK: usize = 64;
/// Pictures whose weight gradients are summed in one go; fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 8;

/// Sizes of a convolution.
#[derive(Clone, Copy)]
pub(super) struct Conv2d {
    batch: usize,
    input: usize,
    output: usize,
    height: usize,
    width: usize,
    kernel: usize,
}

impl Conv2d {
    pub(super) fn new([batch, input, height, width]: [usize; 4], [output, c, k, _]: [usize; 4]) -> Self {
        assert_eq!(input, c, "channels of the picture and of the weight");
        assert!(k == 1 || k == 3, "a kernel of 1 or 3");
        Self { batch, input, output, height, width, kernel: k }
    }

    /// Shape of the output.
    pub(super) fn output(&self) -> [usize; 4] {
        [self.batch, self.output, self.height, self.width]
    }

    fn border(&self) -> usize {
        self.kernel / 2
    }

    /// Length of a row with its border.
    fn stride(&self) -> usize {
        self.width + 2 * self.border()
    }

    /// Length of a channel with its border.
    fn plane(&self) -> usize {
        (self.height + 2 * self.border()) * self.stride()
    }

    /// Outputs of a channel, those between rows included.
    fn length(&self) -> usize {
        self.height * self.stride()
    }

    fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// For each (channel, tap), where its view starts.
    fn offsets(&self, channels: usize) -> Vec<usize> {
        let taps = self.kernel * self.kernel;
        (0..channels * taps)
            .map(|row| {
                let (channel, tap) = (row / taps, row % taps);
                channel * self.plane() + tap / self.kernel * self.stride() + tap % self.kernel
            })
            .collect()
    }

    /// Copies channels into planes; `border` rows and columns of zeros stay around each.
    fn pad(&self, channels: usize, picture: &[f32], planes: &mut [f32]) {
        let border = self.border();
        for channel in 0..channels {
            for row in 0..self.height {
                let from = channel * self.pixels() + row * self.width;
                let to = channel * self.plane() + (row + border) * self.stride() + border;
                planes[to..to + self.width].copy_from_slice(&picture[from..from + self.width]);
            }
        }
    }

    /// `[n, out, h, w]` from `[n, in, h, w]`.
    pub(super) fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let taps = self.kernel * self.kernel;
        self.product(x, self.input, self.output, bias, |out, row| weight[out * self.input * taps + row])
    }

    /// `[n, in, h, w]` from the output's gradient: the same product with the kernel turned round.
    pub(super) fn input_gradient(&self, weight: &[f32], gradient: &[f32]) -> Vec<f32> {
        let taps = self.kernel * self.kernel;
        let bias = vec![0.0; self.input];
        self.product(gradient, self.output, self.input, &bias, |out, row| {
            let (channel, tap) = (row / taps, row % taps);
            weight[(channel * self.input + out) * taps + (taps - 1 - tap)]
        })
    }

    fn product(
        &self,
        x: &[f32],
        inputs: usize,
        outputs: usize,
        bias: &[f32],
        weight: impl Fn(usize, usize) -> f32,
    ) -> Vec<f32> {
        let offsets = self.offsets(inputs);
        let blocks = outputs.div_ceil(BLOCK);
        // [block][row][channel of the block], zero where there is no such channel.
        let mut packed = vec![[0.0f32; BLOCK]; blocks * offsets.len()];
        for out in 0..outputs {
            for row in 0..offsets.len() {
                packed[out / BLOCK * offsets.len() + row][out % BLOCK] = weight(out, row);
            }
        }
        let mut y = vec![0.0; self.batch * outputs * self.pixels()];
        let arch = Arch::new();
        y.par_chunks_mut((outputs * self.pixels()).max(1)).enumerate().for_each_init(
            || {
                let planes = vec![0.0; inputs * self.plane() + SLACK];
                (planes, vec![0.0; blocks * BLOCK * (self.length() + SLACK)])
            },
            |(planes, sums), (n, y)| {
                let picture = inputs * self.pixels();
                self.pad(inputs, &x[n * picture..][..picture], planes);
                arch.dispatch(Product {
                    planes,
                    offsets: &offsets,
                    packed: &packed,
                    sums,
                    length: self.length(),
                });
                let stride = self.length() + SLACK;
                for (out, channel) in y.chunks_exact_mut(self.pixels()).enumerate() {
                    for (row, to) in channel.chunks_exact_mut(self.width).enumerate() {
                        let from = &sums[out * stride + row * self.stride()..][..self.width];
                        to.iter_mut().zip(from).for_each(|(to, from)| *to = from + bias[out]);
                    }
                }
            },
        );
        y
    }

    /// Gradients of weight and bias, summed over the batch.
    pub(super) fn parameter_gradients(&self, x: &[f32], gradient: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let offsets = self.offsets(self.input);
        let rows = offsets.len();
        let (picture, output) = (self.input * self.pixels(), self.output * self.pixels());
        let arch = Arch::new();
        let length = self.length().next_multiple_of(SLACK / VECTORS);
        let partial: Vec<(Vec<f32>, Vec<f32>)> = (0..self.batch.div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let mut planes = vec![0.0; self.input * self.plane() + SLACK];
                // The gradient in the planes' geometry; what lies between rows stays zero.
                let mut sums = vec![0.0; self.output.next_multiple_of(BLOCK) * length];
                let mut weight = vec![0.0; self.output.next_multiple_of(BLOCK) * rows];
                let mut bias = vec![0.0; self.output];
                for n in chunk * CHUNK..((chunk + 1) * CHUNK).min(self.batch) {
                    self.pad(self.input, &x[n * picture..][..picture], &mut planes);
                    for (out, channel) in
                        gradient[n * output..][..output].chunks_exact(self.pixels()).enumerate()
                    {
                        for (row, from) in channel.chunks_exact(self.width).enumerate() {
                            sums[out * length + row * self.stride()..][..self.width].copy_from_slice(from);
                        }
                    }
                    arch.dispatch(Correlation {
                        planes: &planes,
                        offsets: &offsets,
                        gradient: &sums,
                        weight: &mut weight,
                        bias: &mut bias,
                        length,
                    });
                }
                (weight, bias)
            })
            .collect();
        let mut weight = vec![0.0; self.output * rows];
        let mut bias = vec![0.0; self.output];
        for (w, b) in &partial {
            weight.iter_mut().zip(w).for_each(|(sum, part)| *sum += part);
            bias.iter_mut().zip(b).for_each(|(sum, part)| *sum += part);
        }
        (weight, bias)
    }
}

/// `sums[out][p] = Σ_row packed[out][row] · planes[offsets[row] + p]`.
struct Product<'a> {
    planes: &'a [f32],
    offsets: &'a [usize],
    packed: &'a [[f32; BLOCK]],
    sums: &'a mut [f32],
    length: usize,
}

impl WithSimd for Product<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { planes, offsets, packed, sums, length } = self;
        let tile = VECTORS * S::F32_LANES;
        let stride = length + SLACK;
        for start in (0..length).step_by(tile) {
            for (block, weights) in packed.chunks_exact(offsets.len()).enumerate() {
                let mut acc = [[simd.splat_f32s(0.0); VECTORS]; BLOCK];
                for (weights, &offset) in weights.iter().zip(offsets) {
                    let (x, _) = S::as_simd_f32s(&planes[offset + start..][..tile]);
                    for (acc, &weight) in acc.iter_mut().zip(weights) {
                        let weight = simd.splat_f32s(weight);
                        for v in 0..VECTORS {
                            acc[v] = simd.mul_add_f32s(weight, x[v], acc[v]);
                        }
                    }
                }
                for (i, acc) in acc.iter().enumerate() {
                    let (to, _) =
                        S::as_mut_simd_f32s(&mut sums[(block * BLOCK + i) * stride + start..][..tile]);
                    to.copy_from_slice(acc);
                }
            }
        }
    }
}

/// `weight[out][row] += Σ_p gradient[out][p] · planes[offsets[row] + p]` and `bias[out] += Σ_p gradient[out][p]`.
struct Correlation<'a> {
    planes: &'a [f32],
    offsets: &'a [usize],
    gradient: &'a [f32],
    weight: &'a mut [f32],
    bias: &'a mut [f32],
    length: usize,
}

impl WithSimd for Correlation<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { planes, offsets, gradient, weight, bias, length } = self;
        for (bias, gradient) in bias.iter_mut().zip(gradient.chunks_exact(length)) {
            let sum =
                S::as_simd_f32s(gradient).0.iter().fold(simd.splat_f32s(0.0), |a, &b| simd.add_f32s(a, b));
            *bias += simd.reduce_sum_f32s(sum);
        }
        for (block, gradient) in gradient.chunks_exact(BLOCK * length).enumerate() {
            for (group, offsets_of_group) in offsets.chunks(TAPS).enumerate() {
                // A short last group reads its last row again and drops what comes of it.
                let offset: [usize; TAPS] =
                    core::array::from_fn(|i| offsets_of_group[i.min(offsets_of_group.len() - 1)]);
                let x = offset.map(|offset| S::as_simd_f32s(&planes[offset..offset + length]).0);
                let mut acc = [[simd.splat_f32s(0.0); TAPS]; BLOCK];
                for p in 0..length / S::F32_LANES {
                    let x = [x[0][p], x[1][p], x[2][p]];
                    for out in 0..BLOCK {
                        let g = S::as_simd_f32s(&gradient[out * length..(out + 1) * length]).0[p];
                        for i in 0..TAPS {
                            acc[out][i] = simd.mul_add_f32s(g, x[i], acc[out][i]);
                        }
                    }
                }
                for (out, acc) in acc.iter().enumerate() {
                    for (i, &sum) in acc.iter().enumerate().take(offsets_of_group.len()) {
                        weight[(block * BLOCK + out) * offsets.len() + group * TAPS + i] +=
                            simd.reduce_sum_f32s(sum);
                    }
                }
            }
        }
    }
}
