//! Clothes on the OLED of the LM3S6965 board: from one seed to the next, for ever. Up and down choose a seed, select stays.
#![no_std]
#![no_main]

use core::ptr::addr_of_mut;

use firmware_demo::board::println;
use firmware_demo::oled::{Button, Buttons, Oled};
use firmware_demo::{Digest, Failure, draw};
use traflow_runtime::Mix;

firmware_demo::entry!(main);

/// Pictures on the way from one seed to the next, in 256ths of it.
const STRIDE: u16 = 64;

static mut OLED: Oled = Oled::new();

fn main() -> Result<(), Failure> {
    // SAFETY: this function runs once.
    let oled = unsafe { &mut *addr_of_mut!(OLED) };
    let mut engine = firmware_demo::engine()?;
    let steps = engine.model().steps().next().unwrap_or(1);
    oled.start();
    let mut buttons = Buttons::default();
    let (mut seed, mut at, mut stays) = (0u64, 0, false);
    loop {
        let seeds = [seed, seed.wrapping_add(1)];
        let picture = engine.mix(&Mix::new([seeds[0], seeds[1], seeds[0], seeds[1]], [at, 0]), steps)?;
        let Ok(()) = draw::label(oled, &picture, seeds, at);
        oled.flush();
        println!("shown: seed {seed} at {at} {}", Digest::of(&picture));
        match buttons.pressed() {
            Some(Button::Up) => (seed, at) = (seed.wrapping_add(1), 0),
            Some(Button::Down) => (seed, at) = (seed.wrapping_sub(1), 0),
            Some(Button::Select) => stays = !stays,
            None if stays => {}
            None if at + STRIDE >= 256 => (seed, at) = (seed.wrapping_add(1), 0),
            None => at += STRIDE,
        }
    }
}
