//! Objectives with a derivative of the student along the times.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Context, Pair, Target, each, square};
use crate::network::{Direction, Times};

/// Options of anchored velocity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Anchored {
    /// How ∂G/∂s is taken.
    pub form: Form,
}

/// How anchored velocity takes ∂G(x1, 1, s)/∂s = u + (s - 1) ∂u/∂s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Not at all: its integral over s is compared.
    #[default]
    Integral,
    /// Exactly, by the tangent of the graph.
    Exact,
    /// By a central difference with h = 1e-4.
    Difference,
    /// Exactly and in the target, where no gradient goes through it.
    StopGradient,
}

/// Step of [`Form::Difference`].
const H: f32 = 1e-4;

/// ‖u + (s - 1) ∂u/∂s - (x1 - x̂0)‖² at (x1, 1, s), s ~ U[0, 1). TraFlow, eq. 9 with the sign of Table 1.
///
/// Its integral over s is ‖g(x1, 1, s) - x̂0‖² = ‖u - (x1 - x̂0)‖², with the same minimiser.
pub(super) fn anchored(c: &Context<'_>, form: Form) -> Tensor<1> {
    let s = c.dice.targets(&c.device());
    let (x1, t) = (&c.pair.x1, &s.ones_like());
    let velocity = c.pair.velocity();
    let rest = s.clone() - 1.0;
    let times = Times { t: t.clone(), s: s.clone() };
    let along_s = Direction { s: Some(s.ones_like()), ..Direction::default() };
    match form {
        Form::Integral => square(c.u(x1, t, &s), &velocity),
        Form::Exact => {
            let (u, du) = c.student.tangent(x1.clone(), &times, &along_s);
            square(u + du * each(&rest), &velocity)
        }
        Form::Difference => {
            let [before, after] = [-H, H].map(|h| c.u(x1, t, &(s.clone() + h)));
            let du = (after - before) / (2.0 * H);
            square(c.u(x1, t, &s) + du * each(&rest), &velocity)
        }
        Form::StopGradient => {
            let (_, du) = c.stopped.tangent(x1.clone(), &times, &along_s);
            square(c.u(x1, t, &s), &(velocity - du * each(&rest)))
        }
    }
}

/// ‖u(x_t, t, s) - sg[v̂ - (t - s)(v̂·∂x + ∂t) u]‖² with v̂ = x1 - x0. Mean Flows, eqs. 9 and 10.
pub(super) fn meanflow(c: &Context<'_>, pair: &Pair) -> Tensor<1> {
    let times = c.dice.spans(&c.device());
    let Times { t, s } = &times;
    let (x_t, velocity) = (pair.at(t), pair.velocity());
    let along_flow = Direction { x: Some(velocity.clone()), t: Some(t.ones_like()), s: None };
    let (_, du) = c.stopped.tangent(x_t.clone(), &times, &along_flow);
    square(c.u(&x_t, t, s), &(velocity - du * each(&(t.clone() - s.clone()))))
}

/// Options of BOOT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Boot {
    /// Length t - s of a step.
    pub step: f64,
    /// Where the bootstrap begins, below 1.
    pub t_max: f64,
    /// Weight of the boundary.
    pub boundary: f64,
    /// Weights of the target.
    pub target: Target,
}

impl Default for Boot {
    fn default() -> Self {
        Self { step: 0.02, t_max: 0.98, boundary: 1.0, target: Target::Sg }
    }
}

/// With y(x1, s) = g(x1, 1, s) and x̂_t = (1 - t) y + t x1:
/// ‖y(x1, s) - sg[y(x1, t) + (s - t)(y(x1, t) - D_T(x̂_t, t))/(t (1 - t))]‖², s = t - step, and at t_max
/// ‖y(x1, t_max) - D_T(x̂, t_max)‖², where D_T = x - t v_T is the teacher's picture. No data. BOOT's signal ODE.
///
/// y = x1 - u(x1, 1, s), so the network's output is compared.
pub(super) fn boot(c: &Context<'_>, options: &Boot) -> Tensor<1> {
    let x1 = &c.pair.x1;
    let one = Tensor::ones([x1.dims()[0]], &c.device());
    let h = options.step;
    let t = c.dice.targets(&c.device()) * (options.t_max - h) + h;
    let s = t.clone() - h;

    let y = |t: &Tensor<1>| x1.clone() - c.sg_u(options.target, x1, &one, t);
    // y - D_T(x̂_t, t) = t (v_T(x̂_t, t) - (x1 - y)), as x̂_t = y + t (x1 - y).
    let slope = |y: &Tensor<4>, t: &Tensor<1>| {
        let line = x1.clone() - y.clone();
        (c.teacher(&(y.clone() + line.clone() * each(t)), t) - line) / each(&(t.clone().neg() + 1.0))
    };
    let y_t = y(&t);
    let target = y_t.clone() - slope(&y_t, &t) * h;
    let bootstrap = square(c.u(x1, &one, &s), &(x1.clone() - target));

    let t_max = one.clone() * options.t_max;
    let x = &(x1.clone() * options.t_max + y(&t_max) * (1.0 - options.t_max));
    let picture = x.clone() - c.teacher(x, &t_max) * options.t_max;
    let boundary = square(c.u(x1, &one, &t_max), &(x1.clone() - picture));
    bootstrap + boundary * options.boundary
}
