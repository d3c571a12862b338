//! The loop that every training shares, and the folder that it keeps.
//!
//! A run folder has `config.toml` (as resolved), `log.jsonl` (a line a step: each loss and the norm of its
//! gradient, the norm of the whole gradient before it was clipped, the learning rate),
//! `samples-N.png`, where a student starts from a teacher `initial.txt` (which weights are the teacher's), and
//! `state.safetensors`, from which a run that was interrupted goes on.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use traflow_graph::checkpoint::{self, Precision, Texts};
use traflow_graph::file;

use crate::device;
use crate::flow::Dice;
use crate::network::Network;
use crate::optimiser::{self, Optimiser, OptimiserConfig, Update};

/// After so many steps in a row without a finite gradient a training ends.
const PATIENCE: usize = 20;

/// Steps between what a run writes down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// Steps between states to resume from.
    #[serde(default = "state_steps")]
    pub state_steps: usize,
    /// Steps between grids of samples, besides one at the end; 0 for none at all.
    #[serde(default = "sample_steps")]
    pub sample_steps: usize,
}

fn state_steps() -> usize {
    500
}

fn sample_steps() -> usize {
    1000
}

impl Default for Intervals {
    fn default() -> Self {
        Self { state_steps: state_steps(), sample_steps: sample_steps() }
    }
}

/// The numbers of a training.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    /// Names everything random in the run.
    pub seed: u64,
    /// Number of steps.
    pub steps: usize,
    /// Pictures a step.
    pub batch: usize,
    /// Equal parts that the batch is computed in: side by side on a CPU, where two are faster than one; one after
    /// another on a GPU, in less memory. It changes how sums are rounded, nothing else.
    pub parts: usize,
    /// How the weights are moved.
    pub optimiser: &'a OptimiserConfig,
}

/// The batch is computed as a whole.
pub(crate) fn one_part() -> usize {
    1
}

/// # Errors
/// Where a batch has no pictures or no such parts, or dropout or the optimiser is not within its range.
pub(crate) fn check(batch: usize, parts: usize, dropout: f32, optimiser: &OptimiserConfig) -> Result<()> {
    ensure!(batch > 0, "batch is 0");
    ensure!(
        parts > 0 && batch.is_multiple_of(parts),
        "a batch of {batch} pictures has no {parts} equal parts"
    );
    ensure!((0.0..1.0).contains(&dropout), "dropout is {dropout}, not in [0, 1)");
    optimiser.check()
}

/// One loss of a step.
pub struct Term {
    /// Name in the log.
    pub name: &'static str,
    /// Factor in the sum.
    pub weight: f32,
    /// Mean over pixels and pictures.
    pub loss: Tensor<1>,
}

/// Hands over the losses of some pictures, each before the next is computed, so that one is in memory at a time. It is given
/// the network that is trained, tracked by autodiff, the optimiser with the same weights and their average, and the numbers
/// of the pictures.
pub trait Losses: Fn(&Network, &Optimiser, &Dice, &mut dyn FnMut(Term)) + Sync {}

impl<F: Fn(&Network, &Optimiser, &Dice, &mut dyn FnMut(Term)) + Sync> Losses for F {}

/// What a batch, or a part of it, says to the weights by one loss.
struct Signal {
    name: &'static str,
    weight: f32,
    loss: f32,
    /// Of the loss without its weight; an element a parameter, none where the loss does not depend on it.
    gradients: Vec<Option<Tensor<4>>>,
}

impl Signal {
    /// Computes the losses of some pictures and their gradients. Each loss goes back by itself, since losses share nothing
    /// but the parameters.
    fn all(optimiser: &Optimiser, dice: &Dice, losses: &impl Losses) -> Vec<Self> {
        // Parts have parameters of their own: Burn goes back through graphs that share a tensor one after another.
        let network = optimiser.network.tracked();
        let mut signals = Vec::new();
        losses(&network, optimiser, dice, &mut |Term { name, weight, loss }| {
            signals.push(Signal {
                name,
                weight,
                loss: loss.clone().inner().into_scalar::<f32>(),
                gradients: network.gradients(&loss.backward()),
            });
        });
        signals
    }

    /// The mean over equal parts.
    fn mean(parts: Vec<Vec<Self>>) -> Vec<Self> {
        let share = 1.0 / parts.len() as f32;
        let sum = parts.into_iter().reduce(|mut sums, part| {
            for (sum, part) in sums.iter_mut().zip(part) {
                sum.loss += part.loss;
                add(&mut sum.gradients, part.gradients);
            }
            sums
        });
        let mut signals = sum.unwrap_or_default();
        for signal in &mut signals {
            signal.loss *= share;
            scale(&mut signal.gradients, share);
        }
        signals
    }

    /// The gradient of the weighted sum.
    fn total(signals: Vec<Self>) -> Result<Vec<Option<Tensor<4>>>> {
        let weighted = signals.into_iter().map(|mut signal| {
            scale(&mut signal.gradients, signal.weight);
            signal.gradients
        });
        let total = weighted.reduce(|mut total, gradients| {
            add(&mut total, gradients);
            total
        });
        total.context("a step without losses")
    }
}

fn add(sums: &mut [Option<Tensor<4>>], gradients: Vec<Option<Tensor<4>>>) {
    for (sum, gradient) in sums.iter_mut().zip(gradients) {
        *sum = match (sum.take(), gradient) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
    }
}

fn scale(gradients: &mut [Option<Tensor<4>>], factor: f32) {
    if factor != 1.0 {
        gradients.iter_mut().for_each(|gradient| *gradient = gradient.take().map(|g| g * factor));
    }
}

/// What a step says of one of its losses.
pub struct Heard {
    /// Name in the log.
    pub name: &'static str,
    /// Mean over pixels and pictures.
    pub loss: f32,
    /// Norm of the gradient of the loss, without its weight.
    pub gradient_norm: f32,
}

/// Moves the weights once, by the losses of a batch that is computed in equal parts.
///
/// # Errors
/// Where there are no losses.
pub fn step(
    optimiser: &mut Optimiser,
    dice: &Dice,
    parts: usize,
    losses: &impl Losses,
) -> Result<(Vec<Heard>, Update)> {
    let (device, of_step) = (optimiser.network.device(), &*optimiser);
    let signals = device::for_each(&device, dice.parts(parts), |part| Signal::all(of_step, &part, losses));
    let signals = Signal::mean(signals);
    let heard = |signal: &Signal| Heard {
        name: signal.name,
        loss: signal.loss,
        gradient_norm: optimiser::norm(&signal.gradients),
    };
    let heard = signals.iter().map(heard).collect();
    Ok((heard, optimiser.update(Signal::total(signals)?)))
}

/// What a training leaves.
pub struct Trained {
    /// The moving average of the weights.
    pub average: Network,
    /// The second one, where the configuration has `second_ema`.
    pub second: Option<Network>,
}

/// What a step of a training shows.
pub struct Progress {
    /// Number of the step, from 1.
    pub step: usize,
    /// The losses by name.
    pub terms: Vec<(&'static str, f32)>,
}

/// Where a run stands on disk.
pub struct Run {
    folder: PathBuf,
    config: String,
    sources: Sources,
    intervals: Intervals,
    resume: bool,
}

/// What a run learns from, by name: digests and counts. A run is resumed from the same alone.
pub type Sources = BTreeMap<String, String>;

impl Run {
    /// Opens a run folder; `config` is the resolved configuration.
    ///
    /// # Errors
    /// Where the folder cannot be made, or holds a run that is not to be resumed, or one of another configuration or
    /// that learned from something else.
    pub fn open(
        folder: &Path,
        config: &impl Serialize,
        sources: Sources,
        intervals: Intervals,
        resume: bool,
    ) -> Result<Self> {
        ensure!(intervals.state_steps > 0, "state_steps is 0");
        let config = toml::to_string(config)?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let run = Self { folder: folder.to_owned(), config, sources, intervals, resume };
        let state = run.state();
        if state.exists() {
            ensure!(
                resume,
                "{}: there is a run already; --resume it, or choose another folder",
                state.display()
            );
            let (texts, _) = checkpoint::read_tensors(&state)?;
            run.is_that_of(&texts).with_context(|| format!("resuming {}", state.display()))?;
        }
        run.note("config.toml", &run.config)?;
        Ok(run)
    }

    /// Where the state is.
    fn state(&self) -> PathBuf {
        self.folder.join("state.safetensors")
    }

    /// # Errors
    /// Where the state with these texts is of another configuration, or learned from something else.
    fn is_that_of(&self, texts: &Texts) -> Result<()> {
        ensure!(
            of_weights(text(texts, "config")?)? == of_weights(&self.config)?,
            "it is of another configuration"
        );
        let found: Sources = serde_json::from_str(text(texts, "sources")?)?;
        for name in found.keys().chain(self.sources.keys()) {
            let [found, of_run] =
                [&found, &self.sources].map(|of| of.get(name).map_or("none", String::as_str));
            ensure!(found == of_run, "it learned from other {name}: {found}, not {of_run}");
        }
        Ok(())
    }

    /// Writes a text into the folder.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        file::write(&path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
    }

    /// Trains from `start` and returns the moving averages of the weights.
    ///
    /// # Errors
    /// Where the run folder cannot be written, or gradients stop being finite.
    pub fn train(
        &self,
        training: &Training<'_>,
        start: Network,
        losses: impl Losses,
        mut sample: impl FnMut(&Network, &Path) -> Result<()>,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Trained> {
        let &Training { seed, steps, batch, parts, optimiser } = training;
        let mut optimiser = Optimiser::new(optimiser.clone(), steps, start);
        let state = self.state();
        if self.resume && state.exists() {
            self.restore(&mut optimiser, &state).with_context(|| format!("resuming {}", state.display()))?;
        }
        let mut log = self.log(optimiser.step)?;
        let mut failures = 0;
        while optimiser.step < steps {
            let dice = Dice::new(seed, optimiser.step, batch);
            let (heard, update) = step(&mut optimiser, &dice, parts, &losses)?;
            failures = if update.gradient_norm.is_finite() { 0 } else { failures + 1 };
            let mut line = Map::from_iter([("step".to_owned(), json!(optimiser.step))]);
            for Heard { name, loss, gradient_norm } in &heard {
                line.insert((*name).to_owned(), json!(loss));
                line.insert(format!("{name}_gradient_norm"), json!(gradient_norm));
            }
            line.insert("gradient_norm".to_owned(), json!(update.gradient_norm));
            line.insert("learning_rate".to_owned(), json!(update.learning_rate));
            writeln!(log, "{}", Value::Object(line)).context("writing log.jsonl")?;
            ensure!(
                failures < PATIENCE,
                "step {}: no finite gradient for {PATIENCE} steps; a lower learning rate may help",
                optimiser.step
            );
            let every = |interval: usize| optimiser.step.is_multiple_of(interval) || optimiser.step == steps;
            // Before the samples: what keeps them from being drawn loses no step.
            if every(self.intervals.state_steps) {
                log.sync_data().context("writing log.jsonl")?;
                let texts = Texts::from([
                    ("step".to_owned(), optimiser.step.to_string()),
                    ("updates".to_owned(), optimiser.updates().to_string()),
                    ("config".to_owned(), self.config.clone()),
                    ("sources".to_owned(), serde_json::to_string(&self.sources)?),
                ]);
                checkpoint::write_tensors(&state, &texts, &optimiser.state()?, Precision::F32)?;
            }
            if self.intervals.sample_steps > 0 && every(self.intervals.sample_steps) {
                let path = self.folder.join(format!("samples-{:06}.png", optimiser.step));
                sample(&optimiser.average, &path)
                    .with_context(|| format!("drawing {}; sample_steps = 0 draws none", path.display()))?;
            }
            let terms = heard.iter().map(|heard| (heard.name, heard.loss)).collect();
            progress(&Progress { step: optimiser.step, terms });
        }
        Ok(Trained { average: optimiser.average, second: optimiser.second })
    }

    fn restore(&self, optimiser: &mut Optimiser, path: &Path) -> Result<()> {
        let (texts, tensors) = checkpoint::read_tensors(path)?;
        let (step, updates) = (text(&texts, "step")?.parse()?, text(&texts, "updates")?.parse()?);
        optimiser.restore(step, updates, &tensors)
    }

    /// The log, with what a resumed run will do again taken off its end.
    fn log(&self, step: usize) -> Result<File> {
        let path = self.folder.join("log.jsonl");
        let context = || format!("writing {}", path.display());
        let mut kept = Vec::new();
        if step > 0
            && let Ok(found) = File::open(&path)
        {
            for line in BufReader::new(found).lines().take(step) {
                kept.extend(line.with_context(context)?.into_bytes());
                kept.push(b'\n');
            }
        }
        file::write(&path, &kept).with_context(context)?;
        OpenOptions::new().append(true).open(&path).with_context(context)
    }
}

/// What the weights depend on in a configuration: not what is written down, nor the parts of a batch, which only round sums
/// otherwise.
fn of_weights(config: &str) -> Result<toml::Table> {
    let mut config: toml::Table = toml::from_str(config)?;
    for key in ["intervals", "parts"] {
        config.remove(key);
    }
    Ok(config)
}

/// A text of a state's metadata.
fn text<'t>(texts: &'t Texts, key: &str) -> Result<&'t String> {
    texts.get(key).with_context(|| format!("no {key} in its metadata"))
}
