//! The format has not changed by accident: the exporter writes the bytes that it once wrote, and they make the same picture.
//!
//! `tests/golden/tiny-v4.traflow` is a network of random weights in format version 4, the only one of floating point that is
//! read, and `tiny-v4.json` its pictures of one seed, of no class in particular and of one. `UPDATE_GOLDEN=1 cargo test --package traflow-tests` writes them anew:
//! for a new version of the format under a new name, and over files of the same version only where the exporter is meant to
//! put other nodes into a file. Those of an older version are removed, since nothing reads them; models are exported again
//! from their checkpoints.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::PathBuf;

use traflow_export::{Options, export};
use traflow_graph::checkpoint::{Checkpoint, Role};
use traflow_graph::model::{Dtype, Model};
use traflow_graph::unet::{Architecture, SConditioning, Unet};
use traflow_runtime::Engine;

const SEED: u64 = 7;
const STEPS: usize = 2;
const CLASSES: [Option<usize>; 2] = [None, Some(1)];

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

/// A student of random weights.
fn checkpoint() -> Checkpoint {
    let unet = Unet {
        architecture: Architecture::Ddpmpp,
        image: [1, 8, 8],
        base: 4,
        mult: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        s_conditioning: SConditioning::TiedMean,
        labels: 3,
        ..Unet::default()
    };
    Checkpoint::random(unet, Role::Student, 1).unwrap()
}

fn pictures(file: &[u8]) -> [Vec<f32>; 2] {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(file);
    let model = Model::new(bytemuck::cast_slice(&words)).unwrap();
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    CLASSES.map(|class| {
        engine.set_class(class).unwrap();
        engine.generate(SEED, STEPS).unwrap().to_vec()
    })
}

#[test]
fn a_golden_file_keeps_its_bytes_and_its_pictures() {
    let (file, numbers) = (path("tiny-v4.traflow"), path("tiny-v4.json"));
    let written = export(&checkpoint(), &Options { weights: Dtype::F16, steps: vec![1, 2], winograd: true })
        .unwrap()
        .file;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &written).unwrap();
        fs::write(&numbers, serde_json::to_string(&pictures(&written)).unwrap() + "\n").unwrap();
    }
    let golden = fs::read(&file).unwrap();
    assert!(written == golden, "the exporter writes other bytes: a change of format needs a new version");
    let expected: Vec<Vec<f32>> = serde_json::from_str(&fs::read_to_string(&numbers).unwrap()).unwrap();
    let difference = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let range = expected[0].iter().fold(0.0f32, |range, x| range.max(x.abs()));
    assert!(range > 0.5, "a picture without content");
    assert!(difference(&expected[0], &expected[1]) > 0.01 * range, "a class that changes nothing");
    let found = pictures(&golden);
    assert_eq!(found.len(), expected.len());
    for ((found, expected), class) in found.iter().zip(&expected).zip(CLASSES) {
        assert_eq!(found.len(), expected.len());
        let worst = difference(found, expected);
        assert!(worst <= 1e-5 * range, "the picture of {class:?} differs by {worst}");
    }
}
