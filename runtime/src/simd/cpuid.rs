//! What an x86-64 processor says of itself, and what the operating system saves of its registers.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// Bits of feature words, by leaf of CPUID and register.
#[derive(Clone, Copy)]
pub(super) struct Features {
    /// Leaf 1, ECX.
    basic: u32,
    /// Leaf 7, EBX.
    extended: u32,
    /// Leaf 7, ECX.
    vectors: u32,
    /// Leaf 7, EDX.
    matrices: u32,
    /// Leaf 0x8000_0001, ECX.
    more: u32,
    /// Leaf 7, second part, EAX.
    vnni: u32,
    /// Register states that the operating system saves (XCR0).
    saved: u64,
}

const FMA: u32 = 1 << 12;
const OSXSAVE: u32 = 1 << 27;
const AVX: u32 = 1 << 28;
const F16C: u32 = 1 << 29;
const BMI1: u32 = 1 << 3;
const AVX2: u32 = 1 << 5;
const BMI2: u32 = 1 << 8;
const AVX512F: u32 = 1 << 16;
const AVX512DQ: u32 = 1 << 17;
const AVX512CD: u32 = 1 << 28;
const AVX512BW: u32 = 1 << 30;
const AVX512VL: u32 = 1 << 31;
const AVX512_VNNI: u32 = 1 << 11;
const AMX_TILE: u32 = 1 << 24;
const AMX_INT8: u32 = 1 << 25;
const AVX_VNNI: u32 = 1 << 4;
const LZCNT: u32 = 1 << 5;

/// SSE and AVX registers.
const YMM: u64 = 0b110;
/// Masks, and both halves of the AVX-512 registers.
const ZMM: u64 = 0b1110_0000 | YMM;
/// Shapes and contents of the registers of AMX.
const TILES: u64 = 0b11 << 17;

#[target_feature(enable = "xsave")]
fn saved() -> u64 {
    // SAFETY: the caller has seen that the operating system has enabled XGETBV; register 0 always exists.
    unsafe { _xgetbv(0) }
}

impl Features {
    pub(super) fn detect() -> Self {
        let (highest, basic) = (__cpuid(0).eax, __cpuid(1).ecx);
        let leaf7 = (highest >= 7).then(|| __cpuid_count(7, 0));
        let (extended, vectors, matrices) = leaf7.map_or((0, 0, 0), |leaf| (leaf.ebx, leaf.ecx, leaf.edx));
        let vnni = leaf7.filter(|leaf| leaf.eax >= 1).map_or(0, |_| __cpuid_count(7, 1).eax);
        let more = if __cpuid(0x8000_0000).eax > 0x8000_0000 { __cpuid(0x8000_0001).ecx } else { 0 };
        // SAFETY: OSXSAVE says that the instruction exists and may be used.
        let saved = if basic & OSXSAVE != 0 { unsafe { saved() } } else { 0 };
        Self { basic, extended, vectors, matrices, more, vnni, saved }
    }

    /// With what every processor so far has that has it: instructions for bits, among them.
    pub(super) fn avx2(self) -> bool {
        let (basic, extended) = (FMA | AVX | F16C, AVX2 | BMI1 | BMI2);
        let instructions = self.basic & basic == basic && self.extended & extended == extended;
        instructions && self.more & LZCNT != 0 && self.saved & YMM == YMM
    }

    pub(super) fn avx512(self) -> bool {
        let extended = AVX512F | AVX512DQ | AVX512CD | AVX512BW | AVX512VL;
        self.avx2() && self.extended & extended == extended && self.saved & ZMM == ZMM
    }

    pub(super) fn avx_vnni(self) -> bool {
        self.avx2() && self.vnni & AVX_VNNI != 0
    }

    pub(super) fn avx512_vnni(self) -> bool {
        self.avx512() && self.vectors & AVX512_VNNI != 0
    }

    pub(super) fn amx_int8(self) -> bool {
        let features = AMX_TILE | AMX_INT8;
        self.avx512_vnni() && self.matrices & features == features && self.saved & TILES == TILES
    }
}
