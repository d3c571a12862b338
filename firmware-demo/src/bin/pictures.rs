//! The digests of the pictures of 16 seeds, by every number of steps that the model offers.
#![cfg_attr(target_os = "none", no_std, no_main)]

use firmware_demo::{Digest, Failure};

#[cfg(target_os = "none")]
use firmware_demo::board::println;

#[cfg(target_os = "none")]
firmware_demo::entry!(main);

fn main() -> Result<(), Failure> {
    let mut engine = firmware_demo::engine()?;
    let model = *engine.model();
    for steps in model.steps() {
        for seed in 0..16 {
            println!("{steps} {seed} {}", Digest::of(&engine.generate(seed, steps)?));
        }
    }
    Ok(())
}
