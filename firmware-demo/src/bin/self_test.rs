//! The self-test of the model, the digests of some pictures, and the instructions of each node.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod device {
    use firmware_demo::board::{clock, println};
    use firmware_demo::{Digest, MODEL};
    use traflow_runtime::{Aligned, IntegerEngine, Model};

    firmware_demo::entry!(main);

    /// Exit codes, in the order in which things can go wrong.
    const BROKEN_MODEL: u8 = 1;
    const SMALL_ARENA: u8 = 2;
    const FAILED: u8 = 3;

    const SEEDS: u64 = 2;

    static mut ARENA: Aligned<[u8; MODEL.arena_bytes()]> = Aligned([0; MODEL.arena_bytes()]);

    fn main() -> u8 {
        let model = match Model::new(MODEL.bytes()) {
            Ok(model) => model,
            Err(error) => {
                println!("error: the model: {error}");
                return BROKEN_MODEL;
            }
        };
        // SAFETY: this function runs once.
        let arena = unsafe { &mut (*core::ptr::addr_of_mut!(ARENA)).0 };
        println!("model: {} bytes, arena: {} bytes", MODEL.bytes().len(), arena.len());
        let mut engine = match IntegerEngine::new(model, arena) {
            Ok(engine) => engine,
            Err(error) => {
                println!("error: {error}");
                return SMALL_ARENA;
            }
        };
        println!("instruction set: {}", engine.isa().name());
        if let Err(error) = engine.self_test() {
            println!("error: self-test: {error}");
            return FAILED;
        }
        println!("self-test: passed");
        let steps = model.steps().next().unwrap_or(1);
        for seed in 0..SEEDS {
            match engine.generate(seed, steps) {
                Ok(picture) => println!("picture: seed {seed} {}", Digest::of(&picture)),
                Err(error) => {
                    println!("error: {error}");
                    return FAILED;
                }
            }
        }
        let unit = clock::calibrate();
        let (mut last, mut total) = (clock::ticks(), 0);
        let counted = engine.observe(0, steps, &mut |step, index, _| {
            let instructions = (clock::ticks() - last) * 100_000 / unit;
            total += instructions;
            if let Some(node) =
                model.node(index).filter(|node| step == 0 && node.macs() > 0 || instructions > 1000)
            {
                println!("node: {index} {} {instructions} instructions, {} MAC", node.name(), node.macs());
            }
            last = clock::ticks();
        });
        if counted.is_ok() {
            println!("instructions: {total} a picture (counted by QEMU, which is no clock of a real core)");
        }
        0
    }
}

/// The digests of the same pictures, on the host.
#[cfg(not(target_os = "none"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use firmware_demo::{Digest, MODEL};
    use traflow_runtime::{IntegerEngine, Model};
    let model = Model::new(MODEL.bytes())?;
    let mut arena = vec![0; IntegerEngine::arena_bytes(&model)];
    let mut engine = IntegerEngine::new(model, &mut arena)?;
    engine.self_test()?;
    println!("self-test: passed");
    let steps = model.steps().next().unwrap_or(1);
    for seed in 0..2 {
        println!("picture: seed {seed} {}", Digest::of(&engine.generate(seed, steps)?));
    }
    Ok(())
}
