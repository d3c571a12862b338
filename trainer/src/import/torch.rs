//! Tensors of a file that PyTorch saved. Its pickle is read as data; nothing in it is run.

use std::path::Path;

use anyhow::{Context, Result, bail};
use half::{bf16, f16};
use pytorch_reader::{DType, PytorchReader, Tensor};
use traflow_graph::checkpoint::Tensors;

/// Reads all tensors of numbers with a point; a tensor in a dictionary of the file has the dictionary's name before its
/// own.
///
/// # Errors
/// Where the file cannot be read, or a value is not finite.
pub(super) fn read(path: &Path) -> Result<Tensors> {
    let reader = PytorchReader::new(path).with_context(|| path.display().to_string())?;
    let mut tensors = Tensors::new();
    for (name, tensor) in reader.into_tensors() {
        // Counters and the like are of no use to a network.
        if let Some(values) = values(&tensor).with_context(|| path.display().to_string())? {
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                bail!("{}: tensor {name:?} has {} at {index}", path.display(), values[index]);
            }
            tensors.insert(name, (tensor.shape().to_vec(), values));
        }
    }
    Ok(tensors)
}

fn values(tensor: &Tensor) -> Result<Option<Vec<f32>>> {
    let bytes = || tensor.read();
    Ok(Some(match tensor.dtype() {
        DType::F64 => bytes()?.as_chunks().0.iter().map(|b| f64::from_ne_bytes(*b) as f32).collect(),
        DType::F32 => bytes()?.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect(),
        DType::F16 => bytes()?.as_chunks().0.iter().map(|b| f16::from_ne_bytes(*b).to_f32()).collect(),
        DType::BF16 => bytes()?.as_chunks().0.iter().map(|b| bf16::from_ne_bytes(*b).to_f32()).collect(),
        _ => return Ok(None),
    }))
}
