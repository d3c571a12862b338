//! Runs the nodes of a model of integers in an arena, without an instruction of floating point.

use core::ops::Range;

use traflow_graph::model::{ALIGN, Dtype, Model, Name, Node};
use traflow_graph::noise::Mix;
use traflow_graph::op::{Op, Shape};
use traflow_graph::quant::{IMAGE_BITS, Integers};

use crate::cpu::Cpu;
use crate::engine::{EngineError, Steps, aligned, disjoint};
use crate::kernels::int8::{
    Add, Attention, Concat, Conv2d, Downsample, GroupNorm, Silu, Start, Step, TILES_OFFERED, Upsample,
    Values, ValuesMut, attention_ample_bytes, conv_ample_bytes,
};
use crate::simd::Isa;

/// The seed of the self-test.
const TEST_SEED: u64 = 0;

/// A model of integers with memory to run in.
#[derive(Debug)]
pub struct IntegerEngine<'m, 'a> {
    memory: Memory<'m, 'a>,
    cpu: Cpu,
}

/// The model and where its values are.
#[derive(Debug)]
struct Memory<'m, 'a> {
    model: Model<'m>,
    arena: &'a mut [u8],
}

/// What is shown of each node after it was computed: the index of the moment in its schedule, that of the node, and the
/// value.
pub type Visit<'v> = &'v mut (dyn FnMut(usize, usize, Values<'_>) + Send);

/// A picture of integers.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    /// Its elements by row, column and channel, in units of 2⁻¹², about in [-1, 1] and not clamped.
    pub numbers: &'a [i16],
    /// Its shape.
    pub shape: Shape,
}

/// Why a self-test fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum SelfTestError {
    #[error("the file has no digests to test against")]
    Missing,
    #[error("node {index} ({name}): it gives {found:08x} where the file expects {expected:08x}")]
    Node { index: usize, name: Name, expected: u32, found: u32 },
    #[error("the picture gives {found:08x} where the file expects {expected:08x}")]
    Picture { expected: u32, found: u32 },
}

impl<'m, 'a> IntegerEngine<'m, 'a> {
    /// Bytes of an arena, at any address, with which this processor is fastest. One that begins at a multiple of 64 needs
    /// [`Model::arena_bytes`] alone.
    pub fn arena_bytes(model: &Model<'_>) -> usize {
        let ample = |node: Node<'_>| match (node.op(), node.inputs().next()) {
            (Op::Conv2d { kernel: 3, .. }, Some(input)) if TILES_OFFERED && !input.is_wide() => {
                conv_ample_bytes(input.shape())
            }
            (Op::Attention { .. }, Some(input)) => {
                attention_ample_bytes(usize::from(input.shape().channels) / 3, input.shape().pixels())
            }
            _ => 0,
        };
        let vectors = model.weights() == Dtype::I8 && Isa::detect().vectors().is_some();
        let most = if vectors { model.nodes().map(ample).max().unwrap_or(0) } else { 0 };
        model.arena_bytes().saturating_add(most.next_multiple_of(ALIGN)).saturating_add(ALIGN - 1)
    }

    /// Takes memory for the values, at any address; what it holds does not matter.
    ///
    /// # Errors
    /// Where it is too small, how many bytes of it are needed; or that the model is of floating point.
    pub fn new(model: Model<'m>, arena: &'a mut [u8]) -> Result<Self, EngineError> {
        Self::on(Cpu::new(Isa::detect()), model, arena)
    }

    /// Like [`new`](Self::new), with a choice of the instruction set and of threads; the picture does not depend on
    /// it.
    ///
    /// # Errors
    /// As with [`new`](Self::new).
    pub fn on(cpu: Cpu, model: Model<'m>, arena: &'a mut [u8]) -> Result<Self, EngineError> {
        if model.weights() != Dtype::I8 {
            return Err(EngineError::Format { integers: false });
        }
        let arena = aligned(&model, arena)?;
        Ok(Self { memory: Memory { model, arena }, cpu })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.memory.model
    }

    /// The instruction set that it computes with.
    pub fn isa(&self) -> Isa {
        self.cpu.isa()
    }

    /// Makes the picture of a seed.
    ///
    /// # Errors
    /// Where the model has no schedule of so many steps, those that it has.
    pub fn generate(&mut self, seed: u64, steps: usize) -> Result<Picture<'_>, EngineError> {
        self.observe(seed, steps, &mut |_, _, _| {})?;
        Ok(self.picture())
    }

    /// Makes the picture of a point between seeds.
    ///
    /// # Errors
    /// Where the model has no schedule of so many steps, those that it has.
    pub fn mix(&mut self, mix: &Mix, steps: usize) -> Result<Picture<'_>, EngineError> {
        self.start(mix, steps, &mut |_, _, _| {})?;
        Ok(self.picture())
    }

    fn picture(&self) -> Picture<'_> {
        let image = self.memory.model.image();
        let numbers = match self.memory.values_of(&image) {
            Values::Wide(numbers) => numbers,
            // The check wants a picture of 16 bits.
            Values::Narrow(_) => &[],
        };
        Picture { numbers, shape: image.shape() }
    }

    /// Runs the seed of the self-test by the first schedule, and compares what each node gives in the first evaluation,
    /// and then the picture, with the digests of the file.
    ///
    /// # Errors
    /// The first node whose digest differs; or that the file has none.
    pub fn self_test(&mut self) -> Result<(), SelfTestError> {
        let model = self.memory.model;
        if model.nodes().all(|node| node.digest().is_none()) {
            return Err(SelfTestError::Missing);
        }
        let mut result = Ok(());
        self.digests(&mut |index, found| {
            let Some(node) = model.node(index) else { return };
            let Some(expected) = node.digest().filter(|&expected| expected != found) else { return };
            if result.is_ok() {
                result = Err(match node.op() {
                    Op::Image(_) => SelfTestError::Picture { expected, found },
                    _ => SelfTestError::Node { index, name: Name::new(node.name()), expected, found },
                });
            }
        });
        result
    }

    /// The digests of a self-test: for each node that the first evaluation computes, in order, then for the picture,
    /// which is the image's.
    pub fn digests(&mut self, visit: &mut (dyn FnMut(usize, u32) + Send)) {
        let model = self.memory.model;
        let Some(steps) = model.steps().next() else { return };
        let observed = self.observe(TEST_SEED, steps, &mut |moment, index, value| {
            if moment == 0 && !matches!(model.node(index).map(|node| node.op()), Some(Op::Image(_))) {
                visit(index, digest(value));
            }
        });
        let image = model.nodes().position(|node| matches!(node.op(), Op::Image(_)));
        if let (Ok(()), Some(image)) = (observed, image) {
            visit(image, digest(self.memory.values_of(&model.image())));
        }
    }

    /// Makes the picture of a seed, and shows the value of each node after it was computed.
    ///
    /// # Errors
    /// Where the model has no schedule of so many steps, those that it has.
    pub fn observe(&mut self, seed: u64, steps: usize, visit: Visit<'_>) -> Result<(), EngineError> {
        self.start(&Mix::of(seed), steps, visit)
    }

    fn start(&mut self, noise: &Mix, steps: usize, visit: Visit<'_>) -> Result<(), EngineError> {
        let Self { memory, cpu } = self;
        let model = memory.model;
        let offered = || EngineError::Steps { steps, offered: Steps::of(&model) };
        let schedule = model.schedule(steps).ok_or_else(offered)?;
        let image = model.image();
        if let ValuesMut::Wide(x) = typed_mut(memory.arena.get_mut(range(&image)).unwrap_or_default(), true) {
            Start { noise, pixels: image.shape().pixels(), x }.run(cpu);
        }
        for (number, (moment, _)) in schedule.enumerate() {
            for (index, node) in model.nodes().enumerate() {
                memory.compute(cpu, &node, moment);
                if node.offset().is_some() {
                    visit(number, index, memory.values_of(&node));
                }
            }
            memory.step(cpu, moment);
        }
        Ok(())
    }
}

impl<'m> Memory<'m, '_> {
    /// x_s = x_t + (s - t) u(x_t, t, s), eq. 6'.
    fn step(&mut self, cpu: &Cpu, moment: usize) {
        let (image, output) = (self.model.image(), self.model.output());
        let Some(Integers::Image { shift, factor }) = image.integers(moment) else { return };
        let ranges = [range(&image), range(&output), 0..0, 0..0];
        let Some([x, u, ..]) = disjoint(self.arena, ranges) else { return };
        Step { u: typed(u, output.is_wide()), factor, shift, x: typed_mut(x, true) }.run(cpu);
    }

    fn values_of(&self, node: &Node<'m>) -> Values<'_> {
        typed(self.arena.get(range(node)).unwrap_or_default(), node.is_wide())
    }

    /// Computes one node. The model's check has seen to it that every range is inside the arena, and that an output
    /// overlaps no input but the one it replaces, and scratch memory neither of them.
    fn compute(&mut self, cpu: &Cpu, node: &Node<'m>, moment: usize) {
        let Some(integers) = node.integers(moment) else { return };
        if matches!(integers, Integers::Image { .. } | Integers::Constant { .. }) {
            return;
        }
        let output = range(node);
        let mut inputs = node.inputs();
        let inputs = [inputs.next(), inputs.next()];
        // An input lies in the arena, or is a constant of the file, or is replaced by the output.
        let replaced = inputs.map(|input| input.is_some_and(|input| range(&input) == output));
        let [a, b] = inputs.map(|input| input.map(|input| range(&input)).filter(|range| *range != output));
        let (a, b) = (a.unwrap_or_default(), b.unwrap_or_default());
        // Kernels with vectors find more scratch memory after the planned arena, where there is some.
        let (planned, more) = (node.scratch(), self.model.arena_bytes()..self.arena.len());
        let scratch = match cpu.isa().vectors() {
            Some(_) if more.len() >= planned.len() => more,
            _ => planned,
        };
        let Some([y, a, b, scratch]) = disjoint(self.arena, [output, a, b, scratch]) else { return };
        let value = |input: &Option<Node<'m>>, bytes| -> Values<'_> {
            let Some(input) = input else { return Values::Narrow(&[]) };
            match input.integers(moment) {
                Some(Integers::Constant { value }) => {
                    Values::Wide(value.get(..input.shape().elements()).unwrap_or(value))
                }
                _ => typed(bytes, input.is_wide()),
            }
        };
        let (a, b) = (value(&inputs[0], a), value(&inputs[1], b));
        let in_place = |place: usize, x| (!replaced[place]).then_some(x);
        let shape = inputs[0].map_or(node.shape(), |input| input.shape());
        let channels = usize::from(shape.channels);
        let y = typed_mut(y, node.is_wide());
        match integers {
            Integers::Conv2d { shift, residual, split, zeros, bias, factors } => {
                let Op::Conv2d { kernel, .. } = node.op() else { return };
                let conv = Conv2d {
                    x: a,
                    shape,
                    kernel: kernel.into(),
                    panels: node.panels(),
                    split: split as usize,
                    zeros,
                    factors,
                    bias,
                    shift,
                    residual,
                    r: in_place(1, b),
                    scratch,
                    y,
                };
                conv.run(cpu);
            }
            Integers::GroupNorm { gain_shift, epsilon, bias, gain, table } => {
                let scratch = scratch.get_mut(..16 * channels).unwrap_or_default();
                let scratch = bytemuck::try_cast_slice_mut(scratch).unwrap_or_default();
                GroupNorm { x: in_place(0, a), gain_shift, epsilon, gain, bias, table, scratch, y }.run(cpu);
            }
            Integers::Silu { factor, bias, table } => {
                Silu { x: in_place(0, a), factor, bias, table, y }.run(cpu);
            }
            Integers::Add { shift, factors, bias } => {
                Add { a: in_place(0, a), b, factors, bias, shift, y }.run(cpu);
            }
            Integers::Concat { shift, factors, biases } => {
                Concat { a, b, pixels: shape.pixels(), factors, biases, shift, y }.run(cpu);
            }
            Integers::Downsample { shift, factor, bias } => {
                let width = node.shape().width.into();
                Downsample { x: a, channels, width, factor, bias, shift, y }.run(cpu);
            }
            Integers::Upsample => Upsample { x: a, channels, width: shape.width.into(), y }.run(cpu),
            Integers::Attention { exponent, exponent_shift, shift, factor, bias } => {
                let (Op::Attention { heads }, Values::Narrow(qkv)) = (node.op(), a) else { return };
                let (pixels, heads) = (shape.pixels(), heads.into());
                let scratch = bytemuck::try_cast_slice_mut(scratch).unwrap_or_default();
                Attention { qkv, pixels, heads, exponent, exponent_shift, factor, bias, shift, scratch, y }
                    .run(cpu);
            }
            // These were dealt with above.
            Integers::Image { .. } | Integers::Constant { .. } => {}
        }
    }
}

/// FNV-1a of the bytes of a value, in the order of the arena, and never 0.
pub fn digest(value: Values<'_>) -> u32 {
    let bytes: &[u8] = match value {
        Values::Narrow(x) => bytemuck::cast_slice(x),
        Values::Wide(x) => bytemuck::cast_slice(x),
    };
    let hash =
        bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    if hash == 0 { 1 } else { hash }
}

/// Where a value lies in the arena, in bytes; empty for a constant.
fn range(node: &Node<'_>) -> Range<usize> {
    let bytes = node.shape().elements() * node.element_bytes();
    node.offset().map_or(0..0, |offset| offset..offset + bytes)
}

/// Values begin at multiples of 64 bytes, so a slice is always aligned.
fn typed(bytes: &[u8], wide: bool) -> Values<'_> {
    if wide {
        Values::Wide(bytemuck::try_cast_slice(bytes).unwrap_or_default())
    } else {
        Values::Narrow(bytemuck::cast_slice(bytes))
    }
}

fn typed_mut(bytes: &mut [u8], wide: bool) -> ValuesMut<'_> {
    if wide {
        ValuesMut::Wide(bytemuck::try_cast_slice_mut(bytes).unwrap_or_default())
    } else {
        ValuesMut::Narrow(bytemuck::cast_slice_mut(bytes))
    }
}

impl Picture<'_> {
    /// The picture's bytes, by row, column and channel: [-1, 1] becomes 0 to 255, and what is outside the nearer end.
    pub fn bytes(&self) -> impl ExactSizeIterator<Item = u8> {
        // ⌊127.5 x + 128⌋
        let byte = |&x: &i16| (((i32::from(x) * 255) >> (IMAGE_BITS + 1)) + 128).clamp(0, 255) as u8;
        self.numbers.iter().map(byte)
    }

    /// A pixel as RGB565, red in the upper bits, with an ordered dither of 4×4 pixels. A picture of one channel gives
    /// gray.
    pub fn rgb565(&self, row: usize, column: usize) -> u16 {
        /// Bayer's matrix.
        const THRESHOLDS: [[i32; 4]; 4] = [[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]];
        let threshold = 2 * THRESHOLDS[row % 4][column % 4] + 1;
        let channels = usize::from(self.shape.channels);
        let first = (row * usize::from(self.shape.width) + column) * channels;
        let level = |channel: usize, most: i32| {
            let x = self.numbers.get(first + channel.min(channels - 1)).copied().unwrap_or(0);
            // (x + 1) / 2 of the most, up by the threshold, a number of 32nds, and down to a whole level.
            let sum = (i32::from(x) + (1 << IMAGE_BITS)) * most + (threshold << (IMAGE_BITS + 1 - 5));
            (sum >> (IMAGE_BITS + 1)).clamp(0, most) as u16
        };
        level(0, 31) << 11 | level(1, 63) << 5 | level(2, 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn pixels_cover_the_whole_range() {
        let numbers = [-32768, -4096, -4095, 0, 16, 17, 4095, 4096, 32767];
        let picture = Picture { numbers: &numbers, shape: Shape::new(1, 1, 9) };
        assert_eq!(picture.bytes().collect::<Vec<_>>(), [0, 0, 0, 128, 128, 128, 255, 255, 255]);
        let float = |x: &i16| (f64::from(*x) / 4096.0 * 127.5 + 128.0).floor().clamp(0.0, 255.0) as u8;
        let all: Vec<i16> = (-5000..5000).collect();
        let picture = Picture { numbers: &all, shape: Shape::new(1, 100, 100) };
        assert!(picture.bytes().eq(all.iter().map(float)));
    }

    #[test]
    fn dither_keeps_the_mean() {
        for x in (-4096..=4096).step_by(64) {
            let numbers = [x, x / 2, -x].repeat(16);
            let picture = Picture { numbers: &numbers, shape: Shape::new(3, 4, 4) };
            let pixels: Vec<u16> = (0..16).map(|i| picture.rgb565(i / 4, i % 4)).collect();
            for (shift, most, x) in [(11, 31, x), (5, 63, x / 2), (0, 31, -x)] {
                let sum: f64 = pixels.iter().map(|pixel| f64::from(pixel >> shift & most)).sum();
                let exact = (f64::from(x) / 4096.0 + 1.0) / 2.0 * f64::from(most);
                assert!((sum / 16.0 - exact).abs() <= 1.01 / 32.0, "{x}: {} is not {exact}", sum / 16.0);
            }
        }
    }
}
