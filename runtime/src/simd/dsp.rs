//! Cortex-M with the DSP extension (M4, M7, M33, M55): two products of 16 bits an instruction, `SMLAD`.
//!
//! Compilers have no stable intrinsics for it, so it is assembly; and since they do not tell either which processors have
//! it, `build.rs` does.

use core::arch::{asm, naked_asm};

use traflow_graph::quant::{QUAD, Wide};

use super::dot::{Channel, Dot, End, PIXELS, Pixels, Points, Quads, Sums, Tile, Window, Winograd};
use crate::kernels::int8::{Values, ValuesMut};

// The assembler of naked functions does not know the processor that the compiler was told of.
#[cfg(mve)]
macro_rules! cpu {
    () => {
        ".cpu cortex-m55"
    };
}
#[cfg(all(not(mve), armv8m))]
macro_rules! cpu {
    () => {
        ".cpu cortex-m33"
    };
}
#[cfg(not(any(mve, armv8m)))]
macro_rules! cpu {
    () => {
        ".cpu cortex-m4"
    };
}

/// A processor that has the extension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dsp;

impl Dot for Dsp {
    type X = i16;
    const OUTS: usize = 2;
    // What `SXTB16` makes of a word, and of the word rotated by a byte.
    const ORDER: [usize; QUAD] = [0, 2, 1, 3];

    #[inline(always)]
    fn expand(self, quad: [i8; QUAD]) -> [i16; QUAD] {
        let (even, odd): (u32, u32);
        // SAFETY: arithmetic in registers.
        unsafe {
            asm!(
                "sxtb16 {even}, {x}",
                "sxtb16 {odd}, {x}, ror #8",
                x = in(reg) bytemuck::cast::<_, u32>(quad), even = out(reg) even, odd = lateout(reg) odd,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        bytemuck::cast([even, odd])
    }

    #[inline(always)]
    fn expand_wide(self, quad: [i16; QUAD]) -> [i16; QUAD] {
        [quad[0], quad[2], quad[1], quad[3]]
    }

    fn rescale(self, end: &End<'_>, sums: &[Sums], y: &mut ValuesMut<'_>, first: usize) -> bool {
        fn from<Y>(y: &mut [Y], first: usize) -> (*mut u8, usize) {
            let y = y.get_mut(first..).unwrap_or_default();
            (y.as_mut_ptr().cast(), y.len())
        }
        let ((y, len), wide) = match y {
            ValuesMut::Narrow(y) => (from(y, first), false),
            ValuesMut::Wide(y) => (from(y, first), true),
        };
        let r = match end.r {
            None => y.cast_const(),
            Some(Values::Narrow(r)) if !wide => r.as_ptr().cast(),
            Some(Values::Wide(r)) if wide => r.as_ptr().cast(),
            Some(_) => return false,
        };
        let work = match (end.second.is_empty(), end.residual != 0, wide) {
            (true, false, false) => rescale::<false, false, false>,
            (false, false, false) => rescale::<true, false, false>,
            (true, true, false) => rescale::<false, true, false>,
            // Without a residual its factor is zero.
            (true, _, true) => rescale::<false, true, true>,
            _ => return false,
        };
        if !end.fits(sums.len(), len) {
            return false;
        }
        let outs = end.bias.len();
        let mut job = Job {
            y,
            sums: sums.as_ptr(),
            bias: end.bias.as_ptr(),
            factors: end.factors.as_ptr(),
            second: end.second.as_ptr(),
            residual: end.residual,
            r,
            shift: end.shift,
            outs,
            pixels: end.pixels,
            others: end.stride - outs,
        };
        // SAFETY: the check has seen to it that everything that is read or written is inside the slices.
        unsafe { work(&mut job) };
        true
    }

    fn moments(self, x: &[i8], stride: usize) -> [i32; 2] {
        let count = (x.len() + stride).saturating_sub(QUAD) / stride.max(1);
        let (mut sum, mut squares) = (0i32, 0i32);
        macro_rules! one {
            ($place:literal) => {
                concat!(
                    "ldr {a}, ",
                    $place,
                    "
                sxtb16 {b}, {a}, ror #8
                sxtb16 {a}, {a}
                smlad {squares}, {a}, {a}, {squares}
                smlad {squares}, {b}, {b}, {squares}
                sadd16 {a}, {a}, {b}
                smlad {sum}, {a}, {ones}, {sum}
                "
                )
            };
        }
        macro_rules! four {
            () => {
                concat!(
                    one!("[{x}]"),
                    one!("[{x}, {stride}]"),
                    one!("[{x}, {stride}, lsl #1]"),
                    one!("[{x}, {three}]"),
                    "add {x}, {x}, {stride}, lsl #2\n"
                )
            };
        }
        // SAFETY: the quads that are read are inside the slice, and nothing is written.
        unsafe {
            asm!(
                "subs {n}, #8",
                "blo 3f",
                "2:",
                four!(),
                four!(),
                "subs {n}, #8",
                "bhs 2b",
                "3: adds {n}, #8",
                "beq 5f",
                "4:",
                one!("[{x}]"),
                "add {x}, {x}, {stride}",
                "subs {n}, #1",
                "bne 4b",
                "5:",
                n = inout(reg) count => _,
                x = inout(reg) x.as_ptr() => _,
                stride = in(reg) stride,
                three = in(reg) 3 * stride,
                ones = in(reg) 0x1_0001,
                a = out(reg) _, b = out(reg) _,
                sum = inout(reg) sum, squares = inout(reg) squares,
                options(readonly, nostack),
            );
        }
        [sum, squares]
    }

    fn silu(self, channel: Channel<'_>, y: &mut [i8]) -> bool {
        // Products and bias fit 32 bits, and then a sum that does not is clamped by the instruction that adds it.
        let (Ok(factor), Ok(bias)) = (i32::try_from(channel.factor), i32::try_from(channel.bias - (1 << 31)))
        else {
            return false;
        };
        if factor.unsigned_abs() >= 1 << 24 {
            return false;
        }
        if y.is_empty() {
            return true;
        }
        let fits = factor.unsigned_abs() * 128 + bias.unsigned_abs() < 1 << 31;
        let job = Silu {
            y: y.as_mut_ptr(),
            stride: channel.stride,
            count: y.len().div_ceil(channel.stride.max(1)),
            factor,
            bias,
            // Pieces are counted from the middle.
            table: channel.table.split_at(128).1.as_ptr(),
        };
        // Small code has the one that is always right, which takes an instruction more.
        let work = if fits && cfg!(winograd) { silu::<false> } else { silu::<true> };
        // SAFETY: the first element of every stride is inside the slice, and so are both ends of all 256 pieces.
        unsafe { work(&job) };
        true
    }

    fn block(self, window: &Window<'_, i16>, tile: Tile, weights: &[i8], sums: &mut Sums) {
        if !window.fits::<Self>(tile, weights) {
            return;
        }
        let Tile { at, step, outs, pixels } = tile;
        let work = match step {
            64 => products::<64>,
            32 => products::<32>,
            _ => products::<0>,
        };
        // SAFETY: the check has seen to it that everything that is read or written is inside the slices.
        unsafe { work(sums, weights.as_ptr(), window, 2 * at, step, outs / 2, pixels.div_ceil(2)) };
    }
}

impl Winograd for Dsp {
    // With vectors, a register has sixteen products of 8 bits, and eight of 16.
    const PAIRS: usize = if cfg!(mve) { 0 } else { 1 };

    fn inputs(self, quads: usize, pixels: &Pixels<'_>, rows: [usize; 2], sum: bool, inputs: &mut [Quads]) {
        let pairs = inputs.len() / (4 * quads).max(1);
        let Some([a, b]) =
            pixels.rows(rows, quads).filter(|_| quads > 0 && (1..=PIXELS / 4).contains(&pairs))
        else {
            return;
        };
        let job = Inputs {
            a: a.as_ptr(),
            b: b.as_ptr(),
            mask: if sum { 0 } else { !0 },
            quads,
            pairs,
            to: inputs.as_mut_ptr(),
        };
        // SAFETY: the check has seen to it that everything that is read or written is inside the slices.
        unsafe { transform_inputs(&job) };
    }

    fn weights(
        self,
        quads: usize,
        row: usize,
        panels: &[[[i8; QUAD]; 2]],
        step: usize,
        weights: &mut [Quads],
    ) {
        let fits = quads > 0 && weights.len() >= 4 * quads && panels.len() > (9 * quads - 1) * step;
        debug_assert!(fits, "fewer weights than a kernel has");
        if fits {
            // SAFETY: the check has seen to it that everything that is read or written is inside the slices.
            unsafe { transform_weights(weights.as_mut_ptr(), panels.as_ptr(), quads, step, row) };
        }
    }

    fn points(self, quads: usize, weights: &[Quads], inputs: &[Quads], sums: &mut Points) {
        let pairs = inputs.len() / (4 * quads).max(1);
        let fits = quads > 0 && weights.len() >= 4 * quads && (1..=sums.0.len()).contains(&pairs);
        debug_assert!(fits, "more pairs than there are sums of, or too few weights");
        if fits {
            // SAFETY: the check has seen to it that everything that is read or written is inside the slices.
            unsafe { points(sums, inputs.as_ptr(), weights.as_ptr(), quads, pairs) };
        }
    }
}

/// What `transform_inputs` reads and writes.
#[repr(C)]
struct Inputs {
    /// Where the pixels of two rows lie.
    a: *const *const [i8; QUAD],
    b: *const *const [i8; QUAD],
    /// The second row is added, or its complement where all bits are ones.
    mask: u32,
    quads: usize,
    pairs: usize,
    to: *mut Quads,
}

/// Transforms two rows of pixels for pairs of tiles.
///
/// A complement is less by one than the number's negative. In the differences of columns that is lost again; their sum
/// gets the two ones back.
#[unsafe(naked)]
unsafe extern "C" fn transform_inputs(job: &Inputs) {
    naked_asm!(
        cpu!(),
        // A column of four channels as two pairs.
        r".macro column even, odd
        ldr \even, [r0], #4
        ldr \odd, [r1], #4
        ldr \even, [\even, r2]
        ldr \odd, [\odd, r2]
        eor \odd, \odd, r12
        sxtb16 lr, \even, ror #8
        sxtb16 \even, \even
        sxtab16 \even, \even, \odd
        sxtab16 \odd, lr, \odd, ror #8
        .endm",
        // The four points of a tile of the pair, whose first two columns are not needed any more.
        r".macro tile a, a1, b, b1, c, c1, d, d1, place
        ldr lr, [sp, #8]
        ssub16 \a, \a, \c
        ssub16 \a1, \a1, \c1
        strd \a, \a1, [r3, #\place]
        add r3, r3, lr
        sadd16 \a, \b, \c
        sadd16 \a1, \b1, \c1
        ssub16 \a, \a, r12
        ssub16 \a1, \a1, r12
        ssub16 \a, \a, r12
        ssub16 \a1, \a1, r12
        strd \a, \a1, [r3, #\place]
        add r3, r3, lr
        ssub16 \a, \c, \b
        ssub16 \a1, \c1, \b1
        strd \a, \a1, [r3, #\place]
        add r3, r3, lr
        ssub16 \b, \b, \d
        ssub16 \b1, \b1, \d1
        strd \b, \b1, [r3, #\place]
        .endm",
        // The stack: pairs that are left, quads that are left, bytes of a point; the job; registers.
        "push {{r0, r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "sub sp, #12",
        "ldrd r12, r5, [r0, #8]",
        "lsl r6, r5, #4",
        "strd r5, r6, [sp, #4]",
        "movs r2, #0",
        // A quad.
        "1: ldr r4, [sp, #12]",
        "ldrd r0, r1, [r4]",
        "ldrd r5, r3, [r4, #16]",
        "add r3, r3, r2, lsl #2",
        "str r5, [sp]",
        "column r4, r5",
        "column r6, r7",
        // A pair of tiles.
        "2: column r8, r9",
        "column r10, r11",
        "tile r4, r5, r6, r7, r8, r9, r10, r11, 0",
        "sub r3, r3, lr, lsl #1",
        "sub r3, r3, lr",
        "column r4, r5",
        "column r6, r7",
        "tile r8, r9, r10, r11, r4, r5, r6, r7, 8",
        "add r3, r3, lr",
        "ldr lr, [sp]",
        "subs lr, #1",
        "str lr, [sp]",
        "bne 2b",
        "adds r2, #4",
        "ldr lr, [sp, #4]",
        "subs lr, #1",
        "str lr, [sp, #4]",
        "bne 1b",
        "add sp, #16",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
        ".purgem column",
        ".purgem tile",
    )
}

/// Transforms the weights of two output channels, one after the other, for a row of points.
#[unsafe(naked)]
unsafe extern "C" fn transform_weights(
    to: *mut Quads,
    panels: *const [[i8; QUAD]; 2],
    quads: usize,
    step: usize,
    row: usize,
) {
    naked_asm!(
        cpu!(),
        // A column of the first or the last row of the kernel.
        r".macro outer even, odd
        ldr \odd, [r0]
        add r0, r0, r2
        sxtb16 \even, \odd
        sxtb16 \odd, \odd, ror #8
        .endm",
        // The sum of a column. The middle row has the other sign where all bits of the mask are ones: a complement is less by
        // one than the number's negative.
        r".macro middle even, odd
        ldr r10, [r0]
        ldr r11, [r0, r1, lsl #1]
        sxtb16 \even, r10
        sxtb16 \odd, r10, ror #8
        ldr r10, [r0, r1]
        sxtab16 \even, \even, r11
        sxtab16 \odd, \odd, r11, ror #8
        eor r10, r10, lr
        sxtab16 \even, \even, r10
        sxtab16 \odd, \odd, r10, ror #8
        add r0, r0, r2
        ssub16 \even, \even, lr
        ssub16 \odd, \odd, lr
        .endm",
        // The stack: from the columns of a quad to the next one, and from its last point to the first of the next; the end of
        // the first point; where a quad begins; where the points and the weights of the first channel begin; registers; the row.
        "push {{r0, r1, r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}}",
        "sub sp, #16",
        "ldr r4, [sp, #64]",
        // Bytes of a step, a point, a tap, and a row of taps.
        "lsl r5, r3, #3",
        "lsl r12, r2, #4",
        "mov r3, r0",
        "mov r0, r1",
        "mul r2, r2, r5",
        "add r1, r2, r2, lsl #1",
        "sub r5, r5, r1",
        "rsb r6, r12, #16",
        "sub r6, r6, r12, lsl #1",
        "strd r5, r6, [sp]",
        "adr r7, 3f",
        "adr r8, 2f",
        "mov lr, #0",
        "cmp r4, #2",
        "it eq",
        "mvneq lr, lr",
        "cmp r4, #3",
        "it eq",
        "addeq r0, r0, r1, lsl #1",
        "it ne",
        "cmpne r4, #0",
        "it eq",
        "moveq r7, r8",
        "orr r7, r7, #1",
        "add r6, r3, r12",
        "strd r6, r7, [sp, #8]",
        "str r0, [sp, #20]",
        // A quad of an output channel.
        "1: ldr pc, [sp, #12]",
        ".balign 4",
        "2:",
        "outer r4, r5",
        "outer r6, r7",
        "outer r8, r9",
        "b 4f",
        ".balign 4",
        "3:",
        "middle r4, r5",
        "middle r6, r7",
        "middle r8, r9",
        "4: sadd16 r10, r4, r8",
        "sadd16 r11, r5, r9",
        "strd r4, r5, [r3]",
        "add r3, r3, r12",
        "sadd16 r4, r10, r6",
        "sadd16 r5, r11, r7",
        "strd r4, r5, [r3]",
        "add r3, r3, r12",
        "ssub16 r4, r10, r6",
        "ssub16 r5, r11, r7",
        "strd r4, r5, [r3]",
        "add r3, r3, r12",
        "strd r8, r9, [r3]",
        "ldrd r4, r5, [sp]",
        "ldr r6, [sp, #8]",
        "add r0, r0, r4",
        "add r3, r3, r5",
        "cmp r3, r6",
        "bne 1b",
        // The second output channel, if that was the first.
        "ldrd r3, r0, [sp, #16]",
        "add r7, r3, r12",
        "cmp r6, r7",
        "add r6, r6, #8",
        "str r6, [sp, #8]",
        "add r3, r3, #8",
        "add r0, r0, #4",
        "beq 1b",
        "add sp, #24",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}}",
        ".purgem outer",
        ".purgem middle",
    )
}

/// The sums of Winograd's products, for so many pairs of tiles.
///
/// A quad of channels takes 10 instructions for 16 products: two output channels and two tiles are loaded whole, which takes
/// all registers. After the first quad, whose products begin the sums, it goes on where as many are left as there are before
/// the end of the loop.
#[unsafe(naked)]
unsafe extern "C" fn points(
    sums: &mut Points,
    inputs: *const Quads,
    weights: *const Quads,
    quads: usize,
    pairs: usize,
) {
    macro_rules! load {
        () => {
            "
            ldm r0!, {{r2, r3, r8, r9}}
            ldm r1!, {{r10, r11, r12, lr}}
            "
        };
    }
    macro_rules! quad {
        () => {
            concat!(
                load!(),
                "
            smlad r4, r2, r10, r4
            smlad r5, r8, r10, r5
            smlad r6, r2, r12, r6
            smlad r7, r8, r12, r7
            smlad r4, r3, r11, r4
            smlad r5, r9, r11, r5
            smlad r6, r3, lr, r6
            smlad r7, r9, lr, r7
            "
            )
        };
    }
    naked_asm!(
        cpu!(),
        // The stack: where to go on after the first quad, the end of the inputs of a point, place of the sums, bytes of a
        // point, the weights, the end of the sums; registers.
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "sub sp, #28",
        "ldr r4, [sp, #64]",
        "add r4, r0, r4, lsl #6",
        "strd r2, r4, [sp, #16]",
        "lsl r5, r3, #4",
        "strd r0, r5, [sp, #8]",
        "add r6, r1, r5",
        // Of eight quads so many are left out; all of them where there was one.
        "subs r3, #1",
        "rsb r7, r3, #0",
        "and r7, r7, #7",
        "it eq",
        "moveq r7, #8",
        "adr r8, 2f",
        "movs r4, #40",
        "mla r7, r7, r4, r8",
        "orr r7, r7, #1",
        "strd r7, r6, [sp]",
        "mov r0, r2",
        // A point.
        "1:",
        load!(),
        "smuad r4, r2, r10",
        "smuad r5, r8, r10",
        "smuad r6, r2, r12",
        "smuad r7, r8, r12",
        "smlad r4, r3, r11, r4",
        "smlad r5, r9, r11, r5",
        "smlad r6, r3, lr, r6",
        "smlad r7, r9, lr, r7",
        "ldr pc, [sp]",
        ".balign 4",
        "2:",
        quad!(),
        quad!(),
        quad!(),
        quad!(),
        quad!(),
        quad!(),
        quad!(),
        quad!(),
        "ldrd r2, r3, [sp, #4]",
        "cmp r1, r2",
        "bne 2b",
        // The sums, which are aligned to those of four points, and the next point; after four of them, the weights once more.
        "ldr r8, [sp, #12]",
        "stm r3!, {{r4, r5, r6, r7}}",
        "add r2, r2, r8",
        "strd r2, r3, [sp, #4]",
        "tst r3, #63",
        "bne 1b",
        "ldrd r0, r2, [sp, #16]",
        "cmp r3, r2",
        "bne 1b",
        "add sp, #28",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}

/// The sums of pairs of output channels and pairs of pixels, the first of which begins so many bytes after the beginning of
/// each run. A STEP that is known is part of an instruction.
///
/// A quad of channels takes 15 instructions for 16 products: the weights of both output channels are loaded and expanded to
/// pairs; then, for each of two pixels, two pairs of the input are loaded and multiplied with them. This takes all
/// registers.
#[unsafe(naked)]
unsafe extern "C" fn products<const STEP: usize>(
    sums: &mut Sums,
    weights: *const i8,
    window: &Window<'_, i16>,
    at: usize,
    step: usize,
    out_pairs: usize,
    pixel_pairs: usize,
) {
    macro_rules! quad {
        () => {
            "
            .if {STEP} == 0
            ldrd r8, r9, [r1]
            ldr r10, [sp, #80]
            add r1, r1, r10
            .else
            ldrd r8, r9, [r1], #{STEP}
            .endif
            sxtb16 r10, r8, ror #8
            sxtb16 r8, r8
            sxtb16 r11, r9, ror #8
            sxtb16 r9, r9
            ldrd r2, r3, [r0], #8
            smlad r4, r8, r2, r4
            smlad r6, r9, r2, r6
            smlad r4, r10, r3, r4
            smlad r6, r11, r3, r6
            ldrd r2, r3, [r12], #8
            smlad r5, r8, r2, r5
            smlad r7, r9, r2, r7
            smlad r5, r10, r3, r5
            smlad r7, r11, r3, r7
            "
        };
    }
    naked_asm!(
        cpu!(),
        // The stack: place of the next run, distance of the pixels from its beginning, place of the sums, the end of these
        // distances, the distance of two pairs of pixels, where to go on after a run; the arguments in registers; registers;
        // the others.
        "push {{r0, r1, r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}}",
        "sub sp, #24",
        "ldrd r4, r5, [r2, #4]",
        "lsl r4, r4, #2",
        "ldr r6, [sp, #88]",
        "mla r6, r4, r6, r3",
        "strd r6, r4, [sp, #12]",
        "add r8, r2, #16",
        "str r8, [sp]",
        "ldr r6, [r2, #52]",
        "adr r7, 10f",
        "cmp r6, #1",
        "beq 12f",
        "adr r7, 8f",
        "cbz r5, 12f",
        "adr r7, 11f",
        "12: orr r7, r7, #1",
        "str r7, [sp, #20]",
        // A pair of output channels.
        "1: ldr r0, [sp, #24]",
        "ldr r3, [sp, #36]",
        "strd r3, r0, [sp, #4]",
        // A pair of pixels.
        "2: ldrd r1, r2, [sp, #28]",
        "movs r4, #0",
        "movs r5, #0",
        "movs r6, #0",
        "movs r7, #0",
        "ldr r0, [r2, #12]",
        // A run.
        "3: add r0, r0, r3",
        "ldrd lr, r12, [r2]",
        "add r12, r0, r12, lsl #1",
        "subs lr, #4",
        "blo 5f",
        "4:",
        quad!(), quad!(), quad!(), quad!(),
        "subs lr, #4",
        "bhs 4b",
        "5: adds lr, #4",
        "beq 7f",
        "6:",
        quad!(),
        "subs lr, #1",
        "bne 6b",
        "7: ldr pc, [sp, #20]",
        // After weights that are skipped,
        ".balign 4",
        "11: ldr r2, [sp, #32]",
        "ldr r9, [r2, #8]",
        "ldr r10, [sp, #80]",
        "mla r1, r9, r10, r1",
        // the next run, if there is one.
        ".balign 4",
        "8: ldr r8, [sp]",
        "ldr r0, [r8], #4",
        "cbz r0, 9f",
        "str r8, [sp]",
        "ldr r3, [sp, #4]",
        "ldr r2, [sp, #32]",
        "b 3b",
        "9: ldr r2, [sp, #32]",
        "add r8, r2, #16",
        "str r8, [sp]",
        // The sums, and the next pair of pixels.
        ".balign 4",
        "10: ldrd r3, r0, [sp, #4]",
        "strd r5, r7, [r0, #64]",
        "strd r4, r6, [r0], #128",
        "ldrd r4, r5, [sp, #12]",
        "add r3, r3, r5",
        "strd r3, r0, [sp, #4]",
        "cmp r3, r4",
        "bne 2b",
        // The next pair of output channels.
        "ldrd r0, r1, [sp, #24]",
        "adds r0, #8",
        "adds r1, #8",
        "strd r0, r1, [sp, #24]",
        "ldr r2, [sp, #84]",
        "subs r2, #1",
        "str r2, [sp, #84]",
        "bne 1b",
        "add sp, #40",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}}",
        STEP = const STEP,
    )
}

/// What `rescale` reads and writes.
#[repr(C)]
struct Job {
    y: *mut u8,
    sums: *const Sums,
    bias: *const Wide,
    factors: *const i32,
    second: *const i32,
    residual: i32,
    r: *const u8,
    shift: u32,
    outs: usize,
    pixels: usize,
    /// Output channels of a pixel that are not computed.
    others: usize,
}

/// Rescales sums to 8 or to 16 bits, with or without those of a second part, or a residual of as many bits.
#[unsafe(naked)]
unsafe extern "C" fn rescale<const SECOND: bool, const RESIDUAL: bool, const WIDE: bool>(job: &mut Job) {
    // The upper half of a sum, shifted: by as much as r7 says.
    macro_rules! upper {
        () => {
            "
            asr r5, r5, r7
            "
        };
    }
    // What is left of a sum that is shifted by r7, less than 32 places.
    macro_rules! both {
        () => {
            "
            rsb r9, r7, #32
            lsr r4, r4, r7
            lsl r5, r5, r9
            orr r5, r5, r4
            "
        };
    }
    macro_rules! one {
        ($shift:expr) => {
            concat!(
                "
            ldrd r4, r5, [r2], #8
            ldr r9, [r3], #4
            .if {SECOND}
            ldr r8, [r1, #{NEXT}]
            ldr r10, [r6], #4
            smlal r4, r5, r8, r10
            .endif
            .if {RESIDUAL}
            .if {WIDE}
            ldrsh r8, [r11], #2
            .else
            ldrsb r8, [r11], #1
            .endif
            smlal r4, r5, r8, r10
            .endif
            ldr r8, [r1], #4
            smlal r4, r5, r8, r9
            ",
                $shift,
                "
            .if {WIDE}
            ssat r5, #16, r5
            strh r5, [r0], #2
            .else
            ssat r5, #8, r5
            strb r5, [r0], #1
            .endif
            "
            )
        };
    }
    // The upper half alone, with the sums of four loaded together.
    macro_rules! plain {
        ($sum:literal) => {
            concat!(
                "
            ldrd r4, r5, [r2], #8
            ldr r9, [r3], #4
            smlal r4, r5, ",
                $sum,
                ", r9
            asr r5, r5, r7
            ssat r5, #8, r5
            strb r5, [r0], #1
            "
            )
        };
    }
    naked_asm!(
        cpu!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}}",
        "mov lr, r0",
        "ldrd r10, r11, [lr, #20]",
        "ldrd r0, r1, [lr]",
        // A pixel.
        "2: ldrd r2, r3, [lr, #8]",
        "ldr r6, [lr, #16]",
        "ldrd r7, r12, [lr, #28]",
        "cmp r7, #32",
        "blo 7f",
        "sub r7, r7, #32",
        ".if {UNROLLED}",
        "subs r12, #4",
        "blo 4f",
        "3: ldm r1!, {{r6, r8, r10, r11}}",
        plain!("r6"),
        plain!("r8"),
        plain!("r10"),
        plain!("r11"),
        "subs r12, #4",
        "bhs 3b",
        "4: adds r12, #4",
        "beq 6f",
        ".endif",
        "5:",
        one!(upper!()),
        "subs r12, #1",
        "bne 5b",
        "b 6f",
        "7:",
        one!(both!()),
        "subs r12, #1",
        "bne 7b",
        "6: ldrd r12, r9, [lr, #32]",
        "ldr r8, [lr, #40]",
        ".if {WIDE}",
        "add r0, r0, r8, lsl #1",
        "add r11, r11, r8, lsl #1",
        ".else",
        "add r0, r0, r8",
        "add r11, r11, r8",
        ".endif",
        "add r1, r1, #64",
        "sub r1, r1, r12, lsl #2",
        "subs r9, #1",
        "str r9, [lr, #36]",
        "bne 2b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}}",
        SECOND = const SECOND as u8,
        RESIDUAL = const RESIDUAL as u8,
        UNROLLED = const !(SECOND || RESIDUAL) as u8,
        WIDE = const WIDE as u8,
        NEXT = const size_of::<Sums>(),
    )
}

/// What `silu` reads and writes.
#[repr(C)]
struct Silu {
    y: *mut i8,
    stride: usize,
    count: usize,
    factor: i32,
    bias: i32,
    table: *const i16,
}

/// SiLU of an affine function of a channel: a sum in units of 2⁻¹⁶ that 2³¹ was taken from, whose upper 8 bits then number
/// a piece, and the next 8 are the place in it. Both ends of a piece are loaded as a word, and weighted by an instruction.
#[unsafe(naked)]
unsafe extern "C" fn silu<const CLAMP: bool>(job: &Silu) {
    macro_rules! one {
        ($place:literal) => {
            concat!(
                "ldrsb r10, ",
                $place,
                "
            .if {CLAMP}
            mul r10, r10, r4
            qadd r10, r10, r5
            .else
            mla r10, r10, r4, r5
            .endif
            asr r12, r10, #24
            ldr r12, [r6, r12, lsl #1]
            ubfx r11, r10, #16, #8
            mla r11, r11, r7, r8
            smlad r10, r12, r11, r9
            ssat r10, #8, r10, asr #15
            strb r10, ",
                $place,
                "
            "
            )
        };
    }
    // Strides are 1, 2 and 3 in two registers.
    macro_rules! four {
        () => {
            concat!(
                one!("[r0]"),
                one!("[r0, r1]"),
                one!("[r0, r1, lsl #1]"),
                one!("[r0, r2]"),
                "add r0, r0, r1, lsl #2\n"
            )
        };
    }
    naked_asm!(
        cpu!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}}",
        "mov lr, r0",
        "ldrd r0, r1, [lr]",
        "ldrd r3, r4, [lr, #8]",
        "ldrd r5, r6, [lr, #16]",
        "add r2, r1, r1, lsl #1",
        // 65535 f + 256 is the pair 256 - f, f.
        "movw r7, #65535",
        "mov r8, #256",
        "mov r9, #16384",
        "subs r3, #8",
        "blo 3f",
        "2:",
        four!(), four!(),
        "subs r3, #8",
        "bhs 2b",
        "3: adds r3, #8",
        "beq 5f",
        "4:",
        one!("[r0]"),
        "add r0, r0, r1",
        "subs r3, #1",
        "bne 4b",
        "5: pop {{r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}}",
        CLAMP = const CLAMP as u8,
    )
}
