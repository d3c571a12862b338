//! What an export says about the file that it made.

use std::fmt;

use serde_json::{Value, json};
use traflow_graph::graph::Graph;
use traflow_graph::model::Dtype;
use traflow_graph::op::Op;
use traflow_graph::plan::Plan;

use crate::network::Network;
use crate::verify::Difference;

/// What is in a model file, and how well it agrees with the network.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Number format of the weights of convolutions.
    pub weights: Dtype,
    /// Bytes of the file.
    pub file_bytes: usize,
    /// Bytes of the weights and biases that all moments have in common.
    pub weights_bytes: usize,
    /// Bytes of the constants and biases that have a row for each moment.
    pub constants_bytes: usize,
    /// Moments of all numbers of steps.
    pub moments: usize,
    /// The network as it was trained.
    pub trained: Size,
    /// The network in the file.
    pub exported: Size,
    /// Bytes of the arena.
    pub arena_bytes: u32,
    /// No arena can be smaller.
    pub arena_lower_bound: u32,
    /// For each number of steps that the file offers, how far it is from the network.
    pub differences: Vec<Difference>,
}

/// The size of a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Number of nodes.
    pub nodes: usize,
    /// Number of parameters; of those with a row for each moment, one row.
    pub parameters: usize,
    /// Multiply-accumulates of one evaluation.
    pub macs: u64,
}

impl Size {
    fn of(graph: &Graph) -> Self {
        Self { nodes: graph.nodes().len(), parameters: graph.parameter_count(), macs: graph.macs() }
    }

    fn json(self) -> Value {
        json!({ "nodes": self.nodes, "parameters": self.parameters, "macs": self.macs })
    }
}

/// The name of a number format, as the command takes it.
pub const fn precision(weights: Dtype) -> &'static str {
    match weights {
        Dtype::F32 => "f32",
        Dtype::F16 => "fp16",
        Dtype::I8 => "int8",
    }
}

impl Report {
    pub(crate) fn new(
        trained: &Network,
        exported: &Network,
        plan: &Plan,
        weights: Dtype,
        file_bytes: usize,
        differences: Vec<Difference>,
    ) -> Self {
        let (mut weights_bytes, mut constants_bytes) = (0, 0);
        for (node, parameters) in exported.graph.nodes().iter().zip(&exported.parameters) {
            let is_conv = matches!(node.op, Op::Conv2d { .. });
            let of_moments = parameters.weight.len() > exported.graph.parameters(node).weights();
            let scales = if of_moments { &mut constants_bytes } else { &mut weights_bytes };
            *scales += parameters.weight.len() * if is_conv { weights.bytes() } else { 4 };
            let bias = if parameters.per_moment { &mut constants_bytes } else { &mut weights_bytes };
            *bias += parameters.bias.len() * 4;
        }
        Self {
            weights,
            file_bytes,
            weights_bytes,
            constants_bytes,
            moments: differences.iter().map(|d| d.steps).sum(),
            trained: Size::of(&trained.graph),
            exported: Size::of(&exported.graph),
            arena_bytes: plan.bytes,
            arena_lower_bound: plan.lower_bound,
            differences,
        }
    }

    /// The report as one JSON object.
    pub fn json(&self) -> Value {
        let difference =
            |d: &Difference| json!({ "steps": d.steps, "folding": d.folding, "runtime": d.runtime });
        json!({
            "precision": precision(self.weights),
            "file_bytes": self.file_bytes,
            "weights_bytes": self.weights_bytes,
            "constants_bytes": self.constants_bytes,
            "moments": self.moments,
            "trained": self.trained.json(),
            "exported": self.exported.json(),
            "arena_bytes": self.arena_bytes,
            "arena_lower_bound": self.arena_lower_bound,
            "differences": self.differences.iter().map(difference).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grouped = |number: usize| grouped(number as u64);
        writeln!(f, "{:<12}{:>15}", "bytes", precision(self.weights))?;
        writeln!(f, "  {:<10}{:>15}", "file", grouped(self.file_bytes))?;
        writeln!(f, "  {:<10}{:>15}", "weights", grouped(self.weights_bytes))?;
        let moments = self.moments;
        let plural = if moments == 1 { "" } else { "s" };
        let constants = grouped(self.constants_bytes);
        writeln!(f, "  {:<10}{constants:>15}  for {moments} moment{plural}", "constants")?;
        let (arena, bound) = (grouped(self.arena_bytes as usize), grouped(self.arena_lower_bound as usize));
        writeln!(f, "  {:<10}{arena:>15}  at least {bound}", "arena")?;
        writeln!(f, "{:<12}{:>15}{:>15}", "network", "trained", "exported")?;
        let (trained, exported) = (&self.trained, &self.exported);
        let rows = [
            ("nodes", trained.nodes as u64, exported.nodes as u64),
            ("parameters", trained.parameters as u64, exported.parameters as u64),
            ("MACs", trained.macs, exported.macs),
        ];
        for (name, trained, exported) in rows {
            let [trained, exported] = [trained, exported].map(self::grouped);
            writeln!(f, "  {name:<10}{trained:>15}{exported:>15}")?;
        }
        write!(f, "{:<12}{:>15}{:>15}", "difference", "folding", "runtime")?;
        for Difference { steps, folding, runtime } in &self.differences {
            let name = format!("{steps} step{}", if *steps == 1 { "" } else { "s" });
            write!(f, "\n  {name:<10}{folding:>15.1e}{runtime:>15.1e}")?;
        }
        Ok(())
    }
}

/// A number with a comma after every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let report = Report {
            weights: Dtype::F16,
            file_bytes: 1_234_560,
            weights_bytes: 1_200_000,
            constants_bytes: 999,
            moments: 3,
            trained: Size { nodes: 120, parameters: 600_000, macs: 64_000_000 },
            exported: Size { nodes: 80, parameters: 590_000, macs: 63_000_000 },
            arena_bytes: 65_536,
            arena_lower_bound: 65_472,
            differences: vec![
                Difference { steps: 1, folding: 2e-15, runtime: 3.25e-4 },
                Difference { steps: 2, folding: 0.0, runtime: 1e-3 },
            ],
        };
        let expected = "\
bytes                  fp16
  file            1,234,560
  weights         1,200,000
  constants             999  for 3 moments
  arena              65,536  at least 65,472
network             trained       exported
  nodes                 120             80
  parameters        600,000        590,000
  MACs           64,000,000     63,000,000
difference          folding        runtime
  1 step            2.0e-15         3.2e-4
  2 steps             0.0e0         1.0e-3";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.json()["exported"]["macs"], 63_000_000);
    }
}
