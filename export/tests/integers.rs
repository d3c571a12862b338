//! Files of integers: near the network that was trained, the same on every run, and able to test themselves.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{checkpoint, unet};
use traflow_export::calibrate::Observer;
use traflow_export::integers::{Exported, IntegersError, Options, export, export_network};
use traflow_export::network::{Network, Parameters};
use traflow_export::{ExportError, schedules};
use traflow_graph::checkpoint::{Checkpoint, Role};
use traflow_graph::formats::{Format, Formats};
use traflow_graph::graph::{Builder, Node};
use traflow_graph::model::{Model, seal};
use traflow_graph::noise::Noise;
use traflow_graph::op::{Method, Op, Shape};
use traflow_runtime::kernels::int8::Values;
use traflow_runtime::{Cpu, Engine, EngineError, IntegerEngine, Isa, SelfTestError, digest};

fn options(steps: &[u32]) -> Options {
    Options { steps: steps.to_vec(), seeds: 4, ..Options::default() }
}

/// Bytes at an aligned address.
fn aligned(bytes: &[u8]) -> Vec<[u32; 16]> {
    bytemuck::pod_collect_to_vec(bytes)
}

fn bytes(blocks: &[[u32; 16]]) -> &[u8] {
    bytemuck::cast_slice(blocks)
}

/// Every operation of the format, 5 channels where no quad is whole, constants, and inputs of all widths.
fn network() -> Network {
    let mut g = Builder::new();
    let norm = |groups, silu| Op::GroupNorm { groups, epsilon: 1e-5, silu };
    let residual =
        |out, kernel| Op::Conv2d { out, kernel, bias: true, residual: Some(0.7), method: Method::Direct };
    let x = g.image(Shape::new(2, 6, 10));
    let time = g.push("time", Op::Constant { channels: 5 }, &[]);
    let first = g.conv2d("first", x, 5, 3);
    let h = g.add("shift", first, time, 0.9);
    let h = g.push("norm", norm(5, true), &[h]);
    let h = g.push("block", residual(5, 3), &[h, first]);
    let down = g.push("down", Op::Downsample, &[h]);
    let a = g.push("norm_a", norm(1, false), &[down]);
    let a = g.conv2d("qkv", a, 30, 1);
    let a = g.push("attention", Op::Attention { heads: 2 }, &[a]);
    let a = g.conv2d("proj", a, 5, 1);
    let a = g.silu("silu_a", a);
    let down = g.add("sum", down, a, 0.5);
    let wide = g.conv2d("wide", down, 8, 3);
    let up = g.push("up", Op::Upsample, &[wide]);
    // The halves of one concatenation keep their scales, those of the other do not.
    let h = g.push("concat", Op::Concat, &[up, h]);
    let n = g.push("norm_b", norm(13, true), &[h]);
    let n = g.push("odd", Op::Concat, &[first, n]);
    let n = g.conv2d("narrow", n, 6, 1);
    let h = g.push("skip", residual(6, 1), &[h, n]);
    let pooled = g.silu("silu", h);
    let h = g.add("twice", h, pooled, 0.5);
    let h = g.conv2d("last", h, 2, 3);
    g.push("scaled", residual(2, 1), &[h, x]);
    let graph = g.finish().unwrap();
    let random = |stream, len: usize, centre: f64, spread: f64| {
        let noise = Noise::stream(9, stream);
        (0..len as u64).map(|i| centre + spread * f64::from(noise.uniform(i) - 0.5)).collect()
    };
    let of_node = |(index, node): (usize, &Node)| {
        let sizes = graph.parameters(node);
        let is_norm = matches!(node.op, Op::GroupNorm { .. });
        let fan_in = sizes.weight.map_or(1, |[_, channels, height, width]| channels * height * width);
        let (centre, spread) = if is_norm { (1.0, 0.4) } else { (0.0, 3.4 / (fan_in as f64).sqrt()) };
        let rows = if matches!(node.op, Op::Constant { .. }) { 5 } else { 1 };
        Parameters {
            weight: random(2 * index as u32, sizes.weights(), centre, spread),
            bias: random(2 * index as u32 + 1, sizes.bias.unwrap_or(0) * rows, 0.0, 1.0),
            per_moment: rows > 1,
        }
    };
    let parameters = graph.nodes().iter().enumerate().map(of_node).collect();
    Network::trained(graph, parameters)
}

#[test]
fn every_operation_is_what_its_definition_says() {
    // The export compares each value of the runtime with its definition, and pictures with the network's.
    let network = network();
    for (per_step, observer) in [
        (false, Observer::MinMax),
        (true, Observer::Mse),
        (false, Observer::Percentile(99.9)),
        (false, Observer::Kl),
    ] {
        let options = Options { observer, per_step, seeds: 8, ..Options::default() };
        let Exported { report, .. } =
            export_network(&network, &schedules(&[1, 4]), &options, None, "{}").unwrap();
        println!("{observer:?}\n{report}\n");
        assert_eq!(report.nodes.len(), network.graph.nodes().len());
        // At 16 bits everywhere the same network is far nearer.
        assert!(report.psnr.iter().all(|psnr| psnr.median > 25.0), "{:?}", report.psnr);
    }
    let wide = Options { island_share: 0.0, seeds: 8, ..Options::default() };
    let wide = export_network(&network, &schedules(&[1, 4]), &wide, None, "{}").unwrap().report;
    println!("{wide}");
    assert!(wide.nodes.iter().filter(|node| node.wide).count() > 20);
}

/// What a training for integers keeps in its checkpoint: the formats by the names of the trained nodes.
#[test]
fn a_network_keeps_the_formats_that_it_was_trained_for() {
    let (network, schedules) = (network(), schedules(&[1, 4]));
    let plain = Options { correct_bias: false, island_share: 0.05, seeds: 8, ..Options::default() };
    let chosen = export_network(&network, &schedules, &plain, None, "{}").unwrap();
    assert!(chosen.formats.0.len() + 1 == network.graph.nodes().len(), "all but the constant");
    let other = Options { observer: Observer::MinMax, seeds: 1, ..Options::default() };
    let kept = export_network(&network, &schedules, &other, Some(&chosen.formats), "{}").unwrap();
    assert!(kept.file == chosen.file && kept.formats == chosen.formats);

    let text = serde_json::to_string(&chosen.formats).unwrap();
    assert_eq!(serde_json::from_str::<Formats>(&text).unwrap(), chosen.formats);
    let mut narrow = chosen.formats.clone();
    narrow.0.insert("image".into(), Format::single(2, false, 0.1, 0));
    let mut less = chosen.formats.clone();
    less.0.remove("proj");
    for formats in [narrow, less] {
        let error = export_network(&network, &schedules, &other, Some(&formats), "{}").unwrap_err();
        assert!(matches!(error, ExportError::Integers(IntegersError::Formats)), "{error}");
    }
}

/// The names are those of the network as it was trained, where a sum is a node of its own.
#[test]
fn formats_have_the_names_of_the_trained_nodes() {
    let checkpoint = checkpoint(unet(8, Role::Student), Role::Student);
    let Exported { formats, .. } = export(&checkpoint, &options(&[1])).unwrap();
    formats.check(&checkpoint.unet.graph().unwrap()).unwrap();
    let has = |name: &str| formats.0.contains_key(&format!("enc.8x8_block0.{name}"));
    assert!(has("norm0") && has("shift") && has("sum"));
    assert!(!has("conv0") && !has("conv1") && !has("affine"));
    // The doubled input of a projection is no value of the file, and yet is rounded.
    assert_eq!(formats.0["dec.8x8_up.up_skip"], formats.0["dec.4x4_block1.attention_sum"]);
    let with = Checkpoint { formats: Some(formats.clone()), ..checkpoint.clone() };
    let plain = Options { correct_bias: false, ..options(&[1]) };
    assert_eq!(export(&with, &plain).unwrap().file, export(&checkpoint, &plain).unwrap().file);
}

#[test]
fn students_and_teachers_become_integers() {
    for (size, role) in [(8, Role::Student), (12, Role::Teacher)] {
        let checkpoint = checkpoint(unet(size, role), role);
        let Exported { file, report, .. } = export(&checkpoint, &options(&[1, 2])).unwrap();
        println!("{report}");
        assert_eq!(report.file_bytes, file.len());
        assert!(report.psnr.iter().all(|psnr| psnr.median > 25.0), "{:?}", report.psnr);
        assert!(report.nodes.iter().all(|node| node.cosine > 0.99));
        let share: f64 = report.nodes.iter().map(|node| node.value_share + node.weight_share).sum();
        assert!((share - 1.0).abs() < 1e-9);
        assert_eq!(export(&checkpoint, &options(&[2, 1])).unwrap().file, file);
        let single =
            traflow_export::Options { weights: Default::default(), steps: vec![1, 2], winograd: true };
        let single = traflow_export::export(&checkpoint, &single).unwrap();
        assert!(2 * report.arena_bytes < single.report.arena_bytes as usize);
    }
}

/// The picture of each seed from an arena full of rubbish, at an address of no alignment.
fn pictures(file: &[u8], steps: usize, rubbish: u8) -> Vec<Vec<i16>> {
    let blocks = aligned(file);
    let model = Model::new(bytes(&blocks)).unwrap();
    let mut arena = vec![rubbish; IntegerEngine::arena_bytes(&model) + 7];
    let mut engine = IntegerEngine::new(model, &mut arena[7..]).unwrap();
    (0..4).map(|seed| engine.generate(seed, steps).unwrap().numbers.to_vec()).collect()
}

#[test]
fn a_file_tests_itself() {
    let checkpoint = checkpoint(unet(8, Role::Student), Role::Student);
    let file = export(&checkpoint, &options(&[1, 2])).unwrap().file;
    assert_eq!(pictures(&file, 2, 0), pictures(&file, 2, 0xa5));

    let test = |blocks: &[[u32; 16]]| {
        let model = Model::new(bytes(blocks)).unwrap();
        let mut arena = vec![0; IntegerEngine::arena_bytes(&model)];
        let mut engine = IntegerEngine::new(model, &mut arena).unwrap();
        (engine.self_test(), engine.generate(0, 1).is_ok())
    };
    let mut blocks = aligned(&file);
    assert_eq!(test(&blocks), (Ok(()), true));

    // One flipped bit of one weight: the convolution is named.
    let model = Model::new(bytes(&blocks)).unwrap();
    let (index, node) =
        model.nodes().enumerate().find(|(_, node)| node.name() == "enc.8x8_block0.conv1").unwrap();
    let at = node.panels().as_ptr().addr() - bytes(&blocks).as_ptr().addr();
    bytemuck::cast_slice_mut::<_, u8>(&mut blocks)[at] ^= 0x40;
    seal(bytemuck::cast_slice_mut(&mut blocks));
    let (result, runs) = test(&blocks);
    assert!(
        matches!(result, Err(SelfTestError::Node { index: found, .. }) if found == index && runs),
        "{result:?}"
    );
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with(&format!("node {index} (enc.8x8_block0.conv1): it gives ")), "{text}");

    // Without digests a file still runs.
    let mut blocks = aligned(&file);
    let nodes = Model::new(bytes(&blocks)).unwrap().nodes().len();
    let first = blocks.iter().position(|block| block[0] == 1 && block[4] == u32::MAX).unwrap();
    blocks[first..first + nodes].iter_mut().for_each(|record| record[15] = 0);
    seal(bytemuck::cast_slice_mut(&mut blocks));
    assert_eq!(test(&blocks), (Err(SelfTestError::Missing), true));
}

#[test]
fn each_engine_refuses_the_other_kind() {
    let checkpoint = checkpoint(unet(8, Role::Student), Role::Student);
    let integers = export(&checkpoint, &options(&[1])).unwrap().file;
    let single = traflow_export::Options { weights: Default::default(), steps: vec![1], winograd: true };
    let single = traflow_export::export(&checkpoint, &single).unwrap().file;
    let (integers, single) = (aligned(&integers), aligned(&single));
    let mut arena = vec![0; 1 << 20];
    let error = Engine::new(Model::new(bytes(&integers)).unwrap(), &mut arena).unwrap_err();
    assert_eq!(error, EngineError::Format { integers: true });
    assert_eq!(error.to_string(), "the model is of integers, which this engine does not run");
    let error = IntegerEngine::new(Model::new(bytes(&single)).unwrap(), &mut arena).unwrap_err();
    assert_eq!(error, EngineError::Format { integers: false });
    let model = Model::new(bytes(&integers)).unwrap();
    let error = IntegerEngine::new(model, &mut arena[..100]).unwrap_err().to_string();
    assert!(error.starts_with("the arena has 100 bytes, this model needs "), "{error}");
    let mut engine = IntegerEngine::new(model, &mut arena).unwrap();
    let error = engine.generate(0, 3).unwrap_err().to_string();
    assert_eq!(error, "the model has no schedule of 3 steps, it has 1");
}

/// The digests of the pictures of 16 seeds by 1 step, then by 4, in hexadecimal.
fn digests(file: &[u8], cpu: Cpu) -> Vec<String> {
    let blocks = aligned(file);
    let model = Model::new(bytes(&blocks)).unwrap();
    let mut arena = vec![0; IntegerEngine::arena_bytes(&model)];
    let mut engine = IntegerEngine::on(cpu, model, &mut arena).unwrap();
    engine.self_test().unwrap();
    let requests = [1, 4].into_iter().flat_map(|steps| (0..16).map(move |seed| (seed, steps)));
    let of = |(seed, steps)| digest(Values::Wide(engine.generate(seed, steps).unwrap().numbers));
    requests.map(of).map(|digest| format!("{digest:08x}")).collect()
}

/// A file, a seed and a number of steps are one picture, on every machine and in every version. The files were written
/// by `UPDATE_GOLDEN=1 cargo test --package traflow-export`; they are never written over.
#[test]
fn golden_files_keep_their_pictures() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    for (name, channels) in [("gray-int8-v3", 1), ("colour-int8-v3", 3)] {
        let (file, numbers) = (folder.join(format!("{name}.traflow")), folder.join(format!("{name}.json")));
        if std::env::var_os("UPDATE_GOLDEN").is_some() && !file.exists() {
            let mut unet = unet(8, Role::Student);
            unet.image[0] = channels;
            let written = export(&checkpoint(unet, Role::Student), &options(&[1, 4])).unwrap().file;
            std::fs::write(
                &numbers,
                serde_json::to_string_pretty(&digests(&written, Cpu::new(Isa::SCALAR))).unwrap() + "\n",
            )
            .unwrap();
            std::fs::write(&file, written).unwrap();
        }
        let expected: Vec<String> = serde_json::from_slice(&std::fs::read(&numbers).unwrap()).unwrap();
        assert_eq!(digests(&std::fs::read(&file).unwrap(), Cpu::new(Isa::detect())), expected, "{name}");
    }
}

/// Every trained student that is committed, on every instruction set and with 1 to 4 threads.
#[test]
fn trained_students_give_the_same_pictures_on_every_processor() {
    let models = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let mut students = 0;
    for entry in std::fs::read_dir(models).unwrap() {
        let path = entry.unwrap().path();
        if !path.to_string_lossy().ends_with("-student.safetensors") {
            continue;
        }
        students += 1;
        let checkpoint = Checkpoint::read(&path).unwrap();
        let file = export(&checkpoint, &options(&[1, 4])).unwrap().file;
        let expected = digests(&file, Cpu::new(Isa::SCALAR));
        for isa in Isa::all() {
            for threads in 1..=4 {
                let found = digests(&file, Cpu::with_threads(isa, threads).unwrap());
                assert_eq!(found, expected, "{}: {isa}, {threads} threads", path.display());
            }
        }
    }
    assert!(students > 0);
}
