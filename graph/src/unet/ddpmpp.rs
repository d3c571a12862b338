//! DDPM++: EDM's SongUNet with positional embedding and box resampling. Nodes have EDM's names.

use core::f32::consts::FRAC_1_SQRT_2;
use std::prelude::v1::*;

use super::{SConditioning, Unet};
use crate::graph::{Builder, Graph, GraphError, Value};
use crate::op::{Method, Op, Time};

/// Added to the variance of every group norm.
const EPSILON: f32 = 1e-6;

/// Width of the time embedding, as a multiple of the first level's channels.
const EMBEDDING_MULT: u16 = 4;

/// What a block does besides its two convolutions.
#[derive(Clone, Copy, Default)]
struct Extra {
    resample: Option<Op>,
    attention: bool,
}

pub(super) fn graph(unet: &Unet) -> Result<Graph, GraphError> {
    let g = &mut Builder::new();
    let image = g.image(unet.image());
    let time = time(g, unet);
    let height = |level: usize| unet.image[1] >> level;
    let attends = |level: usize| unet.attention.contains(&height(level));

    let mut x = image;
    let mut skips = Vec::new();
    let scope = |g: &mut Builder, side: &str, level: usize, block: &str| {
        g.scope(format!("{side}.{0}x{0}_{block}", height(level)));
    };
    for (level, mult) in unet.mult.iter().enumerate() {
        if level == 0 {
            g.scope("enc");
            x = g.conv2d(&format!("{0}x{0}_conv", height(0)), x, unet.base, 3);
        } else {
            scope(g, "enc", level, "down");
            let channels = g.shape(x).channels;
            x = block(g, x, time, channels, Extra { resample: Some(Op::Downsample), attention: false });
        }
        skips.push(x);
        for index in 0..unet.blocks {
            scope(g, "enc", level, &format!("block{index}"));
            x = block(
                g,
                x,
                time,
                unet.base.saturating_mul(*mult),
                Extra { resample: None, attention: attends(level) },
            );
            skips.push(x);
        }
    }
    for (level, mult) in unet.mult.iter().enumerate().rev() {
        let channels = g.shape(x).channels;
        if level + 1 == unet.mult.len() {
            scope(g, "dec", level, "in0");
            x = block(g, x, time, channels, Extra { resample: None, attention: true });
            scope(g, "dec", level, "in1");
            x = block(g, x, time, channels, Extra::default());
        } else {
            scope(g, "dec", level, "up");
            x = block(g, x, time, channels, Extra { resample: Some(Op::Upsample), attention: false });
        }
        for index in 0..=unet.blocks {
            scope(g, "dec", level, &format!("block{index}"));
            if let Some(skip) = skips.pop() {
                x = g.push("concat", Op::Concat, &[x, skip]);
            }
            x = block(
                g,
                x,
                time,
                unet.base.saturating_mul(*mult),
                Extra { resample: None, attention: index == unet.blocks && attends(level) },
            );
        }
    }
    g.scope("dec");
    let aux = format!("{0}x{0}_aux", height(0));
    let x = g.group_norm(&format!("{aux}_norm"), x, EPSILON, true);
    g.conv2d(&format!("{aux}_conv"), x, unet.image[0], 3);
    core::mem::take(g).finish()
}

/// The embedding of t, or of t and s together.
fn time(g: &mut Builder, unet: &Unet) -> Value {
    let labels = (unet.augment_labels > 0)
        .then(|| g.push("augment_labels", Op::Labels { count: unet.augment_labels }, &[]));
    let mut mlp = |time: Time, scope: &str| {
        g.scope(scope);
        let time = g.time(time);
        let mut e = g.push("map_noise", Op::Embedding { channels: unet.base }, &[time]);
        if let Some(labels) = labels {
            let op =
                Op::Conv2d { out: unet.base, kernel: 1, bias: false, residual: None, method: Method::Direct };
            let augment = g.push("map_augment", op, &[labels]);
            e = g.add("map_sum", e, augment, 1.0);
        }
        for layer in 0..2 {
            e = g.linear(&format!("map_layer{layer}"), e, unet.base.saturating_mul(EMBEDDING_MULT));
            e = g.silu(&format!("map_silu{layer}"), e);
        }
        e
    };
    let from = mlp(Time::From, "");
    match unet.s_conditioning {
        SConditioning::None => from,
        SConditioning::TiedMean => {
            let to = mlp(Time::To, TO_SCOPE);
            g.scope("");
            g.add("map_mean", from, to, 0.5)
        }
    }
}

/// Scope of the second time's MLP, whose nodes are otherwise named as the first one's.
pub const TO_SCOPE: &str = "to";

/// `(x' + conv(silu(norm(conv(silu(norm(x))) + affine(time))))) / √2`, then attention in the same manner.
fn block(g: &mut Builder, x: Value, time: Value, out: u16, extra: Extra) -> Value {
    let name = match extra.resample {
        Some(Op::Downsample) => "down",
        _ => "up",
    };
    let resample = |g: &mut Builder, suffix: &str, x: Value| match extra.resample {
        Some(op) => g.push(&format!("{name}{suffix}"), op, &[x]),
        None => x,
    };
    let h = g.group_norm("norm0", x, EPSILON, true);
    let h = resample(g, "", h);
    let h = g.conv2d("conv0", h, out, 3);
    let affine = g.linear("affine", time, out);
    let h = g.add("shift", h, affine, 1.0);
    let h = g.group_norm("norm1", h, EPSILON, true);
    let h = g.conv2d("conv1", h, out, 3);
    let skip = if extra.resample.is_some() || g.shape(x).channels != out {
        let skip = resample(g, "_skip", x);
        g.conv2d("skip", skip, out, 1)
    } else {
        x
    };
    let x = g.add("sum", h, skip, FRAC_1_SQRT_2);
    if extra.attention { attention(g, x, out) } else { x }
}

/// `(x + proj(attention(qkv(norm(x))))) / √2`, with one head.
fn attention(g: &mut Builder, x: Value, channels: u16) -> Value {
    let h = g.group_norm("norm2", x, EPSILON, false);
    let h = g.conv2d("qkv", h, channels.saturating_mul(3), 1);
    let h = g.push("attention", Op::Attention { heads: 1 }, &[h]);
    let h = g.conv2d("proj", h, channels, 1);
    g.add("attention_sum", h, x, FRAC_1_SQRT_2)
}
