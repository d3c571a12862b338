//! How good the pictures of integers are, and which nodes cost them how much.

use rayon::prelude::*;
use traflow_graph::formats::Format;
use traflow_graph::model::{Model, Moment};
use traflow_graph::noise::Noise;
use traflow_graph::op::Op;

use crate::integer;
use crate::network::Network;
use crate::quantise::Weight;
use crate::reference::{self, Inputs, evaluate, generate};

/// What integers cost at one node.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeQuality {
    /// Name of the node.
    pub name: String,
    /// Whether its value has 16 bits.
    pub wide: bool,
    /// Signal to error of its value in decibels, errors of all nodes before it included.
    pub sqnr: f64,
    /// Cosine between its value and the exact one.
    pub cosine: f64,
    /// Part of the picture's squared error that the rounding of its value causes, of what the nodes cause one by one.
    pub value_share: f64,
    /// The same for the rounding of its weight.
    pub weight_share: f64,
}

/// How near pictures of integers are to those of the network in f64, in decibels of the peak signal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Psnr {
    /// Number of steps.
    pub steps: usize,
    /// Of the picture in the middle.
    pub median: f64,
    /// Of the worst picture.
    pub worst: f64,
}

/// Values by row, column and channel as real numbers by channel, row and column.
fn real(value: &[i32], format: &Format) -> Vec<f64> {
    let channels: usize = format.parts.iter().map(|part| part.channels).sum();
    let pixels = value.len() / channels;
    let number = |i: usize| {
        let part = format.part(i / pixels);
        f64::from(value[i % pixels * channels + i / pixels] - part.zero) * part.scale
    };
    (0..value.len()).map(number).collect()
}

/// The noise of a seed as a picture of integers starts from it.
pub fn noise(seed: u64, elements: usize) -> Vec<f32> {
    let mut noise = vec![0.0; elements];
    Noise::new(seed).fill(&mut noise);
    noise
}

/// The peak signal-to-noise ratios of pictures, which `picture` makes of a seed and a number of steps, by row, column
/// and channel in units of 2⁻¹².
pub fn psnr(
    network: &Network,
    schedules: &[Vec<Moment>],
    seeds: u64,
    picture: &mut dyn FnMut(u64, usize) -> Vec<i32>,
) -> Vec<Psnr> {
    let elements = network.graph.image().map_or(0, |shape| shape.elements());
    let channels = network.graph.image().map_or(1, |shape| shape.channels);
    let format = Format::of_image(channels);
    let mut first = 0;
    let mut all = Vec::new();
    for schedule in schedules {
        let steps = schedule.len();
        let exact = |seed: u64| generate(network, &noise(seed, elements), None, schedule, first);
        let exact: Vec<_> = (0..seeds).into_par_iter().map(exact).collect();
        let mut of_seed = |(seed, exact): (u64, &Vec<f64>)| {
            let found = real(&picture(seed, steps), &format);
            let error = |(a, b): (&f64, &f64)| (a.clamp(-1.0, 1.0) - b.clamp(-1.0, 1.0)).powi(2);
            let squares: f64 = exact.iter().zip(&found).map(error).sum();
            10.0 * (4.0 * elements as f64 / squares).log10()
        };
        let mut ratios: Vec<f64> = (0..).zip(&exact).map(&mut of_seed).collect();
        ratios.sort_by(f64::total_cmp);
        all.push(Psnr { steps, median: ratios[ratios.len() / 2], worst: ratios[0] });
        first += steps;
    }
    all
}

/// Squared errors of the velocity that the rounding of each node's value and of each node's weight causes alone, at the
/// first moment.
pub fn sensitivity(network: &Network, moment: Moment, formats: &[Format], seeds: u64) -> Vec<[f64; 2]> {
    let nodes = network.graph.nodes();
    let elements = network.graph.image().map_or(0, |shape| shape.elements());
    let all = vec![true; nodes.len()];
    let mut rounded = network.clone();
    for (index, node) in nodes.iter().enumerate() {
        if let Op::Conv2d { out, .. } = node.op {
            let input = &formats[node.inputs[0].index()];
            let weight = &mut rounded.parameters[index].weight;
            *weight = Weight::new(weight, out.into(), input).real(input);
        }
    }
    let mut errors = vec![[0.0; 2]; nodes.len()];
    for seed in 0..seeds {
        let image: Vec<f64> = noise(seed, elements).into_iter().map(f64::from).collect();
        let inputs = Inputs { image: &image, moment, row: 0, class: None };
        let exact = evaluate(network, &inputs, &all);
        errors.par_iter_mut().enumerate().for_each(|(index, error)| {
            let pixels = nodes[index].shape.pixels();
            let round = |(i, &x): (usize, &f64)| formats[index].round(i / pixels, x);
            let value = exact[index].iter().enumerate().map(round).collect();
            error[0] += reached(network, &inputs, &exact, index, value);
            if matches!(nodes[index].op, Op::Conv2d { .. }) {
                let value = reference::compute(&rounded, index, &exact, &inputs);
                error[1] += reached(network, &inputs, &exact, index, value);
            }
        });
    }
    errors
}

/// The squared error of the output where one node has another value.
fn reached(network: &Network, inputs: &Inputs<'_>, exact: &[Vec<f64>], index: usize, value: Vec<f64>) -> f64 {
    let nodes = network.graph.nodes();
    let mut values = exact.to_vec();
    let mut changed = vec![false; nodes.len()];
    values[index] = value;
    changed[index] = true;
    for later in index + 1..nodes.len() {
        if nodes[later].inputs.iter().any(|input| changed[input.index()]) {
            changed[later] = true;
            values[later] = reference::compute(network, later, &values, inputs);
        }
    }
    let last = nodes.len() - 1;
    values[last].iter().zip(&exact[last]).map(|(a, b)| (a - b).powi(2)).sum()
}

/// What integers cost at each node, at the first moment.
pub fn nodes(
    network: &Network,
    moment: Moment,
    formats: &[Format],
    model: &Model<'_>,
    seeds: u64,
) -> Vec<NodeQuality> {
    let elements = network.graph.image().map_or(0, |shape| shape.elements());
    let graph = network.graph.nodes();
    let all = vec![true; graph.len()];
    // Squares of the exact value, of the found one and of the difference, and the product of both.
    let mut sums = vec![[0.0; 4]; graph.len()];
    let steps = model.steps().next().unwrap_or(0);
    for seed in 0..seeds {
        let image: Vec<f64> = noise(seed, elements).into_iter().map(f64::from).collect();
        let exact = evaluate(network, &Inputs { image: &image, moment, row: 0, class: None }, &all);
        integer::generate(model, seed, steps, &mut |step, index, value| {
            if step == 0 {
                for (a, b) in exact[index].iter().zip(real(value, &formats[index])) {
                    let terms = [a * a, b * b, (a - b).powi(2), a * b];
                    sums[index].iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
                }
            }
        });
    }
    let errors = sensitivity(network, moment, formats, seeds);
    let total: f64 = errors.iter().flatten().sum();
    let quality = |index: usize| {
        let [exact, found, error, product] = sums[index];
        NodeQuality {
            name: graph[index].name.clone(),
            wide: formats[index].wide,
            sqnr: 10.0 * (exact / error).log10(),
            cosine: product / (exact * found).sqrt(),
            value_share: errors[index][0] / total,
            weight_share: errors[index][1] / total,
        }
    };
    (0..graph.len()).map(quality).collect()
}
