//! AMX: eight registers of 16 rows of 64 bytes, for products of matrices of 8 bits. The library of Rust 1.95 has no functions
//! for its instructions, so they are assembly here.

use core::arch::asm;

use traflow_graph::quant::QUAD;

use super::cpuid::Features;
use super::matrix::{BLOCKS, Blocks, Sums};
use super::{LANES, Row};

/// The processor has AMX for integers of 8 bits, and the operating system lets this process use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amx(());

impl Amx {
    pub(super) fn of(features: Features) -> Option<Self> {
        (features.amx_int8() && permitted()).then_some(Self(()))
    }
}

/// Asks Linux for the registers, which it gives to a process that asks.
#[cfg(all(target_os = "linux", not(miri)))]
fn permitted() -> bool {
    const ARCH_PRCTL: usize = 158;
    const REQUEST_PERMISSION: usize = 0x1023;
    const TILE_DATA: usize = 18;
    let mut result = ARCH_PRCTL;
    // SAFETY: this system call reads and writes no memory of the process.
    unsafe {
        asm!(
            "syscall",
            inout("rax") result,
            in("rdi") REQUEST_PERMISSION,
            in("rsi") TILE_DATA,
            out("rcx") _,
            out("r11") _,
            options(nostack, nomem),
        );
    }
    result == 0
}

/// How other systems are asked is not known here.
#[cfg(not(all(target_os = "linux", not(miri))))]
fn permitted() -> bool {
    false
}

/// The shapes of the registers.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

/// What one product steps by.
#[repr(C)]
struct Steps {
    /// Products of registers for a row of the kernel.
    chunks: usize,
    /// Bytes of a row of a register of pixels.
    chunk: usize,
    /// Bytes of a register of weights.
    weights: usize,
    /// From the end of a row of the kernel to the next one.
    skip: usize,
}

impl Amx {
    /// The sums of the products of blocks with their panels.
    pub(super) fn multiply(self, blocks: &Blocks<'_>, sums: &mut [Sums; BLOCKS]) {
        blocks.check();
        let Blocks { factors, places, pixels, next, kernel, row, depth, panels } = *blocks;
        let chunk = Blocks::chunk(depth);
        // Four registers of sums, then pixels and weights in turn.
        let (of_pixels, quads, of_row) = (pixels as u8, (chunk / QUAD) as u8, chunk as u16);
        let mut config =
            Config { palette: 1, start: 0, reserved: [0; 14], bytes_of_row: [0; 16], rows: [0; 16] };
        let bytes = size_of::<Row>() as u16;
        config.bytes_of_row[..8].copy_from_slice(&[bytes, bytes, bytes, bytes, of_row, bytes, of_row, bytes]);
        config.rows[..8].copy_from_slice(&[
            of_pixels, of_pixels, of_pixels, of_pixels, of_pixels, quads, of_pixels, quads,
        ]);
        let steps = Steps {
            chunks: depth / chunk,
            chunk,
            weights: chunk / QUAD * size_of::<Row>(),
            skip: row.wrapping_sub(depth),
        };
        // SAFETY: the token exists. The shapes are at most 16 rows of 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        for (places, sums) in places.as_chunks::<2>().0.iter().zip(sums.as_chunks_mut::<2>().0) {
            // SAFETY: the token exists. The check has seen that blocks are inside the factors and that panels have all quads.
            // Each register of sums fits into its array. The compiler uses none of these registers.
            unsafe {
                asm!(
                    "tilezero tmm0",
                    "tilezero tmm1",
                    "tilezero tmm2",
                    "tilezero tmm3",
                    "2:",
                    "mov {count}, [{steps}]",
                    "3:",
                    "tileloadd tmm4, [{first} + {next}]",
                    "tileloadd tmm5, [{left} + {line}]",
                    "tdpbusd tmm0, tmm4, tmm5",
                    "tileloadd tmm7, [{right} + {line}]",
                    "tdpbusd tmm1, tmm4, tmm7",
                    "tileloadd tmm6, [{second} + {next}]",
                    "tdpbusd tmm2, tmm6, tmm5",
                    "tdpbusd tmm3, tmm6, tmm7",
                    "add {first}, [{steps} + 8]",
                    "add {second}, [{steps} + 8]",
                    "add {left}, [{steps} + 16]",
                    "add {right}, [{steps} + 16]",
                    "dec {count}",
                    "jnz 3b",
                    "add {first}, [{steps} + 24]",
                    "add {second}, [{steps} + 24]",
                    "dec {kernel}",
                    "jnz 2b",
                    "tilestored [{sums} + {line}], tmm0",
                    "tilestored [{sums} + {line} + 1024], tmm1",
                    "tilestored [{sums} + {line} + 2048], tmm2",
                    "tilestored [{sums} + {line} + 3072], tmm3",
                    first = inout(reg) factors.as_ptr().add(places[0]) => _,
                    second = inout(reg) factors.as_ptr().add(places[1]) => _,
                    left = inout(reg) panels[0].as_ptr() => _,
                    right = inout(reg) panels[1].as_ptr() => _,
                    next = in(reg) next,
                    line = in(reg) size_of::<[i32; LANES]>(),
                    steps = in(reg) &steps,
                    sums = in(reg) sums.as_mut_ptr(),
                    count = out(reg) _,
                    kernel = inout(reg) kernel => _,
                    options(nostack),
                );
            }
        }
        // SAFETY: the token exists.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::ROWS;
    use super::*;
    use std::vec::Vec;
    use traflow_graph::noise::Noise;

    /// The sum of the products of a pixel of a block with an output channel of a panel.
    fn expected(blocks: &Blocks<'_>, block: usize, pixel: usize, panel: usize, lane: usize) -> i32 {
        let of_tap = |index: usize| {
            let (down, right) = (index / blocks.depth, index % blocks.depth);
            let factor =
                blocks.factors[blocks.places[block] + pixel * blocks.next + down * blocks.row + right];
            i32::from(factor) * i32::from(blocks.panels[panel][index / QUAD][lane][index % QUAD])
        };
        (0..blocks.kernel * blocks.depth).map(of_tap).sum()
    }

    #[test]
    fn products_are_the_definition() {
        let Some(amx) = Amx::of(Features::detect()) else { return };
        let noise = Noise::new(5);
        let factors: Vec<u8> = (0..6000).map(|i| noise.word(i) as u8).collect();
        let weights: Vec<i8> = (6000..13_000).map(|i| noise.word(i) as i8).collect();
        let rows: &[Row] = weights.as_chunks().0.as_chunks().0;
        for (pixels, next, kernel, row, depth) in
            [(16, 64, 3, 1200, 64), (7, 20, 1, 0, 60), (1, 4, 3, 12, 12)]
        {
            let quads = kernel * depth / QUAD;
            let panels = [&rows[..quads], &rows[50..50 + quads]];
            let places = core::array::from_fn(|block| block * 100 + block % 3);
            let blocks = Blocks { factors: &factors, places, pixels, next, kernel, row, depth, panels };
            let mut sums = [[[[7; LANES]; ROWS]; 2]; BLOCKS];
            amx.multiply(&blocks, &mut sums);
            for index in 0..BLOCKS * 2 * pixels * LANES {
                let (block, panel) = (index / (2 * pixels * LANES), index / (pixels * LANES) % 2);
                let (pixel, lane) = (index / LANES % pixels, index % LANES);
                assert_eq!(sums[block][panel][pixel][lane], expected(&blocks, block, pixel, panel, lane));
            }
        }
    }
}
