//! Names of score_sde, which RectifiedFlow and SlimFlow keep, become EDM's.
//!
//! There a network is a list of modules in the order in which they run, `all_modules.N`; what a module is follows from its
//! tensors. The blocks are those of BigGAN, as in all published NCSN++ and DDPM++ configurations.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, Result, bail, ensure};

use super::guided::transposed;
use super::{Named, Options, Rows, Source};

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Fourier,
    Linear,
    Convolution,
    Norm,
    Block,
    /// A block with as many channels before as after it, and yet a convolution on its skip.
    Resampling,
    Attention,
    /// A convolution of the halved picture, 3×3 or 1×1.
    Residual,
    Skip,
}

type Module = BTreeMap<String, Source>;

/// The modules that are left, and the tensors that were named.
struct Modules {
    left: VecDeque<(usize, Kind, Module)>,
    named: BTreeMap<String, Source>,
}

pub(super) fn named(tensors: BTreeMap<String, Source>, options: &Options) -> Result<Named> {
    let size = options.size.context("its names do not tell the size of the pictures: say --size")?;
    let (mut modules, mut others) = (BTreeMap::<usize, Module>::new(), BTreeMap::new());
    for (name, source) in tensors {
        let place = name.strip_prefix("all_modules.").and_then(|rest| rest.split_once('.'));
        match place.and_then(|(index, part)| Some((index.parse().ok()?, part))) {
            Some((index, part)) => _ = modules.entry(index).or_default().insert(part.to_owned(), source),
            None => _ = others.insert(name, source),
        }
    }
    let mut left = VecDeque::new();
    for (index, module) in modules {
        let kind =
            kind(&module).with_context(|| format!("all_modules.{index} is no module of NCSN++ or DDPM++"))?;
        left.push_back((index, kind, module));
    }
    let modules = Modules { left, named: others };
    let fourier = modules.left.iter().any(|(_, kind, _)| *kind == Kind::Fourier);
    // NCSN++ resamples with 1, 3, 3, 1; DDPM++ with squares.
    let filter = options.filter.clone().or_else(|| Some(if fourier { vec![1, 3, 3, 1] } else { vec![1, 1] }));
    let tensors = modules.name(size)?;
    Ok(Named { tensors, rows: Rows::KindOutside, groups: None, filter, scaled_labels: false })
}

fn kind(module: &Module) -> Option<Kind> {
    let dimensions = |part: &str| module.get(part).map(|source| source.shape.as_slice());
    let has = |part: &str| module.contains_key(part);
    Some(match (dimensions("weight"), dimensions("W")) {
        (_, Some([_])) => Kind::Fourier,
        (Some([_, _]), _) => Kind::Linear,
        (Some([_]), _) => Kind::Norm,
        (Some([_, _, _, _]), _) => Kind::Convolution,
        _ if has("NIN_0.W") && has("NIN_3.W") => Kind::Attention,
        _ if has("GroupNorm_0.weight") && has("Conv_1.weight") => match dimensions("Conv_2.weight") {
            Some([out, input, ..]) if out == input => Kind::Resampling,
            _ => Kind::Block,
        },
        _ if has("Conv2d_0.weight") => Kind::Residual,
        _ if has("Conv_0.weight") => Kind::Skip,
        _ => return None,
    })
}

impl Modules {
    /// Walks through the list as the network runs.
    fn name(mut self, size: u16) -> Result<BTreeMap<String, Source>> {
        let at =
            |side: &str, level: usize, what: &str| format!("{side}.{0}x{0}_{what}", size >> level.min(15));
        let of = |kind: Kind| self.left.iter().filter(|(_, found, _)| *found == kind).count();
        let levels = of(Kind::Resampling) / 2 + 1;
        let before = self.left.iter().take_while(|(_, kind, _)| *kind != Kind::Resampling);
        let blocks = match levels {
            1 => of(Kind::Block).saturating_sub(3) / 2,
            _ => before.filter(|(_, kind, _)| *kind == Kind::Block).count(),
        };
        if self.next_is(Kind::Fourier) {
            let (_, mut module) = self.take(Kind::Fourier)?;
            if let Some(source) = module.remove("W") {
                self.named.insert("map_noise.freqs".to_owned(), source);
            }
        }
        self.plain(Kind::Linear, "map_layer0")?;
        self.plain(Kind::Linear, "map_layer1")?;
        self.plain(Kind::Convolution, &at("enc", 0, "conv"))?;
        for level in 0..levels {
            for block in 0..blocks {
                self.block(Kind::Block, &at("enc", level, &format!("block{block}")))?;
            }
            if level + 1 < levels {
                self.block(Kind::Resampling, &at("enc", level + 1, "down"))?;
                if self.next_is(Kind::Residual) {
                    self.part(Kind::Residual, "Conv2d_0", &at("enc", level + 1, "aux_residual"))?;
                } else if self.next_is(Kind::Skip) {
                    self.part(Kind::Skip, "Conv_0", &at("enc", level + 1, "aux_skip"))?;
                }
            }
        }
        self.block(Kind::Block, &at("dec", levels - 1, "in0"))?;
        self.block(Kind::Block, &at("dec", levels - 1, "in1"))?;
        for level in (0..levels).rev() {
            for block in 0..=blocks {
                self.block(Kind::Block, &at("dec", level, &format!("block{block}")))?;
            }
            if self.next_is(Kind::Norm) {
                self.plain(Kind::Norm, &at("dec", level, "aux_norm"))?;
                self.plain(Kind::Convolution, &at("dec", level, "aux_conv"))?;
            }
            if level > 0 {
                self.block(Kind::Resampling, &at("dec", level - 1, "up"))?;
            }
        }
        if let Some((index, kind, _)) = self.left.front() {
            bail!("all_modules.{index} is a {kind:?} where the network ends");
        }
        Ok(self.named)
    }

    fn next_is(&self, kind: Kind) -> bool {
        self.left.front().is_some_and(|(_, found, _)| *found == kind)
    }

    /// The next module, which has to be of this kind.
    fn take(&mut self, kind: Kind) -> Result<(usize, Module)> {
        let (index, found, module) = self
            .left
            .pop_front()
            .with_context(|| format!("all_modules end where a {kind:?} should follow"))?;
        ensure!(found == kind, "all_modules.{index} is a {found:?} where a {kind:?} should stand");
        Ok((index, module))
    }

    /// Names the tensors of a module; a part that `name` gives no name stays under the one it had.
    fn put(&mut self, index: usize, module: Module, name: impl Fn(&str) -> Option<String>) {
        for (part, source) in module {
            let name = name(&part).unwrap_or_else(|| format!("all_modules.{index}.{part}"));
            self.named.insert(name, source);
        }
    }

    fn plain(&mut self, kind: Kind, to: &str) -> Result<()> {
        let (index, module) = self.take(kind)?;
        self.put(index, module, |part| Some(format!("{to}.{part}")));
        Ok(())
    }

    fn part(&mut self, kind: Kind, from: &str, to: &str) -> Result<()> {
        let (index, module) = self.take(kind)?;
        self.put(index, module, |part| Some(format!("{to}{}", part.strip_prefix(from)?)));
        Ok(())
    }

    /// A residual block, and the attention that follows it.
    fn block(&mut self, kind: Kind, to: &str) -> Result<()> {
        const PARTS: [(&str, &str); 6] = [
            ("GroupNorm_0", "norm0"),
            ("Conv_0", "conv0"),
            ("Dense_0", "affine"),
            ("GroupNorm_1", "norm1"),
            ("Conv_1", "conv1"),
            ("Conv_2", "skip"),
        ];
        let (index, module) = self.take(kind)?;
        self.put(index, module, |part| {
            let (from, kind) = part.split_once('.')?;
            let to_part = PARTS.iter().find(|(name, _)| *name == from)?.1;
            Some(format!("{to}.{to_part}.{kind}"))
        });
        if !self.next_is(Kind::Attention) {
            return Ok(());
        }
        let (index, mut module) = self.take(Kind::Attention)?;
        let mut matrix = |part: &str| -> Result<Source> {
            let source = module
                .remove(part)
                .with_context(|| format!("tensor all_modules.{index}.{part} is missing"))?;
            if part.ends_with('W') { transposed(source) } else { Ok(source) }
        };
        let joined = |sources: [Source; 3]| {
            let mut shape = sources[0].shape.clone();
            shape[0] = sources.iter().map(|source| source.shape[0]).sum();
            let from = sources.iter().flat_map(|source| source.from.clone()).collect();
            Source { from, shape, values: sources.iter().flat_map(|source| source.values.clone()).collect() }
        };
        let weight = joined([matrix("NIN_0.W")?, matrix("NIN_1.W")?, matrix("NIN_2.W")?]);
        let bias = joined([matrix("NIN_0.b")?, matrix("NIN_1.b")?, matrix("NIN_2.b")?]);
        let [projection, shift] = [matrix("NIN_3.W")?, matrix("NIN_3.b")?];
        let parts =
            [("qkv.weight", weight), ("qkv.bias", bias), ("proj.weight", projection), ("proj.bias", shift)];
        self.named.extend(parts.map(|(part, source)| (format!("{to}.{part}"), source)));
        self.put(index, module, |part| Some(format!("{to}.norm2{}", part.strip_prefix("GroupNorm_0")?)));
        Ok(())
    }
}
