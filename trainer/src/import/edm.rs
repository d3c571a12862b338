//! EDM's names, and the configuration that follows from them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use traflow_graph::op::Embedding;
use traflow_graph::unet::{Architecture, Decoder, Encoder, Unet, Variant};

use super::{Named, Options, Preconditioning, Rows, Source, small};

pub(super) fn named(tensors: BTreeMap<String, Source>, options: &Options) -> Result<Named> {
    let scaled_labels = !tensors.contains_key("out_conv.weight");
    let filter = options.filter.clone();
    Ok(Named { tensors, rows: Rows::KindInside, groups: None, filter, scaled_labels })
}

/// The configuration of a network with these tensors.
pub(super) fn configuration(
    named: &Named,
    preconditioning: Preconditioning,
    options: &Options,
) -> Result<Unet> {
    let tensors = &named.tensors;
    let shape = |name: &str| -> Result<&[usize]> {
        let source = tensors.get(name).with_context(|| format!("tensor {name:?} is missing"))?;
        ensure!(
            source.shape.len() >= 2,
            "tensor {name:?} has shape {:?}, not that of a matrix",
            source.shape
        );
        Ok(&source.shape)
    };
    let has = |name: &str| tensors.contains_key(name);
    let size = tensors.keys().find_map(|name| {
        let size = name.strip_prefix("enc.")?.strip_suffix("_conv.weight")?.split_once('x')?.0;
        size.parse::<u16>().ok()
    });
    let size = size.context("tensor \"enc.…_conv.weight\" is missing")?;
    let at = |level: usize, what: &str| {
        let size = size.checked_shr(level as u32).unwrap_or(0);
        format!("{size}x{size}_{what}")
    };
    let [width, embedding] = shape("map_layer0.weight")?[..2] else { bail!("no matrix") };
    let first = shape(&format!("enc.{}", at(0, "conv.weight")))?;
    let adm = has("out_conv.weight");
    // ADM embeds the time in as many channels as `base`; the first level of DDPM++ has as many.
    let base = if adm { embedding } else { first[0] };
    ensure!(base > 0, "tensor \"map_layer0.weight\" is empty");
    let multiple = |size: usize, what: &str| -> Result<u16> {
        ensure!(size.is_multiple_of(base), "{what}: {size} channels are no multiple of {base}");
        small(size / base, what)
    };
    let levels =
        (0..8).take_while(|&level| has(&format!("enc.{}", at(level, "block0.conv0.weight")))).count();
    let blocks = |level: usize| {
        (0..64)
            .take_while(|block| has(&format!("enc.{}", at(level, &format!("block{block}.conv0.weight")))))
            .count()
    };
    let mut mult = Vec::new();
    for level in 0..levels {
        let name = format!("enc.{}", at(level, "block0.conv0.weight"));
        mult.push(multiple(shape(&name)?[0], &name)?);
    }
    ensure!(levels > 0, "tensor {:?} is missing", format!("enc.{}", at(0, "block0.conv0.weight")));
    let attends = |level: &usize| has(&format!("enc.{}", at(*level, "block0.qkv.weight")));
    let count = |name: &str| match has(name) {
        true => small(shape(name)?[1], name),
        false => Ok(0),
    };
    let architecture = match (adm, has("map_noise.freqs")) {
        (true, _) => Architecture::Adm,
        (false, true) => Architecture::Ncsnpp,
        (false, false) => Architecture::Ddpmpp,
    };
    let (head, level) = preconditioning.coordinates();
    let mut unet = Unet {
        architecture,
        image: [small(first[1], "channels of the picture")?, size, size],
        base: small(base, "base")?,
        mult,
        blocks: small(blocks(0), "blocks")?,
        attention: (0..levels).filter(attends).map(|level| size >> level).collect(),
        augment_labels: count("map_augment.weight")?,
        labels: count("map_label.weight")?,
        head,
        level,
        ..Unet::default()
    };
    let encoder = match () {
        () if has(&format!("enc.{}", at(1, "aux_residual.weight"))) => Encoder::Residual,
        () if has(&format!("enc.{}", at(1, "aux_skip.weight"))) => Encoder::Skip,
        () => Encoder::Standard,
    };
    let skips = levels > 1 && has(&format!("dec.{}", at(levels - 1, "aux_conv.weight")));
    let decoder = if skips { Decoder::Skip } else { Decoder::Standard };
    let filter = match tensors.iter().find(|(name, _)| name.ends_with(".resample_filter")) {
        Some((name, source)) => Some(taps(source).with_context(|| format!("tensor {name:?}"))?),
        None => named.filter.clone(),
    };
    let of_family = |value: u16, usual: u16| (value != usual).then_some(value);
    unet.variant = Variant {
        embedding: None::<Embedding>,
        embedding_mult: of_family(multiple(embedding, "map_layer0.weight")?, unet.embedding_mult()),
        time_mult: of_family(multiple(width, "map_layer0.weight")?, unet.time_mult()),
        encoder: (encoder != unet.encoder() && !adm).then_some(encoder),
        decoder: (decoder != unet.decoder()).then_some(decoder),
        filter: filter.filter(|filter| filter != unet.filter()),
        head_channels: options.head_channels.filter(|_| adm),
        groups: named.groups,
    };
    Ok(unet)
}

/// The taps of a filter whose outer product with itself, with sum 1, is this square.
fn taps(square: &Source) -> Result<Vec<i16>> {
    let size = square.shape.last().copied().unwrap_or(0);
    ensure!(
        size > 0 && square.values.len() == size * size,
        "it has shape {:?}, which is no square",
        square.shape
    );
    let sums: Vec<f32> = square.values.chunks_exact(size).map(|row| row.iter().sum()).collect();
    let whole = |scale: &u16| {
        sums.iter().all(|sum| {
            let tap = sum * f32::from(*scale);
            (tap - tap.round()).abs() < 1e-3
        })
    };
    let scale = (1..=4096).find(whole).context("its filter is not one of small whole numbers")?;
    Ok(sums.iter().map(|sum| (sum * f32::from(scale)).round() as i16).collect())
}
