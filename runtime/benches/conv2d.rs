//! Multiply-accumulates a second of the convolution, for shapes of the networks, and as a share of what the processor can
//! do: `cargo bench -p traflow-runtime`. `TRAFLOW_ISA` forces an instruction set.

use std::time::Instant;
use traflow_graph::model::{Weights, scratch_bytes};
use traflow_graph::op::{Method, Op, Shape};
use traflow_runtime::kernels::{Conv2d, Peak};
use traflow_runtime::{Cpu, Isa};

/// The most of a few measurements, in units of 10⁹ a second, of work that is `units` for each of so many rounds.
fn rate(units: u64, rounds: usize, mut work: impl FnMut(usize)) -> f64 {
    let best = (0..5).map(|_| {
        let start = Instant::now();
        work(rounds);
        (units * rounds as u64) as f64 / start.elapsed().as_secs_f64()
    });
    best.fold(0.0, f64::max) / 1e9
}

/// So many elements from the first multiple of 64 bytes on, where the engine has values and weights.
fn aligned<T>(memory: &mut [T], len: usize) -> &mut [T] {
    let skip = memory.as_ptr().align_offset(64);
    &mut memory[skip..][..len]
}

fn main() {
    // `cargo test --all-targets` runs this too, and has no use for it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let forced = std::env::var("TRAFLOW_ISA").ok();
    let isa = forced.map_or(Ok(Isa::detect()), |name| Isa::named(&name)).expect("TRAFLOW_ISA");
    let cpu = &Cpu::new(isa);
    let macs = Peak { rounds: 1 }.run(cpu);
    let peak = rate(macs, 20_000, |rounds| _ = Peak { rounds }.run(cpu));
    println!("{isa}: at most {peak:.1} GMAC/s\n");
    let titles = ["direct", "direct f16", "F(2×2)", "F(4×4)"];
    print!("{:>12} {:>5} {:>7}", "input", "out", "kernel");
    titles.iter().for_each(|title| print!(" {title:>16}"));
    println!();
    for (channels, size, out, kernel) in [
        (16, 32, 16, 3),
        (64, 32, 64, 3),
        (128, 32, 64, 3),
        (64, 16, 64, 3),
        (128, 16, 128, 3),
        (128, 8, 128, 3),
        (192, 16, 192, 3),
        (256, 16, 256, 3),
        (3, 32, 64, 3),
        (64, 32, 3, 3),
        (64, 16, 192, 1),
        (128, 32, 64, 1),
    ] {
        let shape = Shape::new(channels, size, size);
        let weights = usize::from(channels) * out * kernel * kernel;
        let (mut x, mut y) = (vec![0.5; shape.elements() + 16], vec![0.0; out * shape.pixels() + 16]);
        let (mut single, mut half) = (vec![0.01; weights + 16], vec![0x211f; weights + 32]);
        let (x, y) = (aligned(&mut x, shape.elements()), aligned(&mut y, out * shape.pixels()));
        let (single, half) = (aligned(&mut single, weights), aligned(&mut half, weights));
        let mut measure = |method, weight: Weights<'_>| {
            let op = Op::Conv2d { out: out as u16, kernel: kernel as u8, bias: true, residual: None, method };
            let elements = scratch_bytes(op, &[shape], 4) as usize / 4;
            let mut scratch = vec![0.0; elements + 16];
            let scratch = aligned(&mut scratch, elements);
            let macs = (weights * shape.pixels()) as u64;
            let rate = rate(macs, 1 + 300_000_000 / macs as usize, |rounds| {
                for _ in 0..rounds {
                    let (scratch, y) = (&mut scratch[..], &mut y[..]);
                    let (bias, residual) = (&[][..], None);
                    Conv2d { x, shape, kernel, method, weight, bias, residual, scratch, y }.run(cpu);
                }
            });
            print!(" {rate:>9.1} {:>4.0} %", 100.0 * rate / peak);
        };
        print!("{:>12} {out:>5} {kernel:>7}", shape.to_string());
        measure(Method::Direct, Weights::F32(single));
        measure(Method::Direct, Weights::F16(half));
        if kernel == 3 {
            measure(Method::Winograd2, Weights::F32(single));
            measure(Method::Winograd4, Weights::F32(single));
        }
        println!();
    }
}
