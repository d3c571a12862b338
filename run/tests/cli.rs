//! `traflow-run` as a program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::process::{Command, Output};

use traflow_graph::graph::Builder;
use traflow_graph::model::{Dtype, Moment};
use traflow_graph::op::{Op, Shape};
use traflow_graph::plan::{plan, plan_integers};
use traflow_graph::quant::{Integers, wide};
use traflow_graph::write::{IntegerNode, IntegerSource, ModelSource, NodeParameters, write, write_integers};

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

/// The file of a network of one convolution, u = x · weight / 127 - 1, in integers.
fn integers(weight: i8, digest: u32) -> Vec<u8> {
    let mut g = Builder::new();
    let x = g.image(Shape::new(1, 5, 7));
    g.conv2d("conv", x, 1, 1);
    let graph = g.finish().unwrap();
    let conv = Integers::Conv2d {
        shift: 30,
        residual: 0,
        split: 1,
        zeros: [0; 2],
        bias: &[wide((-4096 << 30) + (1 << 29))],
        factors: [&[(1 << 30) / 127], &[]],
    };
    let image = IntegerNode {
        rows: vec![Integers::Image { shift: 20, factor: -(1 << 20) }.encode()],
        wide: true,
        ..IntegerNode::default()
    };
    let conv =
        IntegerNode { weight: vec![weight], rows: vec![conv.encode()], wide: true, digest, ..image.clone() };
    let file = write_integers(&IntegerSource {
        graph: &graph,
        plan: &plan_integers(&graph, &[true; 2]),
        schedules: &[vec![Moment { t: 1.0, s: 0.0 }]],
        nodes: &[image, conv],
        provenance: "{}",
    });
    file.unwrap()
}

#[test]
fn a_grid_is_written() {
    let folder = folder();
    let arguments = ["one.traflow", "--seed", "7", "--count", "5", "-o", "grid.png", "--json"];
    let (code, stdout, stderr) = run(folder.path(), &arguments);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let result: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&result["count"], &result["weights_bytes"]), (&5.into(), &6.into()));
    let file = std::fs::File::open(folder.path().join("grid.png")).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file)).read_info().unwrap();
    let mut grid = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut grid).unwrap();
    // Three columns and two rows; pictures and gaps are white, and what is no picture too.
    assert_eq!((info.width, info.height, info.color_type), (3 * 7 + 4, 2 * 5 + 2, png::ColorType::Grayscale));
    assert!(grid.iter().all(|&pixel| pixel == 255));
    // The model's two files and the grid: no temporary file is left.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
}

#[test]
fn pictures_are_written_as_a_data_set() {
    let folder = folder();
    let (code, stdout, stderr) =
        run(folder.path(), &["one.traflow", "--count", "2", "--pictures", "two.idx"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert!(stdout.starts_with("two.idx: 2 pictures, "), "{stdout}");
    let file = std::fs::read(folder.path().join("two.idx")).unwrap();
    assert_eq!(file[..16], [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 7]);
    assert_eq!(file[16..], [255; 2 * 5 * 7]);
}

#[test]
fn pictures_of_integers_are_named_and_verified() {
    let folder = folder();
    let run = |arguments: &[&str]| run(folder.path(), arguments);
    for (name, weight) in [("int.traflow", 127), ("other.traflow", 100)] {
        std::fs::write(folder.path().join(name), integers(weight, 0)).unwrap();
    }
    let (code, stdout, _) = run(&["int.traflow", "--seed", "7", "--count", "2", "--digest", "-o", "two.png"]);
    // SHA-256 of 35 bytes of 255.
    let white = "6748d135";
    assert_eq!((code, stdout.lines().count()), (Some(0), 3), "{stdout}");
    assert!(stdout.lines().take(2).all(|line| line.starts_with(white)), "{stdout}");
    assert!(stdout.lines().nth(1).unwrap().ends_with("  seed 8"), "{stdout}");
    // One of floating point has the same pixels here.
    let (_, float, _) = run(&["one.traflow", "--digest", "--seed", "7"]);
    assert_eq!(float, stdout.lines().next().unwrap().to_owned() + "\n");

    let verify = |model: &str, image: &str| run(&["--verify", image, "--model", model]);
    let (code, stdout, stderr) = verify("int.traflow", "two.png");
    assert_eq!((code, &*stderr), (Some(0), ""));
    assert_eq!(stdout, "two.png: made by int.traflow from seed 7, count 2, steps 1\n");
    let (code, _, stderr) = verify("other.traflow", "two.png");
    assert!(
        code == Some(1) && stderr.starts_with("error: two.png is not of other.traflow: it names the model ")
    );
    // The same text over other pixels.
    let (_, _, _) = run(&["other.traflow", "--seed", "7", "--count", "2", "-o", "forged.png"]);
    let (genuine, forged) = (folder.path().join("two.png"), folder.path().join("forged.png"));
    let (genuine, mut bytes) = (std::fs::read(genuine).unwrap(), std::fs::read(&forged).unwrap());
    let text = genuine.windows(13).position(|window| window == b"traflow:model").unwrap();
    // Keyword, a zero, 64 digits and the checksum.
    let chunk = text..text + 13 + 1 + 64 + 4;
    bytes[chunk.clone()].copy_from_slice(&genuine[chunk]);
    std::fs::write(&forged, bytes).unwrap();
    let (code, _, stderr) = verify("int.traflow", "forged.png");
    let expected = "error: forged.png is not of int.traflow: its pixels are not those that the model makes\n";
    assert_eq!((code, &*stderr), (Some(1), expected));
}

#[test]
fn a_picture_says_its_class() {
    let folder = folder();
    let mut g = Builder::new();
    let x = g.image(Shape::new(1, 5, 7));
    let class = g.push("class", Op::Class { count: 2 }, &[]);
    let of_class = g.linear("of_class", class, 1);
    let conv = g.conv2d("conv", x, 1, 1);
    g.add("sum", conv, of_class, 1.0);
    let graph = g.finish().unwrap();
    let parameters =
        |weight: &[f32], bias: &[f32]| NodeParameters { weight: weight.into(), bias: bias.into() };
    let file = write(&ModelSource {
        graph: &graph,
        plan: &plan(&graph, 4),
        schedules: &[vec![Moment { t: 1.0, s: 0.0 }]],
        parameters: &[
            parameters(&[], &[]),
            parameters(&[], &[]),
            parameters(&[0.5, 1.5], &[0.0]),
            parameters(&[1.0], &[-1.0]),
            parameters(&[], &[]),
        ],
        weights: Dtype::F32,
        provenance: "{}",
    });
    std::fs::write(folder.path().join("classes.traflow"), file.unwrap()).unwrap();
    let run = |arguments: &[&str]| run(folder.path(), arguments);
    let digest = |class: &[&str]| run(&[&["classes.traflow", "--digest", "-o", "a.png"], class].concat()).1;
    assert_ne!(digest(&["--class", "0"]).lines().next(), digest(&["--class", "1"]).lines().next());
    let (code, stdout, stderr) = run(&["--verify", "a.png", "--model", "classes.traflow", "--json"]);
    assert_eq!((code, &*stderr), (Some(0), ""));
    let verified: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&verified["class"], &verified["verified"]), (&1.into(), &true.into()));
    let (_, _, stderr) = run(&["classes.traflow", "--class", "2", "--digest"]);
    assert_eq!(stderr, "error: classes.traflow: the model has 2 classes, and none of the number 2\n");
    let (_, _, stderr) = run(&["--verify", "a.png", "--model", "classes.traflow", "--class", "1"]);
    assert!(stderr.starts_with("error: --verify and --class do not go together"), "{stderr}");
}

/// A path need not be Unicode.
#[cfg(target_os = "linux")]
#[test]
fn paths_are_any_bytes() {
    use std::os::unix::ffi::OsStrExt;
    let folder = folder();
    let name = std::ffi::OsStr::from_bytes(b"m\xff.traflow");
    std::fs::copy(folder.path().join("one.traflow"), folder.path().join(name)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_traflow-run"))
        .current_dir(folder.path())
        .arg(name)
        .args(["--json", "-o", "x.png"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["model"], "m\u{fffd}.traflow");
}

#[test]
fn a_self_test_names_the_node() {
    let folder = folder();
    let test = |digest| {
        std::fs::write(folder.path().join("int.traflow"), integers(127, digest)).unwrap();
        let (code, stdout, stderr) = run(folder.path(), &["int.traflow", "--self-test"]);
        (code, stdout + &stderr)
    };
    let (code, text) = test(0);
    let missing = "error: the self-test of int.traflow: the file has no digests to test against\n";
    assert_eq!((code, &*text), (Some(1), missing));
    let (code, text) = test(1);
    let start = "error: the self-test of int.traflow: node 1 (conv): it gives ";
    assert!(
        code == Some(1) && text.starts_with(start) && text.ends_with(" where the file expects 00000001\n")
    );
    let found = u32::from_str_radix(&text[start.len()..][..8], 16).unwrap();
    assert_eq!(test(found), (Some(0), "int.traflow: every node computes what the file expects\n".to_owned()));
    let (code, _, stderr) = run(folder.path(), &["one.traflow", "--self-test"]);
    assert!(code == Some(1) && stderr.ends_with("only a file of integers has one\n"), "{stderr}");
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
    assert_eq!(
        steps,
        (Some(1), "error: one.traflow: the model has no schedule of 3 steps, it has 1\n".to_owned())
    );
    let twice = "error: ./one.traflow is there twice, as the model or as two files to write\n";
    assert_eq!(error(&["one.traflow", "-o", "./one.traflow"]), (Some(1), twice.to_owned()));
    assert_eq!(error(&["bad.traflow", "-o", "x", "--pictures", "x"]).0, Some(1));
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
fn nothing_is_made_of_a_damaged_file() {
    let folder = folder();
    let path = folder.path().join("one.traflow");
    let whole = std::fs::read(&path).unwrap();
    // The last tensors are the weight and the bias, and another number is a network too; a record breaks the format.
    for place in [whole.len() - 64, whole.len() - 128, 200] {
        let mut file = whole.clone();
        file[place] ^= 1;
        std::fs::write(&path, file).unwrap();
        for arguments in
            [&["-o", "grid.png"][..], &["--pictures", "p.idx"], &["--digest"], &["--bench"], &["--self-test"]]
        {
            let found = run(folder.path(), &[&["one.traflow"], arguments].concat());
            let error = "error: reading one.traflow: its checksum is wrong: the file is damaged\n";
            assert_eq!(found, (Some(1), String::new(), error.into()), "{place} {arguments:?}");
        }
    }
    assert!(!folder.path().join("grid.png").exists() && !folder.path().join("p.idx").exists());
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
        assert!(!cfg!(target_os = "linux") || result["peak_resident_bytes"].as_u64() > Some(0), "{result}");
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
    let conv = &profile["nodes"][1];
    assert_eq!(
        (&conv["op"], &conv["kernel"], &conv["method"]),
        (&"conv2d".into(), &1.into(), &"direct".into())
    );
    assert!(profile["peak_gmacs_per_s"].as_f64() > Some(0.0));
    assert!(profile["nodes"].as_array().unwrap().iter().all(|node| node["of_roof"].as_f64() > Some(0.0)));
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
    assert!(text.starts_with("error: writing earlier.png: ") && !text.contains(".tmp"), "{text}");
    assert_eq!(std::fs::read(folder.path().join("earlier.png")).unwrap(), b"whole");
}

#[test]
fn a_point_between_seeds_is_a_picture_with_a_name() {
    let folder = folder();
    let run = |arguments: &[&str]| run(folder.path(), arguments);
    std::fs::write(folder.path().join("int.traflow"), integers(100, 0)).unwrap();
    let digest = |seed: &str| {
        let (code, stdout, stderr) = run(&["int.traflow", "--seed", seed, "--digest"]);
        assert_eq!((code, &*stderr), (Some(0), ""));
        stdout.split_once("  seed ").unwrap().0.to_owned()
    };
    assert_eq!(digest("7,8,9,10@0,256"), digest("9"));
    let between = digest("7,8,9,10@100,30");
    assert!(["7", "8", "9", "10"].iter().all(|seed| digest(seed) != between));
    let (code, ..) = run(&["int.traflow", "--seed", "7,8,9,10@100,30", "-o", "between.png"]);
    assert_eq!(code, Some(0));
    let (code, stdout, _) = run(&["--verify", "between.png", "--model", "int.traflow"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("from seed 7,8,9,10@100,30, count 1"), "{stdout}");
    for (seed, code, message) in [
        ("7,8,9@1,2", 2, "7,8,9 is not 4 whole numbers from 0 to 18446744073709551615"),
        ("7,8,9,10@1,257", 2, "1,257 is not 2 whole numbers from 0 to 256"),
        ("seven", 2, "it is no whole number"),
    ] {
        let (found, _, stderr) = run(&["int.traflow", "--seed", seed, "--digest"]);
        assert_eq!(found, Some(code));
        assert!(stderr.contains(message), "{stderr}");
    }
    let (code, _, stderr) = run(&["int.traflow", "--seed", "7,8,9,10@1,2", "--count", "2", "--digest"]);
    assert_eq!((code, &*stderr), (Some(1), "error: a point between seeds is one picture, not 2\n"));
}
