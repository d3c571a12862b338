//! An imported network beside what its reference implementation gives for the same inputs.

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use traflow_graph::checkpoint::{Checkpoint, Tensors};

use crate::flow;
use crate::initial;
use crate::network::Times;

/// The largest errors over the pictures of a file: of each picture the largest difference of an element, as a part of the
/// largest element of the reference. `None` where the file has no such reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    /// Number of pictures.
    pub pictures: usize,
    /// Of the velocity v(x_t, t).
    pub velocity: Option<f64>,
    /// Of the picture x_t - t v that the velocity points to.
    pub denoised: Option<f64>,
}

impl Errors {
    /// The larger one.
    pub fn largest(&self) -> f64 {
        let errors = [self.velocity, self.denoised].into_iter().flatten();
        errors.fold(0.0, |worst, e| if e.is_nan() { f64::INFINITY } else { worst.max(e) })
    }
}

/// Runs the network on the inputs of `io` and compares. Inputs are `x_t` and `t`, or `x_edm` and `sigma`, and `labels`;
/// references `velocity` and `denoised`.
///
/// # Errors
/// Where a tensor is missing or has another shape than the network's pictures.
pub fn check(checkpoint: &Checkpoint, io: &Tensors, device: &Device) -> Result<Errors> {
    let shape = checkpoint.unet.image();
    let network = initial::from_checkpoint(checkpoint, device)?;
    let times = match (io.get("t"), io.get("sigma")) {
        (Some((_, t)), _) => t.clone(),
        (None, Some((_, sigma))) => sigma.iter().map(|sigma| sigma / (1.0 + sigma)).collect(),
        (None, None) => anyhow::bail!("neither tensor \"t\" nor \"sigma\" is there"),
    };
    let n = times.len();
    let pictures = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some((found, values)) = io.get(name) else { return Ok(None) };
        ensure!(
            n > 0 && values.len() == n * shape.elements(),
            "tensor {name:?} has shape {found:?}, not that of {n} pictures of {shape}"
        );
        Ok(Some(values.clone()))
    };
    let x = match (pictures("x_t")?, pictures("x_edm")?) {
        (Some(x), _) => x,
        (None, Some(x)) => {
            let left = |i: usize| 1.0 - times[i / shape.elements()];
            x.iter().enumerate().map(|(i, x)| x * left(i)).collect()
        }
        (None, None) => anyhow::bail!("neither tensor \"x_t\" nor \"x_edm\" is there"),
    };
    let network = match io.get("labels") {
        Some((found, labels)) => {
            let count = usize::from(checkpoint.unet.labels);
            ensure!(labels.len() == n * count, "tensor \"labels\" has shape {found:?}, not [{n}, {count}]");
            network.with_class_rows(labels.clone())
        }
        None => network,
    };
    let t = Tensor::<1>::from_floats(times.as_slice(), device);
    let velocity = network
        .forward(flow::pictures(x.clone(), n, shape, device), &Times { t: t.clone(), s: t })
        .try_into_vec_as::<f32>()?;
    let t = |i: usize| times[i / shape.elements()];
    let denoised: Vec<f32> = velocity.iter().enumerate().map(|(i, v)| x[i] - t(i) * v).collect();
    let error = |found: &[f32], reference: Option<Vec<f32>>| {
        reference.map(|reference| {
            let pairs = found.chunks_exact(shape.elements()).zip(reference.chunks_exact(shape.elements()));
            pairs.map(|(found, reference)| relative(found, reference)).fold(0.0, f64::max)
        })
    };
    let errors = Errors {
        pictures: n,
        velocity: error(&velocity, pictures("velocity")?),
        denoised: error(&denoised, pictures("denoised")?),
    };
    errors.velocity.or(errors.denoised).context("neither tensor \"velocity\" nor \"denoised\" is there")?;
    Ok(errors)
}

/// The largest difference as a part of the largest element of the reference; infinite where it is not a number.
fn relative(found: &[f32], reference: &[f32]) -> f64 {
    let largest = reference.iter().fold(0.0f64, |largest, x| largest.max(f64::from(x.abs())));
    let differences = found.iter().zip(reference).map(|(a, b)| f64::from((a - b).abs()) / largest);
    differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) })
}
