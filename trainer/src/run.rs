//! The loop that every training shares, and the folder that it keeps.
//!
//! A run folder has `config.toml` (as resolved), `log.jsonl` (a line a step: losses, gradient norm, learning rate),
//! `samples-N.png`, where a student starts from a teacher `initial.txt` (which weights are the teacher's), and
//! `state.safetensors`, from which a run that was interrupted goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use traflow_graph::checkpoint::{self, Precision, Texts};
use traflow_graph::file;

use crate::device;
use crate::flow::Dice;
use crate::network::Network;
use crate::optimiser::{Optimiser, OptimiserConfig};

/// After so many steps in a row without a finite gradient a training ends.
const PATIENCE: usize = 20;

/// Steps between what a run writes down.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intervals {
    /// Steps between states to resume from.
    #[serde(default = "state_steps")]
    pub state_steps: usize,
    /// Steps between grids of samples; 0 for none.
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

/// One loss of a step.
pub struct Term {
    /// Name in the log.
    pub name: &'static str,
    /// Factor in the sum.
    pub weight: f32,
    /// Mean over pixels and pictures.
    pub loss: Tensor<1>,
}

/// What a batch, or a part of it, says to the weights.
struct Signal {
    /// The losses by name.
    terms: Vec<(&'static str, f32)>,
    /// Of the weighted sum of the losses; an element a parameter.
    gradients: Vec<Option<Tensor<4>>>,
}

impl Signal {
    /// Computes the losses of some pictures and their gradient.
    fn new(
        optimiser: &Optimiser,
        dice: &Dice,
        losses: &impl Fn(&Network, &Optimiser, &Dice) -> Vec<Term>,
    ) -> Result<Self> {
        // Parts have parameters of their own: Burn goes back through graphs that share a tensor one after another.
        let network = optimiser.network.tracked();
        let terms = losses(&network, optimiser, dice);
        let values = terms.iter().map(|term| (term.name, term.loss.clone().inner().into_scalar::<f32>()));
        let values = values.collect();
        let total = terms.into_iter().map(|term| term.loss * term.weight).reduce(|a, b| a + b);
        let gradients = network.gradients(&total.context("a step without losses")?.backward());
        Ok(Self { terms: values, gradients })
    }

    /// The mean over equal parts.
    fn mean(parts: Vec<Self>) -> Result<Self> {
        let share = 1.0 / parts.len() as f32;
        let sum = parts.into_iter().reduce(|mut sum, part| {
            sum.terms.iter_mut().zip(part.terms).for_each(|(sum, part)| sum.1 += part.1);
            for (sum, part) in sum.gradients.iter_mut().zip(part.gradients) {
                *sum = match (sum.take(), part) {
                    (Some(a), Some(b)) => Some(a + b),
                    (a, b) => a.or(b),
                };
            }
            sum
        });
        let Self { terms, gradients } = sum.context("a step without pictures")?;
        Ok(Self {
            terms: terms.into_iter().map(|(name, sum)| (name, sum * share)).collect(),
            gradients: gradients.into_iter().map(|sum| sum.map(|sum| sum * share)).collect(),
        })
    }
}

/// What a step of a training shows.
pub struct Progress {
    /// Number of the step, from 1.
    pub step: usize,
    /// Number of all steps.
    pub steps: usize,
    /// The losses by name.
    pub terms: Vec<(&'static str, f32)>,
}

/// Where a run stands on disk.
pub struct Run {
    folder: PathBuf,
    config: String,
    intervals: Intervals,
    resume: bool,
}

impl Run {
    /// Opens a run folder; `config` is the resolved configuration.
    ///
    /// # Errors
    /// Where the folder cannot be made, or holds a run that is not to be resumed, or one of another configuration.
    pub fn open(folder: &Path, config: &impl Serialize, intervals: Intervals, resume: bool) -> Result<Self> {
        ensure!(intervals.state_steps > 0, "state_steps is 0");
        let config = toml::to_string(config)?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join("config.toml");
        if resume && path.exists() {
            let found = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            ensure!(found == config, "{}: the run to resume has another configuration", path.display());
        } else {
            let state = folder.join("state.safetensors");
            if state.exists() && !resume {
                bail!("{}: there is a run already; --resume it, or choose another folder", state.display());
            }
            file::write(&path, config.as_bytes()).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(Self { folder: folder.to_owned(), config, intervals, resume })
    }

    /// Writes a text into the folder.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn note(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        file::write(&path, text.as_bytes()).with_context(|| format!("writing {}", path.display()))
    }

    /// Trains from `start` and returns the moving average of the weights. `losses` is handed the network that is trained,
    /// tracked by autodiff, the optimiser with the same weights and their average, and the numbers of some pictures.
    ///
    /// # Errors
    /// Where the batch has no equal parts, the run folder cannot be written, or gradients stop being finite.
    pub fn train(
        &self,
        training: &Training<'_>,
        start: Network,
        losses: impl Fn(&Network, &Optimiser, &Dice) -> Vec<Term> + Sync,
        mut sample: impl FnMut(&Network, &Path) -> Result<()>,
        progress: &mut dyn FnMut(&Progress),
    ) -> Result<Network> {
        let &Training { seed, steps, batch, parts, optimiser } = training;
        ensure!(batch > 0, "batch is 0");
        ensure!(
            parts > 0 && batch.is_multiple_of(parts),
            "a batch of {batch} pictures has no {parts} equal parts"
        );
        let device = start.device();
        let mut optimiser = Optimiser::new(optimiser.clone(), steps, start);
        let state = self.folder.join("state.safetensors");
        if self.resume && state.exists() {
            self.restore(&mut optimiser, &state).with_context(|| format!("resuming {}", state.display()))?;
        }
        let mut log = self.log(optimiser.step)?;
        let mut failures = 0;
        while optimiser.step < steps {
            let dice = Dice::new(seed, optimiser.step, batch);
            let signals =
                device::for_each(&device, dice.parts(parts), |part| Signal::new(&optimiser, &part, &losses));
            let Signal { terms, gradients } = Signal::mean(signals.into_iter().collect::<Result<_>>()?)?;
            let update = optimiser.update(gradients);
            failures = if update.gradient_norm.is_finite() { 0 } else { failures + 1 };
            let mut line = Map::from_iter([("step".to_owned(), json!(optimiser.step))]);
            line.extend(terms.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
            line.insert("gradient_norm".to_owned(), json!(update.gradient_norm));
            line.insert("learning_rate".to_owned(), json!(update.learning_rate));
            writeln!(log, "{}", Value::Object(line)).context("writing log.jsonl")?;
            ensure!(
                failures < PATIENCE,
                "step {}: no finite gradient for {PATIENCE} steps; a lower learning rate may help",
                optimiser.step
            );
            let every = |interval: usize| interval > 0 && optimiser.step.is_multiple_of(interval);
            if every(self.intervals.sample_steps) || optimiser.step == steps {
                sample(&optimiser.average, &self.folder.join(format!("samples-{:06}.png", optimiser.step)))?;
            }
            if every(self.intervals.state_steps) || optimiser.step == steps {
                log.sync_data().context("writing log.jsonl")?;
                let texts = Texts::from([
                    ("step".to_owned(), optimiser.step.to_string()),
                    ("updates".to_owned(), optimiser.updates().to_string()),
                    ("config".to_owned(), self.config.clone()),
                ]);
                checkpoint::write_tensors(&state, &texts, &optimiser.state()?, Precision::F32)?;
            }
            progress(&Progress { step: optimiser.step, steps, terms });
        }
        Ok(optimiser.average)
    }

    fn restore(&self, optimiser: &mut Optimiser, path: &Path) -> Result<()> {
        let (texts, tensors) = checkpoint::read_tensors(path)?;
        let text = |key: &str| texts.get(key).with_context(|| format!("no {key} in its metadata"));
        ensure!(*text("config")? == self.config, "it is of another configuration");
        let (step, updates) = (text("step")?.parse()?, text("updates")?.parse()?);
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
