//! Clothes on the OLED of the LM3S6965 board: from one seed to the next, for ever. Up and down choose a seed, select stays.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(feature = "lm3s6965evb")]
mod device {
    use firmware_demo::board::println;
    use firmware_demo::oled::{Button, Buttons, Oled};
    use firmware_demo::{Digest, MODEL, draw};
    use traflow_runtime::{Aligned, IntegerEngine, Mix, Model};

    firmware_demo::entry!(main);

    /// Pictures on the way from one seed to the next, in 256ths of it.
    const STRIDE: u16 = 64;

    static mut ARENA: Aligned<[u8; MODEL.arena_bytes()]> = Aligned([0; MODEL.arena_bytes()]);
    static mut OLED: Oled = Oled::new();

    fn main() -> u8 {
        // SAFETY: this function runs once.
        let (arena, oled) =
            unsafe { (&mut (*core::ptr::addr_of_mut!(ARENA)).0, &mut *core::ptr::addr_of_mut!(OLED)) };
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
        oled.start();
        let mut buttons = Buttons::default();
        let (mut seed, mut at, mut stays) = (0u64, 0, false);
        loop {
            let seeds = [seed, seed.wrapping_add(1)];
            let Ok(picture) = engine.mix(&Mix::new([seeds[0], seeds[1], seeds[0], seeds[1]], [at, 0]), steps)
            else {
                return 3;
            };
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
}

#[cfg(not(feature = "lm3s6965evb"))]
compile_error!("this program is for --features lm3s6965evb");
