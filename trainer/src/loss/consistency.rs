//! Objectives that make one long step agree with two shorter ones.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::derivative::{self, Form};
use super::velocity::{self, Velocity};
use super::{Context, Coupling, Divergence, Pair, Target, each, square};
use crate::network::Times;

/// Options of consistency.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consistency {
    /// Who goes the first part of the way, and how far it is.
    pub midpoint: Midpoint,
    /// Factor of the squared difference of the maps.
    pub scale: Scale,
    /// Weights of the target.
    pub target: Target,
    /// Steps of the teacher's ODE.
    pub ode_steps: usize,
    /// Method of the teacher's ODE.
    pub ode: OdeStep,
}

impl Default for Consistency {
    fn default() -> Self {
        Self {
            midpoint: Midpoint::Student,
            scale: Scale::InverseSquare,
            target: Target::Sg,
            ode_steps: 2,
            ode: OdeStep::Euler,
        }
    }
}

/// How consistency goes the first part of the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Midpoint {
    /// The student itself, to m: x_m = G(x_t, t, m). Alone it is degenerate: the identity has no loss.
    #[default]
    #[serde(rename = "self")]
    Student,
    /// The teacher's ODE, to m.
    Teacher,
    /// The teacher's ODE, to u ~ U[s, t) (eq. 11).
    Soft,
}

/// Factor of ‖G - G'‖².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// 1/(t - s)²: velocities are compared.
    #[default]
    InverseSquare,
    /// 1: pictures are compared.
    One,
}

/// The method of the teacher's ODE inside an objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OdeStep {
    /// Euler's method.
    #[default]
    Euler,
    /// Heun's method.
    Heun,
}

/// Options of SCoT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scot {
    /// Weights of the target.
    pub target: Target,
    /// Steps of the teacher's ODE.
    pub ode_steps: usize,
    /// Method of the teacher's ODE.
    pub ode: OdeStep,
}

impl Default for Scot {
    fn default() -> Self {
        Self { target: Target::Sg, ode_steps: 2, ode: OdeStep::Euler }
    }
}

/// Options of CTM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Trajectory {
    /// What pictures are compared by.
    pub divergence: Divergence,
    /// Weight λ of the denoising loss.
    pub lambda: f64,
    /// Whose noise and pictures belong together.
    pub coupling: Coupling,
    /// Weights of the target.
    pub target: Target,
    /// Steps of the teacher's ODE.
    pub ode_steps: usize,
    /// Method of the teacher's ODE.
    pub ode: OdeStep,
}

impl Default for Trajectory {
    fn default() -> Self {
        Self {
            divergence: Divergence::Mse,
            lambda: 1.0,
            coupling: Coupling::Independent,
            target: Target::Ema,
            ode_steps: 2,
            ode: OdeStep::Heun,
        }
    }
}

/// Options of consistency models, on the grid n/N.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Discrete {
    /// N.
    pub grid: usize,
    /// What pictures are compared by.
    pub divergence: Divergence,
    /// Whose noise and pictures belong together.
    pub coupling: Coupling,
    /// Weights of the target.
    pub target: Target,
}

impl Default for Discrete {
    fn default() -> Self {
        Self { grid: 18, divergence: Divergence::Mse, coupling: Coupling::Independent, target: Target::Ema }
    }
}

/// Options of progressive distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Progressive {
    /// Number of steps N of the student; the teacher has twice as many.
    pub grid: usize,
    /// Whose noise and pictures belong together.
    pub coupling: Coupling,
}

impl Default for Progressive {
    fn default() -> Self {
        Self { grid: 16, coupling: Coupling::Independent }
    }
}

/// w ‖G(x_t, t, s) - sg G(x_m, m, s)‖². Eq. 10, and eq. 11 where m is not in the middle.
///
/// With m = s + r (t - s) and x_m = x_t + (m - t) v̄, the maps divided by s - t are average velocities, so that with
/// w = 1/(t - s)² this is ‖u(x_t, t, s) - sg[(1 - r) v̄ + r u(x_m, m, s)]‖²: no difference of near values is divided. With
/// v̄ = u(x_t, t, m) it is the bootstrap of shortcut models.
pub(super) fn consistency(c: &Context<'_>, pair: &Pair, options: &Consistency) -> Tensor<1> {
    let Times { t, s } = c.dice.spans(&c.device());
    let x_t = pair.at(&t);
    let r = match options.midpoint {
        Midpoint::Student | Midpoint::Teacher => t.ones_like() * 0.5,
        Midpoint::Soft => c.dice.between(&c.device()),
    };
    let rest = r.clone().neg() + 1.0;
    let m = t.clone() * r.clone() + s.clone() * rest.clone();
    let average = match options.midpoint {
        Midpoint::Student => c.sg_u(options.target, &x_t, &t, &m),
        Midpoint::Teacher | Midpoint::Soft => {
            average_velocity(c, &x_t, &t, &m, options.ode_steps, options.ode)
        }
    };
    let x_m = x_t.clone() + average.clone() * each(&(m.clone() - t.clone()));
    let second = c.sg_u(options.target, &x_m, &m, &s);
    let target = average * each(&rest) + second * each(&r);
    let u = c.u(&x_t, &t, &s);
    match options.scale {
        Scale::InverseSquare => square(u, &target),
        Scale::One => {
            let way = each(&(t - s));
            square(u * way.clone(), &(target * way))
        }
    }
}

/// Mean velocity of the teacher's ODE from x at t to m.
fn average_velocity(
    c: &Context<'_>,
    x: &Tensor<4>,
    t: &Tensor<1>,
    m: &Tensor<1>,
    steps: usize,
    method: OdeStep,
) -> Tensor<4> {
    let step = (m.clone() - t.clone()) / steps as f32;
    let (mut x, mut t) = (x.clone(), t.clone());
    let mut sum = x.zeros_like();
    for _ in 0..steps {
        let next = t.clone() + step.clone();
        let mut v = c.teacher(&x, &t);
        if method == OdeStep::Heun {
            let ahead = c.teacher(&(x.clone() + v.clone() * each(&step)), &next);
            v = (v + ahead) * 0.5;
        }
        x = x + v.clone() * each(&step);
        t = next;
        sum = sum + v;
    }
    sum / steps as f32
}

/// Anchored velocity with its exact derivative, and soft consistency; no output. The later version of the paper (SCoT).
pub(super) fn scot(c: &Context<'_>, options: &Scot) -> Tensor<1> {
    let &Scot { target, ode_steps, ode } = options;
    let soft = Consistency { midpoint: Midpoint::Soft, scale: Scale::InverseSquare, target, ode_steps, ode };
    derivative::anchored(c, Form::Exact) + consistency(c, &c.pair, &soft)
}

/// ‖u(x_t, t, t) - (x1 - x0)‖² + ‖u(x_t, t, s) - sg ½ [u(x_t, t, m) + u(x_m, m, s)]‖². Shortcut models, eq. 5.
pub(super) fn shortcut(c: &Context<'_>, pair: &Pair) -> Tensor<1> {
    let bootstrap = Consistency::default();
    velocity::rectified_flow(c, pair, &Velocity::default()) + consistency(c, pair, &bootstrap)
}

/// D(G_sg(G(x_t, t, s), s, 0), G_sg(G_sg(x_u, u, s), s, 0)) + λ ‖g(x_t, t, t) - x0‖², x_u by the teacher's ODE from x_t to
/// u ~ U[s, t). CTM, soft consistency and denoising.
pub(super) fn ctm(c: &Context<'_>, options: &Trajectory) -> Tensor<1> {
    let pair = c.coupled(options.coupling);
    let Times { t, s } = c.dice.spans(&c.device());
    let x_t = pair.at(&t);
    let u = s.clone() + (t.clone() - s.clone()) * c.dice.between(&c.device());
    let average = average_velocity(c, &x_t, &t, &u, options.ode_steps, options.ode);
    let x_u = x_t.clone() + average * each(&(u.clone() - t.clone()));

    // G_sg(x, s, 0) = x - s u_sg(x, s, 0): the gradient goes through x.
    let to_zero = |x: Tensor<4>| x.clone() - c.sg_u(options.target, &x, &s, &s.zeros_like()) * each(&s);
    let far = x_t.clone() + c.u(&x_t, &t, &s) * each(&(s.clone() - t.clone()));
    let near = x_u.clone() + c.sg_u(options.target, &x_u, &u, &s) * each(&(s.clone() - u));
    let trajectory = options.divergence.between(to_zero(far), &to_zero(near), c.lpips);
    let denoised = x_t.clone() - c.u(&x_t, &t, &t) * each(&t);
    trajectory + square(denoised, &pair.x0) * options.lambda
}

/// D(f(x_t, t), f_ema(x_u, u)) with f(x, t) = G(x, t, 0) and neighbours t, u of the grid; x_u by a step of Heun's method of
/// the teacher's ODE. Consistency Models, eq. 7.
pub(super) fn cd(c: &Context<'_>, options: &Discrete) -> Tensor<1> {
    let pair = c.coupled(options.coupling);
    let (t, u) = c.dice.neighbours(options.grid, &c.device());
    let x_t = pair.at(&t);
    let average = average_velocity(c, &x_t, &t, &u, 1, OdeStep::Heun);
    let x_u = x_t.clone() + average * each(&(u.clone() - t.clone()));
    neighbours_agree(c, options, (&x_t, &t), (&x_u, &u))
}

/// [`cd`] without a teacher: x_u is on the same line from x1 to x0. Consistency Models, eq. 10.
pub(super) fn ct(c: &Context<'_>, options: &Discrete) -> Tensor<1> {
    let pair = c.coupled(options.coupling);
    let (t, u) = c.dice.neighbours(options.grid, &c.device());
    neighbours_agree(c, options, (&pair.at(&t), &t), (&pair.at(&u), &u))
}

fn neighbours_agree(
    c: &Context<'_>,
    options: &Discrete,
    (x_t, t): (&Tensor<4>, &Tensor<1>),
    (x_u, u): (&Tensor<4>, &Tensor<1>),
) -> Tensor<1> {
    let zero = t.zeros_like();
    let target = x_u.clone() - c.sg_u(options.target, x_u, u, &zero) * each(u);
    options.divergence.between(x_t.clone() - c.u(x_t, t, &zero) * each(t), &target, c.lpips)
}

/// w ‖D(x_t, t) - (x_t'' - (t''/t) x_t)/(1 - t''/t)‖², x_t'' = two steps of the teacher from t to t'' = t - 1/N. Progressive
/// Distillation, Algorithm 2.
///
/// With x_t'' = x_t + (t'' - t) v̄ the target is x_t - t v̄, and D = x_t - t u: the loss is w t² ‖u - v̄‖², computed with
/// w = 1/t². A teacher that is a student goes the two steps by its map.
pub(super) fn progressive(c: &Context<'_>, options: &Progressive) -> Tensor<1> {
    let pair = c.coupled(options.coupling);
    let (t, s) = c.dice.neighbours(options.grid, &c.device());
    let m = (t.clone() + s.clone()) * 0.5;
    let x_t = pair.at(&t);
    let first = (c.teacher)(x_t.clone(), &Times { t: t.clone(), s: m.clone() });
    let x_m = x_t.clone() + first.clone() * each(&(m.clone() - t.clone()));
    let second = (c.teacher)(x_m, &Times { t: m, s: s.clone() });
    square(c.u(&x_t, &t, &s), &((first + second) * 0.5))
}
