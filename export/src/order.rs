//! An order of the nodes for devices, whose memory is scarce.

use traflow_graph::graph::{GraphError, Value};
use traflow_graph::op::Op;

use crate::network::Network;

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
