//! Turns a checkpoint into a model file.
//!
//! At generation the times are known, so what depends on them alone is computed here ([`mod@fold`]), and so is what
//! can be put into a convolution ([`mod@fuse`]); and for each convolution the fastest method is chosen ([`mod@method`]).
//! The file is then run by the runtime itself and compared with the network as it was trained ([`mod@verify`]): what this
//! crate returns has been seen to give the right pictures.
//!
//! For other runtimes a checkpoint becomes an ONNX file ([`mod@onnx`]).
#![forbid(unsafe_code)]

pub mod calibrate;
pub mod fold;
pub mod fuse;
pub mod integer;
pub mod integers;
pub mod method;
pub mod network;
pub mod onnx;
pub mod order;
pub mod quality;
pub mod quantise;
pub mod reference;
pub mod report;
pub mod verify;

use serde_json::{Value, json};
use traflow_graph::checkpoint::{Checkpoint, CheckpointError};
use traflow_graph::graph::GraphError;
use traflow_graph::model::{Dtype, Moment, VERSION};
use traflow_graph::plan::{Plan, plan};
use traflow_graph::write::{ModelSource, WriteError, write};

use crate::fold::{FoldError, fold};
use crate::fuse::fuse;
use crate::method::choose;
use crate::network::Network;
use crate::onnx::OnnxError;
use crate::order::projections_before_doubling;
use crate::report::{Report, precision};
use crate::verify::{VerifyError, verify};

/// What a model file is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Number format of the weights of convolutions.
    pub weights: Dtype,
    /// The numbers of steps that the file offers, in any order; 1 to 16 of them.
    pub steps: Vec<u32>,
    /// Whether convolutions may be computed by Winograd's method, which is faster and rounds more.
    pub winograd: bool,
}

/// A model file that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The file.
    pub file: Vec<u8>,
    /// What is in it, and how well it agrees with the network.
    pub report: Report,
}

/// Why a checkpoint cannot be exported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what it is about")]
pub enum ExportError {
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error(transparent)]
    Fold(#[from] FoldError),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    #[error(transparent)]
    Integers(#[from] integers::IntegersError),
}

/// Turns a checkpoint into a model file. The same checkpoint and options are the same bytes.
///
/// # Errors
/// Where the network does not fit into a model file, or the file's pictures are not those of the network.
pub fn export(checkpoint: &Checkpoint, options: &Options) -> Result<Exported, ExportError> {
    let schedules = schedules(&options.steps);
    let trained = Network::of(checkpoint)?;
    let fused = lower(&trained, options)?;
    let plan = plan(&fused.graph, 4);
    let file = write_file(checkpoint, &fused, &plan, options)?;
    let differences = verify(&trained, &fused, &file, options.weights, &schedules)?;
    let report = Report::new(&trained, &fused, &plan, options.weights, file.len(), differences);
    Ok(Exported { file, report })
}

/// A file that was not verified, for its sizes.
///
/// # Errors
/// Where the network does not fit into a model file.
pub fn draft(checkpoint: &Checkpoint, options: &Options) -> Result<Vec<u8>, ExportError> {
    let fused = lower(&Network::of(checkpoint)?, options)?;
    write_file(checkpoint, &fused, &plan(&fused.graph, 4), options)
}

/// The network that a file has.
fn lower(trained: &Network, options: &Options) -> Result<Network, ExportError> {
    let folded = fold(trained, &schedules(&options.steps).concat())?;
    let fused = fuse(projections_before_doubling(folded)?)?;
    Ok(Network { graph: choose(fused.graph, options.winograd)?, ..fused })
}

fn write_file(
    checkpoint: &Checkpoint,
    fused: &Network,
    plan: &Plan,
    options: &Options,
) -> Result<Vec<u8>, ExportError> {
    let schedules = schedules(&options.steps);
    Ok(write(&ModelSource {
        graph: &fused.graph,
        plan,
        schedules: &schedules,
        parameters: &fused.single(),
        weights: options.weights,
        provenance: &provenance(checkpoint, &made(VERSION, options.weights, &schedules)),
    })?)
}

/// The moments of each number of steps, by increasing number: n steps are the grid 1, (n-1)/n, … 1/n, 0.
pub fn schedules(steps: &[u32]) -> Vec<Vec<Moment>> {
    let mut steps = steps.to_vec();
    steps.sort_unstable();
    steps.dedup();
    let of = |steps: u32| {
        let time = move |left: u32| left as f32 / steps as f32;
        (1..=steps).rev().map(move |left| Moment { t: time(left), s: time(left - 1) }).collect()
    };
    steps.into_iter().map(of).collect()
}

/// Bytes at an address that suits their tensors.
pub fn aligned<'a>(file: &[u8], memory: &'a mut Vec<u8>) -> &'a [u8] {
    memory.resize(file.len() + 63, 0);
    let skip = memory.as_ptr().align_offset(64);
    memory[skip..][..file.len()].copy_from_slice(file);
    &memory[skip..][..file.len()]
}

/// How this export makes a file, for its provenance.
pub(crate) fn made(format: u16, weights: Dtype, schedules: &[Vec<Moment>]) -> Value {
    let steps: Vec<usize> = schedules.iter().map(Vec::len).collect();
    json!({ "format": format, "precision": precision(weights), "steps": steps })
}

/// Where a file comes from, as JSON; `made` says how this export made it.
pub(crate) fn provenance(checkpoint: &Checkpoint, made: &Value) -> String {
    json!({
        "checkpoint": checkpoint.provenance,
        "export": made,
        "network": checkpoint.unet,
        "role": checkpoint.role.name(),
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_fall_from_one_to_zero() {
        let times = |steps: &[u32]| -> Vec<Vec<[f32; 2]>> {
            schedules(steps).iter().map(|s| s.iter().map(|m| [m.t, m.s]).collect()).collect()
        };
        let expected = [vec![[1.0, 0.0]], vec![[1.0, 0.5], [0.5, 0.0]]];
        assert_eq!(times(&[2, 1, 2]), expected);
        assert_eq!(times(&[3])[0][1], [2.0 / 3.0, 1.0 / 3.0]);
    }
}
