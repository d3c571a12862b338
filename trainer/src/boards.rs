//! Boards that a student may be for, and what it would take there.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;
use traflow_graph::model::Model;
use traflow_graph::op::Op;

/// Bytes of the engine of integers and of the check of a file, as `firmware-demo/check.sh` counts them on a Cortex-M4F, and of
/// its stack: 32,516 and 4,832. What else a program does comes on top.
const CODE: usize = 33_000;
const STACK: usize = 5_000;

/// A board.
#[derive(Debug)]
pub struct Board {
    /// Its name.
    pub name: &'static str,
    core: &'static Core,
    megahertz: f64,
    /// Bytes.
    flash: usize,
    /// Bytes that lie together.
    ram: usize,
}

/// A processor core, and instructions of its kernels of integers.
#[derive(Debug)]
struct Core {
    name: &'static str,
    /// `None` where nobody counted.
    counts: Option<Counts>,
}

/// Fitted to what QEMU counts for the nodes of the committed students of clothes, exported by `--int8` alone, by
/// `firmware-demo/run.sh an386 self_test` and `rv32`: code that is built for size, and so has direct sums. The pictures of these
/// students take up to 4 % more.
#[derive(Debug)]
struct Counts {
    /// For each multiply-accumulate, those that fill a quad of channels counted too.
    mac: f64,
    /// For each element that a convolution writes, and more where a residual is added.
    output: f64,
    residual: f64,
    /// For each multiply-accumulate of an attention, exponentials included.
    attention: f64,
    /// For each element that a norm writes.
    norm: f64,
    /// For each element that anything else writes.
    other: f64,
}

const CORTEX_M3: Core = Core { name: "Cortex-M3", counts: None };
const CORTEX_M4: Core = Core {
    name: "Cortex-M4F",
    counts: Some(Counts { mac: 1.0, output: 34.0, residual: 9.0, attention: 9.5, norm: 25.0, other: 14.0 }),
};
const CORTEX_M7: Core = Core { name: "Cortex-M7", ..CORTEX_M4 };
const CORTEX_M33: Core = Core { name: "Cortex-M33", ..CORTEX_M4 };
const RV32: Core = Core {
    name: "RV32IMAC",
    counts: Some(Counts {
        mac: 2.95,
        output: 101.0,
        residual: 4.0,
        attention: 14.5,
        norm: 75.0,
        other: 16.5,
    }),
};

/// Those that are known.
pub const BOARDS: [Board; 7] = [
    Board { name: "stm32f411", core: &CORTEX_M4, megahertz: 100.0, flash: 512 << 10, ram: 128 << 10 },
    Board { name: "stm32f407", core: &CORTEX_M4, megahertz: 168.0, flash: 1 << 20, ram: 128 << 10 },
    Board { name: "nrf52840", core: &CORTEX_M4, megahertz: 64.0, flash: 1 << 20, ram: 256 << 10 },
    Board { name: "stm32h743", core: &CORTEX_M7, megahertz: 480.0, flash: 2 << 20, ram: 512 << 10 },
    Board { name: "stm32u585", core: &CORTEX_M33, megahertz: 160.0, flash: 2 << 20, ram: 768 << 10 },
    Board { name: "lm3s6965", core: &CORTEX_M3, megahertz: 50.0, flash: 256 << 10, ram: 64 << 10 },
    Board { name: "esp32c3", core: &RV32, megahertz: 160.0, flash: 4 << 20, ram: 320 << 10 },
];

impl Board {
    /// The board of a name.
    ///
    /// # Errors
    /// Where there is none, those that there are.
    pub fn named(name: &str) -> Result<&'static Self> {
        BOARDS.iter().find(|board| board.name == name).with_context(|| {
            let names: Vec<&str> = BOARDS.iter().map(|board| board.name).collect();
            format!("there is no board {name}, only {}", names.join(", "))
        })
    }

    /// What a file of integers takes there.
    pub fn fit(&'static self, model: &Model<'_>, file_bytes: usize) -> Fit {
        let instructions = self.core.counts.as_ref().map(|counts| counts.picture(model));
        Fit {
            board: self.name,
            core: self.core.name,
            megahertz: self.megahertz,
            flash_bytes: self.flash,
            ram_bytes: self.ram,
            needed_flash_bytes: file_bytes + CODE,
            needed_ram_bytes: model.arena_bytes() + STACK,
            million_instructions: instructions.map(|instructions| instructions / 1e6),
            seconds: instructions.map(|instructions| instructions / 1e6 / self.megahertz),
        }
    }
}

impl Counts {
    /// Instructions of an evaluation.
    fn picture(&self, model: &Model<'_>) -> f64 {
        let of_node = |node: traflow_graph::model::Node<'_>| {
            let elements = node.shape().elements() as f64;
            match node.op() {
                Op::Conv2d { residual, .. } => {
                    let channels = node.inputs().next().map_or(4, |input| input.shape().channels);
                    let padded = f64::from(channels.next_multiple_of(4)) / f64::from(channels.max(1));
                    let output = self.output + if residual.is_some() { self.residual } else { 0.0 };
                    node.macs() as f64 * padded * self.mac + elements * output
                }
                Op::Attention { .. } => node.macs() as f64 * self.attention,
                Op::GroupNorm { .. } => elements * self.norm,
                Op::Constant { .. } => 0.0,
                _ => elements * self.other,
            }
        };
        model.nodes().map(of_node).sum()
    }
}

/// What a student takes on a board, with a picture of one step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The board's name.
    pub board: &'static str,
    /// Its core.
    pub core: &'static str,
    /// Its clock.
    pub megahertz: f64,
    /// What it has.
    pub flash_bytes: usize,
    /// What it has in one piece.
    pub ram_bytes: usize,
    /// The file and the engine.
    pub needed_flash_bytes: usize,
    /// The arena and the stack.
    pub needed_ram_bytes: usize,
    /// An estimate, from counts of kernels.
    pub million_instructions: Option<f64>,
    /// An estimate: as if each instruction took one cycle.
    pub seconds: Option<f64>,
}

impl Fit {
    /// Whether there is enough of both.
    pub fn fits(&self) -> bool {
        self.needed_flash_bytes <= self.flash_bytes && self.needed_ram_bytes <= self.ram_bytes
    }
}

impl fmt::Display for Fit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} at {} MHz", self.board, self.core, self.megahertz)?;
        let rows = [
            ("flash", self.needed_flash_bytes, self.flash_bytes, "file and engine"),
            ("RAM", self.needed_ram_bytes, self.ram_bytes, "arena and stack"),
        ];
        for (what, needed, there, of) in rows {
            let kilo = needed.div_ceil(1024);
            let verdict = if needed <= there { "fits" } else { "does not fit" };
            writeln!(f, "  {what:<15}{kilo} of {} KiB, {of}: {verdict}", there / 1024)?;
        }
        match (self.million_instructions, self.seconds) {
            (Some(millions), Some(seconds)) => {
                write!(
                    f,
                    "  {:<15}{seconds:.1} s a picture, if each of {millions:.0} million instructions takes a cycle (an estimate)",
                    "time"
                )
            }
            _ => write!(f, "  {:<15}unknown: nobody counted instructions on this core", "time"),
        }
    }
}
