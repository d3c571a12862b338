//! The graph, interpreted with Burn's tensors.
//!
//! A network is its graph and a flat list of named parameters; the optimiser, the moving average and the checkpoint
//! are loops over that list. [`Network::forward`] is the only place that knows what an [`Op`] does to a tensor, and
//! [`Network::tangent`] the only one that knows its derivative.

use std::sync::Arc;

use burn::tensor::activation::{silu, softmax};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use traflow_graph::checkpoint::{self, Tensors};
use traflow_graph::formats::Formats;
use traflow_graph::graph::{Graph, Node};
use traflow_graph::noise::Noise;
use traflow_graph::op::{Embedding, Op, Time};

use crate::kernels;

mod rounding;
mod tangent;

pub use tangent::Direction;

/// Times of a batch: t, where each picture is, and s ≤ t, where it goes. Both have one element a picture.
#[derive(Clone, Debug)]
pub struct Times {
    /// t in [0, 1]; 1 is noise.
    pub t: Tensor<1>,
    /// s in [0, t].
    pub s: Tensor<1>,
}

/// A named tensor that is learned.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// The node's name and `.weight` or `.bias`.
    pub name: String,
    /// Weight `[out, in, k, k]`; norm scale and bias `[c, 1, 1, 1]`.
    pub value: Tensor<4>,
}

/// Where a node's parameters stand in the list.
#[derive(Clone, Copy, Debug, Default)]
struct Slots {
    weight: Option<usize>,
    bias: Option<usize>,
}

/// Dropout of one step of a training. Element i of the mask of a node is a pure function of the seed, the picture, the node
/// and i, so every evaluation of the step, of whichever weights, has the same mask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Part of the values that become zero; the others are divided by 1 - rate.
    pub rate: f32,
    /// Seed of the training.
    pub seed: u64,
    /// Place of the first picture of the batch, or of its part, among all pictures of the training.
    pub first: u64,
}

/// Stream of the class of a seed.
const CLASS_STREAM: u32 = 1 << 15;

/// Streams of masks begin here, one a node, above those of [`Stream`](crate::flow::Stream).
const MASK_STREAMS: u32 = 1 << 16;

/// A graph with its parameters on a device.
#[derive(Clone, Debug)]
pub struct Network {
    graph: Graph,
    slots: Vec<Slots>,
    classes: Option<Vec<f32>>,
    dropout: Option<Dropout>,
    formats: Option<Arc<Formats>>,
    /// All parameters, in the order of the nodes.
    pub parameters: Vec<Parameter>,
}

impl Network {
    /// A network whose parameters are what `values` gives for their name and dimensions.
    ///
    /// # Errors
    /// The first error of `values`.
    pub fn new<E>(
        graph: Graph,
        device: &Device,
        mut values: impl FnMut(&str, [usize; 4]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let mut parameters = Vec::new();
        let mut parameter = |node: &Node, suffix: &str, dimensions: [usize; 4]| {
            let name = format!("{}.{suffix}", node.name);
            let data = TensorData::new(values(&name, dimensions)?, dimensions);
            parameters.push(Parameter { name, value: Tensor::from_data(data, device) });
            Ok(parameters.len() - 1)
        };
        let mut slots = Vec::with_capacity(graph.nodes().len());
        for node in graph.nodes() {
            let sizes = graph.parameters(node);
            slots.push(Slots {
                weight: sizes.weight.map(|dimensions| parameter(node, "weight", dimensions)).transpose()?,
                bias: sizes.bias.map(|length| parameter(node, "bias", [length, 1, 1, 1])).transpose()?,
            });
        }
        Ok(Self { graph, slots, classes: None, dropout: None, formats: None, parameters })
    }

    /// The same network with what its node of the class gives in the evaluations to come, `[n, classes]`: a one in each row, or
    /// none for no class in particular.
    pub fn with_class_rows(&self, rows: Vec<f32>) -> Self {
        Self { classes: Some(rows), ..self.clone() }
    }

    /// The same network, asked for the class of each picture. A network without classes stays as it is.
    pub fn with_classes(&self, classes: impl Iterator<Item = u16>) -> Self {
        let Some(count) = self.classes() else { return self.clone() };
        let row = |class| (0..count).map(move |i| f32::from(u8::from(i == class)));
        self.with_class_rows(classes.flat_map(row).collect())
    }

    /// The same network, asked for the class of each seed: a pure function of the seed, each class as likely. A network
    /// without classes stays as it is.
    pub fn with_classes_of(&self, seeds: &[u64]) -> Self {
        let count = u64::from(self.classes().unwrap_or_default());
        let class = |&seed: &u64| (u64::from(Noise::stream(seed, CLASS_STREAM).word(0)) * count) >> 32;
        self.with_classes(seeds.iter().map(class).map(|class| class as u16))
    }

    /// Number of classes of a network that has them.
    fn classes(&self) -> Option<u16> {
        self.graph.nodes().iter().find_map(|node| match node.op {
            Op::Class { count } => Some(count),
            _ => None,
        })
    }

    /// The same network with dropout where EDM has it: before the second convolution of every block. A rate of 0 is none.
    pub fn with_dropout(&self, dropout: Dropout) -> Self {
        Self { dropout: Some(dropout).filter(|dropout| dropout.rate > 0.0), ..self.clone() }
    }

    /// The graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.parameters.first().map_or_else(Device::flex, |parameter| parameter.value.device())
    }

    /// The same network with every parameter replaced by what `f` makes of it.
    pub fn map(&self, mut f: impl FnMut(&Parameter) -> Tensor<4>) -> Self {
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|p| Parameter { name: p.name.clone(), value: f(p) }).collect();
        Self { parameters, ..self.clone() }
    }

    /// The same network with parameters that autodiff tracks.
    pub fn tracked(&self) -> Self {
        self.map(|parameter| Tensor::from_inner(parameter.value.clone()).require_grad())
    }

    /// The gradient of each parameter of a [`tracked`](Network::tracked) network; none where the loss does not depend
    /// on it.
    pub fn gradients(&self, gradients: &Gradients) -> Vec<Option<Tensor<4>>> {
        self.parameters.iter().map(|parameter| parameter.value.grad(gradients)).collect()
    }

    /// The parameters as a checkpoint has them.
    ///
    /// # Errors
    /// Where the device cannot give its values.
    pub fn tensors(&self) -> anyhow::Result<Tensors> {
        let dimensions = checkpoint::parameters(&self.graph);
        let tensors = self.parameters.iter().zip(dimensions).map(|(parameter, (name, dimensions))| {
            Ok((name, (dimensions, parameter.value.clone().try_into_vec_as::<f32>()?)))
        });
        tensors.collect()
    }

    /// The output for pictures `x: [n, c, h, w]`: the velocity v(x, t), or u(x, t, s) where the graph reads s; as integers
    /// give it after [`with_formats`](Network::with_formats).
    pub fn forward(&self, x: Tensor<4>, times: &Times) -> Tensor<4> {
        self.forward_with(x, times, |node, value| self.rounded(node, value))
    }

    /// [`forward`](Network::forward) with a hook that sees each node's output and may replace it.
    ///
    /// # Panics
    /// If x is not a batch of pictures of the graph's shape, or the classes are not as many as the pictures.
    pub fn forward_with(
        &self,
        x: Tensor<4>,
        times: &Times,
        mut hook: impl FnMut(&Node, Tensor<4>) -> Tensor<4>,
    ) -> Tensor<4> {
        let nodes = self.graph.nodes();
        let mut readers = vec![0usize; nodes.len()];
        nodes.iter().flat_map(|node| &node.inputs).for_each(|input| readers[input.index()] += 1);
        let mut values: Vec<Option<Tensor<4>>> = Vec::with_capacity(nodes.len());
        for (index, (node, slots)) in nodes.iter().zip(&self.slots).enumerate() {
            let inputs: Vec<Tensor<4>> = node
                .inputs
                .iter()
                .map(|input| {
                    let input = input.index();
                    readers[input] -= 1;
                    // The last reader takes the tensor, so that it is freed, or reused, as early as possible.
                    let value =
                        if readers[input] == 0 { values[input].take() } else { values[input].clone() };
                    value.expect("a graph's nodes read earlier nodes")
                })
                .collect();
            let output = self.apply(node, *slots, &x, times, inputs);
            let output = match self.mask(index, node, &output) {
                Some(mask) => output * mask,
                None => output,
            };
            values.push(Some(hook(node, output)));
        }
        values.pop().flatten().expect("a graph has an output")
    }

    /// What dropout multiplies the output of a node by.
    fn mask(&self, index: usize, node: &Node, output: &Tensor<4>) -> Option<Tensor<4>> {
        self.dropout.filter(|_| drops(node)).map(|dropout| dropout.mask(index as u32, output))
    }

    fn apply(
        &self,
        node: &Node,
        slots: Slots,
        x: &Tensor<4>,
        times: &Times,
        inputs: Vec<Tensor<4>>,
    ) -> Tensor<4> {
        let weight = || self.parameters[slots.weight.expect("this operation has a weight")].value.clone();
        let bias = || slots.bias.map(|slot| self.parameters[slot].value.clone().reshape([-1]));
        let batch = times.t.dims()[0];
        let mut inputs = inputs.into_iter();
        let mut input = || inputs.next().expect("the graph has checked the number of inputs");
        match node.op {
            Op::Image(_) => x.clone(),
            Op::Time(Time::From) => times.t.clone().reshape([batch, 1, 1, 1]),
            Op::Time(Time::To) => times.s.clone().reshape([batch, 1, 1, 1]),
            Op::Time(Time::Span) => (times.t.clone() - times.s.clone()).reshape([batch, 1, 1, 1]),
            Op::Class { count } => {
                let shape = [batch, count.into(), 1, 1];
                match &self.classes {
                    Some(classes) => Tensor::from_data(TensorData::new(classes.clone(), shape), &x.device()),
                    None => Tensor::zeros(shape, &x.device()),
                }
            }
            Op::Coefficient(coefficient) => of_time(input(), |t| coefficient.at(t)),
            Op::Labels { count } => Tensor::zeros([batch, count.into(), 1, 1], &x.device()),
            Op::Constant { .. } => bias().expect("a constant has a bias").reshape([1, -1, 1, 1]),
            Op::Embedding { channels, kind } => {
                let learned = slots.weight.map(|_| weight());
                embedding(input(), channels.into(), kind, learned)
            }
            Op::Conv2d { kernel, residual, .. } => {
                let y = convolution(input(), weight(), bias(), kernel.into());
                match residual {
                    Some(scale) => y + input() * scale,
                    None => y,
                }
            }
            Op::GroupNorm { groups, epsilon, silu: activate } => {
                group_norm(input(), weight(), bias(), groups.into(), epsilon, activate)
            }
            Op::Silu => silu(input()),
            Op::Add { scale } => {
                let sum = input() + input();
                if scale == 1.0 { sum } else { sum * scale }
            }
            Op::Multiply => input() * input(),
            Op::ScaleShift { silu: activate } => {
                let (x, by) = (input(), input());
                let channels = x.dims()[1];
                let (scale, shift) = (by.clone().narrow(1, 0, channels), by.narrow(1, channels, channels));
                let y = x * (scale + 1.0) + shift;
                if activate { silu(y) } else { y }
            }
            Op::Concat => Tensor::cat(vec![input(), input()], 1),
            Op::Downsample => downsample(input()),
            Op::Upsample => upsample(input()),
            Op::Blur { near, far } => blur(input(), near, far),
            Op::Border { by } => border(input(), by.into()),
            Op::Attention { heads } => attention(input(), heads.into()),
        }
    }
}

/// Whether dropout follows a node: what the second convolution of a block reads.
fn drops(node: &Node) -> bool {
    let last = node.name.rsplit('.').next();
    match node.op {
        Op::GroupNorm { silu, .. } => silu && last == Some("norm1"),
        Op::ScaleShift { .. } => true,
        _ => false,
    }
}

impl Dropout {
    /// The mask of a node's output.
    fn mask(&self, node: u32, output: &Tensor<4>) -> Tensor<4> {
        let shape = output.dims();
        let elements = shape.iter().product::<usize>() as u64;
        let first = self.first * shape[1..].iter().product::<usize>() as u64;
        let noise = Noise::stream(self.seed, MASK_STREAMS + node);
        let kept = 1.0 / (1.0 - self.rate);
        let mask = (first..first + elements).map(|i| if noise.uniform(i) < self.rate { 0.0 } else { kept });
        Tensor::from_data(TensorData::new(mask.collect::<Vec<f32>>(), shape), &output.device())
    }
}

/// A function of each picture's time, in f64 on the host: a logarithm near t = 1 wants it, and times are few. No
/// gradient goes through it; times are not learned.
fn of_time(time: Tensor<4>, function: impl Fn(f64) -> f64) -> Tensor<4> {
    let (shape, device) = (time.dims(), time.device());
    let times = time.try_into_vec_as::<f32>().expect("times are numbers of the device");
    let values: Vec<f32> = times.into_iter().map(|t| function(t.into()) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &device)
}

/// A number as sines and cosines. An angle is at most 999 for most networks, which an f32 holds to 3e-5: so far the
/// exporter, which computes it in f64, may differ.
fn embedding(x: Tensor<4>, channels: usize, kind: Embedding, learned: Option<Tensor<4>>) -> Tensor<4> {
    let angle = x.clone() * frequencies(channels, kind, learned, &x.device());
    in_order(kind, angle.clone().sin(), angle.cos())
}

/// What is of the sines and what is of the cosines, as the embedding has them.
fn in_order(kind: Embedding, sines: Tensor<4>, cosines: Tensor<4>) -> Tensor<4> {
    match kind {
        Embedding::CosineFirst => Tensor::cat(vec![cosines, sines], 1),
        Embedding::Positional | Embedding::Fourier => Tensor::cat(vec![sines, cosines], 1),
    }
}

fn frequencies(channels: usize, kind: Embedding, learned: Option<Tensor<4>>, device: &Device) -> Tensor<4> {
    let half = channels / 2;
    let powers = |last: f64| {
        let frequencies: Vec<f32> = (0..half).map(|i| 1e4f64.powf(-(i as f64) / last) as f32).collect();
        Tensor::<1>::from_floats(frequencies.as_slice(), device).reshape([1, -1, 1, 1])
    };
    match (kind, learned) {
        // These are given, not learned.
        (Embedding::Fourier, Some(weight)) => weight.detach().reshape([1, -1, 1, 1]) * std::f32::consts::TAU,
        (Embedding::CosineFirst, _) => powers(half as f64),
        _ => powers(half as f64 - 1.0),
    }
}

pub(crate) fn convolution(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    kernel: usize,
) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    if h * w == 1 {
        let out = weight.dims()[0];
        let y = x.reshape([n, c]).matmul(weight.reshape([out, c]).transpose());
        let y = match bias {
            Some(bias) => y + bias.reshape([1, -1]),
            None => y,
        };
        return y.reshape([n, out, 1, 1]);
    }
    if let Some(bias) = &bias
        && kernels::supported(&x.device())
    {
        return kernels::conv2d_same(x, weight, bias.clone());
    }
    let padding = kernel / 2;
    conv2d(x, weight, bias, ConvOptions::new([1, 1], [padding, padding], [1, 1], 1))
}

fn group_norm(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    groups: usize,
    epsilon: f32,
    activate: bool,
) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    if let Some(bias) = &bias
        && kernels::supported(&x.device())
    {
        return kernels::group_norm(x, weight, bias.clone(), groups, epsilon, activate);
    }
    let x = x.reshape([n, groups, c / groups * h * w]);
    let mean = x.clone().mean_dim(2);
    let centred = x - mean;
    let variance = centred.clone().square().mean_dim(2);
    let scale = (variance + epsilon).sqrt().recip();
    let y = (centred * scale).reshape([n, c, h, w]) * weight.reshape([1, -1, 1, 1]);
    let y = match bias {
        Some(bias) => y + bias.reshape([1, -1, 1, 1]),
        None => y,
    };
    if activate { silu(y) } else { y }
}

/// `[w, 2 w]`, with ones where a column of a row comes from. Along a row, resampling is a product with it: devices have
/// fast products, and slow copies of every second number.
fn doubling(w: usize, device: &Device) -> Tensor<2> {
    let ones = (0..w * 2 * w).map(|i| f32::from(u8::from(i % (2 * w) / 2 == i / (2 * w))));
    Tensor::from_data(TensorData::new(ones.collect::<Vec<f32>>(), [w, 2 * w]), device)
}

fn downsample(x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let halving = doubling(w / 2, &x.device()).transpose() * 0.25;
    let pairs = x.reshape([n * c * h / 2, 2, w]).sum_dim(1).reshape([n * c * h / 2, w]);
    pairs.matmul(halving).reshape([n, c, h / 2, w / 2])
}

fn upsample(x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let doubling = doubling(w, &x.device());
    let rows = x.reshape([n * c * h, w]).matmul(doubling).reshape([n * c * h, 1, 2 * w]);
    Tensor::cat(vec![rows.clone(), rows], 1).reshape([n, c, 2 * h, 2 * w])
}

/// `[1, n, m]`, to be multiplied with rows or columns of pictures.
fn matrix(n: usize, m: usize, f: impl Fn(usize, usize) -> f32, device: &Device) -> Tensor<3> {
    let values: Vec<f32> = (0..n * m).map(|i| f(i / m, i % m)).collect();
    Tensor::from_data(TensorData::new(values, [1, n, m]), device)
}

/// Convolution of rows and columns with `far, near, middle, near, far`, as a product with band matrices.
fn blur(x: Tensor<4>, near: f32, far: f32) -> Tensor<4> {
    let ([n, c, h, w], device) = (x.dims(), x.device());
    let tap = |i: usize, j: usize| match i.abs_diff(j) {
        0 => 1.0 - 2.0 * near - 2.0 * far,
        1 => near,
        2 => far,
        _ => 0.0,
    };
    let columns = matrix(h, h, tap, &device).matmul(x.reshape([n * c, h, w]));
    columns.matmul(matrix(w, w, tap, &device)).reshape([n, c, h, w])
}

/// Adds rows and columns of zeros on each side, or takes them away, as a product with shifted unit matrices.
fn border(x: Tensor<4>, by: isize) -> Tensor<4> {
    let ([n, c, h, w], device) = (x.dims(), x.device());
    let [rows, columns] = [h, w].map(|size| size.saturating_add_signed(2 * by));
    let unit = |new: usize, old: usize| f32::from(u8::from(new as isize == old as isize + by));
    let y = matrix(rows, h, unit, &device).matmul(x.reshape([n * c, h, w]));
    y.matmul(matrix(w, columns, |old, new| unit(new, old), &device)).reshape([n, c, rows, columns])
}

/// softmax(qᵀk / √d) v for each head, over the pixels.
fn attention(qkv: Tensor<4>, heads: usize) -> Tensor<4> {
    let [n, c3, h, w] = qkv.dims();
    let depth = c3 / 3 / heads;
    let qkv = qkv.reshape([n, 3, heads, depth, h * w]);
    let part = |i: usize| qkv.clone().narrow(1, i, 1).reshape([n * heads, depth, h * w]);
    let (q, k, v) = (part(0), part(1), part(2));
    let scores = q.transpose().matmul(k) * (depth as f32).sqrt().recip();
    v.matmul(softmax(scores, 2).transpose()).reshape([n, c3 / 3, h, w])
}

#[cfg(test)]
mod tests {
    use super::*;
    use traflow_graph::graph::Builder;
    use traflow_graph::op::Shape;

    fn values(tensor: Tensor<4>) -> Vec<f32> {
        tensor.try_into_vec_as::<f32>().unwrap()
    }

    /// Eight channels at 249.75, by the reference implementation.
    #[test]
    fn the_embedding_has_its_published_values() {
        let x = Tensor::<1>::from_floats([249.75], &Device::flex()).reshape([1, 1, 1, 1]);
        let expected = [
            -0.999_978_1,
            -0.827_141_7,
            0.512_479_7,
            0.024_972_4,
            -0.006_615_9,
            0.561_993_4,
            0.858_699_3,
            0.999_688_14,
        ];
        let positional = values(embedding(x.clone(), 8, Embedding::Positional, None));
        for (found, expected) in positional.into_iter().zip(expected) {
            assert!((found - expected).abs() < 3e-5, "{found} is not {expected}");
        }
        let expected = [
            -0.006_615_9,
            0.987_584_6,
            -0.799_644_95,
            0.968_974_2,
            -0.999_978_1,
            -0.157_087_88,
            0.600_473_1,
            0.247_161_72,
        ];
        let cosine_first = values(embedding(x, 8, Embedding::CosineFirst, None));
        for (found, expected) in cosine_first.into_iter().zip(expected) {
            assert!((found - expected).abs() < 3e-5, "{found} is not {expected}");
        }
    }

    /// A mask depends on seed, picture and node, not on the weights or the times; it keeps the mean.
    #[test]
    fn dropout_has_one_mask_a_step() {
        let device = Device::flex();
        let mut g = Builder::new();
        let x = g.image(Shape::new(8, 16, 16));
        let h = g.group_norm("block.norm1", x, 1e-6, true);
        g.silu("last", h);
        let ones = |name: &str, [c, ..]: [usize; 4]| {
            Ok::<_, ()>(vec![f32::from(u8::from(name.ends_with("weight"))); c])
        };
        let network = Network::new(g.finish().unwrap(), &device, ones).unwrap();
        let x = Tensor::random([2, 8, 16, 16], burn::tensor::Distribution::Default, &device);
        let times = |t: f32| Times {
            t: Tensor::from_floats([t, t], &device),
            s: Tensor::from_floats([0.0, 0.0], &device),
        };
        let zeros = |first: u64, network: &Network, t: f32| -> Vec<bool> {
            let network = network.with_dropout(Dropout { rate: 0.25, seed: 1, first });
            values(network.forward(x.clone(), &times(t))).into_iter().map(|y| y == 0.0).collect()
        };
        let other = network.map(|parameter| parameter.value.clone() * 2.0);
        let first = zeros(6, &network, 1.0);
        assert_eq!(first, zeros(6, &other, 0.5));
        assert_ne!(first, zeros(8, &network, 1.0));
        let part = first.iter().filter(|zero| **zero).count() as f32 / first.len() as f32;
        assert!((part - 0.25).abs() < 0.02, "{part}");
    }

    #[test]
    fn resampling_takes_means_of_squares_and_doubles_pixels() {
        let numbers: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let x = Tensor::from_data(TensorData::new(numbers, [1, 2, 2, 4]), &Device::flex());
        assert_eq!(values(downsample(x.clone())), [2.5, 4.5, 10.5, 12.5]);
        let up = values(upsample(x));
        assert_eq!(up[..8], [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]);
        assert_eq!(up[..8], up[8..16]);
        assert_eq!(up[32..40], [8.0, 8.0, 9.0, 9.0, 10.0, 10.0, 11.0, 11.0]);
    }

    /// Softmax over three pixels of q·k / √d, for two heads of one channel.
    #[test]
    fn attention_is_its_formula() {
        let qkv: Vec<f32> = (0..18).map(|i| (i * 7 % 11) as f32 / 5.0 - 1.0).collect();
        let x = Tensor::from_data(TensorData::new(qkv.clone(), [1, 6, 1, 3]), &Device::flex());
        let found = values(attention(x, 2));
        for head in 0..2 {
            let part = |kind: usize| &qkv[(2 * kind + head) * 3..][..3];
            for pixel in 0..3 {
                let weights: Vec<f32> = part(1).iter().map(|k| (part(0)[pixel] * k).exp()).collect();
                let sum: f32 = weights.iter().zip(part(2)).map(|(w, v)| w * v).sum();
                let expected = sum / weights.iter().sum::<f32>();
                assert!((found[head * 3 + pixel] - expected).abs() < 1e-6, "head {head}, pixel {pixel}");
            }
        }
    }

    #[test]
    fn a_hook_sees_every_node_and_may_replace_it() {
        let mut g = Builder::new();
        let x = g.image(Shape::new(1, 1, 2));
        let y = g.silu("silu", x);
        g.add("sum", y, x, 2.0);
        let network =
            Network::new::<()>(g.finish().unwrap(), &Device::flex(), |_, _| Ok(Vec::new())).unwrap();
        let device = Device::flex();
        let x = Tensor::from_data(TensorData::new(vec![1.0f32, -3.0], [1, 1, 1, 2]), &device);
        let times = Times { t: Tensor::from_floats([1.0], &device), s: Tensor::from_floats([0.0], &device) };
        let mut seen = Vec::new();
        let y = network.forward_with(x, &times, |node, value| {
            seen.push(node.name.clone());
            if node.name == "silu" { value.zeros_like() } else { value }
        });
        assert_eq!(seen, ["image", "silu", "sum"]);
        assert_eq!(values(y), [2.0, -6.0]);
    }
}
