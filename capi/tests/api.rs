//! The header is what cbindgen makes of the source, and programs in C and Python that use it draw the pictures of the
//! runtime. `UPDATE_HEADER=1` writes the header anew.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use sha2::{Digest, Sha256};
use traflow_runtime::{Engine, IntegerEngine, Model};

const SEED: u64 = 7;
const SANITISERS: [&str; 3] = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"];

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden(name: &str) -> PathBuf {
    folder().join("../tests/golden").join(name)
}

/// Builds the libraries, and says where they are.
fn libraries() -> PathBuf {
    run(Command::new(env::var_os("CARGO").unwrap_or("cargo".into())).args([
        "build",
        "--package",
        "traflow-capi",
    ]));
    // This test is in target/debug/deps, or where the variable CARGO_TARGET_DIR says.
    let deps = env::current_exe().unwrap();
    deps.parent().unwrap().parent().unwrap().with_file_name("debug")
}

/// What a program prints; it has to succeed.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Compiles a program in C with the static library.
fn compile(source: &str, more: &[&str], program: &Path) {
    let mut cc = Command::new("cc");
    cc.args(["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1"]).args(more);
    cc.arg("-I").arg(folder()).arg(folder().join(source)).arg(libraries().join("libtraflow.a"));
    run(cc.args(["-lpthread", "-ldl", "-lm", "-o"]).arg(program));
}

/// A picture's bytes, by the runtime itself.
fn picture(path: &Path, steps: usize, class: Option<usize>) -> Vec<u8> {
    let file = fs::read(path).unwrap();
    let words: Vec<u32> = file.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
    let model = Model::new(bytemuck::cast_slice(&words)).unwrap();
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    if path.file_name().unwrap().to_str().unwrap().contains("int8") {
        IntegerEngine::new(model, &mut arena).unwrap().generate(SEED, steps).unwrap().bytes().collect()
    } else {
        let shape = model.image().shape();
        let mut engine = Engine::new(model, &mut arena).unwrap();
        engine.set_class(class).unwrap();
        traflow_runtime::bytes(engine.generate(SEED, steps).unwrap(), shape).collect()
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Models and steps that they offer.
const MODELS: [(&str, usize); 3] =
    [("gray-int8-v3.traflow", 1), ("colour-int8-v3.traflow", 1), ("tiny-v4.traflow", 2)];

#[test]
fn the_header_is_that_of_the_source() {
    let config = cbindgen::Config::from_file(folder().join("cbindgen.toml")).unwrap();
    let source = folder().join("src/lib.rs");
    let bindings = cbindgen::Builder::new().with_config(config).with_src(source).generate().unwrap();
    let mut made = Vec::new();
    bindings.write(&mut made);
    let (header, made) = (folder().join("traflow.h"), String::from_utf8(made).unwrap());
    if env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&header, &made).unwrap();
    }
    assert_eq!(fs::read_to_string(&header).unwrap(), made, "UPDATE_HEADER=1 writes it anew");
}

#[test]
fn a_program_in_c_draws_the_same_pictures() {
    let scratch = tempfile::tempdir().unwrap();
    let (program, output) = (scratch.path().join("picture"), scratch.path().join("picture.ppm"));
    compile("examples/picture.c", &[], &program);
    for (model, steps) in MODELS {
        let classes = if model.starts_with("tiny") { &[None, Some(0), Some(2)][..] } else { &[None] };
        for &class in classes {
            let expected = picture(&golden(model), steps, class);
            let mut draw = Command::new(&program);
            draw.arg(golden(model)).args([SEED.to_string(), steps.to_string()]).arg(&output);
            draw.args(class.map(|class| class.to_string()));
            assert_eq!(run(&mut draw), digest(&expected));
            assert!(fs::read(&output).unwrap().ends_with(&expected));
        }
    }
    let mut draw = Command::new(&program);
    let failed = draw.arg(golden("tiny-v4.traflow")).args(["7", "3"]).arg(&output).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let message = String::from_utf8(failed.stderr).unwrap();
    assert!(message.ends_with("the model has no schedule of 3 steps, it has 1, 2\n"), "{message}");
}

#[test]
fn a_program_in_python_draws_the_same_pictures() {
    let scratch = tempfile::tempdir().unwrap();
    let output = scratch.path().join("picture.ppm");
    let library = libraries().join(format!("{}traflow{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX));
    for (model, steps) in MODELS {
        let mut draw = Command::new("python3");
        draw.arg(folder().join("examples/picture.py")).arg(&library).arg(golden(model));
        draw.args([SEED.to_string(), steps.to_string()]).arg(&output);
        let expected = picture(&golden(model), steps, None);
        assert_eq!(run(&mut draw), digest(&expected));
        assert!(fs::read(&output).unwrap().ends_with(&expected));
    }
}

#[test]
fn whatever_a_program_does_wrong_gives_a_code() {
    let scratch = tempfile::tempdir().unwrap();
    let program = scratch.path().join("hostile");
    compile("tests/hostile.c", &SANITISERS, &program);
    for (model, _) in MODELS {
        assert_eq!(run(Command::new(&program).arg(golden(model))), "ok");
    }
}
