//! Checkpoints with random weights.

use traflow_graph::checkpoint::{Checkpoint, Role};
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

/// Random weights under a licence.
pub(crate) fn checkpoint(unet: Unet, role: Role) -> Checkpoint {
    let mut checkpoint = Checkpoint::random(unet, role, 5).unwrap();
    checkpoint.provenance.insert("licence".to_owned(), "MIT".into());
    checkpoint
}
