//! Times the runtime and other runtimes on the same networks: same weights, same noise, same number of threads, a batch of
//! one picture. Everybody's picture is compared with ours before anything is timed, and then they take turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use traflow_graph::checkpoint::{Checkpoint, Precision, Role};
use traflow_graph::noise::Noise;
use traflow_graph::unet::{SConditioning, Unet};

use crate::peer::{self, Peer, Times};
use crate::{Programs, cargo, page, root};

/// How the command is called.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Networks.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "nano,small,3m,16m")]
    preset: Vec<String>,
    /// Numbers of threads.
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,2")]
    threads: Vec<usize>,
    /// Turns of each contestant; one is about a twentieth of a second, or one picture.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Contestants besides traflow-f32 [default: all].
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Build and make what is needed, and time nothing.
    #[arg(long)]
    prepare: bool,
    /// Print the results as one JSON array.
    #[arg(long)]
    json: bool,
}

/// What a contestant is a part of.
#[derive(Clone, Copy, PartialEq)]
enum Program {
    /// `benches/peers/src/main.rs`.
    Rust,
    /// `benches/peers/peers.py`.
    Python,
    /// `trainer/examples/peer.rs`.
    Burn,
}

/// Somebody who makes the picture.
struct Contestant {
    name: &'static str,
    title: &'static str,
    program: Program,
    /// What the program calls it.
    kind: &'static str,
    /// The file that it reads, in the folder of a network.
    model: &'static str,
    /// Where its version is known, and by which name.
    version: (&'static str, &'static str),
    /// The most that its picture may differ from that of the first, as a part of the range.
    limit: f64,
    /// What its numbers are, of which the fastest other runtime is compared with ours.
    numbers: &'static str,
}

impl Contestant {
    /// One that computes in f32.
    const fn new(
        name: &'static str,
        title: &'static str,
        program: Program,
        model: &'static str,
        version: (&'static str, &'static str),
    ) -> Self {
        Self { name, title, program, kind: name, model, version, limit: 1e-4, numbers: "f32" }
    }

    /// One that computes in integers of 8 bits. The networks' weights are random, and rounding disturbs their pictures more
    /// than those of trained ones.
    const fn int8(self) -> Self {
        Self { limit: 0.25, numbers: "int8", ..self }
    }
}

/// Ours in f32 is the first, and what the others are compared with.
const CONTESTANTS: [Contestant; 12] = {
    use Program::{Burn, Python, Rust};
    const OURS: (&str, &str) = ("Cargo.lock", "traflow-runtime");
    const LOCK: &str = "benches/peers/Cargo.lock";
    [
        Contestant {
            kind: "traflow",
            ..Contestant::new("traflow-f32", "TraFlow f32", Rust, "f32.traflow", OURS)
        },
        Contestant {
            kind: "traflow",
            limit: 5e-3,
            numbers: "f16",
            ..Contestant::new("traflow-fp16", "TraFlow fp16", Rust, "fp16.traflow", OURS)
        },
        Contestant::new("onnxruntime", "ONNX Runtime", Python, ONNX, (PINS, "onnxruntime")),
        Contestant::new("openvino", "OpenVINO", Python, ONNX, (PINS, "openvino")),
        Contestant {
            limit: 5e-2,
            numbers: "bf16",
            ..Contestant::new("openvino-bf16", "OpenVINO bf16", Python, ONNX, (PINS, "openvino"))
        },
        Contestant::new("tract", "tract", Rust, ONNX, (LOCK, "tract-onnx")),
        Contestant::new("rten", "rten", Rust, ONNX, (LOCK, "rten")),
        Contestant::new("burn-flex", "Burn (flex)", Burn, CHECKPOINT, ("Cargo.lock", "burn")),
        Contestant {
            kind: "traflow",
            ..Contestant::new("traflow-int8", "TraFlow int8", Rust, "int8.traflow", OURS).int8()
        },
        Contestant {
            kind: "onnxruntime",
            ..Contestant::new("onnxruntime-int8", "ONNX Runtime int8", Python, QDQ, (PINS, "onnxruntime"))
                .int8()
        },
        Contestant {
            kind: "openvino",
            ..Contestant::new("openvino-qdq", "OpenVINO int8, same file", Python, QDQ, (PINS, "openvino"))
                .int8()
        },
        Contestant {
            kind: "openvino",
            ..Contestant::new("openvino-int8", "OpenVINO int8, by NNCF", Python, NNCF, (PINS, "openvino"))
                .int8()
        },
    ]
};

/// Python's packages, and their environment in the folder of benchmarks.
const PINS: &str = "benches/peers/requirements.txt";
const VENV: &str = "venv";

const CHECKPOINT: &str = "random.safetensors";
const ONNX: &str = "model.onnx";
/// Integers by ONNX Runtime's tools, and by OpenVINO's.
const QDQ: &str = "int8.onnx";
const NNCF: &str = "int8.xml";
const NOISE: &str = "noise.f32";

/// How long a turn is to take.
const TURN: Duration = Duration::from_millis(50);

/// A pause between turns, in which the threads of the one before go to sleep.
const PAUSE: Duration = Duration::from_millis(10);

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let contestants = choose(arguments.peers.as_deref())?;
    let bench = Bench::prepare(&contestants, &arguments.preset)?;
    if arguments.prepare {
        return Ok(());
    }
    let mut results = Vec::new();
    for preset in &arguments.preset {
        for &threads in &arguments.threads {
            let result = bench.measure(&contestants, preset, threads, arguments.rounds)?;
            if !arguments.json {
                println!("{}", page::summary(&result)?);
            }
            let path = bench.results_folder().join(format!("{preset}-{threads}.json"));
            fs::write(&path, result.to_string()).with_context(|| format!("writing {}", path.display()))?;
            results.push(result);
        }
    }
    if arguments.json {
        println!("{}", Value::from(results));
    }
    page::write(&bench.results()?)
}

fn choose(names: Option<&[String]>) -> Result<Vec<&'static Contestant>> {
    let Some(names) = names else { return Ok(CONTESTANTS.iter().collect()) };
    if let Some(unknown) = names.iter().find(|name| CONTESTANTS.iter().all(|c| c.name != **name)) {
        let known: Vec<&str> = CONTESTANTS.iter().map(|contestant| contestant.name).collect();
        bail!("there is no contestant {unknown}, only {}", known.join(", "));
    }
    let chosen = |c: &&Contestant| c.name == CONTESTANTS[0].name || names.iter().any(|name| name == c.name);
    Ok(CONTESTANTS.iter().filter(chosen).collect())
}

/// Where programs, models and results are.
struct Bench {
    programs: Programs,
    folder: PathBuf,
}

impl Bench {
    /// Builds the programs, installs Python's packages and makes the models, as far as they are not there.
    fn prepare(contestants: &[&'static Contestant], presets: &[String]) -> Result<Self> {
        let programs = Programs::build(&["traflow-export"])?;
        let target = programs.folder.parent().context("looking for the target folder")?.to_owned();
        let bench = Self { folder: target.join("bench"), programs };
        let results = bench.results_folder();
        fs::create_dir_all(&results).with_context(|| format!("making {}", results.display()))?;
        let needs = |program| contestants.iter().any(|contestant| contestant.program == program);
        let peers = "benches/peers/Cargo.toml";
        let target = bench.folder.display().to_string();
        cargo(&["build", "--release", "--locked", "--manifest-path", peers, "--target-dir", &target])?;
        if needs(Program::Burn) {
            cargo(&["build", "--release", "--package", "traflow-trainer", "--example", "peer"])?;
        }
        if needs(Program::Python) {
            peer::install(PINS, &bench.folder.join(VENV))?;
        }
        for preset in presets {
            bench.make(preset).with_context(|| format!("making the models of {preset}"))?;
            for contestant in contestants.iter().filter(|contestant| [QDQ, NNCF].contains(&contestant.model))
            {
                bench.quantise(preset, contestant.model);
            }
        }
        Ok(bench)
    }

    fn rust(&self) -> PathBuf {
        self.folder.join("release/traflow-peers").with_extension(std::env::consts::EXE_EXTENSION)
    }

    fn results_folder(&self) -> PathBuf {
        self.folder.join("results")
    }

    /// The files of a network of random weights, unless they are newer than the program that makes them.
    fn make(&self, preset: &str) -> Result<()> {
        let folder = self.folder.join(preset);
        let last = folder.join(NOISE);
        let exporter =
            self.programs.folder.join("traflow-export").with_extension(std::env::consts::EXE_EXTENSION);
        if modified(&last) > modified(&exporter) {
            return Ok(());
        }
        let unet = network(preset)?;
        let mut noise = vec![0.0; unet.image().elements()];
        Noise::new(0).fill(&mut noise);
        let path = |name: &str| folder.join(name).display().to_string();
        let checkpoint = Checkpoint::random(unet, Role::Student, 0)?;
        checkpoint.write(&folder.join(CHECKPOINT), Precision::F32)?;
        for precision in ["f32", "fp16", "int8"] {
            let (flag, model) = (format!("--{precision}"), path(&format!("{precision}.traflow")));
            self.programs.call("traflow-export", &[&path(CHECKPOINT), &flag, "-o", &model])?;
        }
        self.programs.call("traflow-export", &[&path(CHECKPOINT), "--onnx", &path(ONNX)])?;
        let bytes: Vec<u8> = noise.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(fs::write(&last, bytes)?)
    }

    /// A file of integers by somebody else's tools, unless it is newer than the one that it is made of. Who has none is left
    /// out.
    fn quantise(&self, preset: &str, model: &str) {
        let folder = self.folder.join(preset);
        let (from, to) = (folder.join(ONNX), folder.join(model));
        if modified(&to) > modified(&from) {
            return;
        }
        let script = root().join("benches/peers/quantise.py");
        if let Err(error) =
            peer::call(Command::new(peer::python(&self.folder.join(VENV))).arg(script).arg(from).arg(&to))
        {
            eprintln!("{}: {error:#}", to.display());
        }
    }

    /// Compares the pictures, then lets everybody take turns.
    fn measure(
        &self,
        contestants: &[&'static Contestant],
        preset: &str,
        threads: usize,
        rounds: u32,
    ) -> Result<Value> {
        eprintln!("\n{preset}, {threads} thread{}", if threads == 1 { "" } else { "s" });
        let folder = self.folder.join(preset);
        let mut players = Vec::new();
        let mut absent = Vec::new();
        for contestant in contestants {
            match Player::start(self, contestant, &folder, threads) {
                Ok(player) => players.push(player),
                // One that cannot run this network takes nothing away from the others; the page says so.
                Err(error) => {
                    eprintln!("{}: left out: {error:#}", contestant.title);
                    absent.push(contestant.title);
                }
            }
        }
        let Some(first) = players.first() else { bail!("nobody runs {preset} with {threads} threads") };
        let (reference, whose) = (first.picture.clone(), first.contestant.title);
        players.iter_mut().try_for_each(|player| player.compare(&reference, whose))?;
        players.iter_mut().try_for_each(Player::warm_up)?;
        for round in 0..rounds as usize {
            for place in 0..players.len() {
                // Nobody always follows the same one's threads and caches by starting the rounds.
                let player = (round + place) % players.len();
                players[player].turn()?;
            }
        }
        let macs = Unet::preset(preset, None).context("no such preset")?.graph()?.macs();
        Ok(json!({
            "preset": preset,
            "threads": threads,
            "rounds": rounds,
            "macs": macs,
            "machine": page::machine(),
            "contestants": players.iter_mut().map(Player::result).collect::<Result<Vec<_>>>()?,
            "absent": absent,
        }))
    }

    /// The results that are there of the programs as they are now, of this run and of earlier ones.
    fn results(&self) -> Result<Vec<Value>> {
        let mut results = Vec::new();
        for entry in fs::read_dir(self.results_folder())? {
            let path = entry?.path();
            if modified(&path) > modified(&self.rust()) {
                let text = fs::read_to_string(&path)?;
                results.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
            }
        }
        Ok(results)
    }
}

/// A student of a preset.
pub(crate) fn network(preset: &str) -> Result<Unet> {
    let unet = Unet::preset(preset, None).with_context(|| format!("there is no preset {preset}"))?;
    Ok(Unet { s_conditioning: SConditioning::TiedMean, ..unet })
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

/// A contestant that has loaded its model.
struct Player {
    contestant: &'static Contestant,
    peer: Peer,
    picture: Vec<f32>,
    difference: f64,
    /// Runs of a turn.
    runs: usize,
    times: Times,
}

impl Player {
    fn start(bench: &Bench, contestant: &'static Contestant, folder: &Path, threads: usize) -> Result<Self> {
        let mut command = match contestant.program {
            Program::Rust => Command::new(bench.rust()),
            Program::Python => Command::new(peer::python(&bench.folder.join(VENV))),
            Program::Burn => Command::new(bench.programs.folder.join("examples/peer")),
        };
        match contestant.program {
            Program::Rust => command.arg(contestant.kind),
            Program::Python => command.arg(root().join("benches/peers/peers.py")).arg(contestant.kind),
            Program::Burn => command.env("RAYON_NUM_THREADS", threads.to_string()),
        };
        let output = folder.join(format!("{}-{threads}.f32", contestant.name));
        command.arg(folder.join(contestant.model)).arg(threads.to_string()).arg(folder.join(NOISE));
        let (peer, picture) = Peer::start(contestant.title, &mut command, &output)?;
        Ok(Self { contestant, peer, picture, difference: 0.0, runs: 1, times: Times::default() })
    }

    /// Whether it computes what the reference is.
    fn compare(&mut self, reference: &[f32], whose: &str) -> Result<()> {
        let Contestant { title, limit, .. } = self.contestant;
        ensure!(self.picture.len() == reference.len(), "{title}: its picture has another size");
        let (low, high) = reference.iter().fold((f32::MAX, f32::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
        let differences =
            self.picture.iter().zip(reference).map(|(a, b)| f64::from((a - b).abs() / (high - low)));
        let worst = differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { d.max(worst) });
        ensure!(
            worst <= *limit,
            "{title}: its picture differs by {worst:.1e} of the range, more than {limit:.0e}"
        );
        self.difference = worst;
        eprintln!("{title}: its picture differs from that of {whose} by {worst:.1e} of the range");
        Ok(())
    }

    /// Finds out how many runs are a turn.
    fn warm_up(&mut self) -> Result<()> {
        let fastest = self.peer.time(3)?.into_iter().fold(f64::INFINITY, f64::min);
        self.runs = (TURN.as_secs_f64() * 1e3 / fastest).clamp(1.0, 1000.0) as usize;
        self.peer.time(self.runs)?;
        Ok(())
    }

    /// One turn. Its first run finds the caches full of somebody else's numbers and is not counted.
    fn turn(&mut self) -> Result<()> {
        std::thread::sleep(PAUSE);
        let times = self.peer.time(self.runs + 1)?;
        self.times.extend(&times[1..]);
        Ok(())
    }

    fn result(&mut self) -> Result<Value> {
        let Contestant { name, title, version: (file, package), .. } = self.contestant;
        Ok(json!({
            "name": name,
            "title": title,
            "version": peer::version(file, package)?,
            "numbers": self.contestant.numbers,
            "ours": self.contestant.kind == "traflow",
            "difference": self.difference,
            "runs": self.times.len(),
            "median_ms": self.times.at(0.5),
            "quartiles_ms": [self.times.at(0.25), self.times.at(0.75)],
        }))
    }
}
