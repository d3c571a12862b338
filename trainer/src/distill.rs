//! Distillation of a student in stages, each a weighted sum of losses (eq. 12); `loss` has their formulas.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use burn::tensor::{Device, Tensor};
use serde::de::Error as _;
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::{Table, Value};
use traflow_graph::checkpoint::Checkpoint;
use traflow_graph::coefficient::Level;
use traflow_graph::formats::Formats;
use traflow_graph::unet::{SConditioning, Unet};

use crate::data::Images;
use crate::flow::Dice;
use crate::initial;
use crate::loss::lpips::{self, Lpips};
use crate::loss::{Context, Divergence, Objective, Pair};
use crate::network::{Dropout, Network};
use crate::optimiser::{Optimiser, OptimiserConfig};
use crate::pairs::Pairs;
use crate::run::{self, Intervals, Progress, Run, Term, Trained, Training};
use crate::sample::{Sampler, preview};
use crate::solver::Solver;

/// Configuration of a distillation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// Names everything random in the run.
    pub seed: u64,
    /// Pairs a step.
    pub batch: usize,
    /// Equal parts of a batch, see [`Training`].
    #[serde(default = "run::one_part")]
    pub parts: usize,
    /// The student's weights at the start.
    #[serde(default)]
    pub initial: Initial,
    /// The student's network; the teacher's, told of s, where there is none.
    pub network: Option<Unet>,
    /// Part of the values that dropout makes zero in every block; the same in all evaluations of a step.
    #[serde(default)]
    pub dropout: f32,
    /// Whether pictures, and noise with them, are mirrored by chance.
    #[serde(default)]
    pub flips: bool,
    /// The optimiser.
    pub optimiser: OptimiserConfig,
    /// The networks of the divergence LPIPS.
    pub lpips: Option<lpips::Files>,
    /// What the run writes down.
    #[serde(default)]
    pub intervals: Intervals,
    /// Stages, one after the other (§5.2).
    #[serde(rename = "stage")]
    pub stages: Vec<Stage>,
}

/// Where the student's weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initial {
    /// The teacher's of the same name and shape; the networks are of one kind.
    #[default]
    Teacher,
    /// Random.
    Random,
}

/// A number of steps with one weighted sum of losses (eq. 12).
///
/// In a configuration each loss is a key: `output = 1.0`, or with options
/// `output = { weight = 1.0, divergence = "pseudo-huber" }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Number of steps.
    pub steps: usize,
    /// The losses.
    pub losses: Vec<Loss>,
}

/// An objective and its weight; one whose weight is 0 is not computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// Factor in the sum.
    pub weight: f64,
    /// What is computed.
    pub objective: Objective,
}

impl<'de> Deserialize<'de> for Stage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Table::deserialize(deserializer)?;
        let steps = table.remove("steps").ok_or_else(|| D::Error::missing_field("steps"))?;
        // These two also stand beside the losses that they are for.
        for (option, names) in [("midpoint", &["consistency"][..]), ("time", &["velocity", "reflow"])] {
            let Some(value) = table.remove(option) else { continue };
            let Some(name) = names.iter().find(|name| table.contains_key(**name)) else {
                return Err(D::Error::custom(format!("{option} stands beside no {}", names[0])));
            };
            let mut options = table.remove(*name).map(options).unwrap_or_default();
            options.insert(option.to_owned(), value);
            table.insert((*name).to_owned(), Value::Table(options));
        }
        let losses = table.into_iter().map(|(name, value)| {
            let mut options = options(value);
            let weight = options.remove("weight").map_or(Ok(1.0), Value::try_into)?;
            let objective = Table::from_iter([(name, Value::Table(options))]).try_into()?;
            Ok(Loss { weight, objective })
        });
        let losses =
            losses.collect::<Result<_, toml::de::Error>>().map_err(|e| D::Error::custom(e.message()))?;
        Ok(Stage { steps: steps.try_into().map_err(D::Error::custom)?, losses })
    }
}

/// The options of a loss; a number is its weight.
fn options(value: Value) -> Table {
    match value {
        Value::Table(options) => options,
        weight => Table::from_iter([("weight".to_owned(), weight)]),
    }
}

impl Serialize for Stage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1 + self.losses.len()))?;
        map.serialize_entry("steps", &self.steps)?;
        for Loss { weight, objective } in &self.losses {
            let named = Table::try_from(objective).map_err(S::Error::custom)?;
            for (name, options) in named {
                let mut options = self::options(options);
                options.insert("weight".to_owned(), Value::from(*weight));
                map.serialize_entry(&name, &options)?;
            }
        }
        map.end()
    }
}

impl DistillConfig {
    /// The student's network.
    pub fn student(&self, teacher: &Unet) -> Unet {
        let told = Unet { s_conditioning: SConditioning::TiedMean, ..teacher.clone() };
        self.network.clone().unwrap_or(told)
    }

    /// Number of steps of all stages.
    pub fn steps(&self) -> usize {
        self.stages.iter().map(|stage| stage.steps).sum()
    }

    /// The stage of a step, and the part of it that is over.
    fn stage(&self, step: usize) -> Option<(&Stage, f32)> {
        let mut first = 0;
        self.stages.iter().find_map(|stage| {
            let done = step - first;
            first += stage.steps;
            (step < first).then(|| (stage, done as f32 / stage.steps as f32))
        })
    }

    /// How the student makes pictures: by its map, or where no stage trains it, by the ODE of its velocity, as a teacher.
    pub fn sampler(&self) -> Sampler {
        let mut losses = self.stages.iter().filter(|stage| stage.steps > 0).flat_map(Stage::terms);
        if losses.all(|loss| loss.objective.is_velocity()) {
            Sampler::Ode(Solver::Heun, 12)
        } else {
            Sampler::Map(1)
        }
    }

    /// The stages as a table: steps, pictures and losses with their weights.
    pub fn schedule(&self) -> String {
        let mut lines = vec!["stage    steps    pictures  losses".to_owned()];
        for (number, stage) in (1..).zip(&self.stages) {
            let losses = stage.terms().map(|loss| format!("{} {}", loss.weight, loss.objective.name()));
            let losses = losses.collect::<Vec<_>>().join(" + ");
            lines.push(format!("{number:>5} {:>8} {:>11}  {losses}", stage.steps, stage.steps * self.batch));
        }
        lines.push(format!("  all {:>8} {:>11}", self.steps(), self.steps() * self.batch));
        lines.join("\n")
    }

    /// Whether a student of this teacher can be trained so.
    ///
    /// # Errors
    /// Names what cannot be, and why.
    pub fn check(&self, teacher: &Unet) -> Result<()> {
        run::check(self.batch, self.parts, self.dropout, &self.optimiser)?;
        let student = self.student(teacher);
        ensure!(
            student.s_conditioning != SConditioning::None,
            "the student's network is not told of s: set s_conditioning"
        );
        student.graph()?;
        if self.initial == Initial::Teacher {
            initial::check(&student, teacher)?;
        }
        ensure!(self.steps() > 0, "the stages have no steps");
        for (index, stage) in self.stages.iter().enumerate() {
            let number = index + 1;
            let losses = &stage.losses;
            ensure!(
                losses.iter().all(|l| l.weight.is_finite() && l.weight >= 0.0)
                    && losses.iter().any(|l| l.weight > 0.0),
                "stage {number}: a weight is negative, or all are 0"
            );
            ensure!(
                index > 0 || stage.terms().any(|loss| !loss.objective.is_degenerate()),
                "stage 1: consistency with the student itself alone is degenerate, the identity has no loss; \
                 set midpoint = \"teacher\" or add another loss"
            );
            // Its derivative is 0 nearly everywhere.
            let staircase = student.level == Level::Iddpm;
            let derivative = stage.terms().find(|loss| staircase && loss.objective.derives());
            if let Some(loss) = derivative {
                bail!(
                    "stage {number}: {} takes a derivative, which the network's level iddpm, a staircase, has not",
                    loss.objective.name()
                );
            }
            for loss in losses {
                let name = loss.objective.name();
                loss.objective.check().with_context(|| format!("stage {number}"))?;
                ensure!(
                    losses.iter().filter(|other| other.objective.name() == name).count() == 1,
                    "stage {number}: {name} is there twice, by two of its names"
                );
                if loss.objective.divergence() == Some(Divergence::Lpips) {
                    let images = student.image();
                    ensure!(
                        self.lpips.is_some(),
                        "stage {number}: {name} has the divergence lpips: name its networks in [lpips]"
                    );
                    ensure!(
                        lpips::judges(images),
                        "stage {number}: {name} has the divergence lpips, which judges no pictures of {images}"
                    );
                }
            }
        }
        Ok(())
    }
}

impl Stage {
    /// The losses that are computed.
    fn terms(&self) -> impl Iterator<Item = &Loss> {
        self.losses.iter().filter(|loss| loss.weight > 0.0)
    }
}

/// What a student learns from.
pub struct Lessons<'a> {
    /// The teacher.
    pub teacher: &'a Checkpoint,
    /// The teacher's pairs.
    pub pairs: &'a Pairs,
    /// Pictures of a data set, for objectives that take noise and pictures which are independent; where there are none, the
    /// teacher's pictures.
    pub images: Option<&'a Images>,
    /// The integers that the student is to be rounded to.
    pub formats: Option<&'a Arc<Formats>>,
}

/// Trains a student and returns the moving averages of its weights.
///
/// # Errors
/// Where configuration, teacher, pairs and pictures do not fit together, or the run folder cannot be written.
pub fn train(
    config: &DistillConfig,
    lessons: &Lessons<'_>,
    run: &Run,
    device: &Device,
    progress: &mut dyn FnMut(&Progress),
) -> Result<Trained> {
    let Lessons { teacher, pairs, images, formats } = *lessons;
    config.check(&teacher.unet)?;
    let unet = config.student(&teacher.unet);
    ensure!(
        unet.image() == pairs.shape,
        "the pairs are {}, the network's pictures {}",
        pairs.shape,
        unet.image()
    );
    if let Some(images) = images {
        let shape = images.shape();
        ensure!(unet.labels == 0, "the pictures of a data set come without classes, which the student has");
        ensure!(shape == pairs.shape, "the data set's pictures are {shape}, the pairs {}", pairs.shape);
    }
    if let Some(formats) = formats {
        formats.check(&unet.graph()?)?;
        let derivative = config.stages.iter().flat_map(Stage::terms).find(|loss| loss.objective.derives());
        if let Some(loss) = derivative {
            bail!("{} takes a derivative, which numbers that are rounded have not", loss.objective.name());
        }
    }
    let start = match config.initial {
        Initial::Teacher => {
            let (network, origins) = initial::from_teacher(&unet, teacher, config.seed, device)?;
            run.note("initial.txt", &initial::report(&origins))?;
            network
        }
        Initial::Random => initial::random(unet.graph()?, config.seed, device),
    };
    let teacher = initial::from_checkpoint(teacher, device)?;
    let lpips = config.lpips.as_ref().map(|files| Lpips::read(files, device)).transpose()?;
    let losses = |student: &Network, optimiser: &Optimiser, dice: &Dice, hear: &mut dyn FnMut(Term)| {
        let Some((stage, progress)) = config.stage(dice.step) else { return };
        let indices = dice.pictures(pairs.len());
        let (x1, x0) = pairs.batch(&indices, device);
        let seeds = pairs.seeds(&indices);
        let dropout = Dropout { rate: config.dropout, seed: config.seed, first: dice.first };
        let of_step =
            |network: &Network| network.with_classes_of(&seeds).with_dropout(dropout).with_formats(formats);
        let teacher = teacher.with_classes_of(&seeds);
        let pictures = match images {
            Some(images) => images.batch(&dice.pictures(images.len()), device),
            None => x0.clone(),
        };
        let flip = |x: Tensor<4>| if config.flips { dice.flip(x) } else { x };
        let context = Context {
            student: &of_step(student),
            stopped: &of_step(&optimiser.network),
            average: &of_step(&optimiser.average),
            teacher: &|x, times| teacher.forward(x, times),
            pair: Pair { x1: flip(x1), x0: flip(x0) },
            data: Pair { x1: dice.noise(pairs.shape, device), x0: flip(pictures) },
            dice,
            progress,
            lpips: lpips.as_ref(),
        };
        for Loss { weight, objective } in stage.terms() {
            let loss = objective.loss(&context);
            hear(Term { name: objective.name(), weight: *weight as f32, loss });
        }
    };
    let sample = |network: &Network, path: &Path| {
        preview(&network.with_formats(formats), config.sampler(), pairs.shape, path)
    };
    let training = Training {
        seed: config.seed,
        steps: config.steps(),
        batch: config.batch,
        parts: config.parts,
        optimiser: &config.optimiser,
    };
    run.train(&training, start, losses, sample, progress)
}

#[cfg(test)]
mod tests {
    use traflow_graph::coefficient::Head;
    use traflow_graph::unet::{Architecture, Variant};

    use super::*;
    use crate::teacher::TeacherConfig;

    fn stage(text: &str) -> Result<Stage, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn a_loss_is_a_weight_or_a_table_of_options() {
        let brief = stage(
            "steps = 3\noutput = 2\nvelocity = 0.5\ntime = \"u-shaped\"\nconsistency = 1.0\nmidpoint = \"teacher\"",
        );
        let long = stage(
            "steps = 3\noutput = { weight = 2.0, divergence = \"mse\" }\nvelocity = { weight = 0.5, time = \"u-shaped\" }\n\
             consistency = { midpoint = \"teacher\" }",
        );
        let brief = brief.unwrap();
        assert_eq!(brief, long.unwrap());
        assert_eq!(brief.losses.iter().map(|loss| loss.weight).sum::<f64>(), 3.5);
        assert_eq!(stage(&toml::to_string(&brief).unwrap()).unwrap(), brief);
        // Names of other papers.
        assert_eq!(
            stage("steps = 1\nreflow = 1.0\ntime = \"u-shaped\"\ndistill = 1.0"),
            stage("steps = 1\nvelocity = { time = \"u-shaped\" }\noutput = 1.0")
        );
    }

    #[test]
    fn what_no_stage_has_is_named() {
        for (text, reason) in [
            ("output = 1.0", "missing field `steps`"),
            ("steps = 1\nctm = 1.0\ntime = \"u-shaped\"", "time stands beside no velocity"),
            ("steps = 1\noutput = 1.0\nmidpoint = \"teacher\"", "midpoint stands beside no consistency"),
            ("steps = 1\noutputs = 1.0", "unknown variant `outputs`, expected one of `rectified-flow`"),
            ("steps = 1\noutput = { divergance = \"mse\" }", "unknown field `divergance`"),
            ("steps = 1\noutput = { divergence = \"l1\" }", "unknown variant `l1`"),
            ("steps = 1\noutput = \"much\"", "invalid type: string \"much\""),
        ] {
            let error = stage(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn an_objective_has_one_name() {
        let text = include_str!("../../configs/smoke-student.toml");
        let config: DistillConfig = toml::from_str(text).unwrap();
        let mut names = std::collections::BTreeSet::new();
        for Loss { objective, .. } in config.stages.iter().flat_map(|stage| &stage.losses) {
            let table = Table::try_from(objective).unwrap();
            assert_eq!(table.keys().collect::<Vec<_>>(), [objective.name()]);
            names.insert(objective.name());
        }
        assert_eq!(names.len(), 16, "the smoke test leaves one out: {names:?}");
    }

    #[test]
    fn configurations_can_be_trained() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let mut count = 0;
        for folder in [folder.join("presets"), folder] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let Ok(text) = std::fs::read_to_string(&path) else { continue };
                if !text.contains("[[stage]]") {
                    let config: TeacherConfig = toml::from_str(&text).unwrap();
                    config.check().unwrap();
                    continue;
                }
                let config: DistillConfig = toml::from_str(&text).unwrap();
                config.check(&Unet::preset("nano", None).unwrap()).unwrap();
                assert!(config.schedule().lines().count() == config.stages.len() + 2);
                count += 1;
            }
        }
        assert!(count >= 12, "{count} configurations");
    }

    /// Networks of the paper, to the unit: those of `graph`, whose sizes are tested there.
    #[test]
    fn presets_have_their_networks() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/presets");
        let read = |name: &str| std::fs::read_to_string(folder.join(name).with_extension("toml")).unwrap();
        for name in ["3m", "7m", "16m", "28m", "imagenet"] {
            let config: DistillConfig = toml::from_str(&read(&format!("traflow-{name}"))).unwrap();
            let told = Unet { s_conditioning: SConditioning::TiedMean, ..Unet::preset(name, None).unwrap() };
            assert_eq!(config.network, Some(told), "{name}");
        }
        for name in ["1-rf", "edm-cifar", "edm-ffhq", "edm-imagenet"] {
            let config: TeacherConfig = toml::from_str(&read(&format!("teacher-{name}"))).unwrap();
            assert_eq!(config.network, Unet::preset(name, None).unwrap(), "{name}");
        }
    }

    #[test]
    fn weights_of_another_kind_of_teacher_are_refused() {
        let nano = Unet::preset("nano", Some(8)).unwrap();
        let text =
            "seed = 1\nbatch = 2\n[optimiser]\nlearning_rate = 1e-3\n[[stage]]\nsteps = 1\noutput = 1.0";
        let check = |initial, network: &Unet| {
            let network = Some(Unet { s_conditioning: SConditioning::Shared, ..network.clone() });
            DistillConfig { initial, network, ..toml::from_str(text).unwrap() }.check(&nano)
        };
        let variant = Variant { groups: Some(4), ..Variant::default() };
        for (network, reason) in [
            (
                Unet { architecture: Architecture::Ncsnpp, ..nano.clone() },
                r#"architecture is "ncsnpp", the teacher's "ddpmpp""#,
            ),
            (Unet { head: Head::Edm, ..nano.clone() }, r#"head is "edm", the teacher's "u""#),
            (Unet { level: Level::Reversed, ..nano.clone() }, r#"level is "reversed", the teacher's "flow""#),
            (Unet { variant, ..nano.clone() }, r#"variant is {"groups":4}, the teacher's {}"#),
        ] {
            let error = check(Initial::Teacher, &network).unwrap_err().to_string();
            assert!(error.contains(&format!("the student's {reason}: ")), "{error}");
            check(Initial::Random, &network).unwrap();
        }
        check(Initial::Teacher, &Unet { blocks: 2, ..nano.clone() }).unwrap();
    }

    #[test]
    fn a_student_is_sampled_by_what_it_learns() {
        let sampler = |stages: &[&str]| {
            let stages: String = stages.iter().map(|stage| format!("[[stage]]\n{stage}\n")).collect();
            let config = format!("seed = 1\nbatch = 2\n[optimiser]\nlearning_rate = 1e-3\n{stages}");
            toml::from_str::<DistillConfig>(&config).unwrap().sampler()
        };
        for velocity in ["rectified-flow", "velocity", "velocity-kd", "annealing-reflow"] {
            let stage = format!("steps = 1\n{velocity} = 1.0\noutput = 0.0");
            let found = sampler(&[&stage, "steps = 0\noutput = 1.0"]);
            assert_eq!(found, Sampler::Ode(Solver::Heun, 12), "{velocity}");
        }
        assert_eq!(sampler(&["steps = 1\noutput = 1.0", "steps = 1\nvelocity = 1.0"]), Sampler::Map(1));
    }

    #[test]
    fn stages_that_cannot_be_trained_are_named() {
        let check = |stage: &str| {
            let config = format!(
                "seed = 1\nbatch = 2\n[optimiser]\nlearning_rate = 1e-3\n[[stage]]\nsteps = 1\n{stage}"
            );
            let config: DistillConfig = toml::from_str(&config).unwrap();
            config.check(&Unet::preset("nano", Some(8)).unwrap()).map_err(|error| format!("{error:#}"))
        };
        for (stage, reason) in [
            ("output = 0", "stage 1: a weight is negative, or all are 0"),
            ("consistency = 1", "stage 1: consistency with the student itself alone is degenerate"),
            ("output = { divergence = \"lpips\" }", "stage 1: output has the divergence lpips: name"),
            ("output = 1\ndistill = 1", "stage 1: output is there twice"),
            (
                "output = { divergence = \"lpips\" }\n[lpips]\nvgg16 = \"a\"\nheads = \"b\"",
                "stage 1: output has the divergence lpips, which judges no pictures of 3×8×8",
            ),
            ("ctm = { lambda = -1.0 }", "stage 1: ctm: lambda is -1"),
            ("cd = { grid = 0 }", "stage 1: cd: a number of steps is 0"),
            ("boot = { step = 0.5, t_max = 0.4 }", "stage 1: boot: step 0.5 and t_max 0.4"),
            ("annealing-reflow = { until = 0.0 }", "stage 1: annealing-reflow: until is 0"),
        ] {
            let error = check(stage).unwrap_err();
            assert!(error.starts_with(reason), "{stage}: {error}");
        }
        check("consistency = { midpoint = \"soft\" }").unwrap();
    }

    #[test]
    fn a_staircase_has_no_derivative() {
        let teacher = Unet { level: Level::Iddpm, ..Unet::preset("nano", Some(8)).unwrap() };
        let check = |losses: &str| {
            let text = format!(
                "seed = 1\nbatch = 2\n[optimiser]\nlearning_rate = 1e-3\n[[stage]]\nsteps = 1\n{losses}"
            );
            toml::from_str::<DistillConfig>(&text).unwrap().check(&teacher)
        };
        for (loss, name) in [
            ("meanflow = 1", "meanflow"),
            ("scot = 1", "scot"),
            ("anchored = { form = \"exact\" }", "anchored"),
        ] {
            let error = check(loss).unwrap_err().to_string();
            let expected = format!("stage 1: {name} takes a derivative, which the network's level iddpm");
            assert!(error.starts_with(&expected), "{error}");
        }
        check("output = 1\nanchored = 1\nmeanflow = 0").unwrap();
    }
}
