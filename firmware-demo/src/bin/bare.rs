//! The engine and nothing else: how large it is, and that it cannot panic, since what a panic would call does not exist.
//! The exit code is that of the self-test.
#![no_std]
#![no_main]

use firmware_demo::Failure;

unsafe extern "C" {
    /// Nowhere: the linker says so if anything refers to it.
    fn something_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: no program has this in it.
    unsafe { something_can_panic() }
}

#[cortex_m_rt::entry]
fn start() -> ! {
    semihosting::process::exit(run().err().map_or(0, |failure| failure.code().into()))
}

fn run() -> Result<(), Failure> {
    let mut engine = firmware_demo::engine()?;
    engine.self_test()?;
    let steps = engine.model().steps().next().unwrap_or(1);
    engine.generate(1, steps)?;
    Ok(())
}
