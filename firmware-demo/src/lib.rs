//! TraFlow on boards that QEMU emulates: what the programs in `bin` share.
#![cfg_attr(target_os = "none", no_std)]

use core::fmt;
use core::ptr::addr_of_mut;
use core::sync::atomic::{AtomicBool, Ordering};

use sha2::Digest as _;
use sha2::Sha256;
use traflow_runtime::{
    Aligned, Embedded, EngineError, IntegerEngine, Model, ModelError, Picture, SelfTestError,
};

#[cfg(target_os = "none")]
pub mod board;
pub mod draw;
#[cfg(feature = "lm3s6965evb")]
pub mod oled;
#[cfg(feature = "virt64")]
pub mod ramfb;

/// The model that programs have in them: `TRAFLOW_MODEL`, or a small one of random weights.
pub const MODEL: Embedded = traflow_runtime::include_model!(env!("TRAFLOW_MODEL"));

/// Why a program ends.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The file is wrong.
    #[error("the model: {0}")]
    Model(#[from] ModelError),
    /// It is right, but not for this engine and this memory.
    #[error("{0}")]
    Engine(#[from] EngineError),
    /// It computes something else than it should.
    #[error("self-test: {0}")]
    SelfTest(#[from] SelfTestError),
    /// Something that the program needs is not there.
    #[error("{0}")]
    Missing(&'static str),
}

impl Failure {
    /// The exit code of QEMU.
    pub fn code(&self) -> u8 {
        match self {
            Self::Model(_) => 1,
            Self::Engine(_) => 2,
            Self::SelfTest(_) => 3,
            Self::Missing(_) => 4,
        }
    }
}

/// An engine for the program's model, in static memory.
///
/// # Errors
/// What is wrong with the model; or that the memory is taken.
pub fn engine() -> Result<IntegerEngine<'static, 'static>, Failure> {
    static mut ARENA: Aligned<[u8; MODEL.arena_bytes()]> = Aligned([0; MODEL.arena_bytes()]);
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(Failure::Missing("the memory of the engine is taken"));
    }
    // SAFETY: this is reached once.
    let arena = unsafe { &mut (*addr_of_mut!(ARENA)).0 };
    Ok(IntegerEngine::new(Model::new(MODEL.bytes())?, arena)?)
}

/// The SHA-256 of a picture's bytes, which `traflow-run --digest` prints of the same model and seed.
pub struct Digest([u8; 32]);

impl Digest {
    /// Of a picture.
    pub fn of(picture: &Picture<'_>) -> Self {
        let mut hash = Sha256::new();
        picture.bytes().for_each(|byte| hash.update([byte]));
        Self(hash.finalize().into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
