//! Teachers from elsewhere: weights that others trained become a velocity of the rectified flow.
//!
//! A file's names say what family it is of. The names of score_sde and of guided-diffusion are first turned into EDM's,
//! from which the network's configuration follows; what the numbers do not say (the preconditioning, where the file has no
//! metadata, or the size of the pictures) is asked for. The weights stay as they are, but for the order of queries, keys
//! and values and a few factors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use traflow_graph::checkpoint::{self, Tensors, Texts};
use traflow_graph::coefficient::{Head, Level};
use traflow_graph::unet::{Architecture, Unet};

pub mod check;
mod edm;
mod guided;
mod score_sde;
mod torch;

/// What the file does not say of itself.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What the network was trained to give; the metadata `precond` of the file, where it has one.
    pub preconditioning: Option<Preconditioning>,
    /// Height and width of the pictures; EDM's names have it.
    pub size: Option<u16>,
    /// Filter of resampling, in any scale; EDM's files have it.
    pub filter: Option<Vec<i16>>,
    /// Channels of an attention head of ADM; 64 where it is not said.
    pub head_channels: Option<u16>,
    /// Order of queries, keys and values in guided-diffusion's files.
    pub attention_order: AttentionOrder,
}

/// What a network was trained to give, and what it is told of the noise (EDM's Table 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Preconditioning {
    /// EDM.
    Edm,
    /// Variance preserving: the noise; score_sde's `vp`.
    Vp,
    /// Variance exploding: score_sde's `ve`.
    Ve,
    /// Improved DDPM: the noise, with the cosine schedule.
    Iddpm,
    /// Velocity from noise to data at 999 (1 - t): RectifiedFlow and SlimFlow.
    RectifiedFlow,
}

/// Order of the channels that queries, keys and values of guided-diffusion come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AttentionOrder {
    /// For each head its queries, keys and values (`use_new_attention_order False`).
    #[default]
    Legacy,
    /// The queries of all heads, then the keys, then the values.
    New,
}

/// A network that was read from elsewhere.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The network.
    pub unet: Unet,
    /// Its parameters.
    pub tensors: Tensors,
    /// Names of tensors in the file that were taken, each with what it became.
    pub taken: Vec<(String, String)>,
    /// Names of tensors in the file that the network does not need.
    pub left: Vec<String>,
    /// Family of the names: `edm`, `score_sde` or `guided-diffusion`.
    pub family: &'static str,
    /// What the network was trained to give.
    pub preconditioning: Preconditioning,
}

/// A tensor of the file, or what was made of several.
#[derive(Clone, Debug)]
struct Source {
    /// Names in the file.
    from: Vec<String>,
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// How queries, keys and values lie in the rows of one matrix, from the outer to the inner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    /// Head, channel, kind: EDM.
    KindInside,
    /// Head, kind, channel: guided-diffusion's legacy order.
    HeadOutside,
    /// Kind, head, channel: ours.
    KindOutside,
}

/// A file's tensors under EDM's names, and what its names do not say but its family does.
struct Named {
    tensors: BTreeMap<String, Source>,
    rows: Rows,
    /// Groups of every norm, where they are not min(32, channels / 4).
    groups: Option<u16>,
    /// Filter of resampling, where the file has none.
    filter: Option<Vec<i16>>,
    /// Whether the classes' weights expect labels of length √n, as EDM has them in DDPM++.
    scaled_labels: bool,
}

impl Preconditioning {
    /// By the name in a file's metadata: `edm`, or the class `EDMPrecond`.
    fn parse(name: &str) -> Result<Self> {
        let name = name.to_lowercase();
        let name = name.strip_suffix("precond").unwrap_or(&name).replace('_', "-");
        Self::from_str(&name, true).map_err(|_| {
            anyhow::anyhow!("metadata \"precond\": {name:?} is none of edm, vp, ve, iddpm and rectified-flow")
        })
    }

    fn coordinates(self) -> (Head, Level) {
        match self {
            Preconditioning::Edm => (Head::Edm, Level::Edm),
            Preconditioning::Vp => (Head::Vp, Level::Vp),
            Preconditioning::Ve => (Head::Ve, Level::Ve),
            Preconditioning::Iddpm => (Head::Vp, Level::Iddpm),
            Preconditioning::RectifiedFlow => (Head::U, Level::Reversed),
        }
    }
}

/// Makes a network of the tensors of a file.
///
/// # Errors
/// Where the names are of no known family, where something that the names do not say is not in the options either, or
/// where a tensor is missing or has a shape that does not fit: its name and the reason.
pub fn import(texts: &Texts, tensors: Tensors, options: &Options) -> Result<Imported> {
    let preconditioning = match (options.preconditioning, texts.get("precond")) {
        (Some(preconditioning), _) => preconditioning,
        (None, Some(name)) => Preconditioning::parse(name)?,
        (None, None) => bail!("it does not say what its network was trained to give: say --preconditioning"),
    };
    let families: [(&str, &str, Reader); 3] = [
        ("edm", "map_layer0.weight", edm::named),
        ("score_sde", "all_modules.0.", score_sde::named),
        ("guided-diffusion", "input_blocks.0.0.weight", guided::named),
    ];
    let found = families.into_iter().find_map(|(family, marker, reader)| {
        let place = tensors.keys().find_map(|name| name.find(marker).map(|at| name[..at].to_owned()))?;
        Some((family, reader, place))
    });
    let Some((family, reader, prefix)) = found else {
        let first = tensors.keys().next().map_or("none at all", |name| name.as_str());
        bail!(
            "its tensors are named as in none of EDM, score_sde and guided-diffusion; the first is {first:?}"
        );
    };
    let (mut sources, mut left) = (BTreeMap::new(), Vec::new());
    for (name, (shape, values)) in tensors {
        match name.strip_prefix(&prefix) {
            Some(short) => {
                _ = sources.insert(short.to_owned(), Source { from: vec![name.clone()], shape, values })
            }
            None => left.push(name),
        }
    }
    let mut named = reader(sources, options)?;
    let unet = edm::configuration(&named, preconditioning, options)?;
    let (tensors, taken) = take(&mut named, &unet, preconditioning)?;
    left.extend(named.tensors.into_values().flat_map(|source| source.from));
    Ok(Imported { unet, tensors, taken, left, family, preconditioning })
}

/// Turns a family's names into EDM's.
type Reader = fn(BTreeMap<String, Source>, &Options) -> Result<Named>;

/// Takes every parameter of the network from the named tensors, and the filters that the configuration has.
fn take(
    named: &mut Named,
    unet: &Unet,
    preconditioning: Preconditioning,
) -> Result<(Tensors, Vec<(String, String)>)> {
    let (mut tensors, mut taken) = (Tensors::new(), Vec::new());
    for (name, shape) in checkpoint::parameters(&unet.graph()?) {
        let source = if name == "map_noise.weight" { "map_noise.freqs" } else { &name };
        let Some(mut source) = named.tensors.remove(source) else {
            bail!("tensor {source:?} of shape {shape:?} is missing");
        };
        let (node, is_bias) = match name.strip_suffix(".bias") {
            Some(node) => (node, true),
            None => (name.strip_suffix(".weight").unwrap_or(&name), false),
        };
        let output = node.ends_with("aux_conv") || node == "out_conv";
        if output && source.shape.first() == Some(&(2 * shape[0])) {
            // The second half is the variance that improved DDPM learns, which no velocity needs.
            source.shape[0] = shape[0];
            source.values.truncate(source.values.len() / 2);
        }
        let (found, from) = (&source.shape, source.from.join(", "));
        let fits = shape.starts_with(found) && shape[found.len()..].iter().all(|&size| size == 1);
        ensure!(fits, "tensor {from:?} has shape {found:?} where the network has {shape:?}");
        let mut values = source.values;
        if node.ends_with(".qkv") {
            values = reorder(values, shape[0], named.rows, heads(unet, shape[0] / 3));
        }
        if node == "map_label" && !is_bias && named.scaled_labels {
            let factor = f32::from(unet.labels).sqrt();
            values.iter_mut().for_each(|value| *value *= factor);
        }
        if output && preconditioning == Preconditioning::RectifiedFlow {
            values.iter_mut().for_each(|value| *value = -*value);
        }
        taken.extend(source.from.into_iter().map(|from| (from, name.clone())));
        tensors.insert(name, (shape, values));
    }
    let is_filter = |name: &String| name.ends_with(".resample_filter");
    for name in named.tensors.keys().filter(|name| is_filter(name)).cloned().collect::<Vec<_>>() {
        let filter = named.tensors.remove(&name).into_iter().flat_map(|source| source.from);
        taken.extend(filter.map(|from| (from, "filter".to_owned())));
    }
    Ok((tensors, taken))
}

fn heads(unet: &Unet, channels: usize) -> usize {
    match unet.architecture {
        Architecture::Adm => (channels / usize::from(unet.variant.head_channels.unwrap_or(64))).max(1),
        _ => 1,
    }
}

/// Rows of queries, keys and values in our order: kind, head, channel.
fn reorder(values: Vec<f32>, rows: usize, order: Rows, heads: usize) -> Vec<f32> {
    let (row, channels) = (values.len() / rows, rows / 3 / heads);
    let place = |kind: usize, head: usize, channel: usize| match order {
        Rows::KindInside => (head * channels + channel) * 3 + kind,
        Rows::HeadOutside => (head * 3 + kind) * channels + channel,
        Rows::KindOutside => (kind * heads + head) * channels + channel,
    };
    let places = (0..3).flat_map(|kind| {
        (0..heads).flat_map(move |head| (0..channels).map(move |channel| place(kind, head, channel)))
    });
    places.flat_map(|place| values[place * row..][..row].iter().copied()).collect()
}

/// Reads the tensors of a safetensors or PyTorch file and what it says of them.
///
/// # Errors
/// Where the file cannot be read.
pub fn read(path: &Path) -> Result<(Texts, Tensors)> {
    let mut start = [0; 9];
    let known = File::open(path).and_then(|mut file| file.read_exact(&mut start));
    // torch.save writes a zip archive, and wrote a pickle. Safetensors have the length of a JSON object, which may begin
    // as these do, and the object.
    if known.is_ok() && start[8] != b'{' && (start.starts_with(b"PK") || start[0] == 0x80) {
        return Ok((Texts::new(), torch::read(path)?));
    }
    Ok(checkpoint::read_tensors(path)?)
}

/// A number of channels or the like that fits a configuration.
fn small(size: usize, what: &str) -> Result<u16> {
    u16::try_from(size).ok().with_context(|| format!("{what}: {size} is too large"))
}
