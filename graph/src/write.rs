//! The writer of model files. What it returns has passed the check of [`Model::new`].

use std::prelude::v1::*;

use crate::graph::Graph;
use crate::model::{
    ALIGN, Dtype, MAGIC, Model, ModelError, Moment, NONE, Record, TWO_PARTS, VERSION, VERSION_OF_INTEGERS,
    WEIGHT_ROWS, WIDE, encode, seal, weight_dtype, weight_index, word,
};
use crate::op::Op;
use crate::plan::Plan;
use crate::quant;

/// What a model file is made of.
#[derive(Clone, Copy, Debug)]
pub struct ModelSource<'a> {
    /// The network, without nodes that compute on time: they are [`Op::Constant`].
    pub graph: &'a Graph,
    /// Its plan, for values of 4 bytes.
    pub plan: &'a Plan,
    /// The schedules by increasing number of steps, each as its moments from t = 1 to s = 0.
    pub schedules: &'a [Vec<Moment>],
    /// The parameters, one entry a node.
    pub parameters: &'a [NodeParameters],
    /// Number format of the weights of convolutions in the file; they are rounded to nearest, ties to even.
    pub weights: Dtype,
    /// JSON about where the network comes from: licence, dataset, teacher, configuration.
    pub provenance: &'a str,
}

/// Parameters of one node; empty where it has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeParameters {
    /// `[out, in, kernel, kernel]` of a convolution, or the scale of a norm, which may have one row or one for each moment.
    pub weight: Vec<f32>,
    /// One row, or one row for each moment of all schedules in their order.
    pub bias: Vec<f32>,
}

/// Why a model file cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum WriteError {
    #[error("{found} entries of {what} were given for {expected} nodes")]
    Entries { what: &'static str, expected: usize, found: usize },
    #[error("node {index} ({name}): it computes on time, and has to be folded into a constant first")]
    Unfolded { index: usize, name: String },
    #[error("node {index} ({name}): its weight has {found} elements where its shape gives {expected}")]
    Weight { index: usize, name: String, expected: usize, found: usize },
    #[error("node {index} ({name}): its bias has {found} elements, neither one row of {row} nor {moments}")]
    Bias { index: usize, name: String, row: usize, moments: usize, found: usize },
    #[error("node {index} ({name}): a weight is not a number or too large for its format")]
    Range { index: usize, name: String },
    #[error("a file of integers is made of integers")]
    Integers,
    #[error("the file would be larger than 4 GiB")]
    TooLarge,
    #[error("the arena would be larger than 4 GiB")]
    Arena,
    #[error("the file would not be a model: {0}")]
    Model(#[from] ModelError),
}

/// A model file.
///
/// # Errors
/// Says which node does not fit the format, or what [`Model::new`] finds wrong.
pub fn write(file: &ModelSource<'_>) -> Result<Vec<u8>, WriteError> {
    let nodes = file.graph.nodes();
    entries("the parameters", nodes.len(), file.parameters.len())?;
    let moments = file.schedules.iter().map(Vec::len).sum();
    let mut tensors = Vec::new();
    for (index, (node, parameters)) in nodes.iter().zip(file.parameters).enumerate() {
        let name = || node.name.clone();
        let expected = file.graph.parameters(node);
        let found = parameters.weight.len();
        let of_moments = matches!(node.op, Op::GroupNorm { .. }) && found == expected.weights() * moments;
        if found != expected.weights() && !of_moments {
            return Err(WriteError::Weight { index, name: name(), expected: expected.weights(), found });
        }
        let flags = if found == expected.weights() { 0 } else { WEIGHT_ROWS };
        let row = expected.bias.unwrap_or(0);
        let found = parameters.bias.len();
        let rows = found.checked_div(row).unwrap_or(0);
        if found != row * rows || (row > 0 && rows != 1 && rows != moments) {
            return Err(WriteError::Bias { index, name: name(), row, moments, found });
        }
        let packed = match expected.weight {
            Some(dimensions) if matches!(node.op, Op::Conv2d { .. }) => {
                panels(&parameters.weight, dimensions)
            }
            _ => parameters.weight.clone(),
        };
        let weight = match weight_dtype(node.op, file.weights) {
            Dtype::F32 => bytemuck::cast_slice(&packed).to_vec(),
            Dtype::F16 => {
                let half = |&w: &f32| half::f16::from_f32(w);
                if packed.iter().any(|w| !half(w).is_finite()) {
                    return Err(WriteError::Range { index, name: name() });
                }
                packed.iter().flat_map(|w| half(w).to_le_bytes()).collect()
            }
            Dtype::I8 => return Err(WriteError::Integers),
        };
        if parameters.weight.iter().chain(&parameters.bias).any(|number| !number.is_finite()) {
            return Err(WriteError::Range { index, name: name() });
        }
        let bias = bytemuck::cast_slice(&parameters.bias).to_vec();
        tensors.push(Tensors { weight, bias, rows: rows as u32, flags, digest: 0 });
    }
    assemble(file.graph, file.plan, file.schedules, file.weights, VERSION, file.provenance, &tensors)
}

/// What a model file of integers is made of.
#[derive(Clone, Copy, Debug)]
pub struct IntegerSource<'a> {
    /// The network, as [`ModelSource::graph`].
    pub graph: &'a Graph,
    /// Its plan, of [`plan_integers`](crate::plan::plan_integers).
    pub plan: &'a Plan,
    /// The schedules, as [`ModelSource::schedules`].
    pub schedules: &'a [Vec<Moment>],
    /// One entry a node.
    pub nodes: &'a [IntegerNode],
    /// JSON about where the network comes from.
    pub provenance: &'a str,
}

/// The integers of one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntegerNode {
    /// A convolution's weight, `[out, in, kernel, kernel]`; empty where there is none.
    pub weight: Vec<i8>,
    /// Rows of [`Integers::encode`](quant::Integers::encode): one, or one for each moment; none where it has none.
    pub rows: Vec<Vec<u32>>,
    /// Whether its value is 16 bits wide.
    pub wide: bool,
    /// Whether the input of a convolution has two parts.
    pub two_parts: bool,
    /// What a self-test expects; 0 where that is not known.
    pub digest: u32,
}

/// A model file of integers.
///
/// # Errors
/// Says which node does not fit the format, or what [`Model::new`] finds wrong.
pub fn write_integers(file: &IntegerSource<'_>) -> Result<Vec<u8>, WriteError> {
    let nodes = file.graph.nodes();
    entries("the integers", nodes.len(), file.nodes.len())?;
    let mut tensors = Vec::new();
    for (index, (node, integers)) in nodes.iter().zip(file.nodes).enumerate() {
        let dimensions = file.graph.parameters(node).weight.filter(|_| matches!(node.op, Op::Conv2d { .. }));
        let expected = dimensions.map_or(0, |dimensions| dimensions.iter().product());
        let found = integers.weight.len();
        if found != expected {
            return Err(WriteError::Weight { index, name: node.name.clone(), expected, found });
        }
        let panels =
            dimensions.map_or_else(Vec::new, |dimensions| integer_panels(&integers.weight, dimensions));
        tensors.push(Tensors {
            weight: bytemuck::cast_slice(&panels).to_vec(),
            bias: bytemuck::cast_slice(&integers.rows.concat()).to_vec(),
            rows: integers.rows.len() as u32,
            flags: if integers.wide { WIDE } else { 0 } | if integers.two_parts { TWO_PARTS } else { 0 },
            digest: integers.digest,
        });
    }
    assemble(file.graph, file.plan, file.schedules, Dtype::I8, VERSION_OF_INTEGERS, file.provenance, &tensors)
}

/// A convolution's weight in the order of [`quant::panel_index`].
fn integer_panels(weight: &[i8], dimensions: [usize; 4]) -> Vec<i8> {
    let [outs, channels, height, width] = dimensions;
    let taps = height * width;
    let mut panels = vec![0; quant::panel_elements(dimensions)];
    for (i, &weight) in weight.iter().enumerate() {
        let place = [i / taps / channels, i / taps % channels, i % taps];
        panels[quant::panel_index([outs, channels, taps], place)] = weight;
    }
    panels
}

fn entries(what: &'static str, expected: usize, found: usize) -> Result<(), WriteError> {
    if found == expected { Ok(()) } else { Err(WriteError::Entries { what, expected, found }) }
}

/// The bytes of one node.
struct Tensors {
    weight: Vec<u8>,
    bias: Vec<u8>,
    rows: u32,
    flags: u32,
    digest: u32,
}

/// A model file of sections and tensors.
fn assemble(
    graph: &Graph,
    plan: &Plan,
    schedules: &[Vec<Moment>],
    weights: Dtype,
    version: u16,
    provenance: &str,
    tensors: &[Tensors],
) -> Result<Vec<u8>, WriteError> {
    let nodes = graph.nodes();
    entries("the plan", nodes.len(), plan.offsets.len().min(plan.scratch.len()))?;
    let moments: Vec<[f32; 2]> = schedules.iter().flatten().map(|m| [m.t, m.s]).collect();
    let of_schedules = schedules;
    let mut schedules: Vec<[u32; 2]> = Vec::new();
    let mut first = 0;
    for schedule in of_schedules {
        schedules.push([schedule.len() as u32, first]);
        first += schedule.len() as u32;
    }
    let names: String = nodes.iter().map(|node| node.name.as_str()).collect();

    let mut out = Sections::default();
    let header = out.section(&[0; ALIGN])?;
    out.section(bytemuck::cast_slice(&schedules))?;
    out.section(bytemuck::cast_slice(&moments))?;
    let records_at = out.section(&vec![0; nodes.len() * ALIGN])?;
    out.section(names.as_bytes())?;
    out.section(provenance.as_bytes())?;

    let mut records: Vec<Record> = Vec::new();
    let mut name_end = 0;
    for (index, (node, tensors)) in nodes.iter().zip(tensors).enumerate() {
        let mut record: Record = [0; 16];
        let op = encode(node.op).ok_or_else(|| WriteError::Unfolded { index, name: node.name.clone() })?;
        record[word::OP..][..4].copy_from_slice(&op);
        for place in 0..2 {
            record[word::INPUT + place] = node.inputs.get(place).map_or(NONE, |input| input.0.into());
        }
        record[word::SHAPE] = u32::from(node.shape.channels) | u32::from(node.shape.height) << 16;
        record[word::SHAPE + 1] = node.shape.width.into();
        record[word::OFFSET] = plan.offsets[index].unwrap_or(NONE);
        record[word::NAME] = name_end;
        record[word::NAME_BYTES] = node.name.len() as u32;
        name_end += node.name.len() as u32;
        record[word::ROWS] = tensors.rows;
        record[word::SCRATCH_FLAGS] = plan.scratch[index] | tensors.flags;
        record[word::DIGEST] = tensors.digest;
        record[word::WEIGHT] = out.tensor(&tensors.weight)?;
        record[word::BIAS] = out.tensor(&tensors.bias)?;
        records.push(record);
    }

    if plan.bytes == u32::MAX {
        return Err(WriteError::Arena);
    }
    let mut head: Record = [0; 16];
    let dtype = match weights {
        Dtype::F32 => 0,
        Dtype::F16 => 1,
        Dtype::I8 => 2,
    };
    head[word::VERSION_DTYPE] = u32::from(version) | dtype << 16;
    head[word::NODES] = nodes.len() as u32;
    head[word::SCHEDULES] = schedules.len() as u32;
    head[word::MOMENTS] = moments.len() as u32;
    head[word::NAMES] = names.len() as u32;
    head[word::PROVENANCE] = provenance.len() as u32;
    head[word::ARENA] = plan.bytes;
    out.put(header, bytemuck::cast_slice(&head));
    out.put(header, &MAGIC);
    out.put(records_at, bytemuck::cast_slice(&records));
    let blocks = out.blocks.as_mut_slice();
    seal(bytemuck::cast_slice_mut(blocks));
    Model::new(bytemuck::cast_slice(blocks))?;
    Ok(bytemuck::cast_slice(blocks).to_vec())
}

/// A convolution's weight `[out, in, kernel, kernel]` in the order of a file, [`weight_index`].
pub fn panels(weight: &[f32], [outs, channels, height, width]: [usize; 4]) -> Vec<f32> {
    let taps = height * width;
    let mut packed = vec![0.0; weight.len()];
    for (i, &weight) in weight.iter().enumerate() {
        let place = [i / taps / channels, i / taps % channels, i % taps];
        packed[weight_index([outs, channels, taps], place)] = weight;
    }
    packed
}

/// Sections and tensors one after the other, each in whole blocks of 64 bytes. Words keep the bytes aligned.
#[derive(Default)]
struct Sections {
    blocks: Vec<Record>,
}

impl Sections {
    /// Appends a section and says where it begins.
    fn section(&mut self, bytes: &[u8]) -> Result<u32, WriteError> {
        let start = self.blocks.len() * ALIGN;
        let end = (start + bytes.len()).next_multiple_of(ALIGN);
        u32::try_from(end).map_err(|_| WriteError::TooLarge)?;
        self.blocks.resize(end / ALIGN, [0; 16]);
        self.put(start as u32, bytes);
        Ok(start as u32)
    }

    /// Appends a tensor and says where it begins; 0 where there is none.
    fn tensor(&mut self, bytes: &[u8]) -> Result<u32, WriteError> {
        if bytes.is_empty() { Ok(0) } else { self.section(bytes) }
    }

    /// Writes over bytes that were appended before.
    fn put(&mut self, start: u32, bytes: &[u8]) {
        let all: &mut [u8] = bytemuck::cast_slice_mut(&mut self.blocks);
        all[start as usize..][..bytes.len()].copy_from_slice(bytes);
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::graph::Builder;
    use crate::model::Weights;
    use crate::noise::Noise;
    use crate::op::{Method, Shape};
    use crate::plan::plan;
    use proptest::prelude::*;

    /// The norm whose scale has a row for each moment.
    const NORM: Op = Op::GroupNorm { groups: 2, epsilon: 1e-6, silu: false };

    /// A small network with every operation that files of integers have.
    fn graph() -> Graph {
        let mut g = Builder::new();
        let x = g.image(Shape::new(2, 4, 4));
        let time = g.push("time", Op::Constant { channels: 6 }, &[]);
        let h = g.conv2d("conv", x, 6, 3);
        let h = g.add("shift", h, time, 1.0);
        let h = g.push("norm", Op::GroupNorm { groups: 2, epsilon: 1e-6, silu: true }, &[h]);
        let a = g.conv2d("qkv", h, 18, 1);
        let a = g.push("attention", Op::Attention { heads: 2 }, &[a]);
        let residual =
            Op::Conv2d { out: 6, kernel: 1, bias: false, residual: Some(0.5), method: Method::Direct };
        let h = g.push("proj", residual, &[a, h]);
        let down = g.push("down", Op::Downsample, &[h]);
        let down = g.silu("silu", down);
        let up = g.push("up", Op::Upsample, &[down]);
        let h = g.push("concat", Op::Concat, &[up, h]);
        g.conv2d("out", h, 2, 3);
        g.finish().unwrap()
    }

    /// A small network with the operations of floating point alone.
    fn second_graph() -> Graph {
        let mut g = Builder::new();
        let x = g.image(Shape::new(4, 4, 4));
        let factor = g.push("time", Op::Constant { channels: 1 }, &[]);
        let class = g.push("class", Op::Class { count: 3 }, &[]);
        let affine = g.linear("affine", class, 8);
        let h = g.push("scaled", Op::Multiply, &[x, factor]);
        let h = g.push("norm", NORM, &[h]);
        let h = g.push("modulated", Op::ScaleShift { silu: true }, &[h, affine]);
        let h = g.push("wide", Op::Border { by: 2 }, &[h]);
        let h = g.push("blur", Op::Blur { near: 0.25, far: 0.0625 }, &[h]);
        let h = g.push("narrow", Op::Border { by: -2 }, &[h]);
        g.conv2d("out", h, 4, 3);
        g.finish().unwrap()
    }

    fn schedules() -> Vec<Vec<Moment>> {
        vec![vec![Moment { t: 1.0, s: 0.0 }], vec![Moment { t: 1.0, s: 0.5 }, Moment { t: 0.5, s: 0.0 }]]
    }

    /// Random parameters; constants, and in the second graph norms, have a row for each of three moments.
    fn parameters(graph: &Graph) -> Vec<NodeParameters> {
        let fill = |stream, len: usize| {
            let mut x = vec![0.0; len];
            Noise::stream(1, stream).fill(&mut x);
            x
        };
        let of = |(index, node): (usize, &crate::graph::Node)| {
            let sizes = graph.parameters(node);
            let rows = if matches!(node.op, Op::Constant { .. }) { 3 } else { 1 };
            let scales = if node.op == NORM { 3 } else { 1 };
            NodeParameters {
                weight: fill(2 * index as u32, sizes.weights() * scales),
                bias: fill(2 * index as u32 + 1, sizes.bias.unwrap_or(0) * rows),
            }
        };
        graph.nodes().iter().enumerate().map(of).collect()
    }

    /// Bytes at an aligned address.
    fn aligned(bytes: &[u8]) -> Vec<[u32; 16]> {
        let mut blocks = vec![[0; 16]; bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut(&mut blocks)[..bytes.len()].copy_from_slice(bytes);
        blocks
    }

    fn file(weights: Dtype) -> Vec<u8> {
        file_of(&graph(), weights)
    }

    fn file_of(graph: &Graph, weights: Dtype) -> Vec<u8> {
        write(&ModelSource {
            plan: &plan(graph, 4),
            schedules: &schedules(),
            parameters: &parameters(graph),
            weights,
            provenance: "{\"licence\":\"MIT\"}",
            graph,
        })
        .unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let dtypes = [Dtype::F32, Dtype::F16];
        let cases = dtypes.map(|dtype| [(0, graph(), dtype), (3, second_graph(), dtype)]);
        for (classes, graph, dtype) in cases.into_iter().flatten() {
            let file = file_of(&graph, dtype);
            assert_eq!(file[8..10], [4, 0]);
            let bytes = aligned(&file);
            let model = Model::new(bytemuck::cast_slice(&bytes)).unwrap();
            assert_eq!(model.classes(), classes);
            let plan = plan(&graph, 4);
            assert_eq!((model.weights(), model.moments()), (dtype, 3));
            assert_eq!(model.provenance(), "{\"licence\":\"MIT\"}");
            assert_eq!(model.arena_bytes(), plan.bytes as usize);
            assert_eq!(model.image().name(), "image");
            assert_eq!(model.steps().collect::<Vec<_>>(), [1, 2]);
            let second = Moment { t: 0.5, s: 0.0 };
            assert_eq!(model.schedule(2).unwrap().last(), Some((2, second)));
            assert!(model.schedule(3).is_none());
            assert_eq!(model.nodes().len(), graph.nodes().len());
            let mut bytes_of_parameters = 0;
            for (index, parameters) in parameters(&graph).iter().enumerate() {
                let (node, expected) = (model.node(index).unwrap(), &graph.nodes()[index]);
                assert_eq!(
                    (node.name(), node.op(), node.shape()),
                    (&*expected.name, expected.op, expected.shape)
                );
                assert_eq!(node.offset(), plan.offsets[index].map(|offset| offset as usize));
                assert_eq!(node.scratch().start, plan.scratch[index] as usize);
                let inputs = expected.inputs.iter().map(|v| graph.nodes()[v.index()].name.as_str());
                assert!(node.inputs().map(|input| input.name()).eq(inputs));
                let in_order = |row: &[f32]| match expected.op {
                    Op::Conv2d { .. } => panels(row, node.parameters().weight.unwrap()),
                    _ => row.to_vec(),
                };
                let of_row = parameters.weight.len() / node.weight_rows();
                for moment in 0..3 {
                    let row = if node.weight_rows() == 1 { 0 } else { moment };
                    let expected = in_order(&parameters.weight[row * of_row..][..of_row]);
                    match node.weight(moment) {
                        Weights::F32(weight) => assert_eq!(weight, expected),
                        Weights::F16(weight) => {
                            let rounded = expected.iter().map(|&w| half::f16::from_f32(w).to_bits());
                            assert!(weight.iter().copied().eq(rounded));
                        }
                    }
                }
                let rows = (0..3).map(|moment| node.bias(moment));
                match node.bias_rows() {
                    3 => assert_eq!(rows.collect::<Vec<_>>().concat(), parameters.bias),
                    _ => assert!(rows.into_iter().all(|row| row == parameters.bias)),
                }
                let wide = !matches!(expected.op, Op::Conv2d { .. });
                let size = if wide { 4 } else { dtype.bytes() };
                bytes_of_parameters += parameters.weight.len() * size + parameters.bias.len() * 4;
            }
            assert_eq!(model.weights_bytes(), bytes_of_parameters);
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let file = file(Dtype::F16);
        let bytes = aligned(&file);
        for len in 0..file.len() {
            assert!(Model::new(&bytemuck::cast_slice(&bytes)[..len]).is_err(), "{len} bytes");
        }
        let mut longer = file.clone();
        longer.extend([0; 64]);
        assert!(Model::new(bytemuck::cast_slice(&aligned(&longer))).is_err());
        seal(bytemuck::cast_slice_mut(&mut aligned(&longer)));
    }

    /// Whatever a file that passes the check holds, reading all of it works.
    fn read_everything(bytes: &[u8]) -> bool {
        let Ok(model) = Model::new(bytes) else { return false };
        for node in model.nodes() {
            for moment in 0..model.moments() {
                let weights = match node.weight(moment) {
                    Weights::F32(weight) => weight.len(),
                    Weights::F16(weight) => weight.len(),
                };
                assert_eq!(weights, node.parameters().weights());
                assert_eq!(node.bias(moment).len(), node.parameters().bias.unwrap_or(0));
            }
            assert!(node.offset().is_none_or(|at| at + node.shape().elements() * 4 <= model.arena_bytes()));
            assert!(node.scratch().end <= model.arena_bytes());
        }
        model.steps().all(|steps| model.schedule(steps).is_some_and(|s| s.count() == steps))
    }

    #[test]
    fn changed_bytes_are_errors_or_harmless() {
        let originals = [graph(), second_graph()].map(|graph| aligned(&file_of(&graph, Dtype::F16)));
        let random = Noise::new(3);
        let mut accepted = 0;
        for round in 0..10_000u64 {
            let mut blocks = originals[round as usize / 2 % 2].clone();
            let len = blocks.len() * 64;
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut blocks);
            // Half of the changes go to the header and the records, where they matter most.
            let span = if round % 2 == 0 { len } else { 1200 };
            let at = random.word(2 * round) as usize % span;
            bytes[at] ^= (random.word(2 * round + 1) % 255 + 1) as u8;
            assert!(Model::new(bytes).is_err(), "byte {at}");
            if let Ok(model) = Model::without_checksum(bytes) {
                assert_eq!(model.verify_checksum(), Err(ModelError::Checksum), "byte {at}");
            }
            seal(bytes);
            accepted += usize::from(read_everything(bytes));
        }
        // Most bytes are weights, and another weight is a model too.
        assert!((1000..9000).contains(&accepted), "{accepted}");
    }

    #[test]
    fn errors_name_the_node() {
        let mut blocks = aligned(&file(Dtype::F32));
        let record = blocks.iter().position(|b| b[0] == 6 && b[4] == 2).unwrap();
        let error = |change: &dyn Fn(&mut Record)| {
            let mut blocks = blocks.clone();
            change(&mut blocks[record]);
            seal(bytemuck::cast_slice_mut(&mut blocks));
            Model::new(bytemuck::cast_slice(&blocks)).unwrap_err().to_string()
        };
        assert_eq!(error(&|r| r[4] = 3), "node 3 (shift): it reads node 3, which is not before it");
        assert_eq!(error(&|r| r[5] = 2), "node 3 (shift): both of its inputs are node 2");
        assert_eq!(error(&|r| r[0] = 77), "node 3 (shift): it has no operation of this format");
        assert_eq!(
            error(&|r| r[1] = 1),
            "node 3 (shift): its record has bits set that its operation does not use"
        );
        assert_eq!(error(&|r| r[6] += 1), "node 3 (shift): its shape is 7×4×4 where its inputs give another");
        assert_eq!(
            error(&|r| r[8] = 0),
            "node 0 (image): its value overlaps that of node 3 while both are alive"
        );
        assert_eq!(
            error(&|r| r[8] = 1 << 20),
            "node 3 (shift): its value lies outside the arena or is not aligned"
        );
        assert_eq!(
            error(&|r| r[11] = 64),
            "node 3 (shift): its weight lies outside the file, or not where the tensor before it ends"
        );
        assert_eq!(error(&|r| r[14] = 1 << 20), "node 3 (shift): its scratch memory lies outside the arena");
        assert_eq!(
            error(&|r| r[14] |= 4),
            "node 3 (shift): its record has bits set that its operation does not use"
        );
        let conv = blocks.iter().position(|b| b[0] == 3 && b[4] == 0).unwrap();
        let error_of_conv = |place: &dyn Fn(u32) -> u32| {
            let mut blocks = blocks.clone();
            blocks[conv][14] = place(blocks[0][10]);
            seal(bytemuck::cast_slice_mut(&mut blocks));
            Model::new(bytemuck::cast_slice(&blocks)).unwrap_err().to_string()
        };
        assert_eq!(error_of_conv(&|arena| arena), "node 2 (conv): its scratch memory lies outside the arena");
        let image = blocks[blocks.iter().position(|b| b[0] == 1).unwrap()][8];
        assert_eq!(
            error_of_conv(&|_| image),
            "node 0 (image): its value overlaps the scratch memory of node 2"
        );
        for version in [3, 5] {
            blocks[0][2] = version;
            assert_eq!(
                Model::new(bytemuck::cast_slice(&blocks)).unwrap_err().to_string(),
                format!("it has format version {version}, this program reads 4, or 3 of integers")
            );
        }
    }

    #[test]
    fn addresses_off_by_one_are_an_error() {
        let file = file(Dtype::F32);
        let mut bytes = vec![0u64; file.len() / 8 + 1];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut bytes);
        bytes[1..=file.len()].copy_from_slice(&file);
        assert_eq!(Model::new(&bytes[1..=file.len()]).err(), Some(ModelError::Misaligned));
    }

    #[test]
    fn sources_that_do_not_fit_are_errors() {
        let (graph, schedules) = (graph(), schedules());
        let (plan, parameters) = (plan(&graph, 4), parameters(&graph));
        let source = ModelSource {
            graph: &graph,
            plan: &plan,
            schedules: &schedules,
            parameters: &parameters,
            weights: Dtype::F16,
            provenance: "",
        };
        let with = |change: &dyn Fn(&mut Vec<NodeParameters>)| {
            let mut parameters = parameters.clone();
            change(&mut parameters);
            write(&ModelSource { parameters: &parameters, ..source }).unwrap_err().to_string()
        };
        assert_eq!(with(&|p| _ = p.pop()), "12 entries of the parameters were given for 13 nodes");
        assert_eq!(
            with(&|p| _ = p[2].weight.pop()),
            "node 2 (conv): its weight has 107 elements where its shape gives 108"
        );
        assert_eq!(
            with(&|p| _ = p[1].bias.pop()),
            "node 1 (time): its bias has 17 elements, neither one row of 6 nor 3"
        );
        assert_eq!(
            with(&|p| p[2].weight[0] = 7e4),
            "node 2 (conv): a weight is not a number or too large for its format"
        );
        let gap = [vec![Moment { t: 1.0, s: 0.5 }, Moment { t: 0.25, s: 0.0 }], schedules[1].clone()];
        assert_eq!(
            write(&ModelSource { schedules: &gap[..1], ..source }).unwrap_err().to_string(),
            "node 1 (time): its bias has 18 elements, neither one row of 6 nor 2"
        );
        let long = [schedules[0].clone(), gap[0].clone()];
        assert_eq!(
            write(&ModelSource { schedules: &long, ..source }).unwrap_err().to_string(),
            "the file would not be a model: schedule 1: its times do not fall from 1 to 0 without a gap"
        );
    }

    proptest! {
        /// Files of any contents after the magic.
        #[test]
        fn any_bytes_are_an_error(mut blocks in prop::collection::vec(any::<[u32; 16]>(), 1..20)) {
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut blocks);
            bytes[..8].copy_from_slice(&MAGIC);
            bytes[8..12].copy_from_slice(&[VERSION as u8, 0, 0, 0]);
            seal(bytes);
            prop_assert!(Model::new(bytes).is_err());
        }
    }
}
