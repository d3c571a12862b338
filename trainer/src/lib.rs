//! The TraFlow trainer: everything that learns.
//!
//! Stages meet in files. [`teacher`] trains a rectified flow on pictures, [`pairs`] solves its ODE for many seeds,
//! [`distill`] trains a student that goes from noise to picture in one step, and [`evaluate`] judges both. The network
//! itself is defined in `traflow-graph`; [`network`] interprets it with Burn's tensors.

pub mod boards;
pub mod data;
pub mod device;
pub mod distill;
pub mod evaluate;
pub mod features;
pub mod flow;
pub mod import;
pub mod initial;
pub mod kernels;
pub mod loss;
pub mod metrics;
pub mod network;
pub mod optimiser;
pub mod pairs;
pub mod picture;
pub mod plan;
pub mod run;
pub mod sample;
pub mod solver;
pub mod teacher;
