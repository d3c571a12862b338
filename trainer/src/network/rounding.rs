//! Rounding as a file of integers rounds, for a training to learn with it.
//!
//! Values are rounded where integers are: at the nodes that have a format. Weights of convolutions that read such a value
//! are rounded in units of their own. Gradients go through rounding as if it were not there, but not through the ends of a
//! range (the straight-through estimator; Jacob et al., Quantization and Training of Neural Networks for Efficient
//! Integer-Arithmetic-Only Inference).

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use traflow_graph::formats::{Format, Formats, Part, weight_integer, weight_unit};
use traflow_graph::graph::Node;
use traflow_graph::op::Op;

use super::Network;

impl Network {
    /// The same network as it computes in integers of these formats.
    pub fn with_formats(&self, formats: Option<&Arc<Formats>>) -> Self {
        let Some(formats) = formats else { return self.clone() };
        let mut rounded = self.clone();
        for (node, slots) in self.graph.nodes().iter().zip(&self.slots) {
            if let (Op::Conv2d { .. }, Some(slot)) = (node.op, slots.weight)
                && let Some(input) = formats.0.get(&self.graph.nodes()[node.inputs[0].index()].name)
            {
                let weight = &mut rounded.parameters[slot].value;
                *weight = passed(weight.clone(), round_weight(weight.clone().detach(), input));
            }
        }
        Self { formats: Some(Arc::clone(formats)), ..rounded }
    }

    /// What of a node's output integers hold.
    pub(super) fn rounded(&self, node: &Node, value: Tensor<4>) -> Tensor<4> {
        match self.formats.as_ref().and_then(|formats| formats.0.get(&node.name)) {
            Some(format) => round(value, format),
            None => value,
        }
    }
}

/// x with the gradient of x and the value of y.
fn passed(x: Tensor<4>, y: Tensor<4>) -> Tensor<4> {
    let difference = y - x.clone().detach();
    x + difference
}

/// Each channel of `[n, c, h, w]` as the nearest number that its integers stand for.
fn round(x: Tensor<4>, format: &Format) -> Tensor<4> {
    let ends = format.ends();
    let of_part = |x: Tensor<4>, part: &Part| {
        let zero = f64::from(part.zero);
        let q = (x / part.scale + zero).clamp(ends[0], ends[1]);
        let nearest = (q.clone().detach() + 0.5).floor();
        (passed(q, nearest) - zero) * part.scale
    };
    if let [part] = &format.parts[..] {
        return of_part(x, part);
    }
    let mut first = 0;
    let parts = format.parts.iter().map(|part| {
        first += part.channels;
        of_part(x.clone().narrow(1, first - part.channels, part.channels), part)
    });
    Tensor::cat(parts.collect(), 1)
}

/// A weight `[out, in, k, k]` in the units of each output channel and each part of the input.
fn round_weight(weight: Tensor<4>, input: &Format) -> Tensor<4> {
    let (shape, device) = (weight.dims(), weight.device());
    let mut values = weight.try_into_vec_as::<f32>().expect("weights are numbers of the device");
    for of_out in values.chunks_exact_mut(shape[1] * shape[2] * shape[3]) {
        let mut rest = of_out;
        for part in &input.parts {
            let (of_part, after) = rest.split_at_mut(part.channels * shape[2] * shape[3]);
            rest = after;
            let unit = weight_unit(&of_part.iter().map(|&w| w.into()).collect::<Vec<f64>>(), input.wide);
            of_part.iter_mut().for_each(|w| *w = (weight_integer((*w).into(), unit) * unit) as f32);
        }
    }
    Tensor::from_data(TensorData::new(values, shape), &device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Times;
    use burn::tensor::Device;
    use traflow_graph::graph::Builder;
    use traflow_graph::op::Shape;

    fn tensor(values: &[f32], shape: [usize; 4], device: &Device) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }

    fn values(x: Tensor<4>) -> Vec<f32> {
        x.try_into_vec_as::<f32>().unwrap()
    }

    #[test]
    fn values_are_rounded_as_the_exporter_rounds_and_gradients_pass_inside_the_range() {
        let device = Device::flex().autodiff();
        let part = |scale, zero| Part { channels: 1, scale, zero };
        let format = Format { wide: false, parts: vec![part(0.5, 3), part(0.25, 0)] };
        let numbers = [0.24, 0.26, -9.9, 100.0, 0.24, 0.13, -31.9, -99.0];
        let x = tensor(&numbers, [1, 2, 2, 2], &device).require_grad();
        let y = round(x.clone(), &format);
        let expected = (0..8).map(|i| format.round(i / 4, numbers[i].into()) as f32);
        assert_eq!(values(y.clone()), expected.collect::<Vec<_>>());
        let gradient = x.grad(&(y * 3.0).sum().backward()).unwrap();
        assert_eq!(values(gradient), [3.0, 3.0, 3.0, 0.0, 3.0, 3.0, 3.0, 0.0]);
    }

    #[test]
    fn weights_are_rounded_where_integers_are() {
        let mut g = Builder::new();
        let x = g.image(Shape::new(2, 1, 1));
        let h = g.conv2d("conv", x, 2, 1);
        g.conv2d("unknown", h, 1, 1);
        let weights = |name: &str, dimensions: [usize; 4]| {
            let bias = name.ends_with("bias");
            let weight = |i: usize| if bias { 0.0 } else { [0.3001, 1.0, -0.4999, 0.2][i] };
            Ok::<_, ()>((0..dimensions.iter().product()).map(weight).collect())
        };
        let device = Device::flex().autodiff();
        let network = Network::new(g.finish().unwrap(), &device, weights).unwrap().tracked();
        let formats = Arc::new(Formats([("image".to_owned(), Format::single(2, false, 0.1, 0))].into()));
        let rounded = network.with_formats(Some(&formats));
        let [conv, unknown] = [0, 2].map(|slot| values(rounded.parameters[slot].value.clone()));
        for (out, found) in conv.chunks(2).enumerate() {
            let exact: Vec<f64> = [[0.3001f32, 1.0], [-0.4999, 0.2]][out].map(f64::from).to_vec();
            let unit = weight_unit(&exact, false);
            let expected: Vec<f32> = exact.iter().map(|w| (weight_integer(*w, unit) * unit) as f32).collect();
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-7), "{found:?} {expected:?}");
            assert!(*found != exact.iter().map(|w| *w as f32).collect::<Vec<_>>());
        }
        assert_eq!(unknown, [0.3001, 1.0]);
        // 0.26 is rounded to 0.3, and the weights have a gradient.
        let times = Times { t: Tensor::ones([1], &device), s: Tensor::zeros([1], &device) };
        let y = rounded.forward(tensor(&[0.26, 0.0], [1, 2, 1, 1], &device), &times);
        let gradients = network.gradients(&y.clone().sum().backward());
        let expected = 0.3 * (conv[0] * 0.3001 + conv[2]);
        assert!((values(y)[0] - expected).abs() < 1e-6);
        assert!(gradients[0].as_ref().is_some_and(|g| (values(g.clone())[0] - 0.3 * 0.3001).abs() < 1e-6));
    }
}
