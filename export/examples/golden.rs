use traflow_export::{Options, export};
use traflow_graph::checkpoint::{Checkpoint, Role, Tensors, parameters};
use traflow_graph::model::{Dtype, Model};
use traflow_graph::noise::Noise;
use traflow_graph::unet::{Architecture, SConditioning, Unet};
use traflow_runtime::Engine;

const SEED: u64 = 7;
const STEPS: usize = 2;

/// A student with weights that keep values near 1.
fn checkpoint() -> Checkpoint {
    let unet = Unet {
        architecture: Architecture::Ddpmpp,
        image: [1, 8, 8],
        base: 4,
        mult: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        augment_labels: 0,
        s_conditioning: SConditioning::TiedMean,
    };
    let mut tensors = Tensors::new();
    for (index, (name, shape)) in parameters(&unet.graph().unwrap()).into_iter().enumerate() {
        let mut values = vec![0.0; shape.iter().product()];
        Noise::stream(1, index as u32).fill(&mut values);
        let fan_in: usize = shape[1..].iter().product();
        let centre = f32::from(u8::from(shape.len() == 1 && name.ends_with(".weight")));
        let spread = if shape.len() == 1 { 0.2 } else { (fan_in as f32).sqrt().recip() };
        values.iter_mut().for_each(|value| *value = centre + spread * *value);
        tensors.insert(name, (shape, values));
    }
    Checkpoint { unet, role: Role::Student, provenance: serde_json::Map::new(), tensors }
}

fn picture(file: &[u8]) -> Vec<f32> {
    let mut mem = vec![0u8; file.len() + 63];
    let skip = mem.as_ptr().align_offset(64);
    mem[skip..][..file.len()].copy_from_slice(file);
    let model = Model::new(&mem[skip..][..file.len()]).unwrap();
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    engine.generate(SEED, STEPS).unwrap().to_vec()
}

fn main() {
    let written = export(&checkpoint(), &Options { weights: Dtype::F16, steps: vec![1, 2], winograd: true })
        .unwrap()
        .file;
    std::fs::write("tests/golden/tiny-v2.traflow", &written).unwrap();
    std::fs::write("tests/golden/tiny-v2.json", serde_json::to_string(&picture(&written)).unwrap() + "\n")
        .unwrap();
}
