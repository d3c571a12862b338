//! Model files of integers: what was written is read, and what is damaged is an error or harmless.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use traflow_graph::graph::{Builder, Graph};
use traflow_graph::model::{Dtype, Model, Moment, seal};
use traflow_graph::noise::Noise;
use traflow_graph::op::{Method, Op, Shape};
use traflow_graph::plan::plan_integers;
use traflow_graph::quant::{Integers, QUAD, TABLE, panel_index, wide};
use traflow_graph::write::{IntegerNode, IntegerSource, write_integers};

/// A small network with every operation of the format.
fn graph() -> Graph {
    let mut g = Builder::new();
    let x = g.image(Shape::new(2, 4, 4));
    let time = g.push("time", Op::Constant { channels: 7 }, &[]);
    let h = g.conv2d("conv", x, 7, 3);
    let h = g.add("shift", h, time, 1.0);
    let h = g.push("norm", Op::GroupNorm { groups: 1, epsilon: 1e-6, silu: true }, &[h]);
    let a = g.conv2d("qkv", h, 21, 1);
    let a = g.push("attention", Op::Attention { heads: 7 }, &[a]);
    let residual = Op::Conv2d { out: 8, kernel: 1, bias: false, residual: None, method: Method::Direct };
    let h = g.push("proj", residual, &[a]);
    let down = g.push("down", Op::Downsample, &[h]);
    let down = g.silu("silu", down);
    let up = g.push("up", Op::Upsample, &[down]);
    let h = g.push("concat", Op::Concat, &[up, h]);
    let y = g.conv2d("out", h, 2, 3);
    g.push(
        "last",
        Op::Conv2d { out: 2, kernel: 1, bias: true, residual: Some(1.0), method: Method::Direct },
        &[h, y],
    );
    g.finish().unwrap()
}

fn schedules() -> Vec<Vec<Moment>> {
    vec![vec![Moment { t: 1.0, s: 0.0 }], vec![Moment { t: 1.0, s: 0.5 }, Moment { t: 0.5, s: 0.0 }]]
}

fn row(graph: &Graph, index: usize, moment: usize) -> Vec<u32> {
    let node = &graph.nodes()[index];
    let channels = usize::from(node.shape.channels);
    let bias = vec![wide(-5 << 20); channels];
    let factors = vec![1 << 20; channels];
    let two_parts: &[i32] = if node.name == "out" { &factors } else { &[] };
    let split = node.inputs.first().map_or(0, |input| graph.nodes()[input.index()].shape.channels);
    let integers = match node.op {
        Op::Image(_) => Integers::Image { shift: 20, factor: -(1 << 20) },
        Op::Constant { .. } => Integers::Constant { value: &[moment as i16, 1, 2, 3, 4, 5, -6, 0] },
        Op::Conv2d { residual, .. } => Integers::Conv2d {
            shift: 30,
            residual: if residual.is_some() { 1 << 20 } else { 0 },
            split: if two_parts.is_empty() { split.into() } else { 8 },
            zeros: if matches!(node.name.as_str(), "conv" | "proj") { [0; 2] } else { [3, 0] },
            bias: &bias,
            factors: [&factors, two_parts],
        },
        Op::GroupNorm { .. } => Integers::GroupNorm {
            gain_shift: 20,
            epsilon: &[wide(9)],
            bias: &bias,
            gain: &factors,
            table: &[[1; TABLE - 1].as_slice(), &[0]].concat(),
        },
        Op::Silu => {
            let table = [[1; TABLE - 1].as_slice(), &[0]].concat();
            return Integers::Silu { factor: 5, bias: 6, table: &table }.encode();
        }
        Op::Add { .. } => Integers::Add { shift: 20, factors: [1 << 19, 3], bias: 1 << 19 },
        Op::Concat => Integers::Concat { shift: 20, factors: [1 << 20; 2], biases: [1 << 19; 2] },
        Op::Downsample => Integers::Downsample { shift: 20, factor: 1 << 18, bias: 1 << 19 },
        Op::Attention { .. } => {
            Integers::Attention { exponent: 77, exponent_shift: 3, shift: 40, factor: 1 << 17, bias: 9 }
        }
        _ => Integers::Upsample,
    };
    integers.encode()
}

fn nodes(graph: &Graph) -> Vec<IntegerNode> {
    let of = |index: usize| {
        let node = &graph.nodes()[index];
        let weights = graph.parameters(node).weight.filter(|_| matches!(node.op, Op::Conv2d { .. }));
        let noise = Noise::stream(3, index as u32);
        let rows = match node.op {
            Op::Upsample => vec![],
            Op::Constant { .. } | Op::Image(_) => (0..3).map(|moment| row(graph, index, moment)).collect(),
            _ => vec![row(graph, index, 0)],
        };
        IntegerNode {
            weight: (0..weights.map_or(0, |w| w.iter().product()))
                .map(|i| noise.word(i as u64) as i8)
                .collect(),
            rows,
            wide: matches!(node.name.as_str(), "image" | "time" | "attention" | "last"),
            two_parts: node.name == "out",
            digest: index as u32,
        }
    };
    (0..graph.nodes().len()).map(of).collect()
}

fn with(change: &dyn Fn(&mut Vec<IntegerNode>)) -> Result<Vec<u8>, String> {
    let (graph, schedules) = (graph(), schedules());
    let mut nodes = nodes(&graph);
    let wide: Vec<bool> = nodes.iter().map(|node| node.wide).collect();
    let plan = plan_integers(&graph, &wide);
    change(&mut nodes);
    let source =
        IntegerSource { graph: &graph, plan: &plan, schedules: &schedules, nodes: &nodes, provenance: "{}" };
    write_integers(&source).map_err(|error| error.to_string())
}

/// Bytes at an aligned address.
fn aligned(bytes: &[u8]) -> Vec<[u32; 16]> {
    let mut blocks = vec![[0; 16]; bytes.len().div_ceil(64)];
    bytemuck::cast_slice_mut(&mut blocks)[..bytes.len()].copy_from_slice(bytes);
    blocks
}

#[test]
fn what_was_written_is_read() {
    let (graph, bytes) = (graph(), aligned(&with(&|_| {}).unwrap()));
    let model = Model::new(bytemuck::cast_slice(&bytes)).unwrap();
    assert_eq!((model.weights(), model.moments()), (Dtype::I8, 3));
    for (index, (node, written)) in model.nodes().zip(nodes(&graph)).enumerate() {
        assert_eq!((node.op(), node.is_wide(), node.digest()), {
            let digest = (written.digest != 0).then_some(written.digest);
            (graph.nodes()[index].op, written.wide, digest)
        });
        assert_eq!(
            (node.has_two_parts(), node.element_bytes()),
            (written.two_parts, 1 << usize::from(written.wide))
        );
        for moment in 0..3 {
            let expected = row(&graph, index, if node.bias_rows() == 3 { moment } else { 0 });
            assert_eq!(node.integers(moment).unwrap().encode(), expected, "{}", node.name());
        }
        let Some([outs, channels, height, width]) =
            node.parameters().weight.filter(|_| !written.weight.is_empty())
        else {
            assert!(node.panels().is_empty());
            continue;
        };
        let taps = height * width;
        for (i, &weight) in written.weight.iter().enumerate() {
            let place = [i / taps / channels, i / taps % channels, i % taps];
            assert_eq!(node.panels()[panel_index([outs, channels, taps], place)], weight);
        }
        assert_eq!(node.panels().len(), outs * taps * channels.next_multiple_of(QUAD));
        // Nothing of a network of floating point.
        assert!(node.bias(0).is_empty());
    }
    assert_eq!(model.output().name(), "last");
}

#[test]
fn bounds_are_checked() {
    let error = |name: &str, change: &dyn Fn(&mut IntegerNode)| {
        let index = graph().nodes().iter().position(|node| node.name == name).unwrap();
        with(&|nodes| change(&mut nodes[index])).unwrap_err()
    };
    let broken = |name: &str, index: usize| {
        format!(
            "the file would not be a model: node {index} ({name}): its integers break a bound of the arithmetic"
        )
    };
    // Shifts of no place and of too many; a zero point of a wide input; a split inside a quad; a picture of 8 bits.
    assert_eq!(error("conv", &|node| node.rows[0][0] = 0), broken("conv", 2));
    assert_eq!(error("conv", &|node| node.rows[0][0] = 63), broken("conv", 2));
    assert_eq!(error("conv", &|node| node.rows[0][3] = 1), broken("conv", 2));
    assert_eq!(error("out", &|node| node.rows[0][2] = 6), broken("out", 12));
    assert_eq!(error("image", &|node| node.wide = false), broken("image", 0));
    // A residual where there is none; a bias that overflows; an epsilon of zero; an entry beyond the output's range.
    assert_eq!(error("conv", &|node| node.rows[0][1] = 1), broken("conv", 2));
    assert_eq!(error("conv", &|node| node.rows[0][6] = i32::MAX as u32), broken("conv", 2));
    assert_eq!(error("norm", &|node| node.rows[0][1..3].fill(0)), broken("norm", 4));
    assert_eq!(error("silu", &|node| node.rows[0][9] = 20_000), broken("silu", 9));
    assert_eq!(error("attention", &|node| node.rows[0][0] = u32::MAX), broken("attention", 6));
    assert_eq!(error("qkv", &|node| node.wide = true), broken("attention", 6));
    let rows = error("shift", &|node| node.rows.extend(node.rows.clone()));
    assert!(
        rows.ends_with("node 3 (shift): its bias has 2 rows, neither one nor one for each moment"),
        "{rows}"
    );
    let weight = error("conv", &|node| _ = node.weight.pop());
    assert_eq!(weight, "node 2 (conv): its weight has 125 elements where its shape gives 126");
}

#[test]
fn every_truncation_is_an_error() {
    let file = with(&|_| {}).unwrap();
    let bytes = aligned(&file);
    for len in 0..file.len() {
        assert!(Model::new(&bytemuck::cast_slice(&bytes)[..len]).is_err(), "{len} bytes");
    }
}

#[test]
fn changed_bytes_are_errors_or_harmless() {
    let original = aligned(&with(&|_| {}).unwrap());
    let len = original.len() * 64;
    let random = Noise::new(3);
    let mut accepted = 0;
    for round in 0..10_000u64 {
        let mut blocks = original.clone();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut blocks);
        // Half of the changes go to the header and the records, where they matter most.
        let span = if round % 2 == 0 { len } else { 1200 };
        let at = random.word(2 * round) as usize % span;
        bytes[at] ^= (random.word(2 * round + 1) % 255 + 1) as u8;
        assert!(Model::new(bytes).is_err(), "byte {at}");
        seal(bytes);
        let Ok(model) = Model::new(bytes) else { continue };
        accepted += 1;
        for node in model.nodes() {
            assert!((0..model.moments()).all(|moment| node.integers(moment).is_some()));
            let bytes = node.shape().elements() * node.element_bytes();
            assert!(node.offset().is_none_or(|at| at + bytes <= model.arena_bytes()));
            assert!(node.scratch().end <= model.arena_bytes());
        }
    }
    assert!((1000..9000).contains(&accepted), "{accepted}");
}
