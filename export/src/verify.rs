//! Compares the pictures of a model file with those of the network as it was trained.

use traflow_graph::model::{Dtype, Model, ModelError, Moment};
use traflow_graph::noise::Noise;
use traflow_runtime::{Engine, EngineError};

use crate::network::Network;
use crate::reference::generate;

/// Pictures that are compared for each number of steps.
const SEEDS: u64 = 3;

/// The most that folding and fusing may change, both sides computed in f64.
pub const FOLDING_LIMIT: f64 = 1e-6;

/// The most that the runtime may be away from the network where the weights have this format.
pub const fn runtime_limit(weights: Dtype) -> f64 {
    match weights {
        Dtype::F32 => 1e-4,
        Dtype::F16 => 5e-3,
        // These have an oracle of their own.
        Dtype::I8 => f64::INFINITY,
    }
}

/// The largest differences from the pictures of the network as it was trained, computed in f64, as parts of the range
/// of those pictures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Number of steps from noise to picture.
    pub steps: usize,
    /// Of the folded and fused network, computed in f64.
    pub folding: f64,
    /// Of the model file, run by the runtime.
    pub runtime: f64,
}

/// Why a file is not the network's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum VerifyError {
    #[error("reading the file back: {0}")]
    Model(ModelError),
    #[error("running the file: {0}")]
    Engine(EngineError),
    #[error("steps {steps}: folding changes the picture by {found:.1e} of its range, more than {limit:.0e}")]
    Folding { steps: usize, found: f64, limit: f64 },
    #[error(
        "steps {steps}: the runtime's picture is {found:.1e} of its range from the network's, more than {limit:.0e}"
    )]
    Runtime { steps: usize, found: f64, limit: f64 },
}

/// Runs the file and both networks for a few seeds at every number of steps.
///
/// # Errors
/// Where the file cannot be read or run, or a difference is above its limit.
pub fn verify(
    trained: &Network,
    exported: &Network,
    file: &[u8],
    weights: Dtype,
    schedules: &[Vec<Moment>],
) -> Result<Vec<Difference>, VerifyError> {
    let mut memory = Vec::new();
    let model = Model::new(crate::aligned(file, &mut memory)).map_err(VerifyError::Model)?;
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena).map_err(VerifyError::Engine)?;

    let mut differences = Vec::new();
    let mut first = 0;
    for schedule in schedules {
        let steps = schedule.len();
        let (mut expected, mut folded, mut run) = (Vec::new(), Vec::new(), Vec::new());
        for seed in 0..SEEDS {
            let mut noise = vec![0.0; model.image().shape().elements()];
            Noise::new(seed).fill(&mut noise);
            // No class, the last, then the one before it.
            let class = (model.classes() as u64).checked_sub(seed).filter(|_| seed > 0).map(|c| c as usize);
            engine.set_class(class).map_err(VerifyError::Engine)?;
            expected.extend(generate(trained, &noise, class, schedule, first));
            folded.extend(generate(exported, &noise, class, schedule, first));
            let picture = engine.run(&noise, steps).map_err(VerifyError::Engine)?;
            run.extend(picture.iter().copied().map(f64::from));
        }
        first += steps;
        let (folding, runtime) = (difference(&folded, &expected), difference(&run, &expected));
        if folding > FOLDING_LIMIT {
            return Err(VerifyError::Folding { steps, found: folding, limit: FOLDING_LIMIT });
        }
        let limit = runtime_limit(weights);
        if runtime > limit {
            return Err(VerifyError::Runtime { steps, found: runtime, limit });
        }
        differences.push(Difference { steps, folding, runtime });
    }
    Ok(differences)
}

/// The largest difference as a part of the range of what was expected; infinite where a number is not finite.
pub(crate) fn difference(found: &[f64], expected: &[f64]) -> f64 {
    let largest = expected.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = largest - expected.iter().copied().fold(f64::INFINITY, f64::min);
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs() / range);
    differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { d.max(worst) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_a_part_of_the_range() {
        assert_eq!(difference(&[1.0, 2.5, 5.0], &[1.0, 2.0, 5.0]), 0.125);
        for wrong in [f64::NAN, f64::INFINITY] {
            assert_eq!(difference(&[1.0, wrong, 5.0], &[1.0, 2.0, 5.0]), f64::INFINITY);
            assert_eq!(difference(&[1.0, 2.0, 5.0], &[wrong, 2.0, 5.0]), f64::INFINITY);
        }
    }
}
