//! Weights that a training starts from.

use burn::tensor::Device;
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::graph::Graph;
use traflow_graph::noise::Noise;
use traflow_graph::unet::ddpmpp::TO_SCOPE;

use anyhow::{Context, Result};

use crate::flow::Stream;
use crate::network::Network;

/// Random weights as EDM has them: uniform by Xavier, nearly zero at the end of each residual branch, so that a fresh
/// block is nearly the identity.
pub fn random(graph: Graph, seed: u64, device: &Device) -> Network {
    let noise = Noise::stream(seed, Stream::Weights as u32);
    let mut index = 0;
    let network = Network::new(graph, device, |name, [out, input, k, _]| {
        let node = name.rsplit_once('.').map_or(name, |(node, _)| node);
        let last = node.rsplit(['.', '_']).next().unwrap_or(node);
        let values = (0..out * input * k * k).map(|_| {
            index += 1;
            noise.uniform(index - 1) * 2.0 - 1.0
        });
        let gain = match last {
            "conv1" | "proj" if node.starts_with("enc.") || node.starts_with("dec.") => 1e-5,
            "conv" if node.starts_with("dec.") => 1e-5,
            "qkv" => 0.2f32.sqrt(),
            _ => 1.0,
        };
        let bound = gain * (6.0 / ((input + out) * k * k) as f32).sqrt();
        Ok::<_, std::convert::Infallible>(match name.ends_with(".bias") {
            true => values.map(|_| 0.0).collect(),
            false if last.starts_with("norm") => values.map(|_| 1.0).collect(),
            false => values.map(|u| bound * u).collect(),
        })
    });
    match network {
        Ok(network) => network,
        Err(never) => match never {},
    }
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

/// A student that starts from its teacher: each parameter is the teacher's of the same name, and MLP_s, which the
/// teacher lacks, is a copy of its MLP_t (§5.2), so that u(x, t, t) is the teacher's v(x, t).
///
/// # Errors
/// Names the first parameter that the teacher does not have in this shape.
pub fn from_teacher(student: Graph, teacher: &Checkpoint, device: &Device) -> Result<Network> {
    let prefix = format!("{TO_SCOPE}.");
    Network::new(student, device, |name, dimensions| {
        let of_teacher = name.strip_prefix(&prefix).unwrap_or(name);
        let tensor = teacher.tensor(of_teacher, dimensions.iter().product());
        Ok(tensor.context("the student's network does not fit its teacher's")?.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use traflow_graph::unet::{Architecture, SConditioning, Unet};

    fn unet() -> Unet {
        Unet {
            architecture: Architecture::Ddpmpp,
            image: [1, 8, 8],
            base: 8,
            mult: vec![1, 2],
            blocks: 1,
            attention: vec![4],
            augment_labels: 0,
            s_conditioning: SConditioning::TiedMean,
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
}
