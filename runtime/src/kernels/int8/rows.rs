//! Convolution as small processors do it. The rows of the input that a row of the output reads are expanded once, into a
//! ring of as many rows as the kernel has, with zero points around them: then there are no borders, and a tile of sums reads
//! straight on through the three taps of a row.

use core::num::NonZeroUsize;

use traflow_graph::quant::{PANEL, QUAD, long};

use super::conv2d::Conv2d;
use super::{Values, shifted};
use crate::simd::dot::{Dot, End, PIXELS, Sums, Tile, Window};

/// Computes the convolution.
pub(super) fn run<D: Dot>(d: D, mut conv: Conv2d<'_>) {
    let (height, width) = (usize::from(conv.shape.height), usize::from(conv.shape.width));
    let (outs, kernel, reach) = (conv.bias.len(), conv.kernel, conv.kernel / 2);
    // As a divisor it cannot be zero.
    let Some(rows_of_ring) = NonZeroUsize::new(kernel) else { return };
    let pixel = usize::from(conv.shape.channels).next_multiple_of(QUAD);
    // Pixels are computed in pairs, and the last one may be half outside.
    let row = (width.next_multiple_of(2) + 2 * reach) * pixel;
    let scratch = core::mem::take(&mut conv.scratch);
    let ring: &mut [D::X] = bytemuck::try_cast_slice_mut(scratch).unwrap_or_default();
    let Some(ring) = ring.get_mut(..kernel * row) else { return };
    conv.expand_outside(d, ring);
    let mut sums = [[[0; PANEL]; PIXELS]; 2];
    // The quads of each part. A part of several is read tap by tap, since the other one is between its taps.
    let first_quads = conv.split.div_ceil(QUAD);
    let second_quads = pixel / QUAD - first_quads;
    for below in 0..height + reach {
        // A row that is expanded, or zero points, in the place of the one that is not needed any more.
        let start = below % rows_of_ring * row + reach * pixel;
        let Some(inside) = ring.get_mut(start..start + width * pixel) else { return };
        if below < height {
            conv.expand(d, below, inside);
        } else {
            conv.expand_outside(d, inside);
        }
        let Some(middle) = below.checked_sub(reach) else { continue };
        let rows = |ky: usize| {
            let start = (below + 1 + ky) % rows_of_ring * row;
            ring.get(start..start + row).unwrap_or_default()
        };
        let taps = |first: usize| {
            (0..kernel * kernel).map(move |tap: usize| {
                let (ky, kx) = (tap / rows_of_ring, tap % rows_of_ring);
                rows(ky).get(kx * pixel + first..).unwrap_or_default()
            })
        };
        let (first, second) = if second_quads == 0 {
            (Window::new((0..kernel).map(rows), kernel * first_quads, pixel, 0), None)
        } else {
            let second = Window::new(taps(first_quads * QUAD), second_quads, pixel, first_quads);
            (Window::new(taps(0), first_quads, pixel, second_quads), Some(second))
        };
        for panel in (0..outs).step_by(PANEL) {
            let of_panel = PANEL.min(outs - panel);
            let of_out = kernel * kernel * pixel;
            let weights = conv.panels.get(panel * of_out..(panel + of_panel) * of_out).unwrap_or_default();
            for column in (0..width).step_by(PIXELS) {
                let pixels = PIXELS.min(width - column);
                let tile = Tile { at: column * pixel, step: of_panel * QUAD, outs: of_panel, pixels };
                compute(d, &first, tile, weights, &mut sums[0]);
                if let Some(second) = &second {
                    let weights = weights.get(first_quads * tile.step..).unwrap_or_default();
                    compute(d, second, tile, weights, &mut sums[1]);
                }
                conv.rescale(d, middle * width + column, panel, [of_panel, pixels], &sums);
            }
        }
    }
}

/// The sums of a tile.
fn compute<D: Dot>(d: D, window: &Window<'_, D::X>, tile: Tile, weights: &[i8], sums: &mut Sums) {
    let whole = tile.outs / D::OUTS * D::OUTS;
    if whole > 0 {
        d.block(window, Tile { outs: whole, ..tile }, weights, sums);
    }
    if whole < tile.outs {
        d.rest(window, tile, whole, weights, sums);
    }
}

impl Conv2d<'_> {
    /// Expands a row of the input.
    fn expand<D: Dot>(&self, d: D, row: usize, expanded: &mut [D::X]) {
        let channels = usize::from(self.shape.channels);
        let width = usize::from(self.shape.width);
        let range = row * width * channels..(row + 1) * width * channels;
        match self.x {
            Values::Narrow(x) => {
                expand(x.get(range).unwrap_or_default(), channels, expanded, |quad| d.expand(quad));
            }
            Values::Wide(x) => {
                expand(x.get(range).unwrap_or_default(), channels, expanded, |quad| d.expand_wide(quad));
            }
        }
    }

    /// Expands pixels that are outside the picture.
    fn expand_outside<D: Dot>(&self, d: D, expanded: &mut [D::X]) {
        let quads = usize::from(self.shape.channels).div_ceil(QUAD).max(1);
        for pixel in expanded.as_chunks_mut::<QUAD>().0.chunks_exact_mut(quads) {
            for (index, quad) in pixel.iter_mut().enumerate() {
                let zero = self.zeros[usize::from(index * QUAD >= self.split)];
                *quad = d.expand([zero as i8; QUAD]);
            }
        }
    }

    /// Rescales the sums of pixels and of output channels of a panel, for each part of the input.
    pub(super) fn rescale<D: Dot>(
        &mut self,
        d: D,
        start: usize,
        panel: usize,
        [outs, pixels]: [usize; 2],
        sums: &[Sums],
    ) {
        let stride = self.bias.len();
        let first = start * stride + panel;
        let of_panel = panel..panel + outs;
        let end = End {
            bias: self.bias.get(of_panel.clone()).unwrap_or_default(),
            factors: self.factors[0].get(of_panel.clone()).unwrap_or_default(),
            second: self.factors[1].get(of_panel).unwrap_or_default(),
            residual: self.residual,
            r: self.r.filter(|_| self.residual != 0).map(|r| r.from(first)),
            shift: self.shift,
            pixels,
            stride,
        };
        if d.rescale(&end, sums, &mut self.y, first) {
            return;
        }
        let Some(first_sums) = sums.first() else { return };
        let second_sums = sums.get(1).unwrap_or(first_sums);
        for (pixel, (sums, second_sums)) in first_sums.iter().zip(second_sums).enumerate().take(pixels) {
            let of_out = sums.iter().zip(second_sums).zip(end.bias.iter().zip(end.factors));
            for (out, ((&sum, &second), (&bias, &factor))) in of_out.enumerate() {
                let mut sum = long(bias) + i64::from(sum) * i64::from(factor);
                if let Some(&factor) = end.second.get(out) {
                    sum += i64::from(second) * i64::from(factor);
                }
                let index = pixel * stride + out;
                if self.residual != 0 {
                    let r = end.r.map_or_else(|| self.y.get(first + index), |r| r.get(index));
                    sum += i64::from(r) * i64::from(self.residual);
                }
                self.y.set(first + index, shifted(sum, self.shift));
            }
        }
    }
}

/// Expands a row of pixels, whose last quad is filled with zeros.
#[inline(always)]
fn expand<T: Copy + Default, X: Copy>(
    x: &[T],
    channels: usize,
    expanded: &mut [X],
    quad: impl Fn([T; QUAD]) -> [X; QUAD],
) {
    let quads = expanded.as_chunks_mut::<QUAD>().0;
    if channels.is_multiple_of(QUAD) {
        for (x, to) in x.as_chunks::<QUAD>().0.iter().zip(quads) {
            *to = quad(*x);
        }
        return;
    }
    let mut pixels = quads.chunks_exact_mut(channels.div_ceil(QUAD).max(1));
    for x in x.chunks_exact(channels.max(1)) {
        let Some(to) = pixels.next() else { return };
        for (x, to) in x.chunks(QUAD).zip(to) {
            let mut whole = [T::default(); QUAD];
            whole.iter_mut().zip(x).for_each(|(to, &x)| *to = x);
            *to = quad(whole);
        }
    }
}
