//! Solvers in the variables of noise-predicting networks.
//!
//! With σ = t/(1 - t) and y = x/(1 - t), which are EDM's, the ODE is dy/dσ = ε(y, σ), ε being the predicted noise
//! x + (1 - t) v. These solvers are exact where ε is constant, as DDIM is. σ is infinite at t = 1, and they divide by σ, so
//! they go from [`MAX`] to [`MIN`], EDM's range; what is left at both ends are steps of Euler's method in t.

use super::State;

/// Where the solvers begin.
pub(super) const MAX: f64 = 80.0;

/// Where they end.
pub(super) const MIN: f64 = 0.002;

/// The time t of a σ.
pub(super) fn time(sigma: f64) -> f64 {
    sigma / (1.0 + sigma)
}

/// From t = 1 to 0 through the given σ, which begin at [`MAX`] and end at [`MIN`]: `solve` is handed the first y and ε(y, σ).
/// Returns the data and the times.
fn between_ends<S: State, V: FnMut(&S, f64) -> S>(
    x1: S,
    sigmas: &[f64],
    velocity: &mut V,
    solve: impl FnOnce(S, &mut dyn FnMut(&S, f64) -> S) -> S,
) -> (S, Vec<f64>) {
    let v = velocity(&x1, 1.0);
    let x = x1.add_scaled(&[(time(MAX) - 1.0, &v)]);
    let mut noise = |y: &S, sigma: f64| {
        let x = y.scaled(1.0 / (1.0 + sigma));
        let v = velocity(&x, time(sigma));
        x.add_scaled(&[(1.0 / (1.0 + sigma), &v)])
    };
    let x = solve(x.scaled(1.0 + MAX), &mut noise).scaled(1.0 / (1.0 + MIN));
    let v = velocity(&x, time(MIN));
    let times = std::iter::once(1.0).chain(sigmas.iter().map(|&sigma| time(sigma))).chain([0.0]);
    (x.add_scaled(&[(-time(MIN), &v)]), times.collect())
}

/// N + 1 numbers from `f(MAX)` to `f(MIN)` in equal steps, turned back by `inverse`.
fn grid(steps: usize, f: impl Fn(f64) -> f64, inverse: impl Fn(f64) -> f64) -> Vec<f64> {
    let (first, last) = (f(MAX), f(MIN));
    let place = |n: usize| if steps == 0 { 0.0 } else { n as f64 / steps as f64 };
    (0..=steps).map(|n| inverse(first + place(n) * (last - first))).collect()
}

/// σ whose seventh roots are equally far from each other (Karras et al., Elucidating the Design Space, eq. 5).
fn edm(steps: usize) -> Vec<f64> {
    grid(steps, |sigma| sigma.powf(1.0 / 7.0), |root| root.powi(7))
}

/// σ whose logarithms are equally far from each other.
fn logarithmic(steps: usize) -> Vec<f64> {
    grid(steps, f64::ln, f64::exp)
}

/// EDM's Algorithm 1: Heun's method, with one step of Euler's from the last σ to 0. There are N values of σ.
pub(super) fn heun<S: State>(x1: S, steps: usize, velocity: &mut impl FnMut(&S, f64) -> S) -> (S, Vec<f64>) {
    let sigmas = edm(steps.max(2) - 1);
    between_ends(x1, &sigmas, velocity, |mut y, noise| {
        for pair in sigmas.windows(2) {
            let step = pair[1] - pair[0];
            let e = noise(&y, pair[0]);
            let predicted = noise(&y.add_scaled(&[(step, &e)]), pair[1]);
            y = y.add_scaled(&[(step / 2.0, &e), (step / 2.0, &predicted)]);
        }
        y
    })
}

/// DPM-Solver-2 (Lu et al., DPM-Solver, Algorithm 1), in equal steps of ln σ.
pub(super) fn dpm_solver_2<S: State>(
    x1: S,
    steps: usize,
    velocity: &mut impl FnMut(&S, f64) -> S,
) -> (S, Vec<f64>) {
    let sigmas = logarithmic(steps);
    between_ends(x1, &sigmas, velocity, |y, noise| {
        sigmas.windows(2).fold(y, |y, pair| second_order(y, pair[0], pair[1], noise))
    })
}

/// DPM-Solver-fast (Lu et al., DPM-Solver): equal steps of ln σ, as many of order 3 as `evaluations` allow, and
/// one or two of lower order at the end.
pub(super) fn dpm_solver_fast<S: State>(
    x1: S,
    evaluations: usize,
    velocity: &mut impl FnMut(&S, f64) -> S,
) -> (S, Vec<f64>) {
    let mut orders = vec![3; evaluations / 3];
    match evaluations % 3 {
        0 => drop(orders.splice(orders.len() - 1.., [2, 1])),
        rest => orders.push(rest),
    }
    let sigmas = logarithmic(orders.len());
    between_ends(x1, &sigmas, velocity, |y, noise| {
        sigmas.windows(2).zip(&orders).fold(y, |y, (pair, order)| match order {
            1 => y.add_scaled(&[(pair[1] - pair[0], &noise(&y, pair[0]))]),
            2 => second_order(y, pair[0], pair[1], noise),
            _ => third_order(y, pair[0], pair[1], noise),
        })
    })
}

/// A step of DPM-Solver-2: by the noise in the middle of ln σ.
fn second_order<S: State>(y: S, from: f64, to: f64, noise: &mut dyn FnMut(&S, f64) -> S) -> S {
    let middle = (from * to).sqrt();
    let e = noise(&y, from);
    let e = noise(&y.add_scaled(&[(middle - from, &e)]), middle);
    y.add_scaled(&[(to - from, &e)])
}

/// A step of DPM-Solver-3 (Algorithm 2) with r₁ = 1/3, r₂ = 2/3 and h the step of -ln σ.
fn third_order<S: State>(y: S, from: f64, to: f64, noise: &mut dyn FnMut(&S, f64) -> S) -> S {
    const R1: f64 = 1.0 / 3.0;
    const R2: f64 = 2.0 / 3.0;
    let h = (from / to).ln();
    let (first, second) = (from * (-R1 * h).exp(), from * (-R2 * h).exp());
    // (e^z - 1)/z - 1
    let phi = |z: f64| z.exp_m1() / z - 1.0;
    let e = noise(&y, from);
    let d1 = noise(&y.add_scaled(&[(first - from, &e)]), first).add_scaled(&[(-1.0, &e)]);
    let ahead = y.add_scaled(&[(second - from, &e), (-second * R2 / R1 * phi(R2 * h), &d1)]);
    let d2 = noise(&ahead, second).add_scaled(&[(-1.0, &e)]);
    y.add_scaled(&[(to - from, &e), (-to / R2 * phi(h), &d2)])
}

/// tAB-DEIS (Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator) with the polynomial in t
/// through the last three ε, on their grid of squares in t. Their first steps have lower orders, which would be the order
/// of the whole; here the first two are steps of DPM-Solver-3.
pub(super) fn deis_3<S: State>(
    x1: S,
    steps: usize,
    velocity: &mut impl FnMut(&S, f64) -> S,
) -> (S, Vec<f64>) {
    let sigmas = grid(
        steps,
        |sigma| time(sigma).sqrt(),
        |root| {
            let t = root * root;
            t / (1.0 - t)
        },
    );
    between_ends(x1, &sigmas, velocity, |mut y, noise| {
        let mut known: Vec<(f64, S)> = Vec::new();
        for pair in sigmas.windows(2) {
            let (from, to) = (time(pair[0]), time(pair[1]));
            if let [.., (t2, e2), (t1, e1)] = known.as_slice() {
                let e0 = noise(&y, pair[0]);
                // ∫ dσ, ∫ (t - t₀) dσ and ∫ (t - t₀)(t - t₁) dσ, with dσ = dt/(1 - t)², for Newton's form.
                let [m0, m1, m2] = [0, 1, 2].map(|power| moment(to, power) - moment(from, power));
                let (i1, i2) = (m1 - from * m0, m2 - (from + t1) * m1 + from * t1 * m0);
                // Weights of the divided differences [ε₀, ε₁] and [ε₀, ε₁, ε₂].
                let (w01, w12) = (1.0 / (from - t1), 1.0 / (t1 - t2));
                let w = i2 / (from - t2);
                let newest = (i1 + w) * w01;
                y = y.add_scaled(&[(m0 + newest, &e0), (-newest - w * w12, e1), (w * w12, e2)]);
                known = vec![(*t1, e1.clone()), (from, e0)];
            } else {
                let mut first = None;
                y = third_order(y, pair[0], pair[1], &mut |y, sigma| {
                    let e = noise(y, sigma);
                    first.get_or_insert_with(|| e.clone());
                    e
                });
                known.extend(first.map(|e| (from, e)));
            }
        }
        y
    })
}

/// Indefinite integral of t^power / (1 - t)², for power 0, 1 or 2.
fn moment(t: f64, power: i32) -> f64 {
    let rest = 1.0 - t;
    1.0 / rest + f64::from(power) * rest.ln() - if power == 2 { rest } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_edms() {
        let expected = [
            80.0, 57.586, 40.7856, 28.3746, 19.3525, 12.9101, 8.40094, 5.31519, 3.25682, 1.92334, 1.08817,
            0.585348, 0.296442, 0.139516, 0.0599473, 0.0229345, 0.00752802, 0.002,
        ];
        for (found, expected) in edm(17).into_iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 5e-6, "{found} is not {expected}");
        }
    }
}
