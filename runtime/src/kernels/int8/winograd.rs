//! 3×3 convolution as small processors do it where there are many channels: Winograd's F(2×2, 3×3), 16 products for 2×2
//! pixels instead of 36 (Lavin & Gray, "Fast algorithms for convolutional neural networks", 2015), in integers and with the
//! same sums, to the bit.
//!
//! For the 4×4 pixels d of the input that a tile of 2×2 outputs reads, and for the kernel g,
//!
//! ```text
//! V = Bᵀ d B           1  0 −1  0         1  0  0         2  0
//! U = G g Gᵀ    Bᵀ =   0  1  1  0    G =  1  1  1    A =  1  1    4 · sums = Aᵀ (Σ U ∘ V over channels) A
//!                      0 −1  1  0         1 −1  1         1 −1
//!                      0  1  0 −1         0  0  1         0 −2
//! ```
//!
//! whose numbers fit 16 bits: |V| ≤ 2² · 2⁷, |U| ≤ 3² · 2⁷. The usual G has halves in its middle rows; here they are taken
//! out of U, and A has what that leaves. Nothing is lost modulo 2³², whatever is added on the way, and four times a sum fits
//! 32 bits for as many channels as [`CHANNELS`].
//!
//! Weights are transformed while they are used, for some tiles side by side, since transformed ones would take 3.6 times as
//! much of a file. A row of the four rows of points is computed at a time, so that transforms take no more memory than the
//! rows of the input that direct sums read.

use traflow_graph::quant::{PANEL, QUAD};

use super::Values;
use super::conv2d::Conv2d;
use crate::simd::dot::{PIXELS, Pixels, Points, Quads, Sums, Winograd};

/// The most channels of the input: 4 · 9 · 2⁷ · 2⁷ times as many is below 2³¹.
const CHANNELS: usize = 3640;

/// The most pairs of tiles side by side: those of two rows of sums.
const MOST: usize = PIXELS / 4;

/// Tiles, and output channels, whose products are summed together.
const PAIR: usize = 2;

/// Points of a row, and rows of them.
const POINTS: usize = 4;

/// How many pairs of tiles side by side a convolution is best computed with; 0 where direct sums are as fast, or it has 16
/// bits, two parts, or channels that do not make pairs of quads.
pub(super) fn pairs<W: Winograd>(_: W, conv: &Conv2d<'_>) -> usize {
    let (channels, outs) = (usize::from(conv.shape.channels), conv.bias.len());
    let narrow = matches!(conv.x, Values::Narrow(_)) && conv.factors[1].is_empty();
    let whole = channels.is_multiple_of(QUAD) && outs.is_multiple_of(PAIR);
    let wanted = cfg!(winograd) && W::PAIRS > 0 && conv.kernel == 3 && narrow;
    if !wanted || !whole || !(1..=CHANNELS).contains(&channels) {
        return 0;
    }
    // Beside a pixel outside, and the weights of two output channels.
    let of_pair = POINTS * channels / QUAD * size_of::<Quads>();
    let fit = (conv.scratch.len().saturating_sub(channels) / of_pair).saturating_sub(1);
    let pairs = usize::from(conv.shape.width).div_ceil(2 * PAIR).min(fit).min(MOST);
    if pairs > 0 && pays::<W>(pairs, conv) { pairs } else { 0 }
}

/// Whether it takes fewer instructions than direct sums. They are estimates for each input channel of each output channel,
/// of a row of tiles and of the rows of pixels, from counts on Cortex-M4 and RISC-V of layers that are as fast by both.
fn pays<W: Winograd>(pairs: usize, conv: &Conv2d<'_>) -> bool {
    let (channels, outs) = (u32::from(conv.shape.channels), conv.bias.len().max(1) as u32);
    let [height, width] = [conv.shape.height, conv.shape.width].map(u32::from);
    let times = |count: u32, instructions: u32| u64::from(count) * u64::from(instructions);
    let all_pairs = width.div_ceil(4);
    let sums = times(all_pairs.next_multiple_of(W::PAIRS.max(1) as u32), 26 * channels + 300);
    let inputs = times(all_pairs, 90 * channels / outs.min(PANEL as u32));
    let weights = times(all_pairs.div_ceil(pairs.max(1) as u32), 45 * channels + 180 + 1500 / outs);
    let direct = times(width.next_multiple_of(2), 9 * channels + 24);
    u64::from(height.div_ceil(2)) * (sums + inputs + weights) < u64::from(height) * direct
}

/// Computes the convolution, with so many pairs of tiles side by side.
pub(super) fn run<W: Winograd>(w: W, mut conv: Conv2d<'_>, pairs: usize) {
    let (height, width) = (usize::from(conv.shape.height), usize::from(conv.shape.width));
    let (outs, quads) = (conv.bias.len(), usize::from(conv.shape.channels) / QUAD);
    let Values::Narrow(x) = conv.x else { return };
    let x: &[[i8; QUAD]] = x.as_chunks().0;
    // A pixel outside the picture, transformed weights, and transformed inputs.
    let Some((outside, scratch)) = core::mem::take(&mut conv.scratch).split_at_mut_checked(quads * QUAD)
    else {
        return;
    };
    outside.fill(conv.zeros[0] as u8);
    let outside: &[[i8; QUAD]] = bytemuck::cast_slice::<u8, i8>(outside).as_chunks().0;
    let scratch = scratch.as_chunks_mut::<{ size_of::<Quads>() }>().0;
    let scratch: &mut [Quads] = bytemuck::try_cast_slice_mut(scratch).unwrap_or_default();
    let Some((weights, inputs)) = scratch.split_at_mut_checked(POINTS * quads) else { return };
    let mut sums: [Sums; 2] = [[[0; PANEL]; PIXELS]; 2];
    let mut points = Points::default();
    for top in (0..height).step_by(2) {
        for left in (0..width).step_by((2 * PAIR * pairs).max(1)) {
            let count = (2 * PAIR * pairs).min(width - left);
            let pairs = count.div_ceil(2 * PAIR);
            let Some(inputs) = inputs.get_mut(..POINTS * quads * pairs) else { return };
            // What a tile reads begins one row and one column before it.
            let pixels =
                Pixels::new(quads, left.wrapping_sub(1), outside, |row| match (top + row).checked_sub(1) {
                    Some(row) if row < height => {
                        x.get(row * width * quads..(row + 1) * width * quads).unwrap_or_default()
                    }
                    _ => &[],
                });
            for panel in (0..outs).step_by(PANEL) {
                let of_panel = PANEL.min(outs - panel);
                let panels = conv.panels.as_chunks().0.as_chunks().0;
                let panels = panels.get(panel / PAIR * 9 * quads..).unwrap_or_default();
                for (row, rows) in ROWS {
                    w.inputs(quads, &pixels, rows, row == 1, inputs);
                    for out in 0..of_panel / PAIR {
                        w.weights(
                            quads,
                            row,
                            panels.get(out..).unwrap_or_default(),
                            of_panel / PAIR,
                            weights,
                        );
                        w.points(quads, weights, inputs, &mut points);
                        add(row, &points, pairs, out, &mut sums);
                    }
                }
                let place = top * width + left;
                conv.rescale(w, place, panel, [of_panel, count], &sums);
                if top + 1 < height {
                    conv.rescale(w, place + width, panel, [of_panel, count], &sums[1..]);
                }
            }
        }
    }
}

/// The rows of points, and the two rows of pixels that each is the difference of, or the sum of the second; in the order in
/// which their sums are added: those of the middle ones belong to both rows of outputs, and begin them.
const ROWS: [(usize, [usize; 2]); POINTS] = [(1, [1, 2]), (2, [2, 1]), (0, [0, 2]), (3, [1, 3])];

/// Adds what a row of points gives to the sums of the outputs of a pair of channels; to the last ones, a quarter of all.
fn add(row: usize, points: &Points, pairs: usize, out: usize, [upper, lower]: &mut [Sums; 2]) {
    let sums = upper.as_chunks_mut::<4>().0.iter_mut().zip(lower.as_chunks_mut::<4>().0);
    for ([a, b, c, d], (upper, lower)) in points.0.iter().take(pairs).zip(sums) {
        for tile in 0..PAIR {
            for of_pair in 0..PAIR {
                let [a, b, c, d] = [a, b, c, d].map(|tiles| tiles[tile][of_pair]);
                let of_pixels = [
                    b.wrapping_add(c).wrapping_add(a.wrapping_mul(2)),
                    b.wrapping_sub(c).wrapping_sub(d.wrapping_mul(2)),
                ];
                for (pixel, sum) in of_pixels.into_iter().enumerate() {
                    let upper = &mut upper[2 * tile + pixel][(out * PAIR + of_pair) % PANEL];
                    let lower = &mut lower[2 * tile + pixel][(out * PAIR + of_pair) % PANEL];
                    match row {
                        1 => (*upper, *lower) = (sum, sum),
                        2 => (*upper, *lower) = (upper.wrapping_add(sum), lower.wrapping_sub(sum)),
                        0 => *upper = upper.wrapping_add(sum.wrapping_mul(2)) >> 2,
                        _ => *lower = lower.wrapping_sub(sum.wrapping_mul(2)) >> 2,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::int8::ValuesMut;
    use crate::kernels::int8::tests::{ends, narrow};
    use crate::simd::dot::Plain;
    use std::vec;
    use std::vec::Vec;
    use traflow_graph::op::{Method, Op, Shape};
    use traflow_graph::quant::{Wide, scratch_bytes, wide};

    /// A convolution with the scratch memory of its file.
    fn conv<'a>(
        [shape, to]: [Shape; 2],
        [x, panels]: [&'a [i8]; 2],
        zero: i32,
        [factors, bias]: [&'a [i32]; 2],
        scratch: &'a mut Vec<u64>,
        y: &'a mut [i8],
    ) -> Conv2d<'a> {
        let op =
            Op::Conv2d { out: to.channels, kernel: 3, bias: true, residual: None, method: Method::Direct };
        scratch.resize(scratch_bytes(op, &[shape]).div_ceil(8) as usize, 0);
        let bias: &[Wide] = bytemuck::cast_slice(bias);
        Conv2d {
            x: Values::Narrow(x),
            shape,
            kernel: 3,
            panels,
            split: shape.channels.into(),
            zeros: [zero, 0],
            factors: [factors, &[]],
            bias,
            shift: 38,
            residual: -123_456,
            r: None,
            scratch: bytemuck::cast_slice_mut(scratch),
            y: ValuesMut::Narrow(y),
        }
    }

    /// Runs both on the same data, whether it pays or not, and compares.
    fn compare(shape: Shape, outs: u16, [x, panels]: [&[i8]; 2], zero: i32) {
        let to = Shape::new(outs, shape.height, shape.width);
        let largest = (1i32 << 30) / (1 + 9 * i32::from(shape.channels));
        let factors: Vec<i32> = (0..i32::from(outs)).map(|out| largest - out * 3).collect();
        let bias: Vec<Wide> = (0..i64::from(outs)).map(|out| wide((out - 2) << 38)).collect();
        let numbers = [&factors[..], bytemuck::cast_slice(&bias)];
        let start = narrow(9, to.elements());
        let mut expected = start.clone();
        conv([shape, to], [x, panels], zero, numbers, &mut Vec::new(), &mut expected).reference();
        for pairs in [1, 3, 4] {
            let (mut scratch, mut y) = (Vec::new(), start.clone());
            let mut conv = conv([shape, to], [x, panels], zero, numbers, &mut scratch, &mut y);
            let mut more = vec![
                0u64;
                usize::from(shape.channels).div_ceil(8)
                    + 2 * usize::from(shape.channels) * (1 + pairs)
            ];
            conv.scratch = bytemuck::cast_slice_mut(&mut more);
            run(Plain, conv, pairs);
            assert_eq!(y, expected, "{shape}, {outs}, zero {zero}, {pairs} pairs");
        }
    }

    #[test]
    fn run_is_the_definition() {
        for (channels, outs) in [(4, 2), (8, 16), (12, 40), (20, 64), (16, 22)] {
            for (height, width) in [(1, 1), (2, 2), (7, 7), (3, 5), (1, 9), (9, 1), (4, 18), (5, 33)] {
                let shape = Shape::new(channels, height, width);
                let (x, panels) =
                    (narrow(1, shape.elements()), narrow(2, 9 * usize::from(channels) * usize::from(outs)));
                compare(shape, outs, [&x, &panels], -7);
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let shape = Shape::new(CHANNELS as u16, 1, 2);
        let weights = 9 * CHANNELS * 2;
        for (weight, fill) in [(-128, -128), (-128, 127), (127, -128), (127, 127)] {
            for zero in [-128, 127] {
                compare(shape, 2, [&vec![fill; shape.elements()], &vec![weight; weights]], zero);
            }
        }
        let shape = Shape::new(1024, 2, 3);
        for stream in 0..2 {
            let (x, panels) = (ends(stream, shape.elements()), ends(stream + 4, 9 * 1024 * 2));
            compare(shape, 2, [&x, &panels], 127);
        }
        // What the largest transformed numbers are made of: V of four numbers whose signs are those of B.
        let shape = Shape::new(16, 6, 6);
        for (row, column) in (0..4).flat_map(|row| (0..4).map(move |column| (row, column))) {
            const SIGNS: [[i32; 4]; 4] = [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]];
            const MIDDLE: [[i32; 3]; 4] = [[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]];
            let end = |sign: i32| if sign < 0 { 127 } else { -128 };
            // What the tile in the middle reads begins at the second pixel.
            let sign = |pixel: usize| SIGNS[row][(pixel / 6 + 3) % 4] * SIGNS[column][(pixel % 6 + 3) % 4];
            let x: Vec<i8> = (0..36 * 16).map(|i| end(sign(i / 16))).collect();
            let panels: Vec<i8> =
                (0..9 * 16 * 2).map(|i| end(MIDDLE[row][i / 32 / 3] * MIDDLE[column][i / 32 % 3])).collect();
            compare(shape, 2, [&x, &panels], -128);
        }
    }

    #[cfg(winograd)]
    #[test]
    fn many_channels_and_pixels_pay() {
        let found = |channels, outs, side| {
            let (shape, to) = (Shape::new(channels, side, side), Shape::new(outs, side, side));
            let (factors, bias) = (vec![1; outs.into()], vec![0; 2 * usize::from(outs)]);
            let (mut scratch, mut y) = (Vec::new(), Vec::new());
            pairs(Plain, &conv([shape, to], [&[]; 2], 0, [&factors, &bias], &mut scratch, &mut y))
        };
        assert_eq!([found(32, 32, 16), found(64, 64, 8), found(32, 32, 7), found(16, 16, 14)], [4, 2, 2, 4]);
        assert_eq!([found(16, 8, 16), found(8, 8, 28), found(128, 128, 2), found(32, 32, 1)], [4, 0, 0, 0]);
        assert_eq!([found(4, 4, 28), found(1, 8, 28), found(8, 1, 28), found(3644, 64, 28)], [0; 4]);
    }
}
