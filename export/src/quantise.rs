//! Turns a network into integers: the formats of its values, and from them every factor, zero point and table.

use traflow_graph::formats::{Format, Formats, Part, weight_integer, weight_unit};
use traflow_graph::model::Moment;
use traflow_graph::op::Op;
use traflow_graph::quant::{AFFINE_BITS, Integers, QUAD, TABLE, WIDE_GROUP, wide};
use traflow_graph::write::IntegerNode;

use crate::calibrate::{Histogram, Observer, Seen};
use crate::network::{Network, Parameters};

/// The widths that a file allows, from those that are wanted: the picture and constants are wide, and so is the
/// velocity; what an attention reads is not, nor a norm with large groups, and an upsampling has the width of its input.
pub fn widths(network: &Network, mut wide: Vec<bool>) -> Vec<bool> {
    let nodes = network.graph.nodes();
    for (index, node) in nodes.iter().enumerate() {
        if matches!(node.op, Op::Image(_) | Op::Constant { .. }) || index + 1 == nodes.len() {
            wide[index] = true;
        }
        let input = node.inputs.first().map(|input| input.index());
        let narrow = match (node.op, input) {
            (Op::Attention { .. }, _) => true,
            (Op::GroupNorm { groups, .. }, Some(input)) => {
                nodes[input].shape.elements() / usize::from(groups) > WIDE_GROUP
            }
            _ => false,
        };
        if let Some(input) = input.filter(|_| narrow) {
            wide[input] = false;
        }
    }
    for (index, node) in nodes.iter().enumerate() {
        if matches!(node.op, Op::Upsample) {
            wide[index] = wide[node.inputs[0].index()];
        }
    }
    wide
}

/// The formats of all values for what was seen of them.
pub fn formats(network: &Network, seen: &[Seen], wide: &[bool], observer: Observer) -> Vec<Format> {
    build(network, wide, &mut |unit| {
        let Unit { index, source, part, wide, symmetric } = unit;
        // The half of a concatenation is the whole of another value.
        let part = if source == index { part } else { 0 };
        scale(&seen[source].parts[part], wide, symmetric, observer)
    })
}

/// Formats for values of about [-4, 4], whatever they are: for sizes.
pub fn unseen_formats(network: &Network, wide: &[bool]) -> Vec<Format> {
    build(network, wide, &mut |unit| [if unit.wide { 4.0 / 32767.0 } else { 8.0 / 255.0 }, 0.0])
}

/// The formats of all values as a network was trained for them; `None` where they are of another network.
pub fn trained_formats(network: &Network, trained: &Formats) -> Option<Vec<Format>> {
    let of_value = |(index, names): (usize, &Vec<String>)| match network.graph.nodes()[index].op {
        Op::Constant { .. } => Some(constant(network, index)),
        _ => names.first().and_then(|name| trained.0.get(name).cloned()),
    };
    let expected: Vec<Format> = network.values.iter().enumerate().map(of_value).collect::<Option<_>>()?;
    let wide: Vec<bool> = expected.iter().map(|format| format.wide).collect();
    // What the parts of a value are follows from the network, not from the file.
    let built = build(network, &wide, &mut |Unit { index, part, .. }| {
        let parts = &expected[index].parts;
        let part = parts.get(part).or(parts.last());
        part.map_or([1.0, 0.0], |&Part { scale, zero, .. }| [scale, zero.into()])
    });
    (wide == widths(network, wide.clone()) && built == expected).then_some(built)
}

/// The formats by the names of the trained network, to be trained for.
pub fn named(network: &Network, formats: &[Format]) -> Formats {
    let nodes = network.graph.nodes().iter().zip(&network.values).zip(formats);
    let nodes = nodes.filter(|((node, _), _)| !matches!(node.op, Op::Constant { .. }));
    let of_names =
        nodes.flat_map(|((_, names), format)| names.iter().map(|name| (name.clone(), format.clone())));
    Formats(of_names.collect())
}

/// A scale that has to be chosen.
#[derive(Clone, Copy)]
struct Unit {
    /// The node of the value.
    index: usize,
    /// The part of the value.
    part: usize,
    /// The node whose numbers these are.
    source: usize,
    wide: bool,
    /// Whether the zero point is 0.
    symmetric: bool,
}

/// Formats made of scales and zero points that `choose` gives.
fn build(network: &Network, wide: &[bool], choose: &mut dyn FnMut(Unit) -> [f64; 2]) -> Vec<Format> {
    let nodes = network.graph.nodes();
    let mut formats: Vec<Format> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let (channels, wide) = (node.shape.channels, wide[index]);
        let input = |place: usize| &formats[node.inputs[place].index()];
        let mut part = |part: usize, channels: usize, source: usize, symmetric: bool| {
            let [scale, zero] = choose(Unit { index, part, source, wide, symmetric });
            Part { channels, scale, zero: zero as i32 }
        };
        let format = match node.op {
            Op::Image(_) => Format::of_image(channels),
            Op::Constant { .. } => constant(network, index),
            Op::Upsample => input(0).clone(),
            // Both inputs are copied where their formats may stay.
            Op::Concat if keeps_parts(network, index) => {
                let mut half = |place: usize| {
                    let (source, input) = (node.inputs[place].index(), input(place));
                    if input.wide == wide && input.parts.len() == 1 {
                        return input.parts[0];
                    }
                    part(place, nodes[source].shape.channels.into(), source, false)
                };
                Format { wide, parts: vec![half(0), half(1)] }
            }
            // Queries, keys and values have scales of their own where a convolution gives them one.
            _ if readers(network, index).any(|(_, op)| matches!(op, Op::Attention { .. })) => {
                let third = usize::from(channels) / 3;
                let apart = matches!(node.op, Op::Conv2d { residual: None, .. })
                    && readers(network, index).all(|(_, op)| matches!(op, Op::Attention { .. }));
                let parts = [0, 1, 2].map(|kind| part(kind, third, index, true));
                let largest = parts.iter().map(|part| part.scale).fold(0.0, f64::max);
                match apart {
                    true => Format { wide, parts: parts.to_vec() },
                    false => Format::single(channels, wide, largest, 0),
                }
            }
            _ => Format { wide, parts: vec![part(0, channels.into(), index, false)] },
        };
        formats.push(format);
    }
    formats
}

/// The format of a constant.
fn constant(network: &Network, index: usize) -> Format {
    let numbers = &network.parameters[index].bias;
    let largest = numbers.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    Format::single(network.graph.nodes()[index].shape.channels, true, largest.max(1e-30) / 32767.0, 0)
}

/// Scale and zero point for what was seen.
fn scale(seen: &Histogram, wide: bool, symmetric: bool, observer: Observer) -> [f64; 2] {
    if wide {
        // What was not seen may be a little larger.
        return [seen.largest() * 1.1 / 32767.0, 0.0];
    }
    let [low, high] = seen.range(observer);
    if symmetric {
        return [(-low).max(high).max(1e-30) / 127.0, 0.0];
    }
    let scale = (high - low).max(1e-30) / 255.0;
    [scale, (-128.0 - low / scale).round().clamp(-128.0, 127.0)]
}

/// The nodes that read a value, each with the place where it does.
fn readers(network: &Network, index: usize) -> impl Iterator<Item = (usize, Op)> {
    network.graph.nodes().iter().flat_map(move |node| {
        let places = node.inputs.iter().enumerate().filter(move |(_, input)| input.index() == index);
        places.map(|(place, _)| (place, node.op))
    })
}

/// Whether the two inputs of a concatenation may keep their scales: whoever reads it is a convolution, or a norm with
/// each group in one part.
fn keeps_parts(network: &Network, index: usize) -> bool {
    let nodes = network.graph.nodes();
    let split = nodes[nodes[index].inputs[0].index()].shape.channels;
    let channels = nodes[index].shape.channels;
    usize::from(split).is_multiple_of(QUAD)
        && readers(network, index).all(|(place, op)| match op {
            Op::Conv2d { .. } => place == 0,
            Op::GroupNorm { groups, .. } => split.is_multiple_of(channels / groups),
            _ => false,
        })
}

/// A convolution's weight in integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// `[out, in, kernel, kernel]`.
    pub integers: Vec<i8>,
    /// Units of each part of the input and each output channel, `[part][out]`.
    pub scales: Vec<Vec<f64>>,
}

impl Weight {
    /// Rounds the weight of a convolution, each output channel and each part of the input on its own.
    pub fn new(weight: &[f64], outs: usize, input: &Format) -> Self {
        let channels = input.channels();
        let taps = weight.len() / outs.max(1) / channels.max(1);
        let (mut integers, mut scales) = (Vec::new(), vec![Vec::new(); input.parts.len()]);
        for of_out in weight.chunks_exact(channels * taps) {
            let mut rest = of_out;
            for (part, scales) in input.parts.iter().zip(&mut scales) {
                let (weights, after) = rest.split_at(part.channels * taps);
                rest = after;
                let scale = weight_unit(weights, input.wide);
                scales.push(scale);
                integers.extend(weights.iter().map(|&w| weight_integer(w, scale) as i8));
            }
        }
        Self { integers, scales }
    }

    /// The sum of the integers of an output channel over a part of the input.
    fn sum(&self, input: &Format, part: usize, out: usize) -> i64 {
        let outs = self.scales[0].len();
        let channels: usize = input.parts.iter().map(|part| part.channels).sum();
        let taps = self.integers.len() / outs / channels;
        let first: usize = input.parts[..part].iter().map(|part| part.channels).sum();
        let weights = &self.integers[(out * channels + first) * taps..][..input.parts[part].channels * taps];
        weights.iter().copied().map(i64::from).sum()
    }

    /// The real numbers that the integers stand for.
    pub fn real(&self, input: &Format) -> Vec<f64> {
        let outs = self.scales[0].len();
        let channels = input.channels();
        let taps = self.integers.len() / outs / channels;
        let part = |channel: usize| usize::from(channel >= input.parts[0].channels);
        let real = |(i, &w): (usize, &i8)| {
            f64::from(w) * self.scales[part(i / taps % channels)][i / taps / channels]
        };
        self.integers.iter().enumerate().map(real).collect()
    }
}

/// What the integers of a network are made of.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The network.
    pub network: &'a Network,
    /// The moments of all schedules.
    pub moments: &'a [Moment],
    /// Formats of the values, `[moment][node]`.
    pub formats: &'a [Vec<Format>],
    /// What was seen of the values, `[moment][node]`, for the correction of biases; without it there is none.
    pub seen: Option<&'a [Vec<Seen>]>,
}

/// The integers of all nodes.
pub fn quantise(source: &Source<'_>) -> Vec<IntegerNode> {
    let nodes = source.network.graph.nodes();
    let of_node = |index: usize| {
        let node = &nodes[index];
        let parameters = &source.network.parameters[index];
        let weight = match node.op {
            Op::Conv2d { out, .. } => {
                let input = &source.formats[0][node.inputs[0].index()];
                Some(Weight::new(&parameters.weight, out.into(), input))
            }
            _ => None,
        };
        let mut rows: Vec<Vec<u32>> =
            (0..source.moments.len()).map(|row| integers(source, index, row, weight.as_ref())).collect();
        // A row for each moment only where they differ.
        if rows.iter().all(|row| *row == rows[0]) {
            rows.truncate(usize::from(!rows[0].is_empty()));
        }
        let two_parts = weight.as_ref().is_some_and(|weight| weight.scales.len() == 2);
        let integers = weight.map(|weight| weight.integers).unwrap_or_default();
        let wide = source.formats[0][index].wide;
        IntegerNode { weight: integers, rows, wide, two_parts, digest: 0 }
    };
    (0..nodes.len()).map(of_node).collect()
}

/// A row of a node's integers.
fn integers(source: &Source<'_>, index: usize, row: usize, weight: Option<&Weight>) -> Vec<u32> {
    let (node, formats) = (&source.network.graph.nodes()[index], &source.formats[row]);
    let parameters = &source.network.parameters[index];
    let y = &formats[index];
    let input = |place: usize| &formats[node.inputs[place].index()];
    // Where one part is all there is.
    let [a, b] = [0, 1].map(|place| match node.inputs.get(place) {
        Some(input) => formats[input.index()].parts[0],
        None => Part { channels: 0, scale: 1.0, zero: 0 },
    });
    let (scale, zero) = (y.parts[0].scale, f64::from(y.parts[0].zero));
    match node.op {
        Op::Image(_) => {
            let moment = source.moments[row];
            let unit = formats[formats.len() - 1].parts[0].scale;
            let factor = (f64::from(moment.s) - f64::from(moment.t)) * unit / scale;
            let shift = shift(&[factor], 0.0, 48);
            Integers::Image { shift, factor: factor_of(factor, shift) }.encode()
        }
        Op::Constant { channels } => {
            let mut value: Vec<i16> =
                bias(parameters, row, channels.into()).iter().map(|x| (x / scale).round() as i16).collect();
            value.resize(value.len().next_multiple_of(2), 0);
            Integers::Constant { value: &value }.encode()
        }
        Op::Conv2d { residual, .. } => match weight {
            Some(weight) => conv2d(source, index, row, weight, residual),
            None => Vec::new(),
        },
        Op::GroupNorm { groups, epsilon, silu } => {
            group_norm(parameters, row, input(0), y, node.shape, [groups.into(), silu.into()], epsilon)
        }
        Op::Silu => {
            let (table, low, unit) = silu_table(y);
            let factor = a.scale / unit;
            let bias = fixed((-f64::from(a.zero) * a.scale - low) / unit + 0.5, AFFINE_BITS);
            Integers::Silu { factor: factor_of(factor, AFFINE_BITS), bias, table: &table }.encode()
        }
        Op::Add { scale: factor } => {
            let factors = [a, b].map(|part| part.scale * f64::from(factor) / scale);
            let shift = shift(&factors, zero, 48);
            let factors = factors.map(|factor| factor_of(factor, shift));
            let bias = fixed(zero + 0.5, shift) - zeros(factors, [a, b]);
            Integers::Add { shift, factors, bias }.encode()
        }
        Op::Concat => {
            let last = y.parts[y.parts.len() - 1];
            let parts = [(a, y.parts[0]), (b, last)];
            let shift = shift(&parts.map(|(x, y)| x.scale / y.scale), 128.0, 48);
            let factors = parts.map(|(x, y)| factor_of(x.scale / y.scale, shift));
            let biases = [0, 1].map(|place| {
                let (x, y) = parts[place];
                fixed(f64::from(y.zero) + 0.5, shift) - i64::from(factors[place]) * i64::from(x.zero)
            });
            Integers::Concat { shift, factors, biases }.encode()
        }
        Op::Downsample => {
            let factor = a.scale / scale / 4.0;
            let shift = shift(&[factor], zero, 48);
            let factor = factor_of(factor, shift);
            let bias = fixed(zero + 0.5, shift) - 4 * zeros([factor, 0], [a, a]);
            Integers::Downsample { shift, factor, bias }.encode()
        }
        Op::Attention { heads } => {
            let of_head = f64::from(node.shape.channels) / f64::from(heads);
            let channels = usize::from(node.shape.channels);
            let [q, k, v] = [0, 1, 2].map(|kind| input(0).part(kind * channels));
            let exponent = q.scale * k.scale / of_head.sqrt() * std::f64::consts::LOG2_E * f64::exp2(16.0);
            let exponent_shift = shift(&[exponent], 0.0, 48);
            // Means are in units of 2⁻²³.
            let factor = v.scale / scale * f64::exp2(-23.0);
            let shift = shift(&[factor], zero.abs() + f64::from(v.zero).abs() * v.scale / scale, 62);
            let bias = fixed(zero + 0.5 - f64::from(v.zero) * v.scale / scale, shift);
            let (exponent, factor) = (factor_of(exponent, exponent_shift), factor_of(factor, shift));
            Integers::Attention { exponent, exponent_shift, shift, factor, bias }.encode()
        }
        // Upsampling copies, and the others were folded or refused.
        Op::Upsample
        | Op::Time(_)
        | Op::Coefficient(_)
        | Op::Labels { .. }
        | Op::Embedding { .. }
        | Op::Class { .. }
        | Op::Multiply
        | Op::ScaleShift { .. }
        | Op::Blur { .. }
        | Op::Border { .. } => Vec::new(),
    }
}

fn conv2d(source: &Source<'_>, index: usize, row: usize, weight: &Weight, residual: Option<f32>) -> Vec<u32> {
    let (node, formats) = (&source.network.graph.nodes()[index], &source.formats[row]);
    let parameters = &source.network.parameters[index];
    let (x, y) = (&formats[node.inputs[0].index()], &formats[index]);
    let outs = usize::from(node.shape.channels);
    let r = residual.map_or(Part { channels: 0, scale: 0.0, zero: 0 }, |factor| {
        let part = formats[node.inputs[1].index()].parts[0];
        Part { scale: part.scale * f64::from(factor), ..part }
    });
    let mut real = bias(parameters, row, outs).to_vec();
    real.resize(outs, 0.0);
    if let Some(seen) = source.seen {
        // What the rounded weights add on average, to be taken away again.
        let means = &seen[row][node.inputs[0].index()].means;
        let taps = parameters.weight.len() / outs / means.len();
        for (i, (rounded, weight)) in weight.real(x).iter().zip(&parameters.weight).enumerate() {
            real[i / taps / means.len()] -= (rounded - weight) * means[i / taps % means.len()];
        }
    }
    let exact = |part: usize, out: usize| x.parts[part].scale * weight.scales[part][out] / y.part(out).scale;
    let mut all: Vec<f64> =
        (0..x.parts.len()).flat_map(|part| (0..outs).map(move |out| exact(part, out))).collect();
    let of_residual = r.scale / y.parts[0].scale;
    all.push(of_residual);
    let largest = (0..outs).map(|out| real[out].abs() / y.part(out).scale).fold(0.0, f64::max);
    let shift = shift(&all, largest + 256.0, 48);
    let factors: Vec<Vec<i32>> = (0..x.parts.len())
        .map(|part| (0..outs).map(|out| factor_of(exact(part, out), shift)).collect())
        .collect();
    let residual = factor_of(of_residual, shift);
    // What the zero points of the input add to the sums, exactly.
    let of_zeros = |out: usize| -> i64 {
        let zero_of = |part: usize| i64::from(x.parts[part].zero) * weight.sum(x, part, out);
        factors.iter().enumerate().map(|(part, factors)| i64::from(factors[out]) * zero_of(part)).sum()
    };
    let of_out = |out: usize| {
        let Part { scale, zero, .. } = y.part(out);
        let number = fixed(real[out] / scale + f64::from(zero) + 0.5, shift);
        wide(number - i64::from(residual) * i64::from(r.zero) - of_zeros(out))
    };
    let bias: Vec<_> = (0..outs).map(of_out).collect();
    let zero = |part: usize| x.parts.get(part).map_or(0, |part| part.zero);
    Integers::Conv2d {
        shift,
        residual,
        split: x.parts[0].channels as u32,
        zeros: [zero(0), zero(1)],
        bias: &bias,
        factors: [&factors[0], factors.get(1).map_or(&[], |factors| factors)],
    }
    .encode()
}

fn group_norm(
    parameters: &Parameters,
    row: usize,
    x: &Format,
    y: &Format,
    shape: traflow_graph::op::Shape,
    [groups, silu]: [usize; 2],
    epsilon: f32,
) -> Vec<u32> {
    let channels = usize::from(shape.channels);
    let of_group = channels / groups;
    let elements = (of_group * shape.pixels()) as f64;
    let (table, low, unit) = match silu {
        0 => (Vec::new(), -f64::from(y.parts[0].zero) * y.parts[0].scale, y.parts[0].scale),
        _ => silu_table(y),
    };
    let of_group = |group: usize| {
        let scale = x.part(group * of_group).scale;
        let epsilon = (f64::from(epsilon) * (elements / scale).powi(2)).round();
        wide(epsilon.clamp(1.0, f64::exp2(62.0)) as i64)
    };
    let epsilon: Vec<_> = (0..groups).map(of_group).collect();
    let gains: Vec<f64> = parameters.weight.iter().map(|gain| gain / unit).collect();
    let gain_shift = shift(&gains, 0.0, 62);
    let gain: Vec<i32> = gains.iter().map(|&gain| factor_of(gain, gain_shift)).collect();
    let shift = bias(parameters, row, channels);
    let bias: Vec<_> = shift.iter().map(|x| wide(fixed((x - low) / unit + 0.5, AFFINE_BITS))).collect();
    Integers::GroupNorm { gain_shift, epsilon: &epsilon, bias: &bias, gain: &gain, table: &table }.encode()
}

/// The table of SiLU for an output, with the real number at its begin and that of a 2⁻¹⁶th of it.
fn silu_table(y: &Format) -> (Vec<i16>, f64, f64) {
    // Below, SiLU is less than 5·10⁻⁴ away from 0; above, the output is at its end.
    const LOW: f64 = -10.0;
    let Part { scale, zero, .. } = y.parts[0];
    let [least, most, units] = if y.wide { [-32768.0, 32767.0, 1.0] } else { [-128.0, 127.0, 128.0] };
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let end = (most - f64::from(zero)) * scale;
    // SiLU is below x and above x - 0.28.
    let high = end + 0.3;
    let unit = (high - LOW) / f64::exp2(16.0);
    let entry = |i: usize| {
        let x = LOW + (high - LOW) * i as f64 / 256.0;
        let y = ((silu(x) / scale + f64::from(zero)) * units).round();
        y.clamp(least * units, most * units) as i16
    };
    let mut table: Vec<i16> = (0..=256).map(entry).collect();
    table.resize(TABLE, 0);
    (table, LOW, unit)
}

/// A node's bias at a moment.
fn bias(parameters: &Parameters, row: usize, channels: usize) -> &[f64] {
    if parameters.per_moment { &parameters.bias[row * channels..][..channels] } else { &parameters.bias }
}

/// The most places up to a limit with which all factors are below 2³⁰ and a bias below 2⁶⁰.
fn shift(factors: &[f64], bias: f64, most: u32) -> u32 {
    let largest = factors.iter().fold(0.0f64, |largest, factor| largest.max(factor.abs()));
    let fits = |shift: &u32| {
        let unit = f64::exp2(f64::from(*shift));
        largest * unit < f64::exp2(30.0) && bias.abs() * unit < f64::exp2(60.0)
    };
    (1..=most).rev().find(fits).unwrap_or(1)
}

/// A factor as an integer of so many fraction bits.
fn factor_of(factor: f64, shift: u32) -> i32 {
    fixed(factor, shift).clamp(i32::MIN.into(), i32::MAX.into()) as i32
}

/// A number with so many fraction bits, rounded to the nearest.
fn fixed(number: f64, shift: u32) -> i64 {
    (number * f64::exp2(f64::from(shift))).round() as i64
}

/// What zero points add to a sum.
fn zeros(factors: [i32; 2], parts: [Part; 2]) -> i64 {
    let product = |(factor, part): (i32, Part)| i64::from(factor) * i64::from(part.zero);
    factors.into_iter().zip(parts).map(product).sum()
}
