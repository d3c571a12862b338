//! What commands write into pages of `docs`; of `bench-peers` a table for the eye, and its part of `docs/benchmarks.md`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use traflow_graph::file;

use crate::{number, root, text};

/// The page of all benchmarks.
pub(crate) const BENCHMARKS: &str = "docs/benchmarks.md";

const HEAD: &str = "\
Written by `cargo xtask bench-peers`, which anybody can repeat: it needs Rust, Python 3 with `venv`, and both package indices.
Times are medians in milliseconds of making one 3×32×32 picture in one step from given noise, with random weights (speed does
not depend on them).

- Everybody has the same weights: other runtimes an ONNX file by `traflow-export --onnx`, Burn the checkpoint by the trainer's
  interpreter with its kernels. Each picture was compared with TraFlow's in f32 before anything was timed; the most
  that it may differ is 1e-4 of the range in f32, 5e-3 in fp16, 0.05 in bf16 and 0.25 in int8, with weights that are random.
- All contestants are loaded, each in a process of its own, and take turns of about 50 ms; who begins changes with every
  round. The first run of a turn is not counted, and threads get 10 ms to go to sleep.
- × is the time of the fastest other runtime in f32, divided by that of TraFlow in f32: more than 1 is faster. OpenVINO's bf16
  is no f32, and beside the others for comparison. A dash is where somebody was left out or cannot run.
- × of int8 is the same among those that compute in integers of 8 bits. The ONNX file was quantised by ONNX Runtime's tools
  (static, per channel, weights with sign and values without) and by OpenVINO's NNCF, both calibrated on random noise as ours
  is; OpenVINO also reads the former's file. Ours makes the noise as well, from a seed, in the time that is measured.
";

/// Replaces what stands between `<!-- begin NAME -->` and `<!-- end NAME -->`; the rest of the page is somebody else's.
pub(crate) fn replace(page: &str, name: &str, text: &str) -> Result<()> {
    let path = root().join(page);
    let old = fs::read_to_string(&path).with_context(|| format!("reading {page}"))?;
    let new = between(&old, name, text).with_context(|| format!("{page}: no part called {name}"))?;
    file::write(&path, new.as_bytes()).with_context(|| format!("writing {page}"))?;
    eprintln!("{page} was written");
    Ok(())
}

fn between(page: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (format!("<!-- begin {name} -->"), format!("<!-- end {name} -->"));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n\n{}\n\n{end}{after}", text.trim()))
}

/// The processor, its cores and the system, and the day.
pub(crate) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value)
    };
    let flags: BTreeSet<&str> = field("flags").split(' ').collect();
    let known = ["avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16"];
    let flags: Vec<&str> = known.into_iter().filter(|flag| flags.contains(flag)).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let printed = |program: &str, argument| {
        let output = Command::new(program).arg(argument).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    format!(
        "{} ({}), {} for this process, {} {}, {}, {}",
        field("model name"),
        flags.join(", "),
        plural(cores as u64, "core"),
        std::env::consts::OS,
        std::env::consts::ARCH,
        printed("rustc", "--version"),
        printed("date", "+%F")
    )
}

/// The result of one network and number of threads, as a table.
pub(crate) fn summary(result: &Value) -> Result<String> {
    let mut table = format!("{}\n{}\n", heading(result)?, text(&result["machine"])?);
    let macs = number(&result["macs"])?;
    writeln!(table, "{:<24}{:>10}{:>20}{:>10}{:>12}", "", "median ms", "quartiles", "GMAC/s", "difference")?;
    for contestant in contestants(result)? {
        let median = number(&contestant["median_ms"])?;
        let [low, high] = [0, 1].map(|i| number(&contestant["quartiles_ms"][i]));
        let quartiles = format!("{:.2} – {:.2}", low?, high?);
        let (speed, difference) = (macs / median / 1e6, number(&contestant["difference"])?);
        writeln!(
            table,
            "{:<24}{median:>10.2}{quartiles:>20}{speed:>10.1}{difference:>12.1e}",
            title(contestant)?
        )?;
    }
    for title in result["absent"].as_array().into_iter().flatten() {
        writeln!(table, "{:<24}{:>10}", text(title)?, "left out")?;
    }
    for numbers in NUMBERS {
        if let Some((ratio, peer)) = ratio(result, numbers)? {
            writeln!(
                table,
                "TraFlow {numbers} is {ratio:.2} times as fast as {peer}, the fastest peer in {numbers}"
            )?;
        }
    }
    Ok(table)
}

/// Writes the part of the page.
pub(crate) fn write(results: &[Value]) -> Result<()> {
    let mut page = HEAD.to_owned();
    let machines = results.iter().map(|result| text(&result["machine"])).collect::<Result<BTreeSet<_>>>()?;
    for machine in machines {
        writeln!(page, "\nMachine: {machine}.")?;
    }
    let mut threads = results.iter().map(|result| number(&result["threads"])).collect::<Result<Vec<_>>>()?;
    threads.sort_by(f64::total_cmp);
    threads.dedup();
    for threads in threads {
        let mut columns: Vec<&Value> =
            results.iter().filter(|result| result["threads"] == threads as u64).collect();
        columns.sort_by_key(|result| result["macs"].as_u64());
        write!(page, "\n{}", table(&columns, threads as u64)?)?;
    }
    replace(BENCHMARKS, "peers", &page)
}

/// A table with a column for each network.
fn table(columns: &[&Value], threads: u64) -> Result<String> {
    let mut titles: Vec<String> = Vec::new();
    for column in columns {
        for contestant in contestants(column)? {
            let title = title(contestant)?;
            if !titles.contains(&title) {
                titles.push(title);
            }
        }
    }
    let mut table = format!("| {} |", plural(threads, "thread"));
    for column in columns {
        write!(table, " {}, {:.3} GMAC |", text(&column["preset"])?, number(&column["macs"])? / 1e9)?;
    }
    writeln!(table, "\n|---|{}", "---|".repeat(columns.len()))?;
    for row in &titles {
        write!(table, "| {row} |")?;
        for column in columns {
            let mut cell = "–".to_owned();
            for contestant in contestants(column)? {
                if title(contestant)? == *row {
                    cell = format!("{:.2}", number(&contestant["median_ms"])?);
                }
            }
            write!(table, " {cell} |")?;
        }
        writeln!(table)?;
    }
    for numbers in NUMBERS {
        write!(table, "| × in {numbers} |")?;
        for column in columns {
            let ratio = ratio(column, numbers)?.map(|(ratio, _)| format!("**{ratio:.2}**"));
            write!(table, " {} |", ratio.unwrap_or("–".to_owned()))?;
        }
        writeln!(table)?;
    }
    Ok(table)
}

fn heading(result: &Value) -> Result<String> {
    let count = |key: &str| number(&result[key]).map(|count| count as u64);
    let (threads, rounds) = (plural(count("threads")?, "thread"), plural(count("rounds")?, "round"));
    Ok(format!(
        "{}, {:.3} GMAC, {threads}, {rounds}",
        text(&result["preset"])?,
        number(&result["macs"])? / 1e9
    ))
}

/// Numbers in which ours is compared with its peers.
const NUMBERS: [&str; 2] = ["f32", "int8"];

/// How many times as fast as the fastest peer in such numbers ours is, and who that is; nothing where one of them is absent.
fn ratio(result: &Value, numbers: &str) -> Result<Option<(f64, String)>> {
    let mut ours = None;
    let mut best: Option<(f64, String)> = None;
    for contestant in contestants(result)? {
        let median = number(&contestant["median_ms"])?;
        if contestant["numbers"] != numbers {
            continue;
        }
        if contestant["ours"] == true {
            ours = Some(median);
        } else if best.as_ref().is_none_or(|(time, _)| median < *time) {
            best = Some((median, title(contestant)?));
        }
    }
    Ok(ours.zip(best).map(|(ours, (time, peer))| (time / ours, peer)))
}

fn contestants(result: &Value) -> Result<&Vec<Value>> {
    result["contestants"].as_array().context("a result without contestants")
}

fn title(contestant: &Value) -> Result<String> {
    Ok(format!("{} {}", text(&contestant["title"])?, text(&contestant["version"])?))
}

fn plural(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::between;

    #[test]
    fn the_rest_of_a_page_stays() {
        let page = "# A\n\n<!-- begin a -->\nold\n<!-- end a -->\nmore\n";
        let new = between(page, "a", "new\n").unwrap_or_default();
        assert_eq!(new, "# A\n\n<!-- begin a -->\n\nnew\n\n<!-- end a -->\nmore\n");
        assert_eq!(between(&new, "a", "new").as_ref(), Some(&new));
        assert_eq!(between(page, "b", ""), None);
    }
}
