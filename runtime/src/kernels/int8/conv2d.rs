use traflow_graph::op::Shape;
use traflow_graph::quant::Wide;

use super::{Values, ValuesMut, rows};
use crate::cpu::Cpu;
use crate::simd::{Device, IntegerKernel};

/// Convolution with stride 1, padded to the same size, and a residual:
/// `y = (acc_0 · factors_0 + acc_1 · factors_1 + r · residual + bias) >> shift`.
#[derive(Debug)]
pub struct Conv2d<'a> {
    /// Input.
    pub x: Values<'a>,
    /// Shape of the input.
    pub shape: Shape,
    /// Height and width of the kernel: 1 or 3.
    pub kernel: usize,
    /// Weight, as [`panel_index`](traflow_graph::quant::panel_index) orders it.
    pub panels: &'a [i8],
    /// Channels of the input's first part.
    pub split: usize,
    /// Zero points of the parts: what the input is outside the picture.
    pub zeros: [i32; 2],
    /// Factors of the sums of the parts, one for each output channel; the second is empty where there is one part.
    pub factors: [&'a [i32]; 2],
    /// Added to the products, for each output channel.
    pub bias: &'a [Wide],
    /// Places to shift by.
    pub shift: u32,
    /// Factor of the residual; 0 where there is none.
    pub residual: i32,
    /// The residual; `None` where y holds it.
    pub r: Option<Values<'a>>,
    /// Memory for the rows of the input that a row of the output reads, aligned to 4 bytes.
    pub scratch: &'a mut [u8],
    /// Output.
    pub y: ValuesMut<'a>,
}

impl Conv2d<'_> {
    /// Computes it.
    pub fn run(self, cpu: &Cpu) {
        cpu.run_integers(core::iter::once(self), &mut []);
    }
}

impl IntegerKernel for Conv2d<'_> {
    fn words(self, _: &mut [u8]) {
        rows::run(Device, self);
    }
}

impl Conv2d<'_> {
    /// The definition.
    pub fn reference(mut self) {
        use traflow_graph::quant::{long, panel_index};
        let channels = usize::from(self.shape.channels);
        let (outs, taps) = (self.bias.len(), self.kernel * self.kernel);
        for pixel in 0..self.shape.pixels() {
            for out in 0..outs {
                let mut sum = i128::from(long(self.bias[out]));
                for tap in 0..taps {
                    let (row, column) =
                        (pixel / usize::from(self.shape.width), pixel % usize::from(self.shape.width));
                    let row = (row + tap / self.kernel).checked_sub(self.kernel / 2);
                    let column = (column + tap % self.kernel).checked_sub(self.kernel / 2);
                    let (height, width) = (usize::from(self.shape.height), usize::from(self.shape.width));
                    let inside = row.zip(column).filter(|&(row, column)| row < height && column < width);
                    for channel in 0..channels {
                        let part = usize::from(channel >= self.split);
                        let x = inside.map_or(self.zeros[part], |(row, column)| {
                            self.x.get((row * width + column) * channels + channel)
                        });
                        let weight = self.panels[panel_index([outs, channels, taps], [out, channel, tap])];
                        sum += i128::from(x * i32::from(weight)) * i128::from(self.factors[part][out]);
                    }
                }
                let index = pixel * outs + out;
                if self.residual != 0 {
                    let r = self.r.map_or_else(|| self.y.get(index), |r| r.get(index));
                    sum += i128::from(r) * i128::from(self.residual);
                }
                self.y.set(index, (sum >> self.shift) as i64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::kernels::int8::tests::{narrow, wide as random_wide};
    use std::vec;
    use std::vec::Vec;
    use traflow_graph::op::{Method, Op};
    use traflow_graph::quant::{QUAD, panel_elements, scratch_bytes, wide};

    /// Runs both on the same data, and compares.
    fn compare(
        shape: Shape,
        kernel: usize,
        outs: usize,
        x: Values<'_>,
        panels: &[i8],
        split: usize,
        zeros: [i32; 2],
    ) {
        let channels = usize::from(shape.channels);
        let taps = kernel * kernel * channels;
        // About what keeps outputs of 16 bits inside their range.
        let factor = (1i32 << 30) / (1 + taps as i32);
        let factors: Vec<i32> = (0..outs as i32).map(|out| factor - out * 3).collect();
        let second = if split < channels { factors.iter().map(|f| -f / 2).collect() } else { vec![] };
        let bias: Vec<Wide> = (0..outs as i64).map(|out| wide((out - 2) << 38)).collect();
        let start = random_wide(9, outs * shape.pixels());
        for (residual, separate) in [(0, false), (-123_456, false), (1 << 27, true)] {
            let make = |y| Conv2d {
                x,
                shape,
                kernel,
                panels,
                split,
                zeros,
                factors: [&factors, &second],
                bias: &bias,
                shift: 38,
                residual,
                r: separate.then_some(Values::Wide(&start)),
                scratch: &mut [],
                y,
            };
            let (mut y, mut expected) = (start.clone(), start.clone());
            let op = Op::Conv2d {
                out: outs as u16,
                kernel: kernel as u8,
                bias: true,
                residual: None,
                method: Method::Direct,
            };
            let mut scratch = vec![0u64; scratch_bytes(op, &[shape]).div_ceil(8) as usize];
            let scratch = bytemuck::cast_slice_mut(&mut scratch);
            Conv2d { scratch, ..make(ValuesMut::Wide(&mut y)) }.run(&Cpu::new(Isa::SCALAR));
            make(ValuesMut::Wide(&mut expected)).reference();
            assert_eq!(y, expected, "{shape}, {kernel}, {outs}, {residual}");
        }
    }

    /// Weights whose padding is zero.
    fn weights(stream: u32, outs: usize, channels: usize, kernel: usize) -> Vec<i8> {
        let taps = kernel * kernel;
        let mut panels = narrow(stream, panel_elements([outs, channels, kernel, kernel]));
        for out in 0..outs {
            for tap in 0..taps {
                for channel in channels..channels.next_multiple_of(QUAD) {
                    panels[traflow_graph::quant::panel_index([outs, channels, taps], [out, channel, tap])] =
                        0;
                }
            }
        }
        panels
    }

    #[test]
    fn run_is_the_definition() {
        for (channels, outs) in [(1, 1), (3, 2), (5, 17), (8, 16), (12, 40)] {
            for (height, width) in [(1, 1), (2, 2), (7, 7), (3, 5), (1, 9), (9, 1)] {
                for kernel in [1, 3] {
                    let shape = Shape::new(channels as u16, height, width);
                    let panels = weights(1, outs, channels, kernel);
                    let x = narrow(2, shape.elements());
                    let split = if channels > 4 { 4 } else { channels };
                    let zeros = [-7, if channels > 4 { 127 } else { 0 }];
                    compare(shape, kernel, outs, Values::Narrow(&x), &panels, split, zeros);
                    let x = random_wide(3, shape.elements());
                    compare(shape, kernel, outs, Values::Wide(&x), &panels, channels, [0, 0]);
                }
            }
        }
    }

    #[test]
    fn extremes_do_not_overflow() {
        let shape = Shape::new(1024, 3, 2);
        for (weight, fill) in [(-128, -128), (-128, 127), (127, -128), (127, 127)] {
            let panels = vec![weight; panel_elements([2, 1024, 3, 3])];
            let x = vec![fill; shape.elements()];
            for zero in [-128, 127] {
                compare(shape, 3, 2, Values::Narrow(&x), &panels, 1024, [zero, 0]);
            }
        }
        // The largest sum of weights that inputs of 16 bits allow.
        let shape = Shape::new(512, 1, 1);
        let mut panels = vec![-128; 512];
        panels[0] = -127;
        let x = vec![i16::MIN; 512];
        compare(shape, 1, 1, Values::Wide(&x), &panels, 512, [0, 0]);
    }
}
