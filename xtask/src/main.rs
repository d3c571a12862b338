//! Commands that call the project's programs one after the other.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use serde_json::Value;

mod ablation;
mod bench_devices;
mod bench_peers;
mod bench_training;
mod page;
mod peer;
mod quickstart;
mod smoke;

#[derive(Parser)]
#[command(about = "Commands that call the project's programs one after the other.")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Distills a student from the committed teacher, exports it, runs it, and judges all of them.
    Quickstart,
    /// Goes the whole way in a minute, with networks too small to be any good.
    Smoke,
    /// Times the runtime and other runtimes on the same networks, and writes docs/benchmarks.md.
    BenchPeers(bench_peers::Arguments),
    /// Counts instructions on virtual microcontrollers, and compares them with those of before.
    BenchDevices(bench_devices::Arguments),
    /// Times a step of a training beside PyTorch, and writes its part of docs/benchmarks.md.
    BenchTraining(bench_training::Arguments),
    /// Distills students that differ in their losses alone, judges them, and writes docs/ablation.md.
    Ablation(ablation::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Quickstart => quickstart::run(),
        Task::Smoke => smoke::run(),
        Task::BenchPeers(arguments) => bench_peers::run(&arguments),
        Task::BenchDevices(arguments) => bench_devices::run(&arguments),
        Task::BenchTraining(arguments) => bench_training::run(&arguments),
        Task::Ablation(arguments) => ablation::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The project's programs, beside this one.
struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds the programs of these packages for use. Where this one is of the dev profile, they are those beside it.
    fn build(packages: &[&str]) -> Result<Self> {
        if cfg!(debug_assertions) {
            return Self::find();
        }
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        cargo(&["build", "--release", "--bins"].into_iter().chain(packages).collect::<Vec<_>>())?;
        Self::beside()
    }

    /// The programs that were built with this one.
    fn find() -> Result<Self> {
        let programs = Self::beside()?;
        for name in ["traflow", "traflow-export", "traflow-run"] {
            let program = programs.folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
            ensure!(program.exists(), "{}: build the workspace first", program.display());
        }
        Ok(programs)
    }

    /// Those in the folder of this program.
    fn beside() -> Result<Self> {
        let program = std::env::current_exe().context("looking for the programs")?;
        Ok(Self { folder: program.parent().context("looking for the programs")?.to_owned() })
    }

    /// Calls a program in the project's folder with its progress visible, and returns what it printed.
    fn call(&self, program: &str, arguments: &[&str]) -> Result<String> {
        eprintln!("\n$ {program} {}", arguments.join(" "));
        let start = Instant::now();
        let mut command = Command::new(self.folder.join(program));
        command.current_dir(root()).args(arguments).stdout(Stdio::piped());
        let output = command.spawn().and_then(|child| child.wait_with_output());
        let output = output.with_context(|| format!("calling {program}"))?;
        ensure!(output.status.success(), "{program} failed ({})", output.status);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        eprint!("{text}");
        eprintln!("({:.1} s)", start.elapsed().as_secs_f64());
        Ok(text)
    }
}

/// Calls cargo in the project's folder.
fn cargo(arguments: &[&str]) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo.current_dir(root()).args(arguments).status().context("calling cargo")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

/// The project's folder.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("not a number: {value}"))
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("not a text: {value}"))
}
