//! Computes what depends on time alone.
//!
//! A model file is made for certain numbers of steps, so the times of every evaluation are known, and the labels of a
//! training are zero at generation. A class is chosen when a picture is made, so what depends on it stays. What follows
//! from them is computed here, in f64, once for each moment.

use traflow_graph::graph::GraphError;
use traflow_graph::model::Moment;
use traflow_graph::op::{Op, Shape};

use crate::network::{Network, Parameters};
use crate::reference::{Inputs, evaluate};

/// Why a network cannot be folded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum FoldError {
    #[error("node {index} ({name}): it depends on time alone and is {shape}, but a constant is a vector")]
    NotVector { index: usize, name: String, shape: Shape },
    #[error("folding what depends on time: {0}")]
    Graph(GraphError),
}

/// The same network where every node that depends on time alone is an [`Op::Constant`] with a row for each moment.
///
/// # Errors
/// Where such a node is no vector, its name.
pub fn fold(network: &Network, moments: &[Moment]) -> Result<Network, FoldError> {
    let alone = network.graph.depends_on_time_alone();
    let (mut nodes, mut parameters) = (network.graph.nodes().to_vec(), Vec::new());
    for (index, (node, of_node)) in nodes.iter_mut().zip(&network.parameters).enumerate() {
        if !alone[index] {
            parameters.push(of_node.clone());
            continue;
        }
        if !node.shape.is_vector() {
            let (name, shape) = (node.name.clone(), node.shape);
            return Err(FoldError::NotVector { index, name, shape });
        }
        node.op = Op::Constant { channels: node.shape.channels };
        node.inputs.clear();
        parameters.push(Parameters { per_moment: true, ..Parameters::default() });
    }
    for (row, &moment) in moments.iter().enumerate() {
        let values = evaluate(network, &Inputs { image: &[], moment, row, class: None }, &alone);
        for (value, parameters) in values.into_iter().zip(&mut parameters) {
            // The values of nodes that depend on the picture are empty.
            parameters.bias.extend(value);
        }
    }
    Network::new(nodes, parameters, network.values.clone()).map_err(FoldError::Graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedules;
    use traflow_graph::graph::Builder;
    use traflow_graph::op::Time;

    fn network(g: Builder) -> Network {
        let graph = g.finish().unwrap();
        let parameters = vec![Parameters::default(); graph.nodes().len()];
        Network::trained(graph, parameters)
    }

    #[test]
    fn a_constant_has_a_row_for_each_moment() {
        let mut g = Builder::new();
        let x = g.image(Shape::vector(1));
        let t = g.time(Time::From);
        let s = g.time(Time::To);
        let mean = g.add("mean", t, s, 0.5);
        g.add("sum", x, mean, 1.0);
        let folded = fold(&network(g), &schedules(&[1, 2]).concat()).unwrap();
        let names: Vec<&str> = folded.graph.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["image", "mean", "sum"]);
        assert_eq!(folded.graph.nodes()[1].op, Op::Constant { channels: 1 });
        assert_eq!(folded.parameters[1].bias, [0.5, 0.75, 0.25]);
    }

    #[test]
    fn a_picture_of_time_is_an_error() {
        let mut g = Builder::new();
        let x = g.image(Shape::new(1, 2, 2));
        let t = g.time(Time::From);
        let up = g.push("up", Op::Upsample, &[t]);
        g.add("sum", x, up, 1.0);
        let error = fold(&network(g), &schedules(&[1]).concat()).unwrap_err().to_string();
        assert_eq!(error, "node 2 (up): it depends on time alone and is 1×2×2, but a constant is a vector");
    }
}
