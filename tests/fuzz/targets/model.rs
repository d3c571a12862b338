//! Bytes as a model file, with the checksum put right: an error, or a model that runs, with the same numbers of integers on every
//! instruction set.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use traflow_graph::model::{Dtype, Model, seal};
use traflow_runtime::{Cpu, Engine, IntegerEngine, Isa};

/// A record decides how long a model takes and how much memory: strangers' models need limits, and so does this.
const MACS: u64 = 1 << 22;
const ARENA: usize = 1 << 22;

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut words: Vec<u64> = bytemuck::pod_collect_to_vec(data);
    let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut words)[..data.len()];
    seal(bytes);
    let Ok(model) = Model::new(bytes) else { return Corpus::Keep };
    let Some(steps) = model.steps().min() else { return Corpus::Keep };
    let macs = model.nodes().map(|node| node.macs()).fold(0, u64::saturating_add);
    if macs.saturating_mul(steps as u64) > MACS || model.arena_bytes() > ARENA {
        return Corpus::Reject;
    }
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut expected: Option<Vec<i16>> = None;
    for isa in Isa::all() {
        if model.weights() == Dtype::I8 {
            let mut engine = IntegerEngine::on(Cpu::new(isa), model, &mut arena).expect("a valid model");
            let found = engine.generate(1, steps).expect("steps that are offered").numbers.to_vec();
            assert_eq!(*expected.get_or_insert_with(|| found.clone()), found, "{isa}");
        } else {
            let mut engine = Engine::on(Cpu::new(isa), model, &mut arena).expect("a valid model");
            engine.set_class(model.classes().checked_sub(1)).expect("a class that is offered");
            engine.generate(1, steps).expect("steps that are offered");
        }
    }
    Corpus::Keep
});
