//! Checkpoints with random weights.

use traflow_graph::checkpoint::{Checkpoint, Role, Tensors, parameters};
use traflow_graph::noise::Noise;
use traflow_graph::unet::{Architecture, SConditioning, Unet};

/// A small DDPM++ for pictures of `size` × `size`, with attention in both levels.
pub(crate) fn unet(size: u16, role: Role) -> Unet {
    let teacher = role == Role::Teacher;
    Unet {
        architecture: Architecture::Ddpmpp,
        image: [3, size, size],
        base: 8,
        mult: vec![1, 2],
        blocks: 1,
        attention: vec![size, size / 2],
        augment_labels: if teacher { 9 } else { 0 },
        s_conditioning: if teacher { SConditioning::None } else { SConditioning::TiedMean },
        ..Unet::default()
    }
}

/// Weights that keep values near 1, so that every node matters.
pub(crate) fn checkpoint(unet: Unet, role: Role) -> Checkpoint {
    let mut tensors = Tensors::new();
    for (index, (name, shape)) in parameters(&unet.graph().unwrap()).into_iter().enumerate() {
        let mut values = vec![0.0; shape.iter().product()];
        Noise::stream(5, index as u32).fill(&mut values);
        let fan_in: usize = shape[1..].iter().product();
        let is_norm = name.ends_with(".weight") && shape.len() == 1;
        let (mean, deviation) = match () {
            () if is_norm => (1.0, 0.2),
            () if shape.len() == 1 => (0.0, 0.3),
            () => (0.0, (fan_in as f32).sqrt().recip()),
        };
        values.iter_mut().for_each(|value| *value = mean + deviation * *value);
        tensors.insert(name, (shape, values));
    }
    let provenance = [("licence".to_owned(), "MIT".into())].into_iter().collect();
    Checkpoint { unet, role, provenance, tensors }
}
