//! Times a step of a training beside PyTorch's: same network, weights, batch and number of threads. Losses and gradients of
//! the first two steps are compared before anything is timed, and then the two take turns.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use traflow_graph::checkpoint::{Checkpoint, Precision, Role};
use traflow_graph::noise::Noise;

use crate::bench_peers::network;
use crate::peer::{self, Peer, Times};
use crate::{Programs, cargo, page, root};

/// How the command is called.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Networks.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_value = "nano,3m")]
    preset: Vec<String>,
    /// Pictures of a step.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Number of threads.
    #[arg(long, default_value_t = 2)]
    threads: u16,
    /// Steps that each of the two makes, in turns of one.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Build and install what is needed, and time nothing.
    #[arg(long)]
    prepare: bool,
}

const REQUIREMENTS: &str = "benches/peers/training-requirements.txt";

/// The most that losses and norms of gradients may differ.
const LIMIT: f64 = 1e-4;

/// Runs the command.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // In the dev profile it is the one beside this program, as all programs are.
    if !cfg!(debug_assertions) {
        cargo(&["build", "--release", "--package", "traflow-trainer", "--example", "training"])?;
    }
    let programs = Programs::beside()?;
    let folder = programs.folder.parent().context("looking for the target folder")?.join("bench");
    let venv = folder.join("venv-training");
    peer::install(REQUIREMENTS, &venv)?;
    if arguments.prepare {
        return Ok(());
    }
    let mut rows = String::new();
    for preset in &arguments.preset {
        let row = measure(arguments, preset, &programs, &folder.join(preset), &venv)?;
        println!("{row}");
        writeln!(rows, "{row}")?;
    }
    let torch = peer::version(REQUIREMENTS, "torch")?;
    let text = format!(
        "Machine: {}; {} profile, {} threads, batches of {}, {} steps each.\n\n\
         | network | parameters | TraFlow, ms | PyTorch {torch}, ms | TraFlow / PyTorch |\n|---|---|---|---|---|\n{rows}",
        page::machine(),
        if cfg!(debug_assertions) { "dev" } else { "release" },
        arguments.threads,
        arguments.batch,
        arguments.rounds,
    );
    page::replace(page::BENCHMARKS, "training", &text)
}

/// A row of the table.
fn measure(
    arguments: &Arguments,
    preset: &str,
    programs: &Programs,
    folder: &Path,
    venv: &Path,
) -> Result<String> {
    let checkpoint = Checkpoint::random(network(preset)?, Role::Student, 0)?;
    let parameters: usize = checkpoint.tensors.values().map(|(_, values)| values.len()).sum();
    let (weights, batch) = (folder.join("random.safetensors"), folder.join("batch.f32"));
    checkpoint.write(&weights, Precision::F32)?;
    fs::write(&batch, pictures(arguments.batch.into(), checkpoint.unet.image().elements()))?;
    let threads = arguments.threads.to_string();
    let start = |title, mut command: Command| {
        command.arg(&weights).arg(&threads).arg(&batch).env("RAYON_NUM_THREADS", &threads);
        Peer::start(title, &mut command, &folder.join("training.f32"))
    };
    let (ours, found) = start("TraFlow", Command::new(programs.folder.join("examples/training")))?;
    let mut torch = Command::new(peer::python(venv));
    torch.arg(root().join("benches/peers/training.py"));
    let (theirs, expected) = start("PyTorch", torch)?;
    ensure!(found.len() == 4 && expected.len() == 4, "losses and norms of two steps are four numbers");
    for (found, expected) in found.iter().zip(&expected) {
        let error = f64::from((found - expected).abs() / expected.abs());
        ensure!(error <= LIMIT, "{preset}: {found} by TraFlow, {expected} by PyTorch");
    }
    eprintln!(
        "{preset}: loss {} and norm of the gradient {}, by PyTorch {} and {}",
        found[0], found[1], expected[0], expected[1]
    );
    let mut peers = [(ours, Times::default()), (theirs, Times::default())];
    for round in 0..arguments.rounds as usize {
        for place in 0..peers.len() {
            let (peer, times) = &mut peers[(round + place) % 2];
            // The first finds the caches full of the other's numbers.
            times.extend(&peer.time(2)?[1..]);
        }
    }
    let [ours, theirs] = peers.map(|(_, times)| times);
    let cell =
        |times: &Times| format!("{:.0} ({:.0} – {:.0})", times.at(0.5), times.at(0.25), times.at(0.75));
    let ratio = ours.at(0.5) / theirs.at(0.5);
    Ok(format!("| {preset} | {parameters} | {} | {} | **{ratio:.2}** |", cell(&ours), cell(&theirs)))
}

/// Pictures x_t, velocities and times, of which any will do.
fn pictures(batch: usize, elements: usize) -> Vec<u8> {
    let mut pictures = vec![0.0f32; 2 * batch * elements];
    Noise::new(0).fill(&mut pictures);
    let times = (0..batch).map(|place| (place as f32 + 0.5) / batch as f32);
    pictures.into_iter().chain(times).flat_map(f32::to_le_bytes).collect()
}
