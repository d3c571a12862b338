//! Multiply-accumulates a second of the convolution, for shapes of the small networks:
//! `cargo bench -p traflow-runtime --no-default-features`.

use std::time::Instant;
use traflow_graph::model::{OUT_BLOCK, Weights};
use traflow_graph::op::Shape;
use traflow_runtime::kernels::Conv2d;

fn main() {
    // `cargo test --all-targets` runs this too, and has no use for it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("{:>12} {:>5} {:>7} {:>8} {:>8}", "input", "out", "kernel", "f32", "f16");
    for (channels, size, out, kernel) in [
        (64, 28, 64, 3),
        (128, 14, 128, 3),
        (128, 7, 128, 3),
        (256, 16, 128, 3),
        (128, 32, 128, 3),
        (128, 16, 384, 1),
        (3, 32, 64, 3),
    ] {
        let shape = Shape::new(channels, size, size);
        let weights = usize::from(channels) * out * kernel * kernel;
        let (x, mut y) = (vec![0.5; shape.elements()], vec![0.0; out * shape.pixels()]);
        let (single, half) = (vec![0.01; weights], vec![0x211f; weights]);
        let mut scratch = vec![0.0; weights / out * OUT_BLOCK];
        let mut rate = |weight: Weights<'_>| {
            let macs = weights * shape.pixels();
            let rounds = 1 + 300_000_000 / macs;
            let best = (0..5).map(|_| {
                let start = Instant::now();
                for _ in 0..rounds {
                    let (scratch, y) = (&mut scratch[..], &mut y[..]);
                    Conv2d { x: &x, shape, kernel, weight, bias: &[], residual: None, scratch, y }.run();
                }
                (macs * rounds) as f64 / start.elapsed().as_secs_f64()
            });
            best.fold(0.0, f64::max) / 1e9
        };
        let rates = (rate(Weights::F32(&single)), rate(Weights::F16(&half)));
        println!("{:>12} {out:>5} {kernel:>7} {:>8.2} {:>8.2} GMAC/s", shape.to_string(), rates.0, rates.1);
    }
}
