//! The self-test of the model, the digests of some pictures, and the instructions of each node.
#![cfg_attr(target_os = "none", no_std, no_main)]

use firmware_demo::{Digest, Failure, MODEL};
use traflow_runtime::IntegerEngine;

#[cfg(target_os = "none")]
use firmware_demo::board::println;

#[cfg(target_os = "none")]
firmware_demo::entry!(main);

const SEEDS: u64 = 2;

fn main() -> Result<(), Failure> {
    let mut engine = firmware_demo::engine()?;
    println!("model: {} bytes, arena: {} bytes", MODEL.bytes().len(), engine.model().arena_bytes());
    println!("instruction set: {}", engine.isa().name());
    engine.self_test()?;
    println!("self-test: passed");
    let steps = engine.model().steps().next().unwrap_or(1);
    for seed in 0..SEEDS {
        println!("picture: seed {seed} {}", Digest::of(&engine.generate(seed, steps)?));
    }
    count(&mut engine, steps)
}

/// Instructions by node.
#[cfg(target_os = "none")]
fn count(engine: &mut IntegerEngine<'_, '_>, steps: usize) -> Result<(), Failure> {
    use firmware_demo::board::clock;
    let model = *engine.model();
    let unit = clock::calibrate();
    let (mut last, mut total) = (clock::ticks(), 0);
    engine.observe(0, steps, &mut |step, index, _| {
        let instructions = (clock::ticks() - last) * 100_000 / unit;
        total += instructions;
        if let Some(node) =
            model.node(index).filter(|node| step == 0 && node.macs() > 0 || instructions > 1000)
        {
            println!("node: {index} {} {instructions} instructions, {} MAC", node.name(), node.macs());
        }
        last = clock::ticks();
    })?;
    println!("instructions: {total} a picture (counted by QEMU, which is no clock of a real core)");
    Ok(())
}

/// Nobody counts on the host.
#[cfg(not(target_os = "none"))]
fn count(_: &mut IntegerEngine<'_, '_>, _: usize) -> Result<(), Failure> {
    Ok(())
}
