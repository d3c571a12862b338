//! Burn's contestant of `cargo xtask bench-peers`: the trainer's interpreter on a checkpoint, on the CPU device.
//!
//! `RAYON_NUM_THREADS` has to be what the arguments say, since the threads are there before anything is read.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor, TensorData};
use traflow_graph::checkpoint::{Checkpoint, Role};
use traflow_trainer::solver::Solver;
use traflow_trainer::{initial, sample::Sampler};

#[path = "../../benches/peers/src/protocol.rs"]
mod protocol;

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
    let solver = (checkpoint.role == Role::Teacher).then_some(Solver::Euler);
    let sampler = Sampler::new(checkpoint.role, solver, 1);
    let [channels, height, width] = checkpoint.unet.image.map(usize::from);
    arguments.serve(|| {
        let noise = TensorData::new(arguments.noise.clone(), [1, channels, height, width]);
        let image = sampler.run(&network, Tensor::from_data(noise, &device));
        Ok(image.try_into_vec_as::<f32>()?)
    })
}
