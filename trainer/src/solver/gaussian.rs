//! A flow that is known: data N(μ, c²), for which every solver's error can be measured.

use std::fmt::Write;

use super::{Solver, solve};

/// Data N(μ, c²), each number by itself.
#[derive(Clone, Copy, Debug)]
pub struct Gaussian {
    /// Mean μ.
    pub mean: f64,
    /// Standard deviation c.
    pub deviation: f64,
}

impl Gaussian {
    /// S(t), the standard deviation of x_t: S² = (1 - t)² c² + t².
    pub fn scale(&self, t: f64) -> f64 {
        ((1.0 - t) * self.deviation).hypot(t)
    }

    /// v(x, t) = E[x1 - x0 | x_t = x] = -μ + (t - (1 - t) c²)/S² · (x - (1 - t) μ).
    pub fn velocity(&self, x: f64, t: f64) -> f64 {
        let slope = (t - (1.0 - t) * self.deviation.powi(2)) / self.scale(t).powi(2);
        -self.mean + slope * (x - (1.0 - t) * self.mean)
    }

    /// Where the ODE leads from x at t: (1 - s) μ + S(s)/S(t) · (x - (1 - t) μ).
    pub fn flow(&self, x: f64, t: f64, s: f64) -> f64 {
        (1.0 - s) * self.mean + self.scale(s) / self.scale(t) * (x - (1.0 - t) * self.mean)
    }
}

/// What the table and the tests measure.
pub(super) const EXAMPLE: Gaussian = Gaussian { mean: 0.7, deviation: 0.35 };

/// Noise that they start from.
pub(super) const NOISE: [f64; 8] = [-2.0, -1.0, -0.25, 0.0, 0.5, 1.0, 1.75, 2.5];

/// A Markdown table of the largest error of each solver at t = 0 against its steps, for data N(0.7, 0.35²).
pub fn table() -> String {
    const STEPS: [usize; 7] = [2, 5, 10, 20, 41, 80, 161];
    let mut table = "| solver |".to_owned();
    STEPS.iter().for_each(|steps| _ = write!(table, " {steps} steps |"));
    _ = write!(table, "\n|---|{}", "---|".repeat(STEPS.len()));
    for solver in <Solver as clap::ValueEnum>::value_variants() {
        _ = write!(table, "\n| `{solver}` |");
        // The adaptive solver has no number of steps.
        let columns = if *solver == Solver::Rk45 { 1 } else { STEPS.len() };
        for &steps in &STEPS[..columns] {
            let (error, evaluations) = measure(*solver, steps);
            _ = write!(table, " {error:.1e} ({evaluations}) |");
        }
        table += &" |".repeat(STEPS.len() - columns);
    }
    table
}

/// Largest error at t = 0, and the number of evaluations.
fn measure(solver: Solver, steps: usize) -> (f64, usize) {
    let mut velocity = |x: &Vec<f64>, t: f64| x.iter().map(|x| EXAMPLE.velocity(*x, t)).collect();
    let solution = solve(solver, steps, NOISE.to_vec(), &mut velocity);
    let end = solution.times.last().copied().unwrap_or_default();
    let errors = solution.x.iter().zip(NOISE).map(|(x, x1)| (x - EXAMPLE.flow(x1, 1.0, end)).abs());
    (errors.fold(0.0, f64::max), solution.evaluations)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flow_has_its_published_values() {
        for (x, t, s, expected) in [
            (1.3, 0.9, 0.3, 1.018952),
            (-0.4, 0.9, 0.3, 0.28788013),
            (1.3, 0.5, 0.1, 1.22268161),
            (-0.4, 0.5, 0.1, 0.16209346),
        ] {
            let found = EXAMPLE.flow(x, t, s);
            assert!((found - expected).abs() < 5e-9, "{found} is not {expected}");
        }
    }

    #[test]
    fn the_table_has_a_row_a_solver() {
        let table = table();
        let rows: Vec<&str> = table.lines().skip(2).collect();
        assert_eq!(rows.len(), 9);
        assert!(rows.iter().all(|row| row.matches('|').count() == 9), "{table}");
        assert!(rows[0].starts_with("| `euler` | ") && rows[5].contains("(32)"), "{table}");
    }
}
