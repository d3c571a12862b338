//! Networks from elsewhere give what their own implementation gives, in Burn and, exported, in the runtime.
//!
//! `tests/golden/import/reference.py` wrote the networks and their outputs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::tensor::Device;
use traflow_export::{Options, export};
use traflow_graph::checkpoint::{Checkpoint, Role, Tensors, Texts, parameters, read_tensors};
use traflow_graph::coefficient::{Head, Level};
use traflow_graph::model::{Dtype, Model};
use traflow_graph::noise::Noise;
use traflow_graph::unet::{Architecture, Decoder, Encoder, Unet, Variant};
use traflow_runtime::Engine;
use traflow_trainer::import::{self, AttentionOrder, Imported, Preconditioning, check};
use traflow_trainer::sample::Sampler;
use traflow_trainer::solver::Solver;
use traflow_trainer::{flow, initial};

fn read(name: &str) -> (Texts, Tensors) {
    let path = format!("golden/import/{name}.safetensors");
    read_tensors(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The golden networks of ADM have heads of 8 channels.
fn options() -> import::Options {
    import::Options { head_channels: Some(8), ..import::Options::default() }
}

fn import(name: &str) -> Imported {
    let (texts, tensors) = read(name);
    import::import(&texts, tensors, &options()).unwrap()
}

fn checkpoint(imported: Imported) -> Checkpoint {
    let provenance = serde_json::Map::new();
    Checkpoint {
        unet: imported.unet,
        role: Role::Teacher,
        provenance,
        formats: None,
        tensors: imported.tensors,
    }
}

/// The largest relative error of an imported network on its golden outputs.
fn error(imported: Imported, name: &str) -> f64 {
    let (_, io) = read(&format!("{name}.io"));
    let errors = check::check(&checkpoint(imported), &io, &Device::flex()).unwrap();
    assert_eq!(errors.pictures, 4);
    assert!(errors.velocity.is_some() && errors.denoised.is_some());
    errors.largest()
}

#[test]
fn imported_networks_give_what_their_formulas_give() {
    for name in ["ddpmpp", "ncsnpp", "skip", "adm"] {
        let imported = import(name);
        assert!(imported.left.is_empty(), "{name}: {:?}", imported.left);
        let error = error(imported, name);
        assert!(error < 2e-5, "{name}: {error}");
    }
}

#[test]
fn configurations_follow_from_names_and_shapes() {
    let ddpmpp = import("ddpmpp").unet;
    assert_eq!((ddpmpp.architecture, ddpmpp.labels, ddpmpp.augment_labels), (Architecture::Ddpmpp, 3, 2));
    assert_eq!((ddpmpp.image, ddpmpp.base, ddpmpp.blocks), ([1, 8, 8], 8, 1));
    assert_eq!((ddpmpp.mult, ddpmpp.attention), (vec![1, 2], vec![4]));
    assert_eq!(ddpmpp.variant, Default::default());
    let ncsnpp = import("ncsnpp").unet;
    assert_eq!((ncsnpp.architecture, ncsnpp.variant), (Architecture::Ncsnpp, Default::default()));
    let skip = import("skip").unet;
    assert_eq!((skip.encoder(), skip.decoder()), (Encoder::Skip, Decoder::Skip));
    assert_eq!((skip.filter(), skip.mult.as_slice()), (&[1, 5, 10, 10, 5, 1][..], &[2, 1][..]));
    assert_eq!(import("adm").unet.architecture, Architecture::Adm);
}

#[test]
fn imported_networks_agree_in_the_runtime() {
    for name in ["ddpmpp", "ncsnpp", "skip", "adm"] {
        let teacher = checkpoint(import(name));
        let exported =
            export(&teacher, &Options { weights: Dtype::F32, steps: vec![3], winograd: true }).unwrap();
        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&exported.file);
        let model = Model::new(bytemuck::cast_slice(&words)).unwrap();
        let mut arena = vec![0; Engine::arena_bytes(&model)];
        let mut engine = Engine::new(model, &mut arena).unwrap();
        let device = Device::flex();
        let network = initial::from_checkpoint(&teacher, &device).unwrap();
        let classes = usize::from(teacher.unet.labels);
        assert_eq!(model.classes(), classes);
        let mut pictures = Vec::new();
        for class in (0..classes).map(Some).chain([None]) {
            let one_hot: Vec<f32> = (0..classes).map(|i| f32::from(u8::from(class == Some(i)))).collect();
            let network = network.with_class_rows(one_hot);
            let noise = flow::seeded_noise(&[7], teacher.unet.image(), &device);
            let picture = Sampler::Ode(Solver::Euler, 3).run(&network, noise);
            let burn = picture.try_into_vec_as::<f32>().unwrap();
            engine.set_class(class).unwrap();
            let runtime = engine.generate(7, 3).unwrap().to_vec();
            let range = burn.iter().fold(0.0f32, |range, x| range.max(x.abs()));
            let worst = burn.iter().zip(&runtime).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4 * range, "{name}, class {class:?}: {worst} of {range}");
            assert!(!pictures.contains(&runtime), "{name}: class {class:?} has another's picture");
            pictures.push(runtime);
        }
        let error = engine.set_class(Some(classes)).unwrap_err().to_string();
        assert_eq!(error, format!("the model has {classes} classes, and none of the number {classes}"));
    }
}

/// An ADM with random weights that has 32 groups in every norm, as guided-diffusion has them.
fn random_adm() -> (Unet, Tensors) {
    let unet = Unet {
        architecture: Architecture::Adm,
        image: [2, 8, 8],
        base: 32,
        mult: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        labels: 3,
        head: Head::Vp,
        level: Level::Iddpm,
        variant: Variant { groups: Some(32), head_channels: Some(8), ..Variant::default() },
        ..Unet::default()
    };
    let mut tensors = Tensors::new();
    for (index, (name, shape)) in parameters(&unet.graph().unwrap()).into_iter().enumerate() {
        let mut values = vec![0.0; shape.iter().product()];
        Noise::stream(1, index as u32).fill(&mut values);
        tensors.insert(name, (shape, values));
    }
    (unet, tensors)
}

/// Our names turned back into guided-diffusion's.
fn guided(tensors: &Tensors, order: AttentionOrder) -> Tensors {
    const BLOCKS: [(&str, &str); 10] = [
        ("enc.8x8_block0", "input_blocks.1"),
        ("enc.4x4_down", "input_blocks.2"),
        ("enc.4x4_block0", "input_blocks.3"),
        ("dec.4x4_in0", "middle_block"),
        ("dec.4x4_in1", "middle_block"),
        ("dec.4x4_block0", "output_blocks.0"),
        ("dec.4x4_block1", "output_blocks.1"),
        ("dec.8x8_up", "output_blocks.1"),
        ("dec.8x8_block0", "output_blocks.2"),
        ("dec.8x8_block1", "output_blocks.3"),
    ];
    const PARTS: [(&str, &str); 6] = [
        ("norm0", "in_layers.0"),
        ("conv0", "in_layers.2"),
        ("affine", "emb_layers.1"),
        ("norm1", "out_layers.0"),
        ("conv1", "out_layers.3"),
        ("skip", "skip_connection"),
    ];
    let mut renamed = Tensors::new();
    for (name, (shape, values)) in tensors {
        let (node, kind) = name.rsplit_once('.').unwrap();
        if node == "map_label" {
            let transposed =
                (0..values.len()).map(|i| values[i % shape[0] * shape[1] + i / shape[0]]).collect();
            renamed.insert("label_emb.weight".into(), (vec![shape[1], shape[0]], transposed));
            continue;
        }
        let single = [
            ("enc.8x8_conv", "input_blocks.0.0"),
            ("map_layer0", "time_embed.0"),
            ("map_layer1", "time_embed.2"),
            ("out_norm", "out.0"),
            ("out_conv", "out.2"),
        ];
        if let Some((_, to)) = single.iter().find(|(from, _)| *from == node) {
            renamed.insert(format!("{to}.{kind}"), (shape.clone(), values.clone()));
            continue;
        }
        let (block, part) = node.rsplit_once('.').unwrap();
        let to = BLOCKS.iter().find(|(from, _)| *from == block).unwrap().1;
        let residual = PARTS.iter().find(|(from, _)| *from == part);
        // Attention is the second part of a block; the doubling block is the last of the block before its level.
        let place = match (block, residual.is_some()) {
            ("dec.4x4_in1", _) => 2,
            ("dec.8x8_up", _) => 2,
            (_, false) => 1,
            _ => 0,
        };
        let of_attention = [("norm2", "norm"), ("qkv", "qkv"), ("proj", "proj_out")];
        let part = residual.or_else(|| of_attention.iter().find(|(from, _)| *from == part)).unwrap().1;
        let (mut shape, mut values) = (shape.clone(), values.clone());
        if part == "qkv" {
            // From kind, head, channel; heads have 8 channels.
            let (row, heads) = (values.len() / shape[0], shape[0] / 24);
            let from = |head: usize, channel: usize, kind: usize| (kind * heads + head) * 8 + channel;
            let rows: Vec<usize> = match order {
                AttentionOrder::Legacy => (0..shape[0]).map(|i| from(i / 24, i % 8, i % 24 / 8)).collect(),
                AttentionOrder::New => {
                    (0..shape[0]).map(|i| from(i % (heads * 8) / 8, i % 8, i / (heads * 8))).collect()
                }
            };
            values = rows.into_iter().flat_map(|r| values[r * row..][..row].to_vec()).collect();
        }
        if ["qkv", "proj_out"].contains(&part) && kind == "weight" {
            shape.truncate(3);
        }
        renamed.insert(format!("{to}.{place}.{part}.{kind}"), (shape, values));
    }
    renamed
}

#[test]
fn guided_diffusions_names_are_the_same_network() {
    let (unet, tensors) = random_adm();
    for order in [AttentionOrder::Legacy, AttentionOrder::New] {
        let mut options = import::Options {
            preconditioning: Some(Preconditioning::Iddpm),
            attention_order: order,
            ..options()
        };
        let renamed = guided(&tensors, order);
        let error = import::import(&Texts::new(), renamed.clone(), &options).unwrap_err().to_string();
        assert_eq!(error, "its names do not tell the size of the pictures: say --size");
        options.size = Some(8);
        let imported = import::import(&Texts::new(), renamed, &options).unwrap();
        assert_eq!(imported.family, "guided-diffusion");
        assert!(imported.left.is_empty(), "{:?}", imported.left);
        assert_eq!(imported.unet, unet);
        assert!(imported.tensors == tensors, "{order:?}: other weights");
    }
}

/// EDM's names turned back into the list of modules of score_sde.
fn score_sde(tensors: &Tensors, modules: &[&str]) -> Tensors {
    const PARTS: [(&str, &str); 6] = [
        ("norm0", "GroupNorm_0"),
        ("conv0", "Conv_0"),
        ("affine", "Dense_0"),
        ("norm1", "GroupNorm_1"),
        ("conv1", "Conv_1"),
        ("skip", "Conv_2"),
    ];
    let edm: BTreeMap<&str, _> =
        tensors.iter().map(|(n, t)| (n.strip_prefix("model.").unwrap(), t)).collect();
    let mut renamed = Tensors::new();
    for (index, module) in modules.iter().enumerate() {
        let mut put = |part: &str, shape: Vec<usize>, values: Vec<f32>| {
            renamed.insert(format!("all_modules.{index}.{part}"), (shape, values));
        };
        let transposed = |values: &[f32], out: usize| -> Vec<f32> {
            let input = values.len() / out;
            (0..values.len()).map(|i| values[i % out * input + i / out]).collect()
        };
        if let Some(block) = module.strip_suffix("+attention") {
            for kind in ["weight", "bias"] {
                let (shape, values) = edm[format!("{block}.norm2.{kind}").as_str()];
                put(&format!("GroupNorm_0.{kind}"), shape.clone(), values.clone());
            }
            let (shape, weight) = edm[format!("{block}.qkv.weight").as_str()];
            let (_, bias) = edm[format!("{block}.qkv.bias").as_str()];
            let channels = shape[1];
            for which in 0..3 {
                let rows =
                    (0..channels).flat_map(|c| weight[(3 * c + which) * channels..][..channels].to_vec());
                let matrix = transposed(&rows.collect::<Vec<_>>(), channels);
                put(&format!("NIN_{which}.W"), vec![channels; 2], matrix);
                put(
                    &format!("NIN_{which}.b"),
                    vec![channels],
                    (0..channels).map(|c| bias[3 * c + which]).collect(),
                );
            }
            let (_, weight) = edm[format!("{block}.proj.weight").as_str()];
            put("NIN_3.W", vec![channels; 2], transposed(weight, channels));
            put("NIN_3.b", vec![channels], edm[format!("{block}.proj.bias").as_str()].1.clone());
            continue;
        }
        if *module == "map_noise" {
            let (shape, values) = edm["map_noise.freqs"];
            put("W", shape.clone(), values.clone());
        }
        for (name, (shape, values)) in &edm {
            let Some(rest) = name.strip_prefix(module).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            match rest.split_once('.') {
                None if !["freqs", "resample_filter"].contains(&rest) => {
                    let inner = if module.ends_with("aux_residual") {
                        "Conv2d_0."
                    } else if module.ends_with("aux_skip") {
                        "Conv_0."
                    } else {
                        ""
                    };
                    put(&format!("{inner}{rest}"), shape.clone(), values.clone());
                }
                Some((part, kind)) if kind != "resample_filter" => {
                    if let Some((_, to)) = PARTS.iter().find(|(from, _)| *from == part) {
                        put(&format!("{to}.{kind}"), shape.clone(), values.clone());
                    }
                }
                _ => {}
            }
        }
    }
    renamed
}

const ENDS: [&str; 3] = ["map_layer0", "map_layer1", "enc.8x8_conv"];
const DECODER: [&str; 5] =
    ["dec.4x4_in0", "dec.4x4_in0+attention", "dec.4x4_in1", "dec.4x4_block0", "dec.4x4_block1"];
const OUTPUT: [&str; 5] =
    ["dec.8x8_up", "dec.8x8_block0", "dec.8x8_block1", "dec.8x8_aux_norm", "dec.8x8_aux_conv"];

#[test]
fn score_sdes_names_are_the_same_network() {
    let ncsnpp = [
        &["map_noise"][..],
        &ENDS,
        &["enc.8x8_block0", "enc.4x4_down", "enc.4x4_aux_residual", "enc.4x4_block0"],
    ];
    let skip = [
        &ENDS[..],
        &["enc.8x8_block0", "enc.4x4_down", "enc.4x4_aux_down", "enc.4x4_aux_skip", "enc.4x4_block0"],
    ];
    let skip_output = [
        &["dec.4x4_aux_norm", "dec.4x4_aux_conv", "dec.8x8_up", "dec.8x8_block0", "dec.8x8_block1"][..],
        &["dec.8x8_aux_up", "dec.8x8_aux_norm", "dec.8x8_aux_conv"],
    ]
    .concat();
    let cases = [
        ("ncsnpp", ncsnpp.concat(), OUTPUT.to_vec(), Preconditioning::Ve),
        ("skip", skip.concat(), skip_output, Preconditioning::Edm),
    ];
    for (name, encoder, output, preconditioning) in cases {
        let (_, tensors) = read(name);
        let edm = import(name);
        let modules = [encoder, DECODER.to_vec(), output].concat();
        let options = import::Options {
            preconditioning: Some(preconditioning),
            size: Some(8),
            filter: (name == "skip").then(|| vec![1, 5, 10, 10, 5, 1]),
            ..import::Options::default()
        };
        let renamed = score_sde(&tensors, &modules);
        let imported = import::import(&Texts::new(), renamed, &options).unwrap();
        assert_eq!(imported.family, "score_sde");
        assert!(imported.left.is_empty(), "{name}: {:?}", imported.left);
        assert_eq!(imported.unet, edm.unet, "{name}");
        assert!(imported.tensors == edm.tensors, "{name}: other weights");
    }
}

/// The same weights as torch.save writes a training's state: under a key, among other things.
#[test]
fn files_of_pytorch_are_read() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/import/skip.pt");
    let (texts, tensors) = import::read(&path).unwrap();
    assert!(tensors.contains_key("model.model.map_layer0.weight"), "{:?}", tensors.keys().next());
    let options = import::Options { preconditioning: Some(Preconditioning::Edm), ..options() };
    let imported = import::import(&texts, tensors, &options).unwrap();
    let safetensors = import("skip");
    assert_eq!(imported.unet, safetensors.unet);
    assert!(imported.tensors == safetensors.tensors, "other weights");
}

/// A pickle may name any function of Python; it is data here, cut off or not.
#[test]
fn a_pickle_runs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (file, trace) = (folder.path().join("evil.pt"), folder.path().join("trace"));
    let command = format!("touch {}", trace.display());
    let length = u32::try_from(command.len()).unwrap().to_le_bytes();
    let pickle = [b"\x80\x02cposix\nsystem\nX", &length[..], command.as_bytes(), b"\x85R."].concat();
    for end in 0..=pickle.len() {
        std::fs::write(&file, &pickle[..end]).unwrap();
        if let Ok((_, tensors)) = import::read(&file) {
            assert!(tensors.is_empty());
        }
    }
    assert!(!trace.exists());
}

/// v(x, t) = -F(x, 999 (1 - t)).
#[test]
fn rectified_flows_run_the_other_way() {
    let (texts, tensors) = read("ddpmpp");
    let options = import::Options { preconditioning: Some(Preconditioning::RectifiedFlow), ..options() };
    let imported = import::import(&texts, tensors.clone(), &options).unwrap();
    let (_, forward) = &tensors["model.dec.8x8_aux_conv.weight"];
    let (_, turned) = &imported.tensors["dec.8x8_aux_conv.weight"];
    assert!(forward.iter().zip(turned).all(|(a, b)| *a == -b));
    let graph = imported.unet.graph().unwrap();
    assert!(graph.nodes().iter().all(|node| !node.name.starts_with("head.")));
}

#[test]
fn what_cannot_be_imported_is_an_error_of_one_line() {
    let (texts, tensors) = read("ddpmpp");
    let error = |texts: &Texts, change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        let error = import::import(texts, tensors, &options()).unwrap_err();
        let line = format!("{error:#}");
        assert!(!line.contains('\n'), "{line}");
        line
    };
    let missing = error(&texts, &|t| _ = t.remove("model.enc.4x4_block0.conv1.bias"));
    assert_eq!(missing, "tensor \"enc.4x4_block0.conv1.bias\" of shape [16] is missing");
    let shape = error(&texts, &|t| t.get_mut("model.enc.4x4_block0.norm1.bias").unwrap().0 = vec![4, 4]);
    let expected = "tensor \"model.enc.4x4_block0.norm1.bias\" has shape [4, 4] where the network has [16]";
    assert_eq!(shape, expected);
    assert_eq!(
        error(&texts, &|t| t.retain(|name, _| name.ends_with("norm1.bias"))),
        "its tensors are named as in none of EDM, score_sde and guided-diffusion; the first is \
         \"model.dec.4x4_block0.norm1.bias\""
    );
    assert_eq!(
        error(&Texts::new(), &|_| ()),
        "it does not say what its network was trained to give: say --preconditioning"
    );
    let texts = Texts::from([("precond".into(), "DDIMPrecond".into())]);
    let expected = "metadata \"precond\": \"ddim\" is none of edm, vp, ve, iddpm and rectified-flow";
    assert_eq!(error(&texts, &|_| ()), expected);
}
