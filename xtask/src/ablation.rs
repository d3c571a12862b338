//! What each loss gives: students of one teacher that differ in their losses alone, each trained with several seeds on as many
//! pictures, judged at one, two and four steps.
//!
//! A run leaves a file with its judgement, so that an ablation which was interrupted goes on where it was.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use traflow_graph::file;

use crate::{Programs, number, page, root, text};

const TEACHER: &str = "models/fashion-teacher.safetensors";
const FEATURES: &str = "models/fashion-features.safetensors";
const TEST: &str = "data/fashion-mnist/t10k-images-idx3-ubyte.gz";
const CONFIG: &str = "configs/ablation.toml";
const PAGE: &str = "docs/ablation.md";

/// Pictures of a step.
const BATCH: u64 = 32;

/// Steps that every student is asked for.
const STEPS: [&str; 3] = ["1", "2", "4"];

/// How the command is called.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Pictures that each training sees; 64,000 take four hours on two cores.
    #[arg(long, default_value_t = 64_000, value_parser = clap::value_parser!(u64).range(BATCH..))]
    images: u64,
    /// Seeds of the trainings.
    #[arg(long, value_name = "SEED,...", value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// Pictures that a student is judged by.
    #[arg(long, default_value_t = 5000)]
    count: u64,
    /// Pairs that all students learn from.
    #[arg(long, default_value_t = 8192)]
    pairs: u64,
}

/// A row of the table.
struct Variant {
    name: &'static str,
    /// What is set in the only stage of the configuration, whose loss is `output = 1.0`.
    losses: &'static [&'static str],
}

const VARIANTS: [Variant; 12] = [
    Variant { name: "distill", losses: &[] },
    Variant { name: "distill, pseudo-Huber", losses: &["output.divergence=pseudo-huber"] },
    Variant { name: "+ velocity, local", losses: &["velocity=1.0"] },
    Variant { name: "+ velocity, anchored", losses: &["anchored.form=exact"] },
    Variant { name: "+ velocity, anchored-integral", losses: &["anchored.form=integral"] },
    Variant {
        name: "+ velocity, local + consistency, self",
        losses: &["velocity=1.0", "consistency.midpoint=self"],
    },
    Variant {
        name: "+ velocity, local + consistency, teacher",
        losses: &["velocity=1.0", "consistency.midpoint=teacher"],
    },
    Variant {
        name: "+ velocity, local + consistency, soft",
        losses: &["velocity=1.0", "consistency.midpoint=soft"],
    },
    Variant {
        name: "+ velocity, local + consistency, self; pseudo-Huber",
        losses: &["output.divergence=pseudo-huber", "velocity=1.0", "consistency.midpoint=self"],
    },
    Variant { name: "SCoT", losses: &["output=0.0", "scot=1.0"] },
    Variant { name: "shortcut", losses: &["output=0.0", "shortcut=1.0"] },
    Variant { name: "mean flow", losses: &["output=0.0", "meanflow=1.0"] },
];

impl Variant {
    /// Its name as that of a file.
    fn file(&self) -> String {
        let words = self.name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-").to_lowercase()
    }
}

impl Arguments {
    /// The folder of what these trainings learn from.
    fn of_pairs(&self) -> String {
        format!("runs/ablation/pairs-{}", self.pairs)
    }

    /// The folder of the trainings: those of other numbers are others.
    fn folder(&self) -> String {
        format!("runs/ablation/{}-of-{}", self.images, self.pairs)
    }
}

/// Trains and judges what is not there yet, and writes the page after each.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    ensure!(!arguments.seeds.is_empty(), "--seeds names none");
    let programs = Programs::build(&["traflow-trainer"])?;
    let folder = root().join(arguments.folder());
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let count = arguments.pairs.to_string();
    programs.call("traflow", &["pairs", TEACHER, "--count", &count, "-o", &arguments.of_pairs()])?;
    // Seed by seed, so that there is a whole table early.
    for seed in &arguments.seeds {
        for variant in &VARIANTS {
            let judged = judgement(&folder, variant, *seed);
            if !judged.exists() {
                let report = train_and_judge(&programs, arguments, variant, *seed)?;
                file::write(&judged, report.as_bytes())
                    .with_context(|| format!("writing {}", judged.display()))?;
            }
            write_page(arguments, &folder)?;
        }
    }
    Ok(())
}

/// Where the judgement of a run is.
fn judgement(folder: &Path, variant: &Variant, seed: u64) -> PathBuf {
    folder.join(format!("{}-{seed}.json", variant.file()))
}

fn train_and_judge(
    programs: &Programs,
    arguments: &Arguments,
    variant: &Variant,
    seed: u64,
) -> Result<String> {
    // In the project's folder, so that a checkpoint does not name the machine's.
    let run = format!("{}/{}-{seed}", arguments.folder(), variant.file());
    let student = format!("{run}.safetensors");
    let pairs = arguments.of_pairs();
    let mut distill =
        ["distill", CONFIG, "--teacher", TEACHER, "--pairs", &pairs].map(str::to_owned).to_vec();
    distill.extend(["--run", &run, "--resume", "-o", &student].map(str::to_owned));
    let steps = format!("stage.1.steps={}", arguments.images / BATCH);
    let settings = [format!("seed={seed}"), format!("batch={BATCH}"), steps];
    let losses = variant.losses.iter().map(|loss| format!("stage.1.{loss}"));
    distill.extend(settings.into_iter().chain(losses).flat_map(|setting| ["--set".to_owned(), setting]));
    programs.call("traflow", &distill.iter().map(String::as_str).collect::<Vec<_>>())?;
    let (steps, count) = (STEPS.join(","), arguments.count.to_string());
    let eval = ["eval", &student, "--features", FEATURES, "--real", TEST, "--steps", &steps];
    programs.call("traflow", &[&eval[..], &["--count", &count, "--json"]].concat())
}

/// Mean and deviation over the seeds.
fn over_seeds(distances: &[f64]) -> String {
    let n = distances.len() as f64;
    let mean = distances.iter().sum::<f64>() / n;
    let squares = distances.iter().map(|distance| (distance - mean).powi(2)).sum::<f64>();
    if distances.len() < 2 {
        format!("{mean:.3}")
    } else {
        format!("{mean:.3} ± {:.3}", (squares / (n - 1.0)).sqrt())
    }
}

/// The table of what is there.
fn write_page(arguments: &Arguments, folder: &Path) -> Result<()> {
    let mut rows = String::new();
    let mut judge = String::new();
    let mut trainings = 0;
    for variant in &VARIANTS {
        let mut distances = [const { Vec::new() }; STEPS.len()];
        for seed in &arguments.seeds {
            let path = judgement(folder, variant, *seed);
            let Ok(report) = fs::read_to_string(&path) else { continue };
            let report: Value =
                serde_json::from_str(&report).with_context(|| format!("reading {}", path.display()))?;
            for (distances, judged) in
                distances.iter_mut().zip(report["judgements"].as_array().into_iter().flatten())
            {
                ensure!(
                    judged["count"] == arguments.count,
                    "{}: it was judged by {} pictures, not by {}; remove it to judge it again",
                    path.display(),
                    judged["count"],
                    arguments.count
                );
                distances.push(number(&judged["distance"])?);
            }
            let floor = number(&report["judgements"][0]["floor"])
                .with_context(|| format!("{}: remove it to judge it again", path.display()))?;
            judge = format!("{}, floor {floor:.3}", text(&report["metric"])?);
            trainings += 1;
        }
        if distances.iter().any(Vec::is_empty) {
            continue;
        }
        let losses = if variant.losses.is_empty() {
            "–".to_owned()
        } else {
            format!("`{}`", variant.losses.join(" "))
        };
        let cells = distances.map(|distances| over_seeds(&distances)).join(" | ");
        writeln!(rows, "| {} | {losses} | {cells} |", variant.name)?;
    }
    let seeds = arguments.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let table = format!(
        "`cargo xtask ablation --images {} --seeds {seeds} --count {} --pairs {}`, {trainings} of {} trainings; {judge}.\n\
         Machine: {}.\n\n\
         | losses | set in the stage | 1 step | 2 steps | 4 steps |\n|---|---|---|---|---|\n{rows}",
        arguments.images,
        arguments.count,
        arguments.pairs,
        VARIANTS.len() * arguments.seeds.len(),
        page::machine(),
    );
    page::replace(PAGE, "ablation", &table)
}
