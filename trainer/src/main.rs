//! `traflow`: teachers, pairs, students and their judgement, each a command that reads files and writes files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use traflow_graph::checkpoint::{self, Checkpoint, Precision, Role, Tensors};
use traflow_graph::formats::Formats;
use traflow_graph::unet::{self, SConditioning, Unet};
use traflow_trainer::boards::Board;
use traflow_trainer::device::DeviceName;
use traflow_trainer::distill::{self, DistillConfig, Lessons};
use traflow_trainer::evaluate::Report;
use traflow_trainer::features::{Features, Labelled};
use traflow_trainer::import::{self, AttentionOrder, Imported, Preconditioning, check};
use traflow_trainer::network::Network;
use traflow_trainer::pairs::{self, Recipe};
use traflow_trainer::plan::Sizes;
use traflow_trainer::run::{Intervals, Progress, Run, Sources, Trained};
use traflow_trainer::sample::{Sampler, sample};
use traflow_trainer::solver::{Solver, gaussian};
use traflow_trainer::teacher::{self, TeacherConfig};
use traflow_trainer::{data, initial, picture};

#[derive(Parser)]
#[command(
    version,
    about = "Trains rectified-flow teachers and distills one-step students from them.",
    after_help = "\
Examples:
  traflow plan --preset 16m
  traflow init --preset nano -o random.safetensors
  traflow teacher configs/fashion-teacher.toml --images train-images-idx3-ubyte.gz -o teacher.safetensors
  traflow import edm-cifar10.safetensors -o teacher.safetensors
  traflow pairs teacher.safetensors --count 8192 -o pairs
  traflow distill configs/fashion-student.toml --teacher teacher.safetensors --pairs pairs -o student.safetensors
  traflow distill configs/fashion-student.toml --teacher teacher.safetensors --set stage.2.steps=500 --dry-run
  traflow pairs student.safetensors --steps 1 -o pairs-of-student
  traflow distill configs/fashion-int8.toml --teacher student.safetensors --pairs pairs-of-student --qat formats.json -o int8.safetensors
  traflow sample student.safetensors -o grid.png
  traflow eval student.safetensors --features models/fashion-features.safetensors --steps 1,2,4
  traflow eval --pictures pictures.idx --features models/fashion-features.safetensors"
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
    Init(InitArgs),
    /// Prints the error of each solver against its steps, where the flow is known: data N(0.7, 0.35²).
    Solvers,
}

/// Where a training runs and what it leaves.
#[derive(Args)]
struct TrainingArgs {
    /// Configuration of the training (TOML).
    config: PathBuf,
    /// Sets a value of the configuration, as in --set optimiser.learning_rate=1e-4 --set stage.1.steps=50; stages count
    /// from 1. A number for a loss is its weight; its options stay.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print the configuration as resolved, sizes and schedule, and train nothing.
    #[arg(long)]
    dry_run: bool,
    /// Checkpoint to write; with `second_ema` also one called NAME.second.safetensors.
    #[arg(short, long, required_unless_present = "dry_run")]
    output: Option<PathBuf>,
    /// Folder of logs, samples and states [default: runs/NAME-OF-CONFIG].
    #[arg(long)]
    run: Option<PathBuf>,
    /// Go on with a run that was interrupted, of the same configuration but for intervals and parts.
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
    /// Pictures: a folder of PNG and JPEG files, cut from the middle and scaled to the network's size; or an IDX file, plain
    /// or gzipped; or a .bin of CIFAR-10.
    #[arg(long)]
    images: PathBuf,
    /// Classes of the pictures, for a network that has classes: the same folder, whose folders are the classes, by name and empty
    /// ones too; or an IDX file; or the same .bin of CIFAR-10.
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Licence of the pictures, kept in the checkpoint.
    #[arg(long, default_value = "unknown")]
    licence: String,
}

/// Takes a teacher from elsewhere: EDM, score_sde, RectifiedFlow, SlimFlow or guided-diffusion.
#[derive(Args)]
struct ImportArgs {
    /// Weights (safetensors, or what torch.save wrote: .pt, .pth).
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

/// How the ODE of a velocity is solved.
#[derive(Args)]
struct SolverArgs {
    /// Solver of the ODE [default: heun for a teacher]. A student goes by its map where none is named; name one for a
    /// student that learned velocities alone.
    #[arg(long, value_enum)]
    solver: Option<Solver>,
}

/// The steps of a student that are not equally long.
#[derive(Args)]
struct GridArgs {
    /// Times of the steps of a student's map, falling from 1; the last step goes to 0.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["steps", "solver"], value_name = "1,…")]
    times: Option<Vec<f32>>,
}

impl GridArgs {
    /// The samplers of a checkpoint: one for each number of steps, or that of the times.
    fn samplers(&self, role: Role, solver: Option<Solver>, steps: &[usize]) -> Result<Vec<Sampler>> {
        let Some(times) = &self.times else {
            // It chooses its own steps.
            let steps = if solver == Some(Solver::Rk45) { &steps[..1] } else { steps };
            return Ok(steps.iter().map(|&steps| Sampler::new(role, solver, steps)).collect());
        };
        ensure!(role == Role::Student, "--times is for students: a teacher has --solver and --steps");
        let grid = [times.as_slice(), &[0.0]].concat();
        ensure!(
            grid[0] == 1.0 && grid.windows(2).all(|pair| pair[0] > pair[1]),
            "--times {}: they do not fall from 1 towards 0",
            join(times)
        );
        Ok(vec![Sampler::Grid(grid)])
    }
}

fn join(times: &[f32]) -> String {
    times.iter().map(f32::to_string).collect::<Vec<_>>().join(",")
}

/// Makes the pictures of many seeds and keeps them: what a student learns from.
#[derive(Args)]
struct PairsArgs {
    /// Checkpoint of a teacher, or of a student that is to teach the next one.
    teacher: PathBuf,
    /// Folder of the pairs; those that it has already are kept.
    #[arg(short, long)]
    output: PathBuf,
    /// Number of pairs.
    #[arg(long, default_value_t = 8192, value_parser = positive)]
    count: usize,
    /// Seed of the first pair.
    #[arg(long, default_value_t = 1_000_000)]
    seed: u64,
    /// Steps, of the solver or of a student's map: more than 20 of heun change little (rk45 chooses its own).
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
    #[arg(long, required_unless_present = "dry_run")]
    pairs: Option<PathBuf>,
    /// Pictures, as traflow teacher reads them, for the objectives that take pictures independent of the noise; otherwise
    /// they take the teacher's.
    #[arg(long)]
    images: Option<PathBuf>,
    /// Train for integers: how they stand for each value, as traflow-export --int8 --formats writes it.
    #[arg(long, value_name = "FORMATS")]
    qat: Option<PathBuf>,
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
    /// Pictures that the network was trained on, as traflow teacher reads them: draws beside each picture the one nearest to it.
    #[arg(long, value_name = "IMAGES")]
    neighbours: Option<PathBuf>,
    #[command(flatten)]
    grid: GridArgs,
    #[command(flatten)]
    solver: SolverArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Judges a checkpoint, pairs, or pictures that were made elsewhere, by the Fréchet distance on a classifier's features.
#[derive(Args)]
#[command(
    mut_arg("solver", |solver| solver.requires("checkpoint")),
    mut_arg("times", |times| times.requires("checkpoint"))
)]
struct EvalArgs {
    /// Checkpoint of a teacher or a student.
    #[arg(required_unless_present_any = ["pairs", "pictures", "dataset"])]
    checkpoint: Option<PathBuf>,
    /// Folder of pairs, whose pictures are a teacher's at many steps.
    #[arg(long)]
    pairs: Option<PathBuf>,
    /// Pictures: a folder of PNG and JPEG files, or an IDX file, as traflow-run --pictures writes it.
    #[arg(long, value_name = "FILE")]
    pictures: Vec<PathBuf>,
    /// Real pictures, as traflow teacher reads them, for the floor, precision, recall and MMD² beside the distance; best
    /// those that nothing was trained on, and as many as are judged.
    #[arg(long, value_name = "IMAGES")]
    real: Option<PathBuf>,
    /// The classifier; trained and written if there is none.
    #[arg(long)]
    features: PathBuf,
    /// Folder of the data set (MNIST's file names), for training the classifier.
    #[arg(long)]
    dataset: Option<PathBuf>,
    /// Numbers of steps; rk45 chooses its own.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = positive, requires = "checkpoint")]
    steps: Vec<usize>,
    #[command(flatten)]
    grid: GridArgs,
    #[command(flatten)]
    solver: SolverArgs,
    /// Number of pictures of a checkpoint, or of pairs.
    #[arg(long, default_value_t = 5000, value_parser = positive)]
    count: usize,
    /// Seed of the first picture of a checkpoint.
    #[arg(long, default_value_t = 0, requires = "checkpoint")]
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
    /// Configuration of a training that has a network.
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// Network by its name: nano, small, 3m, 7m, 16m, 28m, 1-rf, edm-cifar, edm-cifar-ve, edm-ffhq, imagenet or
    /// edm-imagenet.
    #[arg(long)]
    preset: Option<String>,
    /// Height and width of the pictures of a preset [default: its own].
    #[arg(long, requires = "preset")]
    size: Option<u16>,
    /// Say whether the student fits a board, in int8 as with --island-share 1 and one step: stm32f411, stm32f407, nrf52840, stm32h743, stm32u585, lm3s6965 or
    /// esp32c3.
    #[arg(long)]
    board: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Writes a student of random weights that was never trained, for benchmarks and tests: every layer takes part.
#[derive(Args)]
struct InitArgs {
    /// Network by its name, as traflow plan has it.
    #[arg(long)]
    preset: String,
    /// Height and width of the pictures [default: the preset's own].
    #[arg(long)]
    size: Option<u16>,
    /// Seed of the weights.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Checkpoint to write.
    #[arg(short, long)]
    output: PathBuf,
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
        Command::Init(args) => init(&args),
        Command::Solvers => {
            println!("{}", gaussian::table());
            Ok(())
        }
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
    let config: TeacherConfig = args.training.read_config()?;
    if args.training.dry_run {
        config.check()?;
        println!("{}\n{}", toml::to_string(&config)?, Sizes::new(&config.network, None)?);
        return Ok(());
    }
    let images = data::read_pictures(&args.images, config.network.image())?;
    let labels = args.labels.as_ref().map(|path| data::read_labels(path)).transpose()?;
    let mut sources = Sources::from([("pictures".to_owned(), data::digest(&images.pixels))]);
    let digest =
        |labels: &Vec<u16>| data::digest(&labels.iter().flat_map(|l| l.to_le_bytes()).collect::<Vec<_>>());
    sources.extend(labels.as_ref().map(|labels| ("labels".to_owned(), digest(labels))));
    let run = args.training.open(&config, sources, config.intervals.clone())?;
    let bar = Bar::new(config.steps);
    let trained =
        teacher::train(&config, &images, labels.as_deref(), &run, &device, &mut |p| bar.training(p))?;
    let provenance = [
        ("images", json!(args.images.display().to_string())),
        ("licence", json!(args.licence)),
        ("config", serde_json::to_value(&config)?),
    ];
    args.training.write(&trained, config.network, Role::Teacher, provenance, None)
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
        ("digest", json!(data::digest(&read_bytes(&args.weights)?))),
        ("names", json!(family)),
        ("preconditioning", serde_json::to_value(preconditioning)?),
        ("licence", json!(args.licence)),
        ("command", json!(command_line())),
    ];
    let provenance = Map::from_iter(provenance.map(|(key, value)| (key.to_owned(), value)));
    let checkpoint = Checkpoint { unet, role: Role::Teacher, provenance, formats: None, tensors };
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
    let network = initial::from_checkpoint(&teacher, &device)?;
    let sampler = Sampler::new(teacher.role, args.solver.solver, args.steps);
    let recipe = Recipe {
        teacher: digest,
        sampler: describe(&sampler),
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
    let config: DistillConfig = args.training.read_config()?;
    let (teacher, digest) = read_checkpoint(&args.teacher)?;
    config.check(&teacher.unet)?;
    if args.training.dry_run {
        let student = config.student(&teacher.unet);
        println!("{}\n{}\n\n{}", toml::to_string(&config)?, Sizes::new(&student, None)?, config.schedule());
        return Ok(());
    }
    let folder = args.pairs.as_ref().context("no --pairs")?;
    let pairs = pairs::read(folder, teacher.unet.image())?;
    // A student may teach the next one, as in progressive distillation, with the pairs that it learned from.
    let of_student = teacher.provenance.get("pairs_of").and_then(Value::as_str);
    ensure!(
        pairs.teacher == digest || Some(pairs.teacher.as_str()) == of_student,
        "{}: the pairs are of another teacher than {}",
        folder.display(),
        args.teacher.display()
    );
    let images = args.images.as_ref().map(|path| data::read_pictures(path, pairs.shape)).transpose()?;
    let formats = args.qat.as_ref().map(|path| Formats::read(path)).transpose()?.map(Arc::new);
    let lessons =
        Lessons { teacher: &teacher, pairs: &pairs, images: images.as_ref(), formats: formats.as_ref() };
    let learned = format!("{} from seed {}, {}", pairs.len(), pairs.first_seed, pairs.sampler);
    let mut sources = Sources::from([
        ("teacher".to_owned(), digest.clone()),
        ("pairs".to_owned(), format!("{learned}, of {}", pairs.teacher)),
    ]);
    if let Some(files) = &config.lpips {
        for (name, path) in [("vgg16", &files.vgg16), ("heads", &files.heads)] {
            sources.insert(name.to_owned(), data::digest(&read_bytes(path)?));
        }
    }
    sources.extend(images.as_ref().map(|images| ("pictures".to_owned(), data::digest(&images.pixels))));
    sources.extend(
        formats
            .as_ref()
            .map(|formats| ("formats".to_owned(), data::digest(json!(formats.0).to_string().as_bytes()))),
    );
    let run = args.training.open(&config, sources, config.intervals.clone())?;
    println!("pairs: {learned}");
    let bar = Bar::new(config.steps());
    let trained = distill::train(&config, &lessons, &run, &device, &mut |p| bar.training(p))?;
    let provenance = [
        ("teacher", json!(digest)),
        ("pairs_of", json!(pairs.teacher)),
        ("pairs", json!(pairs.len())),
        ("licence", teacher.provenance.get("licence").cloned().unwrap_or_default()),
        ("config", serde_json::to_value(&config)?),
    ];
    let formats = formats.as_deref().cloned();
    args.training.write(&trained, config.student(&teacher.unet), Role::Student, provenance, formats)
}

fn make_samples(args: &SampleArgs) -> Result<()> {
    let device = args.device.device.open()?;
    let (checkpoint, _) = read_checkpoint(&args.checkpoint)?;
    let network = initial::from_checkpoint(&checkpoint, &device)?;
    let seeds: Vec<u64> = (0..args.count as u64).map(|i| args.seed.wrapping_add(i)).collect();
    let sampler = args.grid.samplers(checkpoint.role, args.solver.solver, &[args.steps])?.remove(0);
    let bar = Bar::new(args.count);
    let shape = checkpoint.unet.image();
    let mut pictures = sample(&network, sampler, &seeds, shape, &mut |done| bar.set(done))?;
    let mut columns = args.count.isqrt();
    if let Some(path) = &args.neighbours {
        let images = data::read_pictures(path, shape)?;
        pictures = picture::beside_nearest(&pictures, &images);
        columns *= 2;
    }
    picture::save(&picture::grid(&pictures, shape, columns, 2)?, &args.output)?;
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
    let shape = features.shape().context("the classifier reads no pictures")?;
    if let Some(path) = &args.real {
        let images = data::read_pictures(path, shape)?;
        let count = images.len().min(args.count) * images.picture_len();
        report.real = Some(features.of(&data::from_pixels(&images.pixels[..count]))?);
    }
    if let Some(folder) = &args.pairs {
        let pairs = pairs::read(folder, shape)?;
        let count = args.count.min(pairs.len());
        let pictures = &pairs.images[..count * shape.elements()];
        report.judge(&features, format!("pairs, {}", pairs.sampler), pictures, shape)?;
    }
    for path in &args.pictures {
        let images = data::read_pictures(path, shape)?;
        let pictures = data::from_pixels(&images.pixels);
        report.judge(&features, path.display().to_string(), &pictures, images.shape())?;
    }
    if let Some(path) = &args.checkpoint {
        let (checkpoint, _) = read_checkpoint(path)?;
        let network = initial::from_checkpoint(&checkpoint, &device)?;
        for sampler in args.grid.samplers(checkpoint.role, args.solver.solver, &args.steps)? {
            let what = format!("{}, {}", checkpoint.role.name(), describe(&sampler));
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

/// What a configuration of a teacher or of a student says of the network.
#[derive(Deserialize)]
struct Planned {
    network: Option<Unet>,
}

fn plan(args: &PlanArgs) -> Result<()> {
    let unet = match (&args.preset, &args.config) {
        (Some(name), _) => preset(name, args.size)?,
        (None, Some(path)) => read_config::<Planned>(path)?.network.with_context(|| {
            format!("{}: has no [network]: name the configuration of its teacher", path.display())
        })?,
        (None, None) => bail!("name a configuration or a preset"),
    };
    let sizes = Sizes::new(&unet, args.board.as_deref().map(Board::named).transpose()?)?;
    if args.json {
        println!("{}", serde_json::to_string(&sizes)?);
    } else {
        println!("{sizes}");
    }
    Ok(())
}

fn init(args: &InitArgs) -> Result<()> {
    let unet = Unet { s_conditioning: SConditioning::TiedMean, ..preset(&args.preset, args.size)? };
    let mut checkpoint = Checkpoint::random(unet, Role::Student, args.seed)?;
    checkpoint.provenance.insert("command".into(), json!(command_line()));
    checkpoint.write(&args.output, Precision::F32)?;
    println!("{}", args.output.display());
    Ok(())
}

/// The network of a preset.
fn preset(name: &str, size: Option<u16>) -> Result<Unet> {
    Unet::preset(name, size).with_context(|| {
        let names: Vec<&str> = unet::PRESETS.iter().map(|preset| preset.name).collect();
        format!("there is no preset {name}, only {}", names.join(", "))
    })
}

/// The command as it was given, for the provenance of what it writes: without the program's folder, and without
/// `--resume`, so that a resumed training writes the bytes of one that was not interrupted.
fn command_line() -> String {
    let arguments = std::env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned());
    let arguments = arguments.filter(|argument| argument != "--resume");
    std::iter::once("traflow".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// A sampler in the words of a report.
fn describe(sampler: &Sampler) -> String {
    let plural = |steps: usize| if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
    match sampler {
        Sampler::Ode(Solver::Rk45, _) => "rk45".to_owned(),
        Sampler::Ode(solver, steps) => format!("{solver} {}", plural(*steps)),
        Sampler::Map(steps) => plural(*steps),
        Sampler::Grid(times) => format!("{} at {}", plural(times.len() - 1), join(&times[..times.len() - 1])),
    }
}

/// A checkpoint and the SHA-256 of its file.
fn read_checkpoint(path: &Path) -> Result<(Checkpoint, String)> {
    let bytes = read_bytes(path)?;
    Ok((Checkpoint::from_bytes(&path.display().to_string(), &bytes)?, data::digest(&bytes)))
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

impl TrainingArgs {
    /// The configuration, with the values that were set.
    fn read_config<T: DeserializeOwned>(&self) -> Result<T> {
        if self.set.is_empty() {
            return read_config(&self.config);
        }
        let mut config: toml::Table = read_config(&self.config)?;
        for setting in &self.set {
            set(&mut config, setting).with_context(|| format!("--set {setting}"))?;
        }
        config
            .try_into()
            .map_err(|error: toml::de::Error| anyhow!("{}: {}", self.config.display(), error.message()))
    }

    fn open(&self, config: &impl serde::Serialize, sources: Sources, intervals: Intervals) -> Result<Run> {
        let name = self.config.file_stem().unwrap_or(self.config.as_os_str());
        let folder = self.run.clone().unwrap_or_else(|| Path::new("runs").join(name));
        Run::open(&folder, config, sources, intervals, self.resume)
    }

    fn write<const N: usize>(
        &self,
        trained: &Trained,
        unet: Unet,
        role: Role,
        provenance: [(&str, Value); N],
        formats: Option<Formats>,
    ) -> Result<()> {
        let mut provenance = Map::from_iter(provenance.map(|(key, value)| (key.to_owned(), value)));
        provenance.insert("command".into(), json!(command_line()));
        let output = self.output.as_ref().context("no --output")?;
        let second = second(output);
        let mut checkpoint = Checkpoint { unet, role, provenance, formats, tensors: Tensors::new() };
        let mut write = |path: &Path, network: &Network| -> Result<()> {
            checkpoint.tensors = network.tensors()?;
            checkpoint.write(path, if self.fp16 { Precision::F16 } else { Precision::F32 })?;
            println!("{}", path.display());
            Ok(())
        };
        write(output, &trained.average)?;
        trained.second.as_ref().map_or(Ok(()), |network| write(&second, network))
    }
}

/// The file of the second average beside that of the first: NAME.second.safetensors, where a dot in the name is no ending.
fn second(output: &Path) -> PathBuf {
    let name = if output.extension().is_some_and(|extension| extension == "safetensors") {
        output.with_extension("")
    } else {
        output.to_owned()
    };
    let mut name = name.into_os_string();
    name.push(".second.safetensors");
    name.into()
}

fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| {
        // The error's own display is a drawing of several lines.
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow!("{}:{line}: {}", path.display(), error.message())
    })
}

/// Sets `key.key=value` in a configuration; a number is the place in a list, from 1. A value that is not TOML is a text, and
/// a number for a loss that has options is its weight.
fn set(config: &mut toml::Table, setting: &str) -> Result<()> {
    let (path, text) = setting.split_once('=').context("it is not KEY=VALUE")?;
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}")).ok();
    let value = parsed.and_then(|mut table| table.remove("value"));
    let value = value.unwrap_or_else(|| toml::Value::String(text.to_owned()));
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut table = config;
    let mut keys = parents.split('.').filter(|key| !key.is_empty());
    while let Some(key) = keys.next() {
        let entry = table.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        table = match entry {
            toml::Value::Array(list) => {
                let place: usize = keys.next().and_then(|key| key.parse().ok()).unwrap_or(0);
                let item = place.checked_sub(1).and_then(|place| list.get_mut(place));
                item.and_then(toml::Value::as_table_mut).with_context(|| format!("{key} has no such item"))?
            }
            value => {
                // A number is the weight of a loss.
                if !value.is_table() {
                    *value =
                        toml::Value::Table(toml::Table::from_iter([("weight".to_owned(), value.clone())]));
                }
                value.as_table_mut().context("it is no table")?
            }
        };
    }
    match table.get_mut(last) {
        // A number is the weight of a loss, whose options stay.
        Some(toml::Value::Table(options))
            if path.starts_with("stage.") && (value.is_integer() || value.is_float()) =>
        {
            options.insert("weight".to_owned(), value);
        }
        _ => {
            table.insert(last.to_owned(), value);
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of steps would be the same row.
    #[test]
    fn a_solver_that_chooses_its_steps_is_asked_once() {
        let samplers = |role, solver| GridArgs { times: None }.samplers(role, solver, &[1, 2, 4]).unwrap();
        for role in [Role::Teacher, Role::Student] {
            assert_eq!(samplers(role, Some(Solver::Rk45)), [Sampler::Ode(Solver::Rk45, 1)]);
            assert_eq!(samplers(role, Some(Solver::Euler)).len(), 3);
        }
        assert_eq!(samplers(Role::Student, None)[2], Sampler::Map(4));
    }
}
