//! A file of integers is one picture for a seed and a number of steps: on every instruction set and with any number of
//! threads. `UPDATE_GOLDEN=1 cargo test --package traflow-export` writes the files for a new version of the format.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use traflow_graph::model::Model;
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
