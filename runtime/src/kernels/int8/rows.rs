//! Convolution as small processors do it. The rows of the input that a row of the output reads are expanded once, into a
//! ring of as many rows as the kernel has, with zero points around them: then there are no borders, and a tile of sums reads
//! straight on through the three taps of a row.

use traflow_graph::quant::{PANEL, QUAD, long};

use super::conv2d::Conv2d;
use super::{Values, ValuesMut};
use crate::simd::dot::{Dot, End, PIXELS, Sums, Tile, Window};

/// Computes the convolution.
pub(super) fn run<D: Dot>(d: D, mut conv: Conv2d<'_>) {
    let (height, width) = (usize::from(conv.shape.height), usize::from(conv.shape.width));
    let (outs, kernel, reach) = (conv.bias.len(), conv.kernel, conv.kernel / 2);
    let pixel = usize::from(conv.shape.channels).next_multiple_of(QUAD);
    // Pixels are computed in pairs, and the last one may be half outside.
    let row = (width.next_multiple_of(2) + 2 * reach) * pixel;
    let scratch = core::mem::take(&mut conv.scratch);
    let ring: &mut [D::X] = bytemuck::try_cast_slice_mut(scratch).unwrap_or_default();
    let ring = &mut ring[..kernel * row];
    conv.expand_outside(d, ring);
    let mut sums = [[[0; PANEL]; PIXELS]; 2];
    // The quads of each part. A part of several is read tap by tap, since the other one is between its taps.
    let first_quads = conv.split.div_ceil(QUAD);
    let second_quads = pixel / QUAD - first_quads;
    for below in 0..height + reach {
        // A row that is expanded, or zero points, in the place of the one that is not needed any more.
        let inside = &mut ring[below % kernel * row + reach * pixel..][..width * pixel];
        if below < height {
            conv.expand(d, below, inside);
        } else {
            conv.expand_outside(d, inside);
        }
        let Some(middle) = below.checked_sub(reach) else { continue };
        let rows = |ky: usize| &ring[(below + 1 + ky) % kernel * row..][..row];
        let taps = |first: usize| {
            (0..kernel * kernel).map(move |tap: usize| &rows(tap / kernel)[tap % kernel * pixel + first..])
        };
        let (first, second) = if second_quads == 0 {
            (Window::new((0..kernel).map(rows), kernel * first_quads, pixel, 0), None)
        } else {
            let second = Window::new(taps(first_quads * QUAD), second_quads, pixel, first_quads);
            (Window::new(taps(0), first_quads, pixel, second_quads), Some(second))
        };
        for panel in (0..outs).step_by(PANEL) {
            let of_panel = PANEL.min(outs - panel);
            let weights =
                &conv.panels[panel * kernel * kernel * pixel..][..of_panel * kernel * kernel * pixel];
            for column in (0..width).step_by(PIXELS) {
                let pixels = PIXELS.min(width - column);
                let tile = Tile { at: column * pixel, step: of_panel * QUAD, outs: of_panel, pixels };
                compute(d, &first, tile, weights, &mut sums[0]);
                if let Some(second) = &second {
                    compute(d, second, tile, &weights[first_quads * tile.step..], &mut sums[1]);
                }
                conv.rescale(d, middle * width + column, panel, &tile, &sums);
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
            Values::Narrow(x) => expand(&x[range], channels, expanded, |quad| d.expand(quad)),
            Values::Wide(x) => expand(&x[range], channels, expanded, |quad| d.expand_wide(quad)),
        }
    }

    /// Expands pixels that are outside the picture.
    fn expand_outside<D: Dot>(&self, d: D, expanded: &mut [D::X]) {
        let quads = usize::from(self.shape.channels).div_ceil(QUAD);
        for pixel in expanded.as_chunks_mut::<QUAD>().0.chunks_exact_mut(quads) {
            for (index, quad) in pixel.iter_mut().enumerate() {
                let zero = self.zeros[usize::from(index * QUAD >= self.split)];
                *quad = d.expand([zero as i8; QUAD]);
            }
        }
    }

    /// Rescales the sums of a tile.
    fn rescale<D: Dot>(&mut self, d: D, start: usize, panel: usize, tile: &Tile, sums: &[Sums; 2]) {
        let stride = self.bias.len();
        let first = start * stride + panel;
        let of_panel = panel..panel + tile.outs;
        let end = End {
            bias: &self.bias[of_panel.clone()],
            factors: &self.factors[0][of_panel.clone()],
            second: self.factors[1].get(of_panel).unwrap_or_default(),
            residual: self.residual,
            r: self.r.filter(|_| self.residual != 0).map(|r| r.from(first)),
            shift: self.shift,
            pixels: tile.pixels,
            stride,
        };
        if let ValuesMut::Narrow(y) = &mut self.y
            && d.rescale(&end, sums, &mut y[first..])
        {
            return;
        }
        for (pixel, of_pixel) in sums[0].iter().enumerate().take(tile.pixels) {
            for (out, &sum) in of_pixel.iter().enumerate().take(tile.outs) {
                let mut sum = long(end.bias[out]) + i64::from(sum) * i64::from(end.factors[out]);
                if let Some(&factor) = end.second.get(out) {
                    sum += i64::from(sums[1][pixel][out]) * i64::from(factor);
                }
                let index = pixel * stride + out;
                if self.residual != 0 {
                    let r = end.r.map_or_else(|| self.y.get(first + index), |r| r.get(index));
                    sum += i64::from(r) * i64::from(self.residual);
                }
                self.y.set(first + index, sum >> self.shift);
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
    for (x, to) in x.chunks_exact(channels).zip(quads.chunks_exact_mut(channels.div_ceil(QUAD))) {
        for (x, to) in x.chunks(QUAD).zip(to) {
            let mut whole = [T::default(); QUAD];
            whole[..x.len()].copy_from_slice(x);
            *to = quad(whole);
        }
    }
}
