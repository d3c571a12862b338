//! The objectives that a student can be trained by, each a function that reads as its formula.
//!
//! u(x, t, s) is the student's average velocity over [s, t], G = x + (s - t) u its map (eq. 6'), g = x - t u its picture and
//! v(x, t) = u(x, t, t) its velocity; v_T is the teacher's. x̂0 is the picture that the teacher makes of x1. sg stops the
//! gradient, D is a [`Divergence`] and m = (t + s)/2. Losses are means over pixels and batch.

use anyhow::{Result, ensure};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::flow::{self, Dice, TimeLaw};
use crate::network::{Network, Times};

mod consistency;
mod derivative;
mod divergence;
pub mod lpips;
mod output;
mod velocity;

pub use consistency::{Consistency, Discrete, Midpoint, OdeStep, Progressive, Scale, Scot, Trajectory};
pub use derivative::{Anchored, Boot, Form};
pub use divergence::Divergence;
pub use output::Output;
pub use velocity::{Anneal, Annealed, Velocity};

use lpips::Lpips;

/// What a student can be trained by, named as in the papers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// E‖v(x_t, t) - (x1 - x0)‖² with x1 independent of x0: 1-rectified flow (Liu et al., Flow Straight and Fast).
    RectifiedFlow(Velocity),
    /// The same on the teacher's pairs: velocity in its local form (TraFlow, eq. 9), which is reflow.
    #[serde(alias = "reflow")]
    Velocity(Velocity),
    /// ‖v(x_t, t) - v_T(x_t, t)‖²: FlowDreamer's row of Table 1.
    VelocityKd(Velocity),
    /// Reflow whose noise turns from independent noise into that of the pairs (SlimFlow, section 3.1).
    AnnealingReflow(Annealed),
    /// D(G(x1, 1, 0), x̂0): output (TraFlow, eq. 8), which is InstaFlow's distillation.
    #[serde(alias = "distill")]
    Output(Output),
    /// Distillation guided by two steps of the teacher (SlimFlow, section 3.2).
    FlowGuided(Output),
    /// Velocity anchored at noise (TraFlow, eq. 9 as Table 1 has it).
    Anchored(Anchored),
    /// Consistency of one long step with a short and the rest (TraFlow, eq. 10 and, with "soft", eq. 11).
    Consistency(Consistency),
    /// Anchored velocity and soft consistency (the paper's later version, SCoT).
    Scot(Scot),
    /// Consistency trajectory model without its GAN (Kim et al., CTM).
    Ctm(Trajectory),
    /// Consistency distillation (Song et al., Consistency Models, Algorithm 2).
    Cd(Discrete),
    /// Consistency training (Song et al., Consistency Models, Algorithm 3).
    Ct(Discrete),
    /// Shortcut model (Frans et al., One Step Diffusion via Shortcut Models).
    Shortcut(Pairing),
    /// Mean flow (Geng et al., Mean Flows for One-step Generative Modeling).
    #[serde(rename = "meanflow")]
    MeanFlow(Pairing),
    /// Bootstrapping without data (Gu et al., BOOT).
    Boot(Boot),
    /// Progressive distillation (Salimans and Ho): one step of 1/N for two of the teacher's.
    Progressive(Progressive),
}

/// Whose noise and pictures belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coupling {
    /// Any noise with any picture.
    #[default]
    Independent,
    /// The teacher's pairs.
    Teacher,
}

/// Options of an objective that has no other.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pairing {
    /// Whose noise and pictures belong together.
    pub coupling: Coupling,
}

/// The weights that a target is computed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Those of the step, without a gradient.
    #[default]
    Sg,
    /// Their moving average.
    Ema,
}

/// Noise and the picture that it belongs to, both `[n, c, h, w]`.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Noise.
    pub x1: Tensor<4>,
    /// Picture.
    pub x0: Tensor<4>,
}

impl Pair {
    /// x_t = (1 - t) x0 + t x1.
    fn at(&self, t: &Tensor<1>) -> Tensor<4> {
        flow::interpolate(self.x0.clone(), self.x1.clone(), t.clone())
    }

    /// x1 - x0.
    fn velocity(&self) -> Tensor<4> {
        self.x1.clone() - self.x0.clone()
    }
}

/// A velocity v(x, t), or an average velocity u(x, t, s).
pub type Field<'a> = dyn Fn(Tensor<4>, &Times) -> Tensor<4> + 'a;

/// What an objective is computed from. Autodiff tracks the student's parameters and nothing else: to it every other tensor is
/// a constant.
pub struct Context<'a> {
    /// The student.
    pub student: &'a Network,
    /// The student's weights of this step, not tracked.
    pub stopped: &'a Network,
    /// The moving average of the student's weights.
    pub average: &'a Network,
    /// The teacher.
    pub teacher: &'a Field<'a>,
    /// Noise x1 and the teacher's pictures x̂0 of it.
    pub pair: Pair,
    /// Noise and pictures that are independent of each other.
    pub data: Pair,
    /// The random numbers of the step.
    pub dice: &'a Dice,
    /// Part of the stage that is over, in [0, 1).
    pub progress: f32,
    /// The network of [`Divergence::Lpips`].
    pub lpips: Option<&'a Lpips>,
}

impl Objective {
    /// Name in configurations and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Objective::RectifiedFlow(_) => "rectified-flow",
            Objective::Velocity(_) => "velocity",
            Objective::VelocityKd(_) => "velocity-kd",
            Objective::AnnealingReflow(_) => "annealing-reflow",
            Objective::Output(_) => "output",
            Objective::FlowGuided(_) => "flow-guided",
            Objective::Anchored(_) => "anchored",
            Objective::Consistency(_) => "consistency",
            Objective::Scot(_) => "scot",
            Objective::Ctm(_) => "ctm",
            Objective::Cd(_) => "cd",
            Objective::Ct(_) => "ct",
            Objective::Shortcut(_) => "shortcut",
            Objective::MeanFlow(_) => "meanflow",
            Objective::Boot(_) => "boot",
            Objective::Progressive(_) => "progressive",
        }
    }

    /// The loss of a batch.
    pub fn loss(&self, c: &Context<'_>) -> Tensor<1> {
        match self {
            Objective::RectifiedFlow(options) => velocity::rectified_flow(c, &c.data, options),
            Objective::Velocity(options) => velocity::rectified_flow(c, &c.pair, options),
            Objective::VelocityKd(options) => velocity::velocity_kd(c, options),
            Objective::AnnealingReflow(options) => velocity::annealing_reflow(c, options),
            Objective::Output(options) => output::output(c, options.divergence),
            Objective::FlowGuided(options) => output::flow_guided(c, options.divergence),
            Objective::Anchored(options) => derivative::anchored(c, options.form),
            Objective::Consistency(options) => consistency::consistency(c, &c.pair, options),
            Objective::Scot(options) => consistency::scot(c, options),
            Objective::Ctm(options) => consistency::ctm(c, options),
            Objective::Cd(options) => consistency::cd(c, options),
            Objective::Ct(options) => consistency::ct(c, options),
            Objective::Shortcut(options) => consistency::shortcut(c, c.coupled(options.coupling)),
            Objective::MeanFlow(options) => derivative::meanflow(c, c.coupled(options.coupling)),
            Objective::Boot(options) => derivative::boot(c, options),
            Objective::Progressive(options) => consistency::progressive(c, options),
        }
    }

    /// # Errors
    /// Where an option is out of its range.
    pub fn check(&self) -> Result<()> {
        let steps = match self {
            Objective::Consistency(options) => options.ode_steps,
            Objective::Scot(options) => options.ode_steps,
            Objective::Ctm(options) => options.ode_steps,
            Objective::Cd(options) | Objective::Ct(options) => options.grid,
            Objective::Progressive(options) => options.grid,
            _ => 1,
        };
        ensure!(steps > 0, "{}: a number of steps is 0", self.name());
        if let Objective::AnnealingReflow(Annealed { until, .. }) = self {
            ensure!(*until > 0.0 && *until <= 1.0, "annealing-reflow: until is {until}, not in (0, 1]");
        }
        let weight = match self {
            Objective::Ctm(options) => ("lambda", options.lambda),
            Objective::Boot(options) => ("boundary", options.boundary),
            _ => ("", 0.0),
        };
        ensure!(weight.1.is_finite() && weight.1 >= 0.0, "{}: {} is {}", self.name(), weight.0, weight.1);
        if let Objective::Boot(Boot { step, t_max, .. }) = self {
            ensure!(
                0.0 < *step && step < t_max && *t_max < 1.0,
                "boot: step {step} and t_max {t_max} do not satisfy 0 < step < t_max < 1"
            );
        }
        Ok(())
    }

    /// The divergence that it compares by, where it has one.
    pub fn divergence(&self) -> Option<Divergence> {
        match self {
            Objective::Output(options) | Objective::FlowGuided(options) => Some(options.divergence),
            Objective::Ctm(options) => Some(options.divergence),
            Objective::Cd(options) | Objective::Ct(options) => Some(options.divergence),
            _ => None,
        }
    }

    /// Whether it takes a derivative of the student along the times.
    pub fn derives(&self) -> bool {
        match self {
            Objective::MeanFlow(_) | Objective::Scot(_) => true,
            Objective::Anchored(options) => options.form != Form::Integral,
            Objective::RectifiedFlow(_)
            | Objective::Velocity(_)
            | Objective::VelocityKd(_)
            | Objective::AnnealingReflow(_)
            | Objective::Output(_)
            | Objective::FlowGuided(_)
            | Objective::Consistency(_)
            | Objective::Ctm(_)
            | Objective::Cd(_)
            | Objective::Ct(_)
            | Objective::Shortcut(_)
            | Objective::Boot(_)
            | Objective::Progressive(_) => false,
        }
    }

    /// Whether it trains u(x, t, t) alone, a velocity, and says nothing of the map from t to s < t.
    pub fn is_velocity(&self) -> bool {
        matches!(
            self,
            Objective::RectifiedFlow(_)
                | Objective::Velocity(_)
                | Objective::VelocityKd(_)
                | Objective::AnnealingReflow(_)
        )
    }

    /// Whether the student may learn nothing at all: self-consistency without another loss is degenerate.
    pub fn is_degenerate(&self) -> bool {
        matches!(self, Objective::Consistency(options) if options.midpoint == Midpoint::Student)
    }
}

impl Context<'_> {
    fn device(&self) -> Device {
        self.pair.x1.device()
    }

    fn coupled(&self, coupling: Coupling) -> &Pair {
        match coupling {
            Coupling::Independent => &self.data,
            Coupling::Teacher => &self.pair,
        }
    }

    /// u(x, t, s) of the student, tracked.
    fn u(&self, x: &Tensor<4>, t: &Tensor<1>, s: &Tensor<1>) -> Tensor<4> {
        self.student.forward(x.clone(), &Times { t: t.clone(), s: s.clone() })
    }

    /// u(x, t, s) of the student without a gradient.
    fn sg_u(&self, target: Target, x: &Tensor<4>, t: &Tensor<1>, s: &Tensor<1>) -> Tensor<4> {
        let network = match target {
            Target::Sg => self.stopped,
            Target::Ema => self.average,
        };
        network.forward(x.clone(), &Times { t: t.clone(), s: s.clone() })
    }

    /// v_T(x, t).
    fn teacher(&self, x: &Tensor<4>, t: &Tensor<1>) -> Tensor<4> {
        (self.teacher)(x.clone(), &Times { t: t.clone(), s: t.clone() })
    }

    /// Times t of velocities.
    fn times(&self, law: TimeLaw) -> Tensor<1> {
        self.dice.times(law, &self.device())
    }
}

/// One number a picture, shaped so that it multiplies pictures.
fn each(t: &Tensor<1>) -> Tensor<4> {
    flow::per_picture(t.clone())
}

/// ‖a - sg b‖², the mean over pixels and batch.
fn square(a: Tensor<4>, b: &Tensor<4>) -> Tensor<1> {
    (a - b.clone()).square().mean()
}
