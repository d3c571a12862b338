//! Solvers of the probability-flow ODE dx/dt = v(x, t), from noise at t = 1 to data at t = 0.

pub mod gaussian;
mod sigma;

use std::fmt;

use serde::{Deserialize, Serialize};

/// The method of integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Solver {
    /// Euler's method on the grid n/N: first order, N evaluations. For a velocity it is DDIM.
    Euler,
    /// Heun's method on the grid n/N: second order, 2 N evaluations.
    Heun,
    /// Heun's method in EDM's variables, on EDM's grid: second order, 2 N evaluations.
    HeunEdm,
    /// The midpoint method on the grid n/N: second order, 2 N evaluations.
    Midpoint,
    /// The classical method of Runge and Kutta on the grid n/N: fourth order, 4 N evaluations.
    Rk4,
    /// Dormand and Prince's 5(4) pair with adaptive steps, down to t = 0.001.
    Rk45,
    /// DPM-Solver-2 with N steps: second order, 2 N + 2 evaluations.
    #[serde(rename = "dpm-solver-2")]
    #[value(name = "dpm-solver-2")]
    DpmSolver2,
    /// DPM-Solver-fast, whose steps of order 3 have N evaluations together: N + 2 evaluations.
    DpmSolverFast,
    /// DEIS with polynomials in t over three evaluations: third order, N + 6 evaluations.
    #[serde(rename = "deis-3")]
    #[value(name = "deis-3")]
    Deis3,
}

impl fmt::Display for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = clap::ValueEnum::to_possible_value(self);
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// What a solver needs of a batch of pictures: elementwise sums and products, and one mean.
pub trait State: Clone {
    /// `factor · self`.
    fn scaled(&self, factor: f64) -> Self;

    /// `self + Σ cᵢ xᵢ`.
    fn add_scaled(&self, terms: &[(f64, &Self)]) -> Self;

    /// Root mean square, over all elements, of `self / (1 + max(|a|, |b|))`.
    fn relative_rms(&self, a: &Self, b: &Self) -> f64;
}

/// Where a solver arrived.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution<S> {
    /// The data.
    pub x: S,
    /// Number of evaluations of the velocity.
    pub evaluations: usize,
    /// The times between accepted steps, from 1 to the end.
    pub times: Vec<f64>,
}

/// Solves the ODE from noise `x1`. The number of steps (at least one is taken) is for the solvers with a fixed grid.
pub fn solve<S: State>(
    solver: Solver,
    steps: usize,
    x1: S,
    velocity: &mut dyn FnMut(&S, f64) -> S,
) -> Solution<S> {
    let mut evaluations = 0;
    let mut velocity = |x: &S, t: f64| {
        evaluations += 1;
        velocity(x, t)
    };
    let steps = steps.max(1);
    let grid: Vec<f64> = (0..=steps).rev().map(|n| n as f64 / steps as f64).collect();
    let (x, times) = match solver {
        Solver::Euler => (euler(x1, &grid, &mut velocity), grid),
        Solver::Heun => (heun(x1, &grid, &mut velocity), grid),
        Solver::Midpoint => (midpoint(x1, &grid, &mut velocity), grid),
        Solver::Rk4 => (rk4(x1, &grid, &mut velocity), grid),
        Solver::Rk45 => rk45(x1, &mut velocity),
        Solver::HeunEdm => sigma::heun(x1, steps, &mut velocity),
        Solver::DpmSolver2 => sigma::dpm_solver_2(x1, steps, &mut velocity),
        Solver::DpmSolverFast => sigma::dpm_solver_fast(x1, steps, &mut velocity),
        Solver::Deis3 => sigma::deis_3(x1, steps, &mut velocity),
    };
    Solution { x, evaluations, times }
}

fn euler<S: State>(mut x: S, grid: &[f64], velocity: &mut impl FnMut(&S, f64) -> S) -> S {
    for pair in grid.windows(2) {
        let v = velocity(&x, pair[0]);
        x = x.add_scaled(&[(pair[1] - pair[0], &v)]);
    }
    x
}

/// The trapezoid rule with Euler's step as the prediction. EDM leaves the correction of the last step out, because its
/// slope has a pole there; the velocity of a rectified flow is finite at t = 0.
fn heun<S: State>(mut x: S, grid: &[f64], velocity: &mut impl FnMut(&S, f64) -> S) -> S {
    for pair in grid.windows(2) {
        let step = pair[1] - pair[0];
        let v = velocity(&x, pair[0]);
        let predicted = velocity(&x.add_scaled(&[(step, &v)]), pair[1]);
        x = x.add_scaled(&[(step / 2.0, &v), (step / 2.0, &predicted)]);
    }
    x
}

fn midpoint<S: State>(mut x: S, grid: &[f64], velocity: &mut impl FnMut(&S, f64) -> S) -> S {
    for pair in grid.windows(2) {
        let step = pair[1] - pair[0];
        let v = velocity(&x, pair[0]);
        let v = velocity(&x.add_scaled(&[(step / 2.0, &v)]), pair[0] + step / 2.0);
        x = x.add_scaled(&[(step, &v)]);
    }
    x
}

fn rk4<S: State>(mut x: S, grid: &[f64], velocity: &mut impl FnMut(&S, f64) -> S) -> S {
    for pair in grid.windows(2) {
        let step = pair[1] - pair[0];
        let middle = pair[0] + step / 2.0;
        let k1 = velocity(&x, pair[0]);
        let k2 = velocity(&x.add_scaled(&[(step / 2.0, &k1)]), middle);
        let k3 = velocity(&x.add_scaled(&[(step / 2.0, &k2)]), middle);
        let k4 = velocity(&x.add_scaled(&[(step, &k3)]), pair[1]);
        x = x.add_scaled(&[(step / 6.0, &k1), (step / 3.0, &k2), (step / 3.0, &k3), (step / 6.0, &k4)]);
    }
    x
}

/// Where the adaptive solver ends, as in the rectified-flow literature.
const END: f64 = 1e-3;

/// Relative and absolute tolerance.
const TOLERANCE: f64 = 1e-5;

/// A step this short is accepted whatever its error, so that every solve ends.
const SHORTEST: f64 = 1e-6;

/// Times of the stages after the first, as parts of the step.
const C: [f64; 6] = [1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];

/// Weights of the earlier slopes in each stage after the first. The last stage is the solution of fifth order, and its
/// slope the first of the next step.
const A: [&[f64]; 6] = [
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];

/// Weights of the slopes in the difference of the solutions of fifth and fourth order.
const E: [f64; 7] =
    [-71.0 / 57600.0, 0.0, 71.0 / 16695.0, -71.0 / 1920.0, 17253.0 / 339200.0, -22.0 / 525.0, 1.0 / 40.0];

/// Steps as scipy's `solve_ivp(method="RK45")` chooses them: one error norm over the batch, a step changes by
/// 0.9 err^(-1/5) within [0.2, 10], and does not grow after a rejection. (scipy gives up where a step is shorter than
/// the spacing of floats.) A velocity that is no number ends the solve, and the data are no numbers either.
fn rk45<S: State>(mut x: S, velocity: &mut impl FnMut(&S, f64) -> S) -> (S, Vec<f64>) {
    let mut t = 1.0;
    let mut times = vec![t];
    let mut slope = velocity(&x, t);
    let mut step = first_step(&x, &slope, t, velocity);
    let mut rejected = false;
    while t > END {
        let shortest = step <= SHORTEST;
        let next = (t - step.max(SHORTEST)).max(END);
        // Rounded, so it may be a little longer.
        step = t - next;
        let mut slopes = vec![slope.clone()];
        let mut y = x.clone();
        for (a, c) in A.iter().zip(C) {
            let terms: Vec<_> = a.iter().zip(&slopes).map(|(a, k)| (-step * a, k)).collect();
            y = x.add_scaled(&terms);
            slopes.push(velocity(&y, t - c * step));
        }
        // The first slope starts the sum, so that no state of zeros is needed.
        let terms: Vec<_> = E.iter().zip(&slopes).skip(1).map(|(e, k)| (e / E[0], k)).collect();
        let error = (step * E[0]).abs() * slopes[0].add_scaled(&terms).relative_rms(&x, &y) / TOLERANCE;

        let factor = (0.9 * error.powf(-0.2)).clamp(0.2, 10.0);
        if error >= 1.0 && !shortest {
            rejected = true;
            step *= factor;
            continue;
        }
        step *= if rejected { factor.min(1.0) } else { factor };
        rejected = false;
        slope = slopes.swap_remove(A.len());
        (x, t) = (y, next);
        times.push(t);
        if error.is_nan() {
            break;
        }
    }
    (x, times)
}

/// Length of the first step (Hairer, Nørsett and Wanner, Solving ODEs I, II.4).
fn first_step<S: State>(x: &S, slope: &S, t: f64, velocity: &mut impl FnMut(&S, f64) -> S) -> f64 {
    let norm = |y: &S| y.relative_rms(x, x) / TOLERANCE;
    let (d0, d1) = (norm(x), norm(slope));
    let h0 = if d0 < 1e-5 || d1 < 1e-5 { 1e-6 } else { 0.01 * d0 / d1 };
    let h0 = h0.min(t - END);
    let ahead = velocity(&x.add_scaled(&[(-h0, slope)]), t - h0);
    let d2 = norm(&ahead.add_scaled(&[(-1.0, slope)])) / h0;
    let h1 =
        if d1.max(d2) <= 1e-15 { f64::max(1e-6, h0 * 1e-3) } else { (0.01 / d1.max(d2)).powf(1.0 / 5.0) };
    h1.min(100.0 * h0).min(t - END)
}

impl State for Vec<f64> {
    fn scaled(&self, factor: f64) -> Self {
        self.iter().map(|x| factor * x).collect()
    }

    fn add_scaled(&self, terms: &[(f64, &Self)]) -> Self {
        let element = |(i, x): (usize, &f64)| x + terms.iter().map(|(c, y)| c * y[i]).sum::<f64>();
        self.iter().enumerate().map(element).collect()
    }

    fn relative_rms(&self, a: &Self, b: &Self) -> f64 {
        let scale = a.iter().zip(b).map(|(a, b)| 1.0 + a.abs().max(b.abs()));
        let sum: f64 = self.iter().zip(scale).map(|(x, scale)| (x / scale).powi(2)).sum();
        (sum / self.len() as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::gaussian::{EXAMPLE, NOISE};
    use super::*;

    #[allow(clippy::ptr_arg, reason = "the solver hands over its state")]
    fn velocity(x: &Vec<f64>, t: f64) -> Vec<f64> {
        x.iter().map(|x| EXAMPLE.velocity(*x, t)).collect()
    }

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    /// Largest error of a solver at t = 0.
    fn error(solver: Solver, steps: usize, evaluations: usize) -> f64 {
        let solution = solve(solver, steps, NOISE.to_vec(), &mut velocity);
        assert_eq!(solution.evaluations, evaluations, "{solver:?}");
        assert_eq!((solution.times[0], solution.times.last()), (1.0, Some(&0.0)));
        assert!(solution.times.windows(2).all(|pair| pair[0] > pair[1]));
        let end = |x1: f64| match solver {
            Solver::Euler | Solver::Heun | Solver::Midpoint | Solver::Rk4 | Solver::Rk45 => {
                EXAMPLE.flow(x1, 1.0, 0.0)
            }
            // The steps of Euler's method at both ends do not grow shorter.
            _ => {
                let (first, last) = (sigma::time(sigma::MAX), sigma::time(sigma::MIN));
                let x = x1 + (first - 1.0) * EXAMPLE.velocity(x1, 1.0);
                let x = EXAMPLE.flow(x, first, last);
                x - last * EXAMPLE.velocity(x, last)
            }
        };
        let errors = solution.x.iter().zip(NOISE).map(|(x, noise)| (x - end(noise)).abs());
        errors.fold(0.0, f64::max)
    }

    /// Halving the steps divides the error by 2 to the power of the order, or by more: on this flow the midpoint method and
    /// that of Runge and Kutta gain a power between 1 and 0.
    #[test]
    fn each_solver_has_its_order() {
        for (solver, order, steps, evaluations) in [
            (Solver::Euler, 1.0, [200, 400], [200, 400]),
            (Solver::Heun, 2.0, [200, 400], [400, 800]),
            (Solver::HeunEdm, 2.0, [200, 400], [400, 800]),
            (Solver::Midpoint, 2.0, [200, 400], [400, 800]),
            (Solver::Rk4, 4.0, [50, 100], [200, 400]),
            (Solver::DpmSolver2, 2.0, [200, 400], [402, 802]),
            (Solver::DpmSolverFast, 3.0, [401, 803], [403, 805]),
            (Solver::Deis3, 3.0, [400, 800], [406, 806]),
        ] {
            let coarse = error(solver, steps[0], evaluations[0]);
            let fine = error(solver, steps[1], evaluations[1]);
            assert!(fine < 1e-2, "{solver:?}: {fine}");
            let found = (coarse / fine).log2();
            assert!(found > order - 0.1, "{solver:?}: {coarse:e}, then {fine:e}: order {found}");
        }
        // One step of Euler goes to the mean of the data.
        close(error(Solver::Euler, 1, 1), 2.5 * EXAMPLE.deviation, 1e-12);
    }

    /// Every method takes any number of steps.
    #[test]
    fn few_steps_are_enough_to_end() {
        for solver in <Solver as clap::ValueEnum>::value_variants() {
            for steps in 1..8 {
                let solution = solve(*solver, steps, NOISE.to_vec(), &mut velocity);
                assert!(solution.x.iter().all(|x| x.is_finite()), "{solver:?}, {steps} steps");
            }
        }
    }

    #[test]
    fn rk45_takes_the_steps_of_scipy() {
        let solution = solve(Solver::Rk45, 0, NOISE.to_vec(), &mut velocity);
        assert_eq!(solution.evaluations, 32);
        let times = [1.0, 0.956160083137, 0.622423803309, 0.28868752348, 0.001];
        assert_eq!(solution.times.len(), times.len());
        solution.times.iter().zip(times).for_each(|(a, b)| close(*a, b, 1e-9));
        let end = [
            1.99717243377e-05,
            0.349659985862,
            0.611889996466,
            0.6993,
            0.874120007069,
            1.04894001414,
            1.31117002474,
            1.57340003534,
        ];
        solution.x.iter().zip(end).for_each(|(a, b)| close(*a, b, 1e-9));
    }

    #[test]
    fn rk45_always_ends() {
        let solve = |velocity: &mut dyn FnMut(&Vec<f64>, f64) -> Vec<f64>| {
            solve(Solver::Rk45, 0, vec![1.0, -1.0], velocity)
        };
        let straight = solve(&mut |_, _| vec![0.5, 0.0]);
        close(straight.x[0], 1.0 - 0.5 * 0.999, 1e-12);
        let still = solve(&mut |x, _| vec![0.0; x.len()]);
        assert_eq!((still.x, still.times.last()), (vec![1.0, -1.0], Some(&END)));
        let jump = solve(&mut |_, t| vec![if t > 0.4 { 1e9 } else { -1e9 }; 2]);
        assert_eq!(jump.times.last(), Some(&END));
        let mut evaluations = 0;
        solve(&mut |x, t| {
            evaluations += 1;
            assert!(evaluations < 100_000, "a step is rejected for ever");
            x.iter().map(|x| if t < 0.77 { -1e5 * x } else { 0.0 }).collect()
        });
        let lost = solve(&mut |_, t| vec![if t > 0.4 { 1.0 } else { f64::NAN }; 2]);
        assert!(lost.x[0].is_nan() && lost.evaluations < 100);
    }

    #[test]
    fn a_solver_has_one_name() {
        let names = [
            "euler",
            "heun",
            "heun-edm",
            "midpoint",
            "rk4",
            "rk45",
            "dpm-solver-2",
            "dpm-solver-fast",
            "deis-3",
        ];
        for (solver, name) in <Solver as clap::ValueEnum>::value_variants().iter().zip(names) {
            assert_eq!(serde_json::to_value(solver).unwrap(), name);
            assert_eq!(<Solver as clap::ValueEnum>::from_str(name, false), Ok(*solver));
            assert_eq!(solver.to_string(), name);
        }
    }
}
