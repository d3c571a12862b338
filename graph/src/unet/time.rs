//! What the network is told besides the picture: the times, the class, and in training the augmentation.

use std::prelude::v1::*;

use super::block::Told;
use super::{Architecture, SConditioning, Unet};
use crate::coefficient::{Coefficient, Level};
use crate::graph::{Builder, Value};
use crate::op::{Method, Op, Time};

/// Scope of the second time's MLP, whose nodes are otherwise named as the first one's.
pub const TO_SCOPE: &str = "to";

/// The vectors that every block reads.
pub(super) fn told(g: &mut Builder, unet: &Unet) -> Told {
    g.scope("");
    let adm = unet.architecture == Architecture::Adm;
    let width = unet.base.saturating_mul(unet.embedding_mult());
    let vector = unet.base.saturating_mul(unet.time_mult());
    let augment = (unet.augment_labels > 0).then(|| {
        let labels = g.push("augment_labels", Op::Labels { count: unet.augment_labels }, &[]);
        linear(g, "map_augment", labels, width, false)
    });
    // DDPM++ adds the class to the embedding of the time, ADM to the vector that the MLP makes of it.
    let class = (unet.labels > 0).then(|| {
        let class = g.push("class", Op::Class { count: unet.labels }, &[]);
        linear(g, "map_label", class, if adm { vector } else { width }, !adm)
    });
    let embed = |g: &mut Builder, time: Time, level: Level| {
        let time = g.time(time);
        let level = g.push("map_level", Op::Coefficient(Coefficient::Level(level)), &[time]);
        g.push("map_noise", Op::Embedding { channels: width, kind: unet.embedding() }, &[level])
    };
    let labelled = |g: &mut Builder, e: Value| {
        let e = augment.map_or(e, |augment| g.add("map_sum", e, augment, 1.0));
        class.filter(|_| !adm).map_or(e, |class| g.add("map_labelled", e, class, 1.0))
    };
    let mlp = |g: &mut Builder, e: Value| {
        let e = g.linear("map_layer0", e, vector);
        let e = g.silu("map_silu0", e);
        let e = g.linear("map_layer1", e, vector);
        if adm { e } else { g.silu("map_silu1", e) }
    };
    let end = |g: &mut Builder, e: Value| {
        g.scope("");
        let e = class.filter(|_| adm).map_or(e, |class| g.add("map_labelled", e, class, 1.0));
        if adm { g.silu("map_silu1", e) } else { e }
    };
    // e of t, whose embedding another time's may be mixed with.
    let from = |g: &mut Builder, mixed: Option<Value>| {
        g.scope("");
        let e = embed(g, Time::From, unet.level);
        let e = mixed.map_or(e, |other| g.add("map_mixed", e, other, 0.5));
        let e = labelled(g, e);
        mlp(g, e)
    };
    let to = |g: &mut Builder, time: Time, level: Level, with_labels: bool| {
        g.scope(TO_SCOPE);
        let e = embed(g, time, level);
        let e = if with_labels { labelled(g, e) } else { e };
        mlp(g, e)
    };
    match unet.s_conditioning {
        SConditioning::None => {
            let e = from(g, None);
            Told { time: end(g, e), second: None }
        }
        SConditioning::Shared => {
            g.scope(TO_SCOPE);
            let to = embed(g, Time::To, unet.level);
            let e = from(g, Some(to));
            Told { time: end(g, e), second: None }
        }
        SConditioning::TiedMean => {
            let from = from(g, None);
            let to = to(g, Time::To, unet.level, true);
            g.scope("");
            let e = g.add("map_mean", from, to, 0.5);
            Told { time: end(g, e), second: None }
        }
        SConditioning::Delta => {
            let from = from(g, None);
            let span = to(g, Time::Span, Level::Flow, false);
            g.scope("");
            let e = g.add("map_total", from, span, 1.0);
            Told { time: end(g, e), second: None }
        }
        SConditioning::Ctm => {
            let from = from(g, None);
            let to = to(g, Time::To, unet.level, false);
            let second = if adm { g.silu("map_silu1", to) } else { to };
            Told { time: end(g, from), second: Some(second) }
        }
    }
}

fn linear(g: &mut Builder, name: &str, x: Value, out: u16, bias: bool) -> Value {
    g.push(name, Op::Conv2d { out, kernel: 1, bias, residual: None, method: Method::Direct }, &[x])
}
