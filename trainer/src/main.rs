//! `traflow`: teachers, pairs, students and their judgement, each a command that reads files and writes files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use traflow_graph::checkpoint::{self, Checkpoint, Precision, Role};
use traflow_graph::unet::{self, Unet};
use traflow_trainer::device::DeviceName;
use traflow_trainer::distill::{self, DistillConfig};
use traflow_trainer::evaluate::Report;
use traflow_trainer::features::{Features, Labelled};
use traflow_trainer::import::{self, AttentionOrder, Imported, Preconditioning, check};
use traflow_trainer::network::Network;
use traflow_trainer::pairs::{self, Recipe};
use traflow_trainer::plan::Sizes;
use traflow_trainer::run::{Intervals, Progress, Run};
use traflow_trainer::sample::{Sampler, sample};
use traflow_trainer::solver::Solver;
use traflow_trainer::teacher::{self, TeacherConfig};
use traflow_trainer::{data, initial, picture};

#[derive(Parser)]
#[command(
    version,
    about = "Trains rectified-flow teachers and distills one-step students from them.",
    after_help = "\
Examples:
  traflow plan --preset 16m
  traflow teacher configs/fashion-teacher.toml --images train-images-idx3-ubyte.gz -o teacher.safetensors
  traflow import edm-cifar10.safetensors -o teacher.safetensors
  traflow pairs teacher.safetensors --count 8192 -o pairs
  traflow distill configs/fashion-student.toml --teacher teacher.safetensors --pairs pairs -o student.safetensors
  traflow sample student.safetensors -o grid.png
  traflow eval student.safetensors --features models/fashion-features.safetensors --steps 1,2,4"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Teacher(TeacherArgs),
    Import(ImportArgs),
    Pairs(PairsArgs),
    Distill(DistillArgs),
    Sample(SampleArgs),
    Eval(EvalArgs),
    Plan(PlanArgs),
}

/// Where a training runs and what it leaves.
#[derive(Args)]
struct TrainingArgs {
    /// Configuration of the training (TOML).
    config: PathBuf,
    /// Checkpoint to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Folder of logs, samples and states [default: runs/NAME-OF-CONFIG].
    #[arg(long)]
    run: Option<PathBuf>,
    /// Go on with a run that was interrupted.
    #[arg(long)]
    resume: bool,
    /// Write the weights in half precision.
    #[arg(long)]
    fp16: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

#[derive(Args)]
struct DeviceArgs {
    /// Device that computes.
    #[arg(long, value_enum, default_value_t)]
    device: DeviceName,
}

/// Trains a rectified-flow teacher on pictures.
#[derive(Args)]
struct TeacherArgs {
    #[command(flatten)]
    training: TrainingArgs,
    /// Pictures (IDX, plain or gzipped).
    #[arg(long)]
    images: PathBuf,
    /// Licence of the pictures, kept in the checkpoint.
    #[arg(long, default_value = "unknown")]
    licence: String,
}

/// Takes a teacher from elsewhere: EDM, score_sde, RectifiedFlow, SlimFlow or guided-diffusion.
#[derive(Args)]
struct ImportArgs {
    /// Weights (safetensors, or what torch.save wrote).
    weights: PathBuf,
    /// Checkpoint to write.
    #[arg(short, long, required_unless_present = "check")]
    output: Option<PathBuf>,
    /// What the network was trained to give [default: the file's metadata "precond"].
    #[arg(long, value_enum)]
    preconditioning: Option<Preconditioning>,
    /// Height and width of the pictures, where the names do not tell.
    #[arg(long)]
    size: Option<u16>,
    /// Filter of resampling, where the file has none [default: 1,3,3,1 for NCSN++, else 1,1].
    #[arg(long, value_delimiter = ',')]
    filter: Option<Vec<i16>>,
    /// Channels of an attention head of ADM [default: 64].
    #[arg(long)]
    head_channels: Option<u16>,
    /// Order of queries, keys and values in guided-diffusion's weights.
    #[arg(long, value_enum, default_value = "legacy")]
    attention_order: AttentionOrder,
    /// Inputs and outputs of the network to compare with (safetensors: x_t, t, labels, velocity, denoised).
    #[arg(long)]
    check: Option<PathBuf>,
    /// Largest relative error that the comparison allows.
    #[arg(long, default_value_t = 1e-4, requires = "check")]
    tolerance: f64,
    /// Licence of the weights, kept in the checkpoint.
    #[arg(long, default_value = "unknown")]
    licence: String,
    /// Write the weights in half precision.
    #[arg(long)]
    fp16: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// How a teacher's ODE is solved; a student has its map.
#[derive(Args)]
struct SolverArgs {
    /// Solver of a teacher's ODE.
    #[arg(long, value_enum, default_value_t = Solver::Heun)]
    solver: Solver,
}

/// Solves a teacher's ODE for many seeds and keeps the pictures: what a student learns from.
#[derive(Args)]
struct PairsArgs {
    /// The teacher's checkpoint.
    teacher: PathBuf,
    /// Folder of the pairs; those that it has already are kept.
    #[arg(short, long)]
    output: PathBuf,
    /// Number of pairs.
    #[arg(long, default_value_t = 8192)]
    count: usize,
    /// Seed of the first pair.
    #[arg(long, default_value_t = 1_000_000)]
    seed: u64,
    /// Steps of the solver; more than 20 of heun change little (rk45 chooses its own).
    #[arg(long, default_value_t = 20, value_parser = positive)]
    steps: usize,
    #[command(flatten)]
    solver: SolverArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Distills a student from a teacher and its pairs.
#[derive(Args)]
struct DistillArgs {
    #[command(flatten)]
    training: TrainingArgs,
    /// The teacher's checkpoint.
    #[arg(long)]
    teacher: PathBuf,
    /// Folder of the teacher's pairs.
    #[arg(long)]
    pairs: PathBuf,
}

/// Draws a grid of pictures.
#[derive(Args)]
struct SampleArgs {
    /// Checkpoint of a teacher or a student.
    checkpoint: PathBuf,
    /// PNG file to write.
    #[arg(short, long)]
    output: PathBuf,
    /// Seed of the first picture; each picture has the next one.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of pictures.
    #[arg(long, default_value_t = 64, value_parser = positive)]
    count: usize,
    /// Steps.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    steps: usize,
    #[command(flatten)]
    solver: SolverArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Judges a checkpoint, or pairs, by the Fréchet distance on a classifier's features.
#[derive(Args)]
struct EvalArgs {
    /// Checkpoint of a teacher or a student.
    #[arg(required_unless_present_any = ["pairs", "dataset"])]
    checkpoint: Option<PathBuf>,
    /// Folder of pairs, whose pictures are a teacher's at many steps.
    #[arg(long)]
    pairs: Option<PathBuf>,
    /// The classifier; trained and written if there is none.
    #[arg(long)]
    features: PathBuf,
    /// Folder of the data set (MNIST's file names), for training the classifier.
    #[arg(long)]
    dataset: Option<PathBuf>,
    /// Numbers of steps.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = positive)]
    steps: Vec<usize>,
    #[command(flatten)]
    solver: SolverArgs,
    /// Number of pictures.
    #[arg(long, default_value_t = 5000, value_parser = positive)]
    count: usize,
    /// Seed of the first picture.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Prints the sizes of a network before it is trained.
#[derive(Args)]
struct PlanArgs {
    /// Configuration of a teacher.
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// Network of the paper: 3m, 7m, 16m, 28m, 1-rf, edm-cifar, edm-cifar-ve, edm-ffhq, imagenet or edm-imagenet.
    #[arg(long)]
    preset: Option<String>,
    /// Height and width of the pictures of a preset [default: its own].
    #[arg(long, requires = "preset")]
    size: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it is 0".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(format!("{error}")),
    }
}

fn main() -> ExitCode {
    let run = match Cli::parse().command {
        Command::Teacher(args) => train_teacher(&args),
        Command::Import(args) => import_teacher(&args),
        Command::Pairs(args) => make_pairs(&args),
        Command::Distill(args) => train_student(&args),
        Command::Sample(args) => make_samples(&args),
        Command::Eval(args) => evaluate(&args),
        Command::Plan(args) => plan(&args),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn train_teacher(args: &TeacherArgs) -> Result<()> {
    let device = args.training.device.device.open()?;
    let config: TeacherConfig = read_config(&args.training.config)?;
    let images = data::read_images(&args.images)?;
    let run = args.training.open(&config, config.intervals.clone())?;
    let bar = Bar::new(config.steps);
    let network = teacher::train(&config, &images, &run, &device, &mut |p| bar.training(p))?;
    let provenance = [
        ("images", json!(args.images.display().to_string())),
        ("licence", json!(args.licence)),
        ("config", serde_json::to_value(&config)?),
    ];
    args.training.write(&network, config.network, Role::Teacher, provenance)
}

fn import_teacher(args: &ImportArgs) -> Result<()> {
    let device = args.device.device.open()?;
    let (texts, tensors) = import::read(&args.weights)?;
    let options = import::Options {
        preconditioning: args.preconditioning,
        size: args.size,
        filter: args.filter.clone(),
        head_channels: args.head_channels,
        attention_order: args.attention_order,
    };
    let imported = import::import(&texts, tensors, &options)
        .with_context(|| format!("importing {}", args.weights.display()))?;
    let Imported { unet, tensors, taken, left, family, preconditioning } = imported;
    for (from, to) in &taken {
        println!("took {from} as {to}");
    }
    for name in &left {
        println!("left {name}");
    }
    println!("took {} tensors, left {}, missed none", taken.len(), left.len());
    println!("network {}", serde_json::to_string(&unet)?);
    let provenance = [
        ("imported", json!(args.weights.display().to_string())),
        ("digest", json!(digest(&read_bytes(&args.weights)?))),
        ("names", json!(family)),
        ("preconditioning", serde_json::to_value(preconditioning)?),
        ("licence", json!(args.licence)),
        ("command", json!(std::env::args().collect::<Vec<_>>().join(" "))),
    ];
    let provenance = Map::from_iter(provenance.map(|(key, value)| (key.to_owned(), value)));
    let checkpoint = Checkpoint { unet, role: Role::Teacher, provenance, tensors };
    if let Some(path) = &args.check {
        let (_, io) = checkpoint::read_tensors(path)?;
        let errors = check::check(&checkpoint, &io, &device).with_context(|| path.display().to_string())?;
        for (name, error) in [("velocity", errors.velocity), ("denoised", errors.denoised)] {
            if let Some(error) = error {
                println!("largest relative error of {name} in {} pictures: {error:.2e}", errors.pictures);
            }
        }
        ensure!(
            errors.largest() <= args.tolerance,
            "{}: the network differs by {:.2e}, more than {:.0e}",
            path.display(),
            errors.largest(),
            args.tolerance
        );
    }
    if let Some(output) = &args.output {
        checkpoint.write(output, if args.fp16 { Precision::F16 } else { Precision::F32 })?;
        println!("{}", output.display());
    }
    Ok(())
}

fn make_pairs(args: &PairsArgs) -> Result<()> {
    let device = args.device.device.open()?;
    let (teacher, digest) = read_checkpoint(&args.teacher)?;
    ensure!(teacher.role == Role::Teacher, "{}: it is a student, not a teacher", args.teacher.display());
    let network = initial::from_checkpoint(&teacher, &device)?;
    let sampler = Sampler::Ode(args.solver.solver, args.steps);
    let recipe = Recipe {
        teacher: digest,
        sampler: describe(sampler),
        first_seed: args.seed,
        shape: teacher.unet.image(),
    };
    let bar = Bar::new(args.count);
    pairs::generate(&args.output, &network, sampler, &recipe, args.count, &mut |done| bar.set(done))?;
    println!("{}", args.output.display());
    Ok(())
}

fn train_student(args: &DistillArgs) -> Result<()> {
    let device = args.training.device.device.open()?;
    let config: DistillConfig = read_config(&args.training.config)?;
    let (teacher, digest) = read_checkpoint(&args.teacher)?;
    ensure!(teacher.role == Role::Teacher, "{}: it is a student, not a teacher", args.teacher.display());
    let pairs = pairs::read(&args.pairs, teacher.unet.image())?;
    ensure!(
        pairs.teacher == digest,
        "{}: the pairs are of another teacher than {}",
        args.pairs.display(),
        args.teacher.display()
    );
    let run = args.training.open(&config, config.intervals.clone())?;
    let bar = Bar::new(config.steps());
    let network = distill::train(&config, &teacher, &pairs, &run, &device, &mut |p| bar.training(p))?;
    let provenance = [
        ("teacher", json!(digest)),
        ("pairs", json!(pairs.len())),
        ("licence", teacher.provenance.get("licence").cloned().unwrap_or_default()),
        ("config", serde_json::to_value(&config)?),
    ];
    args.training.write(&network, config.student(&teacher.unet), Role::Student, provenance)
}

fn make_samples(args: &SampleArgs) -> Result<()> {
    let device = args.device.device.open()?;
    let (checkpoint, _) = read_checkpoint(&args.checkpoint)?;
    let network = initial::from_checkpoint(&checkpoint, &device)?;
    let seeds: Vec<u64> = (0..args.count as u64).map(|i| args.seed.wrapping_add(i)).collect();
    let sampler = Sampler::new(checkpoint.role, args.solver.solver, args.steps);
    let bar = Bar::new(args.count);
    let shape = checkpoint.unet.image();
    let pictures = sample(&network, sampler, &seeds, shape, &mut |done| bar.set(done))?;
    picture::save(&picture::grid(&pictures, shape, args.count.isqrt(), 2)?, &args.output)?;
    println!("{}", args.output.display());
    Ok(())
}

fn evaluate(args: &EvalArgs) -> Result<()> {
    let device = args.device.device.open()?;
    if !args.features.exists() {
        let Some(folder) = &args.dataset else {
            bail!("{}: there is no classifier; --dataset trains one", args.features.display())
        };
        let read = |name: &str| -> Result<Labelled> {
            Ok(Labelled {
                images: data::read_images(&folder.join(format!("{name}-images-idx3-ubyte.gz")))?,
                labels: data::read_labels(&folder.join(format!("{name}-labels-idx1-ubyte.gz")))?,
            })
        };
        let (train, test) = (read("train")?, read("t10k")?);
        let bar = Bar::new(1);
        Features::train(&args.features, &train, &test, &device, &mut |step, steps| {
            bar.0.set_length(steps as u64);
            bar.set(step);
        })?;
    }
    let features = Features::read(&args.features, &device)?;
    let mut report = Report::new(&features);
    if let Some(folder) = &args.pairs {
        let shape = features.shape().context("the classifier reads no pictures")?;
        let pairs = pairs::read(folder, shape)?;
        let count = args.count.min(pairs.len());
        let pictures = &pairs.images[..count * shape.elements()];
        report.judge(&features, format!("pairs, {}", pairs.sampler), pictures, shape)?;
    }
    if let Some(path) = &args.checkpoint {
        let (checkpoint, _) = read_checkpoint(path)?;
        let network = initial::from_checkpoint(&checkpoint, &device)?;
        for &steps in &args.steps {
            let sampler = Sampler::new(checkpoint.role, args.solver.solver, steps);
            let what = format!("{}, {}", checkpoint.role.name(), describe(sampler));
            let bar = Bar::new(args.count);
            let seeds = (args.seed, args.count);
            report.judge_network(&features, &network, sampler, what, seeds, &mut |done| bar.set(done))?;
        }
    }
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.table());
    }
    Ok(())
}

fn plan(args: &PlanArgs) -> Result<()> {
    let unet = match (&args.preset, &args.config) {
        (Some(name), _) => Unet::preset(name, args.size).with_context(|| {
            let names: Vec<&str> = unet::PRESETS.iter().map(|preset| preset.name).collect();
            format!("there is no preset {name}, only {}", names.join(", "))
        })?,
        (None, Some(path)) => read_config::<TeacherConfig>(path)?.network,
        (None, None) => bail!("name a configuration or a preset"),
    };
    let sizes = Sizes::new(&unet)?;
    if args.json {
        println!("{}", serde_json::to_string(&sizes)?);
    } else {
        println!("{sizes}");
    }
    Ok(())
}

/// A sampler in the words of a report.
fn describe(sampler: Sampler) -> String {
    let plural = |steps: usize| if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
    match sampler {
        Sampler::Ode(Solver::Rk45, _) => "rk45".to_owned(),
        Sampler::Ode(Solver::Heun, steps) => format!("heun {}", plural(steps)),
        Sampler::Ode(_, steps) => format!("euler {}", plural(steps)),
        Sampler::Map(steps) => plural(steps),
    }
}

/// A checkpoint and the SHA-256 of its file.
fn read_checkpoint(path: &Path) -> Result<(Checkpoint, String)> {
    let bytes = read_bytes(path)?;
    Ok((Checkpoint::from_bytes(&path.display().to_string(), &bytes)?, digest(&bytes)))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// The SHA-256 in hexadecimal digits.
fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl TrainingArgs {
    fn open(&self, config: &impl serde::Serialize, intervals: Intervals) -> Result<Run> {
        let name = self.config.file_stem().unwrap_or(self.config.as_os_str());
        let folder = self.run.clone().unwrap_or_else(|| Path::new("runs").join(name));
        Run::open(&folder, config, intervals, self.resume)
    }

    fn write<const N: usize>(
        &self,
        network: &Network,
        unet: Unet,
        role: Role,
        provenance: [(&str, Value); N],
    ) -> Result<()> {
        let mut provenance = Map::from_iter(provenance.map(|(key, value)| (key.to_owned(), value)));
        provenance.insert("command".into(), json!(std::env::args().collect::<Vec<_>>().join(" ")));
        let checkpoint = Checkpoint { unet, role, provenance, tensors: network.tensors()? };
        checkpoint.write(&self.output, if self.fp16 { Precision::F16 } else { Precision::F32 })?;
        println!("{}", self.output.display());
        Ok(())
    }
}

fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        // The error's own display is a drawing of several lines.
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow!("{}:{line}: {}", path.display(), error.message())
    })
}

/// A progress bar on stderr.
struct Bar(ProgressBar);

impl Bar {
    fn new(length: usize) -> Self {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {elapsed} left {eta} {msg}");
        let bar = ProgressBar::new(length as u64);
        Self(match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        })
    }

    fn set(&self, position: usize) {
        self.0.set_position(position as u64);
    }

    fn training(&self, progress: &Progress) {
        let terms: Vec<String> =
            progress.terms.iter().map(|(name, loss)| format!("{name} {loss:.4}")).collect();
        self.0.set_message(terms.join(" "));
        self.set(progress.step);
    }
}
