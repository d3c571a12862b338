//! What a model file of integers computes, by the words of `docs/integer-arithmetic.md`: slow and plain, the oracle of
//! the runtime's integers. Sums have 128 bits, so nothing here can overflow.

use traflow_graph::model::{Model, Node};
use traflow_graph::noise::Noise;
use traflow_graph::op::{Op, Shape};
use traflow_graph::quant::{FACTOR, IMAGE_BITS, Integers, Wide, long, panel_index};

/// Called after each node of each evaluation, with the number of the step, the index of the node and its value by row,
/// column and channel.
pub type Visit<'a> = &'a mut dyn FnMut(usize, usize, &[i32]);

/// The picture of a seed in units of 2⁻¹², by row, column and channel. A schedule that the file does not have gives the
/// noise.
pub fn generate(model: &Model<'_>, seed: u64, steps: usize, visit: Visit<'_>) -> Vec<i32> {
    let image = model.image();
    let mut x = noise(seed, image.shape());
    for (step, (moment, _)) in model.schedule(steps).into_iter().flatten().enumerate() {
        let mut values: Vec<Vec<i32>> = Vec::new();
        for (index, node) in model.nodes().enumerate() {
            let inputs: Vec<(Node<'_>, &[i32])> =
                node.inputs().map(|input| (input, &*values[place(model, &input)])).collect();
            let value = compute(&node, &inputs, moment, &x);
            visit(step, index, &value);
            values.push(value);
        }
        if let Some(Integers::Image { shift, factor }) = image.integers(moment) {
            for (x, &u) in x.iter_mut().zip(values.last().into_iter().flatten()) {
                let half = 1i128 << (shift - 1);
                let step = (i128::from(u) * i128::from(factor) + half) >> shift;
                *x = clamp(i128::from(*x) + step, true);
            }
        }
    }
    x
}

/// The index of a node; names are unique.
fn place(model: &Model<'_>, node: &Node<'_>) -> usize {
    model.nodes().position(|other| other.name() == node.name()).unwrap_or_default()
}

/// The normal numbers of a seed, rounded from 21 to 12 fraction bits.
fn noise(seed: u64, shape: Shape) -> Vec<i32> {
    let (channels, pixels) = (usize::from(shape.channels), shape.pixels());
    let number = |i: usize| Noise::new(seed).at((i % channels * pixels + i / channels) as u64);
    let bits = 21 - IMAGE_BITS;
    (0..shape.elements()).map(|i| (number(i) + (1 << (bits - 1))) >> bits).collect()
}

fn clamp(number: i128, wide: bool) -> i32 {
    let [least, most] = if wide { [-32768, 32767] } else { [-128, 127] };
    number.clamp(least, most) as i32
}

fn compute(node: &Node<'_>, inputs: &[(Node<'_>, &[i32])], moment: usize, image: &[i32]) -> Vec<i32> {
    let shape = node.shape();
    let channels = usize::from(shape.channels);
    let input = |place: usize| inputs[place].1;
    let shape_of = |place: usize| inputs[place].0.shape();
    let wide = node.is_wide();
    let each = |f: &dyn Fn(usize, usize) -> i128| -> Vec<i32> {
        (0..shape.elements()).map(|i| clamp(f(i / channels, i % channels), wide)).collect()
    };
    let Some(integers) = node.integers(moment) else { return Vec::new() };
    match integers {
        Integers::Image { .. } => image.to_vec(),
        Integers::Constant { value } => value.iter().take(channels).map(|&x| x.into()).collect(),
        Integers::Conv2d { shift, residual, split, zeros, bias, factors } => {
            let Op::Conv2d { kernel, .. } = node.op() else { return Vec::new() };
            let sums = convolve(node, input(0), shape_of(0), kernel.into(), split as usize, zeros);
            each(&|pixel, out| {
                let r = if residual == 0 { 0 } else { input(1)[pixel * channels + out] };
                let second = factors[1].get(out).copied().unwrap_or(0);
                let [a, b] = sums[pixel * channels + out];
                let products = a * i128::from(factors[0][out]) + b * i128::from(second);
                let sum = products + i128::from(r) * i128::from(residual) + i128::from(long(bias[out]));
                sum >> shift
            })
        }
        Integers::GroupNorm { gain_shift, epsilon, bias, gain, table } => {
            let affine = group_norm(input(0), epsilon, gain, gain_shift, bias);
            each(&|pixel, channel| {
                let [factor, bias] = affine[channel];
                let sum = i128::from(input(0)[pixel * channels + channel]) * factor + bias;
                if table.is_empty() { sum >> 16 } else { silu(sum, table, wide) }
            })
        }
        Integers::Silu { factor, bias, table } => each(&|pixel, channel| {
            let x = i128::from(input(0)[pixel * channels + channel]);
            silu(x * i128::from(factor) + i128::from(bias), table, wide)
        }),
        Integers::Add { shift, factors, bias } => each(&|pixel, channel| {
            let b_pixel = if shape_of(1).is_vector() { 0 } else { pixel };
            let (a, b) = (input(0)[pixel * channels + channel], input(1)[b_pixel * channels + channel]);
            let products = i128::from(a) * i128::from(factors[0]) + i128::from(b) * i128::from(factors[1]);
            (products + i128::from(bias)) >> shift
        }),
        Integers::Concat { shift, factors, biases } => each(&|pixel, channel| {
            let of_a = usize::from(shape_of(0).channels);
            let place = usize::from(channel >= of_a);
            let channel = if place == 0 { channel } else { channel - of_a };
            let x = input(place)[pixel * usize::from(shape_of(place).channels) + channel];
            (i128::from(x) * i128::from(factors[place]) + i128::from(biases[place])) >> shift
        }),
        Integers::Downsample { shift, factor, bias } => each(&|pixel, channel| {
            let (width, wide) = (usize::from(shape.width), usize::from(shape_of(0).width));
            let corner = pixel / width * 2 * wide + pixel % width * 2;
            let square = [corner, corner + 1, corner + wide, corner + wide + 1];
            let sum: i32 = square.iter().map(|pixel| input(0)[pixel * channels + channel]).sum();
            (i128::from(sum) * i128::from(factor) + i128::from(bias)) >> shift
        }),
        Integers::Upsample => each(&|pixel, channel| {
            let width = usize::from(shape.width);
            let from = pixel / width / 2 * (width / 2) + pixel % width / 2;
            input(0)[from * channels + channel].into()
        }),
        Integers::Attention { exponent, exponent_shift, shift, factor, bias } => {
            let Op::Attention { heads } = node.op() else { return Vec::new() };
            let means = attend(input(0), channels, heads.into(), exponent, exponent_shift);
            each(&|pixel, channel| {
                (means[pixel * channels + channel] * i128::from(factor) + i128::from(bias)) >> shift
            })
        }
    }
}

/// For each pixel and output channel the sums of products, one for each part of the input.
fn convolve(
    node: &Node<'_>,
    x: &[i32],
    shape: Shape,
    kernel: usize,
    split: usize,
    zeros: [i32; 2],
) -> Vec<[i128; 2]> {
    let (channels, width) = (usize::from(shape.channels), usize::from(shape.width));
    let (outs, taps) = (usize::from(node.shape().channels), kernel * kernel);
    // The weight in plain order, `[out][tap][channel]`.
    let weight: Vec<i64> = (0..outs * taps * channels)
        .map(|i| [i / channels / taps, i % channels, i / channels % taps])
        .map(|place| node.panels()[panel_index([outs, channels, taps], place)].into())
        .collect();
    let mut sums = Vec::new();
    for (pixel, out) in (0..shape.pixels()).flat_map(|pixel| (0..outs).map(move |out| (pixel, out))) {
        let mut sum = [0i64; 2];
        for tap in 0..taps {
            let row = (pixel / width + tap / kernel).checked_sub(kernel / 2);
            let column = (pixel % width + tap % kernel).checked_sub(kernel / 2);
            let inside = |row: &usize, column: &usize| *row < shape.height.into() && *column < width;
            let place = row.zip(column).filter(|(row, column)| inside(row, column));
            let at = place.map(|(row, column)| (row * width + column) * channels);
            let weight = &weight[(out * taps + tap) * channels..][..channels];
            let of_part = |from: usize, to: usize, zero: i32| {
                let value = |channel: usize| at.map_or(zero, |at| x[at + channel]);
                (from..to).map(|channel| i64::from(value(channel)) * weight[channel]).sum::<i64>()
            };
            sum[0] += of_part(0, split, zeros[0]);
            sum[1] += of_part(split, channels, zeros[1]);
        }
        sums.push(sum.map(i128::from));
    }
    sums
}

/// Rounded to the nearest, half up; a negative shift multiplies.
fn scale(number: i128, shift: i64) -> i128 {
    match shift {
        ..=0 => number.saturating_mul(1i128 << shift.unsigned_abs().min(100)),
        // Past the size of every number.
        63.. => 0,
        _ => (number + (1 << (shift - 1))) >> shift,
    }
}

/// Factor and bias of each channel.
fn group_norm(x: &[i32], epsilon: &[Wide], gain: &[i32], gain_shift: u32, bias: &[Wide]) -> Vec<[i128; 2]> {
    let channels = gain.len();
    let of_group = channels / epsilon.len();
    let of_channel = |channel: usize| {
        let group = channel / of_group;
        let inside = x.iter().enumerate().filter(|(i, _)| i % channels / of_group == group);
        let (mut count, mut sum, mut squares) = (0i128, 0i128, 0i128);
        for (_, &q) in inside {
            count += 1;
            sum += i128::from(q);
            squares += i128::from(q) * i128::from(q);
        }
        let spread = count * squares - sum * sum + i128::from(long(epsilon[group]));
        let even = (spread as u64).leading_zeros() as i64 / 2 * 2;
        let reciprocal = (1i128 << 62) / ((spread as u64) << even).isqrt() as i128;
        let product = count * reciprocal;
        // In 31 bits.
        let excess = (97 - i64::from(product.leading_zeros())).max(0);
        let exponent = excess + even / 2 - 62 - i64::from(gain_shift) + 16;
        let factor = scale(scale(product, excess) * i128::from(gain[channel]), -exponent);
        let factor = factor.clamp(-i128::from(FACTOR), FACTOR.into());
        let mean = (2 * (sum << 16) + count).div_euclid(2 * count);
        [factor, i128::from(long(bias[channel])) - scale(factor * mean, 16)]
    };
    // Channels of a group share its sums; computing them again is plain, and slow only for wide groups.
    (0..channels).map(of_channel).collect()
}

fn silu(sum: i128, table: &[i16], wide: bool) -> i128 {
    let p = (sum >> 16).clamp(0, 65535);
    let (piece, part) = ((p / 256) as usize, p % 256);
    let shift = if wide { 8 } else { 15 };
    let sum = i128::from(table[piece]) * (256 - part) + i128::from(table[piece + 1]) * part;
    (sum + (1 << (shift - 1))) >> shift
}

/// Mean values in units of 2⁻²³, for each pixel and channel.
fn attend(qkv: &[i32], channels: usize, heads: usize, exponent: i32, exponent_shift: u32) -> Vec<i128> {
    let pixels = qkv.len() / channels / 3;
    let of_head = channels / heads;
    // 65535 · 2^(-i / 256), rounded: the export may use floating point.
    let powers: Vec<i128> =
        (0..=256).map(|i| (65535.0 * f64::exp2(-f64::from(i) / 256.0)).round() as i128).collect();
    let power = |z: i128| {
        let (octave, piece, part) = (z >> 16, (z >> 8 & 255) as usize, z & 255);
        let sum = powers[piece] * (256 - part) + powers[piece + 1] * part;
        scale(sum, 8 + octave.min(50) as i64)
    };
    let mut means = Vec::new();
    for (pixel, channel) in (0..pixels).flat_map(|pixel| (0..channels).map(move |channel| (pixel, channel))) {
        let at = |kind: usize, pixel: usize, channel: usize| {
            i128::from(qkv[(3 * pixel + kind) * channels + channel])
        };
        let first = channel / of_head * of_head;
        let score =
            |j: usize| -> i128 { (first..first + of_head).map(|c| at(0, pixel, c) * at(1, j, c)).sum() };
        let scores: Vec<i128> = (0..pixels).map(score).collect();
        let largest = scores.iter().copied().max().unwrap_or(0);
        let weight = |score: &i128| power(((largest - score) * i128::from(exponent)) >> exponent_shift);
        let weights: Vec<i128> = scores.iter().map(weight).collect();
        let total: i128 = weights.iter().sum();
        let bits = 128 - i64::from(total.leading_zeros());
        let reciprocal = (1i128 << (30 + bits)) / total;
        let sum: i128 = weights.iter().enumerate().map(|(j, weight)| weight * at(2, j, channel)).sum();
        means.push(scale(scale(sum, bits - 23) * reciprocal, 30));
    }
    means
}
