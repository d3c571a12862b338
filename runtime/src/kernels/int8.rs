//! The operations on integers, one a file, as `docs/integer-arithmetic.md` has them. Nothing here is floating point.
//!
//! Values lie by row, then column, then channel: a pixel's channels are beside each other. Where an operation may write over
//! its input, the kernel's input is an option: without one its `y` holds it.
//!
//! On a microcontroller nothing here can panic, which `firmware-demo/check.sh` proves. So an index that is outside, which
//! the check of a file and the definitions in the tests exclude, reads zeros and writes nothing.

use core::ops::Range;

use bytemuck::Zeroable;

use crate::simd::{LANES, Lanes};

mod attention;
mod conv2d;
mod elementwise;
mod few;
mod group_norm;
mod matrices;
mod rescale;
mod rows;
mod winograd;
mod winograd4;

pub use attention::Attention;
pub(crate) use attention::ample_bytes as attention_ample_bytes;
pub use conv2d::Conv2d;
pub use elementwise::{Add, Concat, Downsample, Silu, Start, Step, Upsample};
pub use group_norm::GroupNorm;
pub(crate) use winograd4::{OFFERED as TILES_OFFERED, ample_bytes as conv_ample_bytes};

/// Elements of 8 or of 16 bits.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// 8 bits.
    Narrow(&'a [i8]),
    /// 16 bits.
    Wide(&'a [i16]),
}

impl Values<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Narrow(x) => x.len(),
            Self::Wide(x) => x.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements from this one on.
    #[inline]
    pub fn from(&self, index: usize) -> Self {
        match self {
            Self::Narrow(x) => Self::Narrow(x.get(index..).unwrap_or_default()),
            Self::Wide(x) => Self::Wide(x.get(index..).unwrap_or_default()),
        }
    }

    /// One element.
    #[inline]
    pub fn get(&self, index: usize) -> i32 {
        match self {
            Self::Narrow(x) => x.get(index).copied().unwrap_or(0).into(),
            Self::Wide(x) => x.get(index).copied().unwrap_or(0).into(),
        }
    }

    /// Elements from this one on, each so many after the one before. Where none is left, what was there stays.
    #[inline(never)]
    fn read(&self, first: usize, step: usize, to: &mut [i32]) {
        fn read<X: Number>(x: &[X], mut index: usize, step: usize, to: &mut [i32]) {
            for to in to {
                let Some(&x) = x.get(index) else { return };
                *to = x.into();
                index += step;
            }
        }
        match self {
            Self::Narrow(x) => read(x, first, step, to),
            Self::Wide(x) => read(x, first, step, to),
        }
    }

    /// Some of the elements.
    fn slice(&self, range: Range<usize>) -> Self {
        match self {
            Self::Narrow(x) => Self::Narrow(&x[range]),
            Self::Wide(x) => Self::Wide(&x[range]),
        }
    }

    /// So many elements as a vector, and zeros.
    #[inline(always)]
    fn load<S: Lanes>(&self, s: S, index: usize, width: usize) -> S::V {
        match self {
            Self::Narrow(x) => load_part(s, &x[index..index + width]),
            Self::Wide(x) => load_part(s, &x[index..index + width]),
        }
    }
}

/// A number of 8 or of 16 bits.
trait Number: bytemuck::Pod + Into<i32> {
    /// The nearest number.
    fn nearest(number: i32) -> Self;
    /// Widened.
    fn load<S: Lanes>(s: S, x: &[Self; LANES]) -> S::V;
    /// The nearest numbers.
    fn store<S: Lanes>(s: S, v: S::V, y: &mut [Self; LANES]);
}

impl Number for i8 {
    #[inline(always)]
    fn nearest(number: i32) -> Self {
        number.clamp(Self::MIN.into(), Self::MAX.into()) as Self
    }

    #[inline(always)]
    fn load<S: Lanes>(s: S, x: &[Self; LANES]) -> S::V {
        s.load8(x)
    }

    #[inline(always)]
    fn store<S: Lanes>(s: S, v: S::V, y: &mut [Self; LANES]) {
        s.store8(v, y);
    }
}

impl Number for i16 {
    #[inline(always)]
    fn nearest(number: i32) -> Self {
        number.clamp(Self::MIN.into(), Self::MAX.into()) as Self
    }

    #[inline(always)]
    fn load<S: Lanes>(s: S, x: &[Self; LANES]) -> S::V {
        s.load16(x)
    }

    #[inline(always)]
    fn store<S: Lanes>(s: S, v: S::V, y: &mut [Self; LANES]) {
        s.store16(v, y);
    }
}

/// The elements, at most as many as a vector has lanes, and zeros.
#[inline(always)]
fn load_part<S: Lanes, X: Number>(s: S, x: &[X]) -> S::V {
    match x.first_chunk() {
        Some(x) => X::load(s, x),
        None => X::load(s, &lanes(x)),
    }
}

/// The nearest numbers of as many lanes as there are elements.
#[inline(always)]
fn store_part<S: Lanes, Y: Number>(s: S, v: S::V, y: &mut [Y]) {
    match y.first_chunk_mut() {
        Some(y) => Y::store(s, v, y),
        None => {
            let mut whole = [Y::zeroed(); LANES];
            Y::store(s, v, &mut whole);
            y.copy_from_slice(&whole[..y.len()]);
        }
    }
}

/// So many elements of x, or of y where there is no x, as a vector.
#[inline(always)]
fn load<S: Lanes>(s: S, x: Option<Values<'_>>, y: &ValuesMut<'_>, index: usize, width: usize) -> S::V {
    match x {
        Some(x) => x.load(s, index, width),
        None => y.values().load(s, index, width),
    }
}

/// As many elements as an array has, from an index on.
#[inline(always)]
fn array<T, const N: usize>(x: &[T], index: usize) -> &[T; N] {
    x[index..].first_chunk().expect("a vector is inside the slice")
}

/// At most N elements, and zeros.
#[inline(always)]
fn lanes<T: Copy + Zeroable, const N: usize>(x: &[T]) -> [T; N] {
    if let Some(&whole) = x.first_chunk() {
        return whole;
    }
    let mut lanes = [T::zeroed(); N];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

/// Elements of 8 or of 16 bits, to be written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// 8 bits.
    Narrow(&'a mut [i8]),
    /// 16 bits.
    Wide(&'a mut [i16]),
}

impl<'a> ValuesMut<'a> {
    /// Parts of so many elements, and a rest.
    fn chunks(self, part: usize) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        core::iter::from_fn(move || {
            let (first, after) = match rest.take()? {
                Self::Narrow(y) => {
                    let (first, after) = y.split_at_mut(part.min(y.len()));
                    (Self::Narrow(first), Self::Narrow(after))
                }
                Self::Wide(y) => {
                    let (first, after) = y.split_at_mut(part.min(y.len()));
                    (Self::Wide(first), Self::Wide(after))
                }
            };
            rest = Some(after).filter(|after| !after.is_empty());
            Some(first).filter(|first| !first.is_empty())
        })
    }

    /// The elements, to be read.
    pub fn values(&self) -> Values<'_> {
        match self {
            Self::Narrow(y) => Values::Narrow(y),
            Self::Wide(y) => Values::Wide(y),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.values().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One element.
    #[inline]
    pub fn get(&self, index: usize) -> i32 {
        self.values().get(index)
    }

    /// Sets one element to the nearest number that it holds.
    #[inline]
    pub fn set(&mut self, index: usize, number: i32) {
        match self {
            Self::Narrow(y) => {
                let Some(y) = y.get_mut(index) else { return };
                *y = Number::nearest(number);
            }
            Self::Wide(y) => {
                let Some(y) = y.get_mut(index) else { return };
                *y = Number::nearest(number);
            }
        }
    }

    /// Sets elements from this one on, each so many after the one before, to the nearest numbers that they hold.
    #[inline(never)]
    fn write(&mut self, first: usize, step: usize, from: &[i32]) {
        fn write<Y: Number>(y: &mut [Y], mut index: usize, step: usize, from: &[i32]) {
            for &number in from {
                let Some(y) = y.get_mut(index) else { return };
                *y = Y::nearest(number);
                index += step;
            }
        }
        match self {
            Self::Narrow(y) => write(y, first, step, from),
            Self::Wide(y) => write(y, first, step, from),
        }
    }

    /// The nearest numbers of so many lanes.
    #[inline(always)]
    fn store<S: Lanes>(&mut self, s: S, v: S::V, index: usize, width: usize) {
        match self {
            Self::Narrow(y) => store_part(s, v, &mut y[index..index + width]),
            Self::Wide(y) => store_part(s, v, &mut y[index..index + width]),
        }
    }

    /// Sets so many elements, from this one on and each so many after the one before, to what `f` makes of the elements of `x`
    /// there, or of their own where there is no x. It is given the place of the first of those that it computes together.
    #[inline(never)]
    fn map(
        &mut self,
        x: Option<Values<'_>>,
        [first, step, count]: [usize; 3],
        f: &dyn Fn(usize, &mut [i32]),
    ) {
        for start in (0..count).step_by(BLOCK) {
            let place = first + start * step;
            let numbers = &mut [0; BLOCK];
            let Some(numbers) = numbers.get_mut(..BLOCK.min(count - start)) else { return };
            x.unwrap_or_else(|| self.values()).read(place, step, numbers);
            f(place, numbers);
            self.write(place, step, numbers);
        }
    }
}

/// Elements that are computed together where there are no vectors, so that how wide they are is asked once.
const BLOCK: usize = 16;

/// The lower half of a sum that has been shifted: all of it, in a file that was checked.
#[inline(always)]
fn shifted(sum: i64, shift: u32) -> i32 {
    (sum >> shift) as i32
}

/// Copies as many elements as both have.
fn copy<T: Copy>(from: &[T], to: &mut [T]) {
    let len = from.len().min(to.len());
    to[..len].copy_from_slice(&from[..len]);
}

/// The number over 2^shift, rounded to the nearest, half up; with a negative shift, times 2^-shift as far as 64 bits go.
fn scale(number: i64, shift: i64) -> i64 {
    match shift {
        ..-62 => number.saturating_mul(i64::MAX),
        -62..=0 => number.saturating_mul(1 << -shift),
        1..=62 => (number >> shift) + (number >> (shift - 1) & 1),
        _ => 0,
    }
}

/// 2⁶² over a number of at least 2³¹, rounded down, digit by digit of 16 bits (Knuth's algorithm D).
fn reciprocal(divisor: u32) -> u64 {
    let high = (divisor >> 16).max(1);
    let digit = |rest: u64| {
        // Too large by two at most.
        let mut digit = (rest >> 16) as u32 / high;
        let mut product = u64::from(digit) * u64::from(divisor);
        while product > rest {
            digit -= 1;
            product -= u64::from(divisor);
        }
        (digit, rest - product)
    };
    let (first, rest) = digit(1 << 46);
    let (second, _) = digit(rest << 16);
    (u64::from(first) << 16) + u64::from(second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cpu, Isa};
    use std::vec::Vec;
    use traflow_graph::noise::Noise;

    /// Numbers of 8 bits, uniform over all.
    pub(super) fn narrow(stream: u32, len: usize) -> Vec<i8> {
        (0..len as u64).map(|i| Noise::stream(21, stream).word(i) as i8).collect()
    }

    /// Numbers of 16 bits, uniform over all.
    pub(super) fn wide(stream: u32, len: usize) -> Vec<i16> {
        (0..len as u64).map(|i| Noise::stream(22, stream).word(i) as i16).collect()
    }

    /// Every instruction set, on one thread and, where that is possible, on three.
    pub(super) fn cpus() -> Vec<Cpu> {
        let one = Isa::all().map(Cpu::new);
        #[cfg(feature = "threads")]
        let one = one.chain(Isa::all().map(|isa| Cpu::with_threads(isa, 3).unwrap()));
        one.collect()
    }

    /// Numbers of 8 bits at either end.
    pub(super) fn ends(stream: u32, len: usize) -> Vec<i8> {
        narrow(stream, len).into_iter().map(|x| if x < 0 { i8::MIN } else { i8::MAX }).collect()
    }

    /// Numbers of 16 bits at either end.
    pub(super) fn wide_ends(stream: u32, len: usize) -> Vec<i16> {
        wide(stream, len).into_iter().map(|x| if x < 0 { i16::MIN } else { i16::MAX }).collect()
    }

    /// Runs a kernel whose output begins as this on every processor, and compares with plain Rust: in 8 bits, then in 16.
    pub(super) fn same(begin: &[i16], what: &str, run: impl Fn(ValuesMut<'_>, &Cpu)) {
        let narrow: Vec<i8> = begin.iter().map(|&x| x as i8).collect();
        let scalar = Cpu::new(Isa::SCALAR);
        let (mut expected_narrow, mut expected) = (narrow.clone(), begin.to_vec());
        run(ValuesMut::Narrow(&mut expected_narrow), &scalar);
        run(ValuesMut::Wide(&mut expected), &scalar);
        for cpu in cpus() {
            let (mut y_narrow, mut y) = (narrow.clone(), begin.to_vec());
            run(ValuesMut::Narrow(&mut y_narrow), &cpu);
            run(ValuesMut::Wide(&mut y), &cpu);
            assert_eq!(y_narrow, expected_narrow, "{what} in 8 bits on {cpu:?}");
            assert_eq!(y, expected, "{what} in 16 bits on {cpu:?}");
        }
    }

    #[test]
    fn scaling_rounds_to_the_nearest() {
        for (number, shift, expected) in
            [(5, 1, 3), (-5, 1, -2), (-6, 2, -1), (6, 2, 2), (3, 0, 3), (3, -4, 48), (9, 63, 0), (9, 200, 0)]
        {
            assert_eq!(scale(number, shift), expected, "{number} {shift}");
        }
        assert_eq!((scale(3, -62), scale(-3, -100)), (i64::MAX, i64::MIN));
        assert_eq!((scale(0, -100), scale(i64::MIN, 62)), (0, -2));
    }
}
