//! The convolution by itself, for `web/bench.js`: one of a 1×1 kernel is a matrix product.
#![forbid(unsafe_code)]

use traflow_graph::model::Weights;
use traflow_graph::op::Method;
use traflow_runtime::kernels::{Conv2d, Peak};
use traflow_runtime::{Cpu, Isa, Shape};

/// Runs a convolution of pictures of size × size pixels so many times, all in this memory. Whether it fits.
pub(crate) fn conv2d(memory: &mut [f32], [channels, size, outs, kernel, rounds]: [u32; 5]) -> Option<()> {
    let (shape, cpu) = (Shape::new(channels as u16, size as u16, size as u16), Cpu::new(Isa::detect()));
    let weights = channels as usize * outs as usize * (kernel * kernel) as usize;
    let skip = memory.as_ptr().align_offset(64);
    let (x, rest) = memory.get_mut(skip..)?.split_at_mut_checked(shape.elements().next_multiple_of(16))?;
    let (weight, rest) = rest.split_at_mut_checked(weights.next_multiple_of(16))?;
    let (y, scratch) = rest.split_at_mut_checked(outs as usize * shape.pixels())?;
    x.fill(0.5);
    weight.fill(0.01);
    let (x, weight, kernel) = (&x[..shape.elements()], &weight[..weights], kernel as usize);
    let scratch = scratch.get_mut(..channels as usize)?;
    for _ in 0..rounds {
        let (weight, method) = (Weights::F32(weight), Method::Direct);
        let (scratch, y) = (&mut *scratch, &mut *y);
        Conv2d { x, shape, kernel, method, weight, bias: &[], residual: None, scratch, y }.run(&cpu);
    }
    Some(())
}

/// Multiply-accumulates that stay in registers: the most that the machine can do. Their number.
pub(crate) fn peak(rounds: u32) -> f64 {
    Peak { rounds: rounds as usize }.run(&Cpu::new(Isa::detect())) as f64 * f64::from(rounds)
}
