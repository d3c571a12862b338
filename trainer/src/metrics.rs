//! How good pictures are.

pub mod frechet;
pub mod samples;
