//! 3×3 convolution on vectors where there are many channels: Winograd's F(4×4, 3×3), 36 products for 4×4 pixels instead of
//! 144 (Lavin & Gray, "Fast algorithms for convolutional neural networks", 2015), in integers and with the same sums, to the
//! bit.
//!
//! For the 6×6 pixels d of the input that a tile of 4×4 outputs reads, and for the kernel g,
//!
//! ```text
//! V = Bᵀ d B           4  0 −5  0  1  0         1  0  0          6 −4 −4  1  1  0         24
//! U = G g Gᵀ           0 −4 −4  1  1  0         1  1  1          0 −2  2  1 −1  0         12
//!                Bᵀ =  0  4 −4 −1  1  0     G = 1 −1  1     Aᵀ = 0 −1 −1  1  1  0     k =  6
//!                      0 −2 −1  2  1  0         1  2  4          0 −1  1  2 −2  6          6
//!                      0  2 −1 −2  1  0         1 −2  4
//!                      0  4  0 −5  0  1         0  0  1      kᵢ kⱼ · sumsᵢⱼ = (Aᵀ (Σ U ∘ V over channels) A)ᵢⱼ
//! ```
//!
//! whose numbers fit 16 bits: |V| ≤ 10² · 2⁷, |U| ≤ 7² · 2⁷. The usual G has sixths and twenty-fourths; here they are taken
//! out of U, and A has what that leaves. Nothing is lost modulo 2³², whatever is added on the way. Of kᵢ kⱼ = 9 · 2ⁿ a
//! multiplication by the inverse of 9 modulo 2³² takes away the 9, and a shift the 2ⁿ, since 2⁶ times a sum fits 32 bits
//! for as many channels as [`CHANNELS`]; more of them are added in several such sums.
//!
//! A product of 16 bits takes as long as two of 8 bits, or as one where the processor has no instruction for 8 bits. Weights
//! are transformed while they are used, for all tiles that the memory holds, since transformed ones would take eight times
//! as much of a file.

use core::ops::Range;

use traflow_graph::model::{ALIGN, Aligned};
use traflow_graph::op::Shape;
use traflow_graph::quant::{PANEL, QUAD};

use super::conv2d::Part;
use super::rescale::{Rescale, Sums};
use super::{Values, array};
use crate::simd::{IntegerKernel, LANES, Lanes, dot_rows, each};
use crate::tiles::group;

/// Whether it is chosen at all: a page's module, which is loaded before it computes, has no room for it.
pub(crate) const OFFERED: bool = !cfg!(target_arch = "wasm32");

/// The most channels whose sums are taken together: 2⁶ · 9 · 2⁷ · 2⁷ times as many is below 2³¹.
const CHANNELS: usize = 224;

/// The inverse of 9.
const NINTH: i32 = 954_437_177;

/// Sides of a tile of outputs and of what it reads, and how many points that has.
const SIDE: usize = 4;
const READ: usize = SIDE + 2;
const POINTS: usize = READ * READ;

/// Pixels of a tile and columns of numbers with 16 bits in a vector.
pub(super) const WIDE: usize = 2 * LANES;

/// What is between two points, which are written one after the other, in vectors: at distances of a power of two they would
/// not stay in the cache.
const PAD: usize = 1;

/// The most tiles that are computed by weights that were transformed once.
const TILES: usize = 64;

/// A row of transformed weights: a pair for each output channel of a panel. Or a vector of sums, or of transformed inputs.
type Row = [i32; LANES];

/// Tiles that a picture has.
fn tiles(rows: usize, width: usize) -> usize {
    rows.div_ceil(SIDE) * width.div_ceil(SIDE)
}

/// Bytes for so many tiles, of which `count` are multiplied at once: with as many of them as there are it is fastest.
fn bytes(channels: usize, count: usize, tiles: usize) -> usize {
    let rows = POINTS * (weights_of_point(channels) + count + inputs_of_point(channels, tiles));
    2 * channels.next_multiple_of(WIDE) + rows * size_of::<Row>() + 2 * ALIGN
}

/// Rows of transformed weights of a point.
const fn weights_of_point(channels: usize) -> usize {
    channels.div_ceil(QUAD) * 2 + PAD
}

/// Rows of transformed inputs of a point.
const fn inputs_of_point(channels: usize, tiles: usize) -> usize {
    tiles * channels.div_ceil(WIDE) + PAD
}

/// Bytes of scratch memory with which a convolution of this input is fastest on any vectors.
pub(crate) fn ample_bytes(shape: Shape) -> usize {
    let [height, width] = [shape.height, shape.width].map(usize::from);
    bytes(shape.channels.into(), 8, tiles(height, width).min(TILES))
}

/// Whether the memory suffices, and it takes less time than direct sums: that of an instruction is one for each register. What
/// transforms take was measured.
pub(super) fn pays<S: Lanes>(part: &Part<'_>, memory: usize) -> bool {
    let (channels, panels) = (usize::from(part.shape.channels), part.bias.len() / PANEL);
    let width = usize::from(part.shape.width);
    let rows = part.y.len() / (width * part.bias.len()).max(1);
    let tiles = tiles(rows, width).next_multiple_of(S::TILE[0]);
    let whole = part.bias.len().is_multiple_of(PANEL) && channels >= WIDE;
    let narrow = matches!(part.x, Values::Narrow(_));
    if !OFFERED || !narrow || part.kernel != 3 || !whole || memory < bytes(channels, S::TILE[0], S::TILE[0]) {
        return false;
    }
    let pairs = channels.div_ceil(QUAD) * 2;
    let [quad, pair] = S::DOTS.map(|count| count as usize);
    let products = POINTS * tiles * pairs * panels * pair;
    let inputs = 300 * tiles * channels.div_ceil(WIDE);
    let weights = 150 * pairs * panels * tiles.div_ceil(TILES);
    let outputs = 200 * tiles * panels * part.ranges().count();
    let direct = rows * width * 9 * pairs / 2 * panels * quad;
    products + inputs + weights + outputs < direct
}

/// Memory for some tiles and the weights of a panel.
struct Memory<'a> {
    /// A pixel outside the picture, and the last one with what follows it, in whole vectors.
    outside: &'a mut [i8],
    last: &'a mut [i8],
    /// Transformed weights, of a point after the other.
    weights: &'a mut [Row],
    /// Sums of a block, of a point after the other.
    points: &'a mut [Row],
    /// Transformed inputs: of a point all tiles, of each the channels, filled up to whole vectors.
    inputs: &'a mut [Row],
}

impl<'a> Memory<'a> {
    fn new<S: Lanes>(scratch: &'a mut [u8], channels: usize) -> Self {
        let skip = scratch.as_ptr().align_offset(ALIGN).min(scratch.len());
        let rows = |bytes: &'a mut [u8]| bytemuck::cast_slice_mut(bytes);
        let of_weights = POINTS * weights_of_point(channels) * size_of::<Row>();
        let (weights, rest) = scratch[skip..].split_at_mut(of_weights);
        let (points, rest) = rest.split_at_mut(POINTS * S::TILE[0] * size_of::<Row>());
        let pixel = channels.next_multiple_of(WIDE);
        let inputs = rest.len() - 2 * pixel;
        let (inputs, pixels) = rest.split_at_mut(inputs / size_of::<Row>() * size_of::<Row>());
        let (outside, last) = bytemuck::cast_slice_mut(pixels).split_at_mut(pixel);
        Self { outside, last, weights: rows(weights), points: rows(points), inputs: rows(inputs) }
    }
}

/// A part that is computed so.
pub(super) struct Tiled<'a>(pub(super) Part<'a>);

impl IntegerKernel for Tiled<'_> {
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Lanes>(self, s: S, scratch: &mut [u8]) {
        let Self(mut part) = self;
        let Values::Narrow(x) = part.x else { return };
        let (channels, width) = (usize::from(part.shape.channels), usize::from(part.shape.width));
        let memory = &mut Memory::new::<S>(scratch, channels);
        let (first, second) = memory.outside.split_at_mut(part.split);
        first.fill(part.zeros[0] as i8);
        second.fill(part.zeros[1] as i8);
        memory.last[..channels].copy_from_slice(&x[x.len() - channels..]);
        let rows = part.y.len() / (width * part.bias.len()).max(1);
        let all = tiles(rows, width);
        let most = (memory.inputs.len() / POINTS).saturating_sub(PAD) / channels.div_ceil(WIDE);
        let of_group = group(all, most.clamp(1, TILES));
        let mut start = 0;
        while start < all {
            let tiles = start..all.min(start + of_group);
            s.run_integers(Inputs { part: &part, x, tiles: tiles.clone(), memory }, &mut []);
            match S::TILE[0] {
                8 => part.products::<S, 8>(s, &tiles, memory),
                6 => part.products::<S, 6>(s, &tiles, memory),
                _ => part.products::<S, 4>(s, &tiles, memory),
            }
            start = tiles.end;
        }
    }
}

/// Transforms what some tiles read. A kernel of its own, without dot products, and so is that of weights.
struct Inputs<'p, 'a, 's> {
    part: &'p Part<'a>,
    x: &'p [i8],
    tiles: Range<usize>,
    memory: &'p mut Memory<'s>,
}

impl IntegerKernel for Inputs<'_, '_, '_> {
    #[inline(always)]
    fn run<S: Lanes>(self, s: S, _: &mut [u8]) {
        let Self { part, x, tiles, memory } = self;
        for (place, tile) in tiles.clone().enumerate() {
            part.inputs(s, x, tile, memory, [place, tiles.len()]);
        }
    }
}

/// Transforms the weights of a panel.
struct Weights<'p, 'a> {
    part: &'p Part<'a>,
    panel: usize,
    weights: &'p mut [Row],
}

impl IntegerKernel for Weights<'_, '_> {
    #[inline(always)]
    fn run<S: Lanes>(self, s: S, _: &mut [u8]) {
        self.part.weights(s, self.panel, self.weights);
    }
}

impl Part<'_> {
    /// Channels whose sums are taken together, and of which part of the input they are.
    fn ranges(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<> {
        let channels = usize::from(self.shape.channels).next_multiple_of(QUAD);
        let split = if self.factors[1].is_empty() { channels } else { self.split };
        [0..split, split..channels].into_iter().enumerate().flat_map(|(part, channels)| {
            let step =
                channels.len().div_ceil(channels.len().div_ceil(CHANNELS).max(1)).next_multiple_of(QUAD);
            let end = channels.end;
            channels.step_by(step.max(1)).map(move |first| (part, first..end.min(first + step)))
        })
    }

    /// The row and the column of a tile's first pixel, in the part.
    fn corner(&self, tile: usize) -> [usize; 2] {
        let of_row = usize::from(self.shape.width).div_ceil(SIDE);
        [tile / of_row * SIDE, tile % of_row * SIDE]
    }

    /// Transforms what a tile reads.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "the row is the second index")]
    fn inputs<S: Lanes>(
        &self,
        s: S,
        x: &[i8],
        tile: usize,
        memory: &mut Memory<'_>,
        [place, tiles]: [usize; 2],
    ) {
        let channels = usize::from(self.shape.channels);
        let [height, width] = [self.shape.height, self.shape.width].map(usize::from);
        let [row, column] = self.corner(tile);
        let vectors = channels.div_ceil(WIDE);
        // What follows the channels of a pixel is multiplied by nothing.
        let mut pixels: [&[i8]; POINTS] = [memory.outside; POINTS];
        for (point, pixel) in pixels.iter_mut().enumerate() {
            // Before the picture this wraps around, and is outside too.
            let row = (self.first + row + point / READ).wrapping_sub(1);
            let column = (column + point % READ).wrapping_sub(1);
            if row < height && column < width {
                // After the last one alone there are too few: every pixel has at least as many channels as a vector.
                *pixel = x[(row * width + column) * channels..].get(..vectors * WIDE).unwrap_or(memory.last);
            }
        }
        for vector in 0..vectors {
            let columns = each!(column in [0, 1, 2, 3, 4, 5] => {
                let d = each!(row in [0, 1, 2, 3, 4, 5] =>
                    s.widen(array(pixels[row * READ + column], vector * WIDE)));
                transform_inputs(s, d)
            });
            let place = place * vectors + vector;
            let mut points = memory.inputs.chunks_exact_mut(inputs_of_point(channels, tiles));
            for row in 0..READ {
                let d = each!(column in [0, 1, 2, 3, 4, 5] => columns[column][row]);
                for (v, point) in transform_inputs(s, d).iter().zip(&mut points) {
                    s.store(*v, &mut point[place]);
                }
            }
        }
    }

    /// Transforms the weights of a panel.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "the row is the second index")]
    fn weights<S: Lanes>(&self, s: S, panel: usize, weights: &mut [Row]) {
        let quads = usize::from(self.shape.channels).div_ceil(QUAD);
        let rows: &[[[i8; QUAD]; LANES]] = self.panels.as_chunks::<QUAD>().0.as_chunks().0;
        let rows = &rows[panel * 9 * quads..][..9 * quads];
        for quad in 0..quads {
            let mut halves = [[s.splat(0); 9]; 2];
            for tap in 0..9 {
                [halves[0][tap], halves[1][tap]] = s.pairs(s.row(&rows[tap * quads + quad]));
            }
            for (half, taps) in halves.iter().enumerate() {
                let columns = each!(column in [0, 1, 2] =>
                    transform_weights(s, [taps[column], taps[column + 3], taps[column + 6]]));
                let mut points = weights.chunks_exact_mut(2 * quads + PAD);
                for row in 0..READ {
                    let g = each!(column in [0, 1, 2] => columns[column][row]);
                    for (u, point) in transform_weights(s, g).iter().zip(&mut points) {
                        s.store(*u, &mut point[2 * quad + half]);
                    }
                }
            }
        }
    }

    /// All tiles of a group by all panels, M tiles at once.
    #[inline(always)]
    fn products<S: Lanes, const M: usize>(&mut self, s: S, tiles: &Range<usize>, memory: &mut Memory<'_>) {
        let channels = usize::from(self.shape.channels);
        let of_tile = channels.next_multiple_of(WIDE);
        let (inputs, weights) = (inputs_of_point(channels, tiles.len()), weights_of_point(channels));
        let (points, _) = memory.points.as_chunks_mut::<M>();
        let mut sums: Aligned<[Outputs<M>; 2]> = Aligned([[[[[0; LANES]; SIDE]; M]; SIDE]; 2]);
        for panel in 0..self.bias.len() / PANEL {
            s.run_integers(Weights { part: self, panel, weights: memory.weights }, &mut []);
            for start in (0..tiles.len()).step_by(M) {
                let count = M.min(tiles.len() - start);
                for (part, channels) in self.ranges() {
                    for (point, to) in points.iter_mut().take(POINTS).enumerate() {
                        let of_point: &[i16] =
                            bytemuck::cast_slice(&memory.inputs[point * inputs..][..inputs]);
                        let mut of_tiles: [&[i16]; M] = [&[]; M];
                        for (m, of_this) in of_tiles.iter_mut().enumerate() {
                            // Tiles after the last one repeat it, and are not stored.
                            let tile = start + m.min(count - 1);
                            *of_this = &of_point[tile * of_tile..][channels.clone()];
                        }
                        let rows = &memory.weights[point * weights..][channels.start / 2..channels.end / 2];
                        let mut products = [s.splat(0); M];
                        dot_rows(s, of_tiles, rows, &mut products);
                        for (to, sum) in to.iter_mut().zip(products) {
                            s.store(sum, to);
                        }
                    }
                    let more = channels.start != 0 && channels.start != self.split;
                    for m in 0..count {
                        outputs(s, points, m, more, &mut sums.0[part]);
                    }
                }
                self.rescale(s, tiles.start + start..tiles.start + start + count, panel, &sums.0);
            }
        }
    }

    /// Rescales the sums of some tiles, those beside each other together.
    #[inline(always)]
    fn rescale<S: Lanes, const M: usize>(
        &mut self,
        s: S,
        tiles: Range<usize>,
        panel: usize,
        sums: &[Outputs<M>; 2],
    ) {
        let width = usize::from(self.shape.width);
        let all = self.y.len() / (width * self.bias.len());
        let [first, second] = [&sums[0], &sums[1]].map(|sums| sums.as_flattened().as_flattened());
        let mut tile = tiles.start;
        while tile < tiles.end {
            let [row, column] = self.corner(tile);
            let beside = (tiles.end - tile).min((width - column).div_ceil(SIDE));
            let pixel = row * width + column;
            let pixels = pixel..pixel + (beside * SIDE).min(width - column);
            let skip = (tile - tiles.start) * SIDE;
            let parts = [&first[skip..], &second[skip..]];
            let sums = Sums { parts, begin: [&[[0; LANES]]; 2], panel: 0, row: M * SIDE };
            let (panels, rows) = (panel..panel + 1, SIDE.min(all - row));
            s.run_integers(Rescale { part: self, panels, pixels, rows, sums }, &mut []);
            tile += beside;
        }
    }
}

/// Bᵀ d.
#[inline(always)]
fn transform_inputs<S: Lanes>(s: S, [d0, d1, d2, d3, d4, d5]: [S::V; READ]) -> [S::V; READ] {
    let (even, odd) = (s.sub16(d4, d2), s.sub16(d3, d1));
    let odd = s.add16(odd, odd);
    let first = s.sub16(d0, d2);
    let last = s.sub16(d5, d3);
    let (even4, odd4) = (s.sub16(d4, times4(s, d2)), s.sub16(d3, times4(s, d1)));
    [
        s.add16(times4(s, first), even),
        s.add16(even4, odd4),
        s.sub16(even4, odd4),
        s.add16(even, odd),
        s.sub16(even, odd),
        s.sub16(last, s.add16(odd, odd)),
    ]
}

/// G g.
#[inline(always)]
fn transform_weights<S: Lanes>(s: S, [a, b, c]: [S::V; 3]) -> [S::V; READ] {
    let (even, even4, odd) = (s.add16(a, c), s.add16(a, times4(s, c)), s.add16(b, b));
    [a, s.add16(even, b), s.sub16(even, b), s.add16(even4, odd), s.sub16(even4, odd), c]
}

#[inline(always)]
fn times4<S: Lanes>(s: S, x: S::V) -> S::V {
    let x = s.add16(x, x);
    s.add16(x, x)
}

/// Aᵀ m.
#[inline(always)]
fn transform_outputs<S: Lanes>(s: S, [m0, m1, m2, m3, m4, m5]: [S::V; READ]) -> [S::V; SIDE] {
    let (even, odd) = (s.add(m1, m2), s.sub(m1, m2));
    let (even2, odd2) = (s.add(m3, m4), s.sub(m3, m4));
    let times3 = s.add(m0, s.add(m0, m0));
    let first = s.sub(times3, s.add(even, even));
    let last = s.add(odd2, s.add(m5, s.add(m5, m5)));
    [
        s.add(s.add(first, first), even2),
        s.sub(odd2, s.add(odd, odd)),
        s.sub(even2, even),
        s.sub(s.add(last, last), odd),
    ]
}

/// Sums of the outputs of tiles beside each other, row by row.
type Outputs<const M: usize> = [[[Row; SIDE]; M]; SIDE];

/// The sums of a tile, which its points are transformed to; they are added to what is there where there is `more` than one
/// range of channels.
#[inline(always)]
fn outputs<S: Lanes, const M: usize>(s: S, points: &[[Row; M]], m: usize, more: bool, sums: &mut Outputs<M>) {
    /// Powers of two that the rows of outputs are multiplied by.
    const TWOS: [u32; SIDE] = [3, 2, 1, 1];
    let points: &[[Row; M]; POINTS] = array(points, 0);
    let columns = each!(column in [0, 1, 2, 3, 4, 5] => {
        let m = each!(row in [0, 1, 2, 3, 4, 5] => s.load(&points[row * READ + column][m]));
        transform_outputs(s, m)
    });
    let ninth = s.splat(NINTH);
    for row in 0..SIDE {
        let v = transform_outputs(s, each!(column in [0, 1, 2, 3, 4, 5] => columns[column][row]));
        for column in 0..SIDE {
            let sum = &mut sums[row][m][column];
            let mut v = s.floor(s.mul(v[column], ninth), TWOS[row] + TWOS[column]);
            if more {
                v = s.add(v, s.load(sum));
            }
            s.store(v, sum);
        }
    }
}
