use crate::cpu::Cpu;
use crate::simd::{Columns, Kernel, Simd, accumulate};

/// Multiply-adds of numbers that never leave the first-level cache: what no convolution can be faster than without
/// saving products.
#[derive(Debug)]
pub struct Peak {
    /// How often all sums are computed.
    pub rounds: usize,
}

/// Terms of each sum.
const DEPTH: usize = 64;

impl Peak {
    /// Computes them on one thread, and gives the number of multiply-adds of one round.
    pub fn run(self, cpu: &Cpu) -> u64 {
        let mut macs = 0;
        cpu.run([Rounds { rounds: self.rounds, macs: &mut macs }].into_iter(), &mut []);
        macs
    }
}

struct Rounds<'a> {
    rounds: usize,
    macs: &'a mut u64,
}

impl Kernel for Rounds<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _: &mut [f32]) {
        match S::LANES {
            16 => self.sums::<S, 8, 3>(s),
            8 => self.sums::<S, 6, 2>(s),
            _ => self.sums::<S, 2, 4>(s),
        }
    }
}

impl Rounds<'_> {
    #[inline(always)]
    fn sums<S: Simd, const M: usize, const N: usize>(self, s: S) {
        let (a, elements) = ([0.5; DEPTH], &[0.25; DEPTH * 48]);
        let columns = Columns { elements, row: N * S::LANES, next: S::LANES, part: None };
        let mut sums = [[s.splat(0.0); N]; M];
        for _ in 0..self.rounds {
            let rows = core::hint::black_box([&a[..]; M]);
            accumulate(s, rows, columns, &mut sums);
        }
        core::hint::black_box(sums.map(|sums| sums.map(|sum| s.fold(sum, |a, b| a + b))));
        *self.macs = (M * N * S::LANES * DEPTH) as u64;
    }
}
