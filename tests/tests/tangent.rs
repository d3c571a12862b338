//! Burn's tangent of each operation is the finite difference of the export's interpreter in f64, and gradients go through it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use burn::tensor::{Device, Tensor, TensorData};
use traflow_export::network::{Network as Reference, Parameters};
use traflow_export::reference::{Inputs, evaluate};
use traflow_graph::coefficient::{Coefficient, Head, Level};
use traflow_graph::graph::{Builder, Graph, Value};
use traflow_graph::model::Moment;
use traflow_graph::noise::Noise;
use traflow_graph::op::{Embedding, Method, Op, Shape, Time};
use traflow_graph::unet::{Architecture, SConditioning, Unet};
use traflow_trainer::network::{Direction, Dropout, Network, Times};

const SHAPE: Shape = Shape::new(6, 4, 4);

/// Where the tangent is taken, numbers that f32 holds exactly, and the direction of the times.
const T: f32 = 0.75;
const S: f32 = 0.375;
const DT: f32 = 1.0;
const DS: f32 = -0.5;

fn random(stream: u32, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Noise::stream(3, stream).fill(&mut values);
    values
}

/// A picture to which both times were added, so that everything after it moves.
fn base(g: &mut Builder) -> Value {
    let (mut x, t, s) = (g.image(SHAPE), g.time(Time::From), g.time(Time::To));
    for (name, time) in [("from", t), ("to", s)] {
        let vector = g.linear(name, time, SHAPE.channels);
        x = g.add(&format!("add_{name}"), x, vector, 0.75);
    }
    x
}

/// A graph for each operation.
fn graphs() -> Vec<(&'static str, Graph)> {
    let conv = |kernel, bias, residual| Op::Conv2d { out: 6, kernel, bias, residual, method: Method::Direct };
    let norm = |silu| Op::GroupNorm { groups: 2, epsilon: 1e-3, silu };
    let mut graphs = Vec::new();
    let mut graph = |name, build: &dyn Fn(&mut Builder, Value)| {
        let mut g = Builder::new();
        let x = base(&mut g);
        build(&mut g, x);
        graphs.push((name, g.finish().unwrap()));
    };
    graph("image, times, add", &|_, _| ());
    graph("convolution 3×3", &|g, x| {
        g.push("op", conv(3, true, None), &[x]);
    });
    graph("convolution 1×1 without bias", &|g, x| {
        g.push("op", conv(1, false, None), &[x]);
    });
    graph("convolution with residual", &|g, x| {
        let y = g.silu("other", x);
        g.push("op", conv(3, true, Some(0.5)), &[x, y]);
    });
    graph("group norm", &|g, x| {
        g.push("op", norm(false), &[x]);
    });
    graph("group norm and SiLU", &|g, x| {
        g.push("op", norm(true), &[x]);
    });
    graph("SiLU", &|g, x| {
        g.silu("op", x);
    });
    graph("concat", &|g, x| {
        let y = g.conv2d("other", x, 3, 1);
        g.push("op", Op::Concat, &[x, y]);
    });
    graph("downsample", &|g, x| {
        g.push("op", Op::Downsample, &[x]);
    });
    graph("upsample", &|g, x| {
        g.push("op", Op::Upsample, &[x]);
    });
    for heads in [1, 2] {
        graph("attention", &|g, x| {
            let qkv = g.conv2d("qkv", x, 12, 1);
            g.push("op", Op::Attention { heads }, &[qkv]);
        });
    }
    for kind in [Embedding::Positional, Embedding::CosineFirst] {
        graph("embedding", &|g, x| {
            let time = g.linear("time", Value(1), 1);
            let e = g.push("op", Op::Embedding { channels: 8, kind }, &[time]);
            let e = g.linear("vector", e, 6);
            g.add("sum", x, e, 1.0);
        });
    }
    for coefficient in [Coefficient::Level(Level::Edm), Coefficient::Skip(Head::Edm)] {
        graph("coefficient", &|g, x| {
            let number = g.push("op", Op::Coefficient(coefficient), &[Value(1)]);
            let vector = g.linear("vector", number, 6);
            g.add("sum", x, vector, 1.0);
        });
    }
    graph("span", &|g, x| {
        let span = g.time(Time::Span);
        let vector = g.linear("vector", span, 6);
        g.add("sum", x, vector, 1.0);
    });
    graph("multiply", &|g, x| {
        let vector = g.linear("vector", Value(1), 6);
        g.push("op", Op::Multiply, &[x, vector]);
    });
    for silu in [false, true] {
        graph("scale and shift", &|g, x| {
            let vector = g.linear("vector", Value(1), 12);
            g.push("op", Op::ScaleShift { silu }, &[x, vector]);
        });
    }
    graph("blur", &|g, x| {
        g.push("op", Op::Blur { near: 0.25, far: 0.0625 }, &[x]);
    });
    graph("border", &|g, x| {
        g.push("op", Op::Border { by: 1 }, &[x]);
    });
    graph("what stands still", &|g, x| {
        let labels = g.push("labels", Op::Labels { count: 3 }, &[]);
        let labels = g.linear("of_labels", labels, 6);
        let class = g.push("class", Op::Class { count: 2 }, &[]);
        let class = g.linear("of_class", class, 6);
        let labels = g.add("both", labels, class, 1.0);
        let constant = g.push("constant", Op::Constant { channels: 6 }, &[]);
        let still = g.add("still", labels, constant, 1.0);
        g.add("sum", x, still, 1.0);
    });
    graphs
}

/// The place of an operation among all: one that is added asks for a graph above.
fn place(op: Op) -> usize {
    match op {
        Op::Image(_) => 0,
        Op::Time(_) => 1,
        Op::Labels { .. } => 2,
        Op::Constant { .. } => 3,
        Op::Embedding { .. } => 4,
        Op::Conv2d { .. } => 5,
        Op::GroupNorm { .. } => 6,
        Op::Silu => 7,
        Op::Add { .. } => 8,
        Op::Concat => 9,
        Op::Downsample => 10,
        Op::Upsample => 11,
        Op::Attention { .. } => 12,
        Op::Class { .. } => 13,
        Op::Coefficient(_) => 14,
        Op::Multiply => 15,
        Op::ScaleShift { .. } => 16,
        Op::Blur { .. } => 17,
        Op::Border { .. } => 18,
    }
}

/// A network with random parameters; an embedding's angle stays small enough for f32 to hold it.
fn network(graph: Graph) -> Network {
    let mut stream = 10;
    let network = Network::new::<()>(graph, &Device::flex(), |name, [out, input, k, _]| {
        stream += 1;
        let values = random(stream, out * input * k * k);
        let scale = ((input * k * k) as f32).sqrt().recip();
        Ok(match name {
            "time.weight" => vec![0.25],
            "time.bias" => vec![0.125],
            _ if name.contains("norm") || name.starts_with("op.weight") && input == 1 => {
                values.iter().map(|x| 1.0 + 0.3 * x).collect()
            }
            _ => values.iter().map(|x| scale * x).collect(),
        })
    });
    network.unwrap()
}

/// The same network in f64, its parameters moved by `step` along those of `direction`.
fn reference(network: &Network, direction: &[Vec<f32>], step: f64) -> Reference {
    let graph = network.graph().clone();
    let mut values = network.parameters.iter().zip(direction).map(|(parameter, direction)| {
        let value = parameter.value.clone().try_into_vec_as::<f32>().unwrap();
        let moved = value.iter().zip(direction).map(|(v, d)| f64::from(*v) + step * f64::from(*d));
        moved.collect::<Vec<f64>>()
    });
    let mut parameters = Vec::new();
    for node in graph.nodes() {
        let sizes = graph.parameters(node);
        let mut of_node = Parameters::default();
        if sizes.weight.is_some() {
            of_node.weight = values.next().unwrap();
        }
        if sizes.bias.is_some() {
            of_node.bias = values.next().unwrap();
        }
        parameters.push(of_node);
    }
    Reference::trained(graph, parameters)
}

/// The derivative of the reference along the direction of its inputs, by a difference of fourth order.
fn difference(network: &Reference, image: &[f32], direction: &[f32]) -> Vec<f64> {
    let h = 2f32.powi(-19);
    let at = |k: f32| {
        let moved =
            image.iter().zip(direction).map(|(x, d)| f64::from(*x) + f64::from(k * h) * f64::from(*d));
        let image: Vec<f64> = moved.collect();
        let inputs = Inputs {
            image: &image,
            moment: Moment { t: T + k * h * DT, s: S + k * h * DS },
            row: 0,
            class: None,
        };
        evaluate(network, &inputs, &vec![true; network.parameters.len()]).pop().unwrap()
    };
    let [a, b, c, d] = [-2.0, -1.0, 1.0, 2.0].map(at);
    let stencil = |i: usize| (8.0 * (c[i] - b[i]) - (d[i] - a[i])) / (12.0 * f64::from(h));
    (0..a.len()).map(stencil).collect()
}

/// The tangent by Burn, for a batch of one picture.
fn tangent(network: &Network, image: &[f32], direction: &[f32]) -> Tensor<4> {
    let device = network.device();
    let picture = |values: &[f32]| {
        let Shape { channels, height, width } = network.graph().image().unwrap();
        let dimensions = [1, channels.into(), height.into(), width.into()];
        Tensor::from_data(TensorData::new(values.to_vec(), dimensions), &device)
    };
    let time = |t: f32| Tensor::<1>::from_floats([t], &device);
    let along = Direction { x: Some(picture(direction)), t: Some(time(DT)), s: Some(time(DS)) };
    let (value, tangent) = network.tangent(picture(image), &Times { t: time(T), s: time(S) }, &along);
    let forward = network.forward(picture(image), &Times { t: time(T), s: time(S) });
    assert_eq!((value - forward).abs().max().into_scalar::<f32>(), 0.0);
    tangent
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// Relative errors of the tangent, and of its gradient along a direction of the parameters.
fn errors(network: &Network) -> (f64, f64) {
    let elements = network.graph().image().unwrap().elements();
    let (image, direction) = (random(0, elements), random(1, elements));
    let along: Vec<Vec<f32>> = (100..)
        .zip(&network.parameters)
        .map(|(stream, parameter)| {
            let mut along = random(stream, parameter.value.dims().iter().product());
            // An embedding multiplies it by 999.
            let scale = if parameter.name.starts_with("time") { 1e-3 } else { 1.0 };
            along.iter_mut().for_each(|x| *x *= scale);
            along
        })
        .collect();

    let expected = difference(&reference(network, &along, 0.0), &image, &direction);
    let found = tangent(network, &image, &direction).try_into_vec_as::<f32>().unwrap();
    let wrong = norm(found.iter().zip(&expected).map(|(a, b)| f64::from(*a) - b));
    let value = wrong / norm(expected.iter().copied());

    // The gradient of Σ w ∂u, and the difference of the same sum.
    let upstream = random(2, expected.len());
    let sum = |step: f64| -> f64 {
        let du = difference(&reference(network, &along, step), &image, &direction);
        du.iter().zip(&upstream).map(|(du, w)| du * f64::from(*w)).sum()
    };
    let e = 1e-3;
    let expected = (8.0 * (sum(e) - sum(-e)) - (sum(2.0 * e) - sum(-2.0 * e))) / (12.0 * e);
    let tracked = network.tracked();
    let du = tangent(&tracked, &image, &direction);
    let w = Tensor::<4>::from_data(TensorData::new(upstream, du.dims()), &Device::flex().autodiff());
    let gradients = tracked.gradients(&(du * w).sum().backward());
    let products = gradients.into_iter().zip(&along).filter_map(|(gradient, along)| {
        let gradient = gradient?.try_into_vec_as::<f32>().unwrap();
        Some(gradient.into_iter().zip(along).map(|(g, d)| f64::from(g) * f64::from(*d)).collect::<Vec<f64>>())
    });
    let products = products.flatten().collect::<Vec<f64>>();
    let scale = norm(products.iter().copied());
    (value, (products.iter().sum::<f64>() - expected).abs() / scale)
}

#[test]
fn the_tangent_of_each_operation_is_its_derivative() {
    let mut seen = [false; 19];
    for (name, graph) in graphs() {
        graph.nodes().iter().for_each(|node| seen[place(node.op)] = true);
        let (value, gradient) = errors(&network(graph));
        println!("{name}: {value:.1e}, gradient {gradient:.1e}");
        assert!(value < 1e-6, "{name}: {value:e}");
        assert!(gradient < 1e-6, "{name}: gradient {gradient:e}");
    }
    assert_eq!(seen, [true; 19]);
}

#[test]
fn the_tangent_of_a_network_is_its_derivative() {
    let unet = Unet {
        architecture: Architecture::Ddpmpp,
        image: [1, 8, 8],
        base: 8,
        mult: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        augment_labels: 2,
        s_conditioning: SConditioning::TiedMean,
        ..Unet::default()
    };
    let (value, gradient) = errors(&network(unet.graph().unwrap()));
    println!("network: {value:.1e}, gradient {gradient:.1e}");
    assert!(value < 1e-5, "{value:e}");
    assert!(gradient < 1e-5, "gradient {gradient:e}");
}

#[test]
fn dropout_is_that_of_the_value() {
    let mut g = Builder::new();
    let x = base(&mut g);
    g.group_norm("block.norm1", x, 1e-3, true);
    let whole = network(g.finish().unwrap());
    let dropped = whole.with_dropout(Dropout { rate: 0.5, seed: 1, first: 7 });
    let elements = SHAPE.elements();
    let (image, direction) = (random(0, elements), random(1, elements));
    let [all, some] = [&whole, &dropped].map(|network| tangent(network, &image, &direction));
    // What is kept is divided by the part that is.
    let ratio = (some / all).try_into_vec_as::<f32>().unwrap();
    let kept = ratio.iter().filter(|&&ratio| (ratio - 2.0).abs() < 1e-5).count();
    let zero = ratio.iter().filter(|&&ratio| ratio == 0.0).count();
    assert_eq!(kept + zero, elements);
    assert!(kept > elements / 4 && zero > elements / 4, "{kept} of {elements} are kept");
}
