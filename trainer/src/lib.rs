//! x
pub mod kernels;
pub mod network;
