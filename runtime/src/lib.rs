//! Runs TraFlow model files.
//!
//! [`Model::new`] checks the bytes of a file, [`Engine::new`] takes memory for the values, and
//! [`Engine::generate`] makes a picture from a seed. There is no heap, no thread and no dependency on an operating
//! system; after the check nothing can fail.
//!
//! ```no_run
//! use traflow_runtime::{Engine, Model};
//!
//! let file = std::fs::read("digits.traflow")?;
//! let model = Model::new(&file)?;
//! let mut arena = vec![0; Engine::arena_bytes(&model)];
//! let mut engine = Engine::new(model, &mut arena)?;
//! let picture: &[f32] = engine.generate(7, 1)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A file of integers runs in an [`IntegerEngine`], which has no instruction of floating point and gives the same
//! picture on every machine, to the bit.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(test, feature = "std"))]
extern crate std;

mod cpu;
mod embedded;
mod engine;
mod integer;
pub mod kernels;
mod math;
pub mod simd;
mod tiles;
mod vector;

pub use cpu::Cpu;
#[cfg(feature = "threads")]
pub use cpu::ThreadsError;
pub use embedded::Embedded;
pub use engine::{Engine, EngineError, Steps, bytes};
pub use integer::{IntegerEngine, Picture, SelfTestError, Visit, digest};
pub use simd::{Isa, IsaError};
pub use traflow_graph::model::{Aligned, Model, ModelError, Node};
pub use traflow_graph::noise::Mix;
pub use traflow_graph::op::Shape;
