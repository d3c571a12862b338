//! Judging pictures: their Fréchet distance to the training pictures, beside that of as many real pictures.

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use traflow_graph::op::Shape;

use crate::features::Features;
use crate::metrics::samples::Samples;
use crate::network::Network;
use crate::sample::{Sampler, sample};

/// The judgement of one way to make pictures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// What made the pictures.
    pub what: String,
    /// Number of pictures.
    pub count: usize,
    /// Fréchet distance to the training pictures.
    pub distance: f64,
    /// The floor: the distance of the first real pictures, as many as these, where there are so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor: Option<f64>,
    /// What real pictures beside them say, where there are some.
    #[serde(flatten)]
    pub beside: Option<Beside>,
}

/// Pictures beside real ones.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Beside {
    /// Share of the pictures that look like real ones.
    pub precision: f64,
    /// Share of the real pictures that look like these.
    pub recall: f64,
    /// Squared maximum mean discrepancy.
    pub discrepancy: f64,
}

/// Judgements by one classifier.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the distance, with the beginning of the classifier's digest: it is not FID.
    pub metric: String,
    /// SHA-256 of the classifier's file.
    pub features: String,
    /// The classifier's accuracy on the test pictures.
    pub accuracy: f64,
    /// Distance between the training pictures and all test pictures; a floor for as many pictures alone.
    pub floor: f64,
    /// One judgement for each way to make pictures.
    pub judgements: Vec<Judgement>,
    /// Features of real pictures, which each judgement takes as many of as there are pictures.
    #[serde(skip)]
    pub real: Option<Vec<f32>>,
}

impl Report {
    /// A report without judgements.
    pub fn new(features: &Features) -> Self {
        Self {
            metric: features.name(),
            features: features.digest.clone(),
            accuracy: features.accuracy,
            floor: features.floor,
            judgements: Vec::new(),
            real: None,
        }
    }

    /// Adds the judgement of some pictures, `[n, c, h, w]` of this shape.
    ///
    /// # Errors
    /// Where the classifier reads other pictures, or these cannot be judged.
    pub fn judge(&mut self, features: &Features, what: String, pictures: &[f32], shape: Shape) -> Result<()> {
        let expected = features.shape().context("the classifier reads no pictures")?;
        ensure!(shape == expected, "the pictures are {shape}, the classifier's {expected}");
        let count = pictures.len() / shape.elements();
        let judged = || -> Result<(Vec<f32>, f64, Option<f64>)> {
            let made = features.of(pictures)?;
            let distance = features.distance(&made)?;
            // Fewer pictures are always farther.
            let as_many = self.real.as_ref().and_then(|real| real.get(..made.len()));
            let floor = as_many.map(|real| features.distance(real)).transpose()?;
            Ok((made, distance, floor))
        };
        let (made, distance, floor) = judged().with_context(|| format!("judging {what}"))?;
        let beside = self.real.as_ref().map(|real| {
            // As many of both, since the shares depend on it.
            let length = real.len().min(made.len());
            let samples = Samples { real: &real[..length], made: &made[..length], dim: features.dim() };
            let [precision, recall] = samples.precision_and_recall();
            Beside { precision, recall, discrepancy: samples.discrepancy() }
        });
        self.judgements.push(Judgement { what, count, distance, floor, beside });
        Ok(())
    }

    /// Adds the judgement of a network's pictures of seeds from `seed`.
    ///
    /// # Errors
    /// As [`judge`](Report::judge).
    pub fn judge_network(
        &mut self,
        features: &Features,
        network: &Network,
        sampler: Sampler,
        what: String,
        (seed, count): (u64, usize),
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let shape = network.graph().image().context("the network reads no picture")?;
        let seeds: Vec<u64> = (0..count as u64).map(|i| seed.wrapping_add(i)).collect();
        let pictures = sample(network, sampler, &seeds, shape, progress)?;
        self.judge(features, what, &pictures, shape)
    }

    /// The report as a table.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{} (classifier with {:.2} % test accuracy; not FID)\n{:<28} {:>8} {:>9}",
            self.metric,
            100.0 * self.accuracy,
            "",
            "pictures",
            "distance"
        );
        if self.real.is_some() {
            for name in ["floor", "÷ floor", "precision", "recall", "MMD²"] {
                table += &format!(" {name:>9}");
            }
        }
        table += &format!("\n{:<28} {:>8} {:>9.3}\n", "test set", "all", self.floor);
        for Judgement { what, count, distance, floor, beside } in &self.judgements {
            table += &format!("{what:<28} {count:>8} {distance:>9.3}");
            if let Some(Beside { precision, recall, discrepancy }) = beside {
                table += &match floor {
                    Some(floor) => format!(" {floor:>9.3} {:>9.1}", distance / floor),
                    None => format!(" {:>9} {:>9}", "–", "–"),
                };
                table += &format!(" {precision:>9.3} {recall:>9.3} {discrepancy:>9.5}");
            }
            table += "\n";
        }
        table.truncate(table.trim_end().len());
        table
    }
}
