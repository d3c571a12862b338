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

use traflow_graph::model::ALIGN;
use traflow_graph::op::Shape;
use traflow_graph::quant::{PANEL, QUAD};

use super::conv2d::{Part, Scale};
use super::{Values, array, lanes};
use crate::simd::{IntegerKernel, LANES, Lanes, dot_rows};
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
const WIDE: usize = 2 * LANES;

/// What is between two points, which are written one after the other, in vectors: at distances of a power of two they would
/// not stay in the cache.
const PAD: usize = 1;

/// The most tiles that are computed by weights that were transformed once.
const TILES: usize = 64;

/// A row of transformed weights: a pair for each output channel of a panel. Or a vector of sums.
type Row = [i32; LANES];

/// Tiles that a picture has.
fn tiles(rows: usize, width: usize) -> usize {
    rows.div_ceil(SIDE) * width.div_ceil(SIDE)
}

/// Tiles and panels of a block of sums.
const fn block<S: Lanes>() -> [usize; 2] {
    [S::TILE[0], if S::TILE[1] > 1 { 2 } else { 1 }]
}

/// Bytes for so many tiles: with as many of them as there are it is fastest.
fn bytes(channels: usize, [count, panels]: [usize; 2], tiles: usize) -> usize {
    let rows = POINTS * (weights_of_point(channels, panels) + count * panels);
    let inputs = POINTS * inputs_of_point(channels, tiles);
    channels.next_multiple_of(WIDE) + rows * size_of::<Row>() + inputs * size_of::<i16>() + 2 * ALIGN
}

/// Rows of transformed weights of a point.
const fn weights_of_point(channels: usize, panels: usize) -> usize {
    (channels.div_ceil(QUAD) * 2 + PAD) * panels
}

/// Transformed inputs of a point.
const fn inputs_of_point(channels: usize, tiles: usize) -> usize {
    tiles * channels.next_multiple_of(WIDE) + PAD * WIDE
}

/// Bytes of scratch memory with which a convolution of this input is fastest on any vectors.
pub(crate) fn ample_bytes(shape: Shape) -> usize {
    let [height, width] = [shape.height, shape.width].map(usize::from);
    bytes(shape.channels.into(), [8, 2], tiles(height, width).min(TILES))
}

/// Whether the memory suffices, and it takes less time than direct sums: that of an instruction is one for each register. What
/// transforms take was measured.
pub(super) fn pays<S: Lanes>(part: &Part<'_>, memory: usize) -> bool {
    let (channels, panels) = (usize::from(part.shape.channels), part.bias.len() / PANEL);
    let width = usize::from(part.shape.width);
    let rows = part.y.len() / (width * part.bias.len()).max(1);
    let [count, _] = block::<S>();
    let tiles = tiles(rows, width).next_multiple_of(count);
    let whole = part.bias.len().is_multiple_of(PANEL) && channels >= WIDE;
    let narrow = matches!(part.x, Values::Narrow(_));
    if !OFFERED || !narrow || part.kernel != 3 || !whole || memory < bytes(channels, block::<S>(), count) {
        return false;
    }
    let pairs = channels.div_ceil(QUAD) * 2;
    let [quad, pair] = S::DOTS.map(|count| count as usize);
    let products = POINTS * tiles * pairs * panels * pair;
    let inputs = 540 * tiles * channels.div_ceil(WIDE);
    let weights = 280 * pairs * panels * tiles.div_ceil(TILES);
    let outputs = 450 * tiles * panels * part.ranges().count();
    let direct = rows * width * 9 * pairs / 2 * panels * quad;
    products + inputs + weights + outputs < direct
}

/// Memory for some tiles and the weights of some panels.
struct Memory<'a> {
    /// A pixel outside the picture.
    outside: &'a mut [i8],
    /// Transformed weights, of a point after the other.
    weights: &'a mut [Row],
    /// Sums of a block, of a point after the other.
    points: &'a mut [Row],
    /// Transformed inputs: of a point all tiles, of each the channels, filled up to whole vectors.
    inputs: &'a mut [i16],
}

impl<'a> Memory<'a> {
    fn new<S: Lanes>(scratch: &'a mut [u8], channels: usize) -> Self {
        let skip = scratch.as_ptr().align_offset(ALIGN).min(scratch.len());
        let [count, panels] = block::<S>();
        let rows = |bytes: &'a mut [u8]| bytemuck::cast_slice_mut(bytes);
        let of_weights = POINTS * weights_of_point(channels, panels) * size_of::<Row>();
        let (weights, rest) = scratch[skip..].split_at_mut(of_weights);
        let (points, rest) = rest.split_at_mut(POINTS * count * panels * size_of::<Row>());
        let (outside, rest) = rest.split_at_mut(channels.next_multiple_of(WIDE));
        let inputs = rest.len() & !1;
        Self {
            outside: bytemuck::cast_slice_mut(outside),
            weights: rows(weights),
            points: rows(points),
            inputs: bytemuck::cast_slice_mut(&mut rest[..inputs]),
        }
    }
}

/// A part that is computed so.
pub(super) struct Tiled<'a>(pub(super) Part<'a>);

impl IntegerKernel for Tiled<'_> {
    #[inline(always)]
    fn run<S: Lanes>(self, s: S, scratch: &mut [u8]) {
        let Self(mut part) = self;
        let Values::Narrow(x) = part.x else { return };
        let (channels, width) = (usize::from(part.shape.channels), usize::from(part.shape.width));
        let of_tile = channels.next_multiple_of(WIDE);
        let memory = &mut Memory::new::<S>(scratch, channels);
        let (first, second) = memory.outside.split_at_mut(part.split);
        first.fill(part.zeros[0] as i8);
        second.fill(part.zeros[1] as i8);
        let rows = part.y.len() / (width * part.bias.len()).max(1);
        let all = tiles(rows, width);
        let most = ((memory.inputs.len() / POINTS).saturating_sub(PAD * WIDE) / of_tile).clamp(1, TILES);
        let of_group = group(all, most);
        let panels = part.bias.len() / PANEL;
        let mut start = 0;
        while start < all {
            let tiles = start..all.min(start + of_group);
            for (place, tile) in tiles.clone().enumerate() {
                part.inputs(s, x, tile, memory, [place, tiles.len()]);
            }
            let mut panel = 0;
            while panel < panels {
                let count = group(panels - panel, block::<S>()[1]);
                match (S::TILE[0], count) {
                    (8, 2) => part.blocks::<S, 8, 2>(s, panel, &tiles, memory),
                    (8, _) => part.blocks::<S, 8, 1>(s, panel, &tiles, memory),
                    (6, _) => part.blocks::<S, 6, 1>(s, panel, &tiles, memory),
                    _ => part.blocks::<S, 4, 1>(s, panel, &tiles, memory),
                }
                panel += count;
            }
            start = tiles.end;
        }
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
        let of_tile = channels.next_multiple_of(WIDE);
        let [row, column] = self.corner(tile);
        // What follows the channels of a pixel is multiplied by nothing.
        let mut pixels: [&[i8]; POINTS] = [memory.outside; POINTS];
        for (point, pixel) in pixels.iter_mut().enumerate() {
            // Before the picture this wraps around, and is outside too.
            let row = (self.first + row + point / READ).wrapping_sub(1);
            let column = (column + point % READ).wrapping_sub(1);
            if row < height && column < width {
                *pixel = &x[(row * width + column) * channels..];
            }
        }
        let of_point = inputs_of_point(channels, tiles);
        for channel in (0..channels).step_by(WIDE) {
            let mut d = [[s.splat(0); READ]; READ];
            for column in 0..READ {
                let mut of_column = [s.splat(0); READ];
                for (row, d) in of_column.iter_mut().enumerate() {
                    *d = s.widen(&lanes(&pixels[row * READ + column][channel..]));
                }
                let of_column = transform_inputs(s, of_column);
                for (row, v) in of_column.into_iter().enumerate() {
                    d[row][column] = v;
                }
            }
            for (row, d) in d.into_iter().enumerate() {
                let d = transform_inputs(s, d);
                for (column, v) in d.into_iter().enumerate() {
                    let index = (row * READ + column) * of_point + place * of_tile + channel;
                    let to = &mut memory.inputs[index..index + WIDE];
                    s.store(v, array_mut(bytemuck::cast_slice_mut(to)));
                }
            }
        }
    }

    /// Transforms the weights of N panels.
    #[inline(always)]
    fn weights<S: Lanes, const N: usize>(&self, s: S, panel: usize, weights: &mut [Row]) {
        let quads = usize::from(self.shape.channels).div_ceil(QUAD);
        let rows: &[[[i8; QUAD]; LANES]] = self.panels.as_chunks::<QUAD>().0.as_chunks().0;
        let of_point = weights_of_point(QUAD * quads, N);
        for n in 0..N {
            let rows = &rows[(panel + n) * 9 * quads..][..9 * quads];
            for quad in 0..quads {
                let mut halves = [[s.splat(0); 9]; 2];
                for tap in 0..9 {
                    [halves[0][tap], halves[1][tap]] = s.pairs(s.row(&rows[tap * quads + quad]));
                }
                for (half, taps) in halves.iter().enumerate() {
                    let mut g = [[s.splat(0); 3]; READ];
                    for column in 0..3 {
                        let of_column = [taps[column], taps[column + 3], taps[column + 6]];
                        let of_column = transform_weights(s, of_column);
                        for (row, u) in of_column.into_iter().enumerate() {
                            g[row][column] = u;
                        }
                    }
                    let place = (2 * quad + half) * N + n;
                    for (row, g) in g.into_iter().enumerate() {
                        let g = transform_weights(s, g);
                        for (column, u) in g.into_iter().enumerate() {
                            s.store(u, &mut weights[(row * READ + column) * of_point + place]);
                        }
                    }
                }
            }
        }
    }

    /// All tiles of a group by N panels, M tiles at once.
    #[inline(always)]
    fn blocks<S: Lanes, const M: usize, const N: usize>(
        &mut self,
        s: S,
        panel: usize,
        tiles: &Range<usize>,
        memory: &mut Memory<'_>,
    ) {
        let channels = usize::from(self.shape.channels);
        let of_tile = channels.next_multiple_of(WIDE);
        let (inputs, of_point) = (inputs_of_point(channels, tiles.len()), weights_of_point(channels, 1));
        self.weights::<S, N>(s, panel, memory.weights);
        let (weights, _) = memory.weights.as_chunks::<N>();
        let (points, _) = memory.points.as_chunks_mut::<N>();
        let (points, _) = points.as_chunks_mut::<M>();
        let mut scales = [self.scale(s, panel); N];
        for (n, scale) in scales.iter_mut().enumerate().skip(1) {
            *scale = self.scale(s, panel + n);
        }
        let ranges = self.ranges().count();
        // Of ranges but the last one.
        let mut others = [[[[[s.splat(0); N]; SIDE]; SIDE]; 2]; M];
        for start in (0..tiles.len()).step_by(M) {
            let count = M.min(tiles.len() - start);
            for (range, (part, channels)) in self.ranges().enumerate() {
                for (point, to) in points.iter_mut().take(POINTS).enumerate() {
                    let mut of_tiles: [&[i16]; M] = [&[]; M];
                    for (m, of_this) in of_tiles.iter_mut().enumerate() {
                        // Tiles after the last one repeat it, and are not stored.
                        let tile = start + m.min(count - 1);
                        *of_this = &memory.inputs[point * inputs + tile * of_tile..][channels.clone()];
                    }
                    let rows = &weights[point * of_point..][channels.start / 2..channels.end / 2];
                    let mut of_point = [[s.splat(0); N]; M];
                    dot_rows(s, of_tiles, rows, &mut of_point);
                    for (to, sums) in to.iter_mut().zip(of_point) {
                        for (to, sum) in to.iter_mut().zip(sums) {
                            s.store(sum, to);
                        }
                    }
                }
                for (m, others) in others.iter_mut().enumerate().take(count) {
                    let mut sums = [[[[s.splat(0); N]; SIDE]; SIDE]; 2];
                    if range > 0 {
                        sums = *others;
                    }
                    for n in 0..N {
                        add_outputs(s, points, m, n, &mut sums[part]);
                    }
                    if range + 1 < ranges {
                        *others = sums;
                    } else {
                        self.tile(s, tiles.start + start + m, panel, &scales, &sums);
                    }
                }
            }
        }
    }

    /// Rescales the sums of a tile.
    #[inline(always)]
    fn tile<S: Lanes, const N: usize>(
        &mut self,
        s: S,
        tile: usize,
        panel: usize,
        scales: &[Scale<S>; N],
        [first, second]: &[[[[S::V; N]; SIDE]; SIDE]; 2],
    ) {
        let width = usize::from(self.shape.width);
        let rows = self.y.len() / (width * self.bias.len());
        let [row, column] = self.corner(tile);
        for (down, (first, second)) in first.iter().zip(second).enumerate().take(rows - row) {
            let pixel = (row + down) * width + column;
            let pixels = pixel..pixel + SIDE.min(width - column);
            self.store(s, pixels, panel, true, scales, [first, second]);
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

/// Adds the sums of a tile, which its points are transformed to.
#[inline(always)]
fn add_outputs<S: Lanes, const M: usize, const N: usize>(
    s: S,
    points: &[[[Row; N]; M]],
    m: usize,
    n: usize,
    sums: &mut [[[S::V; N]; SIDE]; SIDE],
) {
    /// Powers of two that the rows of outputs are multiplied by.
    const TWOS: [u32; SIDE] = [3, 2, 1, 1];
    let points: &[[[Row; N]; M]; POINTS] = array(points, 0);
    let mut rows = [[s.splat(0); READ]; SIDE];
    for column in 0..READ {
        let mut of_column = [s.splat(0); READ];
        for (row, point) in of_column.iter_mut().enumerate() {
            *point = s.load(&points[row * READ + column][m][n]);
        }
        let of_column = transform_outputs(s, of_column);
        for (row, v) in of_column.into_iter().enumerate() {
            rows[row][column] = v;
        }
    }
    let ninth = s.splat(NINTH);
    for (row, (of_row, sums)) in rows.into_iter().zip(sums).enumerate() {
        let of_row = transform_outputs(s, of_row);
        for (column, (v, sum)) in of_row.into_iter().zip(sums).enumerate() {
            let v = s.floor(s.mul(v, ninth), TWOS[row] + TWOS[column]);
            sum[n] = s.add(sum[n], v);
        }
    }
}

/// As many elements as an array has, to be written.
#[inline(always)]
fn array_mut<T, const N: usize>(y: &mut [T]) -> &mut [T; N] {
    y.first_chunk_mut().expect("a vector is inside the slice")
}
