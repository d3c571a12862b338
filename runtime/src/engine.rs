//! Runs the nodes of a model in an arena.

use core::fmt;
use core::ops::Range;

use traflow_graph::model::{ALIGN, Dtype, MAX_SCHEDULES, Model, Moment, Node, Weights};
use traflow_graph::noise::Mix;
use traflow_graph::op::{Op, Shape};

use crate::cpu::Cpu;
use crate::kernels::{
    Add, Attention, Blur, Border, Concat, Conv2d, Downsample, GroupNorm, Multiply, ScaleShift, Silu, Start,
    Upsample,
};
use crate::simd::Isa;

/// A model with memory to run in.
#[derive(Debug)]
pub struct Engine<'m, 'a> {
    memory: Memory<'m, 'a>,
    cpu: Cpu,
}

/// A model and its arena.
#[derive(Debug)]
struct Memory<'m, 'a> {
    model: Model<'m>,
    arena: &'a mut [f32],
    class: Option<usize>,
}

/// What is wrong with a call of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum EngineError {
    #[error("the arena has {found} bytes, this model needs {needed}")]
    Arena { needed: usize, found: usize },
    #[error("the model has no schedule of {steps} steps, it has {offered}")]
    Steps { steps: usize, offered: Steps },
    #[error("the model has {offered} classes, and none of the number {class}")]
    Class { class: usize, offered: usize },
    #[error("the noise has {found} elements, the picture {expected}")]
    Noise { expected: usize, found: usize },
    #[error("the model is of {}, which this engine does not run", if *integers { "integers" } else { "floating point" })]
    Format { integers: bool },
}

/// The numbers of steps that a model has schedules for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps([u32; MAX_SCHEDULES]);

impl Steps {
    pub(crate) fn of(model: &Model<'_>) -> Self {
        let mut steps = [0; MAX_SCHEDULES];
        for (place, offered) in steps.iter_mut().zip(model.steps()) {
            *place = offered as u32;
        }
        Self(steps)
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, steps) in self.0.iter().filter(|&&steps| steps > 0).enumerate() {
            write!(f, "{}{steps}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl<'m, 'a> Engine<'m, 'a> {
    /// Bytes of an arena that suffice at any address. One that begins at a multiple of 64 needs
    /// [`Model::arena_bytes`] alone.
    pub fn arena_bytes(model: &Model<'_>) -> usize {
        model.arena_bytes().saturating_add(ALIGN - 1)
    }

    /// Takes memory for the values, at any address; what it holds does not matter. The kernels are those of the fastest
    /// instruction set of this processor.
    ///
    /// # Errors
    /// Where it is too small, how many bytes of it are needed; or that the model is of integers.
    pub fn new(model: Model<'m>, arena: &'a mut [u8]) -> Result<Self, EngineError> {
        Self::on(Cpu::new(Isa::detect()), model, arena)
    }

    /// Like [`new`](Self::new), with kernels of a certain instruction set.
    ///
    /// # Errors
    /// As those of [`new`](Self::new).
    pub fn on(cpu: Cpu, model: Model<'m>, arena: &'a mut [u8]) -> Result<Self, EngineError> {
        if model.weights() == Dtype::I8 {
            return Err(EngineError::Format { integers: true });
        }
        // It is aligned to 64 bytes, and a whole number of them.
        let arena = bytemuck::cast_slice_mut(aligned(&model, arena)?);
        Ok(Self { memory: Memory { model, arena, class: None }, cpu })
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.cpu.isa()
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.memory.model
    }

    /// Chooses the class of the following pictures, counted from 0; `None` asks for no class in particular, as it is at
    /// first.
    ///
    /// # Errors
    /// Where the model does not have so many classes, how many it has.
    pub fn set_class(&mut self, class: Option<usize>) -> Result<(), EngineError> {
        let offered = self.memory.model.classes();
        match class {
            Some(class) if class >= offered => Err(EngineError::Class { class, offered }),
            _ => {
                self.memory.class = class;
                Ok(())
            }
        }
    }

    /// Makes the picture of a seed, `[channels, height, width]`, about in [-1, 1] and not clamped.
    ///
    /// # Errors
    /// Where the model has no schedule of so many steps, those that it has.
    pub fn generate(&mut self, seed: u64, steps: usize) -> Result<&[f32], EngineError> {
        self.observe(seed, steps, &mut |_| ())
    }

    /// Makes the picture of this noise, both `[channels, height, width]`.
    ///
    /// # Errors
    /// Where the noise has another size, or the model no schedule of so many steps.
    pub fn run(&mut self, noise: &[f32], steps: usize) -> Result<&[f32], EngineError> {
        let expected = self.memory.model.image().shape().elements();
        if noise.len() != expected {
            return Err(EngineError::Noise { expected, found: noise.len() });
        }
        self.start(steps, &|_, image| image.copy_from_slice(noise), &mut |_| ())
    }

    /// Makes the picture of a point between seeds, like [`generate`](Self::generate).
    ///
    /// # Errors
    /// Where the model has no schedule of so many steps, those that it has.
    pub fn mix(&mut self, mix: &Mix, steps: usize) -> Result<&[f32], EngineError> {
        self.start(steps, &|cpu, image| Start { noise: mix, y: image }.run(cpu), &mut |_| ())
    }

    /// Like [`generate`](Self::generate), and says after each node that it has been computed: for measuring.
    ///
    /// # Errors
    /// Where the model has no schedule of so many steps, those that it has.
    pub fn observe(
        &mut self,
        seed: u64,
        steps: usize,
        after: &mut (dyn FnMut(Node<'m>) + Send),
    ) -> Result<&[f32], EngineError> {
        let noise = &Mix::of(seed);
        self.start(steps, &|cpu, image| Start { noise, y: image }.run(cpu), after)
    }

    fn start(
        &mut self,
        steps: usize,
        fill: &(dyn Fn(&Cpu, &mut [f32]) + Sync),
        after: &mut (dyn FnMut(Node<'m>) + Send),
    ) -> Result<&[f32], EngineError> {
        let Self { memory, cpu } = self;
        let model = memory.model;
        let Some(schedule) = model.schedule(steps) else {
            return Err(EngineError::Steps { steps, offered: Steps::of(&model) });
        };
        let (image, velocity) = (range(&model.image()), range(&model.output()));
        let shape = model.image().shape();
        // Outside the engine the elements of a picture lie by channel. So they do in the velocity's place, which is free
        // before and after the steps.
        if let Some([image, outside, ..]) =
            disjoint(memory.arena, [image.clone(), velocity.clone(), 0..0, 0..0])
        {
            fill(cpu, outside);
            for (channel, plane) in outside.chunks_exact(shape.pixels()).enumerate() {
                let pixels = image.chunks_exact_mut(shape.channels.into());
                pixels.zip(plane).for_each(|(pixel, x)| pixel[channel] = *x);
            }
        }
        for (index, moment) in schedule {
            memory.step(cpu, index, moment, after);
        }
        if let Some([image, outside, ..]) = disjoint(memory.arena, [image, velocity.clone(), 0..0, 0..0]) {
            for (channel, plane) in outside.chunks_exact_mut(shape.pixels()).enumerate() {
                let pixels = image.chunks_exact(shape.channels.into());
                pixels.zip(plane).for_each(|(pixel, x)| *x = pixel[channel]);
            }
        }
        Ok(memory.arena.get(velocity).unwrap_or_default())
    }
}

impl<'m> Memory<'m, '_> {
    /// One evaluation of the network, and what follows from it.
    fn step(&mut self, cpu: &Cpu, index: usize, moment: Moment, after: &mut (dyn FnMut(Node<'m>) + Send)) {
        for node in self.model.nodes() {
            self.compute(cpu, &node, index);
            after(node);
        }
        // x_s = x_t + (s - t) u(x_t, t, s), eq. 6'.
        let ranges = [range(&self.model.image()), range(&self.model.output()), 0..0, 0..0];
        if let Some([image, velocity, ..]) = disjoint(self.arena, ranges) {
            for (x, u) in image.iter_mut().zip(velocity) {
                *x += (moment.s - moment.t) * *u;
            }
        }
    }

    /// Computes one node. The model's check has seen to it that every range is inside the arena, and that an output
    /// overlaps no input but the one it replaces, and scratch memory neither of them.
    fn compute(&mut self, cpu: &Cpu, node: &Node<'m>, moment: usize) {
        let op = node.op();
        if matches!(op, Op::Image(_) | Op::Constant { .. }) {
            return;
        }
        let output = range(node);
        let mut inputs = node.inputs();
        let inputs = [inputs.next(), inputs.next()];
        // An input lies in the arena, or is a constant of the file, or is replaced by the output.
        let replaced = inputs.map(|input| input.is_some_and(|input| range(&input) == output));
        let ranges = [0, 1].map(|place| match &inputs[place] {
            Some(input) if !replaced[place] => range(input),
            _ => 0..0,
        });
        let [a, b] = ranges;
        let scratch = node.scratch().start / 4..node.scratch().end / 4;
        let Some([y, a, b, scratch]) = disjoint(self.arena, [output, a, b, scratch]) else { return };
        let constant = |input: &Option<Node<'m>>| match input {
            Some(input) if input.offset().is_none() => input.bias(moment),
            _ => &[],
        };
        let [a, b] = [(&inputs[0], a), (&inputs[1], b)].map(|(input, value)| match constant(input) {
            [] => &*value,
            constant => constant,
        });
        let shape = inputs[0].map_or(node.shape(), |input| input.shape());
        let bias = node.bias(moment);
        // Kernels that may write over an input do so: it is copied into place unless it is there.
        for (place, input) in [a, b].into_iter().enumerate() {
            if op.in_place(place) && !replaced[place] && !matches!(op, Op::GroupNorm { .. }) {
                y.copy_from_slice(input);
            }
        }
        match op {
            Op::Conv2d { kernel, residual, method, .. } => {
                let (kernel, weight) = (kernel.into(), node.weight(moment));
                Conv2d { x: a, shape, kernel, method, weight, bias, residual, scratch, y }.run(cpu);
            }
            Op::GroupNorm { groups, epsilon, silu } => {
                let x = (!replaced[0]).then_some(a);
                if let Weights::F32(scale) = node.weight(moment) {
                    let (shift, groups) = (bias, groups.into());
                    GroupNorm { x, scale, shift, groups, epsilon, silu, scratch, y }.run(cpu);
                }
            }
            Op::Silu => Silu { y }.run(cpu),
            Op::Add { scale } => Add { b, scale, y }.run(cpu),
            Op::Multiply => Multiply { b, y }.run(cpu),
            Op::ScaleShift { silu } => ScaleShift { b, silu, y }.run(cpu),
            Op::Class { .. } => {
                y.fill(0.0);
                if let Some(one) = self.class.and_then(|class| y.get_mut(class)) {
                    *one = 1.0;
                }
            }
            Op::Concat => Concat { a, b, channels: shape.channels.into(), y }.run(cpu),
            Op::Downsample => Downsample { x: a, shape: node.shape(), y }.run(cpu),
            Op::Upsample => Upsample { x: a, shape, y }.run(cpu),
            Op::Blur { near, far } => Blur { x: a, shape, near, far, row: scratch, y }.run(cpu),
            Op::Border { by } => Border { x: a, shape, by: by.into(), y }.run(),
            Op::Attention { heads } => {
                Attention { qkv: a, pixels: shape.pixels(), heads: heads.into(), scratch, y }.run(cpu);
            }
            // These have no code in a model file, or were dealt with above.
            Op::Image(_)
            | Op::Time(_)
            | Op::Labels { .. }
            | Op::Constant { .. }
            | Op::Coefficient(_)
            | Op::Embedding { .. } => {}
        }
    }
}

/// The bytes of a picture `[channels, height, width]`, by row, column and channel: [-1, 1] becomes 0 to 255, and what is
/// outside the nearer end.
pub fn bytes(picture: &[f32], shape: Shape) -> impl ExactSizeIterator<Item = u8> {
    let (pixels, channels) = (shape.pixels(), usize::from(shape.channels));
    let at = move |i: usize| picture[i % channels * pixels + i / channels];
    // The cast is down, and saturates.
    (0..picture.len()).map(move |i| (at(i) * 127.5 + 128.0) as u8)
}

/// The memory from its first multiple of 64 on, as much of it as is whole.
pub(crate) fn aligned<'a>(model: &Model<'_>, arena: &'a mut [u8]) -> Result<&'a mut [u8], EngineError> {
    let skip = arena.as_ptr().align_offset(ALIGN);
    let error = EngineError::Arena { needed: model.arena_bytes().saturating_add(skip), found: arena.len() };
    let whole = arena.len().saturating_sub(skip) / ALIGN * ALIGN;
    let arena = arena.get_mut(skip..).and_then(|arena| arena.get_mut(..whole));
    arena.filter(|arena| arena.len() >= model.arena_bytes()).ok_or(error)
}

/// Some values and scratch memory of an arena, any of them empty; `None` where they overlap, or are outside. A function of its own:
/// where it is a part of another, kernels are not, and all are larger.
#[inline(never)]
pub(crate) fn disjoint<T>(arena: &mut [T], ranges: [Range<usize>; 4]) -> Option<[&mut [T]; 4]> {
    arena.get_disjoint_mut(ranges).ok()
}

/// Where a value lies in the arena, in elements; empty for a constant.
fn range(node: &Node<'_>) -> Range<usize> {
    node.offset().map_or(0..0, |offset| offset / 4..offset / 4 + node.shape().elements())
}
