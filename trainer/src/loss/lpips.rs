//! LPIPS v0.1: the distance of two pictures in the features of VGG16, weighted channel by channel.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use traflow_graph::checkpoint::{self, Tensors};
use traflow_graph::op::Shape;

use crate::network::convolution;

/// The files that LPIPS reads, both safetensors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// VGG16 with torchvision's names, `features.0.weight` and so on.
    pub vgg16: PathBuf,
    /// The weights of the channels, with the names of the package `lpips`, `lin0.model.1.weight` and so on.
    pub heads: PathBuf,
}

/// Output channels of the convolutions; each block but the first begins with a pooling and each ends with a tap:
/// relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3.
const BLOCKS: [&[usize]; 5] = [&[64, 64], &[128, 128], &[256, 256, 256], &[512, 512, 512], &[512, 512, 512]];

/// Mean and deviation of the pictures that VGG16 was trained on, for pictures in [-1, 1].
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

/// Added where features are divided by their norm.
const EPSILON: f32 = 1e-10;

/// The networks of LPIPS.
pub struct Lpips {
    /// Weight and bias of each convolution, by blocks.
    blocks: Vec<Vec<(Tensor<4>, Tensor<1>)>>,
    /// Weights of the channels of each tap, `[1, c, 1, 1]`.
    heads: Vec<Tensor<4>>,
}

impl Lpips {
    /// Reads the networks.
    ///
    /// # Errors
    /// Names the file and the tensor that is missing or has another size, or a head with a negative weight.
    pub fn read(files: &Files, device: &Device) -> Result<Self> {
        let tensors = |path: &Path| checkpoint::read_tensors(path).map(|(_, tensors)| tensors);
        let network = Self::new(&tensors(&files.vgg16)?, &tensors(&files.heads)?, device);
        network.with_context(|| format!("{}, {}", files.vgg16.display(), files.heads.display()))
    }

    /// The networks from their tensors.
    ///
    /// # Errors
    /// Names the tensor that is missing or has another size, or a head with a negative weight.
    pub fn new(vgg16: &Tensors, heads: &Tensors, device: &Device) -> Result<Self> {
        let get = |tensors: &Tensors, name: &str, dimensions: &[usize]| -> Result<TensorData> {
            let (found, values) = tensors.get(name).with_context(|| format!("no tensor {name}"))?;
            ensure!(found == dimensions, "tensor {name} has shape {found:?}, not {dimensions:?}");
            Ok(TensorData::new(values.clone(), dimensions.to_vec()))
        };
        let (mut blocks, mut taps) = (Vec::new(), Vec::new());
        // Places in torchvision's list, in which ReLU and pooling count.
        let (mut place, mut input) = (0, 3);
        for (index, channels) in BLOCKS.iter().enumerate() {
            let mut block = Vec::new();
            for &out in *channels {
                let weight = get(vgg16, &format!("features.{place}.weight"), &[out, input, 3, 3])?;
                let bias = get(vgg16, &format!("features.{place}.bias"), &[out])?;
                block.push((Tensor::from_data(weight, device), Tensor::from_data(bias, device)));
                (place, input) = (place + 2, out);
            }
            place += 1;
            blocks.push(block);
            let name = format!("lin{index}.model.1.weight");
            let head = get(heads, &name, &[1, input, 1, 1])?;
            ensure!(head.iter::<f32>().all(|w| w >= 0.0), "tensor {name} has a negative weight");
            taps.push(Tensor::from_data(head, device));
        }
        Ok(Self { blocks, heads: taps })
    }

    /// Distance of each picture of `a` to that of `b`, both `[n, c, h, w]` in [-1, 1], of a shape that it
    /// [`judges`].
    pub fn distance(&self, a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
        let n = a.dims()[0];
        let features = self.features(a).into_iter().zip(self.features(b));
        let distances = features.zip(&self.heads).map(|((a, b), head)| {
            let weighted: Tensor<3> = ((a - b).square() * head.clone()).sum_dim(1).flatten(2, 3);
            weighted.mean_dim(2).reshape([n])
        });
        distances.reduce(|sum, distance| sum + distance).expect("there are five blocks")
    }

    /// Features of the taps, each pixel's divided by their norm.
    fn features(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let device = x.device();
        let three = |values: [f32; 3]| Tensor::<1>::from_floats(values, &device).reshape([1, 3, 1, 1]);
        let mut x = (x - three(SHIFT)) / three(SCALE);
        let mut taps = Vec::new();
        for (index, block) in self.blocks.iter().enumerate() {
            if index > 0 {
                x = max_pool2d(x, MaxPoolOptions::new([2, 2]).with_stride([2, 2]));
            }
            for (weight, bias) in block {
                x = relu(convolution(x, weight.clone(), Some(bias.clone()), 3));
            }
            // The root of zero has no derivative.
            let norm = (x.clone().square().sum_dim(1) + EPSILON * EPSILON).sqrt();
            taps.push(x.clone() / (norm + EPSILON));
        }
        taps
    }
}

/// Whether pictures of a shape can be judged: one or three channels, and at least 16 rows and columns, which four poolings
/// halve.
pub fn judges(shape: Shape) -> bool {
    matches!(shape.channels, 1 | 3) && shape.height.min(shape.width) >= 16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The numbers of `trainer/tools/lpips_golden.py`.
    fn uniform(stream: u32, count: usize, low: f32, high: f32) -> Vec<f32> {
        let number = |i: usize| {
            let mut x = (i as u32).wrapping_add(stream.wrapping_mul(0x9E37_79B1));
            x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
            x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
            x ^= x >> 16;
            low + (high - low) * ((x >> 8) as f32 / (1 << 24) as f32)
        };
        (0..count).map(number).collect()
    }

    fn networks() -> (Tensors, Tensors) {
        let (mut vgg16, mut heads) = (Tensors::new(), Tensors::new());
        let (mut place, mut input, mut stream) = (0, 3, 0);
        for channels in BLOCKS {
            for &out in channels {
                let bound = (6.0 / (input * 9) as f64).sqrt() as f32;
                let weight = uniform(stream, out * input * 9, -bound, bound);
                vgg16.insert(format!("features.{place}.weight"), (vec![out, input, 3, 3], weight));
                let bias = uniform(stream + 1, out, -0.1, 0.1);
                vgg16.insert(format!("features.{place}.bias"), (vec![out], bias));
                (place, input, stream) = (place + 2, out, stream + 2);
            }
            place += 1;
        }
        for (index, channels) in BLOCKS.iter().enumerate() {
            let width = channels[0];
            let weight = uniform(stream + index as u32, width, 0.0, 1.0);
            heads.insert(format!("lin{index}.model.1.weight"), (vec![1, width, 1, 1], weight));
        }
        (vgg16, heads)
    }

    #[track_caller]
    fn close(found: &[f32], expected: &[f32]) {
        for (found, expected) in found.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-4, "{found} is not {expected}");
        }
    }

    /// Random weights and pictures; the numbers are printed by `trainer/tools/lpips_golden.py`.
    #[test]
    fn lpips_is_the_package_s() {
        let device = Device::flex();
        let (vgg16, mut heads) = networks();
        let lpips = Lpips::new(&vgg16, &heads, &device).unwrap();
        let dimensions = [2, 3, 35, 32];
        let picture = |stream| {
            Tensor::<4>::from_data(
                TensorData::new(uniform(stream, 2 * 3 * 35 * 32, -1.0, 1.0), dimensions),
                &device,
            )
        };
        let a = picture(100);
        let factor = Tensor::<1>::from_floats([1.0, 0.1], &device).reshape([2, 1, 1, 1]);
        let b = a.clone() + picture(101) * factor;

        let tracked = Tensor::from_inner(b.clone()).require_grad();
        let distance = lpips.distance(tracked.clone(), Tensor::from_inner(a.clone()));
        close(&distance.clone().try_into_vec_as::<f32>().unwrap(), &[0.316_298_5, 0.011_235_728]);
        let gradient = tracked.grad(&distance.sum().backward()).unwrap();
        close(&[gradient.clone().abs().sum().into_scalar::<f32>()], &[1.216_971_3]);
        let first = gradient.try_into_vec_as::<f32>().unwrap();
        close(&first[..3], &[0.000_142_922_17, -0.000_471_011_65, -0.000_164_289_07]);

        let grey = |x: &Tensor<4>| x.clone().narrow(1, 0, 1);
        let distance = lpips.distance(grey(&b), grey(&a)).try_into_vec_as::<f32>().unwrap();
        close(&distance, &[0.325_667_95, 0.011_004_292]);

        if let Some((_, weight)) = heads.get_mut("lin2.model.1.weight") {
            weight[7] = -1.0;
        }
        let error = Lpips::new(&vgg16, &heads, &device).err().unwrap().to_string();
        assert_eq!(error, "tensor lin2.model.1.weight has a negative weight");
        heads.remove("lin2.model.1.weight");
        let error = Lpips::new(&vgg16, &heads, &device).err().unwrap().to_string();
        assert_eq!(error, "no tensor lin2.model.1.weight");
    }
}
