//! Rectified flow: the straight line between data and noise, and the map along it.
//!
//! t = 1 is noise x1 ~ N(0, I) and t = 0 is data x0 in [-1, 1], so x_t = (1 - t) x0 + t x1 and the velocity
//! dx/dt = x1 - x0. Generating is going from 1 to 0. Everything random in a training comes from here, by the number of
//! the step and of the picture in its batch, so that a training that is resumed sees what it would have seen.

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use traflow_graph::noise::Noise;
use traflow_graph::op::Shape;

use crate::network::{Network, Times};

/// The smallest time that is trained.
pub const T_MIN: f32 = 1e-3;

/// What a random number of a training is for; each use has its own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Noise of a picture; also the noise that a picture is generated from.
    Noise = 0,
    /// Which pictures a batch has.
    Picture = 1,
    /// Times t.
    From = 2,
    /// Times s.
    To = 3,
    /// Initial weights.
    Weights = 4,
    /// Times between s and t.
    Between = 5,
    /// Which pictures are mirrored.
    Flip = 6,
}

/// The random numbers of one step of a training, for its batch or a part of it.
#[derive(Clone, Copy, Debug)]
pub struct Dice {
    seed: u64,
    /// Number of the step, from 0.
    pub step: usize,
    /// Place of the first picture among all pictures of the training.
    pub first: u64,
    /// Number of pictures.
    batch: usize,
}

/// Law of the times that velocities are trained at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimeLaw {
    /// t ~ U[1e-3, 1].
    #[default]
    Uniform,
    /// p(t) ~ e^4t + e^4(1-t): both ends more often than the middle.
    UShaped,
}

impl Dice {
    /// The numbers of a step for batches of this size.
    pub fn new(seed: u64, step: usize, batch: usize) -> Self {
        Self { seed, step, first: step as u64 * batch as u64, batch }
    }

    /// The numbers of each of `count` equal parts of the batch, in order: each picture has those it has in the whole.
    pub fn parts(&self, count: usize) -> impl Iterator<Item = Self> + use<> {
        let (whole, batch) = (*self, self.batch / count);
        (0..count).map(move |part| Self { first: whole.first + (part * batch) as u64, batch, ..whole })
    }

    fn uniform(&self, stream: Stream) -> Vec<f32> {
        let noise = Noise::stream(self.seed, stream as u32);
        (self.first..).take(self.batch).map(|place| noise.uniform(place)).collect()
    }

    /// Which of `len` pictures the batch has, each as likely.
    pub fn pictures(&self, len: usize) -> Vec<usize> {
        let noise = Noise::stream(self.seed, Stream::Picture as u32);
        // A word times the length, in fixed point: the bias is below len / 2^32.
        (self.first..)
            .take(self.batch)
            .map(|place| ((u64::from(noise.word(place)) * len as u64) >> 32) as usize)
            .collect()
    }

    /// Noise for the batch, `[n, c, h, w]`.
    pub fn noise(&self, shape: Shape, device: &Device) -> Tensor<4> {
        let mut values = vec![0.0; self.batch * shape.elements()];
        let first = self.first * shape.elements() as u64;
        Noise::stream(self.seed, Stream::Noise as u32).fill_from(first, &mut values);
        pictures(values, self.batch, shape, device)
    }

    /// Times t for velocities.
    pub fn times(&self, law: TimeLaw, device: &Device) -> Tensor<1> {
        let times = self.uniform(Stream::From).into_iter().map(|u| match law {
            TimeLaw::Uniform => T_MIN + (1.0 - T_MIN) * u,
            TimeLaw::UShaped => {
                // The density is symmetric, so one side is drawn by its inverse and the other is its mirror.
                let (side, u) = if u < 0.5 { (false, 2.0 * u) } else { (true, 2.0 * u - 1.0) };
                let t = ((1.0 + u * (4f32.exp() - 1.0)).ln() / 4.0).clamp(0.0, 1.0);
                (if side { t } else { 1.0 - t }).max(T_MIN)
            }
        });
        vector(&times.collect::<Vec<_>>(), device)
    }

    /// Target times s ~ U[0, 1) of steps from t = 1.
    pub fn targets(&self, device: &Device) -> Tensor<1> {
        vector(&self.uniform(Stream::To), device)
    }

    /// Times t ~ U[1e-3, 1] and s = t U[0, 1) for consistency.
    pub fn spans(&self, device: &Device) -> Times {
        let t = self.times(TimeLaw::Uniform, device);
        let s = t.clone() * self.targets(device);
        Times { t, s }
    }

    /// Numbers of U[0, 1), for a time between s and t.
    pub fn between(&self, device: &Device) -> Tensor<1> {
        vector(&self.uniform(Stream::Between), device)
    }

    /// Neighbours t = n/N and (n - 1)/N of a grid, n from 1 to N.
    pub fn neighbours(&self, grid: usize, device: &Device) -> (Tensor<1>, Tensor<1>) {
        let grid = grid as f32;
        let from = |u: f32| (u * grid).floor().min(grid - 1.0);
        let u = self.uniform(Stream::From);
        let times = |shift: f32| u.iter().map(|u| (from(*u) + shift) / grid).collect::<Vec<_>>();
        (vector(&times(1.0), device), vector(&times(0.0), device))
    }

    /// Mirrors every second picture, by chance, and the same places of every batch that it is called for.
    pub fn flip(&self, x: Tensor<4>) -> Tensor<4> {
        let flips: Vec<f32> =
            self.uniform(Stream::Flip).into_iter().map(|u| f32::from(u8::from(u < 0.5))).collect();
        let flips = per_picture(vector(&flips, &x.device()));
        let mirrored = x.clone().flip([3]);
        x.clone() + (mirrored - x) * flips
    }
}

/// A batch from its values in order.
pub fn pictures(values: Vec<f32>, batch: usize, shape: Shape, device: &Device) -> Tensor<4> {
    let dimensions = [batch, shape.channels.into(), shape.height.into(), shape.width.into()];
    Tensor::from_data(TensorData::new(values, dimensions), device)
}

/// The shape of the pictures of a batch.
pub fn shape(batch: &Tensor<4>) -> Shape {
    let [_, channels, height, width] = batch.dims().map(|dimension| dimension as u16);
    Shape::new(channels, height, width)
}

/// The noise of these seeds, `[n, c, h, w]`: what the runtime starts from for the same seeds.
pub fn seeded_noise(seeds: &[u64], shape: Shape, device: &Device) -> Tensor<4> {
    let mut values = vec![0.0; seeds.len() * shape.elements()];
    for (seed, picture) in seeds.iter().zip(values.chunks_exact_mut(shape.elements())) {
        Noise::new(*seed).fill(picture);
    }
    pictures(values, seeds.len(), shape, device)
}

fn vector(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_floats(values, device)
}

/// The same times for each of n pictures.
pub fn times(t: f32, s: f32, n: usize, device: &Device) -> Times {
    Times { t: vector(&vec![t; n], device), s: vector(&vec![s; n], device) }
}

/// One number a picture, shaped so that it multiplies pictures.
pub fn per_picture(values: Tensor<1>) -> Tensor<4> {
    let n = values.dims()[0];
    values.reshape([n, 1, 1, 1])
}

/// x_t = (1 - t) x0 + t x1.
pub fn interpolate(x0: Tensor<4>, x1: Tensor<4>, t: Tensor<1>) -> Tensor<4> {
    x0.clone() + (x1 - x0) * per_picture(t)
}

/// The map G(x, t, s) = x + (s - t) u(x, t, s). Eq. 6'.
pub fn step(network: &Network, x: Tensor<4>, times: &Times) -> Tensor<4> {
    let u = network.forward(x.clone(), times);
    x + u * per_picture(times.s.clone() - times.t.clone())
}

/// Generates with one step of the map between each two of the times, which fall from 1 to 0 (Algorithm 1).
pub fn generate(network: &Network, noise: Tensor<4>, grid: &[f32]) -> Tensor<4> {
    let (n, device) = (noise.dims()[0], noise.device());
    grid.windows(2).fold(noise, |x, pair| step(network, x, &times(pair[0], pair[1], n, &device)))
}

/// The times n/N, from 1 to 0.
pub fn uniform_grid(steps: usize) -> Vec<f32> {
    (0..=steps).rev().map(|n| n as f32 / steps as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_depend_on_the_step_alone() {
        let device = Device::flex();
        let dice = Dice::new(3, 17, 4);
        assert_eq!(dice.pictures(1000), Dice::new(3, 17, 4).pictures(1000));
        assert_ne!(dice.pictures(1000), Dice::new(3, 18, 4).pictures(1000));
        assert!(dice.pictures(3).iter().all(|&i| i < 3));
        let noise = dice.noise(Shape::new(1, 2, 2), &device);
        assert_eq!(noise.dims(), [4, 1, 2, 2]);
    }

    #[test]
    fn a_picture_has_the_same_dice_in_a_part_of_its_batch() {
        let device = Device::flex();
        let values = |dice: Dice| {
            let noise = dice.noise(Shape::new(1, 2, 3), &device).try_into_vec_as::<f32>().unwrap();
            let times = dice.times(TimeLaw::Uniform, &device).try_into_vec_as::<f32>().unwrap();
            (dice.pictures(1000), noise, times)
        };
        let whole = Dice::new(3, 17, 6);
        let (mut pictures, mut noise, mut times) = (Vec::new(), Vec::new(), Vec::new());
        for part in whole.parts(3) {
            let (p, n, t) = values(part);
            pictures.extend(p);
            noise.extend(n);
            times.extend(t);
        }
        assert_eq!((pictures, noise, times), values(whole));
    }

    #[test]
    fn times_follow_their_law() {
        let device = Device::flex();
        let dice = Dice::new(1, 0, 40_000);
        for law in [TimeLaw::Uniform, TimeLaw::UShaped] {
            let t = dice.times(law, &device).try_into_vec_as::<f32>().unwrap();
            assert!(t.iter().all(|t| (T_MIN..=1.0).contains(t)));
            let mean = t.iter().sum::<f32>() / t.len() as f32;
            assert!((mean - 0.5).abs() < 0.01, "{law:?}: mean {mean}");
            let middle = t.iter().filter(|t| (0.25..0.75).contains(*t)).count() as f32 / t.len() as f32;
            let expected = match law {
                TimeLaw::Uniform => 0.5,
                TimeLaw::UShaped => (3f32.exp() - 1f32.exp()) / (4f32.exp() - 1.0),
            };
            assert!((middle - expected).abs() < 0.01, "{law:?}: {middle} in the middle, not {expected}");
        }
        let spans = dice.spans(&device);
        let (t, s) = (spans.t.try_into_vec_as::<f32>().unwrap(), spans.s.try_into_vec_as::<f32>().unwrap());
        assert!(t.iter().zip(&s).all(|(t, s)| (0.0..=*t).contains(s)));
        let (t, s) = dice.neighbours(4, &device);
        let (t, s) = (t.try_into_vec_as::<f32>().unwrap(), s.try_into_vec_as::<f32>().unwrap());
        for time in [0.25, 0.5, 0.75, 1.0] {
            let share = t.iter().filter(|t| **t == time).count() as f32 / t.len() as f32;
            assert!((share - 0.25).abs() < 0.01, "{share} of the times are {time}");
        }
        assert!(t.iter().zip(&s).all(|(t, s)| t - s == 0.25));
    }

    #[test]
    fn flips_mirror_half_of_the_pictures() {
        let device = Device::flex();
        let x = Tensor::from_data(TensorData::new([1.0f32, 2.0].repeat(1000), [1000, 1, 1, 2]), &device);
        let dice = Dice::new(1, 0, 1000);
        let flipped = dice.flip(x.clone()).try_into_vec_as::<f32>().unwrap();
        let count = flipped.chunks(2).filter(|picture| *picture == [2.0, 1.0]).count();
        assert!((400..600).contains(&count) && flipped.chunks(2).all(|p| p == [2.0, 1.0] || p == [1.0, 2.0]));
        assert_eq!(flipped, dice.flip(x).try_into_vec_as::<f32>().unwrap());
    }

    #[test]
    fn seeds_name_the_noise_of_the_runtime() {
        let shape = Shape::new(1, 3, 3);
        let batch = seeded_noise(&[7, 8], shape, &Device::flex()).try_into_vec_as::<f32>().unwrap();
        let mut alone = [0.0; 9];
        Noise::new(8).fill(&mut alone);
        assert_eq!(batch[9..], alone);
    }
}
