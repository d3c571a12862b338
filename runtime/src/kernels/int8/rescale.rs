//! From the sums of a convolution to the numbers of its output.

use core::ops::Range;

use traflow_graph::quant::Wide;

use super::conv2d::Part;
use super::{Number, Values, ValuesMut, array, lanes, load_part, store_part};
use crate::simd::{IntegerKernel, LANES, Lanes};

/// Sums of products, in vectors of a panel of output channels.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    /// Those of each part of the input's channels: of all pixels of a panel, and then of the next panel. The second is empty
    /// where there is one part.
    pub(super) parts: [&'a [[i32; LANES]]; 2],
    /// What has to be added to them, for each panel.
    pub(super) begin: [&'a [[i32; LANES]]; 2],
    /// Distance of panels.
    pub(super) panel: usize,
    /// Distance of rows of pixels.
    pub(super) row: usize,
}

/// Rescales sums by some panels, and stores them. It is compiled once, however many kinds of tiles there are.
pub(super) struct Rescale<'p, 'a, 's> {
    pub(super) part: &'p mut Part<'a>,
    /// The panels.
    pub(super) panels: Range<usize>,
    /// The pixels of the first row.
    pub(super) pixels: Range<usize>,
    /// Rows below each other.
    pub(super) rows: usize,
    pub(super) sums: Sums<'s>,
}

impl IntegerKernel for Rescale<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Lanes>(self, s: S, _: &mut [u8]) {
        let Self { part, panels, pixels, rows, sums } = self;
        let (outs, width) = (part.bias.len(), usize::from(part.shape.width));
        for (n, panel) in panels.enumerate() {
            let first = panel * LANES;
            let mut factors = [array(part.factors[0], first); 2];
            if !part.factors[1].is_empty() {
                factors[1] = array(part.factors[1], first);
            }
            let scale = Scale::new(s, part, &sums, n, array(part.bias, first), factors);
            for row in 0..rows {
                let of_row = sums.of_row(part, n, row, pixels.len());
                let place = [(pixels.start + row * width) * outs + first, outs];
                let r = Residual::of(part);
                match &mut part.y {
                    ValuesMut::Narrow(y) => scale.row(s, of_row, r, y, place),
                    ValuesMut::Wide(y) => scale.row(s, of_row, r, y, place),
                }
            }
        }
    }
}

/// The same for a panel of fewer output channels, by itself: copies of a length that is not known take the registers away.
pub(super) struct RescalePart<'p, 'a, 's>(pub(super) Rescale<'p, 'a, 's>);

impl IntegerKernel for RescalePart<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Lanes>(self, s: S, _: &mut [u8]) {
        let Rescale { part, panels, pixels, sums, .. } = self.0;
        let outs = part.bias.len();
        let channels = panels.start * LANES..outs;
        let bias = &lanes(&part.bias[channels.clone()]);
        // Of a second part there may be none.
        let factors = part.factors.map(|factors| lanes(factors.get(channels.clone()).unwrap_or_default()));
        let scale = Scale::new(s, part, &sums, 0, bias, [&factors[0], &factors[1]]);
        let of_row = sums.of_row(part, 0, 0, pixels.len());
        let place = [pixels.start * outs + channels.start, channels.len(), outs];
        let r = Residual::of(part);
        match &mut part.y {
            ValuesMut::Narrow(y) => scale.part_row(s, of_row, r, y, place),
            ValuesMut::Wide(y) => scale.part_row(s, of_row, r, y, place),
        }
    }
}

impl<'a> Sums<'a> {
    /// Those of a row of pixels for a panel.
    #[inline(always)]
    fn of_row(&self, part: &Part<'_>, panel: usize, row: usize, pixels: usize) -> [&'a [[i32; LANES]]; 2] {
        let first = panel * self.panel + row * self.row;
        let of_row = first..first + pixels;
        let second = if part.factors[1].is_empty() { &[] } else { &self.parts[1][of_row.clone()] };
        [&self.parts[0][of_row], second]
    }
}

/// What makes sums of products to numbers of the output, for a panel.
struct Scale<S: Lanes> {
    bias: S::Long,
    /// What is added to the sums of each part, and what they are multiplied by.
    begin: [S::V; 2],
    factors: [S::V; 2],
    residual: S::V,
    shift: u32,
}

/// Where the residual is.
#[derive(Clone, Copy)]
enum Residual<'a> {
    None,
    /// The output holds it.
    Output,
    Narrow(&'a [i8]),
    Wide(&'a [i16]),
}

impl<'a> Residual<'a> {
    fn of(part: &Part<'a>) -> Self {
        match part.r {
            _ if part.residual == 0 => Self::None,
            None => Self::Output,
            Some(Values::Narrow(r)) => Self::Narrow(r),
            Some(Values::Wide(r)) => Self::Wide(r),
        }
    }
}

impl<S: Lanes> Scale<S> {
    /// That of the sums of a panel; the second factors are of no consequence where there is one part.
    #[inline(always)]
    fn new(
        s: S,
        part: &Part<'_>,
        sums: &Sums<'_>,
        panel: usize,
        bias: &[Wide; LANES],
        factors: [&[i32; LANES]; 2],
    ) -> Self {
        let begin = s.load(&sums.begin[0][panel]);
        let mut scale = Self {
            bias: s.load_long(bias),
            begin: [begin; 2],
            factors: [s.load(factors[0]), s.load(factors[1])],
            residual: s.splat(part.residual),
            shift: part.shift,
        };
        if !part.factors[1].is_empty() {
            scale.begin[1] = s.load(&sums.begin[1][panel]);
        }
        scale
    }

    /// A row of pixels: where they are stored, and their distance there. The sums of the second part are empty where there is
    /// none.
    #[inline(always)]
    fn row<Y: Number>(
        &self,
        s: S,
        sums: [&[[i32; LANES]]; 2],
        residual: Residual<'_>,
        y: &mut [Y],
        place: [usize; 2],
    ) {
        match residual {
            Residual::None => self.whole_row::<Y, i8, false>(s, sums, &[], y, place),
            Residual::Output => self.whole_row::<Y, i8, true>(s, sums, &[], y, place),
            Residual::Narrow(r) => self.whole_row::<Y, _, false>(s, sums, r, y, place),
            Residual::Wide(r) => self.whole_row::<Y, _, false>(s, sums, r, y, place),
        }
    }

    /// Of a whole panel, and for one kind of residual: what the output holds, or what `r` does unless that is empty.
    #[inline(always)]
    fn whole_row<Y: Number, R: Number, const OUTPUT: bool>(
        &self,
        s: S,
        [first, second]: [&[[i32; LANES]]; 2],
        r: &[R],
        y: &mut [Y],
        [index, next]: [usize; 2],
    ) {
        for (m, sums) in first.iter().enumerate() {
            let mut sum = self.product(s, sums, 0, self.bias);
            if let Some(sums) = second.get(m) {
                sum = self.product(s, sums, 1, sum);
            }
            if !r.is_empty() {
                let r = R::load(s, array(r, index + m * next));
                sum = s.add_long(sum, s.mul_long(r, self.residual));
            }
            let Some(y) = y[index + m * next..].first_chunk_mut() else { return };
            if OUTPUT {
                sum = s.add_long(sum, s.mul_long(Y::load(s, y), self.residual));
            }
            Y::store(s, s.narrow(sum, self.shift), y);
        }
    }

    /// Of a panel of fewer output channels.
    #[inline(always)]
    fn part_row<Y: Number>(
        &self,
        s: S,
        [first, second]: [&[[i32; LANES]]; 2],
        residual: Residual<'_>,
        y: &mut [Y],
        [index, width, next]: [usize; 3],
    ) {
        // What a vector writes after its pixel is overwritten by the following ones, unless they are yet to be read.
        let over = next == width && !matches!(residual, Residual::Output);
        for (m, sums) in first.iter().enumerate() {
            let mut sum = self.product(s, sums, 0, self.bias);
            if let Some(sums) = second.get(m) {
                sum = self.product(s, sums, 1, sum);
            }
            let place = index + m * next..index + m * next + width;
            let r = match residual {
                Residual::None => s.splat(0),
                Residual::Output => load_part(s, &y[place.clone()]),
                Residual::Narrow(r) => load_part(s, &r[place.clone()]),
                Residual::Wide(r) => load_part(s, &r[place.clone()]),
            };
            let v = s.narrow(s.add_long(sum, s.mul_long(r, self.residual)), self.shift);
            match y[place.start..].first_chunk_mut() {
                Some(y) if over => Y::store(s, v, y),
                _ => store_part(s, v, &mut y[place]),
            }
        }
    }

    /// Adds the sums of a part, times their factors.
    #[inline(always)]
    fn product(&self, s: S, sums: &[i32; LANES], part: usize, to: S::Long) -> S::Long {
        let sums = s.add(s.load(sums), self.begin[part]);
        s.add_long(to, s.mul_long(sums, self.factors[part]))
    }
}
