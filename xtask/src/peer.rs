//! Programs that a benchmark lets take turns; `benches/peers/src/protocol.rs` says how they talk to it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::root;

/// A program that has loaded its model.
pub(crate) struct Peer {
    title: &'static str,
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts a program with its last argument, the file of its result; gives the result too.
    pub(crate) fn start(
        title: &'static str,
        command: &mut Command,
        output: &Path,
    ) -> Result<(Self, Vec<f32>)> {
        let mut child = command.arg(output).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let requests = child.stdin.take().context("no input")?;
        let answers = BufReader::new(child.stdout.take().context("no output")?);
        let mut peer = Self { title, child, requests, answers };
        let ready = peer.answer()?;
        ensure!(ready == "ready", "it says {ready:?}");
        let result = fs::read(output)?.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect();
        Ok((peer, result))
    }

    fn answer(&mut self) -> Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} ended ({})", self.title, self.child.wait()?);
        }
        Ok(line.trim().to_owned())
    }

    /// Times of so many runs, in milliseconds.
    pub(crate) fn time(&mut self, runs: usize) -> Result<Vec<f64>> {
        writeln!(self.requests, "{runs}").with_context(|| format!("asking {}", self.title))?;
        let answer = self.answer()?;
        let times = answer.split(' ').map(|time| Ok(time.parse::<f64>()? / 1e6));
        times.collect::<Result<Vec<f64>>>().with_context(|| format!("{}: {answer}", self.title))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends by itself when its input does; one that hangs would not.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Times of runs, in milliseconds.
#[derive(Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn extend(&mut self, times: &[f64]) {
        self.0.extend(times);
        self.0.sort_by(f64::total_cmp);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that this part of the runs does not exceed: 0.5 for the median.
    pub(crate) fn at(&self, part: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
    }
}

/// The interpreter of an environment of Python's packages.
pub(crate) fn python(venv: &Path) -> PathBuf {
    venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" })
}

/// Installs Python's packages into an environment of their own, unless they are there.
pub(crate) fn install(requirements: &str, venv: &Path) -> Result<()> {
    let (wanted, installed) = (root().join(requirements), venv.join("installed"));
    let text = fs::read(&wanted).with_context(|| format!("reading {requirements}"))?;
    if fs::read(&installed).is_ok_and(|found| found == text) {
        return Ok(());
    }
    call(Command::new("python3").args(["-m", "venv"]).arg(venv))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"];
    call(Command::new(python(venv)).args(install).arg(wanted))?;
    fs::write(&installed, text).with_context(|| format!("writing {}", installed.display()))
}

pub(crate) fn call(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.stdout(Stdio::null()).status().with_context(|| format!("calling {program}"))?;
    ensure!(status.success(), "{program} failed ({status})");
    Ok(())
}

/// The version of a package by a lock file or by pinned requirements.
pub(crate) fn version(file: &str, package: &str) -> Result<String> {
    let text = fs::read_to_string(root().join(file)).with_context(|| format!("reading {file}"))?;
    let mut lines = text.lines();
    let found = if file.ends_with(".txt") {
        lines.find_map(|line| line.strip_prefix(package)?.strip_prefix("=="))
    } else {
        lines.find(|line| *line == format!("name = \"{package}\""));
        lines.next().and_then(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
    };
    Ok(found.with_context(|| format!("{file} has no {package}"))?.to_owned())
}
