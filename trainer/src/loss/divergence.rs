//! What two pictures are compared by.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::lpips::Lpips;

/// A divergence of two batches of pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// Mean square of the difference.
    #[default]
    Mse,
    /// √(‖a - b‖² + c²) - c of each picture with c = 0.00054 √dim (Song and Dhariwal, Improved Techniques), divided by √dim:
    /// √(mean square + 0.00054²) - 0.00054, a mean over pixels as the others are.
    PseudoHuber,
    /// Distance of a network's features (Zhang et al., The Unreasonable Effectiveness of Deep Features).
    Lpips,
}

impl Divergence {
    /// D(a, sg b), the mean over the batch.
    ///
    /// # Panics
    /// If it is [`Divergence::Lpips`] and there is no network.
    pub(super) fn between(self, a: Tensor<4>, b: &Tensor<4>, lpips: Option<&Lpips>) -> Tensor<1> {
        const C: f32 = 0.00054;
        match self {
            Divergence::Mse => super::square(a, b),
            Divergence::PseudoHuber => {
                let squares: Tensor<2> = (a - b.clone()).square().flatten(1, 3);
                ((squares.mean_dim(1) + C * C).sqrt() - C).mean()
            }
            Divergence::Lpips => {
                lpips.expect("the configuration was checked for the network").distance(a, b.clone()).mean()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn divergences_are_their_formulas() {
        let device = Device::flex();
        let a = Tensor::from_data(
            TensorData::new(vec![3.0f32, 0.0, 0.0, 4.0], [2, 1, 1, 2]),
            &device.clone().autodiff(),
        );
        let b = Tensor::zeros([2, 1, 1, 2], &device);
        let value = |divergence: Divergence| divergence.between(a.clone(), &b, None).into_scalar::<f32>();
        assert_eq!(value(Divergence::Mse), 6.25);
        // c = 0.00054 √2, and ‖a - b‖ is 3 and 4.
        let huber =
            |square: f32| ((square + 2.0 * 0.00054f32.powi(2)).sqrt() - 0.00054 * 2f32.sqrt()) / 2f32.sqrt();
        let expected = 0.5 * (huber(9.0) + huber(16.0));
        assert!((value(Divergence::PseudoHuber) - expected).abs() < 1e-6);
    }
}
