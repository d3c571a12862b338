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
    fn conv2d_same(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>)
    -> FloatTensor<Self>;

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
        let norm = GroupNorm {
            shape: dims4(&x),
            groups,
            epsilon,
            silu,
            weight: slice(&weight),
            bias: slice(&bias),
        };
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
        let norm = GroupNorm {
            shape: dims4(&x),
            groups,
            epsilon,
            silu,
            weight: slice(&weight),
            bias: slice(&bias),
        };
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
                let (dx, dw, db) = B::group_norm_backward(
                    x,
                    weight,
                    bias,
                    gradient,
                    self.groups,
                    self.epsilon,
                    self.silu,
                );
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
            OpsKind::UnTracked(prep) => {
                prep.finish(B::group_norm(x, weight, bias, groups, epsilon, silu))
            }
        }
    }
}
