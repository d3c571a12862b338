//! Writes the linker script of a board, which `cargo xtask bench-devices` names.

use std::env::var;
use std::fs;

fn main() {
    println!("cargo:rerun-if-env-changed=BOARD");
    println!("cargo:rerun-if-env-changed=MODEL");
    let board = var("BOARD").unwrap_or_default();
    // Where programs and variables lie, and how much of each there is.
    let [flash, flash_bytes, ram, ram_bytes]: [u32; 4] = match board.as_str() {
        "mps2-an386" | "mps2-an500" => [0, 4 << 20, 0x2000_0000, 512 << 10],
        "mps2-an505" => [0x1000_0000, 4 << 20, 0x3800_0000, 512 << 10],
        "mps3-an547" => [0x1000_0000, 512 << 10, 0x3100_0000, 512 << 10],
        "virt" => [0x8000_0000, 4 << 20, 0x8040_0000, 512 << 10],
        _ => return println!("cargo:warning=the environment variable BOARD names no board"),
    };
    let script = format!("{}/board.x", var("OUT_DIR").expect("cargo sets it"));
    let text = format!(
        "MEMORY {{ FLASH : ORIGIN = {flash}, LENGTH = {flash_bytes} RAM : ORIGIN = {ram}, LENGTH = {ram_bytes} }}\n\
         ENTRY(start)\n\
         stack_top = ORIGIN(RAM) + LENGTH(RAM);\n\
         SECTIONS {{\n\
         .vectors : {{ KEEP(*(.vectors)) KEEP(*(.start)) }} > FLASH\n\
         .text : {{ *(.text .text.*) *(.rodata .rodata.* .srodata .srodata.*) . = ALIGN(4); }} > FLASH\n\
         .bss (NOLOAD) : {{ *(.bss .bss.* .sbss .sbss.* COMMON) }} > RAM\n\
         .data : {{ *(.data .data.* .sdata .sdata.*) }} > RAM AT > FLASH\n\
         ASSERT(SIZEOF(.data) == 0, \"nothing here sets variables to their first values\")\n\
         /DISCARD/ : {{ *(.ARM.exidx*) *(.ARM.extab*) *(.eh_frame*) }}\n\
         }}\n"
    );
    fs::write(&script, text).expect("writing the linker script");
    println!("cargo:rustc-link-arg=-T{script}");
}
