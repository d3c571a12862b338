//! Bytes as a checkpoint: an error of one line, or tensors whose graph can be built.
#![no_main]

use libfuzzer_sys::fuzz_target;
use traflow_graph::checkpoint::{Checkpoint, parameters};

fuzz_target!(|data: &[u8]| {
    match Checkpoint::from_bytes("fuzz", data) {
        Err(error) => assert!(!error.to_string().contains('\n')),
        Ok(checkpoint) => {
            let graph = checkpoint.unet.graph().expect("a network that was checked");
            for (name, shape) in parameters(&graph) {
                checkpoint.tensor(&name, shape.iter().product()).expect("a tensor that was checked");
            }
        }
    }
});
