//! Cortex-M with the vector extension (M55): sixteen products of 8 bits and their sum an instruction, `VMLADAVA`.
//!
//! Compilers have no stable intrinsics for it either: see [`dsp`](super::dsp).

use core::arch::naked_asm;

use traflow_graph::quant::QUAD;

use super::dot::{Dot, End, Sums, Tile, Window};
use super::dsp::Dsp;
use crate::kernels::int8::ValuesMut;

/// A processor that has the extension, for inputs of 8 bits. Their rows stay as they are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mve;

impl Dot for Mve {
    type X = i8;
    const OUTS: usize = 2;
    const ORDER: [usize; QUAD] = [0, 1, 2, 3];

    #[inline(always)]
    fn expand(self, quad: [i8; QUAD]) -> [i8; QUAD] {
        quad
    }

    /// Inputs of 16 bits are left to [`Dsp`].
    #[inline(always)]
    fn expand_wide(self, quad: [i16; QUAD]) -> [i8; QUAD] {
        quad.map(|x| x as i8)
    }

    fn rescale(self, end: &End<'_>, sums: &[Sums], y: &mut ValuesMut<'_>, first: usize) -> bool {
        Dsp.rescale(end, sums, y, first)
    }

    fn block(self, window: &Window<'_, i8>, tile: Tile, weights: &[i8], sums: &mut Sums) {
        if !window.fits::<Self>(tile, weights) {
            return;
        }
        let Tile { at, step, outs, pixels } = tile;
        // SAFETY: the check has seen to it that everything that is read or written is inside the slices.
        unsafe { products(sums, weights.as_ptr(), window, at, step, outs / 2, pixels.div_ceil(2)) };
    }
}

/// The sums of pairs of output channels and pairs of pixels, the first of which begins so many bytes after the beginning of
/// each run.
///
/// Four quads at a time: those of an output channel are gathered from where they lie, a step apart, and multiplied with
/// those of two pixels. The loop's own predication leaves out what is beyond the last quad.
#[unsafe(naked)]
unsafe extern "C" fn products(
    sums: &mut Sums,
    weights: *const i8,
    window: &Window<'_, i8>,
    at: usize,
    step: usize,
    out_pairs: usize,
    pixel_pairs: usize,
) {
    naked_asm!(
        ".cpu cortex-m55",
        // The stack: place of the sums, pairs of pixels that are left, bytes of the weights of a run; a word that is free;
        // registers, of which the first four are arguments; the other arguments.
        "push {{r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}}",
        "vpush {{d8, d9, d10, d11}}",
        "sub sp, #16",
        "ldr r5, [sp, #104]",
        "ldrd r0, r1, [r2]",
        "ldr r1, [r2, #8]",
        "add r0, r0, r1",
        "mul r0, r0, r5",
        "str r0, [sp, #8]",
        // The places of four quads of two output channels.
        "movs r0, #0",
        "vidup.u32 q4, r0, #1",
        "vmul.i32 q4, q4, r5",
        "movs r0, #4",
        "vadd.i32 q5, q4, r0",
        "lsl r5, r5, #2",
        // A pair of output channels.
        "1: ldr r0, [sp, #48]",
        "ldr r1, [sp, #112]",
        "strd r0, r1, [sp]",
        "ldr r3, [sp, #60]",
        // A pair of pixels.
        "2: ldr r2, [sp, #56]",
        "ldr r11, [sp, #52]",
        "movs r4, #0",
        "movs r6, #0",
        "mov r8, r4",
        "mov r10, r4",
        "add r7, r2, #12",
        "ldr r0, [r7], #4",
        // A run.
        "3: add r0, r0, r3",
        "ldrd r9, r12, [r2]",
        "add r12, r12, r0",
        "mov r1, r11",
        "dlstp.32 lr, r9",
        "4: vldrw.u32 q0, [r1, q4]",
        "vldrw.u32 q2, [r0], #16",
        "vldrw.u32 q1, [r1, q5]",
        "vmladava.s8 r4, q0, q2",
        "vldrw.u32 q3, [r12], #16",
        "vmladava.s8 r6, q1, q2",
        "add r1, r1, r5",
        "vmladava.s8 r8, q0, q3",
        "vmladava.s8 r10, q1, q3",
        "letp lr, 4b",
        "ldr r1, [sp, #8]",
        "add r11, r11, r1",
        "ldr r0, [r7], #4",
        "cmp r0, #0",
        "bne 3b",
        // The sums, and the next pair of pixels.
        "ldrd r0, r1, [sp]",
        "strd r8, r10, [r0, #64]",
        "strd r4, r6, [r0], #128",
        "ldr r9, [r2, #4]",
        "add r3, r3, r9, lsl #1",
        "subs r1, #1",
        "strd r0, r1, [sp]",
        "bne 2b",
        // The next pair of output channels.
        "ldrd r0, r1, [sp, #48]",
        "adds r0, #8",
        "adds r1, #8",
        "strd r0, r1, [sp, #48]",
        "ldr r0, [sp, #108]",
        "subs r0, #1",
        "str r0, [sp, #108]",
        "bne 1b",
        "add sp, #16",
        "vpop {{d8, d9, d10, d11}}",
        "add sp, #16",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}}",
    )
}
