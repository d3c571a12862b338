//! simd128 of WebAssembly: a vector is four registers.

use core::arch::wasm32::*;
use core::array::from_fn;

use traflow_graph::quant::{QUAD, TABLE, Wide};

use super::super::wasm::Wasm;
use super::{IntegerKernel, LANES, Lanes, Row, each, interpolate};

/// Four lanes each.
type V = [v128; 4];

/// Every place of an array of 16 bytes at least is one of a register.
#[inline(always)]
fn read<T, const N: usize>(x: &[T]) -> [v128; N] {
    assert!(size_of_val(x) == 16 * N, "an array of other registers");
    // SAFETY: the slice has so many registers' bytes; WebAssembly wants no alignment.
    from_fn(|i| unsafe { v128_load(x.as_ptr().cast::<v128>().add(i)) })
}

#[inline(always)]
fn write<T, const N: usize>(v: [v128; N], y: &mut [T]) {
    assert!(size_of_val(y) == 16 * N, "an array of other registers");
    for (i, v) in v.into_iter().enumerate() {
        // SAFETY: the slice has so many registers' bytes; WebAssembly wants no alignment.
        unsafe { v128_store(y.as_mut_ptr().cast::<v128>().add(i), v) };
    }
}

/// The products of two pixels with half a panel, from this register of its rows on. Four weights of two lanes are widened
/// at once, which takes one instruction and no shuffle, and a pixel's numbers are one load for four of those: so each lane
/// has two sums until the end. Eight sums, four vectors of weights and one of numbers are what x86 has registers for.
///
/// # Safety
/// Both pixels have four numbers for each row.
#[inline(always)]
unsafe fn half_panel<const FROM: usize>(pixels: [&[i16]; 2], panel: &[Row]) -> [[v128; 2]; 2] {
    let (mut first, mut second) = ([i32x4_splat(0); 4], [i32x4_splat(0); 4]);
    for (quad, row) in panel.iter().enumerate() {
        let row = row.as_flattened().as_ptr();
        // SAFETY: a row has the bytes of four registers, and the pixels have so many quads.
        let (weights, x) = unsafe {
            let x = each!(m in 2 => v128_load64_splat(pixels[m].as_ptr().add(QUAD * quad).cast()));
            (each!(i in 4 => i16x8_load_extend_i8x8(row.add(16 * FROM + 8 * i))), x)
        };
        first = each!(i in 4 => i32x4_add(first[i], i32x4_dot_i16x8(weights[i], x[0])));
        second = each!(i in 4 => i32x4_add(second[i], i32x4_dot_i16x8(weights[i], x[1])));
    }
    let sum = |a, b| i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b));
    [first, second].map(|[a, b, c, d]| [sum(a, b), sum(c, d)])
}

impl Lanes for Wasm {
    type V = V;
    // Two lanes each.
    type Long = [v128; 8];
    type Table = [i16; TABLE];
    // Four pixels, for as many registers as most machines below have to spare.
    const TILE: [usize; 2] = [4, 1];
    const BYTES: Option<u8> = None;
    const DOTS: [u32; 2] = [4, 2];

    #[inline(never)]
    fn run_integers(self, kernel: impl IntegerKernel, scratch: &mut [u8]) {
        kernel.run(self, scratch);
    }

    #[inline(always)]
    fn splat(self, x: i32) -> V {
        [i32x4_splat(x); 4]
    }

    #[inline(always)]
    fn load8(self, x: &[i8; LANES]) -> V {
        let [x] = read(x);
        let (low, high) = (i16x8_extend_low_i8x16(x), i16x8_extend_high_i8x16(x));
        [
            i32x4_extend_low_i16x8(low),
            i32x4_extend_high_i16x8(low),
            i32x4_extend_low_i16x8(high),
            i32x4_extend_high_i16x8(high),
        ]
    }

    #[inline(always)]
    fn load16(self, x: &[i16; LANES]) -> V {
        let [low, high] = read(x);
        [
            i32x4_extend_low_i16x8(low),
            i32x4_extend_high_i16x8(low),
            i32x4_extend_low_i16x8(high),
            i32x4_extend_high_i16x8(high),
        ]
    }

    #[inline(always)]
    fn load(self, x: &[i32; LANES]) -> V {
        read(x)
    }

    #[inline(always)]
    fn row(self, row: &Row) -> V {
        read(row)
    }

    #[inline(always)]
    fn store8(self, v: V, y: &mut [i8; LANES]) {
        let (low, high) = (i16x8_narrow_i32x4(v[0], v[1]), i16x8_narrow_i32x4(v[2], v[3]));
        write([i8x16_narrow_i16x8(low, high)], y);
    }

    #[inline(always)]
    fn store16(self, v: V, y: &mut [i16; LANES]) {
        write([i16x8_narrow_i32x4(v[0], v[1]), i16x8_narrow_i32x4(v[2], v[3])], y);
    }

    #[inline(always)]
    fn store(self, v: V, y: &mut [i32; LANES]) {
        write(v, y);
    }

    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        each!(i in 4 => i32x4_add(a[i], b[i]))
    }

    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        each!(i in 4 => i32x4_sub(a[i], b[i]))
    }

    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        each!(i in 4 => i32x4_mul(a[i], b[i]))
    }

    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        each!(i in 4 => i32x4_max(a[i], b[i]))
    }

    #[inline(always)]
    fn min(self, a: V, b: V) -> V {
        each!(i in 4 => i32x4_min(a[i], b[i]))
    }

    #[inline(always)]
    fn and(self, a: V, b: V) -> V {
        each!(i in 4 => v128_and(a[i], b[i]))
    }

    #[inline(always)]
    fn xor(self, a: V, b: V) -> V {
        each!(i in 4 => v128_xor(a[i], b[i]))
    }

    #[inline(always)]
    fn shift(self, a: V, b: V) -> V {
        // Lanes cannot be shifted by different places.
        let (mut numbers, mut places) = ([0; LANES], [0; LANES]);
        self.store(a, &mut numbers);
        self.store(b, &mut places);
        self.load(&from_fn(|i| ((numbers[i] as u32) >> (places[i] & 31)) as i32))
    }

    #[inline(always)]
    fn floor(self, a: V, places: u32) -> V {
        each!(i in 4 => i32x4_shr(a[i], places))
    }

    #[inline(always)]
    fn splat_long(self, x: i64) -> [v128; 8] {
        [i64x2_splat(x); 8]
    }

    #[inline(always)]
    fn load_long(self, x: &[Wide; LANES]) -> [v128; 8] {
        read(x)
    }

    #[inline(always)]
    fn store_long(self, v: [v128; 8], y: &mut [i64; LANES]) {
        write(v, y);
    }

    #[inline(always)]
    fn add_long(self, a: [v128; 8], b: [v128; 8]) -> [v128; 8] {
        each!(i in 8 => i64x2_add(a[i], b[i]))
    }

    #[inline(always)]
    fn mul_long(self, a: V, b: V) -> [v128; 8] {
        each!(i in 8 => match i % 2 {
            0 => i64x2_extmul_low_i32x4(a[i / 2], b[i / 2]),
            _ => i64x2_extmul_high_i32x4(a[i / 2], b[i / 2]),
        })
    }

    #[inline(always)]
    fn narrow(self, a: [v128; 8], shift: u32) -> V {
        let a = each!(i in 8 => i64x2_shr(a[i], shift));
        each!(i in [0, 2, 4, 6] => i32x4_shuffle::<0, 2, 4, 6>(a[i], a[i + 1]))
    }

    #[inline(always)]
    fn widen(self, x: &[i8; 2 * LANES]) -> V {
        let [low, high] = read(x);
        [
            i16x8_extend_low_i8x16(low),
            i16x8_extend_high_i8x16(low),
            i16x8_extend_low_i8x16(high),
            i16x8_extend_high_i8x16(high),
        ]
    }

    #[inline(always)]
    fn add16(self, a: V, b: V) -> V {
        each!(i in 4 => i16x8_add(a[i], b[i]))
    }

    #[inline(always)]
    fn sub16(self, a: V, b: V) -> V {
        each!(i in 4 => i16x8_sub(a[i], b[i]))
    }

    #[inline(always)]
    fn pair(self, a: V, b: V) -> V {
        each!(i in 4 => v128_or(v128_and(a[i], i32x4_splat(0xffff)), i32x4_shl(b[i], 16)))
    }

    #[inline(always)]
    fn pairs(self, row: V) -> [V; 2] {
        // Into the upper bytes; a shift brings the sign down.
        let first = i8x16(-1, 0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13);
        let second = i8x16(-1, 2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15);
        [
            each!(i in 4 => i16x8_shr(i8x16_swizzle(row[i], first), 8)),
            each!(i in 4 => i16x8_shr(i8x16_swizzle(row[i], second), 8)),
        ]
    }

    #[inline(always)]
    fn dot_pairs(self, sum: V, a: V, x: V) -> V {
        each!(i in 4 => i32x4_add(sum[i], i32x4_dot_i16x8(a[i], x[i])))
    }

    #[inline(always)]
    unsafe fn dots<X: bytemuck::Pod, const M: usize, const N: usize>(
        self,
        pixels: [&[X]; M],
        panels: [&[Row]; N],
        sums: &mut [[V; N]; M],
    ) -> usize {
        if size_of::<X>() != 2 || !M.is_multiple_of(2) {
            return 0;
        }
        let pixels = pixels.map(bytemuck::cast_slice);
        let rows = panels[0].len();
        for (n, panel) in panels.into_iter().enumerate() {
            for (pixels, sums) in pixels.as_chunks::<2>().0.iter().zip(sums.as_chunks_mut::<2>().0) {
                // SAFETY: the caller's promise.
                let halves = unsafe { [half_panel::<0>(*pixels, panel), half_panel::<2>(*pixels, panel)] };
                for (m, sums) in sums.iter_mut().enumerate() {
                    let [[a, b], [c, d]] = [halves[0][m], halves[1][m]];
                    sums[n] = self.add(sums[n], [a, b, c, d]);
                }
            }
        }
        rows
    }

    #[inline(always)]
    fn table(self, table: &[i16; TABLE]) -> [i16; TABLE] {
        *table
    }

    #[inline(always)]
    fn interpolate(self, table: &[i16; TABLE], p: [V; 2]) -> [V; 2] {
        each!(k in 2 => interpolate(self, table, p[k]))
    }
}
