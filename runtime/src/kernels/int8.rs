//! The operations on integers, one a file, as `docs/integer-arithmetic.md` has them. Nothing here is floating point.
//!
//! Unlike those of floating point, values lie by row, then column, then channel: a pixel's channels are beside each
//! other. Where an operation may write over its input, the kernel takes no input: its `y` holds it.

mod attention;
mod conv2d;
mod elementwise;
mod group_norm;
mod rows;

pub use attention::Attention;
pub use conv2d::Conv2d;
pub use elementwise::{Add, Concat, Downsample, Silu, Upsample};
pub use group_norm::GroupNorm;

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
            Self::Narrow(x) => Self::Narrow(&x[index..]),
            Self::Wide(x) => Self::Wide(&x[index..]),
        }
    }

    /// One element.
    #[inline]
    pub fn get(&self, index: usize) -> i32 {
        match self {
            Self::Narrow(x) => x[index].into(),
            Self::Wide(x) => x[index].into(),
        }
    }
}

/// Elements of 8 or of 16 bits, to be written.
#[derive(Debug)]
pub enum ValuesMut<'a> {
    /// 8 bits.
    Narrow(&'a mut [i8]),
    /// 16 bits.
    Wide(&'a mut [i16]),
}

impl ValuesMut<'_> {
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
        match self {
            Self::Narrow(y) => y[index].into(),
            Self::Wide(y) => y[index].into(),
        }
    }

    /// Sets one element to the nearest number that it holds.
    #[inline]
    pub fn set(&mut self, index: usize, number: i64) {
        match self {
            Self::Narrow(y) => y[index] = number.clamp(i8::MIN.into(), i8::MAX.into()) as i8,
            Self::Wide(y) => y[index] = number.clamp(i16::MIN.into(), i16::MAX.into()) as i16,
        }
    }

    /// Sets each element to a function of its place and of the element of `x` there, or of its own where there is no x.
    fn map(&mut self, x: Option<Values<'_>>, f: impl Fn(usize, i32) -> i64) {
        for index in 0..self.len() {
            let q = x.map_or_else(|| self.get(index), |x| x.get(index));
            self.set(index, f(index, q));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
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
