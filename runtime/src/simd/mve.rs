//! Cortex-M with the vector extension (M55): sixteen products of 8 bits and their sum an instruction, `VMLADAVA`, and four
//! numbers of 32 bits at once.
//!
//! Compilers have no stable intrinsics for it either: see [`dsp`](super::dsp).

use core::arch::naked_asm;

use traflow_graph::quant::{AFFINE_BITS, QUAD, TABLE};

use super::dot::{Dot, End, Sums, Tile, Window};
use super::dsp::Dsp;
use crate::kernels::int8::{Values, ValuesMut};

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

/// SiLU of an affine function of each channel, of whole quads of channels: see
/// [`GroupNorm`](crate::kernels::int8::GroupNorm). False where it does not serve, and nothing was done.
pub(crate) fn silu(x: Option<Values<'_>>, affine: &[[i64; 2]], table: &[i16; TABLE], y: &mut [i8]) -> bool {
    let (quads, []) = affine.as_chunks::<QUAD>() else { return false };
    let channels = affine.len().max(1);
    let count = y.len() / channels;
    let (from, bytes, work): (*const u8, _, unsafe extern "C" fn(&Quad)) = match x {
        None => (y.as_ptr().cast(), 1, silu_of_quad::<false>),
        Some(Values::Narrow(x)) if x.len() == y.len() => (x.as_ptr().cast(), 1, silu_of_quad::<false>),
        Some(Values::Wide(x)) if x.len() == y.len() => (x.as_ptr().cast(), 2, silu_of_quad::<true>),
        Some(_) => return false,
    };
    if count == 0 {
        return true;
    }
    for (index, quad) in quads.iter().enumerate() {
        // A factor is `upper · 2¹⁶ + lower`, the lower part with a sign; a bias has none.
        let lower = quad.map(|[factor, _]| i32::from(factor as i16));
        let job = Quad {
            x: from.wrapping_add(index * QUAD * bytes),
            x_step: channels * bytes,
            y: y.as_mut_ptr().wrapping_add(index * QUAD),
            y_step: channels,
            table: table.as_ptr(),
            count,
            upper: core::array::from_fn(|lane| (quad[lane][0] as i32 - lower[lane]) >> AFFINE_BITS),
            lower,
            upper_bias: quad.map(|[_, bias]| (bias >> AFFINE_BITS) as i32),
            lower_bias: quad.map(|[_, bias]| i32::from(bias as u16)),
        };
        // SAFETY: as many quads as `count`, a pixel apart, are inside both slices, and the table has the ends of 256 pieces.
        unsafe { work(&job) };
    }
    true
}

/// What `silu_of_quad` reads and writes.
#[repr(C)]
struct Quad {
    x: *const u8,
    x_step: usize,
    y: *mut i8,
    y_step: usize,
    table: *const i16,
    count: usize,
    upper: [i32; QUAD],
    lower: [i32; QUAD],
    upper_bias: [i32; QUAD],
    lower_bias: [i32; QUAD],
}

/// Four channels of each pixel: the affine function by halves, as on other vectors, clamped to 16 bits
/// without sign, and both ends of a piece gathered.
#[unsafe(naked)]
unsafe extern "C" fn silu_of_quad<const WIDE: bool>(job: &Quad) {
    naked_asm!(
        ".cpu cortex-m55",
        "push {{r4, r5, r6, lr}}",
        "vpush {{d8, d9, d10, d11, d12, d13, d14, d15}}",
        "ldrd r1, r2, [r0]",
        "ldrd r3, r4, [r0, #8]",
        "ldrd r5, r6, [r0, #16]",
        "adds r0, #24",
        "vldrw.u32 q4, [r0]",
        "vldrw.u32 q5, [r0, #16]",
        "vldrw.u32 q6, [r0, #32]",
        "vldrw.u32 q7, [r0, #48]",
        "adds r0, r5, #2",
        "dls lr, r6",
        "2:",
        ".if {WIDE}",
        "vldrh.s32 q0, [r1]",
        ".else",
        "vldrb.s32 q0, [r1]",
        ".endif",
        "add r1, r1, r2",
        "vmul.i32 q1, q0, q5",
        "vadd.i32 q1, q1, q7",
        "vshr.s32 q1, q1, #16",
        "vmul.i32 q0, q0, q4",
        "vadd.i32 q0, q0, q6",
        "vadd.i32 q0, q0, q1",
        "vqmovunb.s32 q0, q0",
        "vmovlb.u16 q0, q0",
        "vshr.u32 q1, q0, #8",
        "vbic.i32 q0, #0xff00",
        "vldrh.s32 q2, [r5, q1, uxtw #1]",
        "vldrh.s32 q3, [r0, q1, uxtw #1]",
        "vsub.i32 q3, q3, q2",
        "vmul.i32 q3, q3, q0",
        "vshl.i32 q2, q2, #8",
        "vadd.i32 q2, q2, q3",
        "vrshr.s32 q2, q2, #15",
        "vqmovnb.s32 q2, q2",
        "vqmovnb.s16 q2, q2",
        "vstrb.32 q2, [r3]",
        "add r3, r3, r4",
        "le lr, 2b",
        "vpop {{d8, d9, d10, d11, d12, d13, d14, d15}}",
        "pop {{r4, r5, r6, pc}}",
        WIDE = const WIDE as u8,
    )
}
