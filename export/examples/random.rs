//! temporary: random checkpoints of presets
use traflow_graph::checkpoint::{Checkpoint, Precision, Role, Tensors, parameters};
use traflow_graph::noise::Noise;
use traflow_graph::unet::{Architecture, SConditioning, Unet};
fn main() {
    let name = std::env::args().nth(1).unwrap();
    let small = |base, blocks| Unet {
        architecture: Architecture::Ddpmpp,
        image: [3, 32, 32],
        base,
        mult: vec![1, 2, 2],
        blocks,
        attention: vec![16],
        augment_labels: 0,
        s_conditioning: SConditioning::TiedMean,
    };
    let unet = match &*name {
        "nano" => small(16, 1),
        "small" => small(32, 2),
        n => Unet { s_conditioning: SConditioning::TiedMean, ..Unet::preset(n, None).unwrap() },
    };
    let mut tensors = Tensors::new();
    for (index, (name, shape)) in parameters(&unet.graph().unwrap()).into_iter().enumerate() {
        let mut values = vec![0.0; shape.iter().product()];
        Noise::stream(5, index as u32).fill(&mut values);
        let fan_in: usize = shape[1..].iter().product();
        let is_norm = name.ends_with(".weight") && shape.len() == 1;
        let (mean, dev) = if is_norm {
            (1.0, 0.1)
        } else if shape.len() == 1 {
            (0.0, 0.1)
        } else {
            (0.0, (fan_in as f32).sqrt().recip())
        };
        values.iter_mut().for_each(|v| *v = mean + dev * *v);
        tensors.insert(name, (shape, values));
    }
    Checkpoint { unet, role: Role::Student, provenance: Default::default(), tensors }
        .write(std::path::Path::new(&std::env::args().nth(2).unwrap()), Precision::F32)
        .unwrap();
}
