//! TraFlow on boards that QEMU emulates: what the programs in `bin` share.
#![cfg_attr(target_os = "none", no_std)]

use traflow_runtime::Embedded;

#[cfg(target_os = "none")]
pub mod board;
pub mod draw;
#[cfg(feature = "lm3s6965evb")]
pub mod oled;
#[cfg(feature = "virt64")]
pub mod ramfb;

/// The model that programs have in them: `TRAFLOW_MODEL`, or a small one of random weights.
pub const MODEL: Embedded = traflow_runtime::include_model!(env!("TRAFLOW_MODEL"));

/// SHA-256 is not needed to compare: the digest of a picture's bytes, FNV-1a of 64 bits.
pub fn fingerprint(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
