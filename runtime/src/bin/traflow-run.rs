//! Makes pictures with a model file.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use traflow_runtime::{Engine, Model, Shape};

/// Pixels between the pictures of a grid.
const GAP: usize = 2;

const EXAMPLES: &str = "\
Examples:
  traflow-run digits.traflow --seed 7 -o seven.png
  traflow-run digits.traflow --count 64 --steps 4 -o grid.png
  traflow-run digits.traflow --count 64 -o grid.png --json";

/// Makes pictures with a model file.
#[derive(Parser)]
#[command(name = "traflow-run", version, after_help = EXAMPLES)]
struct Arguments {
    /// Model file
    model: PathBuf,
    /// Seed of the first picture; the others follow
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number of pictures
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    count: u32,
    /// Steps from noise to picture; the model file says which numbers it offers
    #[arg(long, default_value_t = 1)]
    steps: usize,
    /// Class of the pictures, counted from 0, where the model has classes [default: none in particular]
    #[arg(long)]
    class: Option<usize>,
    /// PNG file to write, all pictures in a grid
    #[arg(short, long)]
    output: PathBuf,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let reading = || format!("reading {}", arguments.model.display());
    let mut memory = Vec::new();
    let bytes = read(&arguments.model, &mut memory).with_context(reading)?;
    let model = Model::new(bytes).with_context(reading)?;
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::new(model, &mut arena)?;
    engine.set_class(arguments.class)?;

    let mut grid = Grid::new(model.image().shape(), arguments.count as usize)?;
    let mut times = Vec::new();
    for index in 0..arguments.count {
        let start = Instant::now();
        let picture = engine.generate(arguments.seed.wrapping_add(index.into()), arguments.steps)?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
        grid.put(index as usize, picture);
    }
    grid.save(&arguments.output).with_context(|| format!("writing {}", arguments.output.display()))?;

    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    let mut out = std::io::stdout();
    if arguments.json {
        let result = serde_json::json!({
            "model": arguments.model,
            "seed": arguments.seed,
            "count": arguments.count,
            "steps": arguments.steps,
            "ms_per_image": median,
            "arena_bytes": model.arena_bytes(),
            "weights_bytes": model.weights_bytes(),
            "output": arguments.output,
        });
        writeln!(out, "{result}")?;
    } else {
        writeln!(out, "{}: {} pictures, {median:.2} ms each", arguments.output.display(), arguments.count)?;
    }
    Ok(())
}

/// The bytes of a file, at an address that is a multiple of 64 as the model's tensors want it.
fn read<'a>(path: &Path, memory: &'a mut Vec<u8>) -> Result<&'a [u8]> {
    let mut file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len())?;
    memory.resize(len + 63, 0);
    let skip = memory.as_ptr().align_offset(64);
    let bytes = &mut memory[skip..][..len];
    file.read_exact(bytes)?;
    Ok(bytes)
}

/// Pictures beside each other, in a grid as square as it gets.
struct Grid {
    shape: Shape,
    columns: usize,
    width: usize,
    height: usize,
    bytes: Vec<u8>,
}

impl Grid {
    fn new(shape: Shape, count: usize) -> Result<Self> {
        if shape.channels != 1 && shape.channels != 3 {
            bail!("a picture of {} channels is neither gray nor RGB", shape.channels);
        }
        let columns = (1..).find(|n| n * n >= count).unwrap_or(1);
        let width = columns * (usize::from(shape.width) + GAP) - GAP;
        let height = count.div_ceil(columns) * (usize::from(shape.height) + GAP) - GAP;
        ensure!(width.max(height) <= 65_536, "a grid of {width}×{height} pixels is too large");
        let bytes = vec![255; width * height * usize::from(shape.channels)];
        Ok(Self { shape, columns, width, height, bytes })
    }

    /// Puts a picture in [-1, 1] into its place.
    fn put(&mut self, index: usize, picture: &[f32]) {
        let (width, pixels) = (usize::from(self.shape.width), self.shape.pixels());
        let channels = usize::from(self.shape.channels);
        let top = index / self.columns * (usize::from(self.shape.height) + GAP);
        let left = index % self.columns * (width + GAP);
        for (i, x) in picture.iter().enumerate() {
            let (channel, row, column) = (i / pixels, i % pixels / width, i % width);
            let pixel = (top + row) * self.width + left + column;
            self.bytes[pixel * channels + channel] = (x * 127.5 + 128.0).clamp(0.0, 255.0) as u8;
        }
    }

    /// Writes a PNG, as a whole or not at all.
    fn save(&self, path: &Path) -> Result<()> {
        let color = if self.shape.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
        let mut png = Vec::new();
        PngEncoder::new(&mut png).write_image(&self.bytes, self.width as u32, self.height as u32, color)?;
        Ok(traflow_graph::file::write(path, &png)?)
    }
}
