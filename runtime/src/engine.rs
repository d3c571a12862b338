//! Runs the nodes of a model in an arena.

use core::fmt;
use core::ops::Range;

use traflow_graph::model::{ALIGN, Dtype, MAX_SCHEDULES, Model, Node, Weights};
use traflow_graph::noise::Noise;
use traflow_graph::op::Op;

use crate::kernels::{Add, Attention, Concat, Conv2d, Downsample, GroupNorm, Silu, Upsample};

/// A model with memory to run in.
#[derive(Debug)]
pub struct Engine<'m, 'a> {
    model: Model<'m>,
    values: &'a mut [f32],
    scratch: &'a mut [f32],
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

    /// Takes memory for the values, at any address; what it holds does not matter.
    ///
    /// # Errors
    /// Where it is too small, how many bytes of it are needed; or that the model is of integers.
    pub fn new(model: Model<'m>, arena: &'a mut [u8]) -> Result<Self, EngineError> {
        if model.weights() == Dtype::I8 {
            return Err(EngineError::Format { integers: true });
        }
        let (values, scratch) = split(&model, arena)?;
        // Both are aligned to 64 bytes, and whole numbers of them.
        let [values, scratch] = [values, scratch].map(bytemuck::cast_slice_mut);
        Ok(Self { model, values, scratch })
    }

    /// The model.
    pub fn model(&self) -> &Model<'m> {
        &self.model
    }

    /// Makes the picture of a seed, `[channels, height, width]`, about in [-1, 1] and not clamped.
    ///
    /// # Errors
    /// Where the model has no schedule of so many steps, those that it has.
    pub fn generate(&mut self, seed: u64, steps: usize) -> Result<&[f32], EngineError> {
        self.start(steps, |image| Noise::new(seed).fill(image))
    }

    /// Makes the picture of this noise, both `[channels, height, width]`.
    ///
    /// # Errors
    /// Where the noise has another size, or the model no schedule of so many steps.
    pub fn run(&mut self, noise: &[f32], steps: usize) -> Result<&[f32], EngineError> {
        let expected = self.model.image().shape().elements();
        if noise.len() != expected {
            return Err(EngineError::Noise { expected, found: noise.len() });
        }
        self.start(steps, |image| image.copy_from_slice(noise))
    }

    fn start(&mut self, steps: usize, fill: impl FnOnce(&mut [f32])) -> Result<&[f32], EngineError> {
        let model = self.model;
        let offered = || Steps::of(&model);
        let schedule =
            model.schedule(steps).ok_or_else(|| EngineError::Steps { steps, offered: offered() })?;
        let (image, velocity) = (range(&model.image()), range(&model.output()));
        fill(self.values.get_mut(image.clone()).unwrap_or_default());
        for (index, moment) in schedule {
            for node in model.nodes() {
                self.compute(&node, index);
            }
            // x_s = x_t + (s - t) u(x_t, t, s), eq. 6'.
            if let Ok([image, velocity]) = self.values.get_disjoint_mut([image.clone(), velocity.clone()]) {
                for (x, u) in image.iter_mut().zip(velocity) {
                    *x += (moment.s - moment.t) * *u;
                }
            }
        }
        Ok(self.values.get(image).unwrap_or_default())
    }

    /// Computes one node. The model's check has seen to it that every range is inside the arena and that an output
    /// overlaps no input but the one it replaces.
    fn compute(&mut self, node: &Node<'m>, moment: usize) {
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
        let Ok([y, a, b]) = self.values.get_disjoint_mut([output, a, b]) else { return };
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
            if op.in_place(place) && !replaced[place] {
                y.copy_from_slice(input);
            }
        }
        match op {
            Op::Conv2d { kernel, residual, .. } => {
                let (kernel, weight, scratch) = (kernel.into(), node.weight(), &mut *self.scratch);
                Conv2d { x: a, shape, kernel, weight, bias, residual, scratch, y }.run();
            }
            Op::GroupNorm { groups, epsilon, silu } => {
                if let Weights::F32(scale) = node.weight() {
                    GroupNorm { scale, shift: bias, groups: groups.into(), epsilon, silu, y }.run();
                }
            }
            Op::Silu => Silu { y }.run(),
            Op::Add { scale } => Add { b, scale, y }.run(),
            Op::Concat => Concat { a, b, y }.run(),
            Op::Downsample => Downsample { x: a, width: node.shape().width.into(), y }.run(),
            Op::Upsample => Upsample { x: a, width: shape.width.into(), y }.run(),
            Op::Attention { heads } => {
                let scores = self.scratch.get_mut(..shape.pixels()).unwrap_or_default();
                Attention { qkv: a, heads: heads.into(), scores, y }.run();
            }
            // These have no code in a model file, or were dealt with above.
            Op::Image(_) | Op::Time(_) | Op::Labels { .. } | Op::Constant { .. } | Op::Embedding { .. } => {}
        }
    }
}

/// The arena's part for values and that for scratch memory; both begin at a multiple of 64.
pub(crate) fn split<'a>(
    model: &Model<'_>,
    arena: &'a mut [u8],
) -> Result<(&'a mut [u8], &'a mut [u8]), EngineError> {
    let skip = arena.as_ptr().align_offset(ALIGN);
    let error = EngineError::Arena { needed: model.arena_bytes().saturating_add(skip), found: arena.len() };
    let arena = arena.get_mut(skip..).and_then(|arena| arena.get_mut(..model.arena_bytes()));
    arena.and_then(|arena| arena.split_at_mut_checked(model.scratch())).ok_or(error)
}

/// Where a value lies in the arena, in elements; empty for a constant.
fn range(node: &Node<'_>) -> Range<usize> {
    node.offset().map_or(0..0, |offset| offset / 4..offset / 4 + node.shape().elements())
}
