//! TraFlow on boards that QEMU emulates: what the programs in `bin` share.
#![cfg_attr(target_os = "none", no_std)]

use core::fmt;

use sha2::Digest as _;
use sha2::Sha256;
use traflow_runtime::{Embedded, Picture};

#[cfg(target_os = "none")]
pub mod board;
pub mod draw;
#[cfg(feature = "lm3s6965evb")]
pub mod oled;
#[cfg(feature = "virt64")]
pub mod ramfb;

/// The model that programs have in them: `TRAFLOW_MODEL`, or a small one of random weights.
pub const MODEL: Embedded = traflow_runtime::include_model!(env!("TRAFLOW_MODEL"));

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
