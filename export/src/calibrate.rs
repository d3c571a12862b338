//! Ranges of values, from seeds alone: a picture starts from normal numbers, so no data set is needed.

use traflow_graph::model::Moment;
use traflow_graph::noise::Noise;
use traflow_graph::op::Op;

use crate::network::Network;
use crate::reference::{Inputs, evaluate};

/// How the range of a value of 8 bits is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observer {
    /// From the least number seen to the largest.
    MinMax,
    /// Without the part of the numbers, split between both ends, that is left to this many in a hundred.
    Percentile(f64),
    /// The range with the least mean squared error of rounding and clamping.
    Mse,
    /// The range whose rounded distribution has the least Kullback-Leibler divergence from that of the numbers
    /// (Migacz, "8-bit inference with TensorRT", 2017).
    Kl,
}

/// Bins of a histogram.
const BINS: usize = 4096;

/// How often numbers of each size were seen. The bins cover [-reach, reach], which doubles where it has to.
#[derive(Clone, Debug)]
pub struct Histogram {
    bins: Vec<u32>,
    reach: f64,
    least: f64,
    most: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { bins: vec![0; BINS], reach: 1.0 / 1024.0, least: f64::INFINITY, most: f64::NEG_INFINITY }
    }
}

impl Histogram {
    /// Counts a number; what is not finite is left out, and found when pictures are compared.
    pub fn add(&mut self, x: f64) {
        if !x.is_finite() {
            return;
        }
        while x.abs() >= self.reach {
            self.double();
        }
        // The sum may round up to 2.
        let bin = ((x / self.reach + 1.0) * (BINS / 2) as f64) as usize;
        self.bins[bin.min(BINS - 1)] += 1;
        self.least = self.least.min(x);
        self.most = self.most.max(x);
    }

    /// Counts what another one counted.
    pub fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        while self.reach < other.reach {
            self.double();
        }
        while other.reach < self.reach {
            other.double();
        }
        self.bins.iter_mut().zip(other.bins).for_each(|(bin, other)| *bin += other);
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    fn double(&mut self) {
        let mut bins = vec![0; BINS];
        for (pair, sum) in self.bins.chunks_exact(2).zip(&mut bins[BINS / 4..]) {
            *sum = pair[0] + pair[1];
        }
        self.bins = bins;
        self.reach *= 2.0;
    }

    /// Centres of the bins that are not empty, with their counts.
    fn filled(&self) -> impl Iterator<Item = (f64, f64)> {
        let width = 2.0 * self.reach / BINS as f64;
        let centre = move |index: usize| (index as f64 + 0.5) * width - self.reach;
        let filled = self.bins.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(move |(index, &count)| (centre(index).clamp(self.least, self.most), f64::from(count)))
    }

    /// The largest absolute number.
    pub fn largest(&self) -> f64 {
        self.least.abs().max(self.most.abs()).max(f64::MIN_POSITIVE)
    }

    /// The range of an observer. It holds 0, which every value of 8 bits has to represent exactly.
    pub fn range(&self, observer: Observer) -> [f64; 2] {
        let whole = [self.least.min(0.0), self.most.max(0.0)];
        if self.least > self.most {
            return [0.0, 1.0];
        }
        match observer {
            Observer::MinMax => whole,
            Observer::Percentile(percent) => self.percentile(percent, whole),
            Observer::Mse => narrowed(whole, |range| self.squared_error(range)),
            Observer::Kl => narrowed(whole, |range| self.divergence(range)),
        }
    }

    fn percentile(&self, percent: f64, [low, high]: [f64; 2]) -> [f64; 2] {
        let bins: Vec<(f64, f64)> = self.filled().collect();
        let left = bins.iter().map(|(_, count)| count).sum::<f64>() * (1.0 - percent / 100.0) / 2.0;
        let first_above = |bins: &mut dyn Iterator<Item = &(f64, f64)>| {
            let (mut sum, mut end) = (0.0, 0.0);
            for &(x, count) in bins {
                (sum, end) = (sum + count, x);
                if sum > left {
                    break;
                }
            }
            end
        };
        let (below, above) = (first_above(&mut bins.iter()), first_above(&mut bins.iter().rev()));
        [below.clamp(low, 0.0), above.clamp(0.0, high)]
    }

    /// Of 256 levels over a range: a twelfth of the squared step inside, the squared distance outside.
    fn squared_error(&self, [low, high]: [f64; 2]) -> f64 {
        let inside = ((high - low) / 255.0).powi(2) / 12.0;
        let error =
            |x: f64| if (low..=high).contains(&x) { inside } else { (x - x.clamp(low, high)).powi(2) };
        self.filled().map(|(x, count)| count * error(x)).sum()
    }

    /// From the numbers clamped to a range to the same rounded to 256 levels, where a level's share is that of all
    /// filled bins in it alike.
    fn divergence(&self, [low, high]: [f64; 2]) -> f64 {
        let level = |x: f64| ((x - low) / (high - low) * 255.0).round() as usize;
        let mut levels = [(0.0, 0.0); 256];
        let mut bins: Vec<(usize, f64)> = Vec::new();
        let (mut below, mut above) = (0.0, 0.0);
        for (x, count) in self.filled() {
            match x {
                x if x < low => below += count,
                x if x > high => above += count,
                x => {
                    levels[level(x)].0 += count;
                    levels[level(x)].1 += 1.0;
                    bins.push((level(x), count));
                }
            }
        }
        if bins.is_empty() {
            return f64::INFINITY;
        }
        // What is outside is counted at the ends.
        let inside: f64 = bins.iter().map(|bin| bin.1).sum();
        let (total, last) = (inside + below + above, bins.len() - 1);
        let mut clamped: Vec<f64> = bins.iter().map(|bin| bin.1 / total).collect();
        clamped[0] += below / total;
        clamped[last] += above / total;
        let of_bin = |(p, &(level, _)): (&f64, &(usize, f64))| {
            let (sum, filled) = levels[level];
            p * (p / (sum / filled / inside)).ln()
        };
        clamped.iter().zip(&bins).map(of_bin).sum()
    }
}

/// The best of ranges inside a range: both ends together first, then each alone.
fn narrowed(whole: [f64; 2], cost: impl Fn([f64; 2]) -> f64) -> [f64; 2] {
    const PARTS: i32 = 60;
    let mut best = whole;
    let mut least = cost(whole);
    let mut attempt = |range: [f64; 2], best: &mut [f64; 2]| {
        let found = cost(range);
        if found < least {
            (*best, least) = (range, found);
        }
    };
    for part in 6..PARTS {
        let factor = f64::from(part) / f64::from(PARTS);
        attempt(whole.map(|end| end * factor), &mut best);
    }
    for end in [0, 1] {
        let from = best;
        for part in 6..=PARTS {
            let mut range = from;
            range[end] = whole[end] * f64::from(part) / f64::from(PARTS);
            attempt(range, &mut best);
        }
    }
    best
}

/// What was seen of one node at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The numbers; of the input of an attention, those of queries, of keys and of values.
    pub parts: Vec<Histogram>,
    /// Mean of each channel.
    pub means: Vec<f64>,
}

/// What was seen of each node: `[moment][node]`.
#[derive(Clone, Debug)]
pub struct Statistics(pub Vec<Vec<Seen>>);

/// Runs the network from as many seeds.
pub fn calibrate(network: &Network, schedules: &[Vec<Moment>], seeds: u64) -> Statistics {
    let nodes = network.graph.nodes();
    let image = network.graph.image().map_or(0, |shape| shape.elements());
    let attended: Vec<usize> = (nodes.iter().filter(|node| matches!(node.op, Op::Attention { .. })))
        .map(|node| node.inputs[0].index())
        .collect();
    let all = vec![true; nodes.len()];
    let empty = |index: usize| Seen {
        parts: vec![Histogram::default(); if attended.contains(&index) { 3 } else { 1 }],
        means: vec![0.0; nodes[index].shape.channels.into()],
    };
    let mut statistics = Vec::new();
    for schedule in schedules {
        let first = statistics.len();
        statistics.extend(schedule.iter().map(|_| (0..nodes.len()).map(empty).collect::<Vec<_>>()));
        for seed in 0..seeds {
            let mut noise = vec![0.0; image];
            Noise::stream(seed, STREAM).fill(&mut noise);
            let mut x: Vec<f64> = noise.iter().copied().map(f64::from).collect();
            for (row, &moment) in (first..).zip(schedule) {
                let values = evaluate(network, &Inputs { image: &x, moment, row, class: None }, &all);
                for (seen, value) in statistics[row].iter_mut().zip(&values) {
                    seen.add(value, seeds as f64);
                }
                let step = f64::from(moment.s) - f64::from(moment.t);
                for (x, u) in x.iter_mut().zip(values.last().into_iter().flatten()) {
                    *x += step * u;
                }
            }
        }
    }
    Statistics(statistics)
}

/// The stream of a seed's numbers that calibration starts from, so that no picture is calibrated on itself.
const STREAM: u32 = 2;

impl Seen {
    fn add(&mut self, value: &[f64], seeds: f64) {
        let of_part = value.len().div_ceil(self.parts.len()).max(1);
        for (part, values) in self.parts.iter_mut().zip(value.chunks(of_part)) {
            values.iter().for_each(|&x| part.add(x));
        }
        let pixels = value.len() / self.means.len().max(1);
        for (mean, channel) in self.means.iter_mut().zip(value.chunks_exact(pixels.max(1))) {
            *mean += channel.iter().sum::<f64>() / pixels as f64 / seeds;
        }
    }
}

impl Statistics {
    /// What was seen at all moments together.
    pub fn pooled(&self) -> Vec<Seen> {
        let mut pooled = self.0.first().cloned().unwrap_or_default();
        for moment in self.0.iter().skip(1) {
            for (pooled, seen) in pooled.iter_mut().zip(moment) {
                pooled.parts.iter_mut().zip(&seen.parts).for_each(|(pooled, part)| pooled.merge(part));
            }
        }
        pooled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(numbers: impl Iterator<Item = f64>) -> Histogram {
        let mut histogram = Histogram::default();
        numbers.for_each(|x| histogram.add(x));
        histogram
    }

    fn normal(count: u64) -> impl Iterator<Item = f64> {
        (0..count).map(|i| f64::from(Noise::new(4).at(i)) / 2f64.powi(21))
    }

    #[test]
    fn observers_find_the_range_of_normal_numbers() {
        let seen = histogram(normal(200_000).chain([100.0]));
        assert_eq!(seen.range(Observer::MinMax)[1], 100.0);
        let [low, high] = seen.range(Observer::Percentile(99.0));
        assert!((low + 2.576).abs() < 0.1 && (high - 2.576).abs() < 0.1, "{low} {high}");
        // Without the outlier; with 256 levels the best end of a normal distribution is near 4.
        let seen = histogram(normal(200_000));
        for (observer, ends) in [(Observer::Mse, 3.4..4.6), (Observer::Kl, 2.5..5.0)] {
            let [low, high] = seen.range(observer);
            assert!(ends.contains(&-low) && ends.contains(&high), "{observer:?}: {low} {high}");
        }
    }

    #[test]
    fn ranges_hold_zero_and_merging_is_counting_all() {
        let (a, b) = (histogram((0..100).map(|i| 1.0 + f64::from(i))), histogram(normal(1000)));
        for observer in [Observer::MinMax, Observer::Percentile(99.9), Observer::Mse, Observer::Kl] {
            let [low, high] = a.range(observer);
            assert!(low == 0.0 && high > 50.0, "{observer:?}: {low} {high}");
            assert_eq!(Histogram::default().range(observer), [0.0, 1.0]);
        }
        let mut merged = b.clone();
        merged.merge(&a);
        let all = histogram((0..100).map(|i| 1.0 + f64::from(i)).chain(normal(1000)));
        assert_eq!((merged.bins, merged.least, merged.most), (all.bins, all.least, all.most));
    }
}
