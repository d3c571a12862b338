//! Winograd's convolution F(tile × tile, 3×3): `Y = Aᵀ [(G g Gᵀ) ∘ (Bᵀ d B)] A`.
//!
//! The points of interpolation are 0, ±a, ±b and infinity for 4×4, and 0, ±1 and infinity for 2×2. Weights are transformed
//! here, two rows of `G g Gᵀ` at a time, just before they are multiplied: in a file they would take 4 or 1.8 times the
//! bytes, and reading those takes longer than computing them wherever a picture has few tiles. So 16-bit weights lose
//! nothing either.

use core::ops::Range;

use traflow_graph::model::{PANEL, Weights};
use traflow_graph::op::Shape;
use traflow_graph::winograd::{TILE_GROUP, Winograd};

use super::conv2d::End;
use crate::cpu::Cpu;
use crate::simd::{Element, Grid, Kernel, Simd, prefetch};
use crate::tiles::{Gemm, Panels, Rows, group};

/// The points of F(4×4).
const A: f64 = 0.75;
const B: f64 = 1.5;
const A2: f64 = A * A;
const B2: f64 = B * B;

/// Factors of the rows of G at ±a and ±b.
const GA: f64 = 0.5 / (A2 * (A2 - B2));
const GB: f64 = 0.5 / (B2 * (B2 - A2));

/// G for 2×2 and for 4×4 pixels.
const G4: [[f32; 3]; 4] = [[-1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];
const G6: [[f32; 3]; 6] = [
    [(1.0 / (A2 * B2)) as f32, 0.0, 0.0],
    [GA as f32, (GA * A) as f32, (GA * A2) as f32],
    [GA as f32, (-GA * A) as f32, (GA * A2) as f32],
    [GB as f32, (GB * B) as f32, (GB * B2) as f32],
    [GB as f32, (-GB * B) as f32, (GB * B2) as f32],
    [0.0, 0.0, 1.0],
];

/// `Bᵀ d` of 4 or 6 elements, in place.
#[inline(always)]
fn transform_input<S: Simd>(s: S, d: &mut [S::V]) {
    let c = |x: f64| s.splat(x as f32);
    match *d {
        [d0, d1, d2, d3] => {
            d[0] = s.sub(d2, d0);
            d[1] = s.add(d2, d1);
            d[2] = s.sub(d2, d1);
            d[3] = s.sub(d3, d1);
        }
        [d0, d1, d2, d3, d4, d5] => {
            let even = s.mul_add(c(-(A2 + B2)), d2, d4);
            let odd = s.mul_add(c(-(A2 + B2)), d3, d5);
            let (even_a, even_b) = (s.mul_add(c(-B2), d2, d4), s.mul_add(c(-A2), d2, d4));
            let odd_a = s.mul_add(c(-A * B2), d1, s.mul(c(A), d3));
            let odd_b = s.mul_add(c(-B * A2), d1, s.mul(c(B), d3));
            d[0] = s.mul_add(c(A2 * B2), d0, even);
            d[1] = s.add(even_a, odd_a);
            d[2] = s.sub(even_a, odd_a);
            d[3] = s.add(even_b, odd_b);
            d[4] = s.sub(even_b, odd_b);
            d[5] = s.mul_add(c(A2 * B2), d1, odd);
        }
        _ => {}
    }
}

/// `Aᵀ m` of 4 or 6 elements, in place: the first 2 or 4 are the result.
#[inline(always)]
fn transform_output<S: Simd>(s: S, m: &mut [S::V]) {
    let c = |x: f64| s.splat(x as f32);
    match *m {
        [m0, m1, m2, m3] => {
            m[0] = s.add(m0, s.add(m1, m2));
            m[1] = s.add(m3, s.sub(m1, m2));
        }
        [m0, m1, m2, m3, m4, m5] => {
            let (even_a, odd_a) = (s.add(m1, m2), s.sub(m1, m2));
            let (even_b, odd_b) = (s.add(m3, m4), s.sub(m3, m4));
            m[0] = s.add(m0, s.add(even_a, even_b));
            m[1] = s.mul_add(c(A), odd_a, s.mul(c(B), odd_b));
            m[2] = s.mul_add(c(A2), even_a, s.mul(c(B2), even_b));
            m[3] = s.mul_add(c(A2 * A), odd_a, s.mul_add(c(B2 * B), odd_b, m5));
        }
        _ => {}
    }
}

/// `h Gᵀ` of one row h, 4 or 6 elements.
#[inline(always)]
fn transform_weight<S: Simd>(s: S, [h0, h1, h2]: [S::V; 3], u: &mut [S::V]) {
    let c = |x: f64| s.splat(x as f32);
    match u {
        [u0, u1, u2, u3] => {
            let (even, odd) = (s.mul(c(0.5), s.add(h0, h2)), s.mul(c(0.5), h1));
            (*u0, *u1, *u2, *u3) = (s.sub(c(0.0), h0), s.add(even, odd), s.sub(even, odd), h2);
        }
        [u0, u1, u2, u3, u4, u5] => {
            let even_a = s.mul_add(c(GA), h0, s.mul(c(GA * A2), h2));
            let even_b = s.mul_add(c(GB), h0, s.mul(c(GB * B2), h2));
            let (odd_a, odd_b) = (s.mul(c(GA * A), h1), s.mul(c(GB * B), h1));
            *u0 = s.mul(c(1.0 / (A2 * B2)), h0);
            (*u1, *u2) = (s.add(even_a, odd_a), s.sub(even_a, odd_a));
            (*u3, *u4) = (s.add(even_b, odd_b), s.sub(even_b, odd_b));
            *u5 = h2;
        }
        _ => {}
    }
}

/// Computes the convolution, block by block of tiles.
#[allow(clippy::too_many_arguments, reason = "the fields of a convolution, taken apart")]
pub(super) fn run(
    cpu: &Cpu,
    sizes: Winograd,
    x: &[f32],
    shape: Shape,
    weight: Weights<'_>,
    end: End<'_>,
    scratch: &mut [f32],
    y: &mut [f32],
) {
    let pixels_of_row = sizes.tile * usize::from(shape.width);
    for first in (0..sizes.tiles()).step_by(sizes.block()) {
        let tiles = first..sizes.tiles().min(first + sizes.block());
        if let Some(rows) = sizes.rows_of_part(tiles.clone(), cpu.threads()) {
            let part = rows * sizes.columns;
            let first_pixel = first / sizes.columns * pixels_of_row;
            let y = y[first_pixel * sizes.out..].chunks_mut(rows * pixels_of_row * sizes.out);
            let parts = tiles.clone().step_by(part).zip(y).map(|(first, y)| {
                let tiles = first..tiles.end.min(first + part);
                let (y, pixel) = (Grid::new(y, sizes.out), first / sizes.columns * pixels_of_row);
                Part { sizes, x, shape, weight, end, tiles, panel: 0, y, pixel }
            });
            cpu.run(parts, scratch);
        } else {
            let panels = sizes.out.div_ceil(PANEL);
            let part = panels.div_ceil(cpu.threads());
            let mut rest = Some(Grid::new(y, sizes.out));
            let parts = (0..panels).step_by(part).map_while(|panel| {
                let (y, others) = rest.take()?.split(part * PANEL);
                rest = Some(others);
                Some(Part { sizes, x, shape, weight, end, tiles: tiles.clone(), panel, y, pixel: 0 })
            });
            cpu.run(parts, scratch);
        }
    }
}

/// Some tiles and some panels of output channels, from the input to the output. It transforms inputs and weights for itself
/// though others need them too: to read what another core has just written takes longer.
struct Part<'a> {
    sizes: Winograd,
    x: &'a [f32],
    shape: Shape,
    weight: Weights<'a>,
    end: End<'a>,
    tiles: Range<usize>,
    /// The first panel.
    panel: usize,
    /// The channels of these panels.
    y: Grid<'a>,
    /// The first one of `y`.
    pixel: usize,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S, scratch: &mut [f32]) {
        let Self { sizes, x, shape, weight, end, tiles, panel, y, pixel } = self;
        let (v, scratch) = scratch.split_at_mut(sizes.input_elements());
        let inputs = Inputs { sizes, x, shape, tiles: tiles.clone(), v };
        match sizes.tile {
            2 => inputs.transform::<S, 4>(s),
            _ => inputs.transform::<S, 6>(s),
        }
        let outputs = Outputs { sizes, v, weight, end, shape, tiles, panel, y, pixel };
        outputs.compute(s, scratch);
    }
}

/// Transforms the inputs of some tiles, into groups `[points², TILE_GROUP, channels]` with a panel more for each point.
struct Inputs<'a> {
    sizes: Winograd,
    x: &'a [f32],
    shape: Shape,
    tiles: Range<usize>,
    v: &'a mut [f32],
}

impl Inputs<'_> {
    #[inline(always)]
    fn transform<S: Simd, const P: usize>(self, s: S) {
        let Winograd { tile, columns, channels, .. } = self.sizes;
        let (height, width) = (usize::from(self.shape.height), usize::from(self.shape.width));
        let zero = s.splat(0.0);
        let mut d = [[zero; P]; P];
        for (index, t) in self.tiles.enumerate() {
            let group = &mut self.v[index / TILE_GROUP * self.sizes.group_elements()..];
            let group = &mut group[index % TILE_GROUP * channels..];
            let (top, left) = (t / columns * tile, t % columns * tile);
            let whole = left > 0 && left + P - 1 <= width;
            for channel in (0..channels).step_by(S::LANES) {
                // The last vector is whole too: some of its lanes are computed again.
                let channel = channel.min(channels - S::LANES);
                for (i, d) in d.iter_mut().enumerate() {
                    // Above the picture and left of it this wraps around, and is outside it too.
                    let row = (top + i).wrapping_sub(1);
                    if row >= height {
                        *d = [zero; P];
                        continue;
                    }
                    let row = &self.x[row * width * channels..][..width * channels];
                    if whole {
                        *d = f32::at_each(s, row, (left - 1) * channels + channel, channels);
                    } else {
                        for (j, d) in d.iter_mut().enumerate() {
                            let column = (left + j).wrapping_sub(1);
                            *d = if column < width { s.at(row, column * channels + channel) } else { zero };
                        }
                    }
                    transform_input(s, d);
                }
                for j in 0..P {
                    let mut of_column = [zero; P];
                    for (element, d) in of_column.iter_mut().zip(&d) {
                        *element = d[j];
                    }
                    transform_input(s, &mut of_column);
                    let (place, next) =
                        (j * self.sizes.group_point() + channel, P * self.sizes.group_point());
                    s.put_each(of_column, group, place, next);
                }
            }
        }
    }
}

/// Computes the output channels of some panels for a block of tiles.
struct Outputs<'a> {
    sizes: Winograd,
    /// The transformed inputs of the block.
    v: &'a [f32],
    weight: Weights<'a>,
    end: End<'a>,
    shape: Shape,
    tiles: Range<usize>,
    /// The first panel.
    panel: usize,
    /// The channels of these panels.
    y: Grid<'a>,
    /// The first one of `y`.
    pixel: usize,
}

impl Outputs<'_> {
    #[inline(always)]
    fn compute<S: Simd>(mut self, s: S, scratch: &mut [f32]) {
        let (u, products) = scratch.split_at_mut(self.sizes.weight_elements());
        let all = self.y.columns().div_ceil(PANEL);
        let mut panel = 0;
        while panel < all {
            let panels = group(all - panel, self.sizes.panels());
            let mut rest = self.channels(0);
            while let Some(channels) = rest {
                rest = self.channels(channels.end);
                let next = match rest.clone() {
                    Some(next) => (panel..panel + panels, next),
                    None => (panel + panels..all.min(panel + 2 * panels), self.channels(0).unwrap_or(0..0)),
                };
                self.multiply(s, panel..panel + panels, channels, next, u, products);
            }
            match self.sizes.tile {
                2 => self.transform_outputs::<S, 4>(s, products, panel, panels),
                _ => self.transform_outputs::<S, 6>(s, products, panel, panels),
            }
            panel += panels;
        }
    }

    /// The channels of the input from this one on that are multiplied together.
    #[inline(always)]
    fn channels(&self, first: usize) -> Option<Range<usize>> {
        let all = self.sizes.channels;
        (first < all).then(|| first..all.min(first + self.sizes.depth()))
    }

    /// The products of some panels and of some channels of the input; those of earlier channels are there already. The weights
    /// of the next ones are fetched meanwhile: it takes longer to wait for them than to transform them.
    #[inline(always)]
    fn multiply<S: Simd>(
        &self,
        s: S,
        panels: Range<usize>,
        channels: Range<usize>,
        next: (Range<usize>, Range<usize>),
        u: &mut [f32],
        products: &mut [f32],
    ) {
        let (count, row, width) = (self.tiles.len(), self.sizes.weight_row(), panels.len() * PANEL);
        let points = self.sizes.points();
        for pair in 0..points / 2 {
            for (u, panel) in u.chunks_mut(channels.len() * row).zip(panels.clone()) {
                let (weight, width) = self.panel_weights(self.panel + panel);
                match self.sizes.tile {
                    2 => transform_weights(s, &G4, pair, (weight, width), channels.clone(), u),
                    _ => transform_weights(s, &G6, pair, (weight, width), channels.clone(), u),
                }
            }
            for (slot, i) in rows_of_pair(points, pair).into_iter().enumerate() {
                for j in 0..points {
                    let point = i * points + j;
                    let elements = &u[(slot * points + j) * PANEL..];
                    let u = Panels { elements, panel: channels.len() * row, row, tail: row };
                    let v = &self.v[point * self.sizes.group_point()..];
                    let v = Rows {
                        elements: v.get(channels.start..).unwrap_or_default(),
                        group: TILE_GROUP,
                        next_group: self.sizes.group_elements(),
                        next: self.sizes.channels,
                        depth: channels.len(),
                    };
                    let y = &mut products[point * (count * width + PANEL)..][..count * width];
                    let (size, add) = ([count, width], channels.start > 0);
                    Gemm { a: v, b: u, size, add, y, stride: width }.run(s);
                    for panel in next.0.clone() {
                        let weights = self.weight_bytes(self.panel + panel, next.1.clone());
                        let part = weights.len().div_ceil(points * points);
                        let first = (point * part).min(weights.len());
                        prefetch(&weights[first..weights.len().min(first + part)]);
                    }
                }
            }
        }
    }

    /// The bytes of the weights of a panel for some channels of the input.
    #[inline(always)]
    fn weight_bytes(&self, panel: usize, channels: Range<usize>) -> &[u8] {
        let (weights, width) = self.panel_weights(panel);
        let range = channels.start * 9 * width..channels.end * 9 * width;
        match weights {
            Weights::F32(weights) => bytemuck::cast_slice(&weights[range]),
            Weights::F16(weights) => bytemuck::cast_slice(&weights[range]),
        }
    }

    /// The weights of a panel, and its width.
    #[inline(always)]
    fn panel_weights(&self, panel: usize) -> (Weights<'_>, usize) {
        let (depth, width) = (self.sizes.channels, PANEL.min(self.sizes.out - panel * PANEL));
        let first = panel * PANEL * depth * 9;
        let range = first..first + width * depth * 9;
        let weights = match self.weight {
            Weights::F32(weight) => Weights::F32(&weight[range]),
            Weights::F16(weight) => Weights::F16(&weight[range]),
        };
        (weights, width)
    }

    /// The pixels of all tiles, for panels that were computed together.
    #[inline(always)]
    fn transform_outputs<S: Simd, const P: usize>(
        &mut self,
        s: S,
        products: &[f32],
        panel: usize,
        panels: usize,
    ) {
        let Winograd { tile, columns, .. } = self.sizes;
        let (height, width) = (usize::from(self.shape.height), usize::from(self.shape.width));
        let (count, stride) = (self.tiles.len(), panels * PANEL);
        let first = panel * PANEL;
        let outs = stride.min(self.y.columns() - first);
        let next = count * stride + PANEL;
        let mut m = [[s.splat(0.0); P]; P];
        for (index, t) in self.tiles.clone().enumerate() {
            let (top, left) = (t / columns * tile, t % columns * tile);
            for out in (0..outs).step_by(S::LANES) {
                let lanes = S::LANES.min(outs - out);
                let bias = self.end.bias(s, self.panel * PANEL + first + out, lanes);
                for (i, row) in m.iter_mut().enumerate() {
                    *row = f32::at_each(s, products, i * P * next + index * stride + out, next);
                    transform_output(s, row);
                }
                for j in 0..tile.min(width - left) {
                    let mut of_column = [s.splat(0.0); P];
                    for (element, row) in of_column.iter_mut().zip(&m) {
                        *element = row[j];
                    }
                    transform_output(s, &mut of_column);
                    for (i, &sum) in of_column.iter().enumerate().take(tile.min(height - top)) {
                        let y = self.y.row((top + i) * width + left + j - self.pixel);
                        self.end.store(s, sum, bias, &mut y[first + out..][..lanes]);
                    }
                }
            }
        }
    }
}

/// The rows of `G g Gᵀ` that are computed together: those at 0 and at infinity, or those at a point and at its negative.
const fn rows_of_pair(points: usize, pair: usize) -> [usize; 2] {
    if pair == 0 { [0, points - 1] } else { [2 * pair - 1, 2 * pair] }
}

/// Two rows of the transformed weights of a panel and of some channels, `[channels, 2·points, PANEL]` with a panel more for
/// each channel.
#[inline(always)]
fn transform_weights<S: Simd, const P: usize>(
    s: S,
    g: &[[f32; 3]; P],
    pair: usize,
    (weight, width): (Weights<'_>, usize),
    channels: Range<usize>,
    u: &mut [f32],
) {
    let [g0, g1, g2] = g[rows_of_pair(P, pair)[0]].map(|g| s.splat(g));
    let (mut filled, mut filled_half) = ([0.0; 9 * PANEL], [0; 9 * PANEL]);
    for (index, channel) in channels.enumerate() {
        for lane in (0..PANEL).step_by(S::LANES) {
            let taps: [S::V; 9] = match weight {
                Weights::F32(weight) => {
                    let (weight, first) = whole(weight, channel, width, &mut filled);
                    f32::at_each(s, weight, first + lane, PANEL)
                }
                Weights::F16(weight) => {
                    let (weight, first) = whole(weight, channel, width, &mut filled_half);
                    u16::at_each(s, weight, first + lane, PANEL)
                }
            };
            let (mut plus, mut minus) = ([s.splat(0.0); 3], [s.splat(0.0); 3]);
            for kx in 0..3 {
                let [above, middle, below] = [taps[kx], taps[3 + kx], taps[6 + kx]];
                if pair == 0 {
                    (plus[kx], minus[kx]) = (s.mul(g0, above), below);
                } else {
                    let (even, odd) = (s.mul_add(g0, above, s.mul(g2, below)), s.mul(g1, middle));
                    (plus[kx], minus[kx]) = (s.add(even, odd), s.sub(even, odd));
                }
            }
            let place = index * (2 * P + 1) * PANEL + lane;
            let mut row = [s.splat(0.0); P];
            transform_weight(s, plus, &mut row);
            s.put_each(row, u, place, PANEL);
            transform_weight(s, minus, &mut row);
            s.put_each(row, u, place + P * PANEL, PANEL);
        }
    }
}

/// The taps of a channel in whole panels, and where the first one is: weights as they are, or those for fewer output channels
/// copied between zeros.
#[inline(always)]
fn whole<'a, E: Copy>(
    weight: &'a [E],
    channel: usize,
    width: usize,
    zeros: &'a mut [E; 9 * PANEL],
) -> (&'a [E], usize) {
    if width == PANEL {
        return (weight, channel * 9 * PANEL);
    }
    let taps = weight[channel * 9 * width..].chunks_exact(width);
    for (lanes, tap) in zeros.chunks_exact_mut(PANEL).zip(taps) {
        lanes[..width].copy_from_slice(tap);
    }
    (zeros, 0)
}
