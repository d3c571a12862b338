//! Training of a rectified-flow teacher: E‖v(x_t, t) - (x1 - x0)‖², x1 independent of x0 (eq. 4).

use std::path::Path;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use traflow_graph::unet::{SConditioning, Unet};

use crate::data::Images;
use crate::flow::{self, Dice, TimeLaw};
use crate::initial;
use crate::network::{Dropout, Network, Times};
use crate::optimiser::{Optimiser, OptimiserConfig};
use crate::run::{self, Intervals, Progress, Run, Term, Trained, Training};
use crate::sample::{Sampler, preview};
use crate::solver::Solver;

/// Configuration of a teacher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// Names everything random in the run.
    pub seed: u64,
    /// Number of steps.
    pub steps: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Equal parts of a batch, see [`Training`].
    #[serde(default = "run::one_part")]
    pub parts: usize,
    /// Law of the times.
    #[serde(default)]
    pub time: TimeLaw,
    /// The network.
    pub network: Unet,
    /// Part of the values that dropout makes zero in every block.
    #[serde(default)]
    pub dropout: f32,
    /// Whether half of the pictures are mirrored.
    #[serde(default)]
    pub flips: bool,
    /// The optimiser.
    pub optimiser: OptimiserConfig,
    /// What the run writes down.
    #[serde(default)]
    pub intervals: Intervals,
}

impl TeacherConfig {
    /// # Errors
    /// Names what cannot be trained, and why.
    pub fn check(&self) -> Result<()> {
        ensure!(self.steps > 0, "steps is 0");
        run::check(self.batch, self.parts, self.dropout, &self.optimiser)?;
        ensure!(
            self.network.s_conditioning == SConditioning::None,
            "a teacher has no target time: leave out s_conditioning"
        );
        self.network.graph()?;
        Ok(())
    }
}

/// Trains a teacher on pictures, and their classes where the network has classes, and returns the moving averages of its
/// weights.
///
/// # Errors
/// Where configuration and pictures do not fit together, or the run folder cannot be written.
pub fn train(
    config: &TeacherConfig,
    images: &Images,
    labels: Option<&[u16]>,
    run: &Run,
    device: &Device,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Trained> {
    config.check()?;
    let shape = config.network.image();
    ensure!(images.shape() == shape, "the pictures are {}, the network's {shape}", images.shape());
    let classes = config.network.labels;
    ensure!(
        labels.is_some() || classes == 0,
        "the network has {classes} classes: name those of the pictures"
    );
    if let Some(labels) = labels {
        let (pictures, count) = (images.len(), labels.len());
        ensure!(count == pictures, "there are {count} labels for {pictures} pictures");
        let beyond = labels.iter().find(|&&label| label >= classes);
        ensure!(
            beyond.is_none(),
            "there is a label {}, the network has {classes} classes",
            beyond.unwrap_or(&0)
        );
    }
    let start = initial::random(config.network.graph()?, config.seed, device);
    let autodiff = device.clone().autodiff();
    let losses = |network: &Network, _: &Optimiser, dice: &Dice, hear: &mut dyn FnMut(Term)| {
        let indices = dice.pictures(images.len());
        let x0 = images.batch(&indices, &autodiff);
        let x0 = if config.flips { dice.flip(x0) } else { x0 };
        let dropout = Dropout { rate: config.dropout, seed: config.seed, first: dice.first };
        let network = match labels {
            Some(labels) => network.with_classes(indices.iter().map(|&i| labels[i])),
            None => network.clone(),
        };
        let loss = rectified_flow(&network.with_dropout(dropout), x0, dice, config.time);
        hear(Term { name: "velocity", weight: 1.0, loss });
    };
    let sample =
        |network: &Network, path: &Path| preview(network, Sampler::Ode(Solver::Heun, 12), shape, path);
    let training = Training {
        seed: config.seed,
        steps: config.steps,
        batch: config.batch,
        parts: config.parts,
        optimiser: &config.optimiser,
    };
    run.train(&training, start, losses, sample, progress)
}

/// ‖v(x_t, t) - (x1 - x0)‖², the mean over pixels and batch. Eq. 4.
fn rectified_flow(network: &Network, x0: Tensor<4>, dice: &Dice, law: TimeLaw) -> Tensor<1> {
    let device = x0.device();
    let x1 = dice.noise(flow::shape(&x0), &device);
    let t = dice.times(law, &device);
    let x_t = flow::interpolate(x0.clone(), x1.clone(), t.clone());
    let v = network.forward(x_t, &Times { t: t.clone(), s: t });
    (v - (x1 - x0)).square().mean()
}
