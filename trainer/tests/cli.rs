//! What `traflow` says of bad input: one line that names the file and the reason, exit code 1, or 2 for usage.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use traflow_graph::checkpoint::Checkpoint;
use traflow_trainer::data;

fn traflow(folder: &Path, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_traflow"))
        .current_dir(folder)
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

/// The one line of an error, which ends the program with this code.
#[track_caller]
fn error(folder: &Path, arguments: &str) -> String {
    let output = traflow(folder, arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{arguments}: {text}");
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(lines.len(), 1, "{arguments}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    lines[0].to_owned()
}

/// Nine pictures of 8×8.
fn idx() -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 8];
    bytes.extend((0..9 * 64).map(|i| (i * 7) as u8));
    bytes
}

const TEACHER: &str = "seed = 1\nsteps = 2\nbatch = 2\n[network]\narchitecture = \"ddpmpp\"\nimage = [1, 8, 8]\n\
    base = 4\nmult = [1]\nblocks = 1\n[optimiser]\nlearning_rate = 1e-3\n";
const STUDENT: &str =
    "seed = 1\nbatch = 2\n[optimiser]\nlearning_rate = 1e-3\n[[stage]]\nsteps = 1\noutput = 1.0\n";

/// A folder with a teacher and its pairs.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::write(at.join("images"), idx()).unwrap();
    fs::write(at.join("teacher.toml"), TEACHER).unwrap();
    fs::write(at.join("student.toml"), STUDENT).unwrap();
    for command in [
        "teacher teacher.toml --images images -o teacher.safetensors",
        "pairs teacher.safetensors --count 3 --steps 1 -o pairs",
    ] {
        let output = traflow(at, command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    folder
}

#[test]
fn the_stages_follow_each_other() {
    let folder = folder();
    let at = folder.path();
    for command in [
        "distill student.toml --teacher teacher.safetensors --pairs pairs --fp16 -o student.safetensors",
        "sample student.safetensors --count 5 --steps 2 -o new/grid.png",
        "sample student.safetensors --count 2 --times 1,0.3 -o uneven.png",
        "sample student.safetensors --count 2 --steps 2 --solver euler -o ode.png",
        "pairs student.safetensors --count 2 --steps 2 --solver heun -o pairs-by-ode",
        "distill student.toml --teacher student.safetensors --pairs pairs --run next -o next.safetensors \
         --set stage.1.progressive=1.0 --images images",
        "solvers",
        "sample teacher.safetensors --count 2 --steps 2 --solver rk45 -o teacher.png",
        "plan teacher.toml",
        "plan teacher.toml --board stm32f411",
        "init --preset nano --size 8 --seed 3 -o random.safetensors",
        "sample random.safetensors --count 1 -o random.png",
    ] {
        let output = traflow(at, command);
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.is_empty(), "{command} says nothing");
    }
    let distill =
        "distill student.toml --teacher teacher.safetensors --pairs pairs --run said -o said.safetensors";
    let text = String::from_utf8(traflow(at, distill).stdout).unwrap();
    assert!(text.starts_with("pairs: 3 from seed 1000000, heun 1 step\n"), "{text}");
    assert!(at.join("new/grid.png").exists() && at.join("runs/student/log.jsonl").exists());
}

#[test]
fn a_dry_run_says_what_would_be_trained() {
    let folder = folder();
    let at = folder.path();
    let dry = "distill student.toml --teacher teacher.safetensors --dry-run --set batch=4 \
               --set stage.1.output.divergence=pseudo-huber --set optimiser.decay=cosine";
    let output = traflow(at, dry);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for expected in [
        "batch = 4\n",
        "divergence = \"pseudo-huber\"",
        "decay = \"cosine\"",
        "parameters ",
        "    1        1           4  1 output",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
    assert!(traflow(at, "teacher teacher.toml --images images --dry-run").status.success());

    // A weight leaves the other options of the loss.
    let dry = "distill student.toml --teacher teacher.safetensors --dry-run \
               --set stage.1.output.divergence=pseudo-huber --set stage.1.output=0.5";
    let text = String::from_utf8(traflow(at, dry).stdout).unwrap();
    assert!(text.contains("divergence = \"pseudo-huber\"") && text.contains("  0.5 output"), "{text}");
    assert!(!at.join("runs/student").exists());

    for (setting, reason) in [
        ("batch", "--set batch: it is not KEY=VALUE"),
        ("stage.2.steps=1", "--set stage.2.steps=1: stage has no such item"),
        ("stage.1.outputs=1", "unknown variant `outputs`"),
        ("optimiser.rate=1", "unknown field `rate`"),
    ] {
        let line = error(
            at,
            &format!("distill student.toml --teacher teacher.safetensors --dry-run --set {setting}"),
        );
        assert!(line.contains(reason), "{setting}: {line}");
    }
    let line = error(at, "sample teacher.safetensors --times 1,0.5 -o x.png");
    assert!(line.contains("--times is for students"), "{line}");
}

/// What a checkpoint says of the command that wrote it is the same on every machine, and whether or not the training was
/// interrupted.
#[test]
fn a_checkpoint_has_the_command_without_what_it_does_not_depend_on() {
    let folder = folder();
    let at = folder.path();
    let whole = fs::read(at.join("teacher.safetensors")).unwrap();
    let command = Checkpoint::read(&at.join("teacher.safetensors")).unwrap().provenance["command"].clone();
    assert_eq!(command, "traflow teacher teacher.toml --images images -o teacher.safetensors");
    let output = traflow(at, "teacher teacher.toml --images images --resume -o teacher.safetensors");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(at.join("teacher.safetensors")).unwrap() == whole, "the bytes differ");
}

#[test]
fn second_averages_have_names_of_their_own() {
    let folder = folder();
    let at = folder.path();
    for (name, second) in [
        ("ema0.5", "ema0.5.second.safetensors"),
        ("ema0.7", "ema0.7.second.safetensors"),
        ("a.b.safetensors", "a.b.second.safetensors"),
    ] {
        let train = "teacher teacher.toml --images images --set optimiser.second_ema=0.5";
        let output = traflow(at, &format!("{train} --run {name}.run -o {name}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(at.join(name).exists() && at.join(second).exists(), "{name}");
    }
}

/// Names of files are bytes on Unix.
#[cfg(unix)]
#[test]
fn a_name_that_is_no_text_is_written_to() {
    use std::os::unix::ffi::OsStrExt;
    let folder = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"random\xff.safetensors");
    let output = Command::new(env!("CARGO_BIN_EXE_traflow"))
        .current_dir(folder.path())
        .args(["init", "--preset", "nano", "--size", "8", "-o"])
        .arg(name)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(folder.path().join(name).exists());
}

#[test]
fn data_that_are_damaged_are_named() {
    let folder = folder();
    let at = folder.path();
    let train = "teacher teacher.toml --images broken --run other -o other.safetensors";
    let mut magic = idx();
    magic[3] = 1;
    let mut length = idx();
    length.pop();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&idx()).unwrap();
    let mut gzip = gzip.finish().unwrap();
    gzip.truncate(gzip.len() - 9);
    for (bytes, reason) in [(magic, "magic"), (length, "576"), (gzip, ""), (Vec::new(), "")] {
        fs::write(at.join("broken"), bytes).unwrap();
        let line = error(at, train);
        assert!(line.contains("broken") && line.contains(reason), "{line}");
    }
    assert!(error(at, &train.replace("broken", "missing")).contains("missing"));
    assert!(!at.join("other.safetensors").exists());
}

#[test]
fn configurations_that_are_wrong_are_named() {
    let folder = folder();
    let at = folder.path();
    for (name, text, reason) in [
        ("unknown.toml", TEACHER.replace("steps = 2", "steps = 2\nstep = 3"), "step"),
        ("type.toml", TEACHER.replace("batch = 2", "batch = \"two\""), "two"),
        ("groups.toml", TEACHER.replace("base = 4", "base = 5"), "at least 4, not 5"),
        ("size.toml", TEACHER.replace("[1, 8, 8]", "[1, 6, 6]"), "1×6×6"),
        ("batch.toml", TEACHER.replace("batch = 2", "batch = 0"), "batch is 0"),
    ] {
        fs::write(at.join(name), &text).unwrap();
        let line = error(at, &format!("teacher {name} --images images --run {name}.run -o x.safetensors"));
        assert!(line.contains(reason), "{name}: {line}");
    }
    fs::write(at.join("weights.toml"), STUDENT.replace("output = 1.0", "output = -1.0")).unwrap();
    let distill = "distill weights.toml --teacher teacher.safetensors --pairs pairs -o x.safetensors";
    assert!(error(at, distill).contains("stage 1"), "{}", error(at, distill));
}

#[test]
fn checkpoints_and_pairs_of_something_else_are_named() {
    let folder = folder();
    let at = folder.path();
    let distill = "distill student.toml --teacher teacher.safetensors --pairs pairs -o student.safetensors";

    // A network of another size.
    let wide = STUDENT.to_owned()
        + "[network]\narchitecture = \"ddpmpp\"\nimage = [1, 8, 8]\nbase = 8\nmult = [1]\nblocks = 1\n\
           s_conditioning = \"tied-mean\"\n";
    fs::write(at.join("wide.toml"), wide).unwrap();
    let line = error(at, "distill wide.toml --teacher teacher.safetensors --pairs pairs -o wide.safetensors");
    assert!(line.contains("no weight of the student has name and shape of one of its teacher's"), "{line}");

    // Another teacher than that of the pairs.
    fs::write(at.join("second.toml"), TEACHER.replace("seed = 1", "seed = 2")).unwrap();
    assert!(traflow(at, "teacher second.toml --images images -o second.safetensors").status.success());
    let line = error(at, &distill.replace("--teacher teacher.", "--run r --teacher second."));
    assert!(line.contains("pairs: the pairs are of another teacher"), "{line}");

    // A student may teach with the pairs of its teacher or with its own, but a run goes on with those that it began with.
    assert!(traflow(at, distill).status.success());
    assert!(
        traflow(at, "pairs student.safetensors --count 3 --steps 1 --solver heun -o own").status.success()
    );
    let next = "distill student.toml --teacher student.safetensors --run next -o next.safetensors";
    assert!(traflow(at, &format!("{next} --pairs pairs")).status.success());
    let line = error(at, &format!("{next} --pairs own --resume"));
    let of_student = data::digest(&fs::read(at.join("student.safetensors")).unwrap());
    assert!(line.contains("it learned from other pairs: ") && line.ends_with(&of_student), "{line}");

    // The networks of LPIPS are among what a run learns from.
    let lpips = "--run lpips --set lpips.vgg16=missing.vgg --set lpips.heads=missing.heads";
    assert!(error(at, &format!("{distill} {lpips}")).contains("reading missing.vgg"));
    assert!(!at.join("lpips").exists());

    let mut bytes = fs::read(at.join("teacher.safetensors")).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(at.join("cut.safetensors"), bytes).unwrap();
    assert!(error(at, "sample cut.safetensors -o x.png").contains("cut.safetensors"));
    assert!(error(at, "sample missing.safetensors -o x.png").contains("missing.safetensors"));
    let line = error(at, "eval teacher.safetensors --features missing");
    assert!(line.contains("missing: there is no classifier"), "{line}");
}

#[test]
fn devices_that_are_missing_are_errors() {
    let folder = folder();
    let line = error(folder.path(), "sample teacher.safetensors -o x.png --device cuda");
    assert!(line.contains("cuda"), "{line}");
    assert_eq!(
        traflow(folder.path(), "sample teacher.safetensors -o x.png --device tpu").status.code(),
        Some(2)
    );
    assert_eq!(traflow(folder.path(), "sample").status.code(), Some(2));
    assert_eq!(
        traflow(folder.path(), "sample teacher.safetensors -o x.png --count 0").status.code(),
        Some(2)
    );
    assert_eq!(traflow(folder.path(), "pairs teacher.safetensors -o none --count 0").status.code(), Some(2));
    assert_eq!(traflow(folder.path(), "plan").status.code(), Some(2));
    let line = error(folder.path(), "plan student.toml");
    assert!(line.contains("student.toml: has no [network]"), "{line}");
}

#[test]
fn what_judges_no_checkpoint_takes_no_sampler() {
    for option in ["--solver rk45", "--times 1,0.5", "--seed 3", "--steps 2"] {
        let output = traflow(Path::new("."), &format!("eval --pictures x.idx --features x {option}"));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains("CHECKPOINT"), "{option}: {text}");
    }
}

#[test]
fn a_student_with_a_network_of_its_own_is_planned() {
    let imagenet = "../configs/presets/traflow-imagenet.toml";
    let output = traflow(Path::new(env!("CARGO_MANIFEST_DIR")), &format!("plan {imagenet}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("80685315\n") && text.contains("328704 more\n"), "{text}");
}

/// A file may grow to 2 KB only: to the programs the disk is full.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_earlier_files_whole() {
    let folder = folder();
    let at = folder.path();
    fs::write(at.join("grid.png"), b"the earlier picture").unwrap();
    let teacher = fs::read(at.join("teacher.safetensors")).unwrap();
    let program = env!("CARGO_BIN_EXE_traflow");
    for (arguments, file) in [
        ("sample teacher.safetensors --count 64 --steps 1 -o grid.png", "grid.png"),
        ("teacher teacher.toml --images images --run full -o teacher.safetensors", "full"),
    ] {
        // The signal is ignored, so that a write fails as it does where there is no space.
        let script = format!("trap '' XFSZ; ulimit -f 2; exec {program} {arguments}");
        let output = Command::new("bash").args(["-c", &script]).current_dir(at).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("error: ") && text.contains(file), "{text}");
    }
    assert_eq!(fs::read(at.join("grid.png")).unwrap(), b"the earlier picture");
    assert_eq!(fs::read(at.join("teacher.safetensors")).unwrap(), teacher);
    let left: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with(".tmp")), "{left:?}");
}

/// The golden network of DDPM++ and its inputs and outputs.
fn golden(name: &str) -> String {
    format!("{}/../tests/golden/import/{name}.safetensors", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_network_from_elsewhere_is_taken_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (network, io) = (golden("ddpmpp"), golden("ddpmpp.io"));
    let output = traflow(at, &format!("import {network} -o teacher.safetensors --check {io}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("took model.map_layer0.weight as map_layer0.weight\n"), "{text}");
    assert!(text.contains(", left 0, missed none\n"), "{text}");
    assert!(text.contains("largest relative error of velocity in 4 pictures: "), "{text}");
    assert!(text.contains("largest relative error of denoised in 4 pictures: "), "{text}");
    // What was imported is a teacher like any other; its classes are those of the seeds. (As if of EDM, since the random
    // network's pictures are too bright otherwise.)
    let import = format!("import {network} --preconditioning edm -o teacher.safetensors");
    assert!(traflow(at, &import).status.success());
    assert!(traflow(at, "pairs teacher.safetensors --count 3 --steps 1 -o pairs").status.success());
    fs::write(at.join("student.toml"), STUDENT.replace("seed = 1", "seed = 1\ndropout = 0.1")).unwrap();
    let distill = "distill student.toml --teacher teacher.safetensors --pairs pairs -o student.safetensors";
    let output = traflow(at, distill);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let origins = fs::read_to_string(at.join("runs/student/initial.txt")).unwrap();
    assert!(origins.contains("teacher to.map_layer0.weight\n"), "{origins}");

    let line = error(at, &format!("import {network} --check {io} --tolerance 1e-12"));
    assert!(line.contains("ddpmpp.io.safetensors: the network differs by "), "{line}");
    let line = error(at, &format!("import {network} --preconditioning edm --check {io}"));
    assert!(line.contains("more than 1e-4"), "{line}");
    let line = error(at, &format!("import {network} --check {network}"));
    assert!(line.ends_with("neither tensor \"t\" nor \"sigma\" is there"), "{line}");
    let line = error(at, &format!("import {io} -o x.safetensors --preconditioning edm"));
    assert!(line.contains("named as in none of EDM, score_sde and guided-diffusion"), "{line}");
    let mut torch = fs::read(golden("skip").replace("safetensors", "pt")).unwrap();
    torch.truncate(torch.len() / 2);
    fs::write(at.join("cut.pt"), torch).unwrap();
    let line = error(at, "import cut.pt -o x.safetensors --preconditioning edm");
    assert!(line.contains("cut.pt: "), "{line}");
    let line = error(at, "import missing.safetensors -o x.safetensors");
    assert!(line.contains("missing.safetensors: No such file"), "{line}");
    assert!(!at.join("x.safetensors").exists());
}
