//! guided-diffusion's names become EDM's. Its networks are ADM, with 32 groups in every norm.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

use super::{AttentionOrder, Named, Options, Rows, Source};

/// Parts of a residual block and of an attention block, there and in EDM.
const PARTS: [(&str, &str); 9] = [
    ("in_layers.0", "norm0"),
    ("in_layers.2", "conv0"),
    ("emb_layers.1", "affine"),
    ("out_layers.0", "norm1"),
    ("out_layers.3", "conv1"),
    ("skip_connection", "skip"),
    ("norm", "norm2"),
    ("qkv", "qkv"),
    ("proj_out", "proj"),
];

pub(super) fn named(tensors: BTreeMap<String, Source>, options: &Options) -> Result<Named> {
    let size = options.size.context("its names do not tell the size of the pictures: say --size")?;
    if let Some(name) =
        tensors.keys().find(|name| name.ends_with(".0.op.weight") || name.contains(".conv.weight"))
    {
        bail!("tensor {name:?} is of resampling by convolutions; only resblock_updown True is supported");
    }
    let count = |side: &str| (0..).take_while(|i| tensors.contains_key(&first(side, *i))).count();
    let outputs = count("output_blocks");
    // Doubling blocks come after the last block of each level but the first.
    let doubles = |block: &usize| {
        (1..3).any(|part| tensors.contains_key(&format!("output_blocks.{block}.{part}.in_layers.0.weight")))
    };
    let of_level = (0..outputs).find(doubles).map_or(outputs, |last| last + 1);
    ensure!(
        of_level > 1 && outputs.is_multiple_of(of_level),
        "{outputs} output_blocks are not the same number for each level"
    );
    let (levels, blocks) = (outputs / of_level, of_level - 1);
    let at = |side: &str, level: usize, what: &str| format!("{side}.{0}x{0}_{what}", size >> level.min(15));

    let mut places = BTreeMap::new();
    places.insert("input_blocks.0.0".to_owned(), at("enc", 0, "conv"));
    for (from, to) in [
        ("time_embed.0", "map_layer0"),
        ("time_embed.2", "map_layer1"),
        ("out.0", "out_norm"),
        ("out.2", "out_conv"),
    ] {
        places.insert(from.to_owned(), to.to_owned());
    }
    for level in 0..levels {
        let lowest = level * (blocks + 1);
        for block in 0..blocks {
            let to = at("enc", level, &format!("block{block}"));
            places.insert(format!("input_blocks.{}", lowest + 1 + block), to);
        }
        places.insert(format!("input_blocks.{}", lowest + 1 + blocks), at("enc", level + 1, "down"));
        for block in 0..=blocks {
            let to = at("dec", level, &format!("block{block}"));
            places.insert(format!("output_blocks.{}", (levels - 1 - level) * of_level + block), to);
        }
    }
    let lowest = levels - 1;
    let mut renamed = BTreeMap::new();
    let mut narrow = false;
    for (name, mut source) in tensors {
        if name == "label_emb.weight" {
            source = transposed(source)?;
            renamed.insert("map_label.weight".to_owned(), source);
            continue;
        }
        let to = rename(&name, &places)
            .or_else(|| middle(&name, &at("dec", lowest, "in0"), &at("dec", lowest, "in1")));
        // The second or third part of an output block is attention, or the doubling block of the level above.
        let to = match to {
            Some(to) if to.contains("#up") => {
                let level = (0..levels).find(|level| to.starts_with(&at("dec", *level, "")));
                let part = to.split_once("#up").map_or("", |(_, part)| part);
                level
                    .and_then(|level| level.checked_sub(1))
                    .map(|above| at("dec", above, &format!("up{part}")))
            }
            to => to,
        };
        narrow |= to.as_ref().is_some_and(|to| to.ends_with(".norm0.weight")) && source.values.len() < 128;
        renamed.insert(to.unwrap_or(name), source);
    }
    let rows = match options.attention_order {
        AttentionOrder::Legacy => Rows::HeadOutside,
        AttentionOrder::New => Rows::KindOutside,
    };
    let groups = narrow.then_some(32);
    Ok(Named { tensors: renamed, rows, groups, filter: options.filter.clone(), scaled_labels: false })
}

fn first(side: &str, block: usize) -> String {
    format!("{side}.{block}.0.in_layers.0.weight")
}

/// EDM's name of a tensor of an input or output block; a doubling block's has `#up` where its level has to be found.
fn rename(name: &str, places: &BTreeMap<String, String>) -> Option<String> {
    let (node, kind) = name.rsplit_once('.')?;
    if let Some(to) = places.get(node) {
        return Some(format!("{to}.{kind}"));
    }
    let mut words = node.splitn(4, '.');
    let (side, block, part, rest) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let to = places.get(&format!("{side}.{block}"))?;
    let part_of_edm = PARTS.iter().find(|(from, _)| *from == rest)?.1;
    let doubles = side == "output_blocks" && part != "0" && rest.contains('_') && rest != "proj_out";
    Some(if doubles { format!("{to}#up.{part_of_edm}.{kind}") } else { format!("{to}.{part_of_edm}.{kind}") })
}

fn middle(name: &str, in0: &str, in1: &str) -> Option<String> {
    let (node, kind) = name.strip_prefix("middle_block.")?.rsplit_once('.')?;
    let (block, rest) = node.split_once('.')?;
    let part = PARTS.iter().find(|(from, _)| *from == rest)?.1;
    let to = if block == "2" { in1 } else { in0 };
    Some(format!("{to}.{part}.{kind}"))
}

/// `[n, m]` becomes `[m, n]`.
pub(super) fn transposed(source: Source) -> Result<Source> {
    let [n, m] = source.shape[..] else {
        bail!("tensor {:?} has shape {:?}, not that of a matrix", source.from.join(", "), source.shape);
    };
    let values = (0..n * m).map(|i| source.values[i % n * m + i / n]).collect();
    Ok(Source { shape: vec![m, n], values, ..source })
}
