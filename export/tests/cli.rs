//! `traflow-export` as a program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use common::{checkpoint, unet};
use traflow_graph::checkpoint::{Precision, Role};

fn run(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let program = env!("CARGO_BIN_EXE_traflow-export");
    let Output { status, stdout, stderr } =
        Command::new(program).current_dir(folder).args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

/// A folder with a checkpoint and what is left of one after half of it was lost.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("student.safetensors");
    checkpoint(unet(8, Role::Student), Role::Student).write(&whole, Precision::F32).unwrap();
    let bytes = fs::read(whole).unwrap();
    fs::write(folder.path().join("half.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
    folder
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_written_and_reported() {
    let folder = folder();
    let run = |arguments: &[&str]| run(folder.path(), &[&["student.safetensors"], arguments].concat());
    let (code, stdout, stderr) = run(&["--f32", "-o", "a.traflow"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(stdout.starts_with("a.traflow\nbytes                   f32\n  file "), "{stdout}");

    let (code, stdout, _) = run(&["--fp16", "--steps", "4,1", "-o", "b.traflow", "--json"]);
    assert_eq!(code, Some(0));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let bytes = fs::metadata(folder.path().join("b.traflow")).unwrap().len();
    assert_eq!((&report["file_bytes"], &report["output"]), (&bytes.into(), &"b.traflow".into()));
    assert_eq!((&report["moments"], &report["differences"][1]["steps"]), (&5.into(), &4.into()));
    assert_eq!(names(folder.path()), ["a.traflow", "b.traflow", "half.safetensors", "student.safetensors"]);
}

#[test]
fn an_onnx_file_is_written_with_its_test_data() {
    let folder = folder();
    let run = |arguments: &[&str]| run(folder.path(), &[&["student.safetensors"], arguments].concat());
    let (code, stdout, stderr) = run(&["--onnx", "a.onnx", "--steps", "2", "--test-data", "data", "--json"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let bytes = fs::metadata(folder.path().join("a.onnx")).unwrap().len();
    assert_eq!((&report["file_bytes"], &report["steps"]), (&bytes.into(), &2.into()));
    assert_eq!(names(&folder.path().join("data")), ["input_0.pb", "output_0.pb"]);
    let (code, stdout, _) = run(&["--onnx", "b.onnx"]);
    assert!(code == Some(0) && stdout.starts_with("b.onnx\n"), "{stdout}");
}

#[test]
fn mistakes_are_one_line_each_and_write_nothing() {
    let folder = folder();
    fs::create_dir(folder.path().join("taken")).unwrap();
    fs::write(folder.path().join("taken/earlier.traflow"), "whole").unwrap();
    fs::write(folder.path().join("earlier.traflow"), "whole").unwrap();
    let before = names(folder.path());
    let error = |arguments: &[&str]| {
        let (code, stdout, stderr) = run(folder.path(), arguments);
        assert_eq!((code, &*stdout, stderr.lines().count()), (Some(1), "", 1), "{stderr}");
        stderr
    };
    let missing = error(&["no.safetensors", "--f32", "-o", "earlier.traflow"]);
    assert_eq!(missing, "error: no.safetensors: No such file or directory (os error 2)\n");
    let half = error(&["half.safetensors", "--f32", "-o", "earlier.traflow"]);
    assert!(half.starts_with("error: half.safetensors: not a safetensors file: its tensors have "), "{half}");
    let taken = error(&["student.safetensors", "--f32", "-o", "taken"]);
    assert_eq!(taken, "error: writing taken: Is a directory (os error 21)\n");
    let below = error(&["student.safetensors", "--f32", "-o", "earlier.traflow/x"]);
    assert!(below.starts_with("error: writing earlier.traflow/x: "), "{below}");
    let same = error(&["student.safetensors", "--f32", "-o", "./student.safetensors"]);
    assert_eq!(
        same,
        "error: ./student.safetensors is there twice, as the checkpoint or as two files to write\n"
    );
    let two = error(&["student.safetensors", "--onnx", "earlier.traflow", "--steps", "1,2"]);
    assert_eq!(two, "error: an ONNX file offers one number of steps\n");
    let many: Vec<String> = (1..=17).map(|n| n.to_string()).collect();
    for precision in ["--f32", "--int8"] {
        let many =
            error(&["student.safetensors", precision, "--steps", &many.join(","), "-o", "earlier.traflow"]);
        assert_eq!(many, "error: --steps: a file offers at most 16 numbers of steps, not 17\n");
    }
    let percentile = error(&["student.safetensors", "--int8", "--percentile", "99", "-o", "earlier.traflow"]);
    assert_eq!(percentile, "error: --percentile is for --observer percentile\n");

    assert_eq!(names(folder.path()), before);
    assert_eq!(names(&folder.path().join("taken")), ["earlier.traflow"]);
    for earlier in ["earlier.traflow", "taken/earlier.traflow"] {
        assert_eq!(fs::read(folder.path().join(earlier)).unwrap(), b"whole");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let folder = folder();
    let code = |arguments: &[&str]| {
        run(folder.path(), &[&["student.safetensors", "-o", "x.traflow"], arguments].concat()).0
    };
    assert_eq!(code(&["--f32", "--steps", "0"]), Some(2));
    assert_eq!(code(&["--f32", "--steps", "1,two"]), Some(2));
    assert_eq!(code(&["--f32", "--fp16"]), Some(2));
    assert_eq!(code(&[]), Some(2));
    assert_eq!(code(&["--f32", "--onnx", "x.onnx"]), Some(2));
    assert_eq!(code(&["--f32", "--test-data", "x"]), Some(2));
    for unused in [&["--observer", "kl"][..], &["--island-share", "0.1"], &["--per-step"], &["--recalibrate"]]
    {
        assert_eq!(code(&[&["--f32"], unused].concat()), Some(2), "{unused:?}");
        assert_eq!(code(&[&["--fp16"], unused].concat()), Some(2), "{unused:?}");
    }
    assert_eq!(code(&["--int8", "--no-winograd"]), Some(2));
    for arguments in [&["student.safetensors"][..], &["student.safetensors", "--onnx", "x.onnx", "--fp16"]] {
        assert_eq!(run(folder.path(), arguments).0, Some(2), "{arguments:?}");
    }
    assert_eq!(names(folder.path()), ["half.safetensors", "student.safetensors"]);
    let (code, help, _) = run(folder.path(), &["--help"]);
    let last = "  traflow-export teacher.safetensors --fp16 --steps 100 -o teacher.traflow --json\n";
    assert!(code == Some(0) && help.ends_with(last), "{help}");
}

/// A file may grow to 2 KB only: to the program the disk is full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_earlier_file_whole() {
    let folder = folder();
    fs::write(folder.path().join("earlier.traflow"), "whole").unwrap();
    // The signal is ignored, so that a write fails as it does where there is no space.
    let script = format!(
        "trap '' XFSZ; ulimit -f 2; exec {} student.safetensors --fp16 -o earlier.traflow",
        env!("CARGO_BIN_EXE_traflow-export")
    );
    let output = Command::new("bash").args(["-c", &script]).current_dir(folder.path()).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("error: writing earlier.traflow: ") && !text.contains(".tmp"), "{text}");
    assert_eq!(fs::read(folder.path().join("earlier.traflow")).unwrap(), b"whole");
    assert_eq!(names(folder.path()), ["earlier.traflow", "half.safetensors", "student.safetensors"]);
}
