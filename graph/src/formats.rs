//! How integers stand for the real numbers of a network: the exporter chooses it, and a training for integers rounds to it.
//!
//! Values have [`Formats`], by the names of the network's nodes; the unit of weights follows from the weights
//! ([`weight_unit`]).

use std::collections::BTreeMap;
use std::path::Path;
use std::prelude::v1::*;
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::file;
use crate::graph::Graph;
use crate::quant::IMAGE_BITS;

/// How a value's integers stand for real numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Format {
    /// Whether it has 16 bits; then every zero point is 0.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub wide: bool,
    /// Channels that have a scale in common.
    pub parts: Vec<Part>,
}

/// Channels of a value with one scale: q stands for `(q - zero) · scale`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Number of channels.
    pub channels: usize,
    /// One unit.
    pub scale: f64,
    /// What stands for 0.
    pub zero: i32,
}

impl Format {
    /// One scale for all channels.
    pub fn single(channels: u16, wide: bool, scale: f64, zero: i32) -> Self {
        Self { wide, parts: vec![Part { channels: channels.into(), scale, zero }] }
    }

    /// Of pictures between two steps.
    pub fn of_image(channels: u16) -> Self {
        Self::single(channels, true, 0.5f64.powi(IMAGE_BITS as i32), 0)
    }

    /// Number of channels.
    pub fn channels(&self) -> usize {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.channels))
    }

    /// Scale and zero point of a channel.
    pub fn part(&self, channel: usize) -> Part {
        let mut end = 0usize;
        let holds = |part: &&Part| {
            end = part.channels.saturating_add(end);
            channel < end
        };
        let nothing = Part { channels: 1, scale: 1.0, zero: 0 };
        self.parts.iter().find(holds).or(self.parts.last()).copied().unwrap_or(nothing)
    }

    /// The least and the largest integer.
    pub fn ends(&self) -> [f64; 2] {
        if self.wide { [-32768.0, 32767.0] } else { [-128.0, 127.0] }
    }

    /// The nearest integer that stands for a real number of a channel, as a real number.
    pub fn round(&self, channel: usize, x: f64) -> f64 {
        let (Part { scale, zero, .. }, [least, most]) = (self.part(channel), self.ends());
        let zero = f64::from(zero);
        ((x / scale + zero + 0.5).floor().clamp(least, most) - zero) * scale
    }

    /// # Errors
    /// What no value can be computed with.
    fn check(&self) -> Result<(), String> {
        let [least, most] = if self.wide { [0, 0] } else { [-128, 127] };
        for Part { scale, zero, .. } in &self.parts {
            if !(scale.is_finite() && *scale > 0.0) {
                return Err(format!("its scale is {scale}"));
            }
            if !(least..=most).contains(zero) {
                return Err(format!("its zero point is {zero}, not from {least} to {most}"));
            }
        }
        Ok(())
    }
}

/// The largest absolute integer of a weight.
pub const WEIGHT_END: f64 = 127.0;

/// The unit of the weights of an output channel, or of their part for one part of the input, that gives the least squared
/// error. With inputs of 16 bits (`wide`) the sum of their integers stays below 2¹⁶.
pub fn weight_unit(weights: &[f64], wide: bool) -> f64 {
    let largest = weights.iter().fold(0.0f64, |largest, w| largest.max(w.abs()));
    if largest == 0.0 {
        return 1.0;
    }
    let error =
        |unit: f64| weights.iter().map(|w| (w - weight_integer(*w, unit) * unit).powi(2)).sum::<f64>();
    let candidates = (60..=100).map(|percent| largest * f64::from(percent) / 100.0 / WEIGHT_END);
    let with_error = candidates.map(|unit| (unit, error(unit)));
    let best = with_error.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(largest / WEIGHT_END, |best| best.0);
    if !wide {
        return best;
    }
    // Rounding adds half a unit to a weight at most.
    let sum: f64 = weights.iter().map(|w| w.abs()).sum();
    best.max(sum / (65535.0 - 0.5 * weights.len() as f64).max(1.0))
}

/// A weight in its unit, rounded.
pub fn weight_integer(weight: f64, unit: f64) -> f64 {
    (weight / unit).round().clamp(-WEIGHT_END, WEIGHT_END)
}

/// Formats of the values of a network, by the names of its nodes. Nodes that a file of integers has no value for, as what
/// depends on time alone, or a convolution whose sum with something else is computed with it, have none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Formats(pub BTreeMap<String, Format>);

/// Why there are no formats.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum FormatsError {
    #[error("{file}: {problem}")]
    Io { file: String, problem: io::Error },
    #[error("{file}: no formats of values: {reason}")]
    Json { file: String, reason: String },
    #[error("formats of values: there is no node {node:?} in the network")]
    Node { node: String },
    #[error("formats of values: node {node:?}: {reason}")]
    Value { node: String, reason: String },
}

impl Formats {
    /// Reads them from a JSON file.
    ///
    /// # Errors
    /// Where the file cannot be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, FormatsError> {
        let name = || path.display().to_string();
        let text = fs::read(path).map_err(|problem| FormatsError::Io { file: name(), problem })?;
        serde_json::from_slice(&text).map_err(|e| FormatsError::Json { file: name(), reason: e.to_string() })
    }

    /// Writes them to a JSON file, as a whole.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), FormatsError> {
        let name = || path.display().to_string();
        let json = serde_json::to_vec_pretty(self);
        let json = json.map_err(|e| FormatsError::Json { file: name(), reason: e.to_string() })?;
        file::write(path, &json).map_err(|problem| FormatsError::Io { file: name(), problem })
    }

    /// Whether they are of this network.
    ///
    /// # Errors
    /// The first name that is no node's, or format that is not of its value.
    pub fn check(&self, graph: &Graph) -> Result<(), FormatsError> {
        for (name, format) in &self.0 {
            let node = graph.nodes().iter().find(|node| node.name == *name);
            let node = node.ok_or_else(|| FormatsError::Node { node: name.clone() })?;
            let wrong = |reason| FormatsError::Value { node: name.clone(), reason };
            let (found, expected) = (format.channels(), usize::from(node.shape.channels));
            if found != expected {
                return Err(wrong(format!(
                    "it has {found} channels in the formats and {expected} in the network"
                )));
            }
            format.check().map_err(wrong)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Builder;
    use crate::op::Shape;

    #[test]
    fn a_number_becomes_the_nearest_level() {
        let format = Format::single(1, false, 0.5, 3);
        let rounded = [0.0, 0.24, 0.25, -0.26, 100.0, -100.0].map(|x| format.round(0, x));
        assert_eq!(rounded, [0.0, 0.0, 0.5, -0.5, 62.0, -65.5]);
        assert_eq!(Format::of_image(3).round(2, 1.0), 1.0);
    }

    #[test]
    fn the_unit_of_weights_is_near_the_best_and_keeps_wide_sums_small() {
        let weights: Vec<f64> = (0..100).map(|i| f64::from(i * 37 % 100) / 50.0 - 1.0).collect();
        let error = |unit: f64| -> f64 {
            weights.iter().map(|w| (w - weight_integer(*w, unit) * unit).powi(2)).sum()
        };
        let unit = weight_unit(&weights, false);
        assert!(error(unit) <= error(1.0 / 127.0) && unit <= 1.0 / 127.0);
        assert_eq!(weight_unit(&[0.0; 4], false), 1.0);
        for count in [1000, 1012, 1152, 5000] {
            let many = vec![1.0; count];
            let unit = weight_unit(&many, true);
            let sum: f64 = many.iter().map(|w| weight_integer(*w, unit)).sum();
            assert!(sum < 65536.0, "{count}: {sum}");
        }
    }

    #[test]
    fn formats_of_another_network_are_refused() {
        let mut g = Builder::new();
        g.image(Shape::new(2, 3, 3));
        let graph = g.finish().unwrap();
        let check = |json: &str| {
            let formats: Formats = serde_json::from_str(json).unwrap();
            formats.check(&graph).map_err(|error| error.to_string())
        };
        assert_eq!(check(r#"{"image":{"wide":true,"parts":[{"channels":2,"scale":1.5,"zero":0}]}}"#), Ok(()));
        for (json, reason) in [
            (r#"{"x":{"parts":[]}}"#, "there is no node \"x\" in the network"),
            (
                r#"{"image":{"parts":[{"channels":18446744073709551615,"scale":1.0,"zero":0},{"channels":3,"scale":1.0,"zero":0}]}}"#,
                "node \"image\": it has 18446744073709551615 channels in the formats and 2 in the network",
            ),
            (
                r#"{"image":{"parts":[]}}"#,
                "node \"image\": it has 0 channels in the formats and 2 in the network",
            ),
            (
                r#"{"image":{"parts":[{"channels":2,"scale":0.0,"zero":0}]}}"#,
                "node \"image\": its scale is 0",
            ),
            (
                r#"{"image":{"wide":true,"parts":[{"channels":2,"scale":1.0,"zero":1}]}}"#,
                "node \"image\": its zero point is 1, not from 0 to 0",
            ),
        ] {
            assert_eq!(check(json), Err(format!("formats of values: {reason}")));
        }
    }

    #[test]
    fn formats_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("formats.json");
        let format = Format { wide: false, parts: vec![Part { channels: 3, scale: 0.1, zero: -7 }; 2] };
        let formats = Formats([("a".to_owned(), format)].into());
        formats.write(&path).unwrap();
        assert_eq!(Formats::read(&path).unwrap(), formats);
        fs::write(&path, "{\"a\": 1}").unwrap();
        assert!(
            Formats::read(&path).unwrap_err().to_string().contains("formats.json: no formats of values: ")
        );
    }
}
