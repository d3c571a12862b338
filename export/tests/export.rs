//! Exported networks are the networks that were trained.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{checkpoint, unet};
use traflow_export::fold::fold;
use traflow_export::fuse::fuse;
use traflow_export::network::Network;
use traflow_export::verify::Difference;
use traflow_export::{Exported, Options, export, schedules};
use traflow_graph::checkpoint::{Checkpoint, Role};
use traflow_graph::coefficient::{Head, Level};
use traflow_graph::model::{Dtype, Model};
use traflow_graph::op::{Method, Op};
use traflow_graph::unet::{Architecture, SConditioning, Unet, Variant};

fn checkpoints() -> Vec<Checkpoint> {
    let kinds = [(8, Role::Student), (12, Role::Student), (8, Role::Teacher), (12, Role::Teacher)];
    kinds.map(|(size, role)| checkpoint(unet(size, role), role)).into()
}

fn options(weights: Dtype, steps: &[u32]) -> Options {
    Options { weights, steps: steps.to_vec(), winograd: true }
}

#[test]
fn pictures_stay_the_same() {
    for checkpoint in checkpoints() {
        let name = format!("{} of {:?}", checkpoint.role.name(), checkpoint.unet.image);
        for (weights, limit) in [(Dtype::F32, 1e-5), (Dtype::F16, 5e-3)] {
            let Exported { report, .. } = export(&checkpoint, &options(weights, &[4, 1, 2])).unwrap();
            println!("{name}:\n{report}\n");
            assert_eq!(report.differences.iter().map(|d| d.steps).collect::<Vec<_>>(), [1, 2, 4]);
            for Difference { folding, runtime, .. } in report.differences {
                assert!(folding <= 1e-12, "{name}: {folding}");
                // No weight of these networks is a number of half precision; zero would mean that nothing was compared.
                assert!(runtime > 0.0 && runtime <= limit, "{name}: {runtime}");
            }
        }
    }
}

/// What f32 loses against f64, as a part of the range of the pictures: of the smallest network that benchmarks have.
#[test]
fn rounding_is_bounded() {
    let unet = Unet { s_conditioning: SConditioning::TiedMean, ..Unet::preset("nano", None).unwrap() };
    let checkpoint = checkpoint(unet, Role::Student);
    for (winograd, limit) in [(false, 2e-6), (true, 2e-5)] {
        let Exported { file, report } =
            export(&checkpoint, &Options { winograd, ..options(Dtype::F32, &[1, 4]) }).unwrap();
        let mut aligned = vec![[0_u64; 8]; file.len().div_ceil(64)];
        bytemuck::cast_slice_mut(&mut aligned)[..file.len()].copy_from_slice(&file);
        let model = Model::new(&bytemuck::cast_slice(&aligned)[..file.len()]).unwrap();
        let by_winograd = |op| matches!(op, Op::Conv2d { method, .. } if method != Method::Direct);
        assert_eq!(model.nodes().any(|node| by_winograd(node.op())), winograd);
        for Difference { steps, runtime, .. } in report.differences {
            println!("Winograd {winograd}, {steps} steps: {runtime:.1e}");
            assert!(runtime <= limit, "Winograd {winograd}, {steps} steps: {runtime:.1e}");
        }
    }
}

/// A small network of another family, with classes: heads of 8 channels, FIR resampling, EDM's head.
fn of_family(architecture: Architecture, s_conditioning: SConditioning) -> Unet {
    Unet {
        architecture,
        s_conditioning,
        labels: 3,
        head: Head::Edm,
        level: Level::Edm,
        variant: Variant { head_channels: Some(8), filter: Some(vec![1, 3, 3, 1]), ..Variant::default() },
        ..unet(8, Role::Teacher)
    }
}

/// Every family with classes, every way to be told of s: what a class says is computed when a picture is made.
#[test]
fn pictures_of_other_families_stay_the_same() {
    let kinds = [SConditioning::Shared, SConditioning::TiedMean, SConditioning::Ctm, SConditioning::Delta];
    let families = [Architecture::Ddpmpp, Architecture::Ncsnpp, Architecture::Adm];
    for (architecture, kind) in families.into_iter().flat_map(|f| kinds.map(|kind| (f, kind))) {
        let checkpoint = checkpoint(of_family(architecture, kind), Role::Student);
        let Exported { report, .. } = export(&checkpoint, &options(Dtype::F32, &[1, 3])).unwrap();
        for Difference { folding, runtime, .. } in report.differences {
            assert!(folding <= 1e-12, "{architecture:?}, {kind:?}: {folding}");
            assert!(runtime > 0.0 && runtime <= 1e-5, "{architecture:?}, {kind:?}: {runtime}");
        }
    }
}

/// Without classes the scale and shift of ADM are known at export: they cost nothing at run time.
#[test]
fn scale_and_shift_go_into_the_norms() {
    let adm = of_family(Architecture::Adm, SConditioning::None);
    let ops = |unet: &Unet| {
        let trained = Network::of(&checkpoint(unet.clone(), Role::Teacher)).unwrap();
        let fused = fuse(fold(&trained, &schedules(&[1, 2]).concat()).unwrap()).unwrap();
        let count = |op: fn(&Op) -> bool| fused.graph.nodes().iter().filter(|node| op(&node.op)).count();
        (count(|op| matches!(op, Op::ScaleShift { .. })), count(|op| matches!(op, Op::Class { .. })))
    };
    assert_eq!(ops(&Unet { labels: 0, ..adm.clone() }), (0, 0));
    let (modulated, classes) = ops(&adm);
    assert!(modulated > 0 && classes == 1);
}

#[test]
fn nothing_is_left_of_time() {
    for checkpoint in checkpoints() {
        let trained = Network::of(&checkpoint).unwrap();
        let moments = schedules(&[1, 2]).concat();
        let folded = fold(&trained, &moments).unwrap();
        let (before, after) = (trained.graph.macs(), folded.graph.macs());
        assert!(after < before, "{after} MACs of {before}");
        let fused = fuse(folded).unwrap();
        assert_eq!(fused.graph.macs(), after);
        let mut with_time = 0;
        for (node, parameters) in fused.graph.nodes().iter().zip(&fused.parameters) {
            let of_time = matches!(
                node.op,
                Op::Time(_) | Op::Embedding { .. } | Op::Labels { .. } | Op::Constant { .. }
            );
            assert!(!of_time && !matches!(node.op, Op::Add { .. } | Op::Silu), "{node:?}");
            assert_eq!(parameters.per_moment, node.name.ends_with(".conv0"), "{}", node.name);
            if parameters.per_moment {
                let channels = usize::from(node.shape.channels);
                assert_eq!(parameters.bias.len(), channels * moments.len());
                // The last moment begins at t = ½, the others at t = 1.
                let rows: Vec<_> = parameters.bias.chunks(channels).collect();
                assert_ne!(rows[0], rows[2]);
                assert_eq!(rows[0] == rows[1], checkpoint.role == Role::Teacher);
                with_time += 1;
            }
        }
        let blocks = trained.graph.nodes().iter().filter(|node| node.name.ends_with(".affine")).count();
        assert_eq!(with_time, blocks);
    }
}

#[test]
fn the_same_input_is_the_same_file() {
    let checkpoint = &checkpoints()[0];
    let file = |weights, steps: &[u32]| export(checkpoint, &options(weights, steps)).unwrap().file;
    assert_eq!(file(Dtype::F16, &[1, 4]), file(Dtype::F16, &[4, 1, 4]));
    assert!(file(Dtype::F16, &[1]).len() < file(Dtype::F32, &[1]).len());
}

#[test]
fn a_file_says_where_it_comes_from_and_how_large_it_is() {
    let checkpoint = &checkpoints()[0];
    let Exported { file, report } = export(checkpoint, &options(Dtype::F16, &[2, 1])).unwrap();
    let mut aligned = vec![0; file.len() + 63];
    let skip = aligned.as_ptr().align_offset(64);
    aligned[skip..][..file.len()].copy_from_slice(&file);
    let model = Model::new(&aligned[skip..][..file.len()]).unwrap();
    let provenance: serde_json::Value = serde_json::from_str(model.provenance()).unwrap();
    let expected = serde_json::json!({
        "checkpoint": { "licence": "MIT" },
        "export": { "format": 4, "precision": "fp16", "steps": [1, 2] },
        "network": checkpoint.unet,
        "role": "student",
    });
    assert_eq!(provenance, expected);
    assert_eq!(model.steps().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(model.weights_bytes(), report.weights_bytes + report.constants_bytes);
    assert_eq!((model.moments(), report.moments), (3, 3));
    assert_eq!(model.arena_bytes(), report.arena_bytes as usize);
    assert_eq!(model.nodes().len(), report.exported.nodes);
    let rows = |name: &str| model.nodes().find(|node| node.name() == name).map(|node| node.bias_rows());
    assert_eq!(rows("enc.8x8_block0.conv0"), Some(3));
    assert_eq!(rows("enc.8x8_block0.conv1"), Some(1));
}

#[test]
fn what_cannot_be_exported_is_an_error() {
    let error = |checkpoint: &Checkpoint, steps: &[u32]| {
        export(checkpoint, &options(Dtype::F16, steps)).unwrap_err().to_string()
    };
    let mut checkpoint = checkpoints().remove(0);
    let many: Vec<u32> = (1..=17).collect();
    let expected =
        "the file would not be a model: its header breaks the format: it has no schedules, or more than 16";
    assert_eq!(error(&checkpoint, &many), expected);
    assert_eq!(error(&checkpoint, &[]), expected);
    let zero =
        "the file would not be a model: schedule 0: its moments are not those after the schedule before it";
    assert_eq!(error(&checkpoint, &[0, 1]), zero);

    let weight = |checkpoint: &mut Checkpoint, factor: f32| {
        let (_, values) = checkpoint.tensors.get_mut("dec.8x8_aux_conv.weight").unwrap();
        values.iter_mut().for_each(|value| *value *= factor);
    };
    weight(&mut checkpoint, 1e7);
    let large = error(&checkpoint, &[1]);
    assert!(large.ends_with("(dec.8x8_aux_conv): a weight is not a number or too large for its format"));
    // What half precision rounds to zero is not the network any more.
    weight(&mut checkpoint, 1e-7);
    for name in ["dec.8x8_aux_norm.weight", "dec.8x8_aux_norm.bias"] {
        let (_, values) = checkpoint.tensors.get_mut(name).unwrap();
        values.iter_mut().for_each(|value| *value *= 1e9);
    }
    weight(&mut checkpoint, 1e-8);
    let small = error(&checkpoint, &[1]);
    assert!(small.starts_with("steps 1: the runtime's picture is "), "{small}");
    assert!(small.ends_with(" of its range from the network's, more than 5e-3"), "{small}");
}
