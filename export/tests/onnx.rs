//! ONNX files say what the network computes: they are read back and run by the definitions of ONNX's operators.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{checkpoint, unet};
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::{Message, ModelProto, NodeProto, TensorProto};
use traflow_export::onnx::{self, OPSET};
use traflow_graph::checkpoint::{Checkpoint, Role};
use traflow_graph::coefficient::{Head, Level};
use traflow_graph::unet::{Architecture, Encoder, Unet, Variant};

/// A tensor in row-major order.
#[derive(Clone, Debug)]
struct Array {
    dims: Vec<usize>,
    data: Vec<f64>,
}

impl Array {
    fn of(tensor: &TensorProto) -> Self {
        let dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
        let data: Vec<f64> = match tensor.data_type {
            t if t == DataType::FLOAT as i32 => {
                tensor.raw_data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect()
            }
            t if t == DataType::INT64 as i32 => {
                tensor.raw_data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f64).collect()
            }
            other => panic!("{}: type {other}", tensor.name),
        };
        assert_eq!(dims.iter().product::<usize>(), data.len(), "{}", tensor.name);
        Self { dims, data }
    }

    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { dims: self.dims.clone(), data: self.data.iter().map(|&x| f(x)).collect() }
    }

    /// Element by element; `other` is broadcast to this shape.
    fn zip(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        let missing = self.dims.len() - other.dims.len();
        let at = |mut i: usize| {
            let (mut place, mut stride) = (0, 1);
            for (axis, &size) in self.dims.iter().enumerate().rev() {
                let index = i % size;
                i /= size;
                if axis >= missing {
                    let of_other = other.dims[axis - missing];
                    assert!(of_other == size || of_other == 1, "{:?} and {:?}", self.dims, other.dims);
                    place += index % of_other * stride;
                    stride *= of_other;
                }
            }
            place
        };
        let data = self.data.iter().enumerate().map(|(i, &x)| f(x, other.data[at(i)])).collect();
        Self { dims: self.dims.clone(), data }
    }

    /// Number of matrices, rows, columns of the last two dimensions.
    fn matrices(&self) -> (usize, usize, usize) {
        let [.., rows, columns] = self.dims[..] else { panic!("{:?}", self.dims) };
        (self.data.len() / (rows * columns), rows, columns)
    }
}

fn ints(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    node.attribute.iter().find(|a| a.name == name).map(|a| a.ints.clone())
}

fn text<'a>(node: &'a NodeProto, name: &str) -> &'a [u8] {
    node.attribute.iter().find(|a| a.name == name).map_or(b"", |a| &a.s)
}

/// Each group of output channels reads its group of input channels.
fn conv(x: &Array, weight: &Array, bias: Option<&&Array>, pads: &[i64], groups: usize) -> Array {
    let ([_, channels, height, width], [out, input, kernel, _]) = (four(x), four(weight));
    assert_eq!((pads, channels), (&[(kernel / 2) as i64; 4][..], input * groups));
    let mut data = Vec::new();
    for (o, row, column) in places(out, height, width) {
        let mut sum = bias.map_or(0.0, |bias| bias.data[o]);
        let first = o / (out / groups) * input;
        for (i, ky, kx) in places(input, kernel, kernel) {
            let (y, x_) = (row + ky, column + kx);
            // The border of zeros.
            if y >= kernel / 2 && x_ >= kernel / 2 && y - kernel / 2 < height && x_ - kernel / 2 < width {
                let pixel = ((first + i) * height + y - kernel / 2) * width + x_ - kernel / 2;
                sum += x.data[pixel] * weight.data[((o * input + i) * kernel + ky) * kernel + kx];
            }
        }
        data.push(sum);
    }
    Array { dims: vec![1, out, height, width], data }
}

fn four(x: &Array) -> [usize; 4] {
    x.dims[..].try_into().unwrap()
}

fn places(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a * b * c).map(move |i| (i / (b * c), i / c % b, i % c))
}

fn instance_norm(x: &Array, scale: &Array, shift: &Array, epsilon: f64) -> Array {
    let (channels, mut y) = (x.dims[1], x.clone());
    let len = y.data.len() / channels;
    for (channel, values) in y.data.chunks_exact_mut(len).enumerate() {
        let mean = values.iter().sum::<f64>() / len as f64;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / len as f64;
        let factor = scale.data[channel] / (variance + epsilon).sqrt();
        values.iter_mut().for_each(|x| *x = (*x - mean) * factor + shift.data[channel]);
    }
    y
}

/// `factor` times smaller where it is `down`, else larger.
fn resample(x: &Array, down: bool) -> Array {
    let [_, channels, height, width] = four(x);
    let (h, w) = if down { (height / 2, width / 2) } else { (height * 2, width * 2) };
    let at = |c: usize, row: usize, column: usize| x.data[(c * height + row) * width + column];
    let data = places(channels, h, w).map(|(c, row, column)| match down {
        true => places(1, 2, 2).map(|(_, y, x)| at(c, 2 * row + y, 2 * column + x)).sum::<f64>() / 4.0,
        false => at(c, row / 2, column / 2),
    });
    Array { dims: vec![1, channels, h, w], data: data.collect() }
}

/// More rows and columns of zeros on each side, or fewer.
fn window(x: &Array, by: isize) -> Array {
    let [_, channels, height, width] = four(x);
    let [h, w] = [height, width].map(|side| side.checked_add_signed(2 * by).unwrap());
    let data = places(channels, h, w).map(|(c, row, column)| {
        let [row, column] = [row, column].map(|place| place.checked_add_signed(-by));
        match (row.filter(|row| *row < height), column.filter(|column| *column < width)) {
            (Some(row), Some(column)) => x.data[(c * height + row) * width + column],
            _ => 0.0,
        }
    });
    Array { dims: vec![1, channels, h, w], data: data.collect() }
}

fn transpose(x: &Array) -> Array {
    let ((_, rows, columns), mut dims) = (x.matrices(), x.dims.clone());
    let last = dims.len() - 1;
    dims.swap(last - 1, last);
    let matrices = x.data.chunks_exact(rows * columns);
    let data = matrices.flat_map(|m| places(1, columns, rows).map(|(_, i, j)| m[j * columns + i]));
    Array { dims, data: data.collect() }
}

fn matmul(a: &Array, b: &Array) -> Array {
    let ((count, rows, inner), (_, _, columns)) = (a.matrices(), b.matrices());
    let mut dims = a.dims.clone();
    *dims.last_mut().unwrap() = columns;
    let element = |(m, i, j): (usize, usize, usize)| {
        (0..inner).map(|k| a.data[(m * rows + i) * inner + k] * b.data[(m * inner + k) * columns + j]).sum()
    };
    Array { dims, data: places(count, rows, columns).map(element).collect() }
}

fn softmax(x: &Array) -> Array {
    let mut y = x.map(f64::exp);
    for row in y.data.chunks_exact_mut(*x.dims.last().unwrap()) {
        let total: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= total);
    }
    y
}

/// The outputs of a node.
fn run(node: &NodeProto, inputs: &[&Array]) -> Vec<Array> {
    let x = inputs[0];
    let y = match node.op_type.as_str() {
        "Conv" => {
            let groups = node.attribute.iter().find(|a| a.name == "group").map_or(1, |a| a.i as usize);
            conv(x, inputs[1], inputs.get(2), &ints(node, "pads").unwrap(), groups)
        }
        "Pad" => {
            let by = inputs[1].data[2];
            assert_eq!(inputs[1].data, [0.0, 0.0, by, by, 0.0, 0.0, by, by]);
            window(x, by as isize)
        }
        "Slice" => {
            let [_, _, height, width] = four(x);
            let by = inputs[1].data[0];
            assert_eq!(inputs[1].data, [by; 2]);
            assert_eq!(inputs[2].data, [height as f64 - by, width as f64 - by]);
            assert_eq!(inputs[3].data, [2.0, 3.0]);
            window(x, -by as isize)
        }
        "InstanceNormalization" => instance_norm(x, inputs[1], inputs[2], node.attribute[0].f.into()),
        "Reshape" => {
            let dims: Vec<usize> = inputs[1].data.iter().map(|&d| d as usize).collect();
            assert_eq!(dims.iter().product::<usize>(), x.data.len(), "{}", node.name);
            Array { dims, data: x.data.clone() }
        }
        "Mul" => x.zip(inputs[1], |a, b| a * b),
        "Add" => x.zip(inputs[1], |a, b| a + b),
        "Sub" => x.zip(inputs[1], |a, b| a - b),
        "Sigmoid" => x.map(|x| 1.0 / (1.0 + (-x).exp())),
        "Concat" => {
            assert_eq!(node.attribute[0].i, 1);
            let channels = x.dims[1] + inputs[1].dims[1];
            let dims = [&x.dims[..1], &[channels], &x.dims[2..]].concat();
            Array { dims, data: [&x.data[..], &inputs[1].data].concat() }
        }
        "AveragePool" => {
            assert_eq!(
                [ints(node, "kernel_shape"), ints(node, "strides")],
                [Some(vec![2, 2]), Some(vec![2, 2])]
            );
            resample(x, true)
        }
        "Resize" => {
            assert_eq!(inputs[2].data, [1.0, 1.0, 2.0, 2.0]);
            let mode =
                ["mode", "coordinate_transformation_mode", "nearest_mode"].map(|name| text(node, name));
            assert_eq!(mode, [&b"nearest"[..], b"asymmetric", b"floor"]);
            resample(x, false)
        }
        "Split" => {
            // What is before the axis is one.
            let axis = node.attribute[0].i as usize;
            assert!(x.dims[..axis].iter().all(|&size| size == 1));
            let mut dims = x.dims.clone();
            dims[axis] /= node.output.len();
            let parts = x.data.chunks_exact(x.data.len() / node.output.len());
            return parts.map(|part| Array { dims: dims.clone(), data: part.to_vec() }).collect();
        }
        "Transpose" => {
            assert_eq!(ints(node, "perm"), Some(vec![0, 1, 3, 2]));
            transpose(x)
        }
        "MatMul" => matmul(x, inputs[1]),
        "Softmax" => {
            assert_eq!(node.attribute[0].i, -1);
            softmax(x)
        }
        other => panic!("{}: operator {other}", node.name),
    };
    vec![y]
}

/// Runs a file: what it makes of this noise, and of this class where it has classes. Values have the shapes that the file says.
fn interpret(model: &ModelProto, inputs: Vec<Array>) -> Array {
    let graph = &model.graph;
    let mut values: BTreeMap<&str, Array> =
        graph.initializer.iter().map(|tensor| (tensor.name.as_str(), Array::of(tensor))).collect();
    assert_eq!(values.len(), graph.initializer.len(), "two initialisers have one name");
    // What an operator leaves out has the empty name.
    values.insert("", Array { dims: vec![0], data: Vec::new() });
    assert_eq!(graph.input.len(), inputs.len());
    values.extend(graph.input.iter().map(|info| info.name.as_str()).zip(inputs));
    for node in &graph.node {
        let inputs: Vec<&Array> = node.input.iter().map(|name| &values[name.as_str()]).collect();
        for (name, output) in node.output.iter().zip(run(node, &inputs)) {
            assert!(values.insert(name, output).is_none(), "{name} is computed twice");
        }
    }
    for info in graph.value_info.iter().chain(&graph.output) {
        let dims = info.type_.tensor_type().shape.dim.iter().map(|d| d.dim_value() as usize);
        assert!(dims.eq(values[info.name.as_str()].dims.iter().copied()), "{}", info.name);
    }
    values[graph.output[0].name.as_str()].clone()
}

fn export(checkpoint: &Checkpoint, steps: u32) -> (ModelProto, onnx::Exported) {
    let exported = onnx::export(checkpoint, steps).unwrap();
    (ModelProto::parse_from_bytes(&exported.file).unwrap(), exported)
}

fn tensor(bytes: &[u8]) -> Array {
    Array::of(&TensorProto::parse_from_bytes(bytes).unwrap())
}

fn worst(a: &Array, b: &Array) -> f64 {
    a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Runs the file of a checkpoint on its own test data.
fn makes_its_pictures(checkpoint: &Checkpoint, steps: u32) {
    let (model, exported) = export(checkpoint, steps);
    let (noise, expected) = (tensor(&exported.noise), tensor(&exported.image));
    let [channels, height, width] = checkpoint.unet.image.map(usize::from);
    assert_eq!(expected.dims, [1, channels, height, width]);
    let class = exported.class.as_deref().map(tensor);
    let found = interpret(&model, std::iter::once(noise.clone()).chain(class.clone()).collect());
    assert!(worst(&found, &noise) > 0.5, "nothing was computed");
    // What is rounded is the constants of time, and the picture.
    let range = expected.data.iter().fold(1.0f64, |range, x| range.max(x.abs()));
    let error = worst(&found, &expected) / range;
    assert!(error < 2e-6, "{:?}, {steps} steps: {error}", checkpoint.unet);
    assert!(exported.folding < 1e-12);
    if let Some(class) = class {
        assert_eq!(class.dims, [1, usize::from(checkpoint.unet.labels)]);
        let none = class.map(|_| 0.0);
        assert!(worst(&interpret(&model, vec![noise, none]), &found) > 1e-3, "the class has no effect");
    }
}

#[test]
fn a_file_makes_the_pictures_of_its_checkpoint() {
    for (size, role, steps) in [(8, Role::Student, 1), (12, Role::Student, 3), (8, Role::Teacher, 2)] {
        makes_its_pictures(&checkpoint(unet(size, role), role), steps);
    }
}

/// Classes, scale and shift, filters, borders and heads.
#[test]
fn networks_of_other_families_are_written() {
    let role = Role::Teacher;
    let adm = Unet {
        architecture: Architecture::Adm,
        labels: 3,
        head: Head::Edm,
        level: Level::Edm,
        variant: Variant { filter: Some(vec![1, 3, 3, 1]), head_channels: Some(4), ..Variant::default() },
        ..unet(8, role)
    };
    let ncsnpp =
        Unet { architecture: Architecture::Ncsnpp, head: Head::Ve, level: Level::Ve, ..unet(8, role) };
    let longer = Variant { filter: Some(vec![1, 5, 10, 10, 5, 1]), ..Variant::default() };
    let skip =
        Unet { labels: 2, variant: Variant { encoder: Some(Encoder::Skip), ..longer }, ..unet(8, role) };
    for unet in [adm, ncsnpp, skip] {
        for steps in [1, 2] {
            makes_its_pictures(&checkpoint(unet.clone(), role), steps);
        }
    }
}

#[test]
fn parameters_have_their_names_and_shapes() {
    let checkpoint = checkpoint(unet(8, Role::Student), Role::Student);
    let (model, _) = export(&checkpoint, 2);
    let used: BTreeSet<&String> = model.graph.node.iter().flat_map(|node| &node.input).collect();
    let mut found = 0;
    for tensor in &model.graph.initializer {
        assert!(used.contains(&tensor.name), "nobody reads {}", tensor.name);
        if let Some((shape, values)) = checkpoint.tensors.get(&tensor.name) {
            let mut dims: Vec<usize> = tensor.dims.iter().map(|&d| d as usize).collect();
            // Scale and shift of a norm are written so that they broadcast.
            dims.truncate(shape.len());
            assert_eq!(*shape, dims, "{}", tensor.name);
            let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            assert_eq!(tensor.raw_data, values, "{}", tensor.name);
            found += 1;
        }
    }
    // Of each of the two steps there are as many biases as blocks; what computes them from the times is gone.
    let per_step = |step: &str| {
        let names = model.graph.initializer.iter().map(|tensor| &tensor.name);
        names.filter(|name| name.starts_with(step) && name.ends_with(".conv0.bias")).count()
    };
    let blocks = checkpoint.tensors.keys().filter(|name| name.ends_with(".affine.weight")).count();
    assert_eq!([per_step("step1/"), per_step("step2/")], [blocks; 2]);
    let of_time = |name: &&String| {
        name.contains("map_layer") || name.contains("affine") || name.ends_with("conv0.bias")
    };
    assert_eq!(found, checkpoint.tensors.keys().filter(|name| !of_time(name)).count());
}

#[test]
fn a_file_reads_well() {
    let checkpoint = checkpoint(unet(8, Role::Student), Role::Student);
    let names = |steps| -> Vec<String> {
        export(&checkpoint, steps).0.graph.node.iter().map(|node| node.name.clone()).collect()
    };
    let one = names(1);
    assert_eq!(one[0], "enc.8x8_conv");
    assert!(one.contains(&"enc.8x8_block0.norm0/normalise".to_owned()));
    assert_eq!(one.last().unwrap(), "image");
    let two = names(2);
    assert_eq!((two[0].as_str(), two.last().unwrap().as_str()), ("step1/enc.8x8_conv", "image"));
    // Steps that do not go from 1 to 0 at once have a factor.
    assert_eq!(two.len(), 2 * (one.len() + 1));
}

#[test]
fn a_file_says_where_it_comes_from() {
    let checkpoint = checkpoint(unet(8, Role::Student), Role::Student);
    let (model, exported) = export(&checkpoint, 2);
    assert_eq!((model.ir_version, model.opset_import[0].version), (8, OPSET));
    assert_eq!(exported.nodes, model.graph.node.len());
    let text = |key: &str| &model.metadata_props.iter().find(|entry| entry.key == key).unwrap().value;
    assert_eq!(text("licence"), "MIT");
    let provenance: serde_json::Value = serde_json::from_str(text("provenance")).unwrap();
    let expected = serde_json::json!({
        "checkpoint": { "licence": "MIT" },
        "export": { "format": "onnx", "opset": 17, "precision": "f32", "steps": [2] },
        "network": checkpoint.unet,
        "role": "student",
    });
    assert_eq!(provenance, expected);
    assert_eq!(exported, onnx::export(&checkpoint, 2).unwrap());
}
