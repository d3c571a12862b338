//! The U-Nets of the paper, from their configuration.

use std::prelude::v1::*;

use crate::coefficient::{Coefficient, Head, Level};
use crate::graph::{Builder, Graph, GraphError, Value};
use crate::op::{Embedding, Op, Shape, Time};

mod adm;
mod block;
mod ddpmpp;
mod time;

pub use time::TO_SCOPE;

/// Configuration of a U-Net; everything about the network follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Classes of pictures that the network can be asked for; 0 where it is told of none.
    #[cfg_attr(feature = "std", serde(default, skip_serializing_if = "is_default"))]
    pub labels: u16,
    /// How the network is told the target time s.
    #[cfg_attr(feature = "std", serde(default))]
    pub s_conditioning: SConditioning,
    /// What the last convolution gives.
    #[cfg_attr(feature = "std", serde(default, skip_serializing_if = "is_default"))]
    pub head: Head,
    /// How times are told.
    #[cfg_attr(feature = "std", serde(default, skip_serializing_if = "is_default"))]
    pub level: Level,
    /// Where the network departs from its family.
    #[cfg_attr(feature = "std", serde(default, skip_serializing_if = "is_default"))]
    pub variant: Variant,
}

/// The family of a network, in EDM's notation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Architecture {
    /// DDPM++ (EDM's SongUNet with positional embedding and box resampling).
    #[default]
    Ddpmpp,
    /// NCSN++ (EDM's SongUNet with Fourier embedding of twice the width, the filter 1, 3, 3, 1 and a residual encoder).
    Ncsnpp,
    /// ADM (EDM's DhariwalUNet).
    Adm,
}

/// How the target time s enters the network. The untrained student of each kind equals its teacher at s = t.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum SConditioning {
    /// Not at all: a velocity v(x, t), as a teacher has it.
    #[default]
    None,
    /// e = ½ (MLP_t(pe(t)) + MLP_s(pe(s))); MLP_s starts as a copy of MLP_t (§5.2).
    TiedMean,
    /// e = MLP_t(½ (pe(t) + pe(s))): one MLP for both, no parameter more.
    Shared,
    /// As in consistency trajectory models: MLP_s, a copy of MLP_t, and a second affine layer in every block, which starts
    /// as zero.
    Ctm,
    /// e = MLP_t(pe(t)) + MLP_d(pe(t - s)); the last layer of MLP_d starts as zero.
    Delta,
}

/// Departures from what a family has, as networks from elsewhere may have them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(default, deny_unknown_fields))]
pub struct Variant {
    /// Frequencies of the embedding of times.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub embedding: Option<Embedding>,
    /// Width of that embedding, as a multiple of `base`.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub embedding_mult: Option<u16>,
    /// Width of the vector that every block reads, as a multiple of `base`; 4 unless said.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub time_mult: Option<u16>,
    /// What the encoder sees at each level.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub encoder: Option<Encoder>,
    /// What the decoder gives at each level.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub decoder: Option<Decoder>,
    /// Filter of resampling in any scale: symmetric, with 2, 4 or 6 taps.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub filter: Option<Vec<i16>>,
    /// Channels of an attention head of ADM; 64 unless said.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub head_channels: Option<u16>,
    /// Groups of every norm; min(32, channels / 4) unless said.
    #[cfg_attr(feature = "std", serde(skip_serializing_if = "Option::is_none"))]
    pub groups: Option<u16>,
}

/// What the encoder of DDPM++ and NCSN++ sees at each level besides its own features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
pub enum Encoder {
    /// Nothing.
    Standard,
    /// The picture, halved as often as the level is deep.
    Skip,
    /// What it made of the picture at the start of the level above, halved.
    Residual,
}

/// What the decoder of DDPM++ and NCSN++ gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "std", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "std", serde(rename_all = "kebab-case"))]
pub enum Decoder {
    /// A picture at the last level.
    Standard,
    /// The sum of a picture at every level.
    Skip,
}

#[cfg(feature = "std")]
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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
        if self.variant.filter.as_deref().is_some_and(|taps| blur(taps).is_none()) {
            return Err(GraphError::Configuration(
                "a filter is symmetric, has 2, 4 or 6 taps and does not sum to zero",
            ));
        }
        let g = &mut Builder::new();
        let image = g.image(self.image());
        let told = time::told(g, self);
        let network = match self.architecture {
            Architecture::Ddpmpp | Architecture::Ncsnpp => ddpmpp::network,
            Architecture::Adm => adm::network,
        };
        if self.head == Head::U {
            network(g, self, image, told);
        } else {
            let [input, skip, output] = self.factors(g);
            let x = g.push("scaled", Op::Multiply, &[image, input]);
            let f = network(g, self, x, told);
            g.scope("head");
            let f = g.push("output", Op::Multiply, &[f, output]);
            let x = g.push("skip", Op::Multiply, &[image, skip]);
            g.add("velocity", f, x, 1.0);
        }
        core::mem::take(g).finish()
    }

    /// The factors of the head.
    fn factors(&self, g: &mut Builder) -> [Value; 3] {
        g.scope("head");
        let time = g.time(Time::From);
        let factors = [
            ("input_factor", Coefficient::Input(self.head)),
            ("skip_factor", Coefficient::Skip(self.head)),
            ("output_factor", Coefficient::Output(self.head)),
        ];
        factors.map(|(name, coefficient)| g.push(name, Op::Coefficient(coefficient), &[time]))
    }

    /// The network of a preset, for pictures of `size` × `size`; `None` where there is no such preset.
    pub fn preset(name: &str, size: Option<u16>) -> Option<Self> {
        PRESETS.iter().find(|preset| preset.name == name).map(|preset| preset.unet(size))
    }

    /// Frequencies of the embedding of times.
    pub fn embedding(&self) -> Embedding {
        self.variant.embedding.unwrap_or(match self.architecture {
            Architecture::Ddpmpp => Embedding::Positional,
            Architecture::Ncsnpp => Embedding::Fourier,
            Architecture::Adm => Embedding::CosineFirst,
        })
    }

    /// What the encoder sees at each level.
    pub fn encoder(&self) -> Encoder {
        let ncsnpp = self.architecture == Architecture::Ncsnpp;
        self.variant.encoder.unwrap_or(if ncsnpp { Encoder::Residual } else { Encoder::Standard })
    }

    /// What the decoder gives at each level.
    pub fn decoder(&self) -> Decoder {
        self.variant.decoder.unwrap_or(Decoder::Standard)
    }

    /// Width of the embedding of times, as a multiple of `base`.
    pub fn embedding_mult(&self) -> u16 {
        let ncsnpp = self.architecture == Architecture::Ncsnpp;
        self.variant.embedding_mult.unwrap_or(if ncsnpp { 2 } else { 1 })
    }

    /// Width of the vector that every block reads, as a multiple of `base`.
    pub fn time_mult(&self) -> u16 {
        self.variant.time_mult.unwrap_or(4)
    }

    /// Filter of resampling, in any scale.
    pub fn filter(&self) -> &[i16] {
        match &self.variant.filter {
            Some(filter) => filter,
            None if self.architecture == Architecture::Ncsnpp => &[1, 3, 3, 1],
            None => &[1, 1],
        }
    }

    /// What the filter has besides the mean of squares.
    fn blur(&self) -> Option<[f32; 2]> {
        blur(self.filter()).filter(|&factors| factors != [0.0; 2])
    }

    fn attends(&self, level: usize) -> bool {
        self.attention.contains(&self.height(level))
    }

    fn height(&self, level: usize) -> u16 {
        self.image[1] >> level
    }

    /// EDM's name of something at a level.
    fn name(&self, level: usize, what: &str) -> String {
        format!("{0}x{0}_{what}", self.height(level))
    }

    fn scope(&self, side: &str, level: usize, what: &str) -> String {
        format!("{side}.{}", self.name(level, what))
    }
}

/// The factors of [`Op::Blur`] that make these taps of the taps 1, 1: a symmetric filter with an even number of taps is
/// the product of both. `None` where it is no such filter.
fn blur(taps: &[i16]) -> Option<[f32; 2]> {
    let symmetric = taps.iter().eq(taps.iter().rev());
    let sum: f32 = taps.iter().copied().map(f32::from).sum();
    if !symmetric || sum == 0.0 || !matches!(taps.len(), 2 | 4 | 6) {
        return None;
    }
    // q = taps / (1 + z): each coefficient is the tap less the coefficient before it. The sum of q is half that of taps.
    let mut q = [0.0f32; 3];
    for (index, &tap) in taps[..taps.len() / 2].iter().enumerate() {
        q[index] = f32::from(tap) - if index > 0 { q[index - 1] } else { 0.0 };
    }
    let factor = |place: Option<usize>| place.map_or(0.0, |place| q[place] / (sum / 2.0));
    let middle = taps.len() / 2 - 1;
    Some([factor(middle.checked_sub(1)), factor(middle.checked_sub(2))])
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
    architecture: Architecture,
    attention: &'static [u16],
    augment_labels: u16,
    labels: u16,
    head: Head,
    level: Level,
}

impl Preset {
    /// The network; without a size, at the preset's own.
    pub fn unet(&self, size: Option<u16>) -> Unet {
        let size = size.unwrap_or(self.size);
        Unet {
            architecture: self.architecture,
            image: [3, size, size],
            base: self.base,
            mult: self.mult.to_vec(),
            blocks: self.blocks,
            attention: self.attention.to_vec(),
            augment_labels: self.augment_labels,
            labels: self.labels,
            head: self.head,
            level: self.level,
            ..Unet::default()
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
        ..Preset::student("edm-cifar", "EDM's teacher of CIFAR-10", 128, &[2, 2, 2], 4).edm()
    },
    Preset {
        augment_labels: 9,
        size: 64,
        ..Preset::student("edm-ffhq", "EDM's teacher of FFHQ", 128, &[1, 2, 2, 2], 4).edm()
    },
    Preset {
        augment_labels: 9,
        architecture: Architecture::Ncsnpp,
        ..Preset::student("edm-cifar-ve", "EDM's second teacher of CIFAR-10", 128, &[2, 2, 2], 4).edm()
    },
    Preset {
        size: 64,
        architecture: Architecture::Adm,
        attention: &[32, 16],
        labels: 1000,
        ..Preset::student("imagenet", "student of ImageNet", 128, &[1, 2, 2, 4], 2)
    },
    Preset {
        size: 64,
        architecture: Architecture::Adm,
        attention: &[32, 16, 8],
        labels: 1000,
        ..Preset::student("edm-imagenet", "EDM's teacher of ImageNet", 192, &[1, 2, 3, 4], 3).edm()
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
        Self {
            name,
            about,
            base,
            mult,
            blocks,
            size: 32,
            architecture: Architecture::Ddpmpp,
            attention: &[16],
            augment_labels: 0,
            labels: 0,
            head: Head::U,
            level: Level::Flow,
        }
    }

    /// The same with EDM's preconditioning.
    const fn edm(self) -> Self {
        Self { head: Head::Edm, level: Level::Edm, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, size, parameters, GMAC as published in the table of sizes (`docs/distillation.md`).
    const TABLE: [(&str, u16, usize, &str); 18] = [
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
        ("imagenet", 64, 80_685_315, "33.890"),
        ("edm-imagenet", 64, 295_899_267, "109.658"),
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

    /// What the other ways to tell s cost: nothing; an MLP and an affine layer in every block; an MLP.
    #[test]
    fn every_s_conditioning_has_its_cost() {
        let count = |unet: &Unet| unet.graph().unwrap().parameter_count();
        let preset = |name| Unet::preset(name, None).unwrap();
        for (name, mlp, affine) in
            [("3m", 82_432, 345_408), ("16m", 185_088, 1_330_560), ("imagenet", 328_704, 8_667_648)]
        {
            let plain = preset(name);
            let extra = |s_conditioning| count(&Unet { s_conditioning, ..plain.clone() }) - count(&plain);
            assert_eq!(extra(SConditioning::Shared), 0, "{name}");
            assert_eq!(extra(SConditioning::TiedMean), mlp, "{name}");
            assert_eq!(extra(SConditioning::Delta), mlp, "{name}");
            assert_eq!(extra(SConditioning::Ctm), mlp + affine, "{name}");
        }
    }

    /// FIR filters are box filters and a blur.
    #[test]
    fn filters_become_blurs() {
        assert_eq!(blur(&[1, 1]), Some([0.0, 0.0]));
        assert_eq!(blur(&[1, 3, 3, 1]), Some([0.25, 0.0]));
        assert_eq!(blur(&[1, 5, 10, 10, 5, 1]), Some([0.25, 0.0625]));
        for taps in [&[1, 2][..], &[1, 2, 1], &[1, -1, -1, 1], &[], &[1; 8]] {
            assert_eq!(blur(taps), None, "{taps:?}");
        }
    }

    /// The class is told once, however often the time is.
    #[test]
    fn families_and_their_variants_are_graphs() {
        let small = Unet { image: [3, 16, 16], base: 16, mult: vec![1, 2, 2], blocks: 1, ..Unet::default() };
        for architecture in [Architecture::Ddpmpp, Architecture::Ncsnpp, Architecture::Adm] {
            for (encoder, decoder) in [
                (Encoder::Standard, Decoder::Standard),
                (Encoder::Skip, Decoder::Skip),
                (Encoder::Residual, Decoder::Standard),
            ] {
                for filter in [[1, 1].to_vec(), vec![1, 3, 3, 1], vec![1, 5, 10, 10, 5, 1]] {
                    for head in [Head::U, Head::G, Head::Edm] {
                        let variant = Variant {
                            encoder: Some(encoder),
                            decoder: Some(decoder),
                            filter: Some(filter.clone()),
                            ..Variant::default()
                        };
                        let s_conditioning = SConditioning::TiedMean;
                        let unet =
                            Unet { architecture, labels: 5, head, variant, s_conditioning, ..small.clone() };
                        let graph = unet.graph().unwrap();
                        assert_eq!(graph.nodes()[graph.output().index()].shape, unet.image());
                        let classes = graph.nodes().iter().filter(|node| matches!(node.op, Op::Class { .. }));
                        assert_eq!(classes.count(), 1);
                    }
                }
            }
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_errors() {
        let unet = Unet { image: [3, 30, 30], ..Unet::preset("3m", None).unwrap() };
        assert_eq!(
            unet.graph().unwrap_err().to_string(),
            "node 34 (enc.7x7_down.down): 64×15×15 cannot be halved"
        );
        let empty = Unet { mult: Vec::new(), ..Unet::preset("3m", None).unwrap() };
        assert!(empty.graph().is_err());
    }
}
