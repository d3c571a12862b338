//! What the program is asked to do.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail, ensure};
use lexopt::{Arg, Parser, ValueExt};
use serde_json::Value;
use traflow_runtime::Mix;

const HELP: &str = include_str!("help.txt");

/// Options that say what to do, of which there is one; those of [`PICTURES`] may come together.
const TASKS: [&str; 7] =
    ["--output", "--pictures", "--digest", "--self-test", "--verify", "--bench", "--profile"];
const PICTURES: usize = 3;

/// Options that mean nothing to others.
const APART: [(&str, &[&str]); 4] = [
    ("--verify", &["--seed", "--count", "--steps", "--class"]),
    ("--self-test", &["--seed", "--count", "--steps", "--class"]),
    ("--bench", &["--count"]),
    ("--profile", &["--count"]),
];

/// The program's arguments.
pub(crate) struct Arguments {
    pub(crate) model: PathBuf,
    pub(crate) request: Request,
    pub(crate) threads: usize,
    pub(crate) json: bool,
    pub(crate) task: Task,
}

/// Which pictures.
#[derive(Clone, Copy)]
pub(crate) struct Request {
    pub(crate) seed: Source,
    pub(crate) count: u32,
    pub(crate) steps: usize,
    pub(crate) class: Option<usize>,
}

/// What to do.
pub(crate) enum Task {
    Pictures(Outputs),
    SelfTest,
    Verify(PathBuf),
    Bench,
    Profile,
}

/// What becomes of pictures.
#[derive(Default)]
pub(crate) struct Outputs {
    pub(crate) grid: Option<PathBuf>,
    pub(crate) pictures: Option<PathBuf>,
    pub(crate) digest: bool,
}

/// What is asked for: work, or a text.
pub(crate) enum Command {
    Run(Arguments),
    Print(&'static str),
}

/// Reads the arguments of the program.
///
/// # Errors
/// What is wrong with them, in one line.
pub(crate) fn parse() -> Result<Command> {
    let mut parser = Parser::from_env();
    let mut given: Vec<&str> = Vec::new();
    let (mut model, mut threads) = (None, 1);
    let mut request = Request { seed: Source::Seed(0), count: 1, steps: 1, class: None };
    let (mut outputs, mut image) = (Outputs::default(), None);
    while let Some(argument) = parser.next()? {
        let option = match argument {
            Arg::Short('h') | Arg::Long("help") => return Ok(Command::Print(HELP.trim_end())),
            Arg::Short('V') | Arg::Long("version") => {
                return Ok(Command::Print(concat!("traflow-run ", env!("CARGO_PKG_VERSION"))));
            }
            Arg::Value(path) => {
                ensure!(model.is_none(), "{} is one model file too many", path.to_string_lossy());
                model = Some(PathBuf::from(path));
                continue;
            }
            Arg::Long("model") => {
                ensure!(model.is_none(), "--model is one model file too many");
                model = Some(parser.value()?.into());
                "--model"
            }
            Arg::Long("seed") => {
                request.seed = of("--seed", parser.value()?, str::parse)?;
                "--seed"
            }
            Arg::Long("count") => {
                request.count = of("--count", parser.value()?, |text| number(text, 1, 65_536))? as u32;
                "--count"
            }
            Arg::Long("steps") => {
                request.steps =
                    of("--steps", parser.value()?, |text| number(text, 0, u32::MAX.into()))? as usize;
                "--steps"
            }
            Arg::Long("class") => {
                let number = of("--class", parser.value()?, |text| number(text, 0, u32::MAX.into()))?;
                request.class = Some(number as usize);
                "--class"
            }
            Arg::Long("threads") => {
                threads = of("--threads", parser.value()?, |text| number(text, 1, 256))? as usize;
                "--threads"
            }
            Arg::Short('o') | Arg::Long("output") => {
                outputs.grid = Some(parser.value()?.into());
                "--output"
            }
            Arg::Long("pictures") => {
                outputs.pictures = Some(parser.value()?.into());
                "--pictures"
            }
            Arg::Long("digest") => "--digest",
            Arg::Long("self-test") => "--self-test",
            Arg::Long("verify") => {
                image = Some(parser.value()?.into());
                "--verify"
            }
            Arg::Long("bench") => "--bench",
            Arg::Long("profile") => "--profile",
            Arg::Long("json") => "--json",
            other => return Err(other.unexpected().into()),
        };
        ensure!(!given.contains(&option), "{option} is there twice");
        given.push(option);
    }

    let tasks: Vec<&str> = TASKS.into_iter().filter(|task| given.contains(task)).collect();
    for (place, task) in tasks.iter().enumerate() {
        let others = &tasks[place + 1..];
        if let Some(other) = others.iter().find(|other| !TASKS[..PICTURES].contains(other)) {
            bail!("{task} and {other} do not go together");
        }
        for (_, others) in APART.iter().filter(|(apart, _)| apart == task) {
            if let Some(other) = others.iter().find(|other| given.contains(other)) {
                bail!("{task} and {other} do not go together");
            }
        }
    }
    outputs.digest = given.contains(&"--digest");
    let task = match (tasks.last(), image) {
        (None, _) => bail!("one of {} is needed", TASKS.join(", ")),
        (Some(_), Some(image)) => Task::Verify(image),
        (Some(&"--self-test"), _) => Task::SelfTest,
        (Some(&"--bench"), _) => Task::Bench,
        (Some(&"--profile"), _) => Task::Profile,
        (Some(_), _) => Task::Pictures(outputs),
    };
    let model = model.context("no model file is given")?;
    Ok(Command::Run(Arguments { model, request, threads, json: given.contains(&"--json"), task }))
}

/// The value of an option.
fn of<T>(option: &str, value: OsString, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    let text = value.string()?;
    parse(&text).map_err(|error| anyhow!("{option} {text}: {error}"))
}

/// A whole number of a range.
fn number(text: &str, least: u64, most: u64) -> Result<u64> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.with_context(|| format!("it is no whole number from {least} to {most}"))
}

/// What a picture starts from.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    Seed(u64),
    /// Seeds and a point between them, as [`Mix`] takes them.
    Between([u64; 4], [u16; 2]),
}

impl Source {
    /// The seed of a picture by its place in the grid.
    pub(crate) fn next(self, index: u32) -> Self {
        match self {
            Self::Seed(seed) => Self::Seed(seed.wrapping_add(index.into())),
            between => between,
        }
    }

    pub(crate) fn seed(self) -> Result<u64> {
        match self {
            Self::Seed(seed) => Ok(seed),
            Self::Between(..) => bail!("a measurement takes one seed, and not a point between seeds"),
        }
    }

    pub(crate) fn json(self) -> Value {
        match self {
            Self::Seed(seed) => seed.into(),
            between => between.to_string().into(),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed(seed) => seed.fmt(f),
            Self::Between([a, b, c, d], [x, y]) => write!(f, "{a},{b},{c},{d}@{x},{y}"),
        }
    }
}

impl FromStr for Source {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((seeds, at)) = text.split_once('@') else {
            return Ok(Self::Seed(
                text.parse().context("it is no whole number from 0 to 2^64 - 1, nor A,B,C,D@X,Y")?,
            ));
        };
        Ok(Self::Between(numbers(seeds, u64::MAX)?, numbers(at, Mix::SIDE.into())?.map(|place| place as u16)))
    }
}

/// So many numbers with commas between them.
fn numbers<const N: usize>(text: &str, most: u64) -> Result<[u64; N]> {
    let numbers = text.split(',').map(|number| number.parse().ok().filter(|&number| number <= most));
    let numbers: Option<Vec<u64>> = numbers.collect();
    let numbers = numbers.and_then(|numbers| <[u64; N]>::try_from(numbers).ok());
    numbers
        .with_context(|| format!("{text} is not {N} whole numbers from 0 to {most} with commas between them"))
}
