//! x
use burn::tensor::{Device, Tensor, Distribution};
use traflow_graph::unet::*;
use traflow_trainer::network::*;
use std::time::Instant;
fn main() {
    let a: Vec<u16> = std::env::args().skip(1).map(|s| s.parse().unwrap()).collect();
    let unet = Unet { architecture: Architecture::Ddpmpp, image: [1,28,28], base: a[0], mult: a[4..].to_vec(), blocks: a[1], attention: vec![a[2]], augment_labels: 0, s_conditioning: SConditioning::None };
    let graph = unet.graph().unwrap();
    println!("{} params {} MMAC", graph.parameter_count(), graph.macs() as f64/1e6);
    let device = Device::flex().autodiff();
    let mut k = 0u32;
    let net = Network::new::<()>(graph, &device, |_, d| { let fan: usize = d[1]*d[2]*d[3]; Ok((0..d.iter().product()).map(|_| { k = k.wrapping_mul(1664525).wrapping_add(1013904223); ((k >> 8) as f32 / (1<<24) as f32 - 0.5) * 2.0 / (fan as f32).sqrt()}).collect()) }).unwrap();
    let net = net.map(|p| p.value.clone().require_grad());
    let n = a[3] as usize;
    let x = Tensor::<4>::random([n, 1, 28, 28], Distribution::Normal(0.0, 1.0), &device);
    let t = Tensor::<1>::random([n], Distribution::Uniform(0.0, 1.0), &device);
    let times = Times { t: t.clone(), s: t };
    for _ in 0..4 {
        let now = Instant::now();
        let y = net.forward(x.clone(), &times);
        let loss = (y - x.clone()).square().mean();
        let f = now.elapsed();
        let grads = loss.backward();
        println!("forward {:?} backward {:?} {:?}", f, now.elapsed() - f, grads.len_hint());
    }
    let inner = net.map(|p| p.value.clone().inner());
    for _ in 0..3 {
        let now = Instant::now();
        let y = inner.forward(x.clone().inner(), &Times { t: times.t.clone().inner(), s: times.s.clone().inner() });
        println!("inference {:?} {:?}", now.elapsed(), y.dims());
    }
}
trait L { fn len_hint(&self) -> usize { 0 } }
impl L for burn::tensor::Gradients {}
