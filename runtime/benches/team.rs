//! What two threads lose by waiting for each other: `cargo bench -p traflow-runtime --features threads --bench team`.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use traflow_runtime::kernels::Silu;
use traflow_runtime::{Cpu, Isa};

/// The least of a few measurements, in nanoseconds for each of so many rounds.
fn nanoseconds(rounds: usize, mut work: impl FnMut(usize)) -> f64 {
    let least = (0..20).map(|_| {
        let start = Instant::now();
        work(rounds);
        start.elapsed().as_secs_f64() / rounds as f64
    });
    least.fold(f64::INFINITY, f64::min) * 1e9
}

/// Two threads that answer each other, by one number.
fn there_and_back() -> f64 {
    let turn = AtomicUsize::new(0);
    let answer = |rounds: usize, parity: usize| {
        for round in 0..rounds {
            while turn.load(Ordering::Acquire) != 2 * round + parity {
                spin_loop();
            }
            turn.store(2 * round + parity + 1, Ordering::Release);
        }
    };
    nanoseconds(10_000, |rounds| {
        turn.store(0, Ordering::Relaxed);
        std::thread::scope(|scope| {
            scope.spawn(|| answer(rounds, 1));
            answer(rounds, 0);
        });
    })
}

fn main() {
    // `cargo test --all-targets` runs this too, and has no use for it.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    println!("from one processor to the other and back: {:.0} ns", there_and_back());
    let one = Cpu::new(Isa::detect());
    let two = Cpu::with_threads(Isa::detect(), 2).expect("threads");
    for elements in [32, 8 << 10, 64 << 10] {
        // So large that SiLU leaves them as they are.
        let mut y = vec![100.0; elements];
        let mut time = |cpu: &Cpu, elements: usize| {
            nanoseconds(1 + (20 << 20) / elements.max(1024), |rounds| {
                (0..rounds).for_each(|_| Silu { y: &mut y[..elements] }.run(cpu));
            })
        };
        let (half, whole) = (time(&one, elements / 2), time(&two, elements));
        println!("work of {half:.0} ns for each of two threads: {whole:.0} ns, {:.0} more", whole - half);
    }
}
