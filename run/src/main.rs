//! Makes pictures with a model file, and measures how long that takes.

mod arguments;
mod grid;
mod measure;
mod pictures;
mod runner;
mod system;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use traflow_graph::file;
use traflow_graph::model::Dtype;
use traflow_runtime::{Cpu, Engine, IntegerEngine, Isa, Model};

use arguments::{Arguments, Command, Outputs, Request, Task};
use pictures::hex;
use runner::Runner;
use system::Aside;

/// The environment's variable that forces an instruction set.
const ISA: &str = "TRAFLOW_ISA";

/// What was done: as text, and as the entries of a JSON object.
struct Report {
    text: String,
    entries: Vec<(&'static str, Value)>,
}

fn main() -> ExitCode {
    let done = match arguments::parse() {
        Ok(Command::Run(arguments)) => run(&arguments),
        Ok(Command::Print(text)) => {
            // Who reads on may have seen enough.
            _ = writeln!(std::io::stdout(), "{text}");
            Ok(())
        }
        Err(error) => {
            eprintln!("error: {error}; traflow-run --help says what there is");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let path = &arguments.model;
    if let Task::Pictures(Outputs { grid, pictures, .. }) = &arguments.task {
        let outputs = grid.iter().chain(pictures).map(|path| path.as_path());
        let paths: Vec<&Path> = [path.as_path()].into_iter().chain(outputs).collect();
        if let Some(repeated) = file::repeated(&paths) {
            bail!("{} is there twice, as the model or as two files to write", repeated.display());
        }
    }
    let reading = || format!("reading {}", path.display());
    let bytes = system::map(path).with_context(reading)?;
    // Where damage breaks the format too, the checksum is still what is wrong.
    let model = Model::without_checksum(&bytes).or_else(|_| Model::new(&bytes)).with_context(reading)?;
    let isa = match std::env::var(ISA) {
        Ok(name) => Isa::named(&name).with_context(|| format!("{ISA}={name}"))?,
        Err(_) => Isa::detect(),
    };
    let mut arena = system::memory(match model.weights() {
        Dtype::I8 => IntegerEngine::arena_bytes(&model),
        Dtype::F32 | Dtype::F16 => Engine::arena_bytes(&model),
    })?;
    // Whether what is written says which file it is of.
    let named = arguments.json || matches!(&arguments.task, Task::Pictures(Outputs { grid: Some(_), .. }));
    let Report { text, mut entries } = thread::scope(|scope| {
        let check = Aside::start(scope, || model.verify_checksum().with_context(reading));
        let mut runner =
            Runner::new(path, model, check, Cpu::with_threads(isa, arguments.threads)?, &mut arena)?;
        runner.set_class(arguments.request.class)?;
        match &arguments.task {
            Task::Bench => measure::bench(arguments, &mut runner, started),
            Task::Profile => measure::profile(arguments, &mut runner, isa),
            Task::SelfTest => {
                runner.checked()?;
                runner.self_test()?;
                let text = format!("{}: every node computes what the file expects", path.display());
                Ok(Report { text, entries: vec![("self_test", true.into())] })
            }
            Task::Verify(image) => {
                runner.checked()?;
                let request = pictures::verify(&mut runner, image, &hex(&bytes))
                    .with_context(|| format!("{} is not of {}", image.display(), path.display()))?;
                let Request { seed, count, steps, .. } = request;
                let text = format!(
                    "{}: made by {} from seed {seed}, count {count}, steps {steps}",
                    image.display(),
                    path.display()
                );
                let mut entries = vec![("image", lossy(image)), ("verified", true.into())];
                entries.extend(request.entries());
                Ok(Report { text, entries })
            }
            Task::Pictures(outputs) => {
                let digest = named.then(|| Aside::start(scope, || hex(&bytes)));
                pictures::make(arguments.request, outputs, &mut runner, digest)
            }
        }
    })?;
    let mut out = std::io::stdout();
    if arguments.json {
        entries.push(("model", lossy(path)));
        writeln!(out, "{}", object(entries))?
    } else {
        writeln!(out, "{text}")?
    }
    Ok(())
}

/// A JSON object.
fn object(entries: Vec<(&'static str, Value)>) -> Value {
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A path as JSON has it, which is Unicode.
fn lossy(path: &Path) -> Value {
    path.to_string_lossy().into()
}
