//! tmp
use traflow_graph::model::{Weights, scratch_bytes};
use traflow_graph::op::{Method, Op, Shape};
use traflow_runtime::kernels::Conv2d;
use traflow_runtime::{Cpu, Isa};
fn aligned<T>(memory: &mut [T], len: usize) -> &mut [T] {
    let skip = memory.as_ptr().align_offset(64);
    &mut memory[skip..][..len]
}
fn main() {
    let a: Vec<usize> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let (c, size, out, m) = (a[0], a[1], a[2], a[3]);
    if let Some(&d) = a.get(4) { traflow_graph::winograd::DEPTH.store(d, core::sync::atomic::Ordering::Relaxed); }
    let method = [Method::Direct, Method::Winograd2, Method::Winograd4][m];
    let cpu = &Cpu::new(Isa::detect());
    let shape = Shape::new(c as u16, size as u16, size as u16);
    let weights = c * out * 9;
    let (mut x, mut y, mut w) =
        (vec![0.5; shape.elements() + 16], vec![0.0; out * shape.pixels() + 16], vec![0.01; weights + 16]);
    let (x, y, w) =
        (aligned(&mut x, shape.elements()), aligned(&mut y, out * shape.pixels()), aligned(&mut w, weights));
    let op = Op::Conv2d { out: out as u16, kernel: 3, bias: true, residual: None, method };
    let n = scratch_bytes(op, &[shape], 4) as usize / 4;
    let mut scratch = vec![0.0; n + 16];
    let scratch = aligned(&mut scratch, n);
    let t = std::time::Instant::now();
    let mut r = 0;
    while t.elapsed().as_secs_f64() < 0.3 {
        for _ in 0..10 {
            Conv2d {
                x,
                shape,
                kernel: 3,
                method,
                weight: Weights::F32(w),
                bias: &[],
                residual: None,
                scratch: &mut *scratch,
                y: &mut *y,
            }
            .run(cpu);
            r += 1;
        }
    }
    println!("{:.2} us", t.elapsed().as_secs_f64() / r as f64 * 1e6);
}
