//! ADM: EDM's DhariwalUNet. Nodes have EDM's names.

use std::prelude::v1::*;

use super::Unet;
use super::block::{Place, Resample, Style, Told};
use crate::graph::{Builder, Value};
use crate::op::Op;

pub(super) fn network(g: &mut Builder, unet: &Unet, image: Value, told: Told) -> Value {
    let style = Style {
        unet,
        epsilon: 1e-5,
        skip: 1.0,
        scale_shift: true,
        project: false,
        of_head: Some(unet.variant.head_channels.unwrap_or(64)),
        blur: unet.blur(),
    };
    let channels = |mult: u16| unet.base.saturating_mul(mult);
    let mut x = image;
    let mut skips = Vec::new();
    for (level, &mult) in unet.mult.iter().enumerate() {
        if level == 0 {
            g.scope("enc");
            x = g.conv2d(&unet.name(0, "conv"), x, channels(mult), 3);
        } else {
            g.scope(unet.scope("enc", level, "down"));
            let same = g.shape(x).channels;
            x = style.block(g, x, told, same, Place { resample: Some(Resample::Down), attention: false });
        }
        skips.push(x);
        for index in 0..unet.blocks {
            g.scope(unet.scope("enc", level, &format!("block{index}")));
            let place = Place { resample: None, attention: unet.attends(level) };
            x = style.block(g, x, told, channels(mult), place);
            skips.push(x);
        }
    }
    for (level, &mult) in unet.mult.iter().enumerate().rev() {
        let same = g.shape(x).channels;
        if level + 1 == unet.mult.len() {
            g.scope(unet.scope("dec", level, "in0"));
            x = style.block(g, x, told, same, Place { resample: None, attention: true });
            g.scope(unet.scope("dec", level, "in1"));
            x = style.block(g, x, told, same, Place::default());
        } else {
            g.scope(unet.scope("dec", level, "up"));
            x = style.block(g, x, told, same, Place { resample: Some(Resample::Up), attention: false });
        }
        for index in 0..=unet.blocks {
            g.scope(unet.scope("dec", level, &format!("block{index}")));
            if let Some(skip) = skips.pop() {
                x = g.push("concat", Op::Concat, &[x, skip]);
            }
            let place = Place { resample: None, attention: unet.attends(level) };
            x = style.block(g, x, told, channels(mult), place);
        }
    }
    g.scope("");
    let h = style.norm(g, "out_norm", x, true);
    g.conv2d("out_conv", h, unet.image[0], 3)
}
