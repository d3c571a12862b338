//! The residual block that all networks have, and resampling with filters.

use std::prelude::v1::*;

use super::Unet;
use crate::graph::{Builder, Value};
use crate::op::Op;

/// What the time and the class give to every block: a vector, and with [`SConditioning::Ctm`](super::SConditioning::Ctm)
/// one of s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) time: Value,
    pub(super) second: Option<Value>,
}

/// Halving or doubling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resample {
    Down,
    Up,
}

/// In what the blocks of the families differ.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style<'a> {
    pub(super) unet: &'a Unet,
    /// Added to the variance of every group norm.
    pub(super) epsilon: f32,
    /// Factor of every sum with a skip.
    pub(super) skip: f32,
    /// Whether the time scales as well as shifts, after the norm.
    pub(super) scale_shift: bool,
    /// Whether resampling blocks project their skip even where it has the right channels.
    pub(super) project: bool,
    /// Channels of an attention head; `None` for one head of all channels.
    pub(super) of_head: Option<u16>,
    /// Blur before halving and after doubling, as [`Op::Blur`].
    pub(super) blur: Option<[f32; 2]>,
}

/// Where a block stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place {
    pub(super) resample: Option<Resample>,
    pub(super) attention: bool,
}

impl Style<'_> {
    /// `(x' + conv(silu(norm(conv(silu(norm(x))) + affine(time))))) · skip`, then attention in the same manner. With
    /// scale and shift the second norm's output is `norm · (1 + scale) + shift`.
    pub(super) fn block(&self, g: &mut Builder, x: Value, told: Told, out: u16, place: Place) -> Value {
        let resample = |g: &mut Builder, suffix: &str, x: Value| match place.resample {
            Some(kind) => self.resample(g, suffix, x, kind),
            None => x,
        };
        let h = self.norm(g, "norm0", x, true);
        let h = resample(g, "", h);
        let h = g.conv2d("conv0", h, out, 3);
        let width = if self.scale_shift { out.saturating_mul(2) } else { out };
        let mut affine = g.linear("affine", told.time, width);
        if let Some(second) = told.second {
            let to = g.linear("affine_to", second, width);
            affine = g.add("affine_sum", affine, to, 1.0);
        }
        let h = if self.scale_shift {
            let h = self.norm(g, "norm1", h, false);
            g.push("modulated", Op::ScaleShift { silu: true }, &[h, affine])
        } else {
            let h = g.add("shift", h, affine, 1.0);
            self.norm(g, "norm1", h, true)
        };
        let h = g.conv2d("conv1", h, out, 3);
        let skip = resample(g, "_skip", x);
        let projects = g.shape(x).channels != out || (self.project && place.resample.is_some());
        let skip = if projects { g.conv2d("skip", skip, out, 1) } else { skip };
        let x = g.add("sum", h, skip, self.skip);
        let heads = self.of_head.map_or(1, |channels| out / channels.max(1));
        if place.attention && heads > 0 { self.attention(g, x, heads) } else { x }
    }

    /// `(x + proj(attention(qkv(norm(x))))) · skip`.
    fn attention(&self, g: &mut Builder, x: Value, heads: u16) -> Value {
        let channels = g.shape(x).channels;
        let h = self.norm(g, "norm2", x, false);
        let h = g.conv2d("qkv", h, channels.saturating_mul(3), 1);
        let h = g.push("attention", Op::Attention { heads }, &[h]);
        let h = g.conv2d("proj", h, channels, 1);
        g.add("attention_sum", h, x, self.skip)
    }

    /// A group norm, then SiLU if `silu`.
    pub(super) fn norm(&self, g: &mut Builder, name: &str, x: Value, silu: bool) -> Value {
        match self.unet.variant.groups {
            Some(groups) => g.push(name, Op::GroupNorm { groups, epsilon: self.epsilon, silu }, &[x]),
            None => g.group_norm(name, x, self.epsilon, silu),
        }
    }

    /// Halves or doubles height and width by the network's filter.
    pub(super) fn resample(&self, g: &mut Builder, suffix: &str, x: Value, kind: Resample) -> Value {
        let blur = |g: &mut Builder, x| match self.blur {
            Some([near, far]) => g.push(&format!("blur{suffix}"), Op::Blur { near, far }, &[x]),
            None => x,
        };
        match kind {
            Resample::Down => {
                let x = blur(g, x);
                g.push(&format!("down{suffix}"), Op::Downsample, &[x])
            }
            Resample::Up => {
                let x = g.push(&format!("up{suffix}"), Op::Upsample, &[x]);
                blur(g, x)
            }
        }
    }
}
