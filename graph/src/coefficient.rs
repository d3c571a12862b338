//! Numbers that follow from a time alone: what a network is told of it, and the factors of its head.
//!
//! t = 1 is noise. A network of another family knows the noise by its level σ = t / (1 - t), in the coordinates
//! x_edm = x_t / (1 - t). Both are EDM's ("Elucidating the design space of diffusion-based generative models", Karras
//! et al. 2022, Table 1), whose four preconditionings are here as velocities of the rectified flow.

/// Lowest and highest noise level that a network is told: those of EDM's sampler.
#[cfg(feature = "std")]
const SIGMA: [f64; 2] = [0.002, 80.0];

/// Which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coefficient {
    /// The number that is embedded.
    Level(Level),
    /// c of the head.
    Input(Head),
    /// a of the head.
    Skip(Head),
    /// b of the head.
    Output(Head),
}

/// How the time is told to the network, before it is embedded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
pub enum Level {
    /// 999 t.
    #[default]
    Flow,
    /// 999 (1 - t): rectified-flow networks whose time goes from noise to data.
    Reversed,
    /// ¼ ln σ.
    Edm,
    /// 999 τ, where τ is the time of the variance-preserving process with β from 0.1 to 20 at which the level is σ.
    Vp,
    /// ln ½σ.
    Ve,
    /// 999 - j, where level j of the 1000 of improved DDPM's cosine schedule is nearest to σ.
    Iddpm,
}

/// What the network F gives: u = a x + b F(c x), with factors that depend on t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
pub enum Head {
    /// The velocity: u = F(x).
    #[default]
    U,
    /// The picture: u = (x - F(x)) / t, which is eq. 6 to the letter; t is at least 1e-3.
    G,
    /// EDM's: u = [(t - ¼ (1-t)) / N] x - (½/√N) F(x/√N), N = t² + ¼ (1-t)². It has no pole.
    Edm,
    /// The noise, from a picture of unit variance (VP and improved DDPM): u = (F(x/√N) - x) / (1-t), N = t² + (1-t)².
    Vp,
    /// The noise with its sign changed, from x_edm (VE): u = -(F(x/(1-t)) + x) / (1-t).
    Ve,
}

#[cfg(feature = "std")]
impl Coefficient {
    /// The number at a time in [0, 1].
    pub fn at(self, t: f64) -> f64 {
        match self {
            Coefficient::Level(level) => level.at(t),
            Coefficient::Input(head) => head.factors(t).2,
            Coefficient::Skip(head) => head.factors(t).0,
            Coefficient::Output(head) => head.factors(t).1,
        }
    }

    /// Its derivative, by a central difference whose error is below 1e-8 of it.
    pub fn derivative_at(self, t: f64) -> f64 {
        let h = 1e-6;
        (self.at(t + h) - self.at(t - h)) / (2.0 * h)
    }
}

#[cfg(feature = "std")]
impl Level {
    fn at(self, t: f64) -> f64 {
        let sigma = (t / (1.0 - t).max(f64::MIN_POSITIVE)).clamp(SIGMA[0], SIGMA[1]);
        match self {
            Level::Flow => 999.0 * t,
            Level::Reversed => 999.0 * (1.0 - t),
            Level::Edm => sigma.ln() / 4.0,
            // ln(1 + σ²) = ½ (20 - 0.1) τ² + 0.1 τ.
            Level::Vp => 999.0 * ((0.01 + 39.8 * (sigma * sigma).ln_1p()).sqrt() - 0.1) / 19.9,
            Level::Ve => (sigma / 2.0).ln(),
            Level::Iddpm => 999.0 - nearest(sigma) as f64,
        }
    }
}

#[cfg(feature = "std")]
impl Head {
    /// (a, b, c).
    fn factors(self, t: f64) -> (f64, f64, f64) {
        // Where the noise is above the highest level, the velocity is that of the highest level, for the picture shrunk
        // to it: there x_t is t x1, up to what the noise has left of the data.
        let limit = SIGMA[1] / (1.0 + SIGMA[1]);
        let (clamped, shrunk) = if t > limit { (limit, limit / t) } else { (t, 1.0) };
        let (left, norm) = (1.0 - clamped, (clamped.powi(2) + (1.0 - clamped).powi(2)).sqrt());
        match self {
            Head::U => (0.0, 1.0, 1.0),
            Head::G => {
                let inverse = 1.0 / t.max(1e-3);
                (inverse, -inverse, 1.0)
            }
            Head::Edm => {
                let n = t.powi(2) + 0.25 * (1.0 - t).powi(2);
                ((t - 0.25 * (1.0 - t)) / n, -0.5 / n.sqrt(), 1.0 / n.sqrt())
            }
            Head::Vp => (-shrunk / left, 1.0 / left, shrunk / norm),
            Head::Ve => (-shrunk / left, -1.0 / left, shrunk / left),
        }
    }
}

/// Place of the nearest noise level of improved DDPM's cosine schedule with 1000 steps; 0 is the highest.
#[cfg(feature = "std")]
fn nearest(sigma: f64) -> usize {
    use std::f64::consts::FRAC_PI_2;
    const M: usize = 1000;
    // ᾱ_j = sin²(½π (j / M) / 1.008), u_M = 0, u_{j-1}² = (u_j² + 1) / max(ᾱ_{j-1} / ᾱ_j, 0.001) - 1.
    let alpha = |j: usize| (FRAC_PI_2 * j as f64 / M as f64 / 1.008).sin().powi(2);
    let (mut best, mut distance, mut u) = (M - 1, f64::INFINITY, 0.0f64);
    for j in (0..M).rev() {
        u = ((u * u + 1.0) / (alpha(j) / alpha(j + 1)).max(0.001) - 1.0).sqrt();
        if (u - sigma).abs() > distance {
            break;
        }
        (best, distance) = (j, (u - sigma).abs());
    }
    best
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;

    /// D = x_edm c_skip + c_out F(c_in x_edm) of EDM's Table 1, and v = (x_t - D) / t.
    #[test]
    fn heads_are_the_published_preconditionings() {
        let (x, f) = (0.7, -0.3);
        for t in [0.02, 0.25, 0.6, 0.95, 0.98] {
            let sigma = t / (1.0 - t);
            let x_edm = x / (1.0 - t);
            let root = (sigma * sigma + 1.0f64).sqrt();
            let edm = (sigma * sigma + 0.25f64).sqrt();
            for (head, skip, out, input) in [
                (Head::Edm, 0.25 / (edm * edm), sigma * 0.5 / edm, 1.0 / edm),
                (Head::Vp, 1.0, -sigma, 1.0 / root),
                (Head::Ve, 1.0, sigma, 1.0),
            ] {
                let denoised = skip * x_edm + out * f;
                let expected = (x - denoised) / t;
                let (a, b, c) = head.factors(t);
                assert!(
                    (a * x + b * f - expected).abs() < 1e-10 * expected.abs().max(1.0),
                    "{head:?} at {t}"
                );
                assert!((c * x - input * x_edm).abs() < 1e-12 * (1.0 + c), "{head:?} at {t}");
            }
        }
    }

    #[test]
    fn no_number_has_a_pole() {
        let heads = [Head::U, Head::G, Head::Edm, Head::Vp, Head::Ve];
        let levels = [Level::Flow, Level::Reversed, Level::Edm, Level::Vp, Level::Ve, Level::Iddpm];
        for t in [0.0, 1e-9, 0.5, 80.0 / 81.0, 0.999_999, 1.0] {
            for head in heads {
                for coefficient in
                    [Coefficient::Input(head), Coefficient::Skip(head), Coefficient::Output(head)]
                {
                    assert!(coefficient.at(t).abs() <= 1000.0, "{coefficient:?} at {t}");
                }
            }
            for level in levels {
                assert!(Coefficient::Level(level).at(t).abs() < 1000.0, "{level:?} at {t}");
            }
        }
        // Pure noise is met with the highest level, in unit variance.
        let (a, b, c) = Head::Vp.factors(1.0);
        assert!((c - 1.0).abs() < 1e-3 && (a + b - 1.0).abs() < 1e-9);
    }

    #[test]
    fn levels_are_those_of_their_schedules() {
        let at = |level: Level, sigma: f64| level.at(sigma / (1.0 + sigma));
        assert!((at(Level::Edm, 1.5) - 1.5f64.ln() / 4.0).abs() < 1e-12);
        assert!((at(Level::Ve, 1.5) - 0.75f64.ln()).abs() < 1e-12);
        // σ(τ) = √(exp(½ 19.9 τ² + 0.1 τ) - 1) at τ = 0.5.
        let sigma = (0.5f64 * 19.9 * 0.25 + 0.05).exp_m1().sqrt();
        assert!((at(Level::Vp, sigma) - 499.5).abs() < 1e-9);
        assert_eq!(at(Level::Iddpm, 0.002), 0.0);
        // The schedule without its clamp: 1 + u² = ᾱ_M / ᾱ_j.
        let alpha = |j: f64| (std::f64::consts::FRAC_PI_2 * j / 1000.0 / 1.008).sin().powi(2);
        for j in [50.0, 500.0, 900.0] {
            let u = (alpha(1000.0) / alpha(j) - 1.0).sqrt();
            assert_eq!(at(Level::Iddpm, u * 1.0001), 999.0 - j);
        }
    }

    #[test]
    fn derivatives_are_those_of_the_formulas() {
        let found = Coefficient::Level(Level::Edm).derivative_at(0.3);
        assert!((found - 0.25 / (0.3 * 0.7)).abs() < 1e-8);
        assert!((Coefficient::Level(Level::Flow).derivative_at(0.3) - 999.0).abs() < 1e-6);
        assert!((Coefficient::Skip(Head::G).derivative_at(0.5) + 4.0).abs() < 1e-7);
    }
}
