//! Trained weights, between the trainer and the exporter.
//!
//! A checkpoint is a safetensors file whose tensors are exactly the parameters of one [`Unet`], under the names
//! `{node}.weight` and `{node}.bias`: a convolution's weight is `[out, in, k, k]`; a group norm's weight, frequencies and
//! every bias are `[c]`. Its metadata say what the network is and where the weights come from, and of a network that was
//! trained for integers how they stand for its values. The same network and weights are the same bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::prelude::v1::*;
use std::{fs, io};

use half::f16;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value};

use crate::file;
use crate::formats::{Formats, FormatsError};
use crate::graph::{Graph, GraphError};
use crate::noise::Noise;
use crate::op::Op;
use crate::unet::Unet;

/// Value of the metadata `format`.
pub const FORMAT: &str = "traflow-checkpoint";

/// Value of the metadata `version`.
pub const VERSION: &str = "1";

/// Tensors by name: dimensions, and as many values in row-major order.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// What a file says besides its tensors.
pub type Texts = BTreeMap<String, String>;

/// Number format of the values in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Half precision: 11 bits, up to 65,504.
    F16,
    /// Single precision, exact.
    #[default]
    F32,
}

/// What a network was trained to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The velocity v(x, t).
    Teacher,
    /// The average velocity u(x, t, s) of eq. 6'.
    Student,
}

impl Role {
    /// The name in a file.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Teacher => "teacher",
            Role::Student => "student",
        }
    }
}

/// A network with its trained weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The network.
    pub unet: Unet,
    /// What it was trained to give.
    pub role: Role,
    /// Where the weights come from: command, dataset, licence, digest of the teacher, steps and the like.
    pub provenance: Map<String, Value>,
    /// The formats that the network was trained to be rounded to, where it was.
    pub formats: Option<Formats>,
    /// The parameters of the network's graph.
    pub tensors: Tensors,
}

/// What is wrong with a checkpoint; each message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum CheckpointError {
    #[error("{file}: {problem}")]
    Io { file: String, problem: io::Error },
    #[error("{file}: not a safetensors file: {reason}")]
    Format { file: String, reason: String },
    #[error("{file}: not a checkpoint: metadata {key:?}: {reason}")]
    Metadata { file: String, key: &'static str, reason: String },
    #[error("{file}: {problem}")]
    Graph { file: String, problem: GraphError },
    #[error("{file}: {problem}")]
    Formats { file: String, problem: FormatsError },
    #[error("{file}: tensor {tensor:?} of shape {expected:?} is missing")]
    Missing { file: String, tensor: String, expected: Vec<usize> },
    #[error("{file}: tensor {tensor:?} of shape {found:?} is not in the network")]
    Extra { file: String, tensor: String, found: Vec<usize> },
    #[error("{file}: tensor {tensor:?} has shape {found:?} where the network has {expected:?}")]
    Shape { file: String, tensor: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("{file}: tensor {tensor:?} has shape {shape:?} and {values} values")]
    Length { file: String, tensor: String, shape: Vec<usize>, values: usize },
    #[error("{file}: tensor {tensor:?} is {found}, neither F32 nor F16")]
    Dtype { file: String, tensor: String, found: String },
    #[error("{file}: tensor {tensor:?} has {value} at {index}, which is not a finite number of its type")]
    NotFinite { file: String, tensor: String, index: usize, value: f32 },
}

impl Checkpoint {
    /// Reads a checkpoint.
    ///
    /// # Errors
    /// Where the file cannot be read, or as [`from_bytes`](Checkpoint::from_bytes).
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let name = path.display().to_string();
        let bytes = fs::read(path).map_err(|problem| CheckpointError::Io { file: name.clone(), problem })?;
        Self::from_bytes(&name, &bytes)
    }

    /// Reads a checkpoint from the bytes of a file; `name` stands for the file in errors.
    ///
    /// # Errors
    /// Where the bytes are not a checkpoint of this version, where the tensors are not exactly those of the network's
    /// graph, or where a value is not finite.
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let (texts, tensors) = tensors_from_bytes(name, bytes)?;
        let wrong = |key, reason| CheckpointError::Metadata { file: name.to_owned(), key, reason };
        let text = |key| match texts.get(key) {
            Some(text) => Ok(text.as_str()),
            None => Err(wrong(key, "it is missing".to_owned())),
        };
        let equal = |key, expected: &str| match text(key)? {
            found if found == expected => Ok(()),
            found => Err(wrong(key, format!("it is {found:?}, not {expected:?}"))),
        };
        equal("format", FORMAT)?;
        equal("version", VERSION)?;
        let role = match text("role")? {
            "teacher" => Role::Teacher,
            "student" => Role::Student,
            other => return Err(wrong("role", format!("it is {other:?}, neither teacher nor student"))),
        };
        let checkpoint = Self {
            unet: serde_json::from_str(text("network")?).map_err(|e| wrong("network", line(e)))?,
            role,
            provenance: serde_json::from_str(text("provenance")?)
                .map_err(|e| wrong("provenance", line(e)))?,
            formats: match texts.get("formats") {
                Some(text) => Some(serde_json::from_str(text).map_err(|e| wrong("formats", line(e)))?),
                None => None,
            },
            tensors,
        };
        checkpoint.check(name)?;
        Ok(checkpoint)
    }

    /// Writes the checkpoint as a whole (see [`file::write`]).
    ///
    /// # Errors
    /// Where the tensors are not exactly those of the network's graph, where a value is not finite in this precision,
    /// or where the file cannot be written.
    pub fn write(&self, path: &Path, precision: Precision) -> Result<(), CheckpointError> {
        let name = path.display().to_string();
        self.check(&name)?;
        let json = |key, text: Result<String, serde_json::Error>| {
            text.map_err(|e| CheckpointError::Metadata { file: name.clone(), key, reason: line(e) })
        };
        let texts = [
            ("format", FORMAT.to_owned()),
            ("version", VERSION.to_owned()),
            ("role", self.role.name().to_owned()),
            ("network", json("network", serde_json::to_string(&self.unet))?),
            ("provenance", json("provenance", serde_json::to_string(&self.provenance))?),
        ];
        let mut texts: Texts = texts.map(|(key, text)| (key.to_owned(), text)).into();
        if let Some(formats) = &self.formats {
            texts.insert("formats".to_owned(), json("formats", serde_json::to_string(formats))?);
        }
        write_tensors(path, &texts, &self.tensors, precision)
    }

    /// A network of random weights that was never trained, without provenance. Its pictures show nothing, but every
    /// layer takes part in them and values stay near 1: weights are N(0, 1 / fan-in), biases N(0, 0.2²), scales of norms
    /// N(1, 0.2²). A training starts elsewhere, with branches that are nearly closed.
    ///
    /// # Errors
    /// Where the configuration is of no network.
    pub fn random(unet: Unet, role: Role, seed: u64) -> Result<Self, GraphError> {
        let mut tensors = Tensors::new();
        for (index, (name, shape)) in parameters(&unet.graph()?).into_iter().enumerate() {
            let mut values = vec![0.0; shape.iter().product()];
            Noise::stream(seed, index as u32).fill(&mut values);
            let is_vector = shape.len() == 1;
            let mean = if is_vector && name.ends_with(".weight") { 1.0 } else { 0.0 };
            let fan_in: usize = shape[1..].iter().product();
            let deviation = if is_vector { 0.2 } else { (fan_in as f32).sqrt().recip() };
            values.iter_mut().for_each(|value| *value = mean + deviation * *value);
            tensors.insert(name, (shape, values));
        }
        Ok(Self { unet, role, provenance: Map::new(), formats: None, tensors })
    }

    /// The values of a parameter that has `len` elements.
    ///
    /// # Errors
    /// Where there is no such parameter, or it has another size.
    pub fn tensor(&self, name: &str, len: usize) -> Result<&[f32], CheckpointError> {
        let (file, tensor) = ("checkpoint".to_owned(), name.to_owned());
        match self.tensors.get(name) {
            Some((_, values)) if values.len() == len => Ok(values),
            Some((found, _)) => {
                Err(CheckpointError::Shape { file, tensor, found: found.clone(), expected: vec![len] })
            }
            None => Err(CheckpointError::Missing { file, tensor, expected: vec![len] }),
        }
    }

    /// Whether the tensors are exactly the parameters of the graph.
    fn check(&self, file: &str) -> Result<(), CheckpointError> {
        let file = || file.to_owned();
        let graph = self.unet.graph().map_err(|problem| CheckpointError::Graph { file: file(), problem })?;
        if let Some(formats) = &self.formats {
            formats.check(&graph).map_err(|problem| CheckpointError::Formats { file: file(), problem })?;
        }
        let mut extra: BTreeMap<&String, _> = self.tensors.iter().collect();
        for (tensor, expected) in parameters(&graph) {
            match extra.remove(&tensor) {
                None => return Err(CheckpointError::Missing { file: file(), tensor, expected }),
                Some((found, _)) if *found != expected => {
                    return Err(CheckpointError::Shape {
                        file: file(),
                        tensor,
                        found: found.clone(),
                        expected,
                    });
                }
                Some(_) => {}
            }
        }
        match extra.into_iter().next() {
            None => Ok(()),
            Some((tensor, (found, _))) => {
                Err(CheckpointError::Extra { file: file(), tensor: tensor.clone(), found: found.clone() })
            }
        }
    }
}

/// Names and dimensions of a graph's parameters in a checkpoint, in the order of the nodes.
pub fn parameters(graph: &Graph) -> Vec<(String, Vec<usize>)> {
    let mut parameters = Vec::new();
    for node in graph.nodes() {
        let sizes = graph.parameters(node);
        if let Some(weight) = sizes.weight {
            let is_matrix = matches!(node.op, Op::Conv2d { .. });
            let dimensions = if is_matrix { weight.to_vec() } else { vec![weight[0]] };
            parameters.push((format!("{}.weight", node.name), dimensions));
        }
        if let Some(length) = sizes.bias {
            parameters.push((format!("{}.bias", node.name), vec![length]));
        }
    }
    parameters
}

/// Reads any safetensors file of F32 and F16 tensors.
///
/// # Errors
/// Where the file cannot be read, is not such a file, or has a value that is not finite.
pub fn read_tensors(path: &Path) -> Result<(Texts, Tensors), CheckpointError> {
    let name = path.display().to_string();
    let bytes = fs::read(path).map_err(|problem| CheckpointError::Io { file: name.clone(), problem })?;
    tensors_from_bytes(&name, &bytes)
}

/// Writes a safetensors file as a whole (see [`file::write`]).
///
/// # Errors
/// Where a tensor's dimensions are not those of its values, where a value is not finite in this precision, or where the
/// file cannot be written.
pub fn write_tensors(
    path: &Path,
    texts: &Texts,
    tensors: &Tensors,
    precision: Precision,
) -> Result<(), CheckpointError> {
    let name = path.display().to_string();
    let bytes = encode(&name, texts, tensors, precision)?;
    file::write(path, &bytes).map_err(|problem| CheckpointError::Io { file: name, problem })
}

/// A header's JSON as this writer orders it; `safetensors::serialize` writes the metadata in the order of a hash map.
#[derive(serde::Serialize)]
struct Header<'a> {
    #[serde(rename = "__metadata__")]
    texts: &'a Texts,
    #[serde(flatten)]
    tensors: BTreeMap<&'a str, TensorInfo>,
}

fn encode(
    file: &str,
    texts: &Texts,
    tensors: &Tensors,
    precision: Precision,
) -> Result<Vec<u8>, CheckpointError> {
    let (dtype, size) = match precision {
        Precision::F16 => (Dtype::F16, 2),
        Precision::F32 => (Dtype::F32, 4),
    };
    let mut infos = BTreeMap::new();
    let mut end = 0;
    for (tensor, (shape, values)) in tensors {
        if shape.iter().try_fold(1, |n: usize, &d| n.checked_mul(d)) != Some(values.len()) {
            let (file, tensor, shape) = (file.to_owned(), tensor.clone(), shape.clone());
            return Err(CheckpointError::Length { file, tensor, shape, values: values.len() });
        }
        let start = end;
        end += values.len() * size;
        infos.insert(tensor.as_str(), TensorInfo { dtype, shape: shape.clone(), data_offsets: (start, end) });
    }
    let mut header = serde_json::to_vec(&Header { texts, tensors: infos })
        .map_err(|e| CheckpointError::Format { file: file.to_owned(), reason: line(e) })?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut bytes = Vec::with_capacity(8 + header.len() + end);
    bytes.extend((header.len() as u64).to_le_bytes());
    bytes.extend(header);
    for (tensor, (_, values)) in tensors {
        for (index, &value) in values.iter().enumerate() {
            let finite = match precision {
                Precision::F16 => {
                    let half = f16::from_f32(value);
                    bytes.extend(half.to_le_bytes());
                    half.is_finite()
                }
                Precision::F32 => {
                    bytes.extend(value.to_le_bytes());
                    value.is_finite()
                }
            };
            if !finite {
                let (file, tensor) = (file.to_owned(), tensor.clone());
                return Err(CheckpointError::NotFinite { file, tensor, index, value });
            }
        }
    }
    Ok(bytes)
}

/// [`read_tensors`] of the bytes of a file; `file` stands for it in errors.
///
/// # Errors
/// As [`read_tensors`].
pub fn tensors_from_bytes(file: &str, bytes: &[u8]) -> Result<(Texts, Tensors), CheckpointError> {
    let wrong = |reason: String| CheckpointError::Format { file: file.to_owned(), reason };
    let (length, rest) = bytes.split_first_chunk().ok_or_else(|| wrong("it is too short".to_owned()))?;
    let length = u64::from_le_bytes(*length);
    let (header, data) = usize::try_from(length)
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or_else(|| wrong(format!("a header of {length} bytes is longer than the file")))?;
    // `Metadata` checks that the tensors tile the data without holes. That they end with the file is checked here:
    // `SafeTensors::deserialize` overflows in that sum.
    let metadata: Metadata = serde_json::from_slice(header).map_err(|e| wrong(line(e)))?;
    if metadata.data_len() != data.len() {
        let (found, expected) = (data.len(), metadata.data_len());
        return Err(wrong(format!("its tensors have {expected} bytes and the file has {found}")));
    }
    let mut tensors = Tensors::new();
    for (tensor, info) in metadata.tensors() {
        let bytes = &data[info.data_offsets.0..info.data_offsets.1];
        let values: Vec<f32> = match info.dtype {
            Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            other => {
                let (file, found) = (file.to_owned(), other.to_string());
                return Err(CheckpointError::Dtype { file, tensor, found });
            }
        };
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let (file, value) = (file.to_owned(), values[index]);
            return Err(CheckpointError::NotFinite { file, tensor, index, value });
        }
        tensors.insert(tensor, (info.shape.clone(), values));
    }
    let texts = metadata.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())).collect();
    Ok((texts, tensors))
}

/// An error's message in one line, whatever names a hostile file puts into it.
fn line(error: serde_json::Error) -> String {
    error.to_string().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unet::{Architecture, SConditioning};

    fn unet(base: u16) -> Unet {
        Unet {
            architecture: Architecture::Ddpmpp,
            image: [1, 4, 4],
            base,
            mult: vec![1],
            blocks: 1,
            attention: Vec::new(),
            s_conditioning: SConditioning::TiedMean,
            ..Unet::default()
        }
    }

    /// Values that depend on the place alone, up to ±4.
    fn checkpoint(unet: Unet) -> Checkpoint {
        let parameters = parameters(&unet.graph().unwrap()).into_iter();
        let tensors = parameters.map(|(name, shape)| {
            let seed = name.len() as f32;
            let values = (0..shape.iter().product()).map(|i: usize| 4.0 * (seed + 0.7 * i as f32).sin());
            (name, (shape, values.collect()))
        });
        let provenance = serde_json::json!({ "command": "traflow distill", "steps": 7, "licence": "MIT" });
        let provenance = provenance.as_object().unwrap().clone();
        Checkpoint { role: Role::Student, provenance, formats: None, tensors: tensors.collect(), unet }
    }

    fn bytes(checkpoint: &Checkpoint, precision: Precision) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        checkpoint.write(&path, precision).unwrap();
        fs::read(path).unwrap()
    }

    #[test]
    fn random_weights_follow_the_seed_and_their_fan_in() {
        let unet = Unet { base: 32, ..unet(4) };
        let random = |seed| Checkpoint::random(unet.clone(), Role::Student, seed).unwrap();
        let checkpoint = random(1);
        checkpoint.check("random").unwrap();
        assert_eq!(checkpoint, random(1));
        assert_ne!(checkpoint.tensors, random(2).tensors);
        let spread = |name: &str, centre: f32| {
            let (_, values) = &checkpoint.tensors[name];
            (values.iter().map(|x| (x - centre).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
        };
        let fan_in = (32.0f32 * 9.0).sqrt();
        for last in ["enc.4x4_block0.conv1.weight", "dec.4x4_aux_conv.weight"] {
            assert!((spread(last, 0.0) * fan_in - 1.0).abs() < 0.1, "{last}");
        }
        assert!((spread("dec.4x4_aux_norm.weight", 1.0) - 0.2).abs() < 0.1);
        assert!(Checkpoint::random(Unet { blocks: 0, ..unet.clone() }, Role::Student, 1).is_err());
    }

    fn error(checkpoint: &Checkpoint) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let error = checkpoint.write(&path, Precision::F16).unwrap_err().to_string();
        assert!(!path.exists());
        error.rsplit_once("a.safetensors: ").unwrap().1.to_owned()
    }

    #[test]
    fn what_is_written_is_read() {
        let written = checkpoint(unet(4));
        let exact = bytes(&written, Precision::F32);
        assert_eq!(Checkpoint::from_bytes("x", &exact).unwrap(), written);
        assert_eq!(exact, bytes(&written.clone(), Precision::F32), "the same checkpoint is the same bytes");
        safetensors::SafeTensors::deserialize(&exact).unwrap();

        let rounded = Checkpoint::from_bytes("x", &bytes(&written, Precision::F16)).unwrap();
        for (name, (shape, values)) in &written.tensors {
            let read = rounded.tensor(name, values.len()).unwrap();
            assert_eq!(*shape, rounded.tensors[name].0);
            for (a, b) in values.iter().zip(read) {
                assert!((a - b).abs() <= a.abs() / 2048.0 + 3e-8, "{name}: {a} became {b}");
            }
        }
        assert!(written.tensor("enc.4x4_conv.weight", 36).is_ok());
        let error = |name| written.tensor(name, 35).unwrap_err().to_string();
        assert_eq!(
            error("enc.4x4_conv.weight"),
            r#"checkpoint: tensor "enc.4x4_conv.weight" has shape [4, 1, 3, 3] where the network has [35]"#
        );
        assert_eq!(error("no"), r#"checkpoint: tensor "no" of shape [35] is missing"#);
    }

    #[test]
    fn shapes_are_those_of_the_documentation() {
        let written = checkpoint(unet(4));
        let shape = |name: &str| written.tensors[name].0.as_slice();
        assert_eq!(shape("enc.4x4_block0.conv0.weight"), [4, 4, 3, 3]);
        assert_eq!(shape("enc.4x4_block0.affine.weight"), [4, 16, 1, 1]);
        assert_eq!(shape("enc.4x4_block0.norm0.weight"), [4]);
        assert_eq!(shape("enc.4x4_block0.norm0.bias"), [4]);
    }

    #[test]
    fn damaged_files_are_errors() {
        let written = checkpoint(unet(4));
        let whole = bytes(&written, Precision::F16);
        for length in 0..whole.len() {
            let error = Checkpoint::from_bytes("x", &whole[..length]).unwrap_err().to_string();
            assert!(error.starts_with("x: not a safetensors file: ") && !error.contains('\n'), "{error}");
        }
        let mut trailing = whole.clone();
        trailing.push(0);
        Checkpoint::from_bytes("x", &trailing).unwrap_err();

        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
        let mut state = 1u64;
        for i in 0..2000 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let mut damaged = whole.clone();
            // Every second flip hits the header, where there is more to get wrong.
            let range = if i % 2 == 0 { header } else { whole.len() };
            damaged[(state >> 33) as usize % range] ^= 1 << (state >> 30 & 7);
            if let Err(error) = Checkpoint::from_bytes("x", &damaged) {
                assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }

    #[test]
    fn hostile_headers_are_errors() {
        let file = |header: &str| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.as_bytes());
            let error = read(&bytes);
            assert!(!error.contains('\n'), "{error}");
            error
        };
        fn read(bytes: &[u8]) -> String {
            Checkpoint::from_bytes("x", bytes).unwrap_err().to_string()
        }
        assert_eq!(
            read(&[0xff; 64]),
            format!("x: not a safetensors file: a header of {} bytes is longer than the file", u64::MAX)
        );
        // Eight tensors that end 8 bytes before 2⁶⁴.
        let quarter = 1u64 << 59;
        let tensor = |i: u64| {
            let elements = if i == 7 { quarter - 2 } else { quarter };
            let (start, end) = (4 * i * quarter, 4 * (i * quarter + elements - 1) + 4);
            format!(r#""{i}":{{"dtype":"F32","shape":[{elements}],"data_offsets":[{start},{end}]}}"#)
        };
        let tensors: Vec<String> = (0..8).map(tensor).collect();
        file(&format!("{{{}}}", tensors.join(",")));
        file(r#"{"a\n":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#);
        file(&"[".repeat(100_000));
        assert_eq!(file("{}"), r#"x: not a checkpoint: metadata "format": it is missing"#);
        let metadata = |version: &str, network: &str| {
            let texts = serde_json::json!({ "__metadata__": {
                "format": FORMAT, "version": version, "role": "pupil", "network": network, "provenance": "{}"
            }});
            file(&texts.to_string())
        };
        assert_eq!(metadata("2", ""), r#"x: not a checkpoint: metadata "version": it is "2", not "1""#);
        assert!(metadata("1", "{}").ends_with(r#"it is "pupil", neither teacher nor student"#));
    }

    #[test]
    fn hostile_networks_are_errors() {
        let mut written = checkpoint(unet(4));
        for image in [[0, 4, 4], [1, 0, 4], [u16::MAX, u16::MAX, u16::MAX], [1, 65535, 1]] {
            for base in [0, 1, 3, u16::MAX] {
                for mult in [vec![], vec![0], vec![u16::MAX; 8], vec![1; 9]] {
                    written.unet =
                        Unet { image, base, mult, blocks: 64, augment_labels: u16::MAX, ..unet(4) };
                    assert!(!error(&written).contains('\n'));
                }
            }
        }
    }

    #[test]
    fn the_first_tensor_that_does_not_fit_is_named() {
        let written = checkpoint(unet(4));
        let other = Checkpoint { unet: unet(8), ..written.clone() };
        assert_eq!(
            error(&other),
            r#"tensor "map_layer0.weight" has shape [16, 4, 1, 1] where the network has [32, 8, 1, 1]"#
        );
        let mut missing = written.clone();
        missing.tensors.remove("enc.4x4_block0.norm0.bias");
        assert_eq!(error(&missing), r#"tensor "enc.4x4_block0.norm0.bias" of shape [4] is missing"#);
        let mut extra = written.clone();
        extra.tensors.insert("momentum".into(), (vec![2], vec![0.0; 2]));
        assert_eq!(error(&extra), r#"tensor "momentum" of shape [2] is not in the network"#);
        let mut short = written.clone();
        short.tensors.get_mut("map_layer0.bias").unwrap().1.pop();
        assert_eq!(error(&short), r#"tensor "map_layer0.bias" has shape [16] and 15 values"#);
        for value in [f32::NAN, f32::INFINITY, 65_520.0] {
            let mut wild = written.clone();
            wild.tensors.get_mut("map_layer0.bias").unwrap().1[3] = value;
            let expected = format!(
                r#"tensor "map_layer0.bias" has {value} at 3, which is not a finite number of its type"#
            );
            assert_eq!(error(&wild), expected);
        }
    }

    #[test]
    fn any_tensors_can_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimiser.safetensors");
        let texts = Texts::from([("step".into(), "7".into())]);
        let tensors = Tensors::from([
            ("scalar".into(), (Vec::new(), vec![1e-30])),
            ("empty".into(), (vec![0, 3], Vec::new())),
        ]);
        write_tensors(&path, &texts, &tensors, Precision::F32).unwrap();
        assert_eq!(read_tensors(&path).unwrap(), (texts, tensors));
        let missing = read_tensors(&folder.path().join("no")).unwrap_err().to_string();
        assert!(missing.contains("no: No such file"), "{missing}");
    }
}
