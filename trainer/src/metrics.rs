//! How good pictures are.

pub mod frechet;
