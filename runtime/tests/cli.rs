//! `traflow-run` as a program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "cli")]

use std::process::{Command, Output};

use traflow_graph::graph::Builder;
use traflow_graph::model::{Dtype, Moment};
use traflow_graph::op::Shape;
use traflow_graph::plan::plan;
use traflow_graph::write::{ModelSource, NodeParameters, write};

fn run(folder: &std::path::Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_traflow-run");
    let Output { status, stdout, stderr } =
        Command::new(program).current_dir(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A folder with a model of one convolution that gives u = x - 1, so that every picture is a constant 1.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut g = Builder::new();
    let x = g.image(Shape::new(1, 5, 7));
    g.conv2d("conv", x, 1, 1);
    let graph = g.finish().unwrap();
    let file = write(&ModelSource {
        graph: &graph,
        plan: &plan(&graph, 4),
        schedules: &[vec![Moment { t: 1.0, s: 0.0 }]],
        parameters: &[NodeParameters::default(), NodeParameters { weight: vec![1.0], bias: vec![-1.0] }],
        weights: Dtype::F16,
        provenance: "{}",
    });
    std::fs::write(folder.path().join("one.traflow"), file.unwrap()).unwrap();
    std::fs::write(folder.path().join("bad.traflow"), "not a model").unwrap();
    folder
}

#[test]
fn a_grid_is_written() {
    let folder = folder();
    let arguments = ["one.traflow", "--seed", "7", "--count", "5", "-o", "grid.png", "--json"];
    let (code, stdout, stderr) = run(folder.path(), &arguments);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&result["count"], &result["weights_bytes"]), (&5.into(), &6.into()));
    let grid = image::open(folder.path().join("grid.png")).unwrap().into_luma8();
    // Three columns and two rows; pictures and gaps are white, and what is no picture too.
    assert_eq!(grid.dimensions(), (3 * 7 + 4, 2 * 5 + 2));
    assert!(grid.pixels().all(|pixel| pixel.0 == [255]));
    // The model's two files and the grid: no temporary file is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn mistakes_are_one_line_each() {
    let folder = folder();
    let error = |arguments: &[&str]| {
        let (code, _, stderr) = run(folder.path(), arguments);
        (code, stderr)
    };
    let bad = error(&["bad.traflow", "-o", "x.png"]);
    let text = "error: reading bad.traflow: it is not a TraFlow model file\n";
    assert_eq!(bad, (Some(1), text.to_owned()));
    let steps = error(&["one.traflow", "--steps", "3", "-o", "x.png"]);
    assert_eq!(steps, (Some(1), "error: the model has no schedule of 3 steps, it has 1\n".to_owned()));
    assert_eq!(error(&["no.traflow", "-o", "x.png"]).0, Some(1));
    assert_eq!(error(&["one.traflow", "-o", "bad.traflow/x.png"]).0, Some(1));
    assert_eq!(error(&["one.traflow", "--count", "0", "-o", "x.png"]).0, Some(2));
    let wrong = [["bench", "profile"], ["profile", "output=x.png"], ["bench", "count=3"]];
    for pair in wrong.map(|pair| pair.map(|option| format!("--{option}"))) {
        assert_eq!(error(&["one.traflow", &pair[0], &pair[1]]).0, Some(2), "{pair:?}");
    }
    assert_eq!(
        error(&[".", "-o", "x.png"]),
        (Some(1), "error: reading .: it is no regular file\n".to_owned())
    );
    let (code, help, _) = run(folder.path(), &["--help"]);
    assert!(code == Some(0) && help.contains("Examples:\n  traflow-run digits.traflow"));
}

#[test]
fn an_instruction_set_can_be_forced() {
    let folder = folder();
    let run = |isa: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_traflow-run"));
        command.args(["one.traflow", "--bench", "--json"]).env("TRAFLOW_ISA", isa);
        let Output { status, stdout, stderr } = command.current_dir(folder.path()).output().unwrap();
        (status.code(), stdout, String::from_utf8(stderr).unwrap())
    };
    for isa in traflow_runtime::Isa::all() {
        let (code, stdout, stderr) = run(isa.name());
        assert_eq!((code, &*stderr), (Some(0), ""));
        let result: serde_json::Value = serde_json::from_slice(&stdout).unwrap();
        assert!(result["isa"] == isa.name() && result["ms_per_image"].as_f64() > Some(0.0), "{result}");
    }
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    let text = format!(
        "error: TRAFLOW_ISA={foreign}: this processor, or this build of the program, does not have the instruction set {foreign}\n"
    );
    assert_eq!(run(foreign), (Some(1), Vec::new(), text));
    let (code, _, stderr) = run("mmx");
    assert_eq!(code, Some(1));
    assert!(
        stderr.starts_with("error: TRAFLOW_ISA=mmx: there is no such instruction set: scalar, "),
        "{stderr}"
    );
}

#[test]
fn a_profile_lists_the_nodes() {
    let folder = folder();
    let (code, stdout, stderr) =
        run(folder.path(), &["one.traflow", "--profile", "--threads", "2", "--json"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let profile: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&profile["macs"], &profile["nodes"][1]["name"]), (&35.into(), &"conv".into()));
    assert!(profile["peak_gmacs_per_s"].as_f64() > Some(0.0));
    let (code, stdout, _) = run(folder.path(), &["one.traflow", "--profile"]);
    assert!(code == Some(0) && stdout.contains("\nconv ") && stdout.contains("\nall "), "{stdout}");
}

/// A file may grow to 1 KB only: to the program the disk is full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_earlier_file_whole() {
    let folder = folder();
    std::fs::write(folder.path().join("earlier.png"), "whole").unwrap();
    // The signal is ignored, so that a write fails as it does where there is no space.
    let program = env!("CARGO_BIN_EXE_traflow-run");
    let script =
        format!("trap '' XFSZ; ulimit -f 1; exec {program} one.traflow --count 60000 -o earlier.png");
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: writing earlier.png"), "{text}");
    assert_eq!(std::fs::read(folder.path().join("earlier.png")).unwrap(), b"whole");
}
