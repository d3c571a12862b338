//! Sizes of a network before it is trained.

use std::fmt;

use anyhow::Result;
use serde::Serialize;
use traflow_graph::plan::plan;
use traflow_graph::unet::{SConditioning, Unet};

/// Sizes of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Channels, height and width of the picture.
    pub image: [u16; 3],
    /// Parameters without s-conditioning, as tables of teachers and students count them.
    pub parameters: usize,
    /// Parameters that telling the network of s adds.
    pub s_conditioning: usize,
    /// Multiply-accumulates of one evaluation.
    pub macs: u64,
    /// The same by the paper's counter, which gives attention none.
    pub macs_without_attention: u64,
    /// Arena of f32 activations before nodes are fused: an upper bound of what an exported file needs.
    pub arena_bytes: u32,
}

impl Sizes {
    /// Sizes of a network.
    ///
    /// # Errors
    /// Where the configuration gives no network.
    pub fn new(unet: &Unet) -> Result<Self> {
        let told = |s_conditioning| Unet { s_conditioning, ..unet.clone() }.graph();
        let plain = told(SConditioning::None)?;
        let student = told(SConditioning::TiedMean)?;
        Ok(Self {
            image: unet.image,
            parameters: plain.parameter_count(),
            s_conditioning: student.parameter_count() - plain.parameter_count(),
            macs: plain.macs(),
            macs_without_attention: plain.macs_without_attention(),
            arena_bytes: plan(&plain, size_of::<f32>()).bytes,
        })
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let giga = |macs: u64| macs as f64 / 1e9;
        let [channels, height, width] = self.image;
        let parameters = self.parameters;
        writeln!(f, "image            {channels}×{height}×{width}")?;
        writeln!(f, "parameters       {parameters}")?;
        writeln!(f, "  s-conditioning {} more", self.s_conditioning)?;
        writeln!(
            f,
            "  f32, f16, int8 {} KB, {} KB, {} KB",
            parameters / 250,
            parameters / 500,
            parameters / 1000
        )?;
        writeln!(f, "one evaluation   {:.3} GMAC", giga(self.macs))?;
        writeln!(
            f,
            "  by the paper   {:.3} GMAC (attention not counted)",
            giga(self.macs_without_attention)
        )?;
        write!(
            f,
            "arena, f32       at most {} KB (before export fuses nodes)",
            self.arena_bytes.div_ceil(1000)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_the_table() {
        let sizes = Sizes::new(&Unet::preset("16m", None).unwrap()).unwrap().to_string();
        for expected in ["parameters       15707235\n", "185088 more", "3.899 GMAC\n", "3.699 GMAC"] {
            assert!(sizes.contains(expected), "{expected:?} is not in\n{sizes}");
        }
    }
}
