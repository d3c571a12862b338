//! A graph and its parameters, in f64.

use traflow_graph::checkpoint::{Checkpoint, CheckpointError};
use traflow_graph::graph::{Graph, GraphError, Node, Value};
use traflow_graph::write::NodeParameters;

use crate::ExportError;

/// A network whose parameters are kept in f64, so that what is computed on them is rounded once, when it is written.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// The graph.
    pub graph: Graph,
    /// The parameters, one entry a node.
    pub parameters: Vec<Parameters>,
    /// For each node those of the trained network whose numbers it computes: a convolution that took a sum is named as it
    /// was, and its value is the sum.
    pub values: Vec<Vec<String>>,
}

/// Parameters of one node; empty where it has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters {
    /// `[out, in, kernel, kernel]` of a convolution, or the scale of a norm, which may have a row for each moment.
    pub weight: Vec<f64>,
    /// One row, or one row for each moment. A constant's bias is its value.
    pub bias: Vec<f64>,
    /// Whether the bias has a row for each moment.
    pub per_moment: bool,
}

impl Network {
    /// The network of a checkpoint.
    ///
    /// # Errors
    /// Where the configuration is of no graph, or a tensor of it is missing.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ExportError> {
        let graph = checkpoint.unet.graph()?;
        let tensor = |node: &Node, kind, len| -> Result<Vec<f64>, CheckpointError> {
            let values = checkpoint.tensor(&format!("{}.{kind}", node.name), len)?;
            Ok(values.iter().copied().map(f64::from).collect())
        };
        let mut parameters = Vec::new();
        for node in graph.nodes() {
            let sizes = graph.parameters(node);
            let mut of_node = Parameters::default();
            if sizes.weight.is_some() {
                of_node.weight = tensor(node, "weight", sizes.weights())?;
            }
            if let Some(len) = sizes.bias {
                of_node.bias = tensor(node, "bias", len)?;
            }
            parameters.push(of_node);
        }
        Ok(Self::trained(graph, parameters))
    }

    /// A network as it was trained.
    pub fn trained(graph: Graph, parameters: Vec<Parameters>) -> Self {
        let values = graph.nodes().iter().map(|node| vec![node.name.clone()]).collect();
        Self { graph, parameters, values }
    }

    /// A network of those nodes that the last one depends on, in their order.
    ///
    /// # Errors
    /// Where they are no graph.
    pub fn new(
        nodes: Vec<Node>,
        mut parameters: Vec<Parameters>,
        mut values: Vec<Vec<String>>,
    ) -> Result<Self, GraphError> {
        let mut needed = vec![false; nodes.len()];
        if let Some(output) = needed.last_mut() {
            *output = true;
        }
        for (index, node) in nodes.iter().enumerate().rev() {
            if needed[index] {
                node.inputs.iter().for_each(|input| needed[input.index()] = true);
            }
        }
        let mut place = 0;
        let places: Vec<u16> = needed.iter().map(|&needed| (place, place += u16::from(needed)).0).collect();
        let mut kept = Vec::new();
        for mut node in nodes.into_iter().zip(&needed).filter_map(|(node, &needed)| needed.then_some(node)) {
            node.inputs.iter_mut().for_each(|input| *input = Value(places[input.index()]));
            kept.push(node);
        }
        let (mut of_parameters, mut of_values) = (needed.iter(), needed.iter());
        parameters.retain(|_| *of_parameters.next().unwrap_or(&false));
        values.retain(|_| *of_values.next().unwrap_or(&false));
        Ok(Self { graph: Graph::new(kept)?, parameters, values })
    }

    /// The parameters rounded to f32.
    pub fn single(&self) -> Vec<NodeParameters> {
        let round = |numbers: &[f64]| numbers.iter().map(|&number| number as f32).collect();
        let of_node = |p: &Parameters| NodeParameters { weight: round(&p.weight), bias: round(&p.bias) };
        self.parameters.iter().map(of_node).collect()
    }
}
