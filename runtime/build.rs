//! Says which instructions a microcontroller has: the compiler knows, but does not tell before they are stable. And which code
//! a build can do without.

use std::env::var;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(dsp)");
    println!("cargo:rustc-check-cfg=cfg(mve)");
    println!("cargo:rustc-check-cfg=cfg(armv8m)");
    println!("cargo:rustc-check-cfg=cfg(winograd)");
    println!("cargo:rustc-check-cfg=cfg(scalar)");
    let target = var("TARGET").unwrap_or_default();
    let flags = var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    // The flags are apart by this character, and a space where `-C` is one of its own.
    let flags = flags.replace('\u{1f}', " ").replace("-C ", "-C");
    let processor =
        flags.split("-Ctarget-cpu=").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    let has = |names: &[&str]| names.contains(&processor);
    // Of the Armv7-M processors those of this target have it; of the Armv8-M ones these.
    if target.starts_with("thumbv8m.main") {
        println!("cargo:rustc-cfg=armv8m");
    }
    let mve = target.starts_with("thumbv8m.main") && has(&["cortex-m52", "cortex-m55", "cortex-m85"]);
    if mve {
        println!("cargo:rustc-cfg=mve");
    }
    if mve || target.starts_with("thumbv7em") || has(&["cortex-m33", "cortex-m35p"]) {
        println!("cargo:rustc-cfg=dsp");
    }
    // Winograd's convolutions of integers are some kilobytes of code, and slower than direct sums where the compiler keeps code
    // small. In WebAssembly it makes vectors of direct sums.
    if !["s", "z"].contains(&var("OPT_LEVEL").unwrap_or_default().as_str()) && !target.starts_with("wasm32") {
        println!("cargo:rustc-cfg=winograd");
    }
    // A module for pages with simd128 runs only where that is there, and is fetched by whoever waits for a page.
    let features = var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if target != "wasm32-unknown-unknown" || !features.split(',').any(|feature| feature == "simd128") {
        println!("cargo:rustc-cfg=scalar");
    }
}
