//! Pictures in colour on the screen of QEMU's 64-bit Arm machine.
#![no_std]
#![no_main]

use firmware_demo::board::println;
use firmware_demo::ramfb::Ramfb;
use firmware_demo::{Digest, Failure, draw};

firmware_demo::entry!(main);

static mut SCREEN: Ramfb = Ramfb::new();

fn main() -> Result<(), Failure> {
    // SAFETY: this function runs once.
    let screen = unsafe { &mut *&raw mut SCREEN };
    let screen = screen.start().ok_or(Failure::Missing("the machine has no ramfb: add -device ramfb"))?;
    let mut engine = firmware_demo::engine()?;
    let steps = engine.model().steps().next().unwrap_or(1);
    let count = draw::GRID[0] * draw::GRID[1];
    for first in (0u64..).step_by(count as usize) {
        for index in 0..count {
            let seed = first + u64::from(index);
            let picture = engine.generate(seed, steps)?;
            let Ok(()) = draw::cell(screen, &picture, index);
            println!("shown: seed {seed} at 0 {}", Digest::of(&picture));
        }
        println!("screen: {first} to {}", first + u64::from(count) - 1);
    }
    Ok(())
}
