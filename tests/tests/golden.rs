//! A model file that was written once stays readable and makes the same picture.
//!
//! `tests/golden/tiny-v1.traflow` is a network of random weights in format version 1, and `tiny-v1.json` its picture of
//! one seed; `tiny-v2` is one that version 2 is needed for. `UPDATE_GOLDEN=1 cargo test --package traflow-tests` writes them anew: for a new version of the format,
//! beside the old files, never over them.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;

use traflow_export::{Options, export};
use traflow_graph::checkpoint::{Checkpoint, Role, Tensors, parameters};
use traflow_graph::coefficient::{Head, Level};
use traflow_graph::model::{Dtype, Model};
use traflow_graph::noise::Noise;
use traflow_graph::unet::{Architecture, SConditioning, Unet, Variant};
use traflow_runtime::Engine;

const SEED: u64 = 7;
const STEPS: usize = 2;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A network that version 1 holds, and one of the second version's operations.
fn networks() -> [(&'static str, Unet, Option<usize>); 2] {
    let first = Unet {
        architecture: Architecture::Ddpmpp,
        image: [1, 8, 8],
        base: 4,
        mult: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        s_conditioning: SConditioning::TiedMean,
        ..Unet::default()
    };
    let second = Unet {
        architecture: Architecture::Adm,
        labels: 3,
        head: Head::Edm,
        level: Level::Edm,
        variant: Variant { filter: Some(vec![1, 3, 3, 1]), head_channels: Some(4), ..Variant::default() },
        ..first.clone()
    };
    [("tiny-v1", first, None), ("tiny-v2", second, Some(1))]
}

/// A student with weights that keep values near 1.
fn checkpoint(unet: Unet) -> Checkpoint {
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

fn picture(file: &[u8], class: Option<usize>) -> Vec<f32> {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(file);
    let model = Model::new(bytemuck::cast_slice(&words)).unwrap();
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    engine.set_class(class).unwrap();
    engine.generate(SEED, STEPS).unwrap().to_vec()
}

#[test]
fn golden_files_keep_their_bytes_and_their_pictures() {
    for (name, unet, class) in networks() {
        let (file, numbers) = (path(&format!("{name}.traflow")), path(&format!("{name}.json")));
        let options = Options { weights: Dtype::F16, steps: vec![1, 2] };
        let written = export(&checkpoint(unet), &options).unwrap().file;
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &written).unwrap();
            fs::write(&numbers, serde_json::to_string(&picture(&written, class)).unwrap() + "\n").unwrap();
        }
        let golden = fs::read(&file).unwrap();
        assert!(
            written == golden,
            "{name}: the exporter writes other bytes: a change of format needs a new version"
        );
        let expected: Vec<f32> = serde_json::from_str(&fs::read_to_string(&numbers).unwrap()).unwrap();
        let found = picture(&golden, class);
        assert_eq!(found.len(), expected.len());
        let range = expected.iter().fold(0.0f32, |range, x| range.max(x.abs()));
        assert!(range > 0.5, "{name}: a picture without content");
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-5 * range, "{name}: the picture differs by {worst}");
    }
}
