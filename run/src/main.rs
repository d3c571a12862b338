//! Makes pictures with a model file, and measures how long that takes.

mod arguments;

use std::collections::BTreeMap;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufReader, Write};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::ExitCode;
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{Mmap, MmapMut};
use png::{BitDepth, ColorType};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use traflow_graph::model::{Dtype, Node, Weights};
use traflow_graph::op::Op;
use traflow_graph::winograd::Winograd;
use traflow_runtime::kernels::Peak;
use traflow_runtime::{Cpu, Engine, IntegerEngine, Isa, Mix, Model, Shape};

use arguments::{Arguments, Command, Outputs, Request, Source, Task};

/// Pixels between the pictures of a grid.
const GAP: usize = 2;

/// Keywords of the text in a PNG: the SHA-256 of the model file and that of the pictures' bytes, and how they were made.
const TEXTS: [&str; 5] =
    ["traflow:model", "traflow:picture", "traflow:seed", "traflow:count", "traflow:steps"];
/// How long a measurement takes, in seconds, unless a picture takes longer.
const MEASURE: f64 = 2.0;

/// The environment's variable that forces an instruction set.
const ISA: &str = "TRAFLOW_ISA";

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
    let reading = || format!("reading {}", path.display());
    let bytes = map(path).with_context(reading)?;
    // Where damage breaks the format too, the checksum is still what is wrong.
    let model = Model::without_checksum(&bytes).or_else(|_| Model::new(&bytes)).with_context(reading)?;
    let isa = match std::env::var(ISA) {
        Ok(name) => Isa::named(&name).with_context(|| format!("{ISA}={name}"))?,
        Err(_) => Isa::detect(),
    };
    let mut arena = memory(match model.weights() {
        Dtype::I8 => IntegerEngine::arena_bytes(&model),
        Dtype::F32 | Dtype::F16 => Engine::arena_bytes(&model),
    })?;
    // Whether what is written says which file it is of.
    let named = arguments.json || matches!(&arguments.task, Task::Pictures(Outputs { grid: Some(_), .. }));
    let (text, mut result) = thread::scope(|scope| {
        let check = Aside::start(scope, || model.verify_checksum().with_context(reading));
        let mut runner = Runner::new(model, check, isa, arguments.threads, &mut arena)?;
        runner.set_class(arguments.class)?;
        match &arguments.task {
            Task::Bench => bench(arguments, &mut runner, started),
            Task::Profile => profile(arguments, &mut runner, isa),
            Task::SelfTest => {
                runner.checked()?;
                runner.self_test().with_context(|| format!("the self-test of {}", path.display()))?;
                let text = format!("{}: every node computes what the file expects", path.display());
                Ok((text, json!({ "self_test": true })))
            }
            Task::Verify(image) => {
                runner.checked()?;
                let Request { seed, count, steps } = verify(&mut runner, image, &hex(&bytes))
                    .with_context(|| format!("{} is not of {}", image.display(), path.display()))?;
                let made =
                    format!("made by {} from seed {seed}, count {count}, steps {steps}", path.display());
                let result = json!({ "image": image, "verified": true, "seed": seed.json(), "count": count, "steps": steps });
                Ok((format!("{}: {made}", image.display()), result))
            }
            Task::Pictures(outputs) => {
                let digest = named.then(|| Aside::start(scope, || hex(&bytes)));
                pictures(arguments.request, outputs, &mut runner, digest)
            }
        }
    })?;
    result["model"] = json!(path);
    let mut out = std::io::stdout();
    if arguments.json {
        writeln!(out, "{result}")?
    } else {
        writeln!(out, "{text}")?
    }
    Ok(())
}

/// Something that is computed on another thread, or at once where the operating system gives none.
struct Aside<'scope, T>(Result<ScopedJoinHandle<'scope, T>, T>);

impl<'scope, T: Send> Aside<'scope, T> {
    fn start(scope: &'scope Scope<'scope, '_>, work: impl Fn() -> T + Copy + Send + 'scope) -> Self
    where
        T: 'scope,
    {
        Self(thread::Builder::new().spawn_scoped(scope, work).map_err(|_| work()))
    }

    /// Waits for it.
    fn result(self) -> T {
        match self.0 {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(result) => result,
        }
    }
}

/// An engine, and the file's checksum, for which all of the file is read while the first picture is made. Nothing is handed
/// out before that is done.
struct Runner<'m, 'a, 's> {
    engine: AnyEngine<'m, 'a>,
    check: Option<Aside<'s, Result<()>>>,
}

/// An engine of either kind.
enum AnyEngine<'m, 'a> {
    Float(Engine<'m, 'a>),
    Integer(IntegerEngine<'m, 'a>),
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

/// The bytes of pictures, one after the other, each by row, column and channel, and the median of the milliseconds that one
/// takes.
struct Made {
    bytes: Vec<u8>,
    median: f64,
}

impl<'m, 'a, 's> Runner<'m, 'a, 's> {
    fn new(
        model: Model<'m>,
        check: Aside<'s, Result<()>>,
        isa: Isa,
        threads: usize,
        arena: &'a mut [u8],
    ) -> Result<Self> {
        let cpu = Cpu::with_threads(isa, threads)?;
        let engine = match model.weights() {
            Dtype::I8 => AnyEngine::Integer(IntegerEngine::on(cpu, model, arena)?),
            Dtype::F32 | Dtype::F16 => AnyEngine::Float(Engine::on(cpu, model, arena)?),
        };
        Ok(Self { engine, check: Some(check) })
    }

    /// Whether the file is whole.
    fn checked(&mut self) -> Result<()> {
        self.check.take().map_or(Ok(()), Aside::result)
    }

    fn model(&self) -> Model<'m> {
        match &self.engine {
            AnyEngine::Float(engine) => *engine.model(),
            AnyEngine::Integer(engine) => *engine.model(),
        }
    }

    fn isa(&self) -> Isa {
        match &self.engine {
            AnyEngine::Float(engine) => engine.isa(),
            AnyEngine::Integer(engine) => engine.isa(),
        }
    }

    /// Makes a picture and says after each node, by its index, that it has been computed.
    fn observe(&mut self, seed: u64, steps: usize, after: &mut (dyn FnMut(usize) + Send)) -> Result<()> {
        match &mut self.engine {
            AnyEngine::Float(engine) => {
                let (nodes, mut index) = (engine.model().nodes().len(), 0);
                engine.observe(seed, steps, &mut |_| {
                    after(index % nodes);
                    index += 1;
                })?;
            }
            AnyEngine::Integer(engine) => {
                engine.observe(seed, steps, &mut |_, index, _| after(index))?;
            }
        }
        self.checked()
    }

    fn set_class(&mut self, class: Option<usize>) -> Result<()> {
        match &mut self.engine {
            AnyEngine::Float(engine) => Ok(engine.set_class(class)?),
            AnyEngine::Integer(_) => match class {
                Some(_) => bail!("a file of integers has no classes"),
                None => Ok(()),
            },
        }
    }

    fn self_test(&mut self) -> Result<()> {
        match &mut self.engine {
            AnyEngine::Float(_) => bail!("only a file of integers has one"),
            AnyEngine::Integer(engine) => Ok(engine.self_test()?),
        }
    }

    /// The bytes of a picture, by row, column and channel.
    fn picture(&mut self, seed: Source, steps: usize) -> Result<Vec<u8>> {
        let shape = self.model().image().shape();
        let picture = match (&mut self.engine, seed) {
            (AnyEngine::Float(engine), Source::Seed(seed)) => {
                traflow_runtime::bytes(engine.generate(seed, steps)?, shape).collect()
            }
            (AnyEngine::Float(engine), Source::Between(seeds, at)) => {
                traflow_runtime::bytes(engine.mix(&Mix::new(seeds, at), steps)?, shape).collect()
            }
            (AnyEngine::Integer(engine), Source::Seed(seed)) => {
                engine.generate(seed, steps)?.bytes().collect()
            }
            (AnyEngine::Integer(engine), Source::Between(seeds, at)) => {
                engine.mix(&Mix::new(seeds, at), steps)?.bytes().collect()
            }
        };
        self.checked()?;
        Ok(picture)
    }

    fn make(&mut self, request: Request) -> Result<Made> {
        let Request { seed, count, steps } = request;
        ensure!(
            count == 1 || matches!(seed, Source::Seed(_)),
            "a point between seeds is one picture, not {count}"
        );
        let (mut times, mut bytes) = (Vec::new(), Vec::new());
        for index in 0..count {
            let start = Instant::now();
            let picture = self.picture(seed.next(index), steps)?;
            times.push(milliseconds(start));
            bytes.extend(picture);
        }
        Ok(Made { bytes, median: median(&mut times) })
    }
}

/// Makes the pictures of a PNG again; an error says what differs.
fn verify(runner: &mut Runner<'_, '_, '_>, path: &Path, model_digest: &str) -> Result<Request> {
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
    let mut grid = Grid::new(runner.model().image().shape(), request.count as usize)?;
    grid.put(&runner.make(request)?.bytes);
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
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a file, in memory that the operating system fills from it.
fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path)?;
    ensure!(file.metadata()?.is_file(), "it is no regular file");
    // SAFETY: the map is only read. Who writes into the file while it is in use changes the numbers of a picture, or
    // ends this program by shortening the file; the places of tensors were checked, and are checked again when used.
    let map = unsafe { Mmap::map(&file) }?;
    // In pages as large as the system has them, if it offers that.
    #[cfg(target_os = "linux")]
    {
        _ = map.advise(Advice::HugePage);
    }
    Ok(map)
}

/// So many zeros, in pages as large as the system has them.
fn memory(bytes: usize) -> Result<MmapMut> {
    let memory = MmapMut::map_anon(bytes).with_context(|| format!("asking for {bytes} bytes of memory"))?;
    #[cfg(target_os = "linux")]
    {
        _ = memory.advise(Advice::HugePage);
    }
    Ok(memory)
}

/// Makes pictures, and writes them where that was asked for. What was done, as text and as JSON.
fn pictures(
    request: Request,
    outputs: &Outputs,
    runner: &mut Runner<'_, '_, '_>,
    model: Option<Aside<'_, String>>,
) -> Result<(String, Value)> {
    let Request { seed, count, steps } = request;
    let sizes = runner.model();
    let shape = sizes.image().shape();
    let grid = outputs.grid.as_ref().map(|_| Grid::new(shape, count as usize)).transpose()?;
    let Made { bytes, median } = runner.make(request)?;
    let model = &model.map(Aside::result).unwrap_or_default();
    let mut lines = Vec::new();
    let mut result = json!({
        "model_digest": model, "seed": seed.json(), "count": count, "steps": steps, "ms_per_image": median,
        "arena_bytes": sizes.arena_bytes(), "weights_bytes": sizes.weights_bytes(), "output": outputs.grid,
        "pictures": outputs.pictures,
    });
    if outputs.digest {
        let digests: Vec<String> = bytes.chunks_exact(shape.elements()).map(hex).collect();
        let seeds = (0..).map(|index| seed.next(index));
        lines.extend(digests.iter().zip(seeds).map(|(digest, seed)| format!("{digest}  seed {seed}")));
        result["digests"] = digests.into();
    }
    if let (Some(output), Some(mut grid)) = (&outputs.grid, grid) {
        grid.put(&bytes);
        let texts = request.texts(model, &hex(&bytes));
        grid.save(output, &texts).with_context(|| format!("writing {}", output.display()))?;
        lines.push(format!("{}: {count} pictures, {median:.2} ms each", output.display()));
    }
    if let Some(path) = &outputs.pictures {
        let idx = idx(shape, count, &bytes);
        traflow_graph::file::write(path, &idx).with_context(|| format!("writing {}", path.display()))?;
        lines.push(format!("{}: {count} pictures, {median:.2} ms each", path.display()));
    }
    Ok((lines.join("\n"), result))
}

/// Measures the time of a picture.
fn bench(
    arguments: &Arguments,
    runner: &mut Runner<'_, '_, '_>,
    started: Instant,
) -> Result<(String, Value)> {
    let seed = arguments.request.seed.seed()?;
    runner.observe(seed, arguments.request.steps, &mut |_| ())?;
    let first = milliseconds(started);
    let mut times = Vec::new();
    let start = Instant::now();
    while times.is_empty() || start.elapsed().as_secs_f64() < MEASURE {
        let start = Instant::now();
        runner.observe(seed, arguments.request.steps, &mut |_| ())?;
        times.push(milliseconds(start));
    }
    let (runs, median) = (times.len(), median(&mut times));
    let least = times[0];
    let text = format!(
        "{median:.3} ms a picture (median of {runs}, least {least:.3}); the first after {first:.3} ms, with the check \
         of the file"
    );
    let mut result = json!({ "runs": runs, "ms_per_image": median, "ms_least": least, "ms_first": first });
    result["peak_resident_bytes"] = json!(peak_resident());
    describe(arguments, runner, &mut result);
    Ok((text, result))
}

/// The most memory that this program has had, the file's with it, where the operating system says so.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Measures the time of each node, as the median of many pictures.
fn profile(arguments: &Arguments, runner: &mut Runner<'_, '_, '_>, isa: Isa) -> Result<(String, Value)> {
    let model = runner.model();
    let nodes = model.nodes().len();
    let mut times = vec![Vec::new(); nodes];
    let start = Instant::now();
    while times.iter().all(Vec::is_empty) || start.elapsed().as_secs_f64() < MEASURE {
        let mut last = Instant::now();
        runner.observe(arguments.request.seed.seed()?, arguments.request.steps, &mut |index| {
            let now = Instant::now();
            times[index].push((now - last).as_secs_f64() * 1e3);
            last = now;
        })?;
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let total: f64 = medians.iter().sum();
    let peak = peak(isa) * arguments.threads as f64;
    let mut copies = Copies::default();

    let mut text = format!(
        "{:<28} {:>12} {:>9} {:>7} {:>10} {:>8} {:>10} {:>7} {:>7}\n",
        "node", "output", "ms", "share", "MMAC", "GMAC/s", "KB", "GB/s", "roof"
    );
    let mut rows = Vec::new();
    for (node, &ms) in model.nodes().zip(&medians) {
        let (macs, bytes, share) = (node.macs(), moved(&node), ms / total);
        let (rate, bandwidth) = (macs as f64 / ms / 1e6, bytes as f64 / ms / 1e6);
        let (name, shape) = (node.name(), node.shape().to_string());
        text += &format!("{name:<28} {shape:>12} {ms:>9.4} {:>5.1} %", 100.0 * share);
        text += &match macs {
            0 => format!(" {:>19}", ""),
            _ => format!(" {:>10.2} {rate:>8.1}", macs as f64 / 1e6),
        };
        text += &format!(" {:>10.1} {bandwidth:>7.1}", bytes as f64 / 1024.0);
        let op = format!("{:?}", node.op());
        let mut row = json!({
            "name": name, "op": op, "ms": ms, "share": share, "macs": macs, "gmacs_per_s": rate, "of_peak": rate / peak,
            "bytes": bytes, "gbytes_per_s": bandwidth,
        });
        // The least time that the sums take, and that the bytes do.
        if model.weights() != Dtype::I8 {
            let sums = products(&node) as f64 / peak / 1e6;
            let bytes = bytes as f64 / copies.rate(bytes) / arguments.threads as f64 / 1e6;
            let (roof, limit) = (sums.max(bytes) / ms, if sums > bytes { "sums" } else { "bytes" });
            text += &format!(" {:>5.0} % {limit}", 100.0 * roof);
            (row["of_roof"], row["limit"]) = (json!(roof), json!(limit));
        }
        text += "\n";
        rows.push(row);
    }
    let macs: u64 = model.nodes().map(|node| node.macs()).sum();
    let rate = macs as f64 / total / 1e6;
    text += &format!(
        "{:<28} {:>12} {total:>9.4} {:>7} {:>10.2} {rate:>8.1}\n\
         The peak of f32, {peak:.1} GMAC/s, was measured. The roof is the time that a node's products take at this peak, of \
         which Winograd's\nmethod has fewer than MMAC says, or that its inputs, weights and output take if they move as fast \
         as in a copy of so many bytes.",
        "all",
        "",
        "",
        macs as f64 / 1e6,
    );
    let mut result = json!({
        "ms": total, "macs": macs, "gmacs_per_s": rate, "peak_gmacs_per_s": peak, "nodes": rows,
    });
    describe(arguments, runner, &mut result);
    Ok((text, result))
}

/// Adds to a measurement what was measured.
fn describe(arguments: &Arguments, runner: &Runner<'_, '_, '_>, result: &mut Value) {
    let model = runner.model();
    result["seed"] = arguments.request.seed.json();
    result["steps"] = json!(arguments.request.steps);
    result["threads"] = json!(arguments.threads);
    result["isa"] = json!(runner.isa().name());
    result["arena_bytes"] = json!(model.arena_bytes());
    result["weights_bytes"] = json!(model.weights_bytes());
}

/// Bytes that a node reads and writes: its inputs, parameters and output.
fn moved(node: &Node<'_>) -> u64 {
    let of_value = |node: &Node<'_>| node.shape().elements() * node.element_bytes();
    let weight = match node.weight(0) {
        Weights::F32(weight) => size_of_val(weight),
        Weights::F16(weight) => size_of_val(weight),
    };
    let parameters = weight + node.panels().len() + size_of_val(node.bias(0));
    (node.inputs().map(|input| of_value(&input)).sum::<usize>() + parameters + of_value(node)) as u64
}

/// Multiply-adds of a node by its method.
fn products(node: &Node<'_>) -> u64 {
    let (Op::Conv2d { out, method, .. }, Some(input)) = (node.op(), node.inputs().next()) else {
        return node.macs();
    };
    match Winograd::new(method, input.shape(), out) {
        Some(sizes) => (sizes.points().pow(2) * sizes.tiles() * sizes.channels * sizes.out) as u64,
        None => node.macs(),
    }
}

/// Bytes that a copy reads and writes on one thread, in 10⁹ a second, by the power of two of their number.
#[derive(Default)]
struct Copies(BTreeMap<u64, f64>);

impl Copies {
    fn rate(&mut self, bytes: u64) -> f64 {
        let bytes = bytes.next_power_of_two().max(1024);
        *self.0.entry(bytes).or_insert_with(|| {
            let (from, mut to) = (vec![1u8; bytes as usize / 2], vec![0u8; bytes as usize / 2]);
            let rounds = 1 + (1 << 22) / bytes;
            let rate = |_| {
                let start = Instant::now();
                for _ in 0..rounds {
                    to.copy_from_slice(black_box(&from));
                    black_box(&mut to);
                }
                (bytes * rounds) as f64 / start.elapsed().as_secs_f64() / 1e9
            };
            (0..5).map(rate).fold(0.0, f64::max)
        })
    }
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

/// An IDX file of pictures: bytes in three dimensions, or in four, channel by channel, where pictures have channels.
fn idx(shape: Shape, count: u32, bytes: &[u8]) -> Vec<u8> {
    let sizes = [count, shape.channels.into(), shape.height.into(), shape.width.into()];
    let sizes = sizes.iter().enumerate().filter(|&(place, _)| place != 1 || shape.channels > 1);
    let sizes: Vec<u32> = sizes.map(|(_, &size)| size).collect();
    let header = [0x0800 + sizes.len() as u32].into_iter().chain(sizes).flat_map(u32::to_be_bytes);
    let channels = usize::from(shape.channels);
    let planes = bytes.chunks_exact(shape.elements()).flat_map(|picture| {
        (0..channels).flat_map(move |channel| picture.iter().skip(channel).step_by(channels))
    });
    header.chain(planes.copied()).collect()
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

    /// Puts the bytes of pictures, each by row, column and channel, into their places.
    fn put(&mut self, bytes: &[u8]) {
        for (index, picture) in bytes.chunks_exact(self.shape.elements()).enumerate() {
            self.put_picture(index, picture);
        }
    }

    fn put_picture(&mut self, index: usize, picture: &[u8]) {
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
