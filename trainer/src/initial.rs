//! Weights that a training starts from.

use std::collections::BTreeMap;

use burn::tensor::Device;
use serde_json::json;
use traflow_graph::checkpoint::{self, Checkpoint};
use traflow_graph::graph::Graph;
use traflow_graph::noise::Noise;
use traflow_graph::unet::{SConditioning, TO_SCOPE, Unet};

use anyhow::{Result, ensure};

use crate::flow::Stream;
use crate::network::Network;

/// Random weights as EDM has them: uniform by Xavier, nearly zero at the end of each residual branch, so that a fresh
/// block is nearly the identity; frequencies of NCSN++ are 16 times normal numbers.
pub fn random(graph: Graph, seed: u64, device: &Device) -> Network {
    let mut random = Random::new(seed);
    let network = Network::new(graph, device, |name, dimensions| {
        Ok::<_, std::convert::Infallible>(random.values(name, dimensions))
    });
    match network {
        Ok(network) => network,
        Err(never) => match never {},
    }
}

/// Random weights, one parameter after the other.
struct Random {
    noise: Noise,
    index: u64,
}

impl Random {
    fn new(seed: u64) -> Self {
        Self { noise: Noise::stream(seed, Stream::Weights as u32), index: 0 }
    }

    fn values(&mut self, name: &str, [out, input, k, _]: [usize; 4]) -> Vec<f32> {
        let node = name.rsplit_once('.').map_or(name, |(node, _)| node);
        let last = node.rsplit(['.', '_']).next().unwrap_or(node);
        let in_network = node.starts_with("enc.") || node.starts_with("dec.");
        let gain = match last {
            "conv1" | "proj" if in_network => 1e-5,
            "conv" if node.starts_with("dec.") || node.starts_with("out") => 1e-5,
            "qkv" => 0.2f32.sqrt(),
            _ => 1.0,
        };
        let bound = gain * (6.0 / ((input + out) * k * k) as f32).sqrt();
        let (first, len) = (self.index, (out * input * k * k) as u64);
        self.index += len;
        if name.ends_with(".bias") || starts_as_zero(name) {
            return vec![0.0; len as usize];
        }
        if last.starts_with("norm") {
            return vec![1.0; len as usize];
        }
        if last == "noise" {
            let mut frequencies = vec![0.0; len as usize];
            self.noise.fill_from(first, &mut frequencies);
            return frequencies.into_iter().map(|frequency| 16.0 * frequency).collect();
        }
        (first..first + len).map(|i| bound * (self.noise.uniform(i) * 2.0 - 1.0)).collect()
    }
}

/// Whether a parameter is of what the target time adds to every block, which starts without effect.
fn starts_as_zero(name: &str) -> bool {
    name.contains(".affine_to.")
}

/// The network of a checkpoint.
///
/// # Errors
/// Where the checkpoint lacks a tensor.
pub fn from_checkpoint(checkpoint: &Checkpoint, device: &Device) -> Result<Network> {
    Network::new(checkpoint.unet.graph()?, device, |name, dimensions| {
        Ok(checkpoint.tensor(name, dimensions.iter().product())?.to_vec())
    })
}

/// Where a parameter of a student comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The teacher's of the same name, or for MLP_s that of MLP_t.
    Teacher,
    /// Zero, so that the target time has no effect at first.
    Zero,
    /// Random: the teacher has none of this name and shape.
    Random,
}

/// A line for each parameter: where it comes from, and its name.
pub fn report(origins: &[(String, Origin)]) -> String {
    let line =
        |(name, origin): &(String, Origin)| format!("{:<8}{name}\n", format!("{origin:?}").to_lowercase());
    origins.iter().map(line).collect()
}

/// Whether weights of this teacher mean the same in this student: names and shapes do not tell what is made of them.
///
/// # Errors
/// Names the first field in which the networks differ, and both values.
pub fn check(student: &Unet, teacher: &Unet) -> Result<()> {
    for (field, of_student, of_teacher) in [
        ("architecture", json!(student.architecture), json!(teacher.architecture)),
        ("head", json!(student.head), json!(teacher.head)),
        ("level", json!(student.level), json!(teacher.level)),
        ("variant", json!(student.variant), json!(teacher.variant)),
    ] {
        ensure!(
            of_student == of_teacher,
            "the student's {field} is {of_student}, the teacher's {of_teacher}: its weights would mean something \
             else; set initial = \"random\""
        );
    }
    Ok(())
}

/// A student that starts from its teacher: each parameter is the teacher's where it has one of this name and shape.
/// MLP_s, which a teacher lacks, is a copy of its MLP_t, and what else tells the student of s starts as zero (§5.2), so
/// that with equal sizes u(x, t, t) is the teacher's v(x, t). A teacher that is told of s in the same way, a student
/// itself, lacks nothing. Says of each parameter where it comes from.
///
/// # Errors
/// Where no convolution is the teacher's.
pub fn from_teacher(
    student: &Unet,
    teacher: &Checkpoint,
    seed: u64,
    device: &Device,
) -> Result<(Network, Vec<(String, Origin)>)> {
    let mut random = Random::new(seed);
    let mut origins = Vec::new();
    let prefix = format!("{TO_SCOPE}.");
    let closed = format!("{TO_SCOPE}.map_layer1.");
    let lacks_s = teacher.unet.s_conditioning != student.s_conditioning;
    let shapes: BTreeMap<String, Vec<usize>> =
        checkpoint::parameters(&student.graph()?).into_iter().collect();
    let network = Network::new(student.graph()?, device, |name, dimensions| {
        // The random numbers of a parameter do not depend on which others are the teacher's.
        let fresh = random.values(name, dimensions);
        let delta = student.s_conditioning == SConditioning::Delta && name.starts_with(&closed);
        let of_teacher = match name.strip_prefix(&prefix) {
            Some(of_t) if lacks_s => of_t,
            _ => name,
        };
        let (origin, values) = match teacher.tensors.get(of_teacher) {
            _ if lacks_s && (delta || starts_as_zero(name)) => (Origin::Zero, vec![0.0; fresh.len()]),
            Some((shape, values)) if shapes.get(name) == Some(shape) => (Origin::Teacher, values.clone()),
            _ => (Origin::Random, fresh),
        };
        origins.push((name.to_owned(), origin));
        Ok::<_, anyhow::Error>(values)
    })?;
    let is_matrix = |name: &str| shapes.get(name).is_some_and(|shape| shape.len() == 4);
    let fits = origins.iter().any(|(name, origin)| *origin == Origin::Teacher && is_matrix(name));
    ensure!(
        fits,
        "no weight of the student has name and shape of one of its teacher's; set initial = \"random\""
    );
    Ok((network, origins))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Times;
    use burn::tensor::Tensor;
    use traflow_graph::checkpoint::{Role, Tensors};
    use traflow_graph::unet::Architecture;

    fn unet() -> Unet {
        Unet {
            architecture: Architecture::Ddpmpp,
            image: [1, 8, 8],
            base: 8,
            mult: vec![1, 2],
            blocks: 1,
            attention: vec![4],
            s_conditioning: SConditioning::TiedMean,
            ..Unet::default()
        }
    }

    #[test]
    fn branches_start_nearly_closed_and_norms_open() {
        let network = random(unet().graph().unwrap(), 1, &Device::flex());
        let largest = |name: &str| {
            let parameter = network.parameters.iter().find(|p| p.name == name).unwrap();
            parameter.value.clone().abs().max().into_scalar::<f32>()
        };
        for closed in ["enc.8x8_block0.conv1", "dec.8x8_aux_conv", "dec.4x4_in0.proj"] {
            let name = format!("{closed}.weight");
            assert!((1e-9..1e-4).contains(&largest(&name)), "{name}: {}", largest(&name));
        }
        for open in ["enc.8x8_conv", "enc.8x8_block0.conv0", "map_layer0", "to.map_layer0", "dec.4x4_in0.qkv"]
        {
            let name = format!("{open}.weight");
            assert!(largest(&name) > 0.05, "{name}: {}", largest(&name));
        }
        assert_eq!(largest("dec.8x8_aux_norm.weight"), 1.0);
        assert_eq!(largest("enc.8x8_block0.norm0.weight"), 1.0);
        assert_eq!(largest("enc.8x8_conv.bias"), 0.0);
    }

    /// A teacher whose weights are far from the start of a training.
    fn teacher(unet: Unet) -> Checkpoint {
        let mut tensors = Tensors::new();
        for (index, (name, shape)) in checkpoint::parameters(&unet.graph().unwrap()).into_iter().enumerate() {
            let mut values = vec![0.0; shape.iter().product()];
            Noise::stream(3, index as u32).fill(&mut values);
            values.iter_mut().for_each(|value| *value *= 0.2);
            tensors.insert(name, (shape, values));
        }
        Checkpoint { unet, role: Role::Teacher, provenance: serde_json::Map::new(), formats: None, tensors }
    }

    /// The untrained student is its teacher at s = t, whichever way it is told of s, in both families.
    #[test]
    fn an_untrained_student_is_its_teacher() {
        let device = Device::flex();
        let x = Tensor::random([3, 1, 8, 8], burn::tensor::Distribution::Default, &device);
        let t = Tensor::<1>::from_floats([0.1, 0.5, 1.0], &device);
        for architecture in [Architecture::Ddpmpp, Architecture::Adm] {
            let told = |s_conditioning| Unet {
                architecture,
                s_conditioning,
                base: 16,
                mult: vec![1, 4],
                labels: 3,
                ..unet()
            };
            let teacher = teacher(told(SConditioning::None));
            let times = Times { t: t.clone(), s: t.clone() };
            let classes = vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
            let of_teacher = from_checkpoint(&teacher, &device).unwrap().with_class_rows(classes.clone());
            let v = of_teacher.forward(x.clone(), &times);
            let kinds =
                [SConditioning::TiedMean, SConditioning::Shared, SConditioning::Ctm, SConditioning::Delta];
            for kind in kinds {
                let (student, origins) = from_teacher(&told(kind), &teacher, 1, &device).unwrap();
                assert!(origins.iter().all(|(_, origin)| *origin != Origin::Random), "{kind:?}");
                let u = student.with_class_rows(classes.clone()).forward(x.clone(), &times);
                let largest = v.clone().abs().max().into_scalar::<f32>();
                let difference = (u - v.clone()).abs().max().into_scalar::<f32>();
                // Delta's embedding of 0 has no effect at all; the others round differently.
                assert!(
                    largest > 0.1 && difference < 1e-4 * largest,
                    "{architecture:?} {kind:?}: {difference}"
                );
            }
        }
    }

    /// Nothing of a student is lost where it teaches another.
    #[test]
    fn a_student_may_be_the_teacher() {
        let device = Device::flex();
        for s_conditioning in
            [SConditioning::TiedMean, SConditioning::Shared, SConditioning::Ctm, SConditioning::Delta]
        {
            let of_students = Unet { s_conditioning, ..unet() };
            let teacher = teacher(of_students.clone());
            let (student, origins) = from_teacher(&of_students, &teacher, 1, &device).unwrap();
            assert!(origins.iter().all(|(_, origin)| *origin == Origin::Teacher), "{s_conditioning:?}");
            assert!(student.tensors().unwrap() == teacher.tensors, "{s_conditioning:?}");
        }
    }

    #[test]
    fn what_does_not_fit_is_random_and_said() {
        let device = Device::flex();
        let teacher = teacher(Unet { s_conditioning: SConditioning::None, ..unet() });
        let deeper = Unet { blocks: 2, ..unet() };
        let (network, origins) = from_teacher(&deeper, &teacher, 1, &device).unwrap();
        let of = |name: &str| origins.iter().find(|(found, _)| found == name).map(|(_, origin)| *origin);
        assert_eq!(of("enc.8x8_block0.conv0.weight"), Some(Origin::Teacher));
        assert_eq!(of("enc.8x8_block1.conv0.weight"), Some(Origin::Random));
        assert_eq!(of("to.map_layer1.bias"), Some(Origin::Teacher));
        assert_eq!(origins.len(), network.parameters.len());
        let other = Unet { base: 12, ..unet() };
        let error =
            from_teacher(&Unet { image: [2, 8, 8], ..other }, &teacher, 1, &device).unwrap_err().to_string();
        assert!(error.starts_with("no weight of the student has name and shape"), "{error}");
    }
}
