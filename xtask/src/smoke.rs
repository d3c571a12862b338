//! The whole way in a minute: data set, teacher, pairs, student, model file, pictures, judgement.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Programs, root};

const IMAGES: &str = "data/fashion-mnist/t10k-images-idx3-ubyte.gz";

/// Runs every stage on a tiny network and checks that each left what the next one needs.
pub(crate) fn run() -> Result<()> {
    let programs = Programs::find()?;
    let folder = root().join("runs/smoke");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    let traflow = |arguments: &str| programs.call("traflow", &arguments.split(' ').collect::<Vec<_>>());
    traflow("plan configs/smoke-teacher.toml")?;
    traflow(&format!(
        "teacher configs/smoke-teacher.toml --images {IMAGES} -o runs/smoke/teacher.safetensors --run runs/smoke/teacher"
    ))?;
    traflow("pairs runs/smoke/teacher.safetensors --count 96 --steps 2 -o runs/smoke/pairs")?;
    traflow(
        "distill configs/smoke-student.toml --teacher runs/smoke/teacher.safetensors --pairs runs/smoke/pairs \
         -o runs/smoke/student.safetensors --run runs/smoke/student",
    )?;
    traflow("sample runs/smoke/student.safetensors --count 4 --steps 2 -o runs/smoke/burn.png")?;
    let judged = traflow(
        "eval runs/smoke/student.safetensors --features models/fashion-features.safetensors --count 128 --json",
    )?;
    let judged: Value = serde_json::from_str(&judged).context("the report of traflow eval")?;
    ensure!(
        judged["judgements"][0]["distance"].as_f64().is_some_and(|d| d > 0.0),
        "no distance was measured"
    );
    for precision in ["f32", "fp16"] {
        let model = format!("runs/smoke/student-{precision}.traflow");
        let flag = format!("--{precision}");
        let export = ["runs/smoke/student.safetensors", &flag, "--steps", "1,2", "-o", &model];
        programs.call("traflow-export", &export)?;
        let picture = format!("runs/smoke/{precision}.png");
        programs.call("traflow-run", &[&model, "--count", "4", "--steps", "2", "-o", &picture])?;
    }
    // The student in integers, and trained for them; its pictures as a data set.
    let (student, formats) = ("runs/smoke/student.safetensors", "runs/smoke/formats.json");
    let export = |checkpoint, more: &[&str]| {
        let arguments = [&[checkpoint, "--int8", "-o", "runs/smoke/int8.traflow"], more].concat();
        programs.call("traflow-export", &arguments)
    };
    export(student, &["--formats", formats])?;
    traflow(&format!("pairs {student} --count 96 --steps 1 -o runs/smoke/student-pairs"))?;
    traflow(&format!(
        "distill configs/fashion-int8.toml --set stage.1.steps=3 --qat {formats} --teacher {student} \
         --pairs runs/smoke/student-pairs -o runs/smoke/int8.safetensors --run runs/smoke/int8"
    ))?;
    export("runs/smoke/int8.safetensors", &[])?;
    let pictures = "runs/smoke/pictures.idx";
    programs.call("traflow-run", &["runs/smoke/int8.traflow", "--count", "128", "--pictures", pictures])?;
    traflow(&format!("eval --pictures {pictures} --features models/fashion-features.safetensors"))?;
    // The same seeds and steps, by Burn and by the runtime: the pixels differ by rounding alone.
    let pixels = |file: &str| -> Result<Vec<u8>> {
        let path = folder.join(file);
        let image = image::open(&path).with_context(|| format!("reading {}", path.display()))?.to_luma8();
        // Between pictures of 28 pixels are two of another colour.
        let pixels = image.enumerate_pixels().filter(|(x, y, _)| x % 30 < 28 && y % 30 < 28);
        Ok(pixels.map(|(_, _, pixel)| pixel.0[0]).collect())
    };
    let burn = pixels("burn.png")?;
    for file in ["f32.png", "fp16.png"] {
        let found = pixels(file)?;
        ensure!(found.len() == 4 * 28 * 28 && burn.len() == found.len(), "{file}: not four pictures");
        let most = found.iter().zip(&burn).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0);
        ensure!(most <= 2, "{file}: a pixel is {most} of 255 from that of burn.png");
    }
    eprintln!("\nsmoke: every stage ran");
    Ok(())
}
