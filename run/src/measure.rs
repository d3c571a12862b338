//! Measures how long pictures and their nodes take.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;
use traflow_graph::model::{Dtype, Node, Weights};
use traflow_graph::op::{Method, Op};
use traflow_graph::winograd::Winograd;
use traflow_runtime::kernels::Peak;
use traflow_runtime::{Cpu, Isa};

use crate::arguments::Arguments;
use crate::runner::Runner;
use crate::{Report, object, system};

/// How long a measurement takes, in seconds, unless a picture takes longer.
const MEASURE: f64 = 2.0;

/// Measures the time of a picture.
pub(crate) fn bench(
    arguments: &Arguments,
    runner: &mut Runner<'_, '_, '_>,
    started: Instant,
) -> Result<Report> {
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
    let mut entries = description(arguments, runner);
    entries.extend([
        ("runs", runs.into()),
        ("ms_per_image", median.into()),
        ("ms_least", least.into()),
        ("ms_first", first.into()),
        ("peak_resident_bytes", system::peak_resident().into()),
    ]);
    Ok(Report { text, entries })
}

/// Measures the time of each node, as the median of many pictures.
pub(crate) fn profile(arguments: &Arguments, runner: &mut Runner<'_, '_, '_>, isa: Isa) -> Result<Report> {
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
        // A name from a file is not to control a terminal.
        let (name, shape) = (node.name().escape_debug().to_string(), node.shape().to_string());
        text += &format!("{name:<28} {shape:>12} {ms:>9.4} {:>5.1} %", 100.0 * share);
        text += &match macs {
            0 => format!(" {:>19}", ""),
            _ => format!(" {:>10.2} {rate:>8.1}", macs as f64 / 1e6),
        };
        text += &format!(" {:>10.1} {bandwidth:>7.1}", bytes as f64 / 1024.0);
        let mut row: Vec<(_, Value)> = vec![
            ("name", node.name().into()),
            ("op", node.op().name().into()),
            ("ms", ms.into()),
            ("share", share.into()),
            ("macs", macs.into()),
            ("gmacs_per_s", rate.into()),
            ("of_peak", (rate / peak).into()),
            ("bytes", bytes.into()),
            ("gbytes_per_s", bandwidth.into()),
        ];
        if let Op::Conv2d { kernel, method, .. } = node.op() {
            let method = match method {
                Method::Direct => "direct",
                Method::Winograd2 => "winograd2",
                Method::Winograd4 => "winograd4",
            };
            row.extend([("kernel", kernel.into()), ("method", method.into())]);
        }
        // The least time that the sums take, and that the bytes do.
        if model.weights() != Dtype::I8 {
            let sums = products(&node) as f64 / peak / 1e6;
            let bytes = bytes as f64 / copies.rate(bytes) / arguments.threads as f64 / 1e6;
            let (roof, limit) = (sums.max(bytes) / ms, if sums > bytes { "sums" } else { "bytes" });
            text += &format!(" {:>5.0} % {limit}", 100.0 * roof);
            row.extend([("of_roof", roof.into()), ("limit", limit.into())]);
        }
        text += "\n";
        rows.push(object(row));
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
    let mut entries = description(arguments, runner);
    entries.extend([
        ("ms", total.into()),
        ("macs", macs.into()),
        ("gmacs_per_s", rate.into()),
        ("peak_gmacs_per_s", peak.into()),
        ("nodes", rows.into()),
    ]);
    Ok(Report { text, entries })
}

/// What was measured.
fn description(arguments: &Arguments, runner: &Runner<'_, '_, '_>) -> Vec<(&'static str, Value)> {
    let model = runner.model();
    vec![
        ("seed", arguments.request.seed.json()),
        ("steps", arguments.request.steps.into()),
        ("threads", arguments.threads.into()),
        ("isa", runner.isa().name().into()),
        ("arena_bytes", model.arena_bytes().into()),
        ("weights_bytes", model.weights_bytes().into()),
    ]
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
struct Copies(Vec<(u64, f64)>);

impl Copies {
    fn rate(&mut self, bytes: u64) -> f64 {
        let bytes = bytes.next_power_of_two().max(1024);
        if let Some((_, rate)) = self.0.iter().find(|(of, _)| *of == bytes) {
            return *rate;
        }
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
        let rate = (0..5).map(rate).fold(0.0, f64::max);
        self.0.push((bytes, rate));
        rate
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

pub(crate) fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The median of some numbers, which are sorted for it.
pub(crate) fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(0.0)
}
