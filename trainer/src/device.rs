//! The device that computes, chosen when a program runs.

use std::panic::resume_unwind;
use std::thread;

use anyhow::{Result, bail};
use burn::tensor::Device;
#[cfg(any(feature = "wgpu", feature = "cuda"))]
use burn::tensor::DeviceType;

use crate::kernels;

/// Devices by name; what is compiled in is a cargo feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[non_exhaustive]
pub enum DeviceName {
    /// Burn's CPU device, with kernels of our own for convolution and group norm.
    #[default]
    Flex,
    /// Burn's older CPU device: slow, a second opinion (feature `ndarray`).
    Ndarray,
    /// Any GPU through WebGPU (feature `wgpu`).
    Wgpu,
    /// NVIDIA GPUs (feature `cuda`).
    Cuda,
}

impl DeviceName {
    /// Opens the device.
    ///
    /// # Errors
    /// Where it is not compiled in, or the machine has none. Burn would panic in one of its threads at first use, so
    /// the device is looked for before it is made.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceName::Flex => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            DeviceName::Ndarray =>
            {
                #[allow(deprecated, reason = "a second opinion, kept as long as Burn keeps it")]
                Ok(Device::ndarray())
            }
            #[cfg(feature = "wgpu")]
            DeviceName::Wgpu => first(DeviceType::Wgpu, "wgpu"),
            #[cfg(feature = "cuda")]
            DeviceName::Cuda => first(DeviceType::Cuda, "cuda"),
            #[allow(unreachable_patterns, reason = "depends on the features")]
            name => {
                let name = format!("{name:?}").to_lowercase();
                bail!("device {name} is not in this program: build it with --features {name}")
            }
        }
    }
}

/// `work` for each item, in order. On the CPU as many items as there are cores are computed side by side: between its
/// kernels, a network leaves all cores but one idle. A GPU computes one after another, in the memory of one.
pub fn for_each<T: Send, R: Send>(
    device: &Device,
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) -> R + Sync,
) -> Vec<R> {
    let mut items = items.into_iter();
    let mut results = Vec::new();
    loop {
        let group: Vec<T> = items.by_ref().take(lanes(device)).collect();
        if group.is_empty() {
            return results;
        }
        thread::scope(|scope| {
            let threads: Vec<_> = group.into_iter().map(|item| scope.spawn(|| work(item))).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            results.extend(joined.map(|result| result.unwrap_or_else(|panic| resume_unwind(panic))));
        });
    }
}

/// How many items [`for_each`] computes side by side.
pub fn lanes(device: &Device) -> usize {
    if !kernels::supported(device) {
        return 1;
    }
    thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
fn first(kind: DeviceType, name: &str) -> Result<Device> {
    match Device::enumerate(kind).into_vec().into_iter().next() {
        Some(device) => Ok(device),
        None => bail!("no {name} device on this machine, or no driver for it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_device_opens() {
        assert!(DeviceName::default().open().is_ok());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_is_not_compiled_in_is_an_error() {
        let error = DeviceName::Cuda.open().unwrap_err().to_string();
        assert_eq!(error, "device cuda is not in this program: build it with --features cuda");
    }
}
