//! From the committed teacher to a table of what distillation gives.

use std::fmt::Write;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Programs, number, root, text};

const TEACHER: &str = "models/fashion-teacher.safetensors";
const STUDENT: &str = "models/fashion-student.safetensors";
const FEATURES: &str = "models/fashion-features.safetensors";
const TEST: &str = "data/fashion-mnist/t10k-images-idx3-ubyte.gz";
const RUN: &str = "runs/quickstart";

/// Steps of the teacher's solver that make the pairs, and the pictures that each network is judged by.
const PAIR_STEPS: &str = "12";
const COUNT: &str = "5000";

/// Steps that every network is asked for.
const STEPS: &str = "1,2,4";

/// A network of the table.
struct Network {
    name: &'static str,
    checkpoint: String,
    model: String,
}

/// Runs the stages and prints the table.
pub(crate) fn run() -> Result<()> {
    let programs = Programs::build(&["traflow-trainer", "traflow-export", "traflow-run"])?;
    let start = Instant::now();
    fs::create_dir_all(root().join(RUN)).with_context(|| format!("making {RUN}"))?;
    let pairs = format!("{RUN}/pairs");
    let student = format!("{RUN}/student.safetensors");
    programs.call("traflow", &["pairs", TEACHER, "--count", COUNT, "--steps", PAIR_STEPS, "-o", &pairs])?;
    let distill = format!("{RUN}/distill");
    programs.call(
        "traflow",
        &[
            "distill",
            "configs/fashion-quickstart.toml",
            "--teacher",
            TEACHER,
            "--pairs",
            &pairs,
            "-o",
            &student,
            "--run",
            &distill,
            "--resume",
        ],
    )?;
    let network = |name, checkpoint: &str, model: &str| Network {
        name,
        checkpoint: checkpoint.to_owned(),
        model: format!("{RUN}/{model}.traflow"),
    };
    let networks = [
        network("teacher", TEACHER, "teacher"),
        network("student, committed", STUDENT, "student-committed"),
        network("student, this run", &student, "student"),
    ];
    let mut rows = Vec::new();
    let mut metric = String::new();
    for network in &networks {
        let is_teacher = network.name == "teacher";
        let mut eval = vec!["eval", &network.checkpoint, "--features", FEATURES, "--steps", STEPS];
        eval.extend(["--real", TEST, "--count", COUNT, "--json"]);
        if is_teacher {
            eval.extend(["--solver", "euler", "--pairs", &pairs]);
        }
        let report = parse(&programs.call("traflow", &eval)?)?;
        let floor = number(&report["judgements"][0]["floor"])?;
        metric = format!("{} of {COUNT} pictures (test set: {floor:.3})", text(&report["metric"])?);
        // Twelve steps of Heun's method are twenty-four evaluations.
        let steps: &[&str] = if is_teacher { &["24", "1", "2", "4"] } else { &["1", "2", "4"] };
        let offered = steps.join(",");
        let exported = |precision: &str, model: &str| -> Result<Value> {
            let flag = format!("--{precision}");
            let report = ["--steps", &offered, "-o", model, "--json"];
            parse(
                &programs
                    .call("traflow-export", &[&[network.checkpoint.as_str(), &flag], &report[..]].concat())?,
            )
        };
        let f32_file = exported("f32", &network.model)?;
        let half = network.model.replace(".traflow", "-fp16.traflow");
        let f16_file = exported("fp16", &half)?;
        for (index, steps) in steps.iter().enumerate() {
            let picture = network.model.replace(".traflow", &format!("-{steps}.png"));
            let run = [&network.model, "--count", "64", "--steps", steps, "-o", &picture, "--json"];
            let timed = parse(&programs.call("traflow-run", &run)?)?;
            rows.push(Row {
                what: format!("{}, {}", network.name, plural(steps)),
                distance: number(&report["judgements"][index]["distance"])?,
                milliseconds: number(&timed["ms_per_image"])?,
                f32_bytes: number(&f32_file["file_bytes"])?,
                f16_bytes: number(&f16_file["file_bytes"])?,
                arena_bytes: number(&timed["arena_bytes"])?,
            });
        }
        // What a user would take to a device: half the bytes, the same picture.
        let picture = half.replace(".traflow", "-1.png");
        programs.call("traflow-run", &[&half, "--count", "64", "--steps", "1", "-o", &picture])?;
    }
    println!("\ndistances are {metric}; times by the runtime in f32, one thread\n");
    print!("{}", table(&rows));
    println!("\npictures: {RUN}/*.png, among them {RUN}/student-1.png, one step of this run's student");
    println!("time without the build: {:.1} minutes", start.elapsed().as_secs_f64() / 60.0);
    ensure!(rows.iter().all(|row| row.distance.is_finite()), "a distance is not a number");
    Ok(())
}

/// A line of the table.
struct Row {
    what: String,
    distance: f64,
    milliseconds: f64,
    f32_bytes: f64,
    f16_bytes: f64,
    arena_bytes: f64,
}

fn table(rows: &[Row]) -> String {
    let mut table = format!(
        "{:<28} {:>9} {:>10} {:>9} {:>9} {:>9}\n",
        "", "distance", "ms/image", "f32 KB", "fp16 KB", "arena KB"
    );
    for row in rows {
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "{:<28} {:>9.2} {:>10.2} {:>9.0} {:>9.0} {:>9.0}",
            row.what,
            row.distance,
            row.milliseconds,
            row.f32_bytes / 1e3,
            row.f16_bytes / 1e3,
            row.arena_bytes / 1e3
        );
    }
    table
}

fn plural(steps: &str) -> String {
    match steps {
        "1" => "1 step".to_owned(),
        "24" => "12 steps of Heun".to_owned(),
        _ => format!("{steps} steps"),
    }
}

fn parse(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("not JSON: {text}"))
}
