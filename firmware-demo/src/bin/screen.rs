//! Pictures in colour on the screen of QEMU's 64-bit Arm machine.
#![no_std]
#![no_main]

use firmware_demo::board::println;
use firmware_demo::ramfb::Ramfb;
use firmware_demo::{Digest, MODEL, draw};
use traflow_runtime::{Aligned, IntegerEngine, Model};

firmware_demo::entry!(main);

static mut ARENA: Aligned<[u8; MODEL.arena_bytes()]> = Aligned([0; MODEL.arena_bytes()]);
static mut SCREEN: Ramfb = Ramfb::new();

fn main() -> u8 {
    // SAFETY: this function runs once.
    let (arena, screen) = unsafe { (&mut (*&raw mut ARENA).0, &mut *&raw mut SCREEN) };
    let Some(screen) = screen.start() else {
        println!("error: the machine has no ramfb: add -device ramfb");
        return 4;
    };
    let model = match Model::new(MODEL.bytes()) {
        Ok(model) => model,
        Err(error) => {
            println!("error: the model: {error}");
            return 1;
        }
    };
    let steps = model.steps().next().unwrap_or(1);
    let mut engine = match IntegerEngine::new(model, arena) {
        Ok(engine) => engine,
        Err(error) => {
            println!("error: {error}");
            return 2;
        }
    };
    let count = draw::GRID[0] * draw::GRID[1];
    for first in (0u64..).step_by(count as usize) {
        for index in 0..count {
            let seed = first + u64::from(index);
            let Ok(picture) = engine.generate(seed, steps) else { return 3 };
            let Ok(()) = draw::cell(screen, &picture, index);
            println!("shown: seed {seed} at 0 {}", Digest::of(&picture));
        }
        println!("screen: {first} to {}", first + u64::from(count) - 1);
    }
    0
}
