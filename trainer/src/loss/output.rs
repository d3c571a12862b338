//! Objectives that fit the picture of one step.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::{Context, Divergence, Target, each};

/// Options of output losses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Output {
    /// What pictures are compared by.
    pub divergence: Divergence,
}

/// D(G(x1, 1, 0), x̂0) = D(x1 - u(x1, 1, 0), x̂0). TraFlow, eq. 8.
pub(super) fn output(c: &Context<'_>, divergence: Divergence) -> Tensor<1> {
    let x1 = &c.pair.x1;
    let (one, zero) = ends(c);
    divergence.between(x1.clone() - c.u(x1, &one, &zero), &c.pair.x0, c.lpips)
}

/// [`output`], and on other noise x1' D(x1' - u(x1', 1, 0), sg[x_r - r v_T(x_r, r)]) with
/// x_r = x1' - (1 - r) u(x1', 1, 0) and r ~ U[0.2, 0.8]. SlimFlow, section 3.2.
pub(super) fn flow_guided(c: &Context<'_>, divergence: Divergence) -> Tensor<1> {
    let x1 = &c.data.x1;
    let (one, zero) = ends(c);
    let r = c.dice.between(&c.device()) * 0.6 + 0.2;
    let u = c.sg_u(Target::Sg, x1, &one, &zero);
    let x_r = x1.clone() - u * each(&(one.clone() - r.clone()));
    let target = x_r.clone() - c.teacher(&x_r, &r) * each(&r);
    output(c, divergence) + divergence.between(x1.clone() - c.u(x1, &one, &zero), &target, c.lpips)
}

/// t = 1 and s = 0 for each picture.
fn ends(c: &Context<'_>) -> (Tensor<1>, Tensor<1>) {
    let shape = [c.pair.x1.dims()[0]];
    (Tensor::ones(shape, &c.device()), Tensor::zeros(shape, &c.device()))
}
