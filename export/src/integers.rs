//! Turns a checkpoint into a model file of integers.

use std::fmt;

use serde_json::{Value, json};
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::formats::{Format, Formats};
use traflow_graph::graph::Graph;
use traflow_graph::model::{Dtype, Model, ModelError, Moment, VERSION_OF_INTEGERS};
use traflow_graph::op::Op;
use traflow_graph::plan::plan_integers;
use traflow_graph::write::{IntegerNode, IntegerSource, write_integers};
use traflow_runtime::kernels::int8::Values;
use traflow_runtime::{EngineError, IntegerEngine};

use crate::calibrate::{Observer, Statistics, calibrate};
use crate::fold::fold;
use crate::fuse::fuse;
use crate::network::Network;
use crate::order::{projections_before_doubling, projections_first};
use crate::quality::{self, NodeQuality, Psnr};
use crate::quantise::{Source, formats, named, quantise, trained_formats, unseen_formats, widths};
use crate::{ExportError, aligned, integer, made, provenance, schedules};

/// What a model file of integers is to be like.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The numbers of steps that the file offers, in any order; 1 to 16 of them.
    pub steps: Vec<u32>,
    /// How ranges are chosen.
    pub observer: Observer,
    /// Seeds of the calibration.
    pub seeds: u64,
    /// Whether each moment has ranges of its own.
    pub per_step: bool,
    /// Whether biases make up for the mean error of rounded weights.
    pub correct_bias: bool,
    /// The part of the picture's error that rounding a value to 8 bits may cause; one that causes more has 16. It is
    /// `1 + 50 p` times as much for a value that takes a part p of the network's products, which then take twice as long.
    pub island_share: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            steps: vec![1],
            observer: Observer::Mse,
            seeds: 16,
            per_step: false,
            correct_bias: true,
            island_share: 0.02,
        }
    }
}

/// A model file of integers that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The file.
    pub file: Vec<u8>,
    /// The formats of the values of the trained network, at the first moment.
    pub formats: Formats,
    /// What is in it, and how near its pictures are to those of the network.
    pub report: Report,
}

/// What is in a model file of integers, and how near its pictures are to those of the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Bytes of weights and of all other integers.
    pub weights_bytes: usize,
    /// Bytes of the arena.
    pub arena_bytes: usize,
    /// For each number of steps.
    pub psnr: Vec<Psnr>,
    /// What integers cost at each node.
    pub nodes: Vec<NodeQuality>,
}

/// Why a file is not the network's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum IntegersError {
    #[error("a file offers at least one number of steps")]
    NoSteps,
    #[error("node {index} ({name}): its operation is not written to files of integers")]
    Operation { index: usize, name: String },
    #[error("the formats that the checkpoint was trained for are not those of its network")]
    Formats,
    #[error("reading the file back: {0}")]
    Model(#[from] ModelError),
    #[error("running the file: {0}")]
    Engine(#[from] EngineError),
    #[error(
        "seed {seed}, steps {steps}: the runtime's value of node {index} ({name}) is not the definition's"
    )]
    Value { seed: u64, steps: usize, index: usize, name: String },
    #[error("steps {steps}: the middle picture is {found:.1} dB from the network's, less than {limit:.0} dB")]
    Quality { steps: usize, found: f64, limit: f64 },
}

/// The least median of the peak signal-to-noise ratio: a file below it is not the network's.
pub const PSNR_LIMIT: f64 = 15.0;

/// Seeds of the pictures that are compared with those of the network.
const PICTURES: u64 = 32;

/// Seeds for which each value of the runtime is compared with its definition.
const VERIFIED: u64 = 2;

/// Seeds that a sensitivity is measured with.
const SENSITIVITY: u64 = 2;

/// Turns a checkpoint into a model file of integers. The same checkpoint and options are the same bytes. One that was
/// trained for integers has its formats; what the options say of ranges is for others.
///
/// # Errors
/// Where the network does not fit into a model file, or the runtime computes anything else than the definition.
pub fn export(checkpoint: &Checkpoint, options: &Options) -> Result<Exported, ExportError> {
    let schedules = schedules(&options.steps);
    export_network(
        &lower(checkpoint, &schedules)?,
        &schedules,
        options,
        checkpoint.formats.as_ref(),
        &provenance(checkpoint, &made(VERSION_OF_INTEGERS, Dtype::I8, &schedules)),
    )
}

/// The network that a file of integers has.
fn lower(checkpoint: &Checkpoint, schedules: &[Vec<Moment>]) -> Result<Network, ExportError> {
    let trained = Network::of(checkpoint)?;
    let folded = projections_before_doubling(fold(&trained, &schedules.concat())?)?;
    let network = fuse(projections_first(folded)?)?;
    for (index, node) in network.graph.nodes().iter().enumerate() {
        let of_moments = network.parameters[index].weight.len() > network.graph.parameters(node).weights();
        let unknown = matches!(
            node.op,
            Op::Class { .. } | Op::Multiply | Op::ScaleShift { .. } | Op::Blur { .. } | Op::Border { .. }
        );
        if of_moments || unknown {
            return Err(IntegersError::Operation { index, name: node.name.clone() }.into());
        }
    }
    Ok(network)
}

/// A file that was neither calibrated nor verified, for its sizes: it has 16 bits where it has to, as with an
/// [`island_share`](Options::island_share) of 1. Its pictures are nobody's.
///
/// # Errors
/// Where the network does not fit into a model file.
pub fn draft(checkpoint: &Checkpoint, steps: &[u32]) -> Result<Vec<u8>, ExportError> {
    if steps.is_empty() {
        return Err(IntegersError::NoSteps.into());
    }
    let schedules = schedules(steps);
    let network = lower(checkpoint, &schedules)?;
    let moments = schedules.concat();
    let wide = widths(&network, vec![false; network.graph.nodes().len()]);
    let formats = vec![unseen_formats(&network, &wide); moments.len()];
    let nodes = quantise(&Source { network: &network, moments: &moments, formats: &formats, seen: None });
    let graph = &network.graph;
    let provenance = provenance(checkpoint, &made(VERSION_OF_INTEGERS, Dtype::I8, &schedules));
    let (plan, schedules) = (&plan_integers(graph, &wide), &schedules[..]);
    Ok(write_integers(&IntegerSource { graph, plan, schedules, nodes: &nodes, provenance: &provenance })?)
}

/// Turns a network whose nodes that depend on time alone are constants into a model file of integers, with the formats that
/// it was trained for or with ones that are chosen.
///
/// # Errors
/// As [`export`].
pub fn export_network(
    network: &Network,
    schedules: &[Vec<Moment>],
    options: &Options,
    trained: Option<&Formats>,
    provenance: &str,
) -> Result<Exported, ExportError> {
    let moments = schedules.concat();
    if moments.is_empty() {
        return Err(IntegersError::NoSteps.into());
    }
    let (formats, statistics) = match trained {
        // Its weights and biases have learned what rounding does.
        Some(trained) => {
            let formats = trained_formats(network, trained).ok_or(IntegersError::Formats)?;
            (vec![formats; moments.len()], None)
        }
        None => {
            let statistics = calibrate(network, schedules, options.seeds);
            let wide = islands(network, &statistics, moments[0], options);
            let formats = all_formats(network, &statistics, &wide, options);
            (formats, options.correct_bias.then_some(statistics))
        }
    };
    let seen = statistics.as_ref().map(|statistics| &*statistics.0);
    let mut nodes = quantise(&Source { network, moments: &moments, formats: &formats, seen });

    let wide: Vec<bool> = formats[0].iter().map(|format| format.wide).collect();
    let (graph, plan) = (&network.graph, &plan_integers(&network.graph, &wide));
    let write =
        |nodes: &[IntegerNode]| write_integers(&IntegerSource { graph, plan, schedules, nodes, provenance });
    digests(&write(&nodes)?, &mut nodes)?;
    let file = write(&nodes)?;
    let report = verify(network, schedules, &formats, &file)?;
    Ok(Exported { file, formats: named(network, &formats[0]), report })
}

/// Which values have 16 bits: those whose rounding to 8 causes more of the picture's error than they may.
fn islands(network: &Network, seen: &Statistics, moment: Moment, options: &Options) -> Vec<bool> {
    let mut wide = widths(network, vec![false; network.graph.nodes().len()]);
    let of_first = Options { per_step: false, ..options.clone() };
    let formats = all_formats(network, seen, &wide, &of_first).remove(0);
    let errors = quality::sensitivity(network, moment, &formats, SENSITIVITY);
    let total: f64 = errors.iter().flatten().sum();
    let products = products(&network.graph);
    for ((wide, [error, _]), products) in wide.iter_mut().zip(errors).zip(products) {
        *wide |= error > options.island_share * (1.0 + 50.0 * products) * total;
    }
    widths(network, wide)
}

/// The part of a network's products that each value takes part in.
fn products(graph: &Graph) -> Vec<f64> {
    let all = graph.macs().max(1) as f64;
    let mut products = vec![0.0; graph.nodes().len()];
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        let of_node = match node.op {
            Op::Conv2d { .. } => node.op.macs(&graph.input_shapes(node)) as f64 / all,
            // It has the width of its input.
            Op::Upsample => products[index],
            _ => continue,
        };
        products[node.inputs[0].index()] += of_node;
    }
    products
}

/// Formats of all values at each moment.
fn all_formats(
    network: &Network,
    statistics: &Statistics,
    wide: &[bool],
    options: &Options,
) -> Vec<Vec<Format>> {
    if options.per_step {
        let of_moment = |seen: &Vec<_>| formats(network, seen, wide, options.observer);
        return statistics.0.iter().map(of_moment).collect();
    }
    vec![formats(network, &statistics.pooled(), wide, options.observer); statistics.0.len()]
}

/// Runs a file and notes what its self-test is to expect.
fn digests(file: &[u8], nodes: &mut [IntegerNode]) -> Result<(), IntegersError> {
    let mut memory = Vec::new();
    let model = Model::new(aligned(file, &mut memory))?;
    let mut arena = vec![0; IntegerEngine::arena_bytes(&model)];
    let mut engine = IntegerEngine::new(model, &mut arena)?;
    engine.digests(&mut |index, digest| nodes[index].digest = digest);
    Ok(())
}

/// Compares every value of the runtime with its definition, and pictures with those of the network.
fn verify(
    network: &Network,
    schedules: &[Vec<Moment>],
    formats: &[Vec<Format>],
    file: &[u8],
) -> Result<Report, IntegersError> {
    let mut memory = Vec::new();
    let model = Model::new(aligned(file, &mut memory))?;
    let mut arena = vec![0; IntegerEngine::arena_bytes(&model)];
    let mut engine = IntegerEngine::new(model, &mut arena)?;
    for (seed, steps) in (0..VERIFIED).flat_map(|seed| schedules.iter().map(move |s| (seed, s.len()))) {
        let mut expected = std::collections::HashMap::new();
        let picture = integer::generate(&model, seed, steps, &mut |step, index, value| {
            expected.insert((step, index), value.to_vec());
        });
        let mut different = None;
        engine.observe(seed, steps, &mut |step, index, value| {
            let found = widened(value);
            if expected.get(&(step, index)) != Some(&found) {
                different.get_or_insert(index);
            }
        })?;
        let image = model.nodes().position(|node| matches!(node.op(), Op::Image(_))).unwrap_or_default();
        if widened(Values::Wide(engine.generate(seed, steps)?.numbers)) != picture {
            different.get_or_insert(image);
        }
        if let Some(index) = different {
            let name = network.graph.nodes()[index].name.clone();
            return Err(IntegersError::Value { seed, steps, index, name });
        }
    }
    let psnr = quality::psnr(network, schedules, PICTURES, &mut |seed, steps| {
        engine
            .generate(seed, steps)
            .map_or_else(|_| Vec::new(), |picture| widened(Values::Wide(picture.numbers)))
    });
    if let Some(bad) = psnr.iter().find(|psnr| psnr.median.is_nan() || psnr.median < PSNR_LIMIT) {
        return Err(IntegersError::Quality { steps: bad.steps, found: bad.median, limit: PSNR_LIMIT });
    }
    let first = schedules.first().and_then(|schedule| schedule.first());
    let nodes = first
        .map_or_else(Vec::new, |&moment| quality::nodes(network, moment, &formats[0], &model, SENSITIVITY));
    Ok(Report {
        file_bytes: file.len(),
        weights_bytes: model.weights_bytes(),
        arena_bytes: model.arena_bytes(),
        psnr,
        nodes,
    })
}

fn widened(value: Values<'_>) -> Vec<i32> {
    (0..value.len()).map(|i| value.get(i)).collect()
}

impl Report {
    /// The report as one JSON object.
    pub fn json(&self) -> Value {
        let psnr = |p: &Psnr| json!({ "steps": p.steps, "median": p.median, "worst": p.worst });
        let node = |n: &NodeQuality| {
            json!({
                "name": n.name,
                "bits": if n.wide { 16 } else { 8 },
                "sqnr": n.sqnr,
                "cosine": n.cosine,
                "value_share": n.value_share,
                "weight_share": n.weight_share,
            })
        };
        json!({
            "precision": "int8",
            "file_bytes": self.file_bytes,
            "weights_bytes": self.weights_bytes,
            "arena_bytes": self.arena_bytes,
            "psnr": self.psnr.iter().map(psnr).collect::<Vec<_>>(),
            "nodes": self.nodes.iter().map(node).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [("file", self.file_bytes), ("weights", self.weights_bytes), ("arena", self.arena_bytes)];
        writeln!(f, "{:<12}{:>15}", "bytes", "int8")?;
        for (name, bytes) in rows {
            writeln!(f, "  {name:<10}{:>15}", crate::report::grouped(bytes as u64))?;
        }
        writeln!(f, "{:<12}{:>15}{:>15}", "PSNR, dB", "median", "worst")?;
        for Psnr { steps, median, worst } in &self.psnr {
            let name = format!("{steps} step{}", if *steps == 1 { "" } else { "s" });
            writeln!(f, "  {name:<10}{median:>15.1}{worst:>15.1}")?;
        }
        write!(f, "{:<32}{:>6}{:>8}{:>10}{:>9}{:>9}", "node", "bits", "SQNR", "cosine", "value", "weight")?;
        for node in &self.nodes {
            let bits = if node.wide { 16 } else { 8 };
            let percent = |share: f64| format!("{:.1} %", 100.0 * share);
            let (value, weight) = (percent(node.value_share), percent(node.weight_share));
            write!(f, "\n{:<32}{bits:>6}{:>8.1}{:>10.6}", node.name, node.sqnr, node.cosine)?;
            write!(f, "{value:>9}{weight:>9}")?;
        }
        Ok(())
    }
}
