//! How each convolution is computed: the method of the least estimated cost.

use traflow_graph::graph::{Graph, GraphError};
use traflow_graph::model::PANEL;
use traflow_graph::op::{Method, Op, Shape};
use traflow_graph::winograd::Winograd;

/// The same network whose convolutions have the cheapest method, or a direct one where Winograd's are not wanted.
///
/// # Errors
/// Where the result is no graph, which is a mistake of this module.
pub fn choose(graph: Graph, winograd: bool) -> Result<Graph, GraphError> {
    let methods = [Method::Direct, Method::Winograd2, Method::Winograd4];
    let shapes: Vec<Vec<Shape>> = graph.nodes().iter().map(|node| graph.input_shapes(node)).collect();
    let mut nodes = graph.into_nodes();
    for (node, shapes) in nodes.iter_mut().zip(shapes) {
        if let Op::Conv2d { out, kernel: 3, method, .. } = &mut node.op {
            let allowed = methods.iter().take(if winograd { methods.len() } else { 1 });
            let cheapest = allowed.min_by_key(|&&method| cost(method, shapes[0], *out));
            *method = cheapest.copied().unwrap_or_default();
        }
    }
    Graph::new(nodes)
}

/// Estimated cost of a 3×3 convolution, in vector operations of [`PANEL`] lanes. A product counts as one; transforms
/// count as what was measured beside it.
fn cost(method: Method, input: Shape, out: u16) -> usize {
    let channels = usize::from(input.channels);
    let (vectors_in, vectors_out) = (channels.div_ceil(PANEL), usize::from(out).div_ceil(PANEL));
    let Some(winograd) = Winograd::new(method, input, out) else {
        return 9 * channels * input.pixels() * vectors_out;
    };
    let (tiles, elements) = (winograd.tiles(), winograd.points() * winograd.points());
    let products = elements * channels * tiles * vectors_out;
    // Each element of a transformed tile is loaded or stored, and takes part in about four sums; loads and stores beside
    // the second-level cache are as slow as two products.
    let transforms = TRANSFORM * elements * tiles * (vectors_in + vectors_out);
    let weights = TRANSFORM * elements * channels * vectors_out * tiles.div_ceil(winograd.block());
    products + transforms + weights
}

/// Operations for an element of a transformed tile or kernel.
const TRANSFORM: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use traflow_graph::graph::Builder;

    fn method(input: Shape, out: u16, kernel: u8, winograd: bool) -> Method {
        let mut g = Builder::new();
        let x = g.image(input);
        g.conv2d("conv", x, out, kernel);
        let graph = choose(g.finish().unwrap(), winograd).unwrap();
        match graph.nodes()[1].op {
            Op::Conv2d { method, .. } => method,
            _ => unreachable!(),
        }
    }

    #[test]
    fn large_convolutions_are_winograds() {
        assert_eq!(method(Shape::new(64, 32, 32), 64, 3, true), Method::Winograd4);
        assert_eq!(method(Shape::new(128, 16, 16), 128, 3, true), Method::Winograd4);
        // Few tiles do not pay for the transform of the weights.
        assert_eq!(method(Shape::new(128, 8, 8), 128, 3, true), Method::Winograd2);
        assert_eq!(method(Shape::new(128, 2, 2), 128, 3, true), Method::Direct);
        assert_eq!(method(Shape::new(128, 1, 1), 128, 3, true), Method::Direct);
        assert_eq!(method(Shape::new(3, 32, 32), 64, 3, true), Method::Direct);
        assert_eq!(method(Shape::new(64, 32, 32), 64, 1, true), Method::Direct);
        assert_eq!(method(Shape::new(64, 32, 32), 64, 3, false), Method::Direct);
    }
}
