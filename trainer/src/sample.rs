//! Generating pictures with a network that is being trained or judged.

use std::path::Path;

use anyhow::Result;
use burn::tensor::Tensor;
use traflow_graph::checkpoint::Role;
use traflow_graph::op::Shape;

use crate::device;
use crate::flow;
use crate::network::Network;
use crate::picture;
use crate::solver::{self, Solver, State};

/// Pictures computed at once.
const BATCH: usize = 64;

/// How pictures are made of noise.
#[derive(Clone, Debug, PartialEq)]
pub enum Sampler {
    /// The ODE of the velocity u(x, t, t), by a solver with this number of steps: what a teacher has, and a student that
    /// learned velocities alone.
    Ode(Solver, usize),
    /// A student's map, with this number of equal steps (Algorithm 1).
    Map(usize),
    /// A student's map, with a step between each two of these times, which fall from 1 to 0 (Algorithm 1).
    Grid(Vec<f32>),
}

impl Sampler {
    /// The sampler of a role: the ODE by the solver that is named, otherwise a teacher's by Heun's method, and a student's
    /// map.
    pub fn new(role: Role, solver: Option<Solver>, steps: usize) -> Self {
        match (role, solver) {
            (Role::Student, None) => Sampler::Map(steps),
            (_, solver) => Sampler::Ode(solver.unwrap_or(Solver::Heun), steps),
        }
    }

    /// Pictures from noise, `[n, c, h, w]`.
    pub fn run(&self, network: &Network, noise: Tensor<4>) -> Tensor<4> {
        match self {
            Sampler::Map(steps) => flow::generate(network, noise, &flow::uniform_grid(*steps)),
            Sampler::Grid(times) => flow::generate(network, noise, times),
            Sampler::Ode(solver, steps) => {
                let (n, device) = (noise.dims()[0], noise.device());
                let mut velocity = |x: &Tensor<4>, t: f64| {
                    network.forward(x.clone(), &flow::times(t as f32, t as f32, n, &device))
                };
                solver::solve(*solver, *steps, noise, &mut velocity).x
            }
        }
    }
}

/// Pictures of these seeds in order, of the class of each seed where the network has classes, each `shape.elements()`
/// values in about [-1, 1]. `progress` hears how many are done.
///
/// # Errors
/// Where the device cannot give its values.
pub fn sample(
    network: &Network,
    sampler: Sampler,
    seeds: &[u64],
    shape: Shape,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<f32>> {
    let device = network.device();
    let mut pictures = Vec::with_capacity(seeds.len() * shape.elements());
    for seeds in seeds.chunks(BATCH * device::lanes(&device)) {
        let batches = device::for_each(&device, seeds.chunks(BATCH), |seeds| {
            let network = network.with_classes_of(seeds);
            let batch = sampler.run(&network, flow::seeded_noise(seeds, shape, &device));
            batch.try_into_vec_as::<f32>()
        });
        for batch in batches {
            pictures.extend(batch?);
        }
        progress(pictures.len() / shape.elements());
    }
    Ok(pictures)
}

/// Draws a grid of 64 pictures, of the same seeds every time.
///
/// # Errors
/// Where the pictures are neither gray nor in colour, or the file cannot be written.
pub fn preview(network: &Network, sampler: Sampler, shape: Shape, path: &Path) -> Result<()> {
    let seeds: Vec<u64> = (0..64).collect();
    let pictures = sample(network, sampler, &seeds, shape, &mut |_| ())?;
    picture::save(&picture::grid(&pictures, shape, 8, 2)?, path)
}

impl State for Tensor<4> {
    fn scaled(&self, factor: f64) -> Self {
        self.clone() * factor
    }

    fn add_scaled(&self, terms: &[(f64, &Self)]) -> Self {
        terms.iter().fold(self.clone(), |sum, (factor, x)| sum + (*x).clone() * *factor)
    }

    fn relative_rms(&self, a: &Self, b: &Self) -> f64 {
        let scale = a.clone().abs().max_pair(b.clone().abs()) + 1.0;
        f64::from((self.clone() / scale).square().mean().into_scalar::<f32>()).sqrt()
    }
}
