//! Burn, the exported file and the runtime make the same pictures of the committed student.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use traflow_export::{Options, export, integers};
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::model::{Dtype, Model};
use traflow_graph::noise::{Noise, UNIT};
use traflow_runtime::{Engine, IntegerEngine};
use traflow_trainer::device::DeviceName;
use traflow_trainer::network::Network;
use traflow_trainer::sample::{Sampler, sample};
use traflow_trainer::solver::Solver;
use traflow_trainer::{flow, initial};

const SEEDS: [u64; 4] = [0, 7, 1 << 40, u64::MAX];

fn checkpoint(name: &str) -> Checkpoint {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models").join(name);
    Checkpoint::read(&path).unwrap()
}

/// A model file, aligned to its words.
fn exported(checkpoint: &Checkpoint, weights: Dtype) -> Vec<u32> {
    let exported = export(checkpoint, &Options { weights, steps: vec![1, 2, 4], winograd: true }).unwrap();
    assert_eq!(exported.report.differences.len(), 3);
    for difference in &exported.report.differences {
        assert!(difference.folding <= 1e-6, "folding changes {}", difference.folding);
    }
    bytemuck::pod_collect_to_vec(&exported.file)
}

/// Pictures of the seeds by the runtime.
fn by_runtime(file: &[u32], steps: usize) -> Vec<f32> {
    let model = Model::new(bytemuck::cast_slice(file)).unwrap();
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    SEEDS.iter().flat_map(|&seed| engine.generate(seed, steps).unwrap().to_vec()).collect()
}

/// Pictures of the seeds by Burn.
fn by_burn(checkpoint: &Checkpoint, device: &Device, sampler: Sampler) -> Vec<f32> {
    let network = initial::from_checkpoint(checkpoint, device).unwrap();
    sample(&network, sampler, &SEEDS, checkpoint.unet.image(), &mut |_| ()).unwrap()
}

/// Largest difference as a part of the range of the second.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let (low, high) = expected.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
    assert!(high - low > 1.0, "pictures with a range of {}", high - low);
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / (high - low)
}

#[test]
fn burn_and_the_runtime_make_the_same_pictures() {
    let student = checkpoint("fashion-student.safetensors");
    let (single, half) = (exported(&student, Dtype::F32), exported(&student, Dtype::F16));
    for steps in [1, 4] {
        let burn = by_burn(&student, &Device::flex(), Sampler::Map(steps));
        let error = difference(&by_runtime(&single, steps), &burn);
        assert!(error <= 1e-4, "f32, {steps} steps: {error}");
        let error = difference(&by_runtime(&half, steps), &burn);
        assert!(error <= 5e-3, "fp16, {steps} steps: {error}");
    }
}

#[test]
fn an_exported_teacher_is_euler_s_method() {
    let teacher = checkpoint("fashion-teacher.safetensors");
    let burn = by_burn(&teacher, &Device::flex(), Sampler::Ode(Solver::Euler, 4));
    let error = difference(&by_runtime(&exported(&teacher, Dtype::F32), 4), &burn);
    assert!(error <= 1e-4, "{error}");
}

/// A training for integers rounds where a file of integers does. Both differ by finer roundings alone, which turn some
/// numbers into the neighbouring level; without rounding the trainer is farther away.
#[test]
fn the_trainer_rounds_as_integers_do() {
    let student = checkpoint("fashion-student.safetensors");
    let options = integers::Options { correct_bias: false, seeds: 4, ..integers::Options::default() };
    let integers::Exported { file, formats, .. } = integers::export(&student, &options).unwrap();
    let file: Vec<[u32; 16]> = bytemuck::pod_collect_to_vec(&file);
    let model = Model::new(bytemuck::cast_slice(&file)).unwrap();
    let mut arena = vec![0; IntegerEngine::arena_bytes(&model)];
    let mut engine = IntegerEngine::new(model, &mut arena).unwrap();
    let numbers = SEEDS.iter().flat_map(|&seed| engine.generate(seed, 1).unwrap().numbers.to_vec());
    // One channel: the order of the elements is the same.
    let integers: Vec<f32> = numbers.map(|x| f32::from(x) / 4096.0).collect();
    let network = initial::from_checkpoint(&student, &Device::flex()).unwrap();
    let error = |network: &Network| -> f32 {
        let pictures = sample(network, Sampler::Map(1), &SEEDS, student.unet.image(), &mut |_| ()).unwrap();
        pictures.iter().zip(&integers).map(|(a, b)| (a - b).powi(2)).sum()
    };
    let (rounded, plain) = (error(&network.with_formats(Some(&Arc::new(formats)))), error(&network));
    println!("squared errors: rounded {rounded}, plain {plain}");
    assert!(4.0 * rounded < plain, "rounded {rounded}, plain {plain}");
}

/// The CPU kernels of our own are on one side of this, Burn's own operations on the other.
#[test]
fn the_two_cpu_devices_agree() {
    let student = checkpoint("fashion-student.safetensors");
    let flex = by_burn(&student, &DeviceName::Flex.open().unwrap(), Sampler::Map(2));
    let ndarray = by_burn(&student, &DeviceName::Ndarray.open().unwrap(), Sampler::Map(2));
    let error = difference(&flex, &ndarray);
    assert!(error <= 1e-5, "{error}");
}

#[test]
fn a_seed_names_the_same_noise_everywhere() {
    let student = checkpoint("fashion-student.safetensors");
    let shape = student.unet.image();
    let burn = flow::seeded_noise(&SEEDS, shape, &Device::flex()).try_into_vec_as::<f32>().unwrap();
    for (seed, burn) in SEEDS.iter().zip(burn.chunks_exact(shape.elements())) {
        let noise = Noise::new(*seed);
        let integers: Vec<f32> = (0..burn.len() as u64).map(|i| noise.at(i) as f32 * UNIT).collect();
        assert_eq!(burn, integers, "seed {seed}");
    }
    let file = exported(&student, Dtype::F32);
    let model = Model::new(bytemuck::cast_slice(&file)).unwrap();
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena).unwrap();
    let from_noise = engine.run(&burn[..shape.elements()], 2).unwrap().to_vec();
    assert_eq!(from_noise, engine.generate(SEEDS[0], 2).unwrap());
}

/// What an arena held before does not matter, and what was planned is what is used.
#[test]
fn a_trained_student_uses_the_arena_that_was_planned() {
    let student = checkpoint("fashion-student.safetensors");
    let file = exported(&student, Dtype::F16);
    let model = Model::new(bytemuck::cast_slice(&file)).unwrap();
    let planned = model.arena_bytes();
    let run = |fill: u8| {
        let mut arena = vec![fill; planned + 4096];
        // The engine begins at a multiple of 64 bytes.
        let start = arena.as_ptr().align_offset(64);
        let picture = {
            let mut engine = Engine::new(model, &mut arena[start..start + planned]).unwrap();
            engine.generate(3, 2).unwrap().to_vec()
        };
        let outside = arena[..start].iter().chain(&arena[start + planned..]).all(|byte| *byte == fill);
        assert!(outside, "bytes outside the arena were written");
        // A float has four bytes: the last one that was written may hold the old byte by chance in some.
        let touched = arena[start..start + planned].iter().rposition(|byte| *byte != fill).unwrap() + 1;
        assert!(touched + 64 > planned, "{touched} of {planned} bytes were used");
        picture
    };
    let nan = f32::from_bits(u32::from_ne_bytes([0xff; 4]));
    assert!(nan.is_nan());
    assert_eq!(run(0xff), run(0));
}
