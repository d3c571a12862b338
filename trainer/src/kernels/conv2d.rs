//! Convolution with stride 1 and the padding that keeps the size.
//!
//! A picture is copied once into planes with a border of zeros. In such a plane a tap of the kernel is a shift: output
//! `p` reads input `p + offset(tap)`, whatever its row, so the convolution is a matrix product whose right-hand rows
//! are shifted views of the picture and need no im2col. The border's columns give outputs that nobody reads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Output channels of a block; with [`VECTORS`] it fills 16 registers. Where there are no more than 16, half a block does.
const BLOCK: usize = 8;
/// Vectors of outputs of a block.
const VECTORS: usize = 2;
/// Channels of a pixel are a multiple of this where vectors are of channels: what the widest vector holds.
const CHANNELS: usize = 16;
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
        let taps = self.kernel * self.kernel;
        let (picture, output) = (self.input * self.pixels(), self.output * self.pixels());
        let (channels, blocks) = (self.input.next_multiple_of(CHANNELS), self.output.div_ceil(BLOCK));
        let arch = Arch::new();
        let partial: Vec<(Vec<f32>, Vec<[f32; BLOCK]>)> = (0..self.batch.div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let mut planes = vec![0.0; self.plane() * channels];
                let mut packed = vec![[0.0; BLOCK]; blocks * self.pixels()];
                let mut weight = vec![0.0; blocks * BLOCK * taps * channels];
                let mut bias = vec![[0.0; BLOCK]; blocks];
                for n in chunk * CHUNK..((chunk + 1) * CHUNK).min(self.batch) {
                    self.pad_pixels(channels, &x[n * picture..][..picture], &mut planes);
                    let of_picture = &gradient[n * output..][..output];
                    for (out, channel) in of_picture.chunks_exact(self.pixels()).enumerate() {
                        let block = &mut packed[out / BLOCK * self.pixels()..];
                        block.iter_mut().zip(channel).for_each(|(to, from)| to[out % BLOCK] = *from);
                    }
                    for (bias, gradient) in bias.iter_mut().zip(packed.chunks_exact(self.pixels())) {
                        for pixel in gradient {
                            bias.iter_mut().zip(pixel).for_each(|(sum, part)| *sum += part);
                        }
                    }
                    arch.dispatch(Correlation {
                        conv: self,
                        planes: &planes,
                        gradient: &packed,
                        weight: &mut weight,
                    });
                }
                (weight, bias)
            })
            .collect();
        let mut weight = vec![0.0; self.output * self.input * taps];
        let mut bias = vec![0.0; self.output];
        for (w, b) in &partial {
            for (out, weight) in weight.chunks_exact_mut(self.input * taps).enumerate() {
                for (tap, w) in
                    w[out * taps * channels..][..taps * channels].chunks_exact(channels).enumerate()
                {
                    for (sum, part) in weight[tap..].iter_mut().step_by(taps).zip(w) {
                        *sum += part;
                    }
                }
            }
            bias.iter_mut().zip(b.as_flattened()).for_each(|(sum, part)| *sum += part);
        }
        (weight, bias)
    }

    /// Copies channels into one plane whose pixels have `channels` floats each, with a border as [`pad`](Self::pad)'s.
    fn pad_pixels(&self, channels: usize, picture: &[f32], plane: &mut [f32]) {
        let border = self.border();
        for row in 0..self.height {
            let to =
                &mut plane[((row + border) * self.stride() + border) * channels..][..self.width * channels];
            for (channel, from) in picture.chunks_exact(self.pixels()).enumerate() {
                let from = &from[row * self.width..][..self.width];
                to[channel..].iter_mut().step_by(channels).zip(from).for_each(|(to, from)| *to = *from);
            }
        }
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
        if S::REGISTER_COUNT > BLOCK * VECTORS + VECTORS {
            self.outputs::<S, BLOCK>(simd);
        } else {
            self.outputs::<S, { BLOCK / 2 }>(simd);
        }
    }
}

impl Product<'_> {
    /// The product, `OUT` channels at once.
    #[inline(always)]
    fn outputs<S: Simd, const OUT: usize>(self, simd: S) {
        let Self { planes, offsets, packed, sums, length } = self;
        let tile = VECTORS * S::F32_LANES;
        let stride = length + SLACK;
        for start in (0..length).step_by(tile) {
            for out in (0..packed.len() / offsets.len() * BLOCK).step_by(OUT) {
                let (block, first) = (out / BLOCK, out % BLOCK);
                let mut acc = [[simd.splat_f32s(0.0); VECTORS]; OUT];
                for (weights, &offset) in packed[block * offsets.len()..].iter().zip(offsets) {
                    let (x, _) = S::as_simd_f32s(&planes[offset + start..][..tile]);
                    for (acc, &weight) in acc.iter_mut().zip(&weights[first..]) {
                        let weight = simd.splat_f32s(weight);
                        for v in 0..VECTORS {
                            acc[v] = simd.mul_add_f32s(weight, x[v], acc[v]);
                        }
                    }
                }
                for (i, acc) in acc.iter().enumerate() {
                    let (to, _) = S::as_mut_simd_f32s(&mut sums[(out + i) * stride + start..][..tile]);
                    to.copy_from_slice(acc);
                }
            }
        }
    }
}

/// `weight[out][tap][channel] += Σ_p gradient[out][p] · planes[p + tap][channel]`: vectors are of channels, so that small
/// pictures fill them as well as large ones and no sum is across a vector.
struct Correlation<'a> {
    conv: &'a Conv2d,
    planes: &'a [f32],
    gradient: &'a [[f32; BLOCK]],
    weight: &'a mut [f32],
}

impl WithSimd for Correlation<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match self.conv.kernel {
            1 => self.rows::<S, 1>(simd),
            _ => self.rows::<S, 3>(simd),
        }
    }
}

impl Correlation<'_> {
    #[inline(always)]
    fn rows<S: Simd, const K: usize>(self, simd: S) {
        let Self { conv, planes, gradient, weight } = self;
        let vectors = planes.len() / conv.plane() / S::F32_LANES;
        let (planes, _) = S::as_simd_f32s(planes);
        let (weight, _) = S::as_mut_simd_f32s(weight);
        for (block, gradient) in gradient.chunks_exact(conv.pixels()).enumerate() {
            for (row, vector) in (0..K).flat_map(|row| (0..vectors).map(move |vector| (row, vector))) {
                let mut acc = [[simd.splat_f32s(0.0); K]; BLOCK];
                let inputs = planes[row * conv.stride() * vectors..].chunks_exact(conv.stride() * vectors);
                for (x, gradient) in inputs.zip(gradient.chunks_exact(conv.width)) {
                    for (i, gradient) in gradient.iter().enumerate() {
                        let x: [_; K] = core::array::from_fn(|tap| x[(i + tap) * vectors + vector]);
                        for (acc, &g) in acc.iter_mut().zip(gradient) {
                            let g = simd.splat_f32s(g);
                            for tap in 0..K {
                                acc[tap] = simd.mul_add_f32s(g, x[tap], acc[tap]);
                            }
                        }
                    }
                }
                for (out, acc) in acc.into_iter().enumerate() {
                    for (tap, sum) in acc.into_iter().enumerate() {
                        let to =
                            &mut weight[(((block * BLOCK + out) * K + row) * K + tap) * vectors + vector];
                        *to = simd.add_f32s(*to, sum);
                    }
                }
            }
        }
    }
}
