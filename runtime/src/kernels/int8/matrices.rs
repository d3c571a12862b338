//! Convolution where the processor has registers that hold matrices: up to 16 pixels by a panel in one instruction, which
//! does so many products that no transform is worth its time.

use traflow_graph::model::Aligned;
use traflow_graph::quant::{PANEL, QUAD};

use super::Values;
use super::conv2d::{Band, Compute, Part};
use super::rescale::{Rescale, Sums};
use crate::simd::{BLOCKS, Blocks, Factor, IntegerKernel, LANES, Lanes, ROWS, Row};

/// The fewest quads of a register's row for which it pays.
const QUADS: usize = 8;

/// Whether it can be computed so, and with registers that are at least half full.
pub(super) fn pays<S: Lanes>(s: S, part: &Part<'_>) -> bool {
    let depth = part.kernel * usize::from(part.shape.channels).next_multiple_of(QUAD);
    let fits = matches!(part.x, Values::Narrow(_)) && part.factors[1].is_empty();
    s.has_matrices()
        && fits
        && !part.bias.is_empty()
        && part.bias.len().is_multiple_of(PANEL)
        && Blocks::chunk(depth) >= QUADS * QUAD
}

/// A part that is computed so.
pub(super) struct Matrices<'a>(pub(super) Part<'a>);

impl IntegerKernel for Matrices<'_> {
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S, scratch: &mut [u8]) {
        if let Values::Narrow(x) = self.0.x {
            self.0.bands(s, x, scratch, &mut Pairs);
        }
    }
}

/// Two panels at a time.
struct Pairs;

impl Compute for Pairs {
    // The weights are read once for each band.
    const BAND: usize = 128 << 10;

    #[inline(always)]
    fn band<S: Lanes, F: Factor>(&mut self, s: S, part: &mut Part<'_>, band: Band<'_, F>) {
        let panels = part.bias.len() / PANEL;
        for panel in (0..panels).step_by(2) {
            if panel + 1 < panels {
                blocks::<S, F, 2>(s, part, band, panel);
            } else {
                blocks::<S, F, 1>(s, part, band, panel);
            }
        }
    }
}

/// All pixels of a band for one or two panels.
#[inline(always)]
fn blocks<S: Lanes, F: Factor, const N: usize>(s: S, part: &mut Part<'_>, band: Band<'_, F>, panel: usize) {
    let width = usize::from(part.shape.width);
    let depth = part.kernel * band.channels;
    let rows = part.kernel * depth / QUAD;
    let mut panels: [&[[i8; QUAD]]; N] = [&[]; N];
    for (n, quads) in panels.iter_mut().enumerate() {
        *quads = &part.panels.as_chunks().0[(panel + n) * LANES * rows..][..LANES * rows];
    }
    let mut begin = Aligned([[0; LANES]; N]);
    for (to, v) in begin.0.iter_mut().zip(part.begin::<S, F, N>(s, band, panels, LANES, &(0..band.channels)))
    {
        s.store(v, to);
    }
    let weights: [&[Row]; 2] = [panels[0].as_chunks().0, panels[N - 1].as_chunks().0];

    // Blocks of a row, all of as many pixels: the last one may begin inside the one before.
    let of_row = width.div_ceil(ROWS);
    let pixels = width.div_ceil(of_row);
    let count = (band.pixels[1] - band.pixels[0]) / width * of_row;
    let column = |block: usize| (block % of_row * pixels).min(width - pixels);
    let mut sums = [[[[0; LANES]; ROWS]; 2]; BLOCKS];
    for first in (0..count).step_by(BLOCKS) {
        let mut places = [0; BLOCKS];
        for (index, place) in places.iter_mut().enumerate() {
            // Blocks after the last one repeat it.
            let block = (first + index).min(count - 1);
            *place = block / of_row * band.row + column(block) * band.channels;
        }
        let blocks = Blocks {
            factors: bytemuck::cast_slice(band.factors),
            places,
            pixels,
            next: band.channels,
            kernel: part.kernel,
            row: band.row,
            depth,
            panels: weights,
        };
        s.multiply(&blocks, &mut sums);
        for (block, sums) in (first..count).zip(&sums) {
            let start = band.pixels[0] + block / of_row * width + column(block);
            let done = block % of_row * pixels - column(block);
            let parts = [&sums.as_flattened()[done..], &[]];
            let sums = Sums { parts, begin: [&begin.0, &[]], panel: ROWS, row: 0 };
            let (panels, pixels) = (panel..panel + N, start + done..start + pixels);
            s.run_integers(Rescale { part, panels, pixels, rows: 1, sums }, &mut []);
        }
    }
}
