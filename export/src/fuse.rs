//! Puts nodes into the convolution or the norm before them, where the runtime does their work on the way.

use std::mem::take;

use traflow_graph::graph::{GraphError, Node, Value};
use traflow_graph::op::Op;

use crate::network::{Network, Parameters};

/// The same function with fewer nodes:
///
/// - the sum of a convolution and a constant is the convolution with that constant in its bias;
/// - the sum of a convolution and another value is the convolution with that value as its residual;
/// - a norm and then SiLU is a norm with SiLU;
/// - a norm that a constant scales and shifts is a norm of other scale and shift.
///
/// The node takes the place of the sum and keeps the name of the convolution. Factors go into weights and biases.
///
/// # Errors
/// Where the result is no graph, which is a mistake of this module.
pub fn fuse(network: Network) -> Result<Network, GraphError> {
    rewrite(network, true)
}

/// The first of these alone: what has to be known of the constants. Other runtimes find the rest by themselves, and look
/// for it in the form in which a network is trained.
///
/// # Errors
/// As [`fuse`].
pub fn fuse_constants(network: Network) -> Result<Network, GraphError> {
    rewrite(network, false)
}

fn rewrite(network: Network, all: bool) -> Result<Network, GraphError> {
    let Network { graph, mut parameters, values } = network;
    let mut nodes = graph.into_nodes();
    for index in 0..nodes.len() {
        match nodes[index].op {
            Op::Add { scale } => sum(&mut nodes, &mut parameters, index, scale, all),
            Op::Silu if all => activation(&mut nodes, &mut parameters, index),
            Op::ScaleShift { silu } if all => modulation(&mut nodes, &mut parameters, index, silu),
            _ => {}
        }
    }
    // A node that took the work of others stands in the place of the last of them, whose value it computes.
    Network::new(nodes, parameters, values)
}

/// Whether one node alone reads this value, once.
pub(crate) fn read_once(nodes: &[Node], value: Value) -> bool {
    nodes.iter().flat_map(|node| &node.inputs).filter(|&&input| input == value).count() == 1
}

/// `(conv(x) + other) · scale`; where other is no constant, only if it may become a residual.
fn sum(nodes: &mut [Node], parameters: &mut [Parameters], index: usize, scale: f32, residuals: bool) {
    let [a, b] = nodes[index].inputs[..] else { return };
    // Of two convolutions the later one takes the sum: it stands next to it, so that little else is in memory between
    // them, and the earlier one's output is replaced.
    let (late, early) = if a > b { (a, b) } else { (b, a) };
    for (conv, other) in [(late, early), (early, late)] {
        let (conv_node, other_node) = (&nodes[conv.index()], &nodes[other.index()]);
        let Op::Conv2d { out, kernel, bias, residual: None, method } = conv_node.op else { continue };
        if conv_node.shape != nodes[index].shape || !read_once(nodes, conv) {
            continue;
        }
        let op = if matches!(other_node.op, Op::Constant { .. }) {
            let constant = parameters[other.index()].clone();
            let parameters = &mut parameters[conv.index()];
            parameters.bias = add_rows(&parameters.bias, &constant.bias);
            parameters.per_moment |= constant.per_moment;
            Op::Conv2d { out, kernel, bias: true, residual: None, method }
        } else if residuals && other_node.shape == conv_node.shape && conv_node.inputs[0] != other {
            // A file has no nodes that read one value twice.
            Op::Conv2d { out, kernel, bias, residual: Some(scale), method }
        } else {
            continue;
        };
        let mut inputs = take(&mut nodes[conv.index()].inputs);
        if op.arity() == 2 {
            inputs.push(other);
        }
        let name = nodes[conv.index()].name.clone();
        nodes[index] = Node { name, op, inputs, shape: nodes[index].shape };
        let mut scaled = take(&mut parameters[conv.index()]);
        let numbers = scaled.weight.iter_mut().chain(&mut scaled.bias);
        numbers.for_each(|number| *number *= f64::from(scale));
        parameters[index] = scaled;
        return;
    }
}

/// Sums of two biases of one row or more; one row is added to every row, and none is zero.
fn add_rows(a: &[f64], b: &[f64]) -> Vec<f64> {
    let at = |rows: &[f64], i: usize| if rows.is_empty() { 0.0 } else { rows[i % rows.len()] };
    (0..a.len().max(b.len())).map(|i| at(a, i) + at(b, i)).collect()
}

/// `silu(norm(x))`.
fn activation(nodes: &mut [Node], parameters: &mut [Parameters], index: usize) {
    let norm = nodes[index].inputs[0];
    if let Op::GroupNorm { groups, epsilon, silu: false } = nodes[norm.index()].op
        && read_once(nodes, norm)
    {
        let op = Op::GroupNorm { groups, epsilon, silu: true };
        let inputs = take(&mut nodes[norm.index()].inputs);
        let name = nodes[norm.index()].name.clone();
        nodes[index] = Node { name, op, inputs, shape: nodes[index].shape };
        parameters[index] = take(&mut parameters[norm.index()]);
    }
}

/// `norm(x) · (1 + scale) + shift`, where scale and shift are a constant, of one row or one for each moment.
fn modulation(nodes: &mut [Node], parameters: &mut [Parameters], index: usize, silu: bool) {
    let [norm, by] = nodes[index].inputs[..] else { return };
    if let Op::GroupNorm { groups, epsilon, silu: false } = nodes[norm.index()].op
        && matches!(nodes[by.index()].op, Op::Constant { .. })
        && read_once(nodes, norm)
    {
        let Parameters { weight, bias, .. } = take(&mut parameters[norm.index()]);
        let mut of_node =
            Parameters { per_moment: parameters[by.index()].per_moment, ..Parameters::default() };
        for row in parameters[by.index()].bias.chunks_exact(2 * weight.len()) {
            let (scale, shift) = row.split_at(weight.len());
            of_node.weight.extend(weight.iter().zip(scale).map(|(weight, scale)| weight * (1.0 + scale)));
            let scaled = bias.iter().zip(scale).map(|(bias, scale)| bias * (1.0 + scale));
            of_node.bias.extend(scaled.zip(shift).map(|(bias, shift)| bias + shift));
        }
        parameters[index] = of_node;
        let inputs = take(&mut nodes[norm.index()].inputs);
        let name = nodes[norm.index()].name.clone();
        let op = Op::GroupNorm { groups, epsilon, silu };
        nodes[index] = Node { name, op, inputs, shape: nodes[index].shape };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::fold;
    use crate::schedules;
    use crate::verify::verify;
    use traflow_graph::graph::Builder;
    use traflow_graph::model::Dtype;
    use traflow_graph::noise::Noise;
    use traflow_graph::op::{Method, Shape, Time};
    use traflow_graph::plan::plan;
    use traflow_graph::write::{ModelSource, write};

    /// Exports a graph with random parameters, sees that its pictures stay the same, and lists its nodes.
    fn exported(g: Builder) -> Vec<(String, Op)> {
        let graph = g.finish().unwrap();
        let random = |stream, len: usize| {
            let noise = Noise::stream(9, stream);
            (0..len as u64).map(|i| f64::from(noise.uniform(i) - 0.5)).collect()
        };
        let of_node = |(index, node): (usize, &Node)| {
            let sizes = graph.parameters(node);
            let (weight, bias) = (2 * index as u32, 2 * index as u32 + 1);
            Parameters {
                weight: random(weight, sizes.weights()),
                bias: random(bias, sizes.bias.unwrap_or(0)),
                per_moment: false,
            }
        };
        let parameters = graph.nodes().iter().enumerate().map(of_node).collect();
        let trained = Network::trained(graph, parameters);
        let schedules = schedules(&[1, 3]);
        let fused = fuse(fold(&trained, &schedules.concat()).unwrap()).unwrap();
        let file = write(&ModelSource {
            graph: &fused.graph,
            plan: &plan(&fused.graph, 4),
            schedules: &schedules,
            parameters: &fused.single(),
            weights: Dtype::F32,
            provenance: "",
        });
        let differences = verify(&trained, &fused, &file.unwrap(), Dtype::F32, &schedules).unwrap();
        assert!(differences.iter().all(|d| d.folding < 1e-12 && d.runtime < 1e-5), "{differences:?}");
        fused.graph.into_nodes().into_iter().map(|node| (node.name, node.op)).collect()
    }

    fn names(nodes: &[(String, Op)]) -> Vec<&str> {
        nodes.iter().map(|(name, _)| name.as_str()).collect()
    }

    fn conv(residual: Option<f32>) -> Op {
        Op::Conv2d { out: 4, kernel: 3, bias: true, residual, method: Method::Direct }
    }

    const X: Shape = Shape::new(4, 6, 5);

    #[test]
    fn a_constant_goes_into_the_bias_and_a_sum_into_the_residual() {
        let mut g = Builder::new();
        let x = g.image(X);
        let t = g.time(Time::From);
        let e = g.linear("linear", t, 4);
        let unbiased = Op::Conv2d { out: 4, kernel: 3, bias: false, residual: None, method: Method::Direct };
        let h = g.push("first", unbiased, &[x]);
        let h = g.add("shift", h, e, 0.5);
        let h = g.conv2d("second", h, 4, 3);
        g.add("sum", h, x, 0.7);
        let nodes = exported(g);
        assert_eq!(names(&nodes), ["image", "first", "second"]);
        assert_eq!((nodes[1].1, nodes[2].1), (conv(None), conv(Some(0.7))));
    }

    #[test]
    fn of_two_convolutions_the_later_one_takes_the_sum() {
        for swapped in [false, true] {
            let mut g = Builder::new();
            let x = g.image(X);
            let a = g.conv2d("a", x, 4, 3);
            let b = g.conv2d("b", x, 4, 3);
            if swapped {
                g.add("sum", b, a, 0.5)
            } else {
                g.add("sum", a, b, 0.5)
            };
            let nodes = exported(g);
            assert_eq!(names(&nodes), ["image", "a", "b"]);
            assert_eq!(nodes[2].1, conv(Some(0.5)));
        }
    }

    #[test]
    fn a_convolution_moves_to_its_sum() {
        let mut g = Builder::new();
        let x = g.image(X);
        let a = g.conv2d("a", x, 4, 3);
        let b = g.silu("b", x);
        g.add("sum", a, b, 0.5);
        let nodes = exported(g);
        // The residual would be the convolution's own input if the sum were of x.
        assert_eq!(names(&nodes), ["image", "b", "a"]);
    }

    #[test]
    fn what_somebody_else_reads_stays() {
        let mut g = Builder::new();
        let x = g.image(X);
        let h = g.conv2d("conv", x, 4, 3);
        let t = g.time(Time::To);
        let e = g.linear("linear", t, 4);
        let shifted = g.add("shift", h, e, 1.0);
        let norm = g.group_norm("norm", shifted, 1e-6, false);
        let silu = g.silu("silu", norm);
        let y = g.add("sum", norm, silu, 1.0);
        let y = g.add("again", y, h, 0.5);
        let y = g.conv2d("last", y, 4, 1);
        g.silu("end", y);
        let expected = ["image", "conv", "linear", "shift", "norm", "silu", "sum", "again", "last", "end"];
        assert_eq!(names(&exported(g)), expected);
    }

    #[test]
    fn a_convolution_plus_its_own_input_stays() {
        let mut g = Builder::new();
        let x = g.image(X);
        let h = g.conv2d("conv", x, 4, 3);
        g.add("sum", h, x, 0.5);
        assert_eq!(names(&exported(g)), ["image", "conv", "sum"]);
    }

    #[test]
    fn a_vector_that_is_no_constant_stays() {
        let mut g = Builder::new();
        let x = g.image(Shape::vector(4));
        let a = g.conv2d("a", x, 4, 1);
        let t = g.time(Time::From);
        let e = g.linear("linear", t, 4);
        // The constant comes first, and is the residual of nobody.
        let sum = g.add("sum", e, a, 0.5);
        let up = g.push("up", Op::Upsample, &[sum]);
        let wide = g.conv2d("wide", up, 4, 3);
        let shifted = g.add("shift", wide, sum, 1.0);
        g.push("down", Op::Downsample, &[shifted]);
        assert_eq!(names(&exported(g)), ["image", "a", "up", "wide", "shift", "down"]);
    }

    #[test]
    fn a_norm_takes_scale_and_shift_of_a_constant() {
        let mut g = Builder::new();
        let x = g.image(X);
        let t = g.time(Time::From);
        let affine = g.linear("affine", t, 8);
        let h = g.group_norm("norm", x, 1e-5, false);
        let h = g.push("modulated", Op::ScaleShift { silu: true }, &[h, affine]);
        let class = g.push("class", Op::Class { count: 3 }, &[]);
        let of_class = g.linear("of_class", class, 8);
        let h = g.group_norm("second", h, 1e-5, false);
        g.push("last", Op::ScaleShift { silu: false }, &[h, of_class]);
        let nodes = exported(g);
        // What a class says is known when a picture is made, not before.
        assert_eq!(names(&nodes), ["image", "norm", "class", "of_class", "second", "last"]);
        assert_eq!(nodes[1].1, Op::GroupNorm { groups: 1, epsilon: 1e-5, silu: true });
    }

    #[test]
    fn a_norm_takes_the_silu_after_it() {
        let mut g = Builder::new();
        let x = g.image(X);
        let h = g.group_norm("norm", x, 1e-6, false);
        g.silu("silu", h);
        let nodes = exported(g);
        assert_eq!(names(&nodes), ["image", "norm"]);
        assert_eq!(nodes[1].1, Op::GroupNorm { groups: 1, epsilon: 1e-6, silu: true });
    }
}
