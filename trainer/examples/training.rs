//! TraFlow's contestant of `cargo xtask bench-training`: steps of a training, as every run makes them.
//!
//! `RAYON_NUM_THREADS` has to be what the arguments say, since the threads are there before anything is read.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use traflow_graph::checkpoint::Checkpoint;
use traflow_trainer::flow::{self, Dice};
use traflow_trainer::initial;
use traflow_trainer::network::{Network, Times};
use traflow_trainer::optimiser::Optimiser;
use traflow_trainer::run::{self, Term};

#[path = "../../benches/peers/src/protocol.rs"]
mod protocol;

/// AdamW with PyTorch's weight decay, at a rate and an average that never change.
const OPTIMISER: &str = "learning_rate = 1e-4\nweight_decay = 0.01\nclip_norm = 1.0\nema = 0.999";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments = protocol::Arguments::parse(&arguments)?;
    ensure!(rayon::current_num_threads() == arguments.threads, "RAYON_NUM_THREADS says another number");
    let device = Device::flex();
    let checkpoint = Checkpoint::read(&arguments.model)?;
    let network = initial::from_checkpoint(&checkpoint, &device)?;
    let shape = checkpoint.unet.image();
    let elements = shape.elements();
    let batch = arguments.noise.len() / (2 * elements + 1);
    let (x, rest) = arguments.noise.split_at(batch * elements);
    let (v, t) = rest.split_at(batch * elements);
    let (threads, parts) = (arguments.threads, arguments.threads);
    ensure!(batch.is_multiple_of(parts), "a batch of {batch} has no {threads} equal parts");

    let mut optimiser = Optimiser::new(toml::from_str(OPTIMISER)?, usize::MAX, network);
    // Dice are only asked which part of the batch it is.
    let losses = |network: &Network, optimiser: &Optimiser, dice: &Dice, hear: &mut dyn FnMut(Term)| {
        let first = dice.first as usize - optimiser.step * batch;
        let part = |values: &[f32], size: usize| values[first * size..][..batch / parts * size].to_vec();
        let pictures = |values| flow::pictures(part(values, elements), batch / parts, shape, &device);
        let t = Tensor::<1>::from_floats(part(t, 1).as_slice(), &device);
        let u = network.forward(pictures(x), &Times { t: t.clone(), s: t });
        hear(Term { name: "velocity", weight: 1.0, loss: (u - pictures(v)).square().mean() });
    };
    let mut step = || -> Result<Vec<f32>> {
        let dice = Dice::new(0, optimiser.step, batch);
        let (heard, update) = run::step(&mut optimiser, &dice, parts, &losses)?;
        Ok(vec![heard[0].loss, update.gradient_norm])
    };
    let mut first = Some(step()?);
    arguments.serve(|| Ok([first.take().unwrap_or_default(), step()?].concat()))
}
