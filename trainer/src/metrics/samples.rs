//! What two sets of features say picture by picture, where means and covariances say nothing: whether pictures look real, and
//! whether all that is real is drawn.

use rayon::prelude::*;

/// Neighbours that reach over a picture's surroundings.
pub const NEIGHBOURS: usize = 3;

/// Sets of features, `[n, dim]` each.
#[derive(Clone, Copy, Debug)]
pub struct Samples<'a> {
    /// Of real pictures.
    pub real: &'a [f32],
    /// Of pictures that were made.
    pub made: &'a [f32],
    /// Length of a row.
    pub dim: usize,
}

impl Samples<'_> {
    /// Precision, the share of made pictures that are as near to a real one as that is to its [`NEIGHBOURS`]-th nearest real
    /// one, and recall, the share of real pictures that are so near to made ones (Kynkäänniemi et al. 2019, eq. 2).
    pub fn precision_and_recall(&self) -> [f64; 2] {
        self.shares(NEIGHBOURS)
    }

    fn shares(&self, k: usize) -> [f64; 2] {
        [(self.real, self.made), (self.made, self.real)].map(|(of, by)| {
            let radii: Vec<f64> = of.par_chunks_exact(self.dim).map(|row| self.radius(row, of, k)).collect();
            let inside = |row: &[f32]| {
                of.chunks_exact(self.dim).zip(&radii).any(|(centre, radius)| squared(row, centre) <= *radius)
            };
            let count = by.par_chunks_exact(self.dim).filter(|row| inside(row)).count();
            count as f64 / (by.len() / self.dim).max(1) as f64
        })
    }

    /// The squared distance to the k-th nearest row besides itself.
    fn radius(&self, row: &[f32], rows: &[f32], k: usize) -> f64 {
        let mut distances: Vec<f64> = rows.chunks_exact(self.dim).map(|other| squared(row, other)).collect();
        let k = k.min(distances.len() - 1);
        *distances.select_nth_unstable_by(k, f64::total_cmp).1
    }

    /// The squared maximum mean discrepancy with the kernel (x·y/dim + 1)³, without bias (Bińkowski et al. 2018, eq. 4): what is
    /// called KID on Inception's features. It may be below zero.
    pub fn discrepancy(&self) -> f64 {
        let kernel = |a: &[f32], b: &[f32]| {
            let product: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            (product / self.dim as f64 + 1.0).powi(3)
        };
        let sum = |a: &[f32], b: &[f32]| -> f64 {
            let of_row = |row: &[f32]| b.chunks_exact(self.dim).map(|other| kernel(row, other)).sum::<f64>();
            a.par_chunks_exact(self.dim).map(of_row).sum()
        };
        let within = |x: &[f32]| {
            let n = (x.len() / self.dim) as f64;
            let itself: f64 = x.chunks_exact(self.dim).map(|row| kernel(row, row)).sum();
            (sum(x, x) - itself) / (n * (n - 1.0))
        };
        let pairs = (self.real.len() / self.dim) as f64 * (self.made.len() / self.dim) as f64;
        within(self.real) + within(self.made) - 2.0 * sum(self.real, self.made) / pairs
    }
}

fn squared(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::random;

    #[test]
    fn random_features_have_their_known_numbers() {
        let real: Vec<f32> = random(200 * 6, 1).iter().map(|&x| x as f32).collect();
        let made: Vec<f32> = random(150 * 6, 2).iter().map(|x| (x * 0.6 + 0.35) as f32).collect();
        let samples = Samples { real: &real, made: &made, dim: 6 };
        let close = |found: [f64; 2], expected: [f64; 2]| {
            assert!(
                found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6),
                "{found:?}, not {expected:?}"
            );
        };
        close(samples.precision_and_recall(), [149.0 / 150.0, 0.185]);
        close(samples.shares(1), [116.0 / 150.0, 0.105]);
        // In f32 rows the last digits are others.
        let discrepancy = samples.discrepancy();
        assert!((discrepancy - 0.165933836463).abs() < 1e-7, "{discrepancy}");
    }

    #[test]
    fn the_same_pictures_are_all_real_and_all_there() {
        let real: Vec<f32> = random(50 * 4, 3).iter().map(|&x| x as f32).collect();
        let far: Vec<f32> = real.iter().map(|x| x + 10.0).collect();
        assert_eq!(Samples { real: &real, made: &real, dim: 4 }.precision_and_recall(), [1.0, 1.0]);
        assert_eq!(Samples { real: &real, made: &far, dim: 4 }.precision_and_recall(), [0.0, 0.0]);
        // One picture again and again: real, and nearly nothing of all that is.
        let one = real[..4].repeat(50);
        let [precision, recall] = Samples { real: &real, made: &one, dim: 4 }.precision_and_recall();
        assert!(precision == 1.0 && recall <= 0.02, "{precision}, {recall}");
    }
}
