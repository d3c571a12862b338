//! Fréchet distance between two sets of features, each taken for a Gaussian (Heusel et al. 2017, eq. 6).

use anyhow::{Result, ensure};
use nalgebra::{DMatrix, DVector, SymmetricEigen};

/// Mean and covariance of a set of features.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// `[dim]`.
    pub mean: DVector<f64>,
    /// `[dim, dim]`, unbiased.
    pub covariance: DMatrix<f64>,
}

impl Statistics {
    /// The statistics of `features: [n, dim]`, computed in f64.
    ///
    /// # Errors
    /// With fewer than two rows, rows that are cut off, or a value that is not finite.
    pub fn new<T: Copy + Into<f64>>(features: &[T], dim: usize) -> Result<Self> {
        let n = features.len().checked_div(dim).unwrap_or(0);
        ensure!(n * dim == features.len(), "{} features are no rows of {dim}", features.len());
        ensure!(n >= 2, "a covariance needs at least two pictures, not {n}");
        let mut features: DMatrix<f64> =
            DMatrix::from_iterator(dim, n, features.iter().map(|&feature| feature.into()));
        ensure!(features.iter().all(|x| x.is_finite()), "a feature is not a finite number");
        let mean = features.column_mean();
        features.column_iter_mut().for_each(|mut column| column -= &mean);
        let covariance = &features * features.transpose() / (n - 1) as f64;
        Ok(Self { mean, covariance })
    }
}

/// `|μ₁ - μ₂|² + tr(S₁ + S₂ - 2 (S₁ S₂)^½)`, where the last trace is the sum of the roots of the eigenvalues of the
/// symmetric `S₁^½ S₂ S₁^½`; eigenvalues below zero are rounding and count as zero.
///
/// # Panics
/// If the dimensions differ.
pub fn distance(a: &Statistics, b: &Statistics) -> f64 {
    let root = root(&a.covariance);
    let product = &root * &b.covariance * &root;
    let trace: f64 = product.symmetric_eigenvalues().iter().map(|x| x.max(0.0).sqrt()).sum();
    (&a.mean - &b.mean).norm_squared() + a.covariance.trace() + b.covariance.trace() - 2.0 * trace
}

/// The symmetric root of a covariance.
fn root(covariance: &DMatrix<f64>) -> DMatrix<f64> {
    let eigen = SymmetricEigen::new(covariance.clone());
    let roots = eigen.eigenvalues.map(|x| x.max(0.0).sqrt());
    &eigen.eigenvectors * DMatrix::from_diagonal(&roots) * eigen.eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::random;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    fn gaussian(mean: f64, covariance: DMatrix<f64>) -> Statistics {
        Statistics { mean: DVector::from_element(covariance.nrows(), mean), covariance }
    }

    #[test]
    fn gaussians_have_their_known_distance() {
        let identity = DMatrix::identity(4, 4);
        let a = gaussian(0.0, identity.clone());
        close(distance(&a, &a), 0.0, 1e-12);
        close(distance(&a, &gaussian(1.0, identity.clone())), 4.0, 1e-12);
        close(distance(&a, &gaussian(0.0, identity * 4.0)), 4.0, 1e-12);
        let a = gaussian(0.0, DMatrix::from_row_slice(2, 2, &[2.0, 1.0, 1.0, 2.0]));
        let b = gaussian(0.0, DMatrix::from_row_slice(2, 2, &[1.0, 0.0, 0.0, 3.0]));
        close(distance(&a, &b), 0.51668522645212, 1e-12);
        close(distance(&b, &a), 0.51668522645212, 1e-12);
    }

    /// `sin(a i j + b j²) + 0.1 cos(0.3 i + j) + shift`, i and j from 1.
    fn waves(n: usize, dim: usize, a: f64, b: f64, shift: f64) -> Statistics {
        let places = (1..=n).flat_map(|i| (1..=dim).map(move |j| (i as f64, j as f64)));
        let wave = |(i, j): (f64, f64)| (a * i * j + b * j * j).sin() + 0.1 * (0.3 * i + j).cos() + shift;
        Statistics::new(&places.map(wave).collect::<Vec<f64>>(), dim).unwrap()
    }

    #[test]
    fn waves_have_their_known_distance() {
        // The last has fewer rows than columns, so its covariances are singular.
        for (n, dim, expected, tolerance) in
            [(64, 8, 0.727945729240, 1e-10), (256, 16, 1.046975318652, 1e-10), (24, 32, 6.9044630, 1e-6)]
        {
            let (x, y) = (waves(n, dim, 0.1, 0.05, 0.0), waves(n, dim, 0.13, 0.02, 0.25));
            close(distance(&x, &y), expected, tolerance);
            close(distance(&x, &x), 0.0, 1e-6);
        }
    }

    #[test]
    fn random_features_have_their_known_distance() {
        let real = random(200 * 6, 1);
        close(real[0], 0.42320917, 5e-9);
        let made: Vec<f64> = random(150 * 6, 2).iter().map(|x| x * 0.6 + 0.35).collect();
        let [a, b] = [real, made].map(|features| Statistics::new(&features, 6).unwrap());
        close(distance(&a, &b), 0.224988026463, 1e-11);
    }

    #[test]
    fn features_that_have_no_statistics_are_errors() {
        for features in [&[][..], &[1.0], &[1.0, 2.0], &[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, f32::NAN]] {
            assert!(Statistics::new(features, 2).is_err(), "{features:?}");
        }
        assert!(Statistics::new::<f32>(&[1.0], 0).is_err());
        assert!(Statistics::new::<f32>(&[], 0).is_err());
    }
}
