//! Sums of products of integers, as processors without a vector unit have them.
//!
//! A row of a picture is expanded once: to 16 bits, its channels filled up to whole quads, and in another order within a
//! quad where the instructions want it. A block of sums then takes the weights as they lie in the file.
#![cfg_attr(not(dsp), allow(dead_code, reason = "some is for processors with better instructions"))]

use core::array::from_fn;
use core::marker::PhantomData;
use core::ptr::null;

use crate::kernels::int8::{Values, ValuesMut};
use bytemuck::Pod;
use traflow_graph::quant::{PANEL, QUAD, TABLE, Wide};

/// The most pixels whose sums are computed together.
pub(crate) const PIXELS: usize = 16;

/// The most runs of a window: one for each tap.
const RUNS: usize = 9;

/// Sums for each pixel and each output channel of a panel.
pub(crate) type Sums = [[i32; PANEL]; PIXELS];

/// Expanded quads of two tiles side by side, or of two output channels.
pub(crate) type Quads = [[i16; QUAD]; 2];

/// Sums of Winograd's products of two output channels: `[pair][point][tile][out]`, for at most four pairs of tiles and the
/// four points of a row.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(crate) struct Points(pub(crate) [[[[i32; 2]; 2]; 4]; PIXELS / 4]);

/// Which sums to compute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tile {
    /// Elements of each run before the first pixel.
    pub(crate) at: usize,
    /// The weights of a quad and of the output channels lie together, those of the next quad so many bytes later.
    pub(crate) step: usize,
    /// Output channels: the first of the panel.
    pub(crate) outs: usize,
    /// Pixels, at most [`PIXELS`].
    pub(crate) pixels: usize,
}

/// What sums become outputs with: see [`Conv2d`](crate::kernels::int8::Conv2d).
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    /// Of each output channel of the block.
    pub(crate) bias: &'a [Wide],
    /// Of each output channel of the block.
    pub(crate) factors: &'a [i32],
    /// Factors of the sums of the second part; empty where there is none.
    pub(crate) second: &'a [i32],
    /// Factor of the residual.
    pub(crate) residual: i32,
    /// The residual, from the first output of the block on; where there is none, the outputs hold it.
    pub(crate) r: Option<Values<'a>>,
    /// Places to shift by.
    pub(crate) shift: u32,
    /// Pixels of the block.
    pub(crate) pixels: usize,
    /// Outputs of a pixel, of which those of the block are the first.
    pub(crate) stride: usize,
}

impl End<'_> {
    /// Whether everything is there for the sums of so many parts and an output of so many elements.
    pub(super) fn fits(&self, parts: usize, y: usize) -> bool {
        let outs = self.bias.len();
        let second = if self.second.is_empty() { parts > 0 } else { parts > 1 && self.second.len() == outs };
        let factors = self.factors.len() == outs && second;
        let size = (1..=PANEL).contains(&outs) && (1..=PIXELS).contains(&self.pixels) && outs <= self.stride;
        let elements = self.pixels.saturating_sub(1) * self.stride + outs;
        let fits = factors && size && elements <= y && self.r.is_none_or(|r| elements <= r.len());
        debug_assert!(fits, "a block of a wrong size, or outside its output");
        fits
    }
}

/// An affine function of a channel: see [`GroupNorm`](crate::kernels::int8::GroupNorm).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel<'a> {
    pub(crate) factor: i64,
    pub(crate) bias: i64,
    pub(crate) table: &'a [i16; TABLE],
    /// Channels of a pixel.
    pub(crate) stride: usize,
}

/// Instructions that sum products.
pub(crate) trait Dot: Copy {
    /// An element of an expanded row.
    type X: Pod + Into<i32>;
    /// Output channels whose sums are computed together.
    const OUTS: usize;
    /// The channels of a quad, in the order in which they lie in an expanded row.
    const ORDER: [usize; QUAD];

    /// A quad of channels, expanded.
    fn expand(self, quad: [i8; QUAD]) -> [Self::X; QUAD];

    /// The same of numbers of 16 bits.
    fn expand_wide(self, quad: [i16; QUAD]) -> [Self::X; QUAD];

    /// The sums of pixels and of output channels, a multiple of [`OUTS`](Self::OUTS). Those of another pixel may be
    /// computed too.
    fn block(self, window: &Window<'_, Self::X>, tile: Tile, weights: &[i8], sums: &mut Sums);

    /// Rescales the sums of a block, from this output on; false where these instructions do not serve, and nothing was done.
    #[inline(always)]
    fn rescale(self, _end: &End<'_>, _sums: &[Sums], _y: &mut ValuesMut<'_>, _first: usize) -> bool {
        false
    }

    /// The sum of quads, the first of which is at the beginning of the slice and each a stride after the one before, and of
    /// their squares; at most 2¹⁷ elements.
    #[inline(always)]
    fn moments(self, x: &[i8], stride: usize) -> [i32; 2] {
        let (mut sum, mut squares) = (0i32, 0i32);
        for quad in x.chunks(stride.max(1)) {
            for &x in quad.iter().take(QUAD) {
                let x = i32::from(x);
                (sum, squares) = (sum + x, squares.wrapping_add(x * x));
            }
        }
        [sum, squares]
    }

    /// SiLU of a channel, whose elements are the first of each stride, as a norm with 8 bits has it, written over it. False
    /// where these instructions do not serve, and nothing was done.
    #[inline(always)]
    fn silu(self, _channel: Channel<'_>, _y: &mut [i8]) -> bool {
        false
    }

    /// The sums of the output channels from this one on, one by one.
    fn rest(self, window: &Window<'_, Self::X>, tile: Tile, from: usize, weights: &[i8], sums: &mut Sums) {
        for (pixel, sums) in sums.iter_mut().enumerate().take(tile.pixels) {
            for (out, sum) in sums.iter_mut().enumerate().take(tile.outs).skip(from) {
                *sum = 0;
                let mut place = out * QUAD;
                for run in window.runs() {
                    let start = tile.at + pixel * window.next;
                    let run = run.get(start..start + window.quads * QUAD).unwrap_or_default();
                    for x in run.as_chunks::<QUAD>().0 {
                        for (&x, channel) in x.iter().zip(Self::ORDER) {
                            let weight = weights.get(place + channel).copied().unwrap_or(0);
                            *sum = sum.wrapping_add(x.into() * i32::from(weight));
                        }
                        place += tile.step;
                    }
                    place += window.skipped * tile.step;
                }
            }
        }
    }
}

/// Columns of pixels that tiles side by side read: two for each, and two more.
const COLUMNS: usize = PIXELS + 2;

/// The pixels that tiles side by side read, in four rows, each of the same number of quads.
#[derive(Debug)]
pub(crate) struct Pixels<'x> {
    at: [[*const [i8; QUAD]; COLUMNS]; 4],
    quads: usize,
    x: PhantomData<&'x [i8]>,
}

impl<'x> Pixels<'x> {
    /// The pixels of rows of the picture from a column on, of so many quads; where one is not inside a row, it is that outside.
    /// The column before the first one is `usize::MAX`.
    pub(crate) fn new(
        quads: usize,
        left: usize,
        outside: &'x [[i8; QUAD]],
        row: impl Fn(usize) -> &'x [[i8; QUAD]],
    ) -> Self {
        let quads = quads.min(outside.len());
        let mut at = [[outside.as_ptr(); COLUMNS]; 4];
        for (index, places) in at.iter_mut().enumerate() {
            let (row, mut start) = (row(index), left.wrapping_mul(quads));
            for place in places {
                let end = start.wrapping_add(quads);
                if let Some(pixel) = row.get(start..end) {
                    *place = pixel.as_ptr();
                }
                start = end;
            }
        }
        Self { at, quads, x: PhantomData }
    }

    /// A pixel; nothing where there is none.
    #[inline(always)]
    fn pixel(&self, row: usize, column: usize) -> &'x [[i8; QUAD]] {
        match self.at.get(row).and_then(|row| row.get(column)) {
            // SAFETY: it is as long, since it was made of a slice.
            Some(&pixel) => unsafe { core::slice::from_raw_parts(pixel, self.quads) },
            None => &[],
        }
    }

    /// Rows of places, if there are pixels of so many quads.
    #[cfg(dsp)]
    pub(super) fn rows(&self, rows: [usize; 2], quads: usize) -> Option<[&[*const [i8; QUAD]; COLUMNS]; 2]> {
        match rows.map(|row| self.at.get(row)) {
            [Some(a), Some(b)] if quads <= self.quads => Some([a, b]),
            _ => None,
        }
    }
}

/// Instructions for Winograd's convolution, whose numbers are in expanded quads.
pub(crate) trait Winograd: Dot<X = i16> {
    /// Pairs of tiles whose products are summed together; 0 where these instructions are better at direct sums.
    const PAIRS: usize;

    /// Transforms the sum of two rows of pixels, or their difference, for pairs of tiles side by side: `[pair][point][quad]` of
    /// two tiles.
    fn inputs(self, quads: usize, pixels: &Pixels<'_>, rows: [usize; 2], sum: bool, inputs: &mut [Quads]);

    /// Transforms the weights of two output channels for a row of points: `[point][quad]`. The weights of the two are
    /// `[tap][quad]`, so many pairs apart.
    fn weights(
        self,
        quads: usize,
        row: usize,
        panels: &[[[i8; QUAD]; 2]],
        step: usize,
        weights: &mut [Quads],
    );

    /// The sums of products over so many quads of channels.
    fn points(self, quads: usize, weights: &[Quads], inputs: &[Quads], sums: &mut Points);
}

/// What a tile reads: runs of quads, which lie in expanded rows.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Window<'x, X> {
    /// Quads of a run that are multiplied.
    quads: usize,
    /// Elements from a pixel to the next one.
    next: usize,
    /// Quads between the weights of a run and those of the next one.
    skipped: usize,
    /// The runs, and a null.
    runs: [*const X; RUNS + 1],
    /// Number of runs.
    count: usize,
    /// Elements of the shortest run.
    len: usize,
    rows: PhantomData<&'x X>,
}

impl<'x, X: Pod> Window<'x, X> {
    /// A window of as many runs, at most nine.
    pub(crate) fn new(
        runs: impl Iterator<Item = &'x [X]>,
        quads: usize,
        next: usize,
        skipped: usize,
    ) -> Self {
        let mut window = Self {
            quads,
            next,
            skipped,
            count: 0,
            runs: [null(); RUNS + 1],
            len: usize::MAX,
            rows: PhantomData,
        };
        for (place, run) in window.runs.iter_mut().take(RUNS).zip(runs) {
            *place = run.as_ptr();
            window.len = window.len.min(run.len());
            window.count += 1;
        }
        window
    }

    /// The runs.
    fn runs(&self) -> impl Iterator<Item = &'x [X]> {
        self.runs.iter().take(self.count).map(|&run| {
            // SAFETY: it is as long, since it was made of a slice.
            unsafe { core::slice::from_raw_parts(run, self.len) }
        })
    }

    /// Whether everything is there that a block reads and writes, its pixels rounded up to an even number.
    pub(super) fn fits<D: Dot>(&self, tile: Tile, weights: &[i8]) -> bool {
        let Tile { at, step, outs, pixels } = tile;
        let size = (1..=PIXELS).contains(&pixels)
            && (1..=PANEL).contains(&outs)
            && outs.is_multiple_of(D::OUTS)
            && self.count * self.quads > 0;
        let pixels = pixels.next_multiple_of(2);
        let quads = (self.count * (self.quads + self.skipped)).saturating_sub(self.skipped + 1);
        let fits = size
            && at + pixels.saturating_sub(1) * self.next + self.quads * QUAD <= self.len
            && quads * step + outs * QUAD <= weights.len();
        debug_assert!(fits, "a block of a wrong size, or outside its rows or weights");
        fits
    }
}

/// Instructions that every processor has.
#[cfg_attr(dsp, allow(dead_code, reason = "this processor has better ones"))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain;

impl Dot for Plain {
    type X = i16;
    const OUTS: usize = 4;
    const ORDER: [usize; QUAD] = [0, 1, 2, 3];

    #[inline(always)]
    fn expand(self, quad: [i8; QUAD]) -> [i16; QUAD] {
        quad.map(i16::from)
    }

    #[inline(always)]
    fn expand_wide(self, quad: [i16; QUAD]) -> [i16; QUAD] {
        quad
    }

    fn block(self, window: &Window<'_, i16>, tile: Tile, weights: &[i8], sums: &mut Sums) {
        if !window.fits::<Self>(tile, weights) {
            return;
        }
        for out in (0..tile.outs).step_by(Self::OUTS) {
            for (pair, sums) in sums.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                if 2 * pair >= tile.pixels {
                    break;
                }
                let mut of_tile = [[0i32; 2]; Self::OUTS];
                let mut place = out * QUAD;
                for run in window.runs() {
                    let quads = |pixel| {
                        let at = tile.at + pixel * window.next;
                        run.get(at..at + window.quads * QUAD).unwrap_or_default().as_chunks().0
                    };
                    let weights = weights.get(place..).unwrap_or_default();
                    add_products(&mut of_tile, weights, tile.step, quads(2 * pair), quads(2 * pair + 1));
                    place += (window.quads + window.skipped) * tile.step;
                }
                let [first, second] = sums.each_mut().map(|sums| sums.iter_mut().skip(out));
                for ((first, second), of_tile) in first.zip(second).zip(of_tile) {
                    [*first, *second] = of_tile;
                }
            }
        }
    }
}

/// The instruction of RISC-V that adds a register to a sum.
#[cfg(all(target_arch = "riscv32", target_feature = "m"))]
macro_rules! add {
    ($sum:literal, $register:literal) => {
        concat!("add {", $sum, "}, {", $sum, "}, {", $register, "}\n")
    };
}

/// Adds the products of quads of four output channels, each a step after the one before, with those of two pixels.
#[cfg(not(all(target_arch = "riscv32", target_feature = "m")))]
#[inline(always)]
fn add_products(sums: &mut [[i32; 2]; 4], weights: &[i8], step: usize, a: &[[i16; QUAD]], b: &[[i16; QUAD]]) {
    for (weights, (a, b)) in weights.chunks(step.max(1)).zip(a.iter().zip(b)) {
        // Of an array a compiler knows the length, and takes vectors.
        let Some(weights) = weights.first_chunk::<{ 4 * QUAD }>() else { return };
        for channel in 0..QUAD {
            let (a, b) = (i32::from(a[channel]), i32::from(b[channel]));
            for (weights, sums) in weights.as_chunks::<QUAD>().0.iter().zip(&mut *sums) {
                let weight = i32::from(weights[channel]);
                sums[0] = sums[0].wrapping_add(a * weight);
                sums[1] = sums[1].wrapping_add(b * weight);
            }
        }
    }
}

/// The same. A compiler loads the weights of all channels first, and stores most of them again, having no registers.
#[cfg(all(target_arch = "riscv32", target_feature = "m"))]
#[inline(always)]
fn add_products(sums: &mut [[i32; 2]; 4], weights: &[i8], step: usize, a: &[[i16; QUAD]], b: &[[i16; QUAD]]) {
    let quads = a.len().min(b.len());
    if quads == 0 || weights.len() < (quads - 1) * step + 4 * QUAD {
        return;
    }
    macro_rules! product {
        ($weight:literal, $first:literal, $second:literal) => {
            concat!(
                "lb {w}, ",
                $weight,
                "({weights})\n",
                "mul {t}, {w}, {x}\n",
                "mul {w}, {w}, {y}\n",
                add!($first, "t"),
                add!($second, "w"),
            )
        };
    }
    macro_rules! channel {
        ($x:literal, $w0:literal, $w1:literal, $w2:literal, $w3:literal) => {
            concat!(
                "lh {x}, ",
                $x,
                "({a})\n",
                "lh {y}, ",
                $x,
                "({b})\n",
                product!($w0, "s0", "s1"),
                product!($w1, "s2", "s3"),
                product!($w2, "s4", "s5"),
                product!($w3, "s6", "s7"),
            )
        };
    }
    let [[s0, s1], [s2, s3], [s4, s5], [s6, s7]] = sums;
    let a = a.as_ptr();
    // SAFETY: it reads the quads of the slices, and of the weights what was just seen to be there.
    unsafe {
        core::arch::asm!(
            "2:",
            channel!("0", "0", "4", "8", "12"),
            channel!("2", "1", "5", "9", "13"),
            channel!("4", "2", "6", "10", "14"),
            channel!("6", "3", "7", "11", "15"),
            "add {weights}, {weights}, {step}",
            "addi {b}, {b}, 8",
            "addi {a}, {a}, 8",
            "bne {a}, {end}, 2b",
            s0 = inout(reg) *s0, s1 = inout(reg) *s1, s2 = inout(reg) *s2, s3 = inout(reg) *s3,
            s4 = inout(reg) *s4, s5 = inout(reg) *s5, s6 = inout(reg) *s6, s7 = inout(reg) *s7,
            weights = inout(reg) weights.as_ptr() => _, step = in(reg) step,
            a = inout(reg) a => _, b = inout(reg) b.as_ptr() => _, end = in(reg) a.add(quads),
            x = out(reg) _, y = out(reg) _, w = out(reg) _, t = out(reg) _,
            options(readonly, nostack),
        );
    }
}

impl Winograd for Plain {
    const PAIRS: usize = 2;

    fn inputs(self, quads: usize, pixels: &Pixels<'_>, rows: [usize; 2], sum: bool, inputs: &mut [Quads]) {
        let sign = if sum { 1 } else { -1 };
        for (pair, inputs) in inputs.chunks_exact_mut((4 * quads).max(1)).enumerate() {
            let columns: [[&[[i8; QUAD]]; 2]; 6] =
                from_fn(|column| rows.map(|row| pixels.pixel(row, 4 * pair + column)));
            let mut points = inputs.chunks_exact_mut(quads.max(1));
            let [Some(p0), Some(p1), Some(p2), Some(p3)] = [(); 4].map(|()| points.next()) else { return };
            for (quad, ((p0, p1), (p2, p3))) in p0.iter_mut().zip(p1).zip(p2.iter_mut().zip(p3)).enumerate() {
                let columns = columns.map(|rows| rows.map(|row| row.get(quad).unwrap_or(&[0; QUAD])));
                for channel in 0..QUAD {
                    // A compiler would pack two numbers of 16 bits into a register.
                    let column =
                        |[a, b]: [&[i8; QUAD]; 2]| i32::from(a[channel]) + sign * i32::from(b[channel]);
                    let [d0, d1, d2, d3, d4, d5] = columns.map(column);
                    (p0[0][channel], p0[1][channel]) = ((d0 - d2) as i16, (d2 - d4) as i16);
                    (p1[0][channel], p1[1][channel]) = ((d1 + d2) as i16, (d3 + d4) as i16);
                    (p2[0][channel], p2[1][channel]) = ((d2 - d1) as i16, (d4 - d3) as i16);
                    (p3[0][channel], p3[1][channel]) = ((d1 - d3) as i16, (d3 - d5) as i16);
                }
            }
        }
    }

    fn weights(
        self,
        quads: usize,
        row: usize,
        panels: &[[[i8; QUAD]; 2]],
        step: usize,
        weights: &mut [Quads],
    ) {
        let mut points = weights.chunks_exact_mut(quads.max(1));
        let [Some(p0), Some(p1), Some(p2), Some(p3)] = [(); 4].map(|()| points.next()) else { return };
        for (quad, ((p0, p1), (p2, p3))) in p0.iter_mut().zip(p1).zip(p2.iter_mut().zip(p3)).enumerate() {
            let tap = |tap: usize| {
                panels.get((tap * quads + quad) * step).unwrap_or(&[[0; QUAD]; 2]).as_flattened()
            };
            let mut points = [p0, p1, p2, p3].map(|point| point.as_flattened_mut());
            let mut put = |i: usize, [left, middle, right]: [i32; 3]| {
                let numbers = [left, left + right + middle, left + right - middle, right];
                for (to, number) in points.iter_mut().zip(numbers) {
                    to[i] = number as i16;
                }
            };
            match row {
                0 | 3 => {
                    let taps = [0, 1, 2].map(|column| tap(2 * row + column));
                    (0..2 * QUAD).for_each(|i| put(i, taps.map(|tap| tap[i].into())));
                }
                _ => {
                    let sign = if row == 1 { 1 } else { -1 };
                    let taps = [0, 1, 2].map(|column| [0, 3, 6].map(|row| tap(row + column)));
                    (0..2 * QUAD).for_each(|i| {
                        let column = |[upper, middle, lower]: [&[i8]; 3]| {
                            i32::from(upper[i]) + i32::from(lower[i]) + sign * i32::from(middle[i])
                        };
                        put(i, taps.map(column));
                    });
                }
            }
        }
    }

    fn points(self, quads: usize, weights: &[Quads], inputs: &[Quads], sums: &mut Points) {
        let of_point = quads.max(1);
        // Where there is one pair, twice.
        for (inputs, sums) in inputs.chunks((8 * quads).max(1)).zip(sums.0.as_chunks_mut::<2>().0) {
            let (first, second) = inputs.split_at((4 * quads).min(inputs.len()));
            let second = if second.is_empty() { first } else { second };
            let inputs = first.chunks_exact(of_point).zip(second.chunks_exact(of_point));
            let [of_first, of_second] = sums;
            let sums = of_first.iter_mut().zip(of_second);
            for ((weights, (a, b)), sums) in weights.chunks_exact(of_point).zip(inputs).zip(sums) {
                [*sums.0, *sums.1] = products(weights, a, b);
            }
        }
    }
}

/// Sums of the products of quads of two output channels with those of two pairs of tiles.
#[cfg(not(all(target_arch = "riscv32", target_feature = "m")))]
#[inline(always)]
fn products(weights: &[Quads], a: &[Quads], b: &[Quads]) -> [[[i32; 2]; 2]; 2] {
    let mut sums = [[[0i32; 2]; 2]; 2];
    for (weights, (a, b)) in weights.iter().zip(a.iter().zip(b)) {
        for channel in 0..QUAD {
            for (sums, tile) in sums.as_flattened_mut().iter_mut().zip(a.iter().chain(b)) {
                for (sum, out) in sums.iter_mut().zip(weights) {
                    *sum = sum.wrapping_add(i32::from(out[channel]) * i32::from(tile[channel]));
                }
            }
        }
    }
    sums
}

/// The same, in as many registers as it takes.
#[cfg(all(target_arch = "riscv32", target_feature = "m"))]
#[inline(always)]
fn products(weights: &[Quads], a: &[Quads], b: &[Quads]) -> [[[i32; 2]; 2]; 2] {
    let mut sums = [[[0i32; 2]; 2]; 2];
    let quads = weights.len().min(a.len()).min(b.len());
    if quads == 0 {
        return sums;
    }
    macro_rules! tile {
        ($place:literal, $x:literal, $first:literal, $second:literal) => {
            concat!(
                "lh {x}, ",
                $place,
                "({",
                $x,
                "})\n",
                "mul {t}, {v}, {x}\n",
                "mul {x}, {w}, {x}\n",
                add!($first, "t"),
                add!($second, "x"),
            )
        };
    }
    macro_rules! channel {
        ($first:literal, $second:literal) => {
            concat!(
                "lh {v}, ",
                $first,
                "({weights})\n",
                "lh {w}, ",
                $second,
                "({weights})\n",
                tile!($first, "a", "s0", "s1"),
                tile!($second, "a", "s2", "s3"),
                tile!($first, "b", "s4", "s5"),
                tile!($second, "b", "s6", "s7"),
            )
        };
    }
    let [s0, s1, s2, s3, s4, s5, s6, s7] = sums.as_flattened_mut().as_flattened_mut() else { return sums };
    let weights = weights.as_ptr();
    // SAFETY: it reads the quads of the slices.
    unsafe {
        core::arch::asm!(
            "2:",
            channel!("0", "8"),
            channel!("2", "10"),
            channel!("4", "12"),
            channel!("6", "14"),
            "addi {a}, {a}, 16",
            "addi {b}, {b}, 16",
            "addi {weights}, {weights}, 16",
            "bne {weights}, {end}, 2b",
            s0 = inout(reg) *s0, s1 = inout(reg) *s1, s2 = inout(reg) *s2, s3 = inout(reg) *s3,
            s4 = inout(reg) *s4, s5 = inout(reg) *s5, s6 = inout(reg) *s6, s7 = inout(reg) *s7,
            weights = inout(reg) weights => _, end = in(reg) weights.add(quads),
            a = inout(reg) a.as_ptr() => _, b = inout(reg) b.as_ptr() => _,
            v = out(reg) _, w = out(reg) _, x = out(reg) _, t = out(reg) _,
            options(readonly, nostack),
        );
    }
    sums
}
