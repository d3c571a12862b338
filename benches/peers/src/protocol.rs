//! How a contestant talks to the benchmark, which lets them take turns.
//!
//! It is called with a model, a number of threads, a file of noise and a file to write (both f32, little-endian). It
//! loads the model, writes the picture that it makes of the noise, and says `ready`. Then it answers each line of input,
//! a number of runs, with as many times in nanoseconds.

use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

/// What a contestant is called with.
pub(crate) struct Arguments {
    pub(crate) model: PathBuf,
    pub(crate) threads: usize,
    pub(crate) noise: Vec<f32>,
    output: PathBuf,
}

impl Arguments {
    /// Reads `MODEL THREADS NOISE OUTPUT`.
    pub(crate) fn parse(arguments: &[String]) -> Result<Self> {
        let [model, threads, noise, output] = arguments else {
            anyhow::bail!("the arguments are MODEL THREADS NOISE OUTPUT")
        };
        let bytes = std::fs::read(noise).with_context(|| format!("reading {noise}"))?;
        let (numbers, rest) = bytes.as_chunks();
        ensure!(rest.is_empty(), "{noise}: it is not of f32 numbers");
        Ok(Self {
            model: model.into(),
            threads: threads.parse().with_context(|| format!("threads: {threads}"))?,
            noise: numbers.iter().map(|number| f32::from_le_bytes(*number)).collect(),
            output: output.into(),
        })
    }

    /// Answers until the input ends; `run` gives the picture.
    pub(crate) fn serve(&self, mut run: impl FnMut() -> Result<Vec<f32>>) -> Result<()> {
        let picture: Vec<u8> = run()?.iter().flat_map(|x| x.to_le_bytes()).collect();
        std::fs::write(&self.output, picture)
            .with_context(|| format!("writing {}", self.output.display()))?;
        let mut out = std::io::stdout();
        writeln!(out, "ready")?;
        for line in std::io::stdin().lock().lines() {
            let line = line?;
            let count: usize = line.trim().parse().with_context(|| format!("a number of runs: {line}"))?;
            let mut times = Vec::with_capacity(count);
            for _ in 0..count {
                let start = Instant::now();
                run()?;
                times.push(start.elapsed().as_nanos().to_string());
            }
            writeln!(out, "{}", times.join(" "))?;
        }
        Ok(())
    }
}
