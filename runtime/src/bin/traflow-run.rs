//! Makes pictures with a model file.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use png::{BitDepth, ColorType};
use sha2::{Digest, Sha256};
use traflow_graph::model::Dtype;
use traflow_runtime::{Engine, IntegerEngine, Model, Shape};

/// Pixels between the pictures of a grid.
const GAP: usize = 2;

/// Keywords of the text in a PNG: the SHA-256 of the model file and that of the pictures' bytes, and how they were made.
const TEXTS: [&str; 5] =
    ["traflow:model", "traflow:picture", "traflow:seed", "traflow:count", "traflow:steps"];

const EXAMPLES: &str = "\
Examples:
  traflow-run digits.traflow --seed 7 -o seven.png
  traflow-run digits.traflow --count 64 --steps 4 -o grid.png
  traflow-run digits.traflow --count 64 -o grid.png --json
  traflow-run digits.traflow --seed 7 --digest
  traflow-run digits.traflow --self-test
  traflow-run --verify seven.png --model digits.traflow

A file of integers gives the same digest on every machine. One of floating point does not promise it.";

/// Makes pictures with a model file.
#[derive(Parser)]
#[command(name = "traflow-run", version, after_help = EXAMPLES)]
struct Arguments {
    /// Model file
    #[arg(required_unless_present = "model_file")]
    model: Option<PathBuf>,
    /// Model file, the same as the argument without a name
    #[arg(long = "model", value_name = "MODEL", conflicts_with = "model")]
    model_file: Option<PathBuf>,
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
    #[arg(short, long, required_unless_present_any = ["digest", "self_test", "verify"])]
    output: Option<PathBuf>,
    /// Print the SHA-256 of each picture's bytes, by row, column and channel
    #[arg(long)]
    digest: bool,
    /// Run the file's self-test, and name the first node that computes something else
    #[arg(long, conflicts_with_all = ["output", "digest", "verify"])]
    self_test: bool,
    /// Make the pictures of this PNG again, from what its text says, and compare
    #[arg(long, value_name = "PNG", conflicts_with_all = ["output", "digest", "seed", "count", "steps"])]
    verify: Option<PathBuf>,
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
    let path =
        arguments.model.as_ref().or(arguments.model_file.as_ref()).context("no model file is given")?;
    let reading = || format!("reading {}", path.display());
    let mut memory = Vec::new();
    let bytes = read(path, &mut memory).with_context(reading)?;
    let model = Model::new(bytes).with_context(reading)?;
    let digest = hex(bytes);
    let mut arena = vec![0; Engine::arena_bytes(&model)];
    let mut runner = Runner::new(model, &mut arena)?;
    runner.set_class(arguments.class)?;

    let mut out = std::io::stdout();
    if arguments.self_test {
        runner.self_test().with_context(|| format!("the self-test of {}", path.display()))?;
        let line = match arguments.json {
            true => serde_json::json!({ "model": path, "self_test": true }).to_string(),
            false => format!("{}: every node computes what the file expects", path.display()),
        };
        return Ok(writeln!(out, "{line}")?);
    }
    if let Some(image) = &arguments.verify {
        let request = verify(&mut runner, image, &digest)
            .with_context(|| format!("{} is not of {}", image.display(), path.display()))?;
        let Request { seed, count, steps } = request;
        let line = match arguments.json {
            true => serde_json::json!({ "model": path, "image": image, "verified": true, "seed": seed,
                "count": count, "steps": steps })
            .to_string(),
            false => format!(
                "{}: made by {} from seed {seed}, count {count}, steps {steps}",
                image.display(),
                path.display()
            ),
        };
        return Ok(writeln!(out, "{line}")?);
    }

    let request = Request { seed: arguments.seed, count: arguments.count, steps: arguments.steps };
    let Made { grid, digests, digest: of_all, median } = runner.make(request)?;
    if let Some(output) = &arguments.output {
        let texts = request.texts(&digest, &of_all);
        grid.save(output, &texts).with_context(|| format!("writing {}", output.display()))?;
    }
    if arguments.json {
        let mut result = serde_json::json!({
            "model": path,
            "model_digest": digest,
            "seed": request.seed,
            "count": request.count,
            "steps": request.steps,
            "ms_per_image": median,
            "arena_bytes": model.arena_bytes(),
            "weights_bytes": model.weights_bytes(),
            "output": arguments.output,
        });
        if arguments.digest {
            result["digests"] = digests.into();
        }
        writeln!(out, "{result}")?;
        return Ok(());
    }
    if arguments.digest {
        for (digest, index) in digests.iter().zip(0..) {
            writeln!(out, "{digest}  seed {}", request.seed.wrapping_add(index))?;
        }
    }
    if let Some(output) = &arguments.output {
        writeln!(out, "{}: {} pictures, {median:.2} ms each", output.display(), request.count)?;
    }
    Ok(())
}

/// An engine of either kind.
enum Runner<'m, 'a> {
    Float(Engine<'m, 'a>),
    Integer(IntegerEngine<'m, 'a>),
}

/// Which pictures.
#[derive(Clone, Copy)]
struct Request {
    seed: u64,
    count: u32,
    steps: usize,
}

impl Request {
    /// The text of a PNG.
    fn texts(&self, model: &str, picture: &str) -> [(&'static str, String); 5] {
        let values = [
            model.to_owned(),
            picture.to_owned(),
            self.seed.to_string(),
            self.count.to_string(),
            self.steps.to_string(),
        ];
        let mut values = values.into_iter();
        TEXTS.map(|keyword| (keyword, values.next().unwrap_or_default()))
    }
}

/// Pictures, the SHA-256 of each and of all, and the median of the milliseconds that one takes.
struct Made {
    grid: Grid,
    digests: Vec<String>,
    digest: String,
    median: f64,
}

impl<'m, 'a> Runner<'m, 'a> {
    fn new(model: Model<'m>, arena: &'a mut [u8]) -> Result<Self> {
        Ok(match model.weights() {
            Dtype::I8 => Self::Integer(IntegerEngine::new(model, arena)?),
            Dtype::F32 | Dtype::F16 => Self::Float(Engine::new(model, arena)?),
        })
    }

    fn shape(&self) -> Shape {
        match self {
            Self::Float(engine) => engine.model().image().shape(),
            Self::Integer(engine) => engine.model().image().shape(),
        }
    }

    fn set_class(&mut self, class: Option<usize>) -> Result<()> {
        match self {
            Self::Float(engine) => Ok(engine.set_class(class)?),
            Self::Integer(_) => match class {
                Some(_) => bail!("a file of integers has no classes"),
                None => Ok(()),
            },
        }
    }

    fn self_test(&mut self) -> Result<()> {
        match self {
            Self::Float(_) => bail!("only a file of integers has one"),
            Self::Integer(engine) => Ok(engine.self_test()?),
        }
    }

    /// The bytes of a picture, by row, column and channel.
    fn picture(&mut self, seed: u64, steps: usize) -> Result<Vec<u8>> {
        let shape = self.shape();
        let (pixels, channels) = (shape.pixels(), usize::from(shape.channels));
        Ok(match self {
            Self::Float(engine) => {
                let x = engine.generate(seed, steps)?;
                let at = |i: usize| x[i % channels * pixels + i / channels];
                (0..x.len()).map(|i| (at(i) * 127.5 + 128.0).clamp(0.0, 255.0) as u8).collect()
            }
            Self::Integer(engine) => engine.generate(seed, steps)?.bytes().collect(),
        })
    }

    fn make(&mut self, request: Request) -> Result<Made> {
        let Request { seed, count, steps } = request;
        let mut grid = Grid::new(self.shape(), count as usize)?;
        let (mut times, mut digests, mut all) = (Vec::new(), Vec::new(), Sha256::new());
        for index in 0..count {
            let start = Instant::now();
            let picture = self.picture(seed.wrapping_add(index.into()), steps)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            grid.put(index as usize, &picture);
            digests.push(hex(&picture));
            all.update(&picture);
        }
        times.sort_by(f64::total_cmp);
        Ok(Made { grid, digests, digest: lower_hex(&all.finalize()), median: times[times.len() / 2] })
    }
}

/// Makes the pictures of a PNG again; an error says what differs.
fn verify(runner: &mut Runner<'_, '_>, path: &Path, model_digest: &str) -> Result<Request> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let text = |keyword: &str, reader: &png::Reader<BufReader<File>>| -> Result<String> {
        let mut texts = reader.info().uncompressed_latin1_text.iter();
        let text = texts.find(|text| text.keyword == keyword).map(|text| text.text.clone());
        text.with_context(|| format!("it has no text {keyword}"))
    };
    let [model, _, seed, count, steps] = TEXTS;
    let made_by = text(model, &reader)?;
    ensure!(made_by == model_digest, "it names the model {made_by}, and this is {model_digest}");
    let request = Request {
        seed: text(seed, &reader)?.parse().context("its seed")?,
        count: text(count, &reader)?.parse().context("its count")?,
        steps: text(steps, &reader)?.parse().context("its steps")?,
    };
    ensure!((1..=65_536).contains(&request.count), "its count is not from 1 to 65,536");
    let grid = runner.make(request)?.grid;
    let size = (reader.info().width as usize, reader.info().height as usize);
    let format = (reader.info().color_type, reader.info().bit_depth);
    ensure!(
        size == (grid.width, grid.height) && format == (grid.color(), BitDepth::Eight),
        "it has another size or format than the model's pictures"
    );
    let mut pixels = vec![0; reader.output_buffer_size().context("its size")?];
    reader.next_frame(&mut pixels)?;
    ensure!(pixels == grid.bytes, "its pixels are not those that the model makes");
    Ok(request)
}

/// The SHA-256 of bytes.
fn hex(bytes: &[u8]) -> String {
    lower_hex(&Sha256::digest(bytes))
}

fn lower_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

    /// Puts a picture's bytes, by row, column and channel, into its place.
    fn put(&mut self, index: usize, picture: &[u8]) {
        let (width, channels) = (usize::from(self.shape.width), usize::from(self.shape.channels));
        let top = index / self.columns * (usize::from(self.shape.height) + GAP);
        let left = index % self.columns * (width + GAP);
        for (row, bytes) in picture.chunks_exact(width * channels).enumerate() {
            let start = ((top + row) * self.width + left) * channels;
            self.bytes[start..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    fn color(&self) -> ColorType {
        if self.shape.channels == 1 { ColorType::Grayscale } else { ColorType::Rgb }
    }

    /// Writes a PNG, as a whole or not at all.
    fn save(&self, path: &Path, texts: &[(&str, String)]) -> Result<()> {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, self.width as u32, self.height as u32);
        encoder.set_color(self.color());
        encoder.set_depth(BitDepth::Eight);
        for (keyword, text) in texts {
            encoder.add_text_chunk((*keyword).to_owned(), text.clone())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.bytes)?;
        writer.finish()?;
        Ok(traflow_graph::file::write(path, &png)?)
    }
}
