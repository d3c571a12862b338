//! What a TraFlow network is.
//!
//! A network is data: a [`Graph`](graph::Graph) is a list of nodes, node *i* reads only nodes before *i*, and the last
//! one is the output. The trainer, the exporter and the runtime are three readers of that one list.
//!
//! | module | holds | needs |
//! |---|---|---|
//! | [`op`] | the operations and their one shape rule | – |
//! | [`coefficient`] | numbers that follow from a time alone | – |
//! | [`winograd`] | sizes of Winograd's convolution | – |
//! | [`noise`] | the numbers that a picture starts from: counter-based and made of integers | – |
//! | [`quant`] | what a network of 8-bit integers computes with | – |
//! | [`model`] | the checked, zero-copy view of a model file | – |
//! | [`graph`], [`unet`] | building a network from its configuration | `alloc` |
//! | [`plan`] | where each value lies in the arena | `alloc` |
//! | [`mod@write`] | the writer of model files | `alloc` |
//! | [`checkpoint`] | trained weights, between the trainer and the exporter | `std` |
//! | [`formats`] | how integers stand for a network's numbers, between the exporter and the trainer | `std` |
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

#[cfg(feature = "alloc")]
extern crate no_std_compat as std;

pub mod coefficient;
pub mod model;
pub mod noise;
pub mod op;
pub mod quant;
pub mod winograd;

#[cfg(feature = "alloc")]
pub mod graph;
#[cfg(feature = "alloc")]
pub mod plan;
#[cfg(feature = "alloc")]
pub mod unet;
#[cfg(feature = "alloc")]
pub mod write;

#[cfg(feature = "std")]
pub mod checkpoint;
#[cfg(feature = "std")]
pub mod file;
#[cfg(feature = "std")]
pub mod formats;
