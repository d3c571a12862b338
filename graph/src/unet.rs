//! The U-Nets of the paper, from their configuration.

use std::prelude::v1::*;

use crate::graph::{Graph, GraphError};
use crate::op::Shape;

pub mod ddpmpp;

/// Configuration of a U-Net; everything about the network follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(deny_unknown_fields))]
pub struct Unet {
    /// The family of the network.
    pub architecture: Architecture,
    /// Channels, height and width of the picture.
    pub image: [u16; 3],
    /// Channels of the first level.
    pub base: u16,
    /// Channels of each level, as multiples of `base`; each level has half the resolution of the one before.
    pub mult: Vec<u16>,
    /// Residual blocks of a level; the decoder has one more.
    pub blocks: u16,
    /// Heights at which blocks have attention.
    #[cfg_attr(feature = "std", serde(default))]
    pub attention: Vec<u16>,
    /// Augmentation labels that the network was trained with; at generation they are zero.
    #[cfg_attr(feature = "std", serde(default))]
    pub augment_labels: u16,
    /// How the network is told the target time s.
    #[cfg_attr(feature = "std", serde(default))]
    pub s_conditioning: SConditioning,
}

/// The family of a network, in EDM's notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Architecture {
    /// DDPM++ (EDM's SongUNet with positional embedding and box resampling).
    Ddpmpp,
}

/// How the target time s enters the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SConditioning {
    /// Not at all: a velocity v(x, t), as a teacher has it.
    #[default]
    None,
    /// e = ½ (MLP_t(pe(t)) + MLP_s(pe(s))); MLP_s starts as a copy of MLP_t, so that the untrained student equals its
    /// teacher at s = t (§5.2).
    TiedMean,
}

impl Unet {
    /// Shape of the picture.
    pub fn image(&self) -> Shape {
        let [channels, height, width] = self.image;
        Shape::new(channels, height, width)
    }

    /// The network as a graph. It gives the velocity v(x, t), or the average velocity u(x, t, s) of eq. 6'.
    ///
    /// # Errors
    /// Where sizes do not fit together, the name of the node.
    pub fn graph(&self) -> Result<Graph, GraphError> {
        if self.mult.is_empty() || self.mult.len() > 8 {
            return Err(GraphError::Configuration("mult has 1 to 8 levels"));
        }
        if self.blocks == 0 || self.blocks > 64 {
            return Err(GraphError::Configuration("a level has 1 to 64 blocks"));
        }
        match self.architecture {
            Architecture::Ddpmpp => ddpmpp::graph(self),
        }
    }

    /// The network of a preset, for pictures of `size` × `size`; `None` where there is no such preset.
    pub fn preset(name: &str, size: Option<u16>) -> Option<Self> {
        PRESETS.iter().find(|preset| preset.name == name).map(|preset| preset.unet(size))
    }
}

/// A network by its name.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// Name, as a command takes it.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    base: u16,
    mult: &'static [u16],
    blocks: u16,
    size: u16,
    augment_labels: u16,
}

impl Preset {
    /// The network; without a size, at the preset's own.
    pub fn unet(&self, size: Option<u16>) -> Unet {
        let size = size.unwrap_or(self.size);
        Unet {
            architecture: Architecture::Ddpmpp,
            image: [3, size, size],
            base: self.base,
            mult: self.mult.to_vec(),
            blocks: self.blocks,
            attention: vec![16],
            augment_labels: self.augment_labels,
            s_conditioning: SConditioning::None,
        }
    }
}

/// The networks of Table 9, with the sizes that give its parameter counts, and the teachers; before them two students
/// that are smaller than any of the paper.
pub const PRESETS: &[Preset] = &[
    Preset::student("nano", "student for the smallest devices", 16, &[1, 2, 2], 1),
    Preset::student("small", "student between nano and 3m", 32, &[1, 2, 2], 2),
    Preset::student("3m", "student of Table 9", 64, &[1, 1, 2], 1),
    Preset::student("7m", "student of Table 9", 64, &[1, 2, 2], 2),
    Preset::student("16m", "student of Table 9", 96, &[1, 2, 2], 2),
    Preset::student("28m", "student of Table 9", 128, &[1, 2, 2], 2),
    Preset::student("1-rf", "the 1-rectified-flow teacher of CIFAR-10", 128, &[1, 2, 2, 2], 4),
    Preset {
        augment_labels: 9,
        ..Preset::student("edm-cifar", "EDM's teacher of CIFAR-10", 128, &[2, 2, 2], 4)
    },
    Preset {
        augment_labels: 9,
        size: 64,
        ..Preset::student("edm-ffhq", "EDM's teacher of FFHQ", 128, &[1, 2, 2, 2], 4)
    },
];

impl Preset {
    const fn student(
        name: &'static str,
        about: &'static str,
        base: u16,
        mult: &'static [u16],
        blocks: u16,
    ) -> Self {
        Self { name, about, base, mult, blocks, size: 32, augment_labels: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, size, parameters, GMAC as published in the table of sizes (`docs/distillation.md`).
    const TABLE: [(&str, u16, usize, &str); 16] = [
        ("nano", 32, 317_699, "0.087"),
        ("nano", 64, 317_699, "0.319"),
        ("small", 32, 1_754_147, "0.452"),
        ("small", 64, 1_754_147, "1.699"),
        ("3m", 32, 3_437_123, "0.736"),
        ("3m", 64, 3_536_195, "2.920"),
        ("7m", 32, 6_989_891, "1.751"),
        ("7m", 64, 6_989_891, "6.713"),
        ("16m", 32, 15_707_235, "3.899"),
        ("16m", 64, 15_707_235, "15.044"),
        ("28m", 32, 27_906_179, "6.895"),
        ("28m", 64, 27_906_179, "26.690"),
        ("1-rf", 32, 61_804_419, "10.847"),
        ("edm-cifar", 32, 55_733_891, "21.190"),
        ("edm-ffhq", 64, 61_805_571, "41.861"),
        // The size is the preset's own where none is given.
        ("edm-ffhq", 0, 61_805_571, "41.861"),
    ];

    #[test]
    fn presets_have_the_published_sizes() {
        for (name, size, parameters, gmac) in TABLE {
            let graph = Unet::preset(name, (size > 0).then_some(size)).unwrap().graph().unwrap();
            assert_eq!(graph.parameter_count(), parameters, "{name} at {size}");
            assert_eq!(format!("{:.3}", graph.macs() as f64 / 1e9), gmac, "{name} at {size}");
        }
        assert!(Unet::preset("17m", None).is_none());
    }

    #[test]
    fn the_papers_counter_gives_attention_no_macs() {
        let gmac =
            |name| Unet::preset(name, None).unwrap().graph().unwrap().macs_without_attention() as f64 / 1e9;
        assert_eq!(format!("{:.3}", gmac("16m")), "3.699");
        assert_eq!(format!("{:.3}", gmac("28m")), "6.574");
    }

    #[test]
    fn s_conditioning_costs_one_more_mlp() {
        let extra = [5_248, 20_736, 82_432, 82_432, 185_088, 328_704];
        for (name, extra) in ["nano", "small", "3m", "7m", "16m", "28m"].into_iter().zip(extra) {
            let plain = Unet::preset(name, None).unwrap();
            let student = Unet { s_conditioning: SConditioning::TiedMean, ..plain.clone() };
            let count = |unet: &Unet| unet.graph().unwrap().parameter_count();
            assert_eq!(count(&student) - count(&plain), extra, "{name}");
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let unet = Unet { image: [3, 30, 30], ..Unet::preset("3m", None).unwrap() };
        assert_eq!(
            unet.graph().unwrap_err().to_string(),
            "node 33 (enc.7x7_down.down): 64×15×15 cannot be halved"
        );
        let empty = Unet { mult: Vec::new(), ..Unet::preset("3m", None).unwrap() };
        assert!(empty.graph().is_err());
    }
}
