//! The network by its definition, in f64: slow and plain, the oracle of the export.

use pulp::{Arch, Simd, WithSimd};
use traflow_graph::model::Moment;
use traflow_graph::op::{Embedding, Op, Shape, Time};

use crate::network::Network;

/// What one evaluation of a network is given.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// The picture x_t.
    pub image: &'a [f64],
    /// The times t and s.
    pub moment: Moment,
    /// Place of the moment among those that the constants have rows for.
    pub row: usize,
    /// The class that is asked for.
    pub class: Option<usize>,
}

/// The values of those nodes that are wanted; a wanted node reads wanted nodes only. The others stay empty.
pub fn evaluate(network: &Network, inputs: &Inputs<'_>, wanted: &[bool]) -> Vec<Vec<f64>> {
    let mut values: Vec<Vec<f64>> = Vec::with_capacity(wanted.len());
    for (index, &wanted) in wanted.iter().enumerate() {
        let value = if wanted { compute(network, index, &values, inputs) } else { Vec::new() };
        values.push(value);
    }
    values
}

/// Makes a picture of noise and a class with the moments of one schedule, whose first has this row.
pub fn generate(
    network: &Network,
    noise: &[f32],
    class: Option<usize>,
    schedule: &[Moment],
    first: usize,
) -> Vec<f64> {
    let mut image: Vec<f64> = noise.iter().copied().map(f64::from).collect();
    let all = vec![true; network.parameters.len()];
    for (row, &moment) in (first..).zip(schedule) {
        let velocity = evaluate(network, &Inputs { image: &image, moment, row, class }, &all).pop();
        // x_s = x_t + (s - t) u(x_t, t, s), eq. 6'.
        let step = f64::from(moment.s) - f64::from(moment.t);
        for (x, u) in image.iter_mut().zip(velocity.unwrap_or_default()) {
            *x += step * u;
        }
    }
    image
}

/// The value of one node.
pub(crate) fn compute(network: &Network, index: usize, values: &[Vec<f64>], inputs: &Inputs<'_>) -> Vec<f64> {
    let nodes = network.graph.nodes();
    let (node, parameters) = (&nodes[index], &network.parameters[index]);
    let input = |place: usize| values[node.inputs[place].index()].as_slice();
    let shape = |place: usize| nodes[node.inputs[place].index()].shape;
    let weights = network.graph.parameters(node).weights();
    let weight = match parameters.weight.len() > weights {
        true => &parameters.weight[inputs.row * weights..][..weights],
        false => &parameters.weight[..],
    };
    let bias = match parameters.per_moment {
        true => &parameters.bias[inputs.row * usize::from(node.shape.channels)..],
        false => &parameters.bias[..],
    };
    match node.op {
        Op::Image(_) => inputs.image.to_vec(),
        Op::Time(Time::From) => vec![inputs.moment.t.into()],
        Op::Time(Time::To) => vec![inputs.moment.s.into()],
        Op::Time(Time::Span) => vec![f64::from(inputs.moment.t) - f64::from(inputs.moment.s)],
        Op::Labels { count } => vec![0.0; count.into()],
        Op::Class { count } => {
            (0..usize::from(count)).map(|i| f64::from(u8::from(inputs.class == Some(i)))).collect()
        }
        Op::Coefficient(coefficient) => vec![coefficient.at(input(0)[0])],
        Op::Constant { channels } => bias[..channels.into()].to_vec(),
        Op::Embedding { channels, kind } => embedding(input(0)[0], channels.into(), kind, weight),
        Op::Conv2d { kernel, residual, .. } => {
            let mut y = match residual {
                Some(factor) => input(1).iter().map(|x| x * f64::from(factor)).collect(),
                None => vec![0.0; node.shape.elements()],
            };
            for (y, bias) in y.chunks_exact_mut(node.shape.pixels()).zip(bias) {
                y.iter_mut().for_each(|y| *y += bias);
            }
            let (x, shape, kernel) = (input(0), shape(0), kernel.into());
            Arch::new().dispatch(Conv2d { x, shape, kernel, weight, y: &mut y });
            y
        }
        Op::GroupNorm { groups, epsilon, silu: activate } => {
            let mut y = input(0).to_vec();
            group_norm(&mut y, groups.into(), epsilon.into(), weight, bias);
            if activate {
                y.iter_mut().for_each(|y| *y = silu(*y));
            }
            y
        }
        Op::Silu => input(0).iter().copied().map(silu).collect(),
        Op::Add { scale } => {
            let (a, b) = (input(0), input(1));
            // A vector is added to every pixel.
            let pixels = a.len() / b.len();
            a.iter().enumerate().map(|(i, a)| (a + b[i / pixels]) * f64::from(scale)).collect()
        }
        Op::Multiply => {
            let (a, b) = (input(0), input(1));
            let pixels = a.len() / b.len();
            a.iter().enumerate().map(|(i, a)| a * b[i / pixels]).collect()
        }
        Op::ScaleShift { silu: activate } => {
            let (a, (scale, shift)) = (input(0), input(1).split_at(input(1).len() / 2));
            let pixels = a.len() / scale.len();
            let affine = |(i, a): (usize, &f64)| a * (1.0 + scale[i / pixels]) + shift[i / pixels];
            let y = a.iter().enumerate().map(affine);
            if activate { y.map(silu).collect() } else { y.collect() }
        }
        Op::Concat => [input(0), input(1)].concat(),
        Op::Downsample => resample(node.shape, |row, column| {
            let width = usize::from(shape(0).width);
            let square = [0, 1, width, width + 1].map(|tap| 2 * row * width + 2 * column + tap);
            (shape(0).pixels(), square)
        })
        .map(|square| square.iter().map(|&i| input(0)[i]).sum::<f64>() / 4.0)
        .collect(),
        Op::Upsample => resample(node.shape, |row, column| {
            (shape(0).pixels(), [row / 2 * usize::from(shape(0).width) + column / 2])
        })
        .map(|[i]| input(0)[i])
        .collect(),
        Op::Blur { near, far } => {
            let [near, far] = [f64::from(near), f64::from(far)];
            let taps = [far, near, 1.0 - 2.0 * near - 2.0 * far, near, far];
            let tap = |down: isize, right: isize| taps[(down + 2) as usize] * taps[(right + 2) as usize];
            let offsets = || (-2..=2).flat_map(|down| (-2..=2).map(move |right| (down, right)));
            let at = |i: usize, (down, right)| tap(down, right) * shifted(input(0), shape(0), i, down, right);
            (0..node.shape.elements()).map(|i| offsets().map(|offset| at(i, offset)).sum()).collect()
        }
        Op::Border { by } => {
            let (pixels, width) = (node.shape.pixels(), usize::from(node.shape.width));
            let (by, inner) = (isize::from(by), usize::from(shape(0).width));
            let element = |i: usize| {
                let (channel, row, column) = (i / pixels, i % pixels / width, i % width);
                let (row, column) = (row as isize - by, column as isize - by);
                let first = channel * shape(0).pixels();
                let inside =
                    (0..shape(0).height as isize).contains(&row) && (0..inner as isize).contains(&column);
                if inside { input(0)[first + row as usize * inner + column as usize] } else { 0.0 }
            };
            (0..node.shape.elements()).map(element).collect()
        }
        Op::Attention { heads } => attention(input(0), node.shape, heads.into()),
    }
}

/// The element that lies so many rows below element `i` and so many columns to its right; zero beyond the edge.
fn shifted(x: &[f64], shape: Shape, i: usize, down: isize, right: isize) -> f64 {
    let (pixels, width) = (shape.pixels(), shape.width as isize);
    let (row, column) = ((i % pixels) as isize / width + down, (i % pixels) as isize % width + right);
    let inside = (0..shape.height as isize).contains(&row) && (0..width).contains(&column);
    if inside { x[i / pixels * pixels + (row * width + column) as usize] } else { 0.0 }
}

/// For each element of a shape, the elements that it reads: `taps` gives the pixels of a channel of the input, and
/// those that a row and a column read.
fn resample<const N: usize>(
    shape: Shape,
    taps: impl Fn(usize, usize) -> (usize, [usize; N]),
) -> impl Iterator<Item = [usize; N]> {
    let (pixels, width) = (shape.pixels(), usize::from(shape.width));
    (0..shape.elements()).map(move |i| {
        let (of_channel, taps) = taps(i % pixels / width, i % width);
        taps.map(|tap| i / pixels * of_channel + tap)
    })
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// The sines and cosines of a number; `weight` has the frequencies of NCSN++.
fn embedding(x: f64, channels: usize, kind: Embedding, weight: &[f64]) -> Vec<f64> {
    let half = channels / 2;
    let power = |exponent: f64| 1e4_f64.powf(-exponent);
    let angle = |i: usize| match kind {
        Embedding::Positional => x * power(i as f64 / (half as f64 - 1.0)),
        Embedding::CosineFirst => x * power(i as f64 / half as f64),
        Embedding::Fourier => std::f64::consts::TAU * x * weight[i],
    };
    let sines = (0..half).map(|i| angle(i).sin());
    let cosines = (0..half).map(|i| angle(i).cos());
    match kind {
        Embedding::CosineFirst => cosines.chain(sines).collect(),
        Embedding::Positional | Embedding::Fourier => sines.chain(cosines).collect(),
    }
}

/// Adds a convolution to `y`.
struct Conv2d<'a> {
    x: &'a [f64],
    shape: Shape,
    kernel: usize,
    weight: &'a [f64],
    y: &'a mut [f64],
}

impl WithSimd for Conv2d<'_> {
    type Output = ();

    /// Plain loops, compiled for the vectors that the processor has. The order of the sums, and so each bit, does not depend
    /// on these.
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        conv2d(self.x, self.shape, self.kernel, self.weight, self.y);
    }
}

/// Each channel gets a border of zeros, so that a tap is the same distance away from every pixel and the inner loop runs
/// over the whole channel, for several taps at once. The sums between two rows are of no use.
#[inline(always)]
fn conv2d(x: &[f64], shape: Shape, kernel: usize, weight: &[f64], y: &mut [f64]) {
    const AT_ONCE: usize = 8;
    let (height, width, pixels) = (usize::from(shape.height), usize::from(shape.width), shape.pixels());
    let border = kernel - 1;
    let (stride, above) = (width + border, border / 2);
    let size = (height + border) * stride;
    let mut bordered = vec![0.0; usize::from(shape.channels) * size];
    for (bordered, x) in bordered.chunks_exact_mut(size).zip(x.chunks_exact(pixels)) {
        for (row, x) in bordered.chunks_exact_mut(stride).skip(above).zip(x.chunks_exact(width)) {
            row[above..][..width].copy_from_slice(x);
        }
    }
    let taps = kernel * kernel;
    let start = |i: usize| i / taps * size + i % taps / kernel * stride + i % kernel;
    let of_channel = usize::from(shape.channels) * taps;
    let mut sums = vec![0.0; height * stride - border];
    for (y, weight) in y.chunks_exact_mut(pixels).zip(weight.chunks_exact(of_channel)) {
        sums.fill(0.0);
        for first in (0..of_channel).step_by(AT_ONCE) {
            // Those beyond the last weigh nothing.
            let w: [f64; AT_ONCE] = std::array::from_fn(|i| weight.get(first + i).copied().unwrap_or(0.0));
            let x: [&[f64]; AT_ONCE] =
                std::array::from_fn(|i| &bordered[start((first + i).min(of_channel - 1))..][..sums.len()]);
            for (place, sum) in sums.iter_mut().enumerate() {
                // In the order of the weights.
                *sum = x.iter().zip(w).fold(*sum, |sum, (x, w)| sum + w * x[place]);
            }
        }
        for (y, sums) in y.chunks_exact_mut(width).zip(sums.chunks(stride)) {
            y.iter_mut().zip(sums).for_each(|(y, sum)| *y += sum);
        }
    }
}

fn group_norm(y: &mut [f64], groups: usize, epsilon: f64, scale: &[f64], shift: &[f64]) {
    let (of_group, pixels) = (scale.len() / groups, y.len() / scale.len());
    let parameters = scale.chunks_exact(of_group).zip(shift.chunks_exact(of_group));
    for (group, (scale, shift)) in y.chunks_exact_mut(of_group * pixels).zip(parameters) {
        let count = group.len() as f64;
        let mean = group.iter().sum::<f64>() / count;
        let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let deviation = (variance + epsilon).sqrt();
        for (channel, (scale, shift)) in group.chunks_exact_mut(pixels).zip(scale.iter().zip(shift)) {
            channel.iter_mut().for_each(|x| *x = (*x - mean) / deviation * scale + shift);
        }
    }
}

/// `y_i = Σ_j softmax_j(q_i · k_j / √d) v_j` for each head of d channels; `shape` is that of the output.
fn attention(qkv: &[f64], shape: Shape, heads: usize) -> Vec<f64> {
    let (pixels, elements) = (shape.pixels(), shape.elements());
    let of_head = elements / heads;
    let factor = ((of_head / pixels) as f64).sqrt().recip();
    let mut y = vec![0.0; elements];
    let mut scores = vec![0.0; pixels];
    for (head, y) in y.chunks_exact_mut(of_head).enumerate() {
        let part = |kind: usize| &qkv[kind * elements + head * of_head..][..of_head];
        let (queries, keys, values) = (part(0), part(1), part(2));
        for pixel in 0..pixels {
            scores.fill(0.0);
            for (query, keys) in queries.chunks_exact(pixels).zip(keys.chunks_exact(pixels)) {
                let query = query[pixel] * factor;
                scores.iter_mut().zip(keys).for_each(|(score, key)| *score += query * key);
            }
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            scores.iter_mut().for_each(|score| *score = (*score - largest).exp());
            let total: f64 = scores.iter().sum();
            for (y, values) in y.chunks_exact_mut(pixels).zip(values.chunks_exact(pixels)) {
                y[pixel] = scores.iter().zip(values).map(|(score, value)| score * value).sum::<f64>() / total;
            }
        }
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_convolution_is_padded_with_zeros() {
        let (shape, mut y) = (Shape::new(1, 2, 3), [10.0; 6]);
        conv2d(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], shape, 3, &[1.0; 9], &mut y);
        assert_eq!(y, [22.0, 31.0, 26.0, 22.0, 31.0, 26.0]);
        // One tap reads the pixel above and to the right.
        let (mut y, mut weight) = ([0.0; 6], [0.0; 9]);
        weight[2] = 1.0;
        conv2d(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], shape, 3, &weight, &mut y);
        assert_eq!(y, [0.0, 0.0, 0.0, 2.0, 3.0, 0.0]);
    }

    #[test]
    fn an_embedding_has_sines_then_cosines() {
        let x = embedding(499.5, 4, Embedding::Positional, &[]);
        let expected = [499.5_f64.sin(), 0.04995_f64.sin(), 499.5_f64.cos(), 0.04995_f64.cos()];
        assert!(x.iter().zip(expected).all(|(x, expected)| (x - expected).abs() < 1e-12));
    }

    /// Eight channels at 249.75, by the reference implementation.
    #[test]
    fn the_embedding_of_adm_has_cosines_first() {
        let expected = [-0.006615912, 0.987584628, -0.799644933, 0.968974242, -0.999978115, -0.157087881];
        let x = embedding(249.75, 8, Embedding::CosineFirst, &[]);
        assert!(x.iter().zip(expected).all(|(x, expected)| (x - expected).abs() < 1e-6), "{x:?}");
    }

    #[test]
    fn equal_keys_attend_to_the_mean() {
        // Two heads of one channel, two pixels: queries, keys, values.
        let qkv = [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 0.0, 100.0, 1.0, 3.0, 7.0, 9.0];
        let y = attention(&qkv, Shape::new(2, 1, 2), 2);
        assert_eq!(y, [2.0, 2.0, 9.0, 9.0]);
    }
}
