//! Makes pictures with a model file, and measures how long that takes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use memmap2::{Mmap, MmapOptions};
use serde_json::{Value, json};
use traflow_runtime::kernels::Peak;
use traflow_runtime::{Cpu, Engine, Isa, Model, Shape};

/// Pixels between the pictures of a grid.
const GAP: usize = 2;

/// How long a measurement takes, in seconds, unless a picture takes longer.
const MEASURE: f64 = 2.0;

/// The environment's variable that forces an instruction set.
const ISA: &str = "TRAFLOW_ISA";

const EXAMPLES: &str = "\
The kernels are those of the fastest instruction set that the processor has; TRAFLOW_ISA=scalar, avx2, avx512, neon or
simd128 forces one.

Examples:
  traflow-run digits.traflow --seed 7 -o seven.png
  traflow-run digits.traflow --count 64 --steps 4 -o grid.png
  traflow-run digits.traflow --count 64 -o grid.png --json
  traflow-run digits.traflow --bench --threads 2
  traflow-run digits.traflow --profile";

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
    /// Threads for one picture; the pictures are the same
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// PNG file to write, all pictures in a grid
    #[arg(short, long, required_unless_present_any = ["bench", "profile"])]
    output: Option<PathBuf>,
    /// Make the picture of the seed again and again, and print how long that takes
    #[arg(long, conflicts_with_all = ["output", "count"])]
    bench: bool,
    /// Print how long each operation takes, and how near that is to what the processor can do
    #[arg(long, conflicts_with_all = ["output", "count", "bench"])]
    profile: bool,
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
    let started = Instant::now();
    let reading = || format!("reading {}", arguments.model.display());
    let bytes = map(&arguments.model).with_context(reading)?;
    let model = Model::new(&bytes).with_context(reading)?;
    let isa = match std::env::var(ISA) {
        Ok(name) => Isa::named(&name).with_context(|| format!("{ISA}={name}"))?,
        Err(_) => Isa::detect(),
    };
    let cpu = Cpu::with_threads(isa, arguments.threads.into())?;
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut engine = Engine::on(cpu, model, &mut arena)?;
    let (text, mut result) = match &arguments.output {
        _ if arguments.bench => bench(arguments, &mut engine, started)?,
        _ if arguments.profile => profile(arguments, &mut engine, isa)?,
        Some(output) => pictures(arguments, &mut engine, output)?,
        None => bail!("there is nothing to do"),
    };
    for (key, value) in [
        ("model", json!(arguments.model)),
        ("seed", json!(arguments.seed)),
        ("steps", json!(arguments.steps)),
        ("threads", json!(arguments.threads)),
        ("isa", json!(isa.name())),
        ("arena_bytes", json!(model.arena_bytes())),
        ("weights_bytes", json!(model.weights_bytes())),
    ] {
        result[key] = value;
    }
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{result}")?
    } else {
        writeln!(out, "{text}")?
    }
    Ok(())
}

/// The bytes of a file, in memory that the operating system fills from it.
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path)?;
    ensure!(file.metadata()?.is_file(), "it is no regular file");
    // SAFETY: the map is only read. Who writes into the file while it is in use changes the numbers of a picture, or
    // ends this program by shortening the file; the places of tensors were checked, and are checked again when used.
    Ok(unsafe { MmapOptions::new().populate().map(&file) }?)
}

/// Makes pictures and writes them. What was done, as text and as JSON.
fn pictures(arguments: &Arguments, engine: &mut Engine<'_, '_>, output: &Path) -> Result<(String, Value)> {
    let mut grid = Grid::new(engine.model().image().shape(), arguments.count as usize)?;
    let mut times = Vec::new();
    for index in 0..arguments.count {
        let start = Instant::now();
        let picture = engine.generate(arguments.seed.wrapping_add(index.into()), arguments.steps)?;
        times.push(milliseconds(start));
        grid.put(index as usize, picture);
    }
    grid.save(output).with_context(|| format!("writing {}", output.display()))?;
    let (count, median) = (arguments.count, median(&mut times));
    let text = format!("{}: {count} pictures, {median:.2} ms each", output.display());
    Ok((text, json!({ "count": count, "ms_per_image": median, "output": output })))
}

/// Measures the time of a picture.
fn bench(arguments: &Arguments, engine: &mut Engine<'_, '_>, started: Instant) -> Result<(String, Value)> {
    engine.generate(arguments.seed, arguments.steps)?;
    let first = milliseconds(started);
    let mut times = Vec::new();
    let start = Instant::now();
    while times.is_empty() || start.elapsed().as_secs_f64() < MEASURE {
        let start = Instant::now();
        engine.generate(arguments.seed, arguments.steps)?;
        times.push(milliseconds(start));
    }
    let (runs, median) = (times.len(), median(&mut times));
    let least = times[0];
    let text = format!(
        "{median:.3} ms a picture (median of {runs}, least {least:.3}); the first after {first:.3} ms, with the check \
         of the file"
    );
    Ok((text, json!({ "runs": runs, "ms_per_image": median, "ms_least": least, "ms_first": first })))
}

/// Measures the time of each node, as the median of many pictures.
fn profile(arguments: &Arguments, engine: &mut Engine<'_, '_>, isa: Isa) -> Result<(String, Value)> {
    let model = *engine.model();
    let nodes = model.nodes().len();
    let mut times = vec![Vec::new(); nodes];
    let start = Instant::now();
    while times[0].is_empty() || start.elapsed().as_secs_f64() < MEASURE {
        let (mut last, mut index) = (Instant::now(), 0);
        engine.observe(arguments.seed, arguments.steps, &mut |_| {
            let now = Instant::now();
            times[index % nodes].push((now - last).as_secs_f64() * 1e3);
            (last, index) = (now, index + 1);
        })?;
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let total: f64 = medians.iter().sum();
    let peak = peak(isa) * f64::from(arguments.threads);

    let mut text = format!(
        "{:<28} {:>12} {:>9} {:>7} {:>10} {:>8} {:>7}\n",
        "node", "output", "ms", "share", "MMAC", "GMAC/s", "peak"
    );
    let mut rows = Vec::new();
    for (node, &ms) in model.nodes().zip(&medians) {
        let (macs, share) = (node.macs(), ms / total);
        let rate = macs as f64 / ms / 1e6;
        let (name, shape) = (node.name(), node.shape().to_string());
        text += &format!("{name:<28} {shape:>12} {ms:>9.4} {:>5.1} %", 100.0 * share);
        if macs > 0 {
            text += &format!(" {:>10.2} {rate:>8.1} {:>5.0} %", macs as f64 / 1e6, 100.0 * rate / peak);
        }
        text += "\n";
        let op = format!("{:?}", node.op());
        rows.push(json!({ "name": name, "op": op, "ms": ms, "share": share, "macs": macs, "gmacs_per_s": rate, "of_peak": rate / peak }));
    }
    let macs: u64 = model.nodes().map(|node| node.macs()).sum();
    let rate = macs as f64 / total / 1e6;
    text += &format!(
        "{:<28} {:>12} {total:>9.4} {:>7} {:>10.2} {rate:>8.1} {:>5.0} %\n\
         The peak, {peak:.1} GMAC/s, was measured; by Winograd's method a convolution can be above it.",
        "all",
        "",
        "",
        macs as f64 / 1e6,
        100.0 * rate / peak
    );
    Ok((
        text,
        json!({ "ms": total, "macs": macs, "gmacs_per_s": rate, "peak_gmacs_per_s": peak, "nodes": rows }),
    ))
}

/// Multiply-adds of one thread, in 10⁹ a second.
fn peak(isa: Isa) -> f64 {
    let cpu = &Cpu::new(isa);
    let rounds = 20_000;
    let rate = |_| {
        let start = Instant::now();
        let macs = Peak { rounds }.run(cpu);
        macs as f64 * rounds as f64 / start.elapsed().as_secs_f64() / 1e9
    };
    (0..5).map(rate).fold(0.0, f64::max)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The median of some numbers, which are sorted for it.
fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
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
