//! Counts the instructions of kernels and of a whole model on virtual boards, by `benches/devices`, after it has compared the
//! kernels with their definitions there.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use traflow_graph::checkpoint::{Checkpoint, Precision, Role};
use traflow_graph::unet::{SConditioning, Unet};

use crate::{Programs, number, page, root, text};

/// How the command is called.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Processors [default: all].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    core: Option<Vec<String>>,
    /// Print the counts as JSON.
    #[arg(long)]
    json: bool,
    /// Write the counts down as what later ones are compared with, and into docs/benchmarks.md.
    #[arg(long)]
    update: bool,
}

/// A processor and the virtual board that it is on.
struct Core {
    name: &'static str,
    title: &'static str,
    target: &'static str,
    /// What the compiler is told besides.
    flags: &'static str,
    /// The emulator, its processor where it has several, and the machine.
    qemu: &'static [&'static str],
}

impl Core {
    fn machine(&self) -> &'static str {
        self.qemu[2]
    }
}

const CORES: [Core; 5] = [
    Core {
        name: "m4",
        title: "Cortex-M4F",
        target: "thumbv7em-none-eabihf",
        flags: "",
        qemu: &["qemu-system-arm", "-M", "mps2-an386", "-cpu", "cortex-m4"],
    },
    Core {
        name: "m7",
        title: "Cortex-M7",
        target: "thumbv7em-none-eabihf",
        flags: "-Ctarget-cpu=cortex-m7",
        qemu: &["qemu-system-arm", "-M", "mps2-an500", "-cpu", "cortex-m7"],
    },
    Core {
        name: "m33",
        title: "Cortex-M33",
        target: "thumbv8m.main-none-eabihf",
        flags: "-Ctarget-cpu=cortex-m33",
        qemu: &["qemu-system-arm", "-M", "mps2-an505"],
    },
    Core {
        name: "m55",
        title: "Cortex-M55",
        target: "thumbv8m.main-none-eabihf",
        flags: "-Ctarget-cpu=cortex-m55",
        qemu: &["qemu-system-arm", "-M", "mps3-an547"],
    },
    Core {
        name: "rv32",
        title: "RV32IMAC",
        target: "riscv32imac-unknown-none-elf",
        flags: "",
        qemu: &["qemu-system-riscv32", "-M", "virt", "-cpu", "rv32", "-bios", "none"],
    },
];

/// Every instruction takes 2⁴ nanoseconds of a board's time.
const ICOUNT: &str = "shift=4";

/// How long a board may take.
const PATIENCE: Duration = Duration::from_secs(300);

const BASELINE: &str = "benches/devices/baseline.json";

/// So many times as many instructions are as many as before.
const TOLERANCE: f64 = 1.03;

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let cores = choose(arguments.core.as_deref())?;
    let bench = Bench::prepare()?;
    let mut results = BTreeMap::new();
    for core in &cores {
        let result = bench.count(core).with_context(|| format!("counting on {}", core.title))?;
        results.insert(core.name, result);
    }
    if arguments.json {
        println!("{}", json!(results));
    } else {
        print!("{}", table(&cores, &results)?);
    }
    let path = root().join(BASELINE);
    if arguments.update {
        ensure!(cores.len() == CORES.len(), "--update needs all processors");
        fs::write(&path, format!("{:#}\n", json!(results))).with_context(|| format!("writing {BASELINE}"))?;
        return page::replace(page::BENCHMARKS, "devices", &section(&cores, &results)?);
    }
    let baseline = fs::read_to_string(&path).with_context(|| format!("reading {BASELINE}"))?;
    let baseline: Value = serde_json::from_str(&baseline).with_context(|| format!("reading {BASELINE}"))?;
    let mut worse = String::new();
    for core in &cores {
        let (now, before) = (counts(&results[core.name])?, counts(&baseline[core.name])?);
        ensure!(
            now.keys().eq(before.keys()),
            "{}: what is counted is not what {BASELINE} has: {:?}",
            core.title,
            now.keys()
        );
        for ((what, now), before) in now.iter().zip(before.values()) {
            if *now > before * TOLERANCE {
                writeln!(worse, "{}, {what}: {now}, {before} before", core.title)?;
            }
        }
    }
    ensure!(
        worse.is_empty(),
        "over 3 % more instructions or memory than in {BASELINE}:\n{}",
        worse.trim_end()
    );
    Ok(())
}

/// What may not grow: instructions of each kernel and of the whole picture, and bytes of the arena.
fn counts(result: &Value) -> Result<BTreeMap<String, f64>> {
    let kernels = result["kernels"].as_object().context("no kernels")?;
    let mut counts = BTreeMap::from([("the arena".to_owned(), number(&result["arena"])?)]);
    for (kernel, count) in kernels {
        counts.insert(kernel.clone(), number(&count["instructions"])?);
    }
    counts.insert("the whole picture".to_owned(), instructions(result, None)?);
    Ok(counts)
}

/// Instructions of the nodes of one kind, or of all of them, for a picture.
fn instructions(result: &Value, kind: Option<&str>) -> Result<f64> {
    let nodes = result["nodes"].as_array().context("there are no nodes")?;
    let of_kind = nodes.iter().filter(|node| kind.is_none_or(|kind| node["kind"] == kind));
    of_kind.map(|node| number(&node["instructions"])).sum()
}

fn choose(names: Option<&[String]>) -> Result<Vec<&'static Core>> {
    let Some(names) = names else { return Ok(CORES.iter().collect()) };
    let core = |name: &String| {
        let known = || CORES.map(|core| core.name).join(", ");
        CORES
            .iter()
            .find(|core| core.name == name)
            .with_context(|| format!("there is no {name}, only {}", known()))
    };
    names.iter().map(core).collect()
}

/// Where the model and the programs are.
struct Bench {
    folder: PathBuf,
    model: PathBuf,
}

impl Bench {
    /// Makes the model: a student of 28×28 gray pixels with 8, 16 and 32 channels, of random weights.
    fn prepare() -> Result<Self> {
        let programs = Programs::build(&["traflow-export"])?;
        let folder = programs.folder.parent().context("looking for the target folder")?.join("devices");
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let nano = Unet::preset("nano", Some(28)).context("there is no preset nano")?;
        let unet = Unet {
            image: [1, 28, 28],
            base: 8,
            mult: vec![1, 2, 4],
            attention: vec![],
            s_conditioning: SConditioning::TiedMean,
            ..nano
        };
        let (checkpoint, model) = (folder.join("tiny.safetensors"), folder.join("tiny.traflow"));
        Checkpoint::random(unet, Role::Student, 0)?.write(&checkpoint, Precision::F32)?;
        let path = |path: &Path| path.display().to_string();
        let arguments =
            [&path(&checkpoint), "--int8", "--steps", "1", "-o", &path(&model)].map(str::to_owned);
        programs.call("traflow-export", &arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        Ok(Self { folder, model })
    }

    /// Builds the program for a board and runs it there.
    fn count(&self, core: &Core) -> Result<Value> {
        let folder = self.folder.join(core.name);
        let mut build = cargo(core.target);
        build
            .args(["build", "--release", "--locked", "--target", core.target, "--target-dir"])
            .arg(&folder)
            .current_dir(root().join("benches/devices"))
            .env("BOARD", core.machine())
            .env("MODEL", &self.model)
            .env("RUSTFLAGS", core.flags);
        let status = build.status().context("calling cargo")?;
        ensure!(status.success(), "cargo failed ({status})");
        let program = folder.join(core.target).join("release/traflow-devices");
        let [emulator, machine @ ..] = core.qemu else { bail!("there is no emulator") };
        let mut qemu = Command::new(emulator);
        let semihosting = ["-semihosting-config", "enable=on,target=native"];
        qemu.args(machine)
            .args(["-nographic", "-icount", ICOUNT])
            .args(semihosting)
            .arg("-kernel")
            .arg(program);
        records(&output(&mut qemu)?)
    }
}

/// Cargo with a standard library for a target, as scripts find it.
fn cargo(target: &str) -> Command {
    let mut shell = Command::new("bash");
    let find = r#"source "$0"; find_cargo "$1"; exec "${cargo[@]}" "${@:2}""#;
    shell.args(["-euc", find]).arg(root().join("tests/toolchain.sh")).arg(target);
    shell
}

/// What a program prints, which does not take forever.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let log = tempfile()?;
    let file = fs::File::create(&log).with_context(|| format!("making {}", log.display()))?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().with_context(|| format!("making {}", log.display()))?)
        // Where QEMU writes what a board prints.
        .stderr(file)
        .spawn()
        .with_context(|| format!("calling {program}: is QEMU installed?"))?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!("{program} took more than {} s", PATIENCE.as_secs());
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let text = fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
    fs::remove_file(&log)?;
    let error = text.lines().find(|line| line.starts_with("error: "));
    ensure!(status.success() && error.is_none(), "{program}: {}", error.unwrap_or("it failed"));
    Ok(text)
}

fn tempfile() -> Result<PathBuf> {
    Ok(std::env::temp_dir().join(format!("traflow-devices-{}", std::process::id())))
}

/// The records that the program printed.
fn records(text: &str) -> Result<Value> {
    let (mut kernels, mut nodes, mut arena) = (json!({}), vec![], 0);
    for line in text.lines() {
        let count = |text: &str| text.parse::<u64>().with_context(|| format!("not a count: {line}"));
        match line.split('\t').collect::<Vec<_>>()[..] {
            ["kernel", name, unit, units, instructions] => {
                kernels[name] =
                    json!({ "unit": unit, "units": count(units)?, "instructions": count(instructions)? });
            }
            ["node", _, name, kind, instructions] => {
                nodes.push(json!({ "name": name, "kind": kind, "instructions": count(instructions)? }));
            }
            ["arena", bytes] => arena = count(bytes)?,
            // What QEMU itself has to say.
            _ => {}
        }
    }
    ensure!(!nodes.is_empty(), "it ran no model");
    Ok(json!({ "kernels": kernels, "nodes": nodes, "arena": arena }))
}

/// Instructions of kernels for each product or element, and of the model.
fn table(cores: &[&Core], results: &BTreeMap<&str, Value>) -> Result<String> {
    let mut table = format!(
        "| instructions (QEMU) | {} |\n|---|",
        cores.iter().map(|core| core.title).collect::<Vec<_>>().join(" | ")
    );
    table += &"---|".repeat(cores.len());
    table.push('\n');
    let Some(first) = cores.first() else { return Ok(table) };
    for (kernel, count) in results[first.name]["kernels"].as_object().into_iter().flatten() {
        write!(table, "| {kernel}, for each {} |", text(&count["unit"])?)?;
        for core in cores {
            let count = &results[core.name]["kernels"][kernel];
            write!(table, " {:.3} |", number(&count["instructions"])? / number(&count["units"])?)?;
        }
        table.push('\n');
    }
    let mut kinds: Vec<&str> = Vec::new();
    for node in results[first.name]["nodes"].as_array().into_iter().flatten() {
        let kind = text(&node["kind"])?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for kind in kinds.into_iter().map(Some).chain([None]) {
        write!(
            table,
            "| {}, millions |",
            kind.map_or("the whole picture".to_owned(), |kind| format!("of the model: {kind}"))
        )?;
        for core in cores {
            write!(table, " {:.3} |", instructions(&results[core.name], kind)? / 1e6)?;
        }
        table.push('\n');
    }
    Ok(table)
}

/// What the counts depend on.
fn tools() -> String {
    let first = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or_default().to_owned()
    };
    [("qemu-system-arm", "--version"), ("rustc", "--version"), ("date", "+%F")]
        .map(|(p, a)| first(p, a))
        .join(", ")
}

/// The part of docs/benchmarks.md.
fn section(cores: &[&Core], results: &BTreeMap<&str, Value>) -> Result<String> {
    let m4 = &results["m4"];
    let nodes = m4["nodes"].as_array().context("there are no nodes")?;
    let total = instructions(m4, None)?;
    let mut section = format!(
        "## Microcontrollers\n\n\
         Written by `cargo xtask bench-devices --update`, which needs QEMU and a standard library for each target. All numbers are\n\
         **counts of instructions in QEMU, not cycles**: they know nothing of memory that waits, of branches, or of processors\n\
         that begin two instructions at a time. Before anything is counted, each kernel has been compared with its definition on\n\
         the board, on random and on the largest numbers. Code is compiled to be fast (`opt-level = 3`): small code has direct\n\
         sums alone, fast code Winograd's method where it takes fewer instructions, which the M55 with its vectors has not.\n\
         Kernels are of 8-bit integers; the model is the student of 28×28 gray pixels with 8, 16 and 32 channels, of random\n\
         weights, whose arena has {} bytes. {}.\n\n{}\n",
        number(&m4["arena"])?,
        tools(),
        table(cores, results)?
    );
    write!(
        section,
        "If each instruction took one cycle, a Cortex-M4F at 100 MHz would make a picture in {:.0} ms. This is an estimate.\n\n\
         | node | operation | instructions on Cortex-M4F |\n|---|---|---|\n",
        total / 1e5
    )?;
    for node in nodes {
        writeln!(
            section,
            "| {} | {} | {} |",
            text(&node["name"])?,
            text(&node["kind"])?,
            number(&node["instructions"])?
        )?;
    }
    Ok(section)
}
