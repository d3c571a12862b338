//! Turns a checkpoint into a model file, or into an ONNX file.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use serde_json::{Value, json};
use traflow_export::calibrate::Observer;
use traflow_export::{ExportError, Exported, Options, export, integers, onnx, schedules};
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::file;
use traflow_graph::model::{Dtype, MAX_SCHEDULES};

const EXAMPLES: &str = "\
Before a model file is written it is run. It is an error if pictures of three seeds are further from the checkpoint's than 1e-4 (f32) or
5e-3 (fp16) of their range; with --int8, if a node gives anything but what its definition gives, or if the median PSNR of 32 pictures is
below 15 dB. A teacher's steps are Euler's.

Examples:
  traflow-export student.safetensors --fp16 -o digits.traflow
  traflow-export student.safetensors --f32 --steps 1,2,4 -o digits.traflow
  traflow-export student.safetensors --onnx digits.onnx --test-data test_data_set_0
  traflow-export student.safetensors --int8 --observer percentile -o digits.traflow
  traflow-export student.safetensors --int8 --formats formats.json -o digits.traflow
  traflow-export teacher.safetensors --fp16 --steps 100 -o teacher.traflow --json";

/// Turns a checkpoint into a model file, or into an ONNX file for other runtimes.
#[derive(Parser)]
#[command(name = "traflow-export", version, after_help = EXAMPLES)]
struct Arguments {
    /// Checkpoint of a student, or of a teacher
    checkpoint: PathBuf,
    #[command(flatten)]
    precision: Precision,
    /// Numbers of steps that the file offers; an ONNX file offers one
    #[arg(
        long,
        default_value = "1",
        value_name = "N,...",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1000),
    )]
    steps: Vec<u32>,
    #[command(flatten)]
    calibration: Calibration,
    /// Compute every convolution by its definition: slower, with smaller rounding errors and less scratch memory
    #[arg(long, conflicts_with_all = ["int8", "onnx"])]
    no_winograd: bool,
    /// Model file to write
    #[arg(short, long, value_name = "FILE", requires = "Precision", required_unless_present = "onnx")]
    output: Option<PathBuf>,
    /// ONNX file to write instead, with weights in single precision
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "Precision"])]
    onnx: Option<PathBuf>,
    /// Folder for the noise of seed 0 and the picture that the ONNX file has to make of it, as ONNX's test data
    #[arg(long, value_name = "FOLDER", requires = "onnx", conflicts_with = "output")]
    test_data: Option<PathBuf>,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(multiple = false)]
struct Precision {
    /// Keep weights in single precision
    #[arg(long)]
    f32: bool,
    /// Round weights to half precision
    #[arg(long)]
    fp16: bool,
    /// Compute with integers of 8 bits alone, and the same bits on every machine
    #[arg(long)]
    int8: bool,
}

/// What makes no file of integers. To require `--int8` would not do: clap requires nothing that conflicts with what is there.
const OTHERS: [&str; 3] = ["f32", "fp16", "onnx"];

#[derive(Args)]
#[command(next_help_heading = "With --int8")]
struct Calibration {
    /// How the ranges of values are chosen
    #[arg(long, value_enum, default_value = "mse", conflicts_with_all = OTHERS)]
    observer: ObserverName,
    /// Part of the numbers that --observer percentile keeps, in percent [default: 99.99]
    #[arg(long, conflicts_with_all = OTHERS, value_parser = percent)]
    percentile: Option<f64>,
    /// Seeds that ranges are chosen from
    #[arg(
        long,
        default_value_t = 16,
        value_name = "N",
        conflicts_with_all = OTHERS,
        value_parser = clap::value_parser!(u64).range(1..=4096),
    )]
    calibration_seeds: u64,
    /// Ranges of their own for each step
    #[arg(long, conflicts_with_all = OTHERS)]
    per_step: bool,
    /// Leave biases as they are where rounded weights change the mean
    #[arg(long, conflicts_with_all = OTHERS)]
    no_bias_correction: bool,
    /// Values that cause more than this part of the picture's error get 16 bits; those that large convolutions read have to
    /// cause more of it
    #[arg(long, default_value_t = 0.02, value_name = "PART", conflicts_with_all = OTHERS, value_parser = part)]
    island_share: f64,
    /// JSON file to write: how integers stand for each value, for traflow distill --qat
    #[arg(long, value_name = "FILE", conflicts_with_all = OTHERS, conflicts_with = "per_step")]
    formats: Option<PathBuf>,
    /// Choose ranges anew for a checkpoint that was trained for integers
    #[arg(long, conflicts_with_all = OTHERS)]
    recalibrate: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ObserverName {
    /// From the least number to the largest
    Minmax,
    /// Without the outermost numbers
    Percentile,
    /// Least mean squared error
    Mse,
    /// Least Kullback-Leibler divergence
    Kl,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| *number > 0.0 && *number <= 100.0);
    number.ok_or_else(|| "it is no number above 0 and up to 100".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "it is no number from 0 to 1".to_owned())
}

/// Options that choose ranges.
const RANGES: [&str; 4] = ["observer", "calibration_seeds", "per_step", "island_share"];

fn main() -> ExitCode {
    let matches = Arguments::command().get_matches();
    let given = |option: &&str| matches.value_source(option) == Some(ValueSource::CommandLine);
    let ranges = RANGES.into_iter().find(given);
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match run(&arguments, ranges) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", line(&error));
            ExitCode::FAILURE
        }
    }
}

/// Exports; `ranges` is an option that was given to choose ranges with.
fn run(arguments: &Arguments, ranges: Option<&str>) -> Result<()> {
    let path = &arguments.checkpoint;
    let output = arguments.onnx.as_ref().or(arguments.output.as_ref()).context("no file to write")?;
    let formats = arguments.calibration.formats.iter().map(PathBuf::as_path);
    let paths: Vec<&Path> = [path.as_path(), output].into_iter().chain(formats).collect();
    if let Some(repeated) = file::repeated(&paths) {
        bail!("{} is there twice, as the checkpoint or as two files to write", repeated.display());
    }

    let offered = schedules(&arguments.steps).len();
    ensure!(
        offered <= MAX_SCHEDULES,
        "--steps: a file offers at most {MAX_SCHEDULES} numbers of steps, not {offered}"
    );
    let Calibration { observer, percentile, .. } = arguments.calibration;
    ensure!(
        percentile.is_none() || matches!(observer, ObserverName::Percentile),
        "--percentile is for --observer percentile"
    );

    let checkpoint = Checkpoint::read(path)?;
    if let Some(option) = ranges
        && checkpoint.formats.is_some()
        && !arguments.calibration.recalibrate
    {
        let (path, option) = (path.display(), option.replace('_', "-"));
        bail!(
            "{path}: it was trained for integers and has ranges: --{option} is of no use without --recalibrate"
        );
    }
    let (mut json, text) = match arguments.onnx {
        Some(_) => to_onnx(&checkpoint, arguments, output)?,
        None => to_model(&checkpoint, arguments, output)?,
    };

    let mut out = std::io::stdout();
    if arguments.json {
        // A path need not be Unicode, as JSON has to be.
        json["checkpoint"] = json!(path.to_string_lossy());
        json["output"] = json!(output.to_string_lossy());
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{}\n{text}", output.display())?;
    }
    Ok(())
}

/// Writes a model file; gives the report as JSON and as text.
fn to_model(checkpoint: &Checkpoint, arguments: &Arguments, output: &Path) -> Result<(Value, String)> {
    if arguments.precision.int8 {
        let integers::Exported { file, formats, report } =
            to_integers(checkpoint, arguments).with_context(|| exporting(arguments))?;
        write(output, &file)?;
        if let Some(path) = &arguments.calibration.formats {
            formats.write(path)?;
        }
        return Ok((report.json(), report.to_string()));
    }
    let weights = if arguments.precision.f32 { Dtype::F32 } else { Dtype::F16 };
    let options = Options { weights, steps: arguments.steps.clone(), winograd: !arguments.no_winograd };
    let Exported { file, report } = export(checkpoint, &options).with_context(|| exporting(arguments))?;
    write(output, &file)?;
    Ok((report.json(), report.to_string()))
}

/// Writes an ONNX file; gives the report as JSON and as text.
fn to_onnx(checkpoint: &Checkpoint, arguments: &Arguments, output: &Path) -> Result<(Value, String)> {
    let [steps] = arguments.steps[..] else { bail!("an ONNX file offers one number of steps") };
    let onnx::Exported { file, nodes, noise, class, image, folding } =
        onnx::export(checkpoint, steps).with_context(|| exporting(arguments))?;
    if let Some(folder) = &arguments.test_data {
        write(&folder.join("input_0.pb"), &noise)?;
        if let Some(class) = class {
            write(&folder.join("input_1.pb"), &class)?;
        }
        write(&folder.join("output_0.pb"), &image)?;
    }
    write(output, &file)?;
    let bytes = file.len();
    let json = json!({ "precision": "f32", "steps": steps, "file_bytes": bytes, "nodes": nodes, "folding": folding });
    Ok((
        json,
        format!("{bytes} bytes, {nodes} nodes; folding changes the picture by {folding:.1e} of its range"),
    ))
}

fn exporting(arguments: &Arguments) -> String {
    format!("exporting {}", arguments.checkpoint.display())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    file::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

/// A model file of integers.
fn to_integers(checkpoint: &Checkpoint, arguments: &Arguments) -> Result<integers::Exported, ExportError> {
    let calibration = &arguments.calibration;
    let options = integers::Options {
        steps: arguments.steps.clone(),
        observer: match calibration.observer {
            ObserverName::Minmax => Observer::MinMax,
            ObserverName::Percentile => Observer::Percentile(calibration.percentile.unwrap_or(99.99)),
            ObserverName::Mse => Observer::Mse,
            ObserverName::Kl => Observer::Kl,
        },
        seeds: calibration.calibration_seeds,
        per_step: calibration.per_step,
        correct_bias: !calibration.no_bias_correction,
        island_share: calibration.island_share,
    };
    if calibration.recalibrate {
        return integers::export(&Checkpoint { formats: None, ..checkpoint.clone() }, &options);
    }
    integers::export(checkpoint, &options)
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
