//! The engine against a naive interpreter, with arenas full of rubbish, and with hostile files.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use traflow_graph::graph::{Builder, Graph, Node};
use traflow_graph::model::{Dtype, Moment};
use traflow_graph::model::{Model, seal};
use traflow_graph::noise::Noise;
use traflow_graph::op::{Method, Op, Shape};
use traflow_graph::plan::plan;
use traflow_graph::winograd::Winograd;
use traflow_graph::write::{ModelSource, NodeParameters, write};
use traflow_runtime::{Cpu, Engine, EngineError, Isa};

/// A small U-Net with every operation that files of integers have too, and every way to reach an input: in the arena, as a constant, in
/// place and not.
fn graph() -> Graph {
    let mut g = Builder::new();
    let norm = Op::GroupNorm { groups: 3, epsilon: 1e-5, silu: true };
    let residual = |out, kernel| {
        let method = if kernel == 3 { Method::Winograd4 } else { Method::Direct };
        Op::Conv2d { out, kernel, bias: true, residual: Some(0.7), method }
    };
    let x = g.image(Shape::new(2, 6, 10));
    let time = g.push("time", Op::Constant { channels: 6 }, &[]);
    let gate = g.push("gate", Op::Constant { channels: 6 }, &[]);
    let first = g.conv2d("first", x, 6, 3);
    let h = g.add("shift", first, time, 0.9);
    let h = g.push("norm", norm, &[h]);
    let h = g.push("block", residual(6, 3), &[h, first]);
    let down = g.push("down", Op::Downsample, &[h]);
    let a = g.group_norm("norm_a", down, 1e-5, false);
    let a = g.conv2d("qkv", a, 18, 1);
    let a = g.push("attention", Op::Attention { heads: 2 }, &[a]);
    let a = g.push("proj", residual(6, 1), &[a, down]);
    let a = g.silu("silu_a", a);
    let down = g.add("sum", down, a, 0.5);
    let up = g.push("up", Op::Upsample, &[down]);
    let h = g.push("concat", Op::Concat, &[up, h]);
    let h = g.conv2d("narrow", h, 6, 1);
    let h = g.add("add_gate", h, gate, 1.0);
    let pooled = g.silu("silu", h);
    let h = g.add("twice", h, pooled, 0.5);
    let last = Op::Conv2d { out: 2, kernel: 3, bias: true, residual: None, method: Method::Winograd2 };
    let h = g.push("last", last, &[h]);
    g.push("scaled", residual(2, 1), &[h, x]);
    g.finish().unwrap()
}

/// A network whose convolutions are Winograd's, wide and deep enough for each way in which threads share them, and for channels
/// that are summed part by part.
fn third_graph() -> Graph {
    let mut g = Builder::new();
    let conv = |out, method| Op::Conv2d { out, kernel: 3, bias: true, residual: None, method };
    let x = g.image(Shape::new(3, 24, 16));
    let h = g.conv2d("first", x, 20, 3);
    let h = g.push("tiles", conv(24, Method::Winograd4), &[h]);
    let h = g.group_norm("norm", h, 1e-5, true);
    let h = g.push("more_tiles", conv(20, Method::Winograd2), &[h]);
    let down = g.push("down", Op::Downsample, &[h]);
    let down = g.push("half", Op::Downsample, &[down]);
    let wide = g.conv2d("wide", down, 136, 1);
    let wide = g.push("norm_wide", Op::GroupNorm { groups: 34, epsilon: 1e-5, silu: true }, &[wide]);
    let deep = g.push("panels", conv(40, Method::Winograd4), &[wide]);
    let deep = g.group_norm("norm_deep", deep, 1e-5, true);
    let deep = g.push("more_panels", conv(20, Method::Winograd2), &[deep]);
    let up = g.group_norm("norm_up", deep, 1e-5, true);
    let up = g.push("up", Op::Upsample, &[up]);
    let up = g.push("double", Op::Upsample, &[up]);
    g.push("last", conv(3, Method::Winograd4), &[up]);
    let graph = g.finish().unwrap();
    for node in graph.nodes() {
        if let Op::Conv2d { out, method, .. } = node.op
            && method != Method::Direct
        {
            let input = graph.input_shapes(node)[0];
            assert!(Winograd::new(method, input, out).is_some(), "{}", node.name);
        }
    }
    graph
}

/// A small network with the other operations, with a class and a norm whose scale has a row for each moment.
fn second_graph() -> Graph {
    let mut g = Builder::new();
    let x = g.image(Shape::new(4, 6, 10));
    let time = g.push("time", Op::Constant { channels: 1 }, &[]);
    let class = g.push("class", Op::Class { count: 3 }, &[]);
    let told = g.push("told", Op::Multiply, &[class, time]);
    let affine = g.linear("affine", told, 8);
    let scaled = g.push("scaled", Op::Multiply, &[x, time]);
    let h = g.push("rows", Op::GroupNorm { groups: 2, epsilon: 1e-5, silu: false }, &[scaled]);
    let h = g.push("modulated", Op::ScaleShift { silu: true }, &[h, affine]);
    let wide = g.push("wide", Op::Border { by: 2 }, &[h]);
    let wide = g.push("blur", Op::Blur { near: 0.25, far: 0.0625 }, &[wide]);
    let again = g.push("again", Op::ScaleShift { silu: false }, &[wide, affine]);
    let narrow = g.push("narrow", Op::Border { by: -2 }, &[again]);
    let h = g.add("sum", narrow, h, 0.7);
    g.conv2d("last", h, 4, 3);
    g.finish().unwrap()
}

fn schedules() -> Vec<Vec<Moment>> {
    vec![vec![Moment { t: 1.0, s: 0.0 }], vec![Moment { t: 1.0, s: 0.5 }, Moment { t: 0.5, s: 0.0 }]]
}

/// Random weights that are exact in 16 bits; `time` and one convolution have a bias for each of three moments.
fn parameters(graph: &Graph) -> Vec<NodeParameters> {
    let fill = |stream: usize, len: usize, factor: f32| -> Vec<f32> {
        let noise = Noise::stream(5, stream as u32);
        let number = |i| half::f16::from_f32(noise.uniform(i) * 2.0 - 1.0).to_f32() * factor;
        (0..len as u64).map(number).collect()
    };
    let of = |(index, node): (usize, &Node)| {
        let sizes = graph.parameters(node);
        let rows = if matches!(node.name.as_str(), "time" | "block" | "rows") { 3 } else { 1 };
        let scales = if node.name == "rows" { 3 } else { 1 };
        NodeParameters {
            weight: fill(2 * index, sizes.weights() * scales, 0.5),
            bias: fill(2 * index + 1, sizes.bias.unwrap_or(0) * rows, 1.0),
        }
    };
    graph.nodes().iter().enumerate().map(of).collect()
}

/// Bytes of a model file at an aligned address.
fn file(weights: Dtype) -> Vec<[u32; 16]> {
    file_of(&graph(), weights)
}

fn file_of(graph: &Graph, weights: Dtype) -> Vec<[u32; 16]> {
    let bytes = write(&ModelSource {
        graph,
        plan: &plan(graph, 4),
        schedules: &schedules(),
        parameters: &parameters(graph),
        weights,
        provenance: "{}",
    });
    bytemuck::pod_collect_to_vec(&bytes.unwrap())
}

/// The velocity in f64, each value in memory of its own.
fn velocity(
    graph: &Graph,
    parameters: &[NodeParameters],
    image: &[f64],
    class: Option<usize>,
    moment: usize,
) -> Vec<f64> {
    let mut values: Vec<Vec<f64>> = Vec::new();
    for (node, parameters) in graph.nodes().iter().zip(parameters) {
        let shapes = graph.input_shapes(node);
        let input = |place: usize| &values[node.inputs[place].index()];
        let Shape { height, width, .. } = node.shape;
        let (height, width, pixels) = (height as usize, width as usize, node.shape.pixels());
        let row = graph.parameters(node).bias.unwrap_or(0);
        let rows = parameters.bias.len() / row.max(1);
        let bias = |channel| match rows {
            0 => 0.0,
            1 => parameters.bias[channel] as f64,
            _ => parameters.bias[moment * row + channel] as f64,
        };
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let weights = graph.parameters(node).weights();
        let scale = |channel| match parameters.weight.len() > weights {
            true => parameters.weight[moment * weights + channel] as f64,
            false => parameters.weight[channel] as f64,
        };
        // A pixel of the first input; zero beyond its edge.
        let pixel = |channel: usize, y: isize, x: isize| {
            let Shape { height, width, .. } = shapes[0];
            let inside = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
            let place = channel as isize * shapes[0].pixels() as isize + y * width as isize + x;
            if inside { input(0)[place as usize] } else { 0.0 }
        };
        let element = |i: usize| -> f64 {
            let (channel, y, x) = (i / pixels, i % pixels / width, i % width);
            match node.op {
                Op::Image(_) => image[i],
                Op::Constant { .. } => bias(channel),
                Op::Conv2d { kernel, residual, .. } => {
                    let (kernel, channels) = (kernel as usize, shapes[0].channels as usize);
                    let mut sum = bias(channel) + residual.map_or(0.0, |r| r as f64 * input(1)[i]);
                    for tap in 0..channels * kernel * kernel {
                        let (from, ky, kx) = (tap / kernel / kernel, tap / kernel % kernel, tap % kernel);
                        let (y, x) = ((y + ky).wrapping_sub(kernel / 2), (x + kx).wrapping_sub(kernel / 2));
                        if y < height && x < width {
                            let weight = parameters.weight[channel * channels * kernel * kernel + tap] as f64;
                            sum += input(0)[from * pixels + y * width + x] * weight;
                        }
                    }
                    sum
                }
                Op::GroupNorm { groups, epsilon, silu: with_silu } => {
                    let len = node.shape.elements() / groups as usize;
                    let group = &input(0)[i / len * len..][..len];
                    let mean = group.iter().sum::<f64>() / len as f64;
                    let variance = group.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / len as f64;
                    let normal = (input(0)[i] - mean) / (variance + epsilon as f64).sqrt();
                    let x = normal * scale(channel) + bias(channel);
                    if with_silu { silu(x) } else { x }
                }
                Op::Silu => silu(input(0)[i]),
                Op::Add { scale } => {
                    let b = if shapes[1] == shapes[0] { input(1)[i] } else { input(1)[channel] };
                    (input(0)[i] + b) * scale as f64
                }
                Op::Class { .. } => f64::from(u8::from(class == Some(i))),
                Op::Multiply => input(0)[i] * input(1)[if shapes[1].channels == 1 { 0 } else { channel }],
                Op::ScaleShift { silu: with_silu } => {
                    let channels = shapes[0].channels as usize;
                    let x = input(0)[i] * (1.0 + input(1)[channel]) + input(1)[channels + channel];
                    if with_silu { silu(x) } else { x }
                }
                Op::Blur { near, far } => {
                    let taps = [far, near, 1.0 - 2.0 * near - 2.0 * far, near, far].map(f64::from);
                    let places = (0..5).flat_map(|down| (0..5).map(move |right| (down, right)));
                    let tap = |(down, right): (usize, usize)| {
                        let (y, x) = ((y + down) as isize - 2, (x + right) as isize - 2);
                        taps[down] * taps[right] * pixel(channel, y, x)
                    };
                    places.map(tap).sum()
                }
                Op::Border { by } => pixel(channel, y as isize - by as isize, x as isize - by as isize),
                Op::Concat => *input(0).iter().chain(input(1)).nth(i).unwrap(),
                Op::Downsample => {
                    let at = |dy, dx| input(0)[channel * 4 * pixels + (2 * y + dy) * 2 * width + 2 * x + dx];
                    (at(0, 0) + at(0, 1) + at(1, 0) + at(1, 1)) / 4.0
                }
                Op::Upsample => input(0)[channel * pixels / 4 + y / 2 * (width / 2) + x / 2],
                Op::Attention { heads } => {
                    let (pixel, channels) = (i % pixels, node.shape.channels as usize);
                    let of_head = channels / heads as usize;
                    let head = channel / of_head * of_head;
                    let at = |c: usize, pixel: usize| input(0)[c * pixels + pixel];
                    let score = |j| (head..head + of_head).map(|c| at(c, pixel) * at(channels + c, j)).sum();
                    let weight = |j| (f64::sqrt(of_head as f64).recip() * f64::clone(&score(j))).exp();
                    let mixed: f64 = (0..pixels).map(|j| weight(j) * at(2 * channels + channel, j)).sum();
                    mixed / (0..pixels).map(weight).sum::<f64>()
                }
                Op::Time(_) | Op::Labels { .. } | Op::Coefficient(_) | Op::Embedding { .. } => {
                    unreachable!("folded at export")
                }
            }
        };
        let value = (0..node.shape.elements()).map(element).collect();
        values.push(value);
    }
    values.pop().unwrap()
}

#[test]
fn the_engine_agrees_with_the_interpreter() {
    let schedules = schedules();
    let classes = [&[None][..], &[None, Some(0), Some(2)], &[None]];
    let graphs = [graph(), second_graph(), third_graph()].into_iter().zip(classes);
    for (dtype, (graph, classes)) in
        graphs.flat_map(|graph| [Dtype::F32, Dtype::F16].map(|d| (d, graph.clone())))
    {
        let parameters = parameters(&graph);
        let bytes = file_of(&graph, dtype);
        let model = Model::new(bytemuck::cast_slice(&bytes)).unwrap();
        let mut noise = vec![0.0; model.image().shape().elements()];
        Noise::new(7).fill(&mut noise);
        let mut arena = vec![0; Engine::arena_bytes(&model)];
        let mut engine = Engine::new(model, &mut arena).unwrap();
        for &class in classes {
            engine.set_class(class).unwrap();
            let mut first = 0;
            for schedule in &schedules {
                let mut x: Vec<f64> = noise.iter().map(|&x| x.into()).collect();
                for (moment, &Moment { t, s }) in schedule.iter().enumerate() {
                    let u = velocity(&graph, &parameters, &x, class, first + moment);
                    x.iter_mut().zip(u).for_each(|(x, u)| *x += f64::from(s - t) * u);
                }
                first += schedule.len();
                let picture = engine.generate(7, schedule.len()).unwrap().to_vec();
                assert_eq!(engine.run(&noise, schedule.len()).unwrap(), picture);
                for (picture, x) in picture.iter().zip(&x) {
                    assert!((f64::from(*picture) - x).abs() < 2e-5 * (1.0 + x.abs()), "{picture} is not {x}");
                }
            }
        }
    }
}

/// Every instruction set gives about the same picture, and any number of threads the same bits.
#[test]
fn instruction_sets_and_threads_agree() {
    [graph(), third_graph()].iter().for_each(agree);
}

fn agree(graph: &Graph) {
    let bytes = file_of(graph, Dtype::F16);
    let model = Model::new(bytemuck::cast_slice(&bytes)).unwrap();
    let run = |cpu| {
        let mut arena = vec![0xff; Engine::arena_bytes(&model)];
        Engine::on(cpu, model, &mut arena).unwrap().generate(3, 2).unwrap().to_vec()
    };
    let expected = run(Cpu::new(Isa::SCALAR));
    for isa in Isa::all() {
        let one = run(Cpu::new(isa));
        for (x, expected) in one.iter().zip(&expected) {
            assert!((x - expected).abs() < 2e-5 * (1.0 + expected.abs()), "{isa}: {x} is not {expected}");
        }
        #[cfg(feature = "threads")]
        for threads in [2, 3, 8] {
            assert_eq!(run(Cpu::with_threads(isa, threads).unwrap()), one, "{isa}, {threads} threads");
        }
    }
}

#[test]
fn the_arena_may_hold_anything_and_lie_anywhere() {
    let bytes = file(Dtype::F16);
    let model = Model::new(bytemuck::cast_slice(&bytes)).unwrap();
    let size = model.arena_bytes();
    // 0xff in every byte is NaN in every element.
    let mut memory = vec![0xff_u8; size + 4096];
    let aligned = memory.as_ptr().align_offset(64) + 64;
    let expected = Engine::new(model, &mut vec![0; size + 63]).unwrap().generate(3, 2).unwrap().to_vec();
    for skip in [0, 1, 3, 17, 63] {
        memory.fill(0xff);
        let arena = &mut memory[aligned + 64 - skip..][..size + skip];
        assert_eq!(Engine::new(model, arena).unwrap().generate(3, 2).unwrap(), expected);
        let touched = |byte: &u8| *byte != 0xff;
        assert_eq!(memory.iter().position(touched), Some(aligned + 64));
        let last = memory.iter().rposition(touched).unwrap();
        assert!(last < aligned + 64 + size, "{last}");
        // The scratch memory at the end is used to its last block.
        assert!(last + 64 >= aligned + 64 + size, "{last}");

        let short = &mut memory[aligned + 64 - skip..][..size + skip - 1];
        let error = Engine::new(model, short).unwrap_err();
        assert_eq!(error, EngineError::Arena { needed: size + skip, found: size + skip - 1 });
    }
}

#[test]
fn wrong_calls_say_what_is_right() {
    let bytes = file(Dtype::F32);
    let model = Model::new(bytemuck::cast_slice(&bytes)).unwrap();
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    let error = engine.generate(7, 3).unwrap_err();
    assert_eq!(error.to_string(), "the model has no schedule of 3 steps, it has 1, 2");
    let error = engine.set_class(Some(1)).unwrap_err();
    assert_eq!(error.to_string(), "the model has 0 classes, and none of the number 1");
    let error = engine.run(&[0.0; 5], 1).unwrap_err();
    assert_eq!(error.to_string(), "the noise has 5 elements, the picture 120");
}

/// Files with one to three changed bytes, as someone would send them who also corrects the checksum.
#[test]
fn hostile_files_are_errors_or_run() {
    let originals =
        [file(Dtype::F16), file_of(&second_graph(), Dtype::F16), file_of(&third_graph(), Dtype::F16)];
    let size = |file: &[[u32; 16]]| Model::new(bytemuck::cast_slice(file)).unwrap().arena_bytes();
    let mut arena = vec![0; 4 * originals.iter().map(|file| size(file)).max().unwrap()];
    let random = Noise::new(12);
    let mut ran = 0;
    for round in 0..10_000u64 {
        let mut blocks = originals[round as usize / 2 % originals.len()].clone();
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut blocks);
        let span = if round % 2 == 0 { bytes.len() } else { bytes.len().min(2000) };
        for change in 0..=round % 3 {
            let place = random.word(8 * round + 2 * change) as usize % span;
            bytes[place] = random.word(8 * round + 2 * change + 1) as u8;
        }
        seal(bytes);
        let Ok(model) = Model::new(bytes) else { continue };
        let Ok(mut engine) = Engine::new(model, &mut arena) else { continue };
        assert!(engine.set_class(model.classes().checked_sub(1)).is_ok());
        for steps in model.steps().take(2) {
            assert!(engine.generate(round, steps).is_ok());
            ran += 1;
        }
    }
    assert!(ran > 1000, "{ran}");
}
