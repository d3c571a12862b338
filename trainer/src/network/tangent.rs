//! The graph, interpreted with tensors and their derivatives in one direction.
//!
//! Forward mode: each node has its value and its tangent, the derivative along a direction of x, t and s. Both are made of
//! operations that autodiff knows, so that gradients go through the tangent as well.

use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, softmax};
use traflow_graph::graph::Node;
use traflow_graph::op::{Embedding, Op, Time};

use super::{Network, Slots, Times, convolution, frequencies, in_order, of_time};

/// A direction of the inputs; what is `None` stands still.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    /// Direction of the pictures, `[n, c, h, w]`.
    pub x: Option<Tensor<4>>,
    /// Direction of t, one number a picture.
    pub t: Option<Tensor<1>>,
    /// Direction of s, one number a picture.
    pub s: Option<Tensor<1>>,
}

/// A value and its tangent; `None` is zero.
type Dual = (Tensor<4>, Option<Tensor<4>>);

impl Network {
    /// The output u(x, t, s), as [`forward`](Network::forward) gives it, and its derivative
    /// ẋ·∂u/∂x + ṫ ∂u/∂t + ṡ ∂u/∂s. It knows nothing of formats: what is rounded has no derivative.
    ///
    /// # Panics
    /// If x is not a batch of pictures of the graph's shape.
    pub fn tangent(&self, x: Tensor<4>, times: &Times, direction: &Direction) -> (Tensor<4>, Tensor<4>) {
        let mut duals: Vec<Dual> = Vec::with_capacity(self.graph.nodes().len());
        for (index, (node, slots)) in self.graph.nodes().iter().zip(&self.slots).enumerate() {
            let inputs: Vec<&Dual> = node.inputs.iter().map(|input| &duals[input.index()]).collect();
            let values = inputs.iter().map(|(value, _)| value.clone()).collect();
            let value = self.apply(node, *slots, &x, times, values);
            let tangent = match node.op {
                Op::Image(_) => direction.x.clone(),
                Op::Time(Time::From) => direction.t.clone().map(|t| t.reshape([-1, 1, 1, 1])),
                Op::Time(Time::To) => direction.s.clone().map(|s| s.reshape([-1, 1, 1, 1])),
                Op::Time(Time::Span) => match (direction.t.clone(), direction.s.clone()) {
                    (Some(t), Some(s)) => Some(t - s),
                    (t, s) => t.or(s.map(Tensor::neg)),
                }
                .map(|span| span.reshape([-1, 1, 1, 1])),
                // Where no input moves, the output does not.
                _ if inputs.iter().all(|(_, tangent)| tangent.is_none()) => None,
                _ => Some(self.derivative(node, *slots, &x, times, &inputs, &value)),
            };
            duals.push(match self.mask(index, node, &value) {
                Some(mask) => (value * mask.clone(), tangent.map(|tangent| tangent * mask)),
                None => (value, tangent),
            });
        }
        let (value, tangent) = duals.pop().expect("a graph has an output");
        let tangent = tangent.unwrap_or_else(|| value.zeros_like());
        (value, tangent)
    }

    /// The tangent of a node some of whose inputs move.
    fn derivative(
        &self,
        node: &Node,
        slots: Slots,
        x: &Tensor<4>,
        times: &Times,
        inputs: &[&Dual],
        value: &Tensor<4>,
    ) -> Tensor<4> {
        let input = |i: usize| inputs[i].0.clone();
        let moved = |i: usize| inputs[i].1.clone().unwrap_or_else(|| inputs[i].0.zeros_like());
        let weight = || self.parameters[slots.weight.expect("this operation has a weight")].value.clone();
        match node.op {
            Op::Embedding { channels, kind } => {
                let learned = slots.weight.map(|_| weight());
                let frequencies = frequencies(channels.into(), kind, learned, &value.device());
                embedding(input(0), moved(0), kind, frequencies)
            }
            Op::Coefficient(coefficient) => of_time(input(0), |t| coefficient.derivative_at(t)) * moved(0),
            Op::Multiply => moved(0) * input(1) + input(0) * moved(1),
            Op::ScaleShift { silu: activate } => {
                let channels = value.dims()[1];
                let half = |vector: Tensor<4>, i: usize| vector.narrow(1, i * channels, channels);
                let scale = half(input(1), 0) + 1.0;
                let along = moved(0) * scale.clone() + input(0) * half(moved(1), 0) + half(moved(1), 1);
                if activate { silu(input(0) * scale + half(input(1), 1), along) } else { along }
            }
            // Linear but for the bias.
            Op::Conv2d { out, kernel, residual, .. } => {
                let none = Tensor::zeros([usize::from(out)], &value.device());
                let y = convolution(moved(0), weight(), Some(none), kernel.into());
                match residual {
                    Some(scale) => y + moved(1) * scale,
                    None => y,
                }
            }
            Op::GroupNorm { groups, epsilon, silu: activate } => {
                let (normal, moved) = group_norm(input(0), moved(0), groups.into(), epsilon);
                let moved = moved * weight().reshape([1, -1, 1, 1]);
                if !activate {
                    return moved;
                }
                let bias = self.parameters[slots.bias.expect("a group norm has a bias")].value.clone();
                silu(normal * weight().reshape([1, -1, 1, 1]) + bias.reshape([1, -1, 1, 1]), moved)
            }
            Op::Silu => silu(input(0), moved(0)),
            Op::Attention { heads } => attention(input(0), moved(0), heads.into()),
            // Linear: the same operation on the tangents.
            Op::Add { .. }
            | Op::Concat
            | Op::Downsample
            | Op::Upsample
            | Op::Blur { .. }
            | Op::Border { .. } => self.apply(node, slots, x, times, (0..inputs.len()).map(moved).collect()),
            Op::Image(_) | Op::Time(_) | Op::Labels { .. } | Op::Class { .. } | Op::Constant { .. } => {
                unreachable!("a node without inputs has none that moves")
            }
        }
    }
}

/// d sin(ft) = f cos(ft) dt and d cos(ft) = -f sin(ft) dt.
fn embedding(time: Tensor<4>, moved: Tensor<4>, kind: Embedding, frequencies: Tensor<4>) -> Tensor<4> {
    let angle = time * frequencies.clone();
    let moved = moved * frequencies;
    in_order(kind, angle.clone().cos() * moved.clone(), angle.sin().neg() * moved)
}

/// d(z σ(z)) = σ (1 + z (1 - σ)) dz.
fn silu(z: Tensor<4>, moved: Tensor<4>) -> Tensor<4> {
    let sigma = sigmoid(z.clone());
    let slope = sigma.clone() * (z * (sigma.neg() + 1.0) + 1.0);
    slope * moved
}

/// x̂ = (x - mean) r with r = (variance + ε)^-½, and dx̂ = r (dx - mean(dx) - x̂ mean(x̂ dx)).
fn group_norm(x: Tensor<4>, moved: Tensor<4>, groups: usize, epsilon: f32) -> (Tensor<4>, Tensor<4>) {
    let [n, c, h, w] = x.dims();
    let grouped = |x: Tensor<4>| x.reshape([n, groups, c / groups * h * w]);
    let (x, moved) = (grouped(x), grouped(moved));
    let centred = x.clone() - x.mean_dim(2);
    let scale = (centred.clone().square().mean_dim(2) + epsilon).sqrt().recip();
    let normal = centred * scale.clone();
    let along = (normal.clone() * moved.clone()).mean_dim(2);
    let moved = (moved.clone() - moved.mean_dim(2) - normal.clone() * along) * scale;
    (normal.reshape([n, c, h, w]), moved.reshape([n, c, h, w]))
}

/// y = v Pᵀ with P = softmax(qᵀk / √d): dy = dv Pᵀ + v dPᵀ with dP = P ∘ (dS - Σ P ∘ dS).
fn attention(qkv: Tensor<4>, moved: Tensor<4>, heads: usize) -> Tensor<4> {
    let [n, c3, h, w] = qkv.dims();
    let depth = c3 / 3 / heads;
    let split = |qkv: Tensor<4>| {
        let qkv = qkv.reshape([n, 3, heads, depth, h * w]);
        [0, 1, 2].map(|i| qkv.clone().narrow(1, i, 1).reshape([n * heads, depth, h * w]))
    };
    let ([q, k, v], [dq, dk, dv]) = (split(qkv), split(moved));
    let scale = (depth as f32).sqrt().recip();
    let scores = q.clone().transpose().matmul(k.clone()) * scale;
    let moved = (dq.transpose().matmul(k) + q.transpose().matmul(dk)) * scale;
    let p = softmax(scores, 2);
    let sum = (p.clone() * moved.clone()).sum_dim(2);
    let dp = p.clone() * (moved - sum);
    (dv.matmul(p.transpose()) + v.matmul(dp.transpose())).reshape([n, c3 / 3, h, w])
}
