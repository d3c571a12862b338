//! Compares the kernels of this board's processor with their definitions, then counts their instructions, and those of each
//! node of a model. Each line of the output is a record, its fields apart by tabs, for `cargo xtask bench-devices`.
#![no_std]
#![no_main]

use bytemuck::{cast_slice, cast_slice_mut};
use traflow_graph::noise::Noise;
use traflow_graph::op::{Method, Op};
use traflow_graph::quant::{QUAD, TABLE, Wide, panel_elements, panel_index, scratch_bytes, wide};
use traflow_runtime::kernels::int8::{Conv2d, GroupNorm, Values, ValuesMut};
use traflow_runtime::{Aligned, Cpu, IntegerEngine, Isa, Model, Shape};

use board::{Counter, print_line};

mod board;

static MODEL: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("MODEL")));

#[unsafe(no_mangle)]
extern "C" fn main() -> ! {
    // SAFETY: the only place that takes it.
    let memory = unsafe { board::memory() };
    let counter = Counter::new();
    let bench = &mut Bench { counter: &counter, memory, failed: false };
    for shape in [(16, 32, 32, 3), (32, 16, 16, 3), (8, 64, 64, 3), (28, 8, 8, 3), (16, 32, 64, 1)] {
        bench.convolution(shape.into());
    }
    // What is not a multiple of anything, of two parts, with a residual, with 16 bits, with the largest numbers.
    let odd = Case { size: [7, 5], channels: 12, outs: 21, kernel: 3, ..Case::default() };
    for kernel in [1, 3] {
        for wide in [[false, false], [true, false], [false, true], [true, true]] {
            for residual in [None, Some(false), Some(true)] {
                for (channels, outs) in [(12, 21), (1, 1), (3, 8), (8, 3), (20, 16), (6, 24)] {
                    let case = Case { kernel, wide, residual, channels, outs, ..odd };
                    for fewer in [0, 4, 5, 7, 15] {
                        bench.check(Case { fewer, ..case });
                    }
                    if channels > 4 && channels % 4 == 0 {
                        bench.check(Case { split: 4, ..case });
                        bench.check(Case { split: 4, fewer: 7, ..case });
                        bench.check(Case { split: 4, size: [4, 18], ..case });
                    }
                }
            }
        }
    }
    // What Winograd's method is for.
    for (channels, outs) in [(8, 8), (12, 22), (32, 16), (20, 34), (64, 8)] {
        for size in [[7, 5], [8, 8], [2, 16], [9, 33], [5, 18]] {
            for residual in [None, Some(false), Some(true)] {
                let wide = [false, residual.is_none() && outs == 22];
                bench.check(Case { channels, outs, kernel: 3, size, residual, wide, ..Case::default() });
            }
        }
    }
    bench.check(Case { extreme: true, channels: 1024, outs: 16, kernel: 3, size: [4, 8], ..Case::default() });
    bench.check(Case { extreme: true, channels: 512, outs: 4, kernel: 3, size: [3, 2], ..Case::default() });
    bench.check(Case { extreme: true, channels: 96, outs: 17, kernel: 1, size: [1, 17], ..Case::default() });
    for (channels, groups, side) in [(32, 8, 16), (8, 2, 28), (16, 4, 14), (6, 3, 5), (8, 1, 7)] {
        bench.norm(channels, groups, side);
    }
    let failed = bench.failed;
    if failed {
        print_line!("error: a kernel is not its definition");
    } else {
        model(&counter, bench.memory);
    }
    board::exit(!failed)
}

struct Bench<'a> {
    counter: &'a Counter,
    memory: &'a mut [u8],
    failed: bool,
}

/// A convolution.
#[derive(Clone, Copy, Debug, Default)]
struct Case {
    size: [u16; 2],
    channels: u16,
    outs: usize,
    kernel: usize,
    /// Channels of the first part of two.
    split: usize,
    /// Whether input and output have 16 bits.
    wide: [bool; 2],
    /// Whether there is a residual, and whether it is apart from the output.
    residual: Option<bool>,
    /// So many places fewer are shifted by.
    fewer: u32,
    extreme: bool,
}

impl From<(u16, u16, usize, usize)> for Case {
    fn from((side, channels, outs, kernel): (u16, u16, usize, usize)) -> Self {
        Self { size: [side; 2], channels, outs, kernel, ..Self::default() }
    }
}

/// Takes bytes off the front of memory.
fn take<'a>(memory: &mut &'a mut [u8], bytes: usize) -> &'a mut [u8] {
    let (taken, rest) = core::mem::take(memory).split_at_mut(bytes.next_multiple_of(64));
    *memory = rest;
    &mut taken[..bytes]
}

/// Fills bytes with random ones, or with the largest numbers.
fn fill(bytes: &mut [u8], stream: u32, extreme: bool) {
    for (index, byte) in bytes.iter_mut().enumerate() {
        let word = Noise::stream(5, stream).word(index as u64);
        *byte = if extreme { [0x80, 0x7f][word as usize & 1] } else { word as u8 };
    }
}

fn values(bytes: &[u8], wide: bool) -> Values<'_> {
    if wide { Values::Wide(cast_slice(bytes)) } else { Values::Narrow(cast_slice(bytes)) }
}

fn values_mut(bytes: &mut [u8], wide: bool) -> ValuesMut<'_> {
    if wide { ValuesMut::Wide(cast_slice_mut(bytes)) } else { ValuesMut::Narrow(cast_slice_mut(bytes)) }
}

impl Bench<'_> {
    /// Compares a convolution with its definition, and prints its instructions.
    fn convolution(&mut self, case: Case) {
        let instructions = self.check(case);
        let Case { size: [height, width], channels, outs, kernel, .. } = case;
        let products =
            usize::from(height) * usize::from(width) * usize::from(channels) * outs * kernel * kernel;
        print_line!(
            "kernel\tconv {kernel}×{kernel}, {height}×{width}, {channels} → {outs}\tMAC\t{products}\t{instructions}"
        );
    }

    /// Compares a convolution with its definition, and returns its instructions.
    fn check(&mut self, case: Case) -> u64 {
        let Case { size: [height, width], channels, outs, kernel, split, wide: [wide_x, wide_y], .. } = case;
        let shape = Shape::new(channels, height, width);
        let op = Op::Conv2d {
            out: outs as u16,
            kernel: kernel as u8,
            bias: true,
            residual: None,
            method: Method::Direct,
        };
        let memory = &mut &mut *self.memory;
        let x = take(memory, shape.elements() << u32::from(wide_x));
        let panels = take(memory, panel_elements([outs, channels.into(), kernel, kernel]));
        let bytes = (shape.pixels() * outs) << u32::from(wide_y);
        let [y, expected, r] = [(); 3].map(|()| take(memory, bytes));
        let (bias, factors) = (take(memory, 8 * outs), take(memory, 8 * outs));
        let scratch = take(memory, scratch_bytes(op, &[shape]) as usize);
        fill(x, 1, case.extreme);
        fill(panels, 2, case.extreme);
        for out in 0..outs {
            for tap in 0..kernel * kernel {
                for channel in usize::from(channels)..usize::from(channels).next_multiple_of(QUAD) {
                    panels[panel_index([outs, channels.into(), kernel * kernel], [out, channel, tap])] = 0;
                }
            }
        }
        fill(y, 3, false);
        fill(r, 4, false);
        expected.copy_from_slice(y);
        let bias: &mut [Wide] = cast_slice_mut(bias);
        let (factors, second) = cast_slice_mut::<_, i32>(factors).split_at_mut(outs);
        // About what keeps outputs inside their range.
        let terms = kernel * kernel * usize::from(channels);
        let largest = (1i32 << 27) / (1 + terms as i32) >> if wide_x { 6 } else { 0 };
        for out in 0..outs {
            bias[out] = wide((out as i64 - 2) << 34 >> case.fewer);
            let [first, other] = [largest - out as i32 * 3, out as i32 - largest / 2];
            (factors[out], second[out]) = (first >> case.fewer, other >> case.fewer);
        }
        let zero = if case.extreme { -128 } else { -7 };
        let zeros = if wide_x { [0; 2] } else { [zero, if split > 0 { 127 } else { 0 }] };
        let conv = |scratch, y| Conv2d {
            x: values(x, wide_x),
            shape,
            kernel,
            panels: cast_slice(panels),
            split: if split > 0 { split } else { channels.into() },
            zeros,
            factors: [factors, if split > 0 { second } else { &[] }],
            bias,
            shift: 36 - case.fewer,
            residual: if case.residual.is_some() { -(1 << 26) >> case.fewer } else { 0 },
            r: (case.residual == Some(true)).then(|| values(r, wide_y)),
            scratch,
            y: values_mut(y, wide_y),
        };
        conv(&mut [], expected).reference();
        let cpu = Cpu::new(Isa::SCALAR);
        let run = conv(scratch, y);
        let instructions = self.counter.count(|| run.run(&cpu));
        if y != expected {
            print_line!("error: it is not its definition: {case:?}");
            self.failed = true;
        }
        instructions
    }

    /// The same for a norm with SiLU.
    fn norm(&mut self, channels: usize, groups: usize, side: usize) {
        let memory = &mut &mut *self.memory;
        let [x, y, expected] = [(); 3].map(|()| take(memory, 2 * channels * side * side));
        let (gain, bias) = (take(memory, 4 * channels), take(memory, 8 * channels));
        let (table, epsilon) = (take(memory, 2 * TABLE), take(memory, 8 * groups));
        let (scratch, second) = (take(memory, 16 * channels), take(memory, 16 * channels));
        fill(x, 6, false);
        // Normal numbers, as a norm meets them; and a piece of them at the ends.
        for (index, x) in x.iter_mut().enumerate().skip(8) {
            *x = (Noise::stream(7, 0).at(index as u64) >> 16).clamp(-128, 127) as u8;
        }
        let (gain, bias): (&mut [i32], &mut [Wide]) = (cast_slice_mut(gain), cast_slice_mut(bias));
        let table: &mut [i16] = cast_slice_mut(table);
        // SiLU from -10 to 6 in units of 1 / 20: a line below 0 and one above are as good.
        for (piece, y) in table.iter_mut().enumerate().take(TABLE - 1) {
            *y = (piece as i16 - 160).max(0) * 16 * 10 / 2;
        }
        // 2¹⁶ · 2¹⁶ to 16 units of the normal number.
        for channel in 0..channels {
            gain[channel] = (1 << 28) - (channel as i32 * 1000);
            bias[channel] = wide((10 << 28) + channel as i64);
        }
        cast_slice_mut::<_, Wide>(epsilon).fill(wide(90));
        for (wide_x, wide_y, in_place) in [
            (false, false, false),
            (false, false, true),
            (false, true, false),
            (true, false, false),
            (true, true, false),
            (true, true, true),
        ] {
            let [bytes_x, bytes_y] = [wide_x, wide_y].map(|wide| (channels * side * side) << u32::from(wide));
            let (x, y, expected) = (&x[..bytes_x], &mut y[..bytes_y], &mut expected[..bytes_y]);
            let norm = |scratch, y| GroupNorm {
                x: (!in_place).then(|| values(x, wide_x)),
                gain_shift: 16,
                epsilon: cast_slice(epsilon),
                gain,
                bias,
                table,
                scratch: cast_slice_mut(scratch),
                y: values_mut(y, wide_y),
            };
            if in_place {
                y.copy_from_slice(x);
                expected.copy_from_slice(x);
            }
            norm(&mut *second, expected).reference();
            let cpu = Cpu::new(Isa::SCALAR);
            let run = norm(&mut *scratch, y);
            let instructions = self.counter.count(|| run.run(&cpu));
            if y != expected {
                print_line!(
                    "error: it is not its definition: norm of {channels} channels in {groups} groups, {side}×{side}"
                );
                self.failed = true;
            }
            if in_place && !wide_x && channels > 6 && groups > 1 {
                print_line!(
                    "kernel\tnorm + SiLU, {side}×{side}, {channels}\telement\t{}\t{instructions}",
                    side * side * channels
                );
            }
        }
    }
}

/// Counts the instructions of each node of the model.
fn model(counter: &Counter, memory: &mut [u8]) {
    let model = match Model::new(&MODEL.0) {
        Ok(model) => model,
        Err(error) => return print_line!("error: {error}"),
    };
    let mut engine = match IntegerEngine::new(model, memory) {
        Ok(engine) => engine,
        Err(error) => return print_line!("error: {error}"),
    };
    // The digests of all nodes are those that the export saw on its machine.
    if let Err(error) = engine.self_test() {
        return print_line!("error: {error}");
    }
    let mut start = board::now();
    let observed = engine.observe(0, 1, &mut |_, index, _| {
        let ticks = board::since(start);
        let Some(node) = model.node(index) else { return };
        print_line!("node\t{index}\t{}\t{}\t{}", node.name(), kind(node.op()), counter.instructions(ticks));
        start = board::now();
    });
    if let Err(error) = observed {
        print_line!("error: {error}");
    }
    print_line!("arena\t{}", model.arena_bytes());
}

/// An operation's name.
fn kind(op: Op) -> &'static str {
    match op {
        Op::Image(_) => "noise",
        Op::Conv2d { kernel: 3, .. } => "convolution 3×3",
        Op::Conv2d { .. } => "convolution 1×1",
        Op::GroupNorm { .. } => "norm",
        Op::Concat => "concatenation",
        Op::Downsample => "mean of 2×2",
        Op::Upsample => "doubling",
        Op::Attention { .. } => "attention",
        _ => "other",
    }
}
