//! DDPM++ and NCSN++: EDM's SongUNet. Nodes have EDM's names.
//!
//! DDPM++ has a positional embedding and box resampling. NCSN++ has fixed random frequencies, FIR resampling, and
//! an encoder that is shown the picture again at each level.

use core::f32::consts::FRAC_1_SQRT_2;
use std::prelude::v1::*;

use super::block::{Place, Resample, Style, Told};
use super::{Decoder, Encoder, Unet};
use crate::graph::{Builder, Value};
use crate::op::Op;

pub(super) fn network(g: &mut Builder, unet: &Unet, image: Value, told: Told) -> Value {
    let style = Style {
        unet,
        epsilon: 1e-6,
        skip: FRAC_1_SQRT_2,
        scale_shift: false,
        project: true,
        of_head: None,
        blur: unet.blur(),
    };
    let (x, skips) = encoder(g, &style, image, told);
    decoder(g, &style, x, skips, told)
}

fn encoder(g: &mut Builder, style: &Style<'_>, image: Value, told: Told) -> (Value, Vec<Value>) {
    let unet = style.unet;
    let (mut x, mut aux) = (image, image);
    let mut skips = Vec::new();
    for (level, mult) in unet.mult.iter().enumerate() {
        if level == 0 {
            g.scope("enc");
            x = g.conv2d(&unet.name(0, "conv"), x, unet.base, 3);
        } else {
            g.scope(unet.scope("enc", level, "down"));
            let channels = g.shape(x).channels;
            let place = Place { resample: Some(Resample::Down), attention: false };
            x = style.block(g, x, told, channels, place);
            (x, aux) = again(g, style, x, aux, level);
        }
        skips.push(x);
        for index in 0..unet.blocks {
            g.scope(unet.scope("enc", level, &format!("block{index}")));
            let place = Place { resample: None, attention: unet.attends(level) };
            x = style.block(g, x, told, unet.base.saturating_mul(*mult), place);
            skips.push(x);
        }
    }
    (x, skips)
}

/// Shows the encoder a smaller picture at the start of a level: the picture itself, or what has become of it.
fn again(g: &mut Builder, style: &Style<'_>, x: Value, aux: Value, level: usize) -> (Value, Value) {
    let channels = g.shape(x).channels;
    match style.unet.encoder() {
        Encoder::Standard => (x, aux),
        Encoder::Skip => {
            g.scope(style.unet.scope("enc", level, "aux_down"));
            let aux = style.resample(g, "", aux, Resample::Down);
            g.scope("enc");
            let seen = g.conv2d(&style.unet.name(level, "aux_skip"), aux, channels, 1);
            (g.add(&style.unet.name(level, "aux_sum"), x, seen, 1.0), aux)
        }
        Encoder::Residual => {
            // The filter is applied to the convolution of the whole plane, zeros included, so what lies beyond the edge
            // of the picture by the filter's reach is computed and then cut off.
            let reach = style.blur.map_or(0, |[_, far]| if far == 0.0 { 1 } else { 2 });
            g.scope(style.unet.scope("enc", level, "aux"));
            let border = |g: &mut Builder, name: &str, x: Value, by: i8| match by {
                0 => x,
                by => g.push(name, Op::Border { by }, &[x]),
            };
            let wide = border(g, "border", aux, reach);
            let wide = match style.blur {
                Some([near, far]) => g.push("blur", Op::Blur { near, far }, &[wide]),
                None => wide,
            };
            g.scope("enc");
            let seen = g.conv2d(&style.unet.name(level, "aux_residual"), wide, channels, 3);
            g.scope(style.unet.scope("enc", level, "aux"));
            let seen = border(g, "crop", seen, -reach);
            let seen = g.push("down", Op::Downsample, &[seen]);
            let x = g.add("sum", x, seen, FRAC_1_SQRT_2);
            (x, x)
        }
    }
}

fn decoder(g: &mut Builder, style: &Style<'_>, x: Value, mut skips: Vec<Value>, told: Told) -> Value {
    let unet = style.unet;
    let (mut x, mut picture) = (x, None);
    for (level, mult) in unet.mult.iter().enumerate().rev() {
        let channels = g.shape(x).channels;
        let lowest = level + 1 == unet.mult.len();
        if lowest {
            g.scope(unet.scope("dec", level, "in0"));
            x = style.block(g, x, told, channels, Place { resample: None, attention: true });
            g.scope(unet.scope("dec", level, "in1"));
            x = style.block(g, x, told, channels, Place::default());
        } else {
            g.scope(unet.scope("dec", level, "up"));
            let place = Place { resample: Some(Resample::Up), attention: false };
            x = style.block(g, x, told, channels, place);
        }
        for index in 0..=unet.blocks {
            g.scope(unet.scope("dec", level, &format!("block{index}")));
            if let Some(skip) = skips.pop() {
                x = g.push("concat", Op::Concat, &[x, skip]);
            }
            let attention = index == unet.blocks && unet.attends(level);
            x = style.block(g, x, told, unet.base.saturating_mul(*mult), Place { resample: None, attention });
        }
        if level == 0 || unet.decoder() == Decoder::Skip {
            let grown = picture.map(|picture| {
                g.scope(unet.scope("dec", level, "aux_up"));
                style.resample(g, "", picture, Resample::Up)
            });
            g.scope("dec");
            let h = style.norm(g, &unet.name(level, "aux_norm"), x, true);
            let h = g.conv2d(&unet.name(level, "aux_conv"), h, unet.image[0], 3);
            picture = Some(grown.map_or(h, |grown| g.add(&unet.name(level, "aux_sum"), h, grown, 1.0)));
        }
    }
    picture.unwrap_or(x)
}
