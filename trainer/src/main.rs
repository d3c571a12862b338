//! `traflow`: teachers, pairs, students and their judgement, each a command that reads files and writes files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use traflow_graph::checkpoint::{Checkpoint, Precision, Role};
use traflow_graph::unet::Unet;
use traflow_trainer::device::DeviceName;
use traflow_trainer::network::Network;
use traflow_trainer::run::{Progress, Run};
use traflow_trainer::teacher::{self, TeacherConfig};
use traflow_trainer::data;

#[derive(Parser)]
#[command(version, about = "Trains rectified-flow teachers and distills one-step students from them.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Teacher(TeacherArgs),
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

fn main() -> ExitCode {
    let run = match Cli::parse().command {
        Command::Teacher(args) => train_teacher(&args),
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

impl TrainingArgs {
    fn open(&self, config: &impl serde::Serialize, intervals: traflow_trainer::run::Intervals) -> Result<Run> {
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
    toml::from_str(&text).with_context(|| format!("reading {}", path.display()))
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

    fn training(&self, progress: &Progress) {
        let terms: Vec<String> = progress.terms.iter().map(|(name, loss)| format!("{name} {loss:.4}")).collect();
        self.0.set_message(terms.join(" "));
        self.0.set_position(progress.step as u64);
    }
}
