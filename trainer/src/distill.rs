//! Distillation of a one-step student (eq. 12) in stages: output (eq. 8), velocity (eq. 9) and consistency (eq. 10).
//!
//! u(x, t, s) is the student's average velocity over [s, t] and G = x + (s - t) u its map (eq. 6').

use std::path::Path;

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::unet::{SConditioning, Unet};

use crate::flow::{self, Dice, TimeLaw};
use crate::initial;
use crate::network::{Dropout, Network, Times};
use crate::optimiser::OptimiserConfig;
use crate::pairs::Pairs;
use crate::run::{self, Intervals, Progress, Run, Term, Training};
use crate::sample::Sampler;
use crate::teacher;

/// Configuration of a distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Names everything random in the run.
    pub seed: u64,
    /// Pairs a step.
    pub batch: usize,
    /// Equal parts of a batch, see [`Training`].
    #[serde(default = "run::one_part")]
    pub parts: usize,
    /// The student's weights at the start.
    #[serde(default)]
    pub initial: Initial,
    /// The student's network; the teacher's, told of s, where there is none.
    pub network: Option<Unet>,
    /// Part of the values that dropout makes zero in every block; the same in all evaluations of a step.
    #[serde(default)]
    pub dropout: f32,
    /// The optimiser.
    pub optimiser: OptimiserConfig,
    /// What the run writes down.
    #[serde(default)]
    pub intervals: Intervals,
    /// Stages, one after the other (§5.2).
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// Where the student's weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initial {
    /// The teacher's of the same name; the networks have the same sizes.
    #[default]
    Teacher,
    /// Random.
    Random,
}

/// A number of steps with one sum of losses; a loss whose weight is 0 is not computed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Number of steps.
    pub steps: usize,
    /// Weight of the output loss, eq. 8.
    #[serde(default)]
    pub output: f32,
    /// Weight of the velocity loss, eq. 9 in its local form.
    #[serde(default)]
    pub velocity: f32,
    /// Weight of the velocity loss in its form that is anchored at noise and integrated, eq. 9.
    #[serde(default)]
    pub anchored: f32,
    /// Law of the times of the local velocity loss.
    #[serde(default)]
    pub time: TimeLaw,
    /// Weight of the consistency loss, eq. 10.
    #[serde(default)]
    pub consistency: f32,
    /// Who goes the first half of the way in the consistency loss.
    #[serde(default)]
    pub midpoint: Midpoint,
}

/// How the consistency loss goes from x_t to x_m.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Midpoint {
    /// The student itself: x_m = G(x_t, t, m). Alone it is degenerate: the identity has no loss.
    #[default]
    #[serde(rename = "self")]
    Student,
    /// The teacher's ODE, by two steps of Euler's method.
    Teacher,
}

/// Euler steps of [`Midpoint::Teacher`].
const TEACHER_STEPS: usize = 2;

impl DistillConfig {
    /// The student's network.
    pub fn student(&self, teacher: &Unet) -> Unet {
        let told = Unet { s_conditioning: SConditioning::TiedMean, ..teacher.clone() };
        self.network.clone().unwrap_or(told)
    }

    /// Number of steps of all stages.
    pub fn steps(&self) -> usize {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    fn stage(&self, step: usize) -> Option<&Stage> {
        let mut end = 0;
        self.stages.iter().find(|stage| {
            end += stage.steps;
            step < end
        })
    }
}

/// Trains a student on the pairs of a teacher and returns the moving average of its weights.
///
/// # Errors
/// Where configuration, teacher and pairs do not fit together, or the run folder cannot be written.
pub fn train(
    config: &DistillConfig,
    teacher: &Checkpoint,
    pairs: &Pairs,
    run: &Run,
    device: &Device,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Network> {
    ensure!((0.0..1.0).contains(&config.dropout), "dropout is a part of 1");
    ensure!(config.steps() > 0, "the stages have no steps");
    for (index, stage) in config.stages.iter().enumerate() {
        let weights = [stage.output, stage.velocity, stage.anchored, stage.consistency];
        ensure!(
            weights.iter().all(|w| w.is_finite() && *w >= 0.0) && weights.iter().any(|w| *w > 0.0),
            "stage {}: a weight is negative, or all are 0",
            index + 1
        );
        ensure!(
            index > 0
                || stage.midpoint == Midpoint::Teacher
                || stage.output + stage.velocity + stage.anchored > 0.0,
            "stage 1: consistency with the student itself alone is degenerate, the identity has no loss; \
             set midpoint = \"teacher\" or add another loss"
        );
    }
    let unet = config.student(&teacher.unet);
    ensure!(
        unet.s_conditioning != SConditioning::None,
        "the student's network is not told of s: set s_conditioning"
    );
    ensure!(
        unet.image() == pairs.shape,
        "the pairs are {}, the network's pictures {}",
        pairs.shape,
        unet.image()
    );
    let start = match config.initial {
        Initial::Teacher => {
            let (network, origins) = initial::from_teacher(&unet, teacher, config.seed, device)?;
            run.note("initial.txt", &initial::report(&origins))?;
            network
        }
        Initial::Random => initial::random(unet.graph()?, config.seed, device),
    };
    let teacher = initial::from_checkpoint(teacher, device)?;
    let autodiff = device.clone().autodiff();
    let losses = |student: &Network, dice: &Dice| {
        let Some(stage) = config.stage(dice.step) else { return Vec::new() };
        let indices = dice.pictures(pairs.len());
        let (x1, x0) = pairs.batch(&indices, device);
        let seeds = pairs.seeds(&indices);
        let dropout = Dropout { rate: config.dropout, seed: config.seed, first: dice.first };
        let (student, teacher) =
            (student.with_classes_of(&seeds).with_dropout(dropout), teacher.with_classes_of(&seeds));
        stage.losses(&student, &teacher, x1, x0, dice, &autodiff)
    };
    let sample =
        |network: &Network, path: &Path| teacher::preview(network, pairs.shape, Sampler::Map(1), path);
    let training = Training {
        seed: config.seed,
        steps: config.steps(),
        batch: config.batch,
        parts: config.parts,
        optimiser: &config.optimiser,
    };
    run.train(&training, start, losses, sample, progress)
}

impl Stage {
    /// The losses of a batch of pairs; `x1` and `x0` are not tracked by autodiff.
    fn losses(
        &self,
        student: &Network,
        teacher: &Network,
        x1: Tensor<4>,
        x0: Tensor<4>,
        dice: &Dice,
        training: &Device,
    ) -> Vec<Term> {
        let tracked = |x: &Tensor<4>| Tensor::from_inner(x.clone());
        let mut terms = Vec::new();
        let mut term = |name, weight: f32, loss: &mut dyn FnMut() -> Tensor<1>| {
            if weight > 0.0 {
                terms.push(Term { name, weight, loss: loss() });
            }
        };
        term("output", self.output, &mut || output(student, tracked(&x1), tracked(&x0)));
        term("velocity", self.velocity, &mut || {
            velocity(student, tracked(&x1), tracked(&x0), dice.times(self.time, training))
        });
        term("anchored", self.anchored, &mut || {
            anchored(student, tracked(&x1), tracked(&x0), dice.targets(training))
        });
        term("consistency", self.consistency, &mut || {
            let times = dice.spans(&x1.device());
            let x_t = flow::interpolate(x0.clone(), x1.clone(), times.t.clone());
            consistency(student, teacher, x_t, &times, self.midpoint)
        });
        terms
    }
}

/// ‖G(x1, 1, 0) - x̂0‖² = ‖x1 - u(x1, 1, 0) - x̂0‖². Eq. 8.
fn output(student: &Network, x1: Tensor<4>, x0: Tensor<4>) -> Tensor<1> {
    let times = flow::times(1.0, 0.0, x1.dims()[0], &x1.device());
    (flow::step(student, x1, &times) - x0).square().mean()
}

/// ‖u(x_t, t, t) - (x1 - x̂0)‖²: ∂G/∂s at s = t is u(x_t, t, t), so no derivative is taken. Eq. 9, local form.
fn velocity(student: &Network, x1: Tensor<4>, x0: Tensor<4>, t: Tensor<1>) -> Tensor<1> {
    let x_t = flow::interpolate(x0.clone(), x1.clone(), t.clone());
    (student.forward(x_t, &Times { t: t.clone(), s: t }) - (x1 - x0)).square().mean()
}

/// ‖g(x1, 1, s) - x̂0‖² = ‖x1 - u(x1, 1, s) - x̂0‖², s ~ U[0, 1): the way from noise to any s lies on the straight line
/// to x̂0. Eq. 9 anchored at (x1, 1), integrated over s, so that it needs no derivative.
fn anchored(student: &Network, x1: Tensor<4>, x0: Tensor<4>, s: Tensor<1>) -> Tensor<1> {
    let u = student.forward(x1.clone(), &Times { t: s.ones_like(), s });
    (x1 - u - x0).square().mean()
}

/// ‖G(x_t, t, s) - sg G(x_m, m, s)‖² / (t - s)², m = (t + s) / 2. Eq. 10.
///
/// Divided by s - t the two maps are average velocities, and the target is the mean of those over the two halves:
/// ‖u(x_t, t, s) - sg ½ (v̄ + u(x_m, m, s))‖², where x_m = x_t + (m - t) v̄. No difference of near values is divided.
/// `x_t` and `times` are not tracked by autodiff.
fn consistency(
    student: &Network,
    teacher: &Network,
    x_t: Tensor<4>,
    times: &Times,
    midpoint: Midpoint,
) -> Tensor<1> {
    let stopped = student.map(|parameter| parameter.value.clone().inner());
    let Times { t, s } = times.clone();
    let m = (t.clone() + s.clone()) * 0.5;
    let average = match midpoint {
        Midpoint::Student => stopped.forward(x_t.clone(), &Times { t: t.clone(), s: m.clone() }),
        Midpoint::Teacher => average_velocity(teacher, x_t.clone(), t.clone(), m.clone()),
    };
    let x_m = x_t.clone() + average.clone() * flow::per_picture(m.clone() - t.clone());
    let second = stopped.forward(x_m, &Times { t: m, s: s.clone() });
    let target = Tensor::from_inner((average + second) * 0.5);
    let times = Times { t: Tensor::from_inner(t), s: Tensor::from_inner(s) };
    (student.forward(Tensor::from_inner(x_t), &times) - target).square().mean()
}

/// Mean velocity of the teacher's ODE from t to m, by Euler's method.
fn average_velocity(teacher: &Network, x_t: Tensor<4>, t: Tensor<1>, m: Tensor<1>) -> Tensor<4> {
    let step = (m - t.clone()) / TEACHER_STEPS as f32;
    let mut x = x_t.clone();
    let mut time = t;
    let mut sum = x_t.zeros_like();
    for _ in 0..TEACHER_STEPS {
        let v = teacher.forward(x.clone(), &Times { t: time.clone(), s: time.clone() });
        x = x + v.clone() * flow::per_picture(step.clone());
        time = time + step.clone();
        sum = sum + v;
    }
    sum / TEACHER_STEPS as f32
}
