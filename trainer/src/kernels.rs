//! Convolution and group norm for the CPU, with gradients written by hand.
//!
//! Burn's CPU device computes these two from general parts and keeps every intermediate: most of a training step goes
//! there. The kernels below compute each in one pass over memory and are registered as operations of that device;
//! on every other device Burn's own operations are used, and are what these are tested against.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{Device, Tensor, TensorData};

mod conv2d;
mod group_norm;

use conv2d::Conv2d;
use group_norm::GroupNorm;

/// What the CPU device can do beyond Burn's operations.
#[backend_extension(Flex, Autodiff)]
pub trait Kernels: Backend {
    /// `x: [n, c, h, w]`, `weight: [out, c, k, k]` with k = 1 or 3, `bias: [out]`; stride 1, zero padding that keeps
    /// the size.
    fn conv2d_same(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Gradients for x, weight and bias.
    fn conv2d_same_backward(
        _x: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unimplemented!("second derivatives of a convolution")
    }

    /// Group norm of `x: [n, c, h, w]` with `weight` and `bias` of c elements, then SiLU if asked for.
    fn group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> FloatTensor<Self>;

    /// Gradients for x, weight and bias.
    fn group_norm_backward(
        _x: FloatTensor<Self>,
        _weight: FloatTensor<Self>,
        _bias: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _groups: usize,
        _epsilon: f32,
        _silu: bool,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        unimplemented!("second derivatives of a group norm")
    }
}

/// Whether these kernels run on the device.
pub fn supported(device: &Device) -> bool {
    device.clone().without_autodiff() == Device::flex()
}

/// [`Kernels::conv2d_same`].
pub fn conv2d_same(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::conv2d_same(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
    ))
}

/// [`Kernels::group_norm`].
pub fn group_norm(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Tensor<1>,
    groups: usize,
    epsilon: f32,
    silu: bool,
) -> Tensor<4> {
    Tensor::from_dispatch(<Dispatch as Kernels>::group_norm(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        groups,
        epsilon,
        silu,
    ))
}

type Primitive = FloatTensor<Flex>;

fn contiguous(tensor: Primitive) -> Primitive {
    // A view may be contiguous and still start inside a larger buffer.
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

fn slice(tensor: &Primitive) -> &[f32] {
    tensor.as_slice().expect("a contiguous f32 tensor")
}

fn tensor(values: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> Primitive {
    Primitive::from_data(TensorData::new(values, shape))
}

fn dims4(tensor: &Primitive) -> [usize; 4] {
    tensor.shape().dims()
}

impl Kernels for Flex {
    fn conv2d_same(x: Primitive, weight: Primitive, bias: Primitive) -> Primitive {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
        let conv = Conv2d::new(dims4(&x), dims4(&weight));
        tensor(conv.forward(slice(&x), slice(&weight), slice(&bias)), conv.output())
    }

    fn conv2d_same_backward(
        x: Primitive,
        weight: Primitive,
        gradient: Primitive,
    ) -> (Primitive, Primitive, Primitive) {
        let (x, weight, gradient) = (contiguous(x), contiguous(weight), contiguous(gradient));
        let conv = Conv2d::new(dims4(&x), dims4(&weight));
        let dx = conv.input_gradient(slice(&weight), slice(&gradient));
        let (dw, db) = conv.parameter_gradients(slice(&x), slice(&gradient));
        let length = db.len();
        (tensor(dx, x.shape()), tensor(dw, weight.shape()), tensor(db, [length]))
    }

    fn group_norm(
        x: Primitive,
        weight: Primitive,
        bias: Primitive,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> Primitive {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
        let norm =
            GroupNorm { shape: dims4(&x), groups, epsilon, silu, weight: slice(&weight), bias: slice(&bias) };
        tensor(norm.forward(slice(&x)), x.shape())
    }

    fn group_norm_backward(
        x: Primitive,
        weight: Primitive,
        bias: Primitive,
        gradient: Primitive,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> (Primitive, Primitive, Primitive) {
        let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
        let gradient = contiguous(gradient);
        let norm =
            GroupNorm { shape: dims4(&x), groups, epsilon, silu, weight: slice(&weight), bias: slice(&bias) };
        let (dx, dw, db) = norm.backward(slice(&x), slice(&gradient));
        (tensor(dx, x.shape()), tensor(dw, weight.shape()), tensor(db, bias.shape()))
    }
}

impl<B: Kernels, C: CheckpointStrategy> Kernels for Autodiff<B, C> {
    fn conv2d_same(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gradient;

        impl<B: Kernels> Backward<B, 3> for Gradient {
            type State = (FloatTensor<B>, FloatTensor<B>);

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let gradient = grads.consume::<B>(&ops.node);
                let (x, weight) = ops.state;
                let (dx, dw, db) = B::conv2d_same_backward(x, weight, gradient);
                for (parent, gradient) in ops.parents.into_iter().zip([dx, dw, db]) {
                    if let Some(node) = parent {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let [(x, of_x), (weight, of_weight), (bias, of_bias)] = [x, weight, bias].map(|t| t.into_parts());
        match Gradient.prepare::<C>([of_x, of_weight, of_bias]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (x.clone(), weight.clone());
                prep.finish(state, B::conv2d_same(x, weight, bias))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::conv2d_same(x, weight, bias)),
        }
    }

    fn group_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        groups: usize,
        epsilon: f32,
        silu: bool,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gradient {
            groups: usize,
            epsilon: f32,
            silu: bool,
        }

        impl<B: Kernels> Backward<B, 3> for Gradient {
            type State = [FloatTensor<B>; 3];

            fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
                let gradient = grads.consume::<B>(&ops.node);
                let [x, weight, bias] = ops.state;
                let (dx, dw, db) =
                    B::group_norm_backward(x, weight, bias, gradient, self.groups, self.epsilon, self.silu);
                for (parent, gradient) in ops.parents.into_iter().zip([dx, dw, db]) {
                    if let Some(node) = parent {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let [(x, of_x), (weight, of_weight), (bias, of_bias)] = [x, weight, bias].map(|t| t.into_parts());
        let gradient = Gradient { groups, epsilon, silu };
        match gradient.prepare::<C>([of_x, of_weight, of_bias]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = [x.clone(), weight.clone(), bias.clone()];
                prep.finish(state, B::group_norm(x, weight, bias, groups, epsilon, silu))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::group_norm(x, weight, bias, groups, epsilon, silu)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::activation;
    use burn::tensor::module::conv2d;
    use burn::tensor::ops::ConvOptions;
    use traflow_graph::noise::Noise;

    fn random<const D: usize>(stream: u32, shape: [usize; D]) -> Tensor<D> {
        let mut values = vec![0.0; shape.iter().product()];
        Noise::stream(1, stream).fill(&mut values);
        Tensor::from_data(TensorData::new(values, shape), &Device::flex().autodiff()).require_grad()
    }

    /// Largest difference of two tensors, relative to the largest value of the second.
    fn difference<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
        let largest = b.clone().abs().max().into_scalar::<f32>();
        (a - b).abs().max().into_scalar::<f32>() / largest.max(1e-12)
    }

    /// Value and the gradients of x, weight and bias agree for both ways to compute.
    fn agree<const W: usize>(
        x: &Tensor<4>,
        weight: &Tensor<W>,
        bias: &Tensor<1>,
        ours: impl Fn(Tensor<4>, Tensor<W>, Tensor<1>) -> Tensor<4>,
        burns: impl Fn(Tensor<4>, Tensor<W>, Tensor<1>) -> Tensor<4>,
    ) -> f32 {
        let a = ours(x.clone(), weight.clone(), bias.clone());
        let b = burns(x.clone(), weight.clone(), bias.clone());
        let upstream = random(9, a.dims()).detach();
        let a_gradients = (a.clone() * upstream.clone()).sum().backward();
        let b_gradients = (b.clone() * upstream).sum().backward();
        let of = |t: &Tensor<4>| difference(t.grad(&a_gradients).unwrap(), t.grad(&b_gradients).unwrap());
        let weights = difference(weight.grad(&a_gradients).unwrap(), weight.grad(&b_gradients).unwrap());
        let biases = difference(bias.grad(&a_gradients).unwrap(), bias.grad(&b_gradients).unwrap());
        [difference(a.inner(), b.inner()), of(x), weights, biases].into_iter().fold(0.0, f32::max)
    }

    #[test]
    fn convolution_is_burns() {
        for [n, c, out, h, w, k] in [
            [1, 1, 1, 1, 1, 3],
            [2, 1, 16, 28, 28, 3],
            [3, 16, 1, 7, 7, 3],
            [9, 5, 13, 2, 7, 3],
            [10, 7, 3, 14, 5, 1],
            [2, 32, 96, 7, 7, 1],
            [17, 24, 8, 14, 14, 3],
        ] {
            let (x, weight, bias) = (random(0, [n, c, h, w]), random(1, [out, c, k, k]), random(2, [out]));
            let options = ConvOptions::new([1, 1], [k / 2, k / 2], [1, 1], 1);
            let worst = agree(&x, &weight, &bias, conv2d_same, |x, weight, bias| {
                conv2d(x, weight, Some(bias), options.clone())
            });
            assert!(worst < 3e-6, "{n}×{c}×{h}×{w} → {out}, kernel {k}: {worst}");
        }
    }

    #[test]
    fn group_norm_is_what_burns_operations_give() {
        for [n, c, h, w, groups] in [[1, 4, 1, 1, 1], [3, 16, 7, 7, 4], [2, 12, 5, 3, 3], [9, 32, 28, 28, 8]]
        {
            for silu in [false, true] {
                let (x, weight, bias) =
                    (random(0, [n, c, h, w]) * 2.0 + 0.5, random(1, [c, 1, 1, 1]), random(2, [c]));
                let x = x.detach().require_grad();
                let ours = |x, weight, bias| group_norm(x, weight, bias, groups, 1e-5, silu);
                let worst = agree(&x, &weight, &bias, ours, |x, weight, bias| {
                    let x = x.reshape([n, groups, c / groups * h * w]);
                    let centred = x.clone() - x.mean_dim(2);
                    let deviation = (centred.clone().square().mean_dim(2) + 1e-5).sqrt();
                    let normal = (centred / deviation).reshape([n, c, h, w]);
                    let y = normal * weight.reshape([1, c, 1, 1]) + bias.reshape([1, c, 1, 1]);
                    if silu { activation::silu(y) } else { y }
                });
                assert!(worst < 1e-5, "{n}×{c}×{h}×{w}, {groups} groups, silu {silu}: {worst}");
            }
        }
    }
}
