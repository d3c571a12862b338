//! Sums of products of integers, as processors without a vector unit have them.
//!
//! A row of a picture is expanded once: to 16 bits, its channels filled up to whole quads, and in another order within a
//! quad where the instructions want it. A block of sums then takes the weights as they lie in the file.
#![cfg_attr(not(dsp), allow(dead_code, reason = "some is for processors with better instructions"))]

use core::marker::PhantomData;
use core::ptr::null;

use crate::kernels::int8::Values;
use bytemuck::Pod;
use traflow_graph::quant::{PANEL, QUAD, TABLE, Wide};

/// The most pixels whose sums are computed together.
pub(crate) const PIXELS: usize = 16;

/// The most runs of a window: one for each tap.
const RUNS: usize = 9;

/// Sums for each pixel and each output channel of a panel.
pub(crate) type Sums = [[i32; PANEL]; PIXELS];

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
    /// Whether everything is there for an output of so many elements.
    pub(super) fn fits(&self, y: usize) -> bool {
        let outs = self.bias.len();
        let factors = self.factors.len() == outs && (self.second.is_empty() || self.second.len() == outs);
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

    /// Rescales the sums of a block to 8 bits; false where these instructions do not serve, and nothing was done.
    #[inline(always)]
    fn rescale(self, _end: &End<'_>, _sums: &[Sums; 2], _y: &mut [i8]) -> bool {
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
                "add {",
                $first,
                "}, {",
                $first,
                "}, {t}\n",
                "add {",
                $second,
                "}, {",
                $second,
                "}, {w}\n",
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
