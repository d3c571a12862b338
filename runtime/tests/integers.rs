//! A file of integers is one picture for a seed and a number of steps: on every instruction set and with any number of
//! threads. `UPDATE_GOLDEN=1 cargo test --package traflow-export` writes the files for a new version of the format.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use traflow_graph::model::{Model, seal};
use traflow_graph::noise::Noise;
use traflow_runtime::kernels::int8::Values;
use traflow_runtime::{Cpu, IntegerEngine, Isa, digest};

/// A model file, and the digests of the pictures of 16 seeds by 1 step, then by 4, in hexadecimal.
const GOLDEN: [(&[u8], &str); 2] = [
    (
        include_bytes!("../../tests/golden/gray-int8-v3.traflow"),
        include_str!("../../tests/golden/gray-int8-v3.json"),
    ),
    (
        include_bytes!("../../tests/golden/colour-int8-v3.traflow"),
        include_str!("../../tests/golden/colour-int8-v3.json"),
    ),
];

fn cpus() -> Vec<Cpu> {
    #[cfg(feature = "threads")]
    let of = |isa| (1..=4).map(move |threads| Cpu::with_threads(isa, threads).unwrap());
    #[cfg(not(feature = "threads"))]
    let of = |isa| core::iter::once(Cpu::new(isa));
    Isa::all().flat_map(of).collect()
}

#[test]
fn golden_files_keep_their_pictures_everywhere() {
    for (file, expected) in GOLDEN {
        let blocks: Vec<[u32; 16]> = bytemuck::pod_collect_to_vec(file);
        let expected: Vec<&str> = expected.split('"').skip(1).step_by(2).collect();
        assert_eq!(expected.len(), 32);
        for cpu in cpus() {
            let what = format!("{cpu:?}");
            let model = Model::new(&bytemuck::cast_slice(&blocks)[..file.len()]).unwrap();
            let mut arena = vec![0xa5; IntegerEngine::arena_bytes(&model)];
            let mut engine = IntegerEngine::on(cpu, model, &mut arena).unwrap();
            engine.self_test().unwrap();
            for (index, expected) in expected.iter().enumerate() {
                let (seed, steps) = (index as u64 % 16, [1, 4][index / 16]);
                let picture = engine.generate(seed, steps).unwrap();
                let found = format!("{:08x}", digest(Values::Wide(picture.numbers)));
                assert_eq!(found, *expected, "{what}: seed {seed}, {steps} steps");
            }
        }
    }
}

/// Files with one to three changed bytes and the checksum put right: what the check accepts runs without an overflow, and every
/// instruction set gives the same numbers.
#[test]
fn hostile_files_are_errors_or_run() {
    let random = Noise::new(13);
    let mut ran = 0;
    for (file, _) in GOLDEN {
        let original: Vec<[u32; 16]> = bytemuck::pod_collect_to_vec(file);
        let mut arena =
            vec![0; 4 * Model::new(&bytemuck::cast_slice(&original)[..file.len()]).unwrap().arena_bytes()];
        for round in 0..600u64 {
            let mut blocks = original.clone();
            let bytes = &mut bytemuck::cast_slice_mut::<_, u8>(&mut blocks)[..file.len()];
            // Records come first, and rows of integers last.
            let span = [bytes.len(), 8000, bytes.len()][round as usize % 3];
            for change in 0..=round % 3 {
                let place = random.word(8 * round + 2 * change) as usize % span;
                let place = if round % 3 == 2 { bytes.len() - 1 - place % 8000 } else { place };
                bytes[place] = random.word(8 * round + 2 * change + 1) as u8;
            }
            seal(bytes);
            let Ok(model) = Model::new(bytes) else { continue };
            let Some(steps) = model.steps().next().filter(|steps| *steps < 4) else { continue };
            let mut expected: Option<Vec<i16>> = None;
            for isa in Isa::all() {
                let Ok(mut engine) = IntegerEngine::on(Cpu::new(isa), model, &mut arena) else { continue };
                let found = engine.generate(round, steps).unwrap().numbers.to_vec();
                assert_eq!(*expected.get_or_insert_with(|| found.clone()), found, "round {round}, {isa}");
                ran += 1;
            }
        }
    }
    assert!(ran > 500, "{ran}");
}
