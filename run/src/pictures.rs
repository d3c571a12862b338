//! Makes pictures, writes them, and makes them again to see whether they are what a PNG file says.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use png::BitDepth;
use serde_json::Value;
use sha2::{Digest, Sha256};
use traflow_graph::file;
use traflow_runtime::Shape;

use crate::arguments::{Outputs, Request, Source};
use crate::grid::Grid;
use crate::measure::{median, milliseconds};
use crate::runner::Runner;
use crate::system::Aside;
use crate::{Report, lossy};

/// Keywords of the text in a PNG: the SHA-256 of the model file and that of the pictures' bytes, and how they were made. There is
/// a class where one was asked for.
const TEXTS: [&str; 6] =
    ["traflow:model", "traflow:picture", "traflow:seed", "traflow:count", "traflow:steps", "traflow:class"];

impl Request {
    /// The text of a PNG.
    fn texts(&self, model: &str, picture: &str) -> Vec<(&'static str, String)> {
        let values = [model.to_owned(), picture.to_owned()].into_iter();
        let values = values.chain([self.seed.to_string(), self.count.to_string(), self.steps.to_string()]);
        let values = values.chain(self.class.map(|class| class.to_string()));
        TEXTS.into_iter().zip(values).collect()
    }

    /// The same in JSON.
    pub(crate) fn entries(&self) -> Vec<(&'static str, Value)> {
        vec![
            ("seed", self.seed.json()),
            ("count", self.count.into()),
            ("steps", self.steps.into()),
            ("class", self.class.into()),
        ]
    }
}

/// The bytes of pictures, one after the other, each by row, column and channel, and the median of the milliseconds that one
/// takes.
struct Made {
    bytes: Vec<u8>,
    median: f64,
}

impl Made {
    fn new(runner: &mut Runner<'_, '_, '_>, request: Request) -> Result<Self> {
        let Request { seed, count, steps, .. } = request;
        ensure!(
            count == 1 || matches!(seed, Source::Seed(_)),
            "a point between seeds is one picture, not {count}"
        );
        let (mut times, mut bytes) = (Vec::new(), Vec::new());
        for index in 0..count {
            let start = Instant::now();
            let picture = runner.picture(seed.next(index), steps)?;
            times.push(milliseconds(start));
            bytes.extend(picture);
        }
        Ok(Self { bytes, median: median(&mut times) })
    }
}

/// Makes pictures, and writes them where that was asked for.
pub(crate) fn make(
    request: Request,
    outputs: &Outputs,
    runner: &mut Runner<'_, '_, '_>,
    model: Option<Aside<'_, String>>,
) -> Result<Report> {
    let Request { seed, count, .. } = request;
    let sizes = runner.model();
    let shape = sizes.image().shape();
    let grid = outputs.grid.as_ref().map(|_| Grid::new(shape, count as usize)).transpose()?;
    let Made { bytes, median } = Made::new(runner, request)?;
    let model = &model.map(Aside::result).unwrap_or_default();
    let path = |path: &Option<_>| path.as_deref().map_or(Value::Null, lossy);
    let mut lines = Vec::new();
    let mut entries = request.entries();
    entries.extend([
        ("model_digest", model.as_str().into()),
        ("ms_per_image", median.into()),
        ("arena_bytes", sizes.arena_bytes().into()),
        ("weights_bytes", sizes.weights_bytes().into()),
        ("output", path(&outputs.grid)),
        ("pictures", path(&outputs.pictures)),
    ]);
    if outputs.digest {
        let digests: Vec<String> = bytes.chunks_exact(shape.elements()).map(hex).collect();
        let seeds = (0..).map(|index| seed.next(index));
        lines.extend(digests.iter().zip(seeds).map(|(digest, seed)| format!("{digest}  seed {seed}")));
        entries.push(("digests", digests.into()));
    }
    let mut written =
        |path: &Path| lines.push(format!("{}: {count} pictures, {median:.2} ms each", path.display()));
    if let (Some(path), Some(mut grid)) = (&outputs.grid, grid) {
        grid.put(&bytes);
        let png = grid.png(&request.texts(model, &hex(&bytes)))?;
        file::write(path, &png).with_context(|| format!("writing {}", path.display()))?;
        written(path);
    }
    if let Some(path) = &outputs.pictures {
        let idx = idx(shape, count, &bytes);
        file::write(path, &idx).with_context(|| format!("writing {}", path.display()))?;
        written(path);
    }
    Ok(Report { text: lines.join("\n"), entries })
}

/// Makes the pictures of a PNG again; an error says what differs.
pub(crate) fn verify(runner: &mut Runner<'_, '_, '_>, path: &Path, model_digest: &str) -> Result<Request> {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let find = |keyword: &str| -> Option<&str> {
        let mut texts = reader.info().uncompressed_latin1_text.iter();
        texts.find(|text| text.keyword == keyword).map(|text| &*text.text)
    };
    let text = |keyword: &str| find(keyword).with_context(|| format!("it has no text {keyword}"));
    let [model, _, seed, count, steps, class] = TEXTS;
    let made_by = text(model)?;
    ensure!(made_by == model_digest, "it names the model {made_by:?}, and this is {model_digest}");
    let request = Request {
        seed: text(seed)?.parse().context("its seed")?,
        count: text(count)?.parse().context("its count")?,
        steps: text(steps)?.parse().context("its steps")?,
        class: find(class).map(str::parse).transpose().context("its class")?,
    };
    ensure!((1..=65_536).contains(&request.count), "its count is not from 1 to 65,536");
    let mut grid = Grid::new(runner.model().image().shape(), request.count as usize)?;
    let size = (reader.info().width as usize, reader.info().height as usize);
    let format = (reader.info().color_type, reader.info().bit_depth);
    ensure!(
        size == (grid.width, grid.height) && format == (grid.color(), BitDepth::Eight),
        "it has another size or format than the model's pictures"
    );
    let mut pixels = vec![0; reader.output_buffer_size().context("its size")?];
    reader.next_frame(&mut pixels)?;
    runner.set_class(request.class)?;
    grid.put(&Made::new(runner, request)?.bytes);
    ensure!(pixels == grid.bytes, "its pixels are not those that the model makes");
    Ok(request)
}

/// The SHA-256 of bytes.
pub(crate) fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
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
