//! Gives the linker the memory of the board, and the programs the model that they have in them.

use std::env;
use std::fs;
use std::path::PathBuf;

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap());
    println!("cargo::rerun-if-changed=boards");
    println!("cargo::rerun-if-env-changed=TRAFLOW_MODEL");
    let model = env::var_os("TRAFLOW_MODEL")
        .map_or_else(|| here.join("../tests/golden/gray-int8-v3.traflow"), |path| here.join(path));
    println!("cargo::rerun-if-changed={}", model.display());
    println!("cargo::rustc-env=TRAFLOW_MODEL={}", model.display());

    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let boards: Vec<PathBuf> =
        fs::read_dir(here.join("boards")).unwrap().map(|file| file.unwrap().path()).collect();
    let chosen: Vec<&PathBuf> = boards
        .iter()
        .filter(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_uppercase();
            env::var_os(format!("CARGO_FEATURE_{name}")).is_some()
        })
        .collect();
    let [board] = chosen[..] else {
        panic!("choose one board, by --features: the names of the files in boards/")
    };
    fs::copy(board, out.join("memory.x")).unwrap();
    println!("cargo::rustc-link-search={}", out.display());
    let scripts: &[&str] = match env::var("CARGO_CFG_TARGET_ARCH").as_deref() {
        Ok("arm") => &["--nmagic", "-Tlink.x"],
        Ok("riscv32") => &["-Tmemory.x", "-Tlink.x"],
        _ => &["-Tmemory.x"],
    };
    for script in scripts {
        println!("cargo::rustc-link-arg-bins={script}");
    }
}
