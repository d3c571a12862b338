//! Turns a checkpoint into a model file.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use serde_json::json;
use traflow_export::{Options, export};
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::file;
use traflow_graph::model::Dtype;

const EXAMPLES: &str = "\
Before the file is written it is run: where its pictures are not those of the checkpoint, that is an error.

Examples:
  traflow-export student.safetensors --fp16 -o digits.traflow
  traflow-export student.safetensors --f32 --steps 1,2,4 -o digits.traflow
  traflow-export teacher.safetensors --fp16 --steps 100 -o teacher.traflow --json";

/// Turns a checkpoint into a model file.
#[derive(Parser)]
#[command(name = "traflow-export", version, after_help = EXAMPLES)]
struct Arguments {
    /// Checkpoint of a student, or of a teacher
    checkpoint: PathBuf,
    #[command(flatten)]
    precision: Precision,
    /// Numbers of steps that the file offers
    #[arg(
        long,
        default_value = "1",
        value_name = "N,...",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1000),
    )]
    steps: Vec<u32>,
    /// Compute every convolution by its definition: slower, with smaller rounding errors and less scratch memory
    #[arg(long)]
    no_winograd: bool,
    /// Model file to write
    #[arg(short, long)]
    output: PathBuf,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Precision {
    /// Keep weights in single precision
    #[arg(long)]
    f32: bool,
    /// Round weights to half precision
    #[arg(long)]
    fp16: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", line(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { checkpoint: path, output, .. } = arguments;
    let weights = if arguments.precision.f32 { Dtype::F32 } else { Dtype::F16 };
    let options = Options { weights, steps: arguments.steps.clone(), winograd: !arguments.no_winograd };
    let same = path.canonicalize().is_ok_and(|path| output.canonicalize().is_ok_and(|output| path == output));
    ensure!(!same, "{} is the checkpoint itself", output.display());

    let checkpoint = Checkpoint::read(path)?;
    let exported = export(&checkpoint, &options).with_context(|| format!("exporting {}", path.display()))?;
    file::write(output, &exported.file).with_context(|| format!("writing {}", output.display()))?;

    let mut out = std::io::stdout();
    if arguments.json {
        let mut report = exported.report.json();
        report["checkpoint"] = json!(path);
        report["output"] = json!(output);
        writeln!(out, "{report}")?;
    } else {
        writeln!(out, "{}\n{}", output.display(), exported.report)?;
    }
    Ok(())
}

/// An error and its causes in one line. The messages of the libraries end with those of their causes, which are not
/// said again.
fn line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.ends_with(&cause) {
            _ = write!(line, ": {cause}");
        }
    }
    line
}
