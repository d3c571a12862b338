//! Orders of the nodes that take less time, or less memory.

use std::mem::{replace, swap};

use traflow_graph::graph::{GraphError, Value};
use traflow_graph::op::Op;

use crate::fuse::read_once;
use crate::network::Network;

/// The same function where each projection of a picture that was just doubled comes before the doubling, and so has a quarter
/// of the pixels. All pixels of a square are equal, before the projection as after it.
///
/// # Errors
/// Where the result is no graph, which is a mistake of this module.
pub fn projections_before_doubling(network: Network) -> Result<Network, GraphError> {
    let Network { graph, mut parameters, mut values } = network;
    let mut nodes = graph.into_nodes();
    for index in 0..nodes.len() {
        let (Op::Conv2d { kernel: 1, residual: None, .. }, &[x]) =
            (nodes[index].op, &nodes[index].inputs[..])
        else {
            continue;
        };
        if matches!(nodes[x.index()].op, Op::Upsample) && read_once(&nodes, x) {
            let (before, from) = nodes.split_at_mut(index);
            swap(&mut before[x.index()], &mut from[0]);
            swap(&mut before[x.index()].inputs, &mut from[0].inputs);
            parameters.swap(x.index(), index);
            // A value has the numbers of the same value doubled.
            let projected = values[index].clone();
            let doubled = replace(&mut values[x.index()], projected);
            values[before[x.index()].inputs[0].index()].extend(doubled);
        }
    }
    Network::new(nodes, parameters, values)
}

/// The same network where each projection that makes a value no larger stands right behind that value.
///
/// A residual block reads its input twice: at its beginning and, through a projection, at its end. Where the projection
/// comes first, the smaller of the two values waits for the sum, and the norm at the beginning is computed in place.
///
/// # Errors
/// Where the result is no graph, which is a mistake of this module.
pub fn projections_first(network: Network) -> Result<Network, GraphError> {
    let Network { graph, parameters, values } = network;
    let nodes = graph.into_nodes();
    // Nodes with the same key keep their order.
    let key = |index: usize| match (nodes[index].op, &nodes[index].inputs[..]) {
        (Op::Conv2d { kernel: 1, .. }, &[x])
            if nodes[index].shape.elements() <= nodes[x.index()].shape.elements() =>
        {
            (x.index(), 1)
        }
        _ => (index, 0),
    };
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|&index| key(index));
    let mut places = vec![0; nodes.len()];
    order.iter().zip(0..).for_each(|(&index, place)| places[index] = place);
    let moved = order.iter().map(|&index| {
        let mut node = nodes[index].clone();
        node.inputs.iter_mut().for_each(|input| *input = Value(places[input.index()]));
        node
    });
    let parameters = order.iter().map(|&index| parameters[index].clone()).collect();
    let values = order.iter().map(|&index| values[index].clone()).collect();
    Network::new(moved.collect(), parameters, values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Parameters;
    use traflow_graph::graph::Builder;
    use traflow_graph::op::Shape;
    use traflow_graph::plan::plan_integers;

    #[test]
    fn a_projection_changes_places_with_a_doubling_that_nobody_else_reads() {
        let mut g = Builder::new();
        let image = g.image(Shape::new(2, 3, 4));
        let up = g.push("up", Op::Upsample, &[image]);
        let skip = g.conv2d("skip", up, 5, 1);
        let again = g.push("again", Op::Upsample, &[skip]);
        let wide = g.conv2d("wide", again, 2, 1);
        let sum = g.push("of_both", Op::Concat, &[again, wide]);
        let last = g.push("last", Op::Upsample, &[sum]);
        g.conv2d("conv", last, 2, 3);
        let graph = g.finish().unwrap();
        let of_node = |node| {
            let sizes = graph.parameters(node);
            let random = |len: usize| (0..len).map(|i| (i as f64).sin()).collect();
            let (weight, bias) = (random(sizes.weights()), random(sizes.bias.unwrap_or(0)));
            Parameters { weight, bias, per_moment: false }
        };
        let before = Network::trained(graph.clone(), graph.nodes().iter().map(of_node).collect());
        let after = projections_before_doubling(before.clone()).unwrap();
        let names: Vec<&str> = after.graph.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["image", "skip", "up", "again", "wide", "of_both", "last", "conv"]);
        let macs = |index: usize, of: &Network| {
            of.graph.nodes()[index].op.macs(&of.graph.input_shapes(&of.graph.nodes()[index]))
        };
        assert_eq!(4 * macs(1, &after), macs(2, &before));
        assert_eq!(after.values[..3], [vec!["image", "up"], vec!["skip"], vec!["skip"]]);

        let image = [1.0, -2.0, 0.5, 3.0].repeat(6);
        let moment = traflow_graph::model::Moment { t: 1.0, s: 0.0 };
        let inputs = crate::reference::Inputs { image: &image, moment, row: 0, class: None };
        let all = |network| crate::reference::evaluate(network, &inputs, &[true; 8]);
        assert_eq!(all(&after)[2..], all(&before)[2..]);
    }

    #[test]
    fn a_projection_makes_room_before_its_block() {
        let mut g = Builder::new();
        let image = g.image(Shape::new(1, 8, 8));
        let x = g.conv2d("x", image, 24, 3);
        let h = g.group_norm("norm", x, 1e-6, true);
        let h = g.conv2d("conv", h, 8, 3);
        let skip = g.conv2d("skip", x, 8, 1);
        let x = g.add("sum", h, skip, 1.0);
        let wider = g.conv2d("wider", x, 16, 1);
        let h = g.conv2d("conv1", x, 16, 3);
        g.add("sum1", h, wider, 1.0);
        let graph = g.finish().unwrap();
        let parameters = vec![Parameters::default(); graph.nodes().len()];
        let bytes = |network: &Network| {
            plan_integers(&network.graph, &vec![false; network.graph.nodes().len()]).bytes
        };
        let before = Network::trained(graph, parameters);
        let after = projections_first(before.clone()).unwrap();
        let names: Vec<&str> = after.graph.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["image", "x", "skip", "norm", "conv", "sum", "wider", "conv1", "sum1"]);
        assert!(bytes(&after) < bytes(&before));
        // Of two such projections each stands behind its own value.
        assert_eq!(projections_first(after.clone()).unwrap(), after);
    }
}
