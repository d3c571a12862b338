//! Turns a checkpoint into an ONNX file, for runtimes that are not ours.
//!
//! The file is the whole generator for one number of steps: its input `noise` and its output `image` are
//! `[1, channels, height, width]` in f32, and where the network has classes a second input `class` is `[1, classes]`, with a
//! one at the place of the class, or zeros for none in particular; the steps follow each other in one graph over one set of
//! weights. The times are known then, so what depends on them is a constant, as in a model file. With inputs for the times
//! instead a user would have to write the solver, and other runtimes would compute the embedding of the times for each
//! picture.
//!
//! Operators are those of opset 17, shapes are static, and no operator is of a runtime's own. A node has the name of the
//! graph's node and so has its output; where one becomes several, these are called `{node}/{part}`. Weights are called as
//! in the checkpoint. With more than one step, what belongs to one of them is called `step1/{node}`.

use std::collections::BTreeSet;

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::DataType;
use onnx_protobuf::tensor_shape_proto::dimension;
use onnx_protobuf::type_proto::{Tensor, Value as TypeValue};
use onnx_protobuf::{
    AttributeProto, GraphProto, Message, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension,
};
use protobuf::MessageField;
use serde_json::json;
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::model::Moment;
use traflow_graph::noise::Noise;
use traflow_graph::op::{Op, Shape};

use crate::fold::fold;
use crate::fuse::fuse_constants;
use crate::network::Network;
use crate::order::projections_before_doubling;
use crate::reference::generate;
use crate::verify::{FOLDING_LIMIT, VerifyError, difference};
use crate::{ExportError, provenance, schedules};

/// Version of ONNX's operators.
pub const OPSET: i64 = 17;

/// Version of ONNX's file format, the first that opset 17 belongs to.
const IR_VERSION: i64 = 8;

/// Name of the input, N(0, I).
pub const INPUT: &str = "noise";

/// Name of the input of a network with classes, a one at the place of the class.
pub const CLASS: &str = "class";

/// Name of the output, about in [-1, 1].
pub const OUTPUT: &str = "image";

/// An ONNX file.
#[derive(Clone, Debug, PartialEq)]
pub struct Exported {
    /// The file.
    pub file: Vec<u8>,
    /// Number of its nodes.
    pub nodes: usize,
    /// The noise of seed 0, as a file of ONNX's test data (`input_0.pb`).
    pub noise: Vec<u8>,
    /// The first class, where the network has classes (`input_1.pb`).
    pub class: Option<Vec<u8>>,
    /// The picture that the network as it was trained makes of it, computed in f64 (`output_0.pb`).
    pub image: Vec<u8>,
    /// The largest difference of the folded network's picture, as a part of the range.
    pub folding: f64,
}

/// Why a network cannot be an ONNX file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what it is about")]
pub enum OnnxError {
    #[error("node {index} ({name}): it depends on time alone and was not folded")]
    Operation { index: usize, name: String },
    #[error("an ONNX file makes pictures in one step or more")]
    NoSteps,
    #[error("an ONNX file is smaller than 2 GiB")]
    TooLarge,
}

/// Turns a checkpoint into an ONNX file that makes pictures in this number of steps, with f32 weights. The same
/// checkpoint is the same bytes.
///
/// # Errors
/// Where the network does not fit into an ONNX file, or folding changes its pictures.
pub fn export(checkpoint: &Checkpoint, steps: u32) -> Result<Exported, ExportError> {
    if steps == 0 {
        return Err(OnnxError::NoSteps.into());
    }
    let schedule = schedules(&[steps]).concat();
    let trained = Network::of(checkpoint)?;
    let folded = fuse_constants(projections_before_doubling(fold(&trained, &schedule)?)?)?;
    let shape = checkpoint.unet.image();

    let mut noise = vec![0.0; shape.elements()];
    Noise::new(0).fill(&mut noise);
    let classes = usize::from(checkpoint.unet.labels);
    let class = (classes > 0).then_some(0);
    let expected = generate(&trained, &noise, class, &schedule, 0);
    let folding = difference(&generate(&folded, &noise, class, &schedule, 0), &expected);
    if folding > FOLDING_LIMIT {
        let (steps, limit) = (schedule.len(), FOLDING_LIMIT);
        return Err(VerifyError::Folding { steps, found: folding, limit }.into());
    }

    let graph = graph(&folded, shape, &schedule)?;
    let nodes = graph.node.len();
    let image: Vec<f32> = expected.iter().map(|&x| x as f32).collect();
    Ok(Exported {
        file: bytes(&model(graph, checkpoint, steps))?,
        nodes,
        noise: bytes(&floats(INPUT, &batch(shape), &noise))?,
        class: class.map(|_| bytes(&floats(CLASS, &[1, classes as i64], &first_of(classes)))).transpose()?,
        image: bytes(&floats(OUTPUT, &batch(shape), &image))?,
        folding,
    })
}

/// A one, and zeros after it.
fn first_of(classes: usize) -> Vec<f32> {
    (0..classes).map(|place| f32::from(u8::from(place == 0))).collect()
}

fn bytes(message: &impl Message) -> Result<Vec<u8>, OnnxError> {
    message.write_to_bytes().map_err(|_| OnnxError::TooLarge)
}

/// The graph with what a file says about it.
fn model(graph: GraphProto, checkpoint: &Checkpoint, steps: u32) -> ModelProto {
    let made = json!({ "format": "onnx", "opset": OPSET, "precision": "f32", "steps": [steps] });
    let licence = checkpoint.provenance.get("licence").and_then(|licence| licence.as_str());
    let texts =
        [("licence", licence.unwrap_or("unknown").to_owned()), ("provenance", provenance(checkpoint, &made))];
    let plural = if steps == 1 { "" } else { "s" };
    ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { version: OPSET, ..Default::default() }],
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: format!(
            "Makes a picture, about in [-1, 1], of noise, N(0, 1), in {steps} step{plural} of a {}.",
            checkpoint.role.name()
        ),
        graph: MessageField::some(graph),
        metadata_props: texts
            .map(|(key, value)| StringStringEntryProto { key: key.to_owned(), value, ..Default::default() })
            .into(),
        ..Default::default()
    }
}

/// The steps of a folded network, one after the other.
fn graph(network: &Network, shape: Shape, schedule: &[Moment]) -> Result<GraphProto, OnnxError> {
    let graph = GraphProto {
        name: "generator".to_owned(),
        input: vec![value_info(INPUT, &batch(shape))],
        output: vec![value_info(OUTPUT, &batch(shape))],
        ..Default::default()
    };
    let mut writer = Writer { network, graph, tensors: BTreeSet::new(), scope: String::new(), row: 0 };
    if let Some(node) = network.graph.nodes().iter().find(|node| matches!(node.op, Op::Class { .. })) {
        writer.graph.input.push(value_info(CLASS, &batch(node.shape)[..2]));
        writer.reshape(CLASS_VECTOR.to_owned(), CLASS, &batch(node.shape));
    }
    let mut x = INPUT.to_owned();
    for (row, moment) in schedule.iter().enumerate() {
        writer.row = row;
        if schedule.len() > 1 {
            writer.scope = format!("step{}/", row + 1);
        }
        x = writer.step(&x, *moment, row + 1 == schedule.len())?;
    }
    Ok(writer.graph)
}

/// The class as the network's nodes read it.
const CLASS_VECTOR: &str = "class/vector";

/// A graph that is being written.
struct Writer<'a> {
    network: &'a Network,
    graph: GraphProto,
    /// Names of the initialisers that are there.
    tensors: BTreeSet<String>,
    /// What the names of this step's nodes begin with.
    scope: String,
    /// Place of this step's moment.
    row: usize,
}

impl Writer<'_> {
    /// x_s = x_t + (s - t) u(x_t, t, s), eq. 6'; gives the name of x_s.
    fn step(&mut self, x: &str, moment: Moment, last: bool) -> Result<String, OnnxError> {
        let mut values: Vec<String> = Vec::new();
        for index in 0..self.network.parameters.len() {
            let value = self.value(index, x, &values)?;
            values.push(value);
        }
        let velocity = values.pop().unwrap_or_default();
        let down = moment.t - moment.s;
        let change = if down == 1.0 { velocity } else { self.scaled("change", &velocity, down) };
        let name = if last { OUTPUT.to_owned() } else { format!("{}{OUTPUT}", self.scope) };
        Ok(self.node("Sub", name, &[x, &change], Vec::new()))
    }

    /// Writes one node of the network; gives the name of its output.
    fn value(&mut self, index: usize, image: &str, values: &[String]) -> Result<String, OnnxError> {
        let network = self.network;
        let node = &network.graph.nodes()[index];
        let name = format!("{}{}", self.scope, node.name);
        let input = |place: usize| values[node.inputs[place].index()].as_str();
        let value = match node.op {
            Op::Image(_) => return Ok(image.to_owned()),
            Op::Class { .. } => return Ok(CLASS_VECTOR.to_owned()),
            Op::Constant { .. } => return Ok(self.bias(index, &[1, -1, 1, 1])),
            Op::Conv2d { kernel, residual, .. } => match residual {
                None => self.conv2d(index, name, input(0), kernel.into()),
                Some(factor) => {
                    let y = self.conv2d(index, format!("{name}/conv"), input(0), kernel.into());
                    let residual = self.scaled(&format!("{}/residual", node.name), input(1), factor);
                    self.node("Add", name, &[&y, &residual], Vec::new())
                }
            },
            Op::GroupNorm { groups, epsilon, silu } => {
                let shifted = if silu { format!("{name}/shift") } else { name.clone() };
                let y = self.group_norm(index, &name, shifted, input(0), groups.into(), epsilon);
                if silu { self.silu(name, &y) } else { y }
            }
            Op::Silu => self.silu(name, input(0)),
            Op::Add { scale: 1.0 } => self.node("Add", name, &[input(0), input(1)], Vec::new()),
            Op::Add { scale } => {
                let sum = self.node("Add", format!("{name}/add"), &[input(0), input(1)], Vec::new());
                self.scaled(&node.name, &sum, scale)
            }
            Op::Concat => self.node("Concat", name, &[input(0), input(1)], vec![int("axis", 1)]),
            Op::Downsample => {
                let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
                self.node("AveragePool", name, &[input(0)], attributes)
            }
            Op::Upsample => self.upsample(name, input(0)),
            Op::Multiply => self.node("Mul", name, &[input(0), input(1)], Vec::new()),
            Op::ScaleShift { silu } => {
                let shifted = if silu { format!("{name}/shifted") } else { name.clone() };
                let y = self.scale_shift(&name, shifted, input(0), input(1));
                if silu { self.silu(name, &y) } else { y }
            }
            Op::Blur { near, far } => self.blur(name, input(0), node.shape, [near, far]),
            Op::Border { by } => self.border(name, input(0), node.shape, by.into()),
            Op::Attention { heads } => self.attention(&name, input(0), node.shape, heads.into()),
            // What depends on time alone was folded.
            Op::Time(_) | Op::Coefficient(_) | Op::Labels { .. } | Op::Embedding { .. } => {
                return Err(OnnxError::Operation { index, name: node.name.clone() });
            }
        };
        self.graph.value_info.push(value_info(&value, &batch(node.shape)));
        Ok(value)
    }

    fn conv2d(&mut self, index: usize, name: String, x: &str, kernel: usize) -> String {
        let weight = self.weight(index, &[-1, self.input_channels(index), kernel as i64, kernel as i64]);
        let pad = (kernel / 2) as i64;
        let attributes = vec![ints("kernel_shape", &[kernel as i64; 2]), ints("pads", &[pad; 4])];
        if self.network.parameters[index].bias.is_empty() {
            return self.node("Conv", name, &[x, &weight], attributes);
        }
        let bias = self.bias(index, &[-1]);
        self.node("Conv", name, &[x, &weight, &bias], attributes)
    }

    /// As PyTorch writes it, which is what other runtimes look for: opset 17 has no group norm, and an instance norm of the
    /// groups is one without scale and shift.
    fn group_norm(
        &mut self,
        index: usize,
        name: &str,
        output: String,
        x: &str,
        groups: usize,
        epsilon: f32,
    ) -> String {
        let shape = self.network.graph.nodes()[index].shape;
        let x = self.reshape(
            format!("{name}/groups"),
            x,
            &[1, groups as i64, (shape.elements() / groups) as i64],
        );
        let ones =
            self.tensor(format!("ones/{groups}"), |name| floats(name, &[groups as i64], &vec![1.0; groups]));
        let zeros =
            self.tensor(format!("zeros/{groups}"), |name| floats(name, &[groups as i64], &vec![0.0; groups]));
        let normalise = format!("{name}/normalise");
        let x = self.node(
            "InstanceNormalization",
            normalise,
            &[&x, &ones, &zeros],
            vec![float("epsilon", epsilon)],
        );
        let x = self.reshape(format!("{name}/channels"), &x, &batch(shape));
        let scale = self.weight(index, &[-1, 1, 1]);
        let x = self.node("Mul", format!("{name}/scale"), &[&x, &scale], Vec::new());
        let shift = self.bias(index, &[-1, 1, 1]);
        self.node("Add", output, &[&x, &shift], Vec::new())
    }

    fn silu(&mut self, name: String, x: &str) -> String {
        let sigmoid = self.node("Sigmoid", format!("{name}/sigmoid"), &[x], Vec::new());
        self.node("Mul", name, &[x, &sigmoid], Vec::new())
    }

    fn upsample(&mut self, name: String, x: &str) -> String {
        let scales =
            self.tensor("scales/1,1,2,2".to_owned(), |name| floats(name, &[4], &[1.0, 1.0, 2.0, 2.0]));
        let attributes = vec![
            text("mode", "nearest"),
            text("coordinate_transformation_mode", "asymmetric"),
            text("nearest_mode", "floor"),
        ];
        // The region of interest, which is for another mode, is left out.
        self.node("Resize", name, &[x, "", &scales], attributes)
    }

    /// `x · (1 + scale) + shift`, where `by` has the scales, then the shifts.
    fn scale_shift(&mut self, name: &str, output: String, x: &str, by: &str) -> String {
        let [scale, shift] = ["scale", "shift"].map(|part| format!("{name}/{part}"));
        self.split(format!("{name}/split"), by, vec![scale.clone(), shift.clone()], 1);
        let one = self.scalar(1.0);
        let factor = self.node("Add", format!("{name}/factor"), &[&scale, &one], Vec::new());
        let scaled = self.node("Mul", format!("{name}/scaled"), &[x, &factor], Vec::new());
        self.node("Add", output, &[&scaled, &shift], Vec::new())
    }

    /// A convolution of each channel with the same kernel, the product of the taps along rows and along columns.
    fn blur(&mut self, name: String, x: &str, shape: Shape, [near, far]: [f32; 2]) -> String {
        let middle = 1.0 - 2.0 * (near + far);
        let taps = [far, near, middle, near, far];
        let taps = if far == 0.0 { &taps[1..4] } else { &taps[..] };
        let kernel: Vec<f32> = taps.iter().flat_map(|a| taps.iter().map(move |b| a * b)).collect();
        let (channels, side) = (usize::from(shape.channels), taps.len() as i64);
        let weight = self.tensor(format!("blur/{channels}/{near},{far}"), |name| {
            floats(name, &[channels as i64, 1, side, side], &kernel.repeat(channels))
        });
        let attributes = vec![
            ints("kernel_shape", &[side; 2]),
            ints("pads", &[side / 2; 4]),
            int("group", channels as i64),
        ];
        self.node("Conv", name, &[x, &weight], attributes)
    }

    /// Zeros on each side, or as many rows and columns fewer; `shape` is that of the output.
    fn border(&mut self, name: String, x: &str, shape: Shape, by: i64) -> String {
        let mut list = |kind: &str, values: &[i64]| {
            let text = values.iter().map(i64::to_string).collect::<Vec<_>>().join(",");
            self.tensor(format!("{kind}/{text}"), |name| integers(name, values))
        };
        if by >= 0 {
            let pads = list("pads", &[0, 0, by, by, 0, 0, by, by]);
            return self.node("Pad", name, &[x, &pads], Vec::new());
        }
        let ends = [shape.height, shape.width].map(|side| i64::from(side) - by);
        let [starts, ends, axes] = [("starts", [-by; 2]), ("ends", ends), ("axes", [2, 3])]
            .map(|(kind, values)| list(kind, &values));
        self.node("Slice", name, &[x, &starts, &ends, &axes], Vec::new())
    }

    /// `softmax(qᵀ k / √d) vᵀ`, transposed, for each head of d channels; `shape` is that of the output.
    fn attention(&mut self, name: &str, x: &str, shape: Shape, heads: usize) -> String {
        let part = |part: &str| format!("{name}/{part}");
        let channels = usize::from(shape.channels) / heads;
        let split = [3, heads as i64, channels as i64, shape.pixels() as i64];
        let x = self.reshape(part("heads"), x, &split);
        let kinds = ["queries", "keys", "values"].map(part);
        self.split(part("split"), &x, kinds.to_vec(), 0);
        let [queries, keys, values] = kinds;
        let transposed = || vec![ints("perm", &[0, 1, 3, 2])];
        let queries = self.node("Transpose", part("queries/transpose"), &[&queries], transposed());
        let factor = self.scalar((channels as f64).sqrt().recip() as f32);
        let queries = self.node("Mul", part("queries/scale"), &[&queries, &factor], Vec::new());
        let scores = self.node("MatMul", part("scores"), &[&queries, &keys], Vec::new());
        let shares = self.node("Softmax", part("softmax"), &[&scores], vec![int("axis", -1)]);
        let values = self.node("Transpose", part("values/transpose"), &[&values], transposed());
        let y = self.node("MatMul", part("sum"), &[&shares, &values], Vec::new());
        let y = self.node("Transpose", part("sum/transpose"), &[&y], transposed());
        self.reshape(name.to_owned(), &y, &batch(shape))
    }

    /// `x · factor`, a node of this step.
    fn scaled(&mut self, name: &str, x: &str, factor: f32) -> String {
        let factor = self.scalar(factor);
        self.node("Mul", format!("{}{name}", self.scope), &[x, &factor], Vec::new())
    }

    fn reshape(&mut self, name: String, x: &str, shape: &[i64]) -> String {
        let list: Vec<String> = shape.iter().map(i64::to_string).collect();
        let shape = self.tensor(format!("shape/{}", list.join(",")), |name| integers(name, shape));
        self.node("Reshape", name, &[x, &shape], Vec::new())
    }

    /// A node with one output, which has its name.
    fn node(&mut self, op: &str, name: String, inputs: &[&str], attribute: Vec<AttributeProto>) -> String {
        self.graph.node.push(NodeProto {
            name: name.clone(),
            op_type: op.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            attribute,
            ..Default::default()
        });
        name
    }

    /// Cuts a value into equal parts along an axis.
    fn split(&mut self, name: String, x: &str, parts: Vec<String>, axis: i64) {
        self.graph.node.push(NodeProto {
            name,
            op_type: "Split".to_owned(),
            input: vec![x.to_owned()],
            output: parts,
            attribute: vec![int("axis", axis)],
            ..Default::default()
        });
    }

    /// A number as an initialiser, which all nodes share.
    fn scalar(&mut self, number: f32) -> String {
        self.tensor(format!("scalar/{number}"), |name| floats(name, &[], &[number]))
    }

    /// The weight of a node, which all steps share; -1 stands for the channels of the output.
    fn weight(&mut self, index: usize, dims: &[i64]) -> String {
        let node = &self.network.graph.nodes()[index];
        let weight = &self.network.parameters[index].weight;
        self.tensor(format!("{}.weight", node.name), |name| parameter(name, dims, node.shape, weight))
    }

    /// The bias of a node, of this step where steps differ; -1 stands for the channels.
    fn bias(&mut self, index: usize, dims: &[i64]) -> String {
        let node = &self.network.graph.nodes()[index];
        let parameters = &self.network.parameters[index];
        let channels = usize::from(node.shape.channels);
        let (scope, row) = if parameters.per_moment { (&*self.scope, self.row) } else { ("", 0) };
        let bias = &parameters.bias[row * channels..][..channels];
        self.tensor(format!("{scope}{}.bias", node.name), |name| parameter(name, dims, node.shape, bias))
    }

    fn input_channels(&self, index: usize) -> i64 {
        let nodes = self.network.graph.nodes();
        nodes[nodes[index].inputs[0].index()].shape.channels.into()
    }

    /// An initialiser, made unless it is there.
    fn tensor(&mut self, name: String, make: impl FnOnce(&str) -> TensorProto) -> String {
        if self.tensors.insert(name.clone()) {
            self.graph.initializer.push(make(&name));
        }
        name
    }
}

/// Dimensions of a batch of one picture.
fn batch(shape: Shape) -> [i64; 4] {
    [1, shape.channels.into(), shape.height.into(), shape.width.into()]
}

/// A parameter, rounded once; -1 stands for the channels of the node.
fn parameter(name: &str, dims: &[i64], node: Shape, values: &[f64]) -> TensorProto {
    let dims: Vec<i64> = dims.iter().map(|&d| if d < 0 { node.channels.into() } else { d }).collect();
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    floats(name, &dims, &values)
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, dims, DataType::FLOAT, bytes)
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, &[values.len() as i64], DataType::INT64, bytes)
}

fn tensor(name: &str, dims: &[i64], data_type: DataType, raw_data: Vec<u8>) -> TensorProto {
    let data_type = data_type as i32;
    TensorProto { name: name.to_owned(), dims: dims.to_vec(), data_type, raw_data, ..Default::default() }
}

/// Type and shape of a value.
fn value_info(name: &str, dims: &[i64]) -> ValueInfoProto {
    let dim = |&size: &i64| Dimension { value: Some(dimension::Value::DimValue(size)), ..Default::default() };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect(), ..Default::default() };
    let tensor =
        Tensor { elem_type: DataType::FLOAT as i32, shape: MessageField::some(shape), ..Default::default() };
    let type_ = TypeProto { value: Some(TypeValue::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: name.to_owned(), type_: MessageField::some(type_), ..Default::default() }
}

fn attribute(name: &str, type_: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), type_: type_.into(), ..Default::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, AttributeType::INT) }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::INTS) }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f, ..attribute(name, AttributeType::FLOAT) }
}

fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.as_bytes().to_vec(), ..attribute(name, AttributeType::STRING) }
}
