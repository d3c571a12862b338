//! The screens of the boards as PNG files, on the host:
//! `TRAFLOW_MODEL=digits.traflow cargo run --bin simulator -- oled.png screen.png`.

use embedded_graphics::pixelcolor::{Gray4, Rgb888};
use embedded_graphics::prelude::*;
use embedded_graphics_simulator::{OutputSettingsBuilder, SimulatorDisplay};
use firmware_demo::{Digest, draw};
use traflow_runtime::Mix;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [oled_path, screen_path] = &paths[..] else { return Err("name two PNG files".into()) };
    let mut engine = firmware_demo::engine()?;
    let steps = engine.model().steps().next().unwrap_or(1);

    let mut oled = SimulatorDisplay::<Gray4>::new(Size::new(128, 64));
    for (seed, at) in (0..4).flat_map(|seed| [0, 64, 128, 192].map(|at| (seed, at))) {
        let picture = engine.mix(&Mix::new([seed, seed + 1, seed, seed + 1], [at, 0]), steps)?;
        println!("shown: seed {seed} at {at} {}", Digest::of(&picture));
        draw::label(&mut oled, &picture, [seed, seed + 1], at)?;
    }
    let picture = engine.generate(1, steps)?;
    draw::label(&mut oled, &picture, [1, 2], 0)?;
    let settings = OutputSettingsBuilder::new().scale(4).build();
    oled.to_rgb_output_image(&settings).save_png(oled_path)?;

    let mut screen = SimulatorDisplay::<Rgb888>::new(Size::new(640, 480));
    for index in 0..draw::GRID[0] * draw::GRID[1] {
        draw::cell(&mut screen, &engine.generate(index.into(), steps)?, index)?;
    }
    screen.to_rgb_output_image(&OutputSettingsBuilder::new().build()).save_png(screen_path)?;
    Ok(())
}
