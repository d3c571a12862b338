//! Objectives that fit a velocity.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Context, Pair, square};
use crate::flow::TimeLaw;

/// Options of velocity losses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Velocity {
    /// Law of the times t.
    pub time: TimeLaw,
}

/// Options of annealing reflow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Annealed {
    /// Law of the times t.
    pub time: TimeLaw,
    /// How b falls from 1 to 0.
    pub anneal: Anneal,
    /// Part of the stage after which b is 0, in (0, 1].
    pub until: f64,
}

impl Default for Annealed {
    fn default() -> Self {
        Self { time: TimeLaw::Uniform, anneal: Anneal::Linear, until: 0.5 }
    }
}

/// How a number falls from 1 to 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Anneal {
    /// 1 - p.
    #[default]
    Linear,
    /// ½ (1 + cos πp).
    Cosine,
}

impl Anneal {
    /// The number after a part of the way.
    fn at(self, part: f64) -> f64 {
        match self {
            Anneal::Linear => 1.0 - part,
            Anneal::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * part).cos()),
        }
    }
}

/// ‖u(x_t, t, t) - (x1 - x0)‖². On the teacher's pairs it is reflow and, ∂G/∂s at s = t being u(x_t, t, t), TraFlow's eq. 9 in
/// its local form.
pub(super) fn rectified_flow(c: &Context<'_>, pair: &Pair, options: &Velocity) -> Tensor<1> {
    let t = c.times(options.time);
    square(c.u(&pair.at(&t), &t, &t), &pair.velocity())
}

/// ‖u(x_t, t, t) - v_T(x_t, t)‖². TraFlow, Table 1.
pub(super) fn velocity_kd(c: &Context<'_>, options: &Velocity) -> Tensor<1> {
    let t = c.times(options.time);
    let x_t = c.pair.at(&t);
    square(c.u(&x_t, &t, &t), &c.teacher(&x_t, &t))
}

/// ‖u(x_t, t, t) - (x1ᵇ - x̂0)‖² with x1ᵇ = √(1 - b²) x1 + b ε and x_t between x1ᵇ and x̂0; b falls from 1 to 0.
/// SlimFlow, section 3.1.
pub(super) fn annealing_reflow(c: &Context<'_>, options: &Annealed) -> Tensor<1> {
    let b = options.anneal.at((f64::from(c.progress) / options.until).min(1.0));
    let x1 = c.pair.x1.clone() * (1.0 - b * b).max(0.0).sqrt() + c.data.x1.clone() * b;
    let pair = Pair { x1, x0: c.pair.x0.clone() };
    rectified_flow(c, &pair, &Velocity { time: options.time })
}
