//! A training that is interrupted and resumed gives the weights of one that is not.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use burn::tensor::Device;
use serde_json::Map;
use traflow_graph::checkpoint::{Checkpoint, Role, Tensors};
use traflow_graph::op::Shape;
use traflow_graph::unet::{Architecture, SConditioning, Unet};
use traflow_trainer::data::Images;
use traflow_trainer::distill::{self, DistillConfig, Lessons};
use traflow_trainer::flow;
use traflow_trainer::initial;
use traflow_trainer::network::Network;
use traflow_trainer::pairs::{self, Pairs, Recipe};
use traflow_trainer::run::{Intervals, Progress, Run, Sources, Trained};
use traflow_trainer::sample::Sampler;
use traflow_trainer::solver::Solver;
use traflow_trainer::teacher::{self, TeacherConfig};

const SHAPE: Shape = Shape::new(1, 8, 8);

fn unet() -> Unet {
    Unet {
        architecture: Architecture::Ddpmpp,
        image: [1, 8, 8],
        base: 8,
        mult: vec![1, 2],
        blocks: 1,
        attention: vec![4],
        ..Unet::default()
    }
}

fn images() -> Images {
    let pixels = (0..40 * 64u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Images { channels: 1, height: 8, width: 8, pixels }
}

/// Trains in a folder; `panic_at` interrupts after that step, as a lost process does.
fn in_folder(
    folder: &Path,
    config: &impl serde::Serialize,
    intervals: &Intervals,
    panic_at: Option<usize>,
    mut train: impl FnMut(&Run, &mut dyn FnMut(&Progress)) -> anyhow::Result<Trained>,
) -> Option<[Option<Tensors>; 2]> {
    let run = Run::open(folder, config, Sources::new(), intervals.clone(), true).unwrap();
    let mut interrupted = false;
    let mut progress = |progress: &Progress| {
        if Some(progress.step) == panic_at {
            interrupted = true;
            panic!("interrupted");
        }
    };
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| train(&run, &mut progress)));
    assert_eq!(result.is_err(), interrupted);
    let tensors = |network: Network| network.tensors().unwrap();
    let trained = result.ok()?.unwrap();
    Some([Some(tensors(trained.average)), trained.second.map(tensors)])
}

fn lines(folder: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    log.lines().map(str::to_owned).collect()
}

/// Runs a training whole, and cut after step 5 with states every 2 steps, and compares weights and logs.
fn resumed_is_whole(
    config: &impl serde::Serialize,
    intervals: &Intervals,
    mut train: impl FnMut(&Run, &mut dyn FnMut(&Progress)) -> anyhow::Result<Trained>,
) {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let expected = in_folder(whole.path(), config, intervals, None, &mut train).unwrap();
    assert!(in_folder(cut.path(), config, intervals, Some(5), &mut train).is_none());
    let found = in_folder(cut.path(), config, intervals, None, &mut train).unwrap();
    assert!(expected == found, "the weights differ");
    assert_eq!(lines(whole.path()), lines(cut.path()));
    let log = lines(whole.path());
    assert_eq!(log.len(), 8);
    // The weights of the losses are 1: the whole gradient is the sum of theirs.
    let line: Map<String, serde_json::Value> = serde_json::from_str(&log[7]).unwrap();
    let of_losses = line.iter().filter(|(key, _)| key.ends_with("_gradient_norm"));
    let norms: Vec<f64> = of_losses.map(|(_, norm)| norm.as_f64().unwrap()).collect();
    let (sum, largest) = (norms.iter().sum::<f64>(), norms.iter().fold(0.0f64, |a, b| a.max(*b)));
    let norm = line["gradient_norm"].as_f64().unwrap();
    assert!(
        norm > 0.0 && norm <= 1.001 * sum && norm >= 0.999 * (2.0 * largest - sum),
        "{norm} of {norms:?}"
    );
    assert!(whole.path().join("samples-000008.png").exists());
}

#[test]
fn a_resumed_teacher_is_the_teacher() {
    let config: TeacherConfig = toml::from_str(&format!(
        "seed = 3\nsteps = 8\nbatch = 5\ntime = \"u-shaped\"\n[network]\n{}\n[optimiser]\nlearning_rate = 1e-3\n\
         warmup_steps = 3\ndecay = \"cosine\"\n[intervals]\nstate_steps = 2",
        toml::to_string(&unet()).unwrap()
    ))
    .unwrap();
    let (images, device) = (images(), Device::flex());
    resumed_is_whole(&config, &config.intervals, |run, progress| {
        teacher::train(&config, &images, None, run, &device, progress)
    });
}

/// A teacher with random weights and pairs of it.
fn teacher_and_pairs() -> (Checkpoint, Pairs) {
    let device = Device::flex();
    let network = initial::random(unet().graph().unwrap(), 5, &device);
    let folder = tempfile::tempdir().unwrap();
    let sampler = Sampler::Ode(Solver::Euler, 2);
    let recipe =
        Recipe { teacher: "t".into(), sampler: "euler".into(), first_seed: u64::MAX - 3, shape: SHAPE };
    pairs::generate(folder.path(), &network, sampler, &recipe, 20, &mut |_| ()).unwrap();
    let checkpoint = Checkpoint {
        unet: unet(),
        role: Role::Teacher,
        provenance: Map::new(),
        formats: None,
        tensors: network.tensors().unwrap(),
    };
    (checkpoint, pairs::read(folder.path(), SHAPE).unwrap())
}

#[test]
fn a_resumed_student_is_the_student() {
    let config: DistillConfig = toml::from_str(
        "seed = 4\nbatch = 3\n[optimiser]\nlearning_rate = 1e-3\nsecond_ema = 0.5\n\
         [intervals]\nstate_steps = 2\n\
         [[stage]]\nsteps = 3\nconsistency = 1.0\nmidpoint = \"teacher\"\n\
         [[stage]]\nsteps = 5\noutput = 1.0\nvelocity = 1.0\nanchored = 1.0\nconsistency = { target = \"ema\" }",
    )
    .unwrap();
    let (teacher, pairs) = teacher_and_pairs();
    let device = Device::flex();
    let lessons = Lessons { teacher: &teacher, pairs: &pairs, images: None, formats: None };
    resumed_is_whole(&config, &config.intervals, |run, progress| {
        distill::train(&config, &lessons, run, &device, progress)
    });
}

#[test]
fn an_untrained_student_is_its_teacher_where_s_is_t() {
    let (teacher, _) = teacher_and_pairs();
    let device = Device::flex();
    let student = Unet { s_conditioning: SConditioning::TiedMean, ..unet() };
    let student = initial::from_teacher(&student, &teacher, 1, &device).unwrap().0;
    let teacher = initial::from_checkpoint(&teacher, &device).unwrap();
    let x = flow::seeded_noise(&[1, 2, 3], SHAPE, &device);
    let times = flow::times(0.3, 0.3, 3, &device);
    let difference = (student.forward(x.clone(), &times) - teacher.forward(x, &times)).abs();
    assert!(difference.max().into_scalar::<f32>() < 1e-9);
}

#[test]
fn a_run_is_not_overwritten_by_mistake() {
    let (folder, images) = (tempfile::tempdir().unwrap(), images());
    let config: TeacherConfig = toml::from_str(&format!(
        "seed = 3\nsteps = 2\nbatch = 2\n[network]\n{}\n[optimiser]\nlearning_rate = 1e-3",
        toml::to_string(&unet()).unwrap()
    ))
    .unwrap();
    let open = |config: &TeacherConfig, pictures: &str, resume| {
        let sources = Sources::from([("pictures".to_owned(), pictures.to_owned())]);
        Run::open(folder.path(), config, sources, config.intervals.clone(), resume)
    };
    let run = open(&config, "a", false).unwrap();
    teacher::train(&config, &images, None, &run, &Device::flex(), &mut |_| ()).unwrap();
    let refused = |config: &TeacherConfig, pictures: &str, resume| {
        format!("{:#}", open(config, pictures, resume).err().expect("a run was taken for another"))
    };
    let again = refused(&config, "a", false);
    assert!(again.contains("--resume"), "{again}");
    let other = refused(&config, "b", true);
    assert!(other.ends_with("it learned from other pictures: a, not b"), "{other}");
    let other = refused(&TeacherConfig { seed: 4, ..config.clone() }, "a", true);
    assert!(other.ends_with("another configuration"), "{other}");
    open(&config, "a", true).unwrap();
    // What changes nothing of the weights may change.
    let intervals = Intervals { sample_steps: 0, state_steps: 7 };
    open(&TeacherConfig { intervals, parts: 2, ..config.clone() }, "a", true).unwrap();
}

/// Pictures that no PNG file can show are trained on all the same, where no samples are drawn; and where they are, what was
/// trained is kept.
#[test]
fn samples_that_cannot_be_drawn_lose_nothing() {
    let config = |sample_steps: usize| -> TeacherConfig {
        let network = Unet { image: [2, 8, 8], ..unet() };
        toml::from_str(&format!(
            "seed = 3\nsteps = 2\nbatch = 2\n[network]\n{}\n[optimiser]\nlearning_rate = 1e-3\n\
             [intervals]\nstate_steps = 1\nsample_steps = {sample_steps}",
            toml::to_string(&network).unwrap()
        ))
        .unwrap()
    };
    let images = Images { channels: 2, pixels: images().pixels[..64 * 8].to_vec(), ..images() };
    let folder = tempfile::tempdir().unwrap();
    let train = |name: &str, config: &TeacherConfig| {
        let folder = folder.path().join(name);
        let run = Run::open(&folder, config, Sources::new(), config.intervals.clone(), true).unwrap();
        teacher::train(config, &images, None, &run, &Device::flex(), &mut |_| ())
    };
    train("none", &config(0)).unwrap();
    for step in [1, 2] {
        let error = format!("{:#}", train("some", &config(1)).err().unwrap());
        let expected = format!("samples-00000{step}.png; sample_steps = 0 draws none");
        assert!(error.contains(&expected), "{error}");
    }
    train("some", &config(1)).unwrap();
}

/// A teacher of two classes, dark pictures and bright ones, makes what it is asked for.
#[test]
fn a_teacher_learns_classes() {
    let config: TeacherConfig = toml::from_str(&format!(
        "seed = 3\nsteps = 60\nbatch = 16\n[network]\n{}\n[optimiser]\nlearning_rate = 1e-2\nema = 0.9\n\
         [intervals]\nsample_steps = 0",
        toml::to_string(&Unet { labels: 2, ..unet() }).unwrap()
    ))
    .unwrap();
    let labels: Vec<u16> = (0..40).map(|i| i % 2).collect();
    let pixels = labels.iter().flat_map(|label| [*label as u8 * 255; 64]).collect();
    let images = Images { pixels, ..images() };
    let (device, folder) = (Device::flex(), tempfile::tempdir().unwrap());
    let train = |labels: Option<&[u16]>, name: &str| {
        let run =
            Run::open(&folder.path().join(name), &config, Sources::new(), config.intervals.clone(), false)
                .unwrap();
        teacher::train(&config, &images, labels, &run, &device, &mut |_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(train(None, "a").err().unwrap(), "the network has 2 classes: name those of the pictures");
    assert_eq!(train(Some(&labels[1..]), "b").err().unwrap(), "there are 39 labels for 40 pictures");
    assert_eq!(train(Some(&[2; 40]), "c").err().unwrap(), "there is a label 2, the network has 2 classes");
    let network = train(Some(&labels), "d").unwrap().average;
    let mean = |class: u16| {
        let noise = flow::seeded_noise(&[1], SHAPE, &device);
        let picture = Sampler::Ode(Solver::Euler, 8).run(&network.with_classes([class].into_iter()), noise);
        picture.mean().into_scalar::<f32>()
    };
    let (dark, bright) = (mean(0), mean(1));
    assert!(dark < -0.5 && bright > 0.5, "{dark} and {bright}");
}
