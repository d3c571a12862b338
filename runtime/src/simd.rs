//! Vectors of the processor, and the choice of its instruction set: the only place with `unsafe`.
//!
//! A kernel is written once, over [`Simd`]. An instruction set is a token: a value of `Avx512` exists
//! only where the processor has it, which is why its methods are safe to call. [`Isa::detect`] makes the tokens, and
//! [`Isa::run`] compiles a kernel for one.
#![allow(unsafe_code)]

use core::fmt;

/// The method of a token that runs a kernel, compiled for the features of its instruction set. It is a function of its own
/// because it is never inlined: an attribute of the inner function alone does not stop the compiler. Kernels that have no use
/// for the dot products of an instruction set are run by its `base`, lest they be compiled twice; those that are made of `dots`
/// by that one, where there is one.
#[allow(unused_macros, reason = "a processor without vectors has no use for it")]
macro_rules! compiled {
    (
        fn $run:ident($token:ident, $kernel:ident, [$element:ty]), $features:literal
        $(, base $base:tt)? $(, dots $dots:tt)?
    ) => {
        #[inline(never)]
        fn $run(self, kernel: impl $kernel, scratch: &mut [$element]) {
            $(if !has_dots(&kernel) {
                return self.$base.$run(kernel, scratch);
            })?
            $(if has_dots(&kernel) {
                return self.$dots.$run(kernel, scratch);
            })?
            #[target_feature(enable = $features)]
            fn compiled(s: $token, kernel: impl $kernel, scratch: &mut [$element]) {
                kernel.run(s, scratch);
            }
            // SAFETY: the token exists, so the processor has what the function is compiled for.
            unsafe { compiled(self, kernel, scratch) }
        }
    };
}

pub(crate) mod dot;
#[cfg(dsp)]
pub(crate) mod dsp;
mod grid;
mod lanes;
mod matrix;
#[cfg(mve)]
pub(crate) mod mve;
#[cfg(scalar)]
mod scalar;
#[cfg(feature = "threads")]
mod team;
mod tile;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod cpuid;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_feature = "simd128")]
mod wasm;

#[cfg(not(dsp))]
pub(crate) use dot::Plain as Device;
#[cfg(dsp)]
pub(crate) use dsp::Dsp as Device;
pub(crate) use grid::Grid;
pub(crate) use lanes::{Factor, begin, dot_rows, dots, dots_part, each};
pub use lanes::{IntegerKernel, LANES, Lanes, Row, Vectors};
pub(crate) use matrix::{BLOCKS, Blocks, ROWS};
#[cfg(feature = "threads")]
pub(crate) use team::Team;
pub(crate) use tile::{Columns, accumulate, rows, rows_mut};

/// Vectors of an instruction set. Everything is a plain arithmetic operation on each lane.
pub trait Simd: Copy + Send + Sync {
    /// A vector of `f32`.
    type V: Copy;
    /// Elements of a vector.
    const LANES: usize;
    /// Rows of the largest tile of sums that fits into the registers, and its columns in panels of [`PANEL`].
    ///
    /// [`PANEL`]: traflow_graph::model::PANEL
    const TILE: [usize; 2];

    /// Runs a kernel. It is a function of its own, compiled once however many call it.
    fn run(self, kernel: impl Kernel, scratch: &mut [f32]);

    /// All lanes are x.
    fn splat(self, x: f32) -> Self::V;
    /// The vector at an address.
    ///
    /// # Safety
    /// [`LANES`](Simd::LANES) elements can be read there.
    unsafe fn read(self, x: *const f32) -> Self::V;
    /// The vector at an address, widened from 16 bits.
    ///
    /// # Safety
    /// [`LANES`](Simd::LANES) elements can be read there.
    unsafe fn widen(self, x: *const u16) -> Self::V;
    /// Writes a vector to an address.
    ///
    /// # Safety
    /// [`LANES`](Simd::LANES) elements can be written there.
    unsafe fn write(self, v: Self::V, y: *mut f32);
    /// a + b.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// a - b.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// a / b.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c, rounded once where the processor can.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The larger of each pair; b where a is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The smaller of each pair; b where a is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// 2ⁿ for `x = n + 1.5 · 2²³` with -127 < n < 128: n stands in the low bits of x.
    fn exp2(self, x: Self::V) -> Self::V;

    /// The vector at an index of a slice.
    #[inline(always)]
    fn at(self, x: &[f32], index: usize) -> Self::V {
        assert!(x.len() >= Self::LANES && index <= x.len() - Self::LANES, "a vector outside the slice");
        // SAFETY: LANES elements follow the index.
        unsafe { self.read(x.as_ptr().add(index)) }
    }

    /// Writes a vector to an index of a slice.
    #[inline(always)]
    fn put(self, v: Self::V, y: &mut [f32], index: usize) {
        assert!(y.len() >= Self::LANES && index <= y.len() - Self::LANES, "a vector outside the slice");
        // SAFETY: LANES elements follow the index.
        unsafe { self.write(v, y.as_mut_ptr().add(index)) }
    }

    /// Writes vectors to indices of a slice that are the same distance apart.
    #[inline(always)]
    fn put_each<const N: usize>(self, v: [Self::V; N], y: &mut [f32], index: usize, next: usize) {
        check::<N>(y.len(), index, next, Self::LANES);
        for (n, &v) in v.iter().enumerate() {
            // SAFETY: LANES elements follow each index.
            unsafe { self.write(v, y.as_mut_ptr().add(index + n * next)) };
        }
    }

    /// The first elements of a slice; zeros beyond its end.
    #[inline(always)]
    fn load(self, x: &[f32]) -> Self::V {
        if x.len() >= Self::LANES {
            // SAFETY: the slice has LANES elements.
            unsafe { self.read(x.as_ptr()) }
        } else {
            self.load_part(x)
        }
    }

    /// Like `load`, for fewer elements than a vector has.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::V {
        let mut whole = [0.0; 16];
        for (whole, x) in whole.iter_mut().zip(x) {
            *whole = *x;
        }
        const { assert!(Self::LANES <= 16) };
        // SAFETY: no vector has more than 16 elements.
        unsafe { self.read(whole.as_ptr()) }
    }

    /// The first elements of a slice, widened from 16 bits; zeros beyond its end.
    #[inline(always)]
    fn load_half(self, x: &[u16]) -> Self::V {
        if x.len() >= Self::LANES {
            // SAFETY: the slice has LANES elements.
            unsafe { self.widen(x.as_ptr()) }
        } else {
            self.load_half_part(x)
        }
    }

    /// Like `load_half`, for fewer elements than a vector has.
    #[inline(always)]
    fn load_half_part(self, x: &[u16]) -> Self::V {
        let mut whole = [0; 16];
        for (whole, x) in whole.iter_mut().zip(x) {
            *whole = *x;
        }
        const { assert!(Self::LANES <= 16) };
        // SAFETY: no vector has more than 16 elements.
        unsafe { self.widen(whole.as_ptr()) }
    }

    /// Writes as many elements as the slice has room for.
    #[inline(always)]
    fn store(self, v: Self::V, y: &mut [f32]) {
        if y.len() >= Self::LANES {
            // SAFETY: the slice has LANES elements.
            unsafe { self.write(v, y.as_mut_ptr()) }
        } else {
            self.store_part(v, y);
        }
    }

    /// Like `store`, for fewer elements than a vector has.
    #[inline(always)]
    fn store_part(self, v: Self::V, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(self.lanes(v)) {
            *y = x;
        }
    }

    /// The lanes, then zeros.
    #[inline(always)]
    fn lanes(self, v: Self::V) -> [f32; 16] {
        let mut whole = [0.0; 16];
        const { assert!(Self::LANES <= 16) };
        // SAFETY: no vector has more than 16 elements.
        unsafe { self.write(v, whole.as_mut_ptr()) };
        whole
    }

    /// Combines the lanes: those of one half with those of the other, until there is one.
    #[inline(always)]
    fn fold(self, v: Self::V, combine: impl Fn(f32, f32) -> f32) -> f32 {
        let (mut lanes, mut width) = (self.lanes(v), Self::LANES);
        while width > 1 {
            width /= 2;
            for lane in 0..width {
                lanes[lane] = combine(lanes[lane], lanes[lane + width]);
            }
        }
        lanes[0]
    }
}

/// Has the lines of memory of these bytes fetched into the second cache, where the processor can be told to.
#[inline(always)]
pub(crate) fn prefetch(bytes: &[u8]) {
    const LINE: usize = 64;
    for line in bytes.chunks(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every processor of this architecture has it, and it changes nothing.
        unsafe {
            core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T1 }>(line.as_ptr().cast());
        }
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        unsafe {
            let line = line.as_ptr();
            core::arch::asm!("prfm pldl2keep, [{line}]", line = in(reg) line, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = line;
    }
}

/// Work that is compiled for every instruction set.
pub trait Kernel {
    /// Does it. The scratch memory is that of the thread.
    fn run<S: Simd>(self, s: S, scratch: &mut [f32]);
}

/// A number format of weights, loaded as vectors of `f32`.
pub trait Element: Copy + Send + Sync {
    /// The first elements of a slice; zeros beyond its end.
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V;
    /// The vector at an address.
    ///
    /// # Safety
    /// [`Simd::LANES`] elements can be read there.
    unsafe fn read<S: Simd>(s: S, x: *const Self) -> S::V;
    /// The vector at an index of a slice.
    #[inline(always)]
    fn at<S: Simd>(s: S, x: &[Self], index: usize) -> S::V {
        assert!(x.len() >= S::LANES && index <= x.len() - S::LANES, "a vector outside the slice");
        // SAFETY: LANES elements follow the index.
        unsafe { Self::read(s, x.as_ptr().add(index)) }
    }
    /// The vectors at indices of a slice that are the same distance apart.
    #[inline(always)]
    fn at_each<S: Simd, const N: usize>(s: S, x: &[Self], index: usize, next: usize) -> [S::V; N] {
        check::<N>(x.len(), index, next, S::LANES);
        let mut vectors = [s.splat(0.0); N];
        for (n, v) in vectors.iter_mut().enumerate() {
            // SAFETY: LANES elements follow each index.
            *v = unsafe { Self::read(s, x.as_ptr().add(index + n * next)) };
        }
        vectors
    }
}

/// Sees to it that N vectors or rows, the first at an index and each at this distance from the one before, are inside a slice.
#[inline(always)]
fn check<const N: usize>(len: usize, index: usize, next: usize, elements: usize) {
    let end = index.checked_add(elements).zip(next.checked_mul(N - 1)).and_then(|(a, b)| a.checked_add(b));
    assert!(end.is_some_and(|end| end <= len), "vectors outside the slice");
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V {
        s.load(x)
    }

    #[inline(always)]
    unsafe fn read<S: Simd>(s: S, x: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.read(x) }
    }
}

/// Bits of 16-bit floating point.
impl Element for u16 {
    #[inline(always)]
    fn load<S: Simd>(s: S, x: &[Self]) -> S::V {
        s.load_half(x)
    }

    #[inline(always)]
    unsafe fn read<S: Simd>(s: S, x: *const Self) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.widen(x) }
    }
}

/// An instruction set that this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Token);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    #[cfg(scalar)]
    Scalar(scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(avx2::AvxVnni),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Vnni(avx512::Vnni),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
    #[cfg(target_arch = "aarch64")]
    Dotprod(neon::Dotprod),
    #[cfg(target_feature = "simd128")]
    Wasm(wasm::Wasm),
}

/// Names of all instruction sets, of this and of other processors.
const NAMES: [&str; 9] = ["scalar", "avx2", "avxvnni", "avx512", "vnni", "neon", "dotprod", "simd128", "amx"];

/// Why an instruction set cannot be had by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum IsaError {
    #[error(
        "there is no such instruction set: scalar, avx2, avxvnni, avx512, vnni, amx, neon, dotprod and simd128 are known"
    )]
    Unknown,
    #[error("this processor, or this build of the program, does not have the instruction set {0}")]
    Missing(&'static str),
}

impl Isa {
    /// Plain Rust, without instructions of a certain processor. A module for pages with simd128 does not have it.
    #[cfg(scalar)]
    pub const SCALAR: Self = Self(Token::Scalar(scalar::Scalar));

    /// What every processor has that this build runs on.
    #[cfg(scalar)]
    const LEAST: Self = Self::SCALAR;
    #[cfg(not(scalar))]
    const LEAST: Self = Self(Token::Wasm(wasm::Wasm));

    /// The fastest of this processor.
    pub fn detect() -> Self {
        Self::all().last().unwrap_or(Self::LEAST)
    }

    /// All that this processor has, the slowest first.
    pub fn all() -> impl Iterator<Item = Self> {
        // Once: on a virtual machine it takes some microseconds.
        #[cfg(target_arch = "x86_64")]
        let features = cpuid::Features::detect();
        #[cfg(target_arch = "x86_64")]
        let more = [
            avx2::Avx2::of(features).map(Token::Avx2),
            avx2::AvxVnni::of(features).map(Token::AvxVnni),
            avx512::Avx512::of(features).map(Token::Avx512),
            avx512::Vnni::of(features).map(Token::Vnni),
            avx512::Vnni::with_amx(features).map(Token::Vnni),
        ];
        #[cfg(target_arch = "aarch64")]
        let more = [neon::Neon::detect().map(Token::Neon), neon::Dotprod::detect().map(Token::Dotprod)];
        #[cfg(all(scalar, target_feature = "simd128"))]
        let more = [Some(Token::Wasm(wasm::Wasm)), None];
        #[cfg(not(any(
            target_arch = "x86_64",
            target_arch = "aarch64",
            all(scalar, target_feature = "simd128")
        )))]
        let more: [Option<Token>; 2] = [None; 2];
        core::iter::once(Self::LEAST).chain(more.into_iter().flatten().map(Self))
    }

    /// The one of this name.
    ///
    /// # Errors
    /// Where there is none of this name, or this processor does not have it.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let known = NAMES.iter().find(|known| **known == name).ok_or(IsaError::Unknown)?;
        Self::all().find(|isa| isa.name() == name).ok_or(IsaError::Missing(known))
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(scalar)]
            Token::Scalar(_) => NAMES[0],
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => NAMES[1],
            #[cfg(target_arch = "x86_64")]
            Token::AvxVnni(_) => NAMES[2],
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => NAMES[3],
            #[cfg(target_arch = "x86_64")]
            Token::Vnni(s) => NAMES[if s.amx.is_some() { 8 } else { 4 }],
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => NAMES[5],
            #[cfg(target_arch = "aarch64")]
            Token::Dotprod(_) => NAMES[6],
            #[cfg(target_feature = "simd128")]
            Token::Wasm(_) => NAMES[7],
        }
    }

    /// The vectors of integers that it has; kernels do without them where there are none.
    pub fn vectors(self) -> Option<Vectors> {
        match self.0 {
            #[cfg(scalar)]
            Token::Scalar(_) => None,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(s) => Some(Vectors::Avx2(s)),
            #[cfg(target_arch = "x86_64")]
            Token::AvxVnni(s) => Some(Vectors::AvxVnni(s)),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(s) => Some(Vectors::Avx512(s)),
            #[cfg(target_arch = "x86_64")]
            Token::Vnni(s) => Some(Vectors::Vnni(s)),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(s) => Some(Vectors::Neon(s)),
            #[cfg(target_arch = "aarch64")]
            Token::Dotprod(s) => Some(Vectors::Dotprod(s)),
            #[cfg(target_feature = "simd128")]
            Token::Wasm(s) => Some(Vectors::Wasm(s)),
        }
    }

    /// Runs a kernel, compiled for this instruction set.
    #[inline(never)]
    pub fn run(self, kernel: impl Kernel, scratch: &mut [f32]) {
        match self.0 {
            #[cfg(scalar)]
            Token::Scalar(s) => s.run(kernel, scratch),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(s) => s.run(kernel, scratch),
            #[cfg(target_arch = "x86_64")]
            Token::AvxVnni(s) => s.0.run(kernel, scratch),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(s) => s.run(kernel, scratch),
            #[cfg(target_arch = "x86_64")]
            Token::Vnni(s) => s.avx512.run(kernel, scratch),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(s) => s.run(kernel, scratch),
            #[cfg(target_arch = "aarch64")]
            Token::Dotprod(s) => s.0.run(kernel, scratch),
            #[cfg(target_feature = "simd128")]
            Token::Wasm(s) => s.run(kernel, scratch),
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
