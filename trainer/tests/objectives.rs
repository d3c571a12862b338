//! Each objective, on a teacher whose flow is known, leads to the map that theory gives; and the traps are there.
//!
//! Data are N(0.7, 0.35²), a number a picture. The network is a small perceptron of (x, t, s).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use burn::tensor::{Device, Tensor};
use traflow_graph::graph::Builder;
use traflow_graph::noise::Noise;
use traflow_graph::op::{Shape, Time};
use traflow_trainer::flow::{self, Dice};
use traflow_trainer::loss::{Context, Coupling, Field, Objective, Pair};
use traflow_trainer::network::{Network, Times};
use traflow_trainer::optimiser::Optimiser;
use traflow_trainer::solver::gaussian::Gaussian;

const DATA: Gaussian = Gaussian { mean: 0.7, deviation: 0.35 };
const SHAPE: Shape = Shape::new(1, 1, 1);
const BATCH: usize = 128;
const STEPS: usize = 1500;
const HIDDEN: u16 = 48;

/// Times at which maps are compared.
const PAIRS: &[(f64, f64)] = &[(1.0, 0.0), (1.0, 0.5), (0.8, 0.3), (0.5, 0.1), (0.6, 0.6)];
const VELOCITIES: &[(f64, f64)] = &[(0.1, 0.1), (0.4, 0.4), (0.7, 0.7), (0.95, 0.95)];
const FROM_NOISE: &[(f64, f64)] = &[(1.0, 0.0), (1.0, 0.3), (1.0, 0.7)];
const ONE_STEP: &[(f64, f64)] = &[(1.0, 0.0)];
const TO_DATA: &[(f64, f64)] = &[(1.0, 0.0), (0.75, 0.0), (0.5, 0.0), (0.25, 0.0)];

/// A perceptron whose last layer starts as `last` times what it would be.
fn perceptron(last: f32) -> Network {
    let mut g = Builder::new();
    let (x, t, s) = (g.image(SHAPE), g.time(Time::From), g.time(Time::To));
    let mut x = g.push("xt", traflow_graph::op::Op::Concat, &[x, t]);
    x = g.push("xts", traflow_graph::op::Op::Concat, &[x, s]);
    for layer in 0..2 {
        x = g.linear(&format!("layer{layer}"), x, HIDDEN);
        x = g.silu(&format!("silu{layer}"), x);
    }
    g.linear("last", x, 1);
    let mut stream = 0;
    let network = Network::new(g.finish().unwrap(), &Device::flex(), |name, [out, input, ..]| {
        stream += 1;
        let mut values = vec![0.0; out * input];
        Noise::stream(1, stream).fill(&mut values);
        let scale = if name.starts_with("last") { last } else { 1.0 } / (input as f32).sqrt();
        values.iter_mut().for_each(|value| *value *= scale);
        Ok::<_, ()>(values)
    });
    network.unwrap()
}

fn teacher(x: Tensor<4>, times: &Times) -> Tensor<4> {
    let Times { t, .. } = times;
    let t = flow::per_picture(t.clone());
    let (mean, variance) = (DATA.mean, DATA.deviation * DATA.deviation);
    let rest = t.clone().neg() + 1.0;
    let s2 = rest.clone().square() * variance + t.clone().square();
    (x - rest.clone() * mean) * (t - rest * variance) / s2 - mean
}

/// The velocity of straight lines from each x1 to the teacher's picture of it.
fn straight(x: f64, t: f64) -> f64 {
    let x1 = (x - (1.0 - t) * DATA.mean) / ((1.0 - t) * DATA.deviation + t);
    (1.0 - DATA.deviation) * x1 - DATA.mean
}

/// The average velocity of the teacher's flow.
fn average(x: f64, t: f64, s: f64) -> f64 {
    if t == s { DATA.velocity(x, t) } else { (DATA.flow(x, t, s) - x) / (s - t) }
}

fn normal(stream: u32, step: usize) -> Tensor<4> {
    let mut values = vec![0.0; BATCH];
    Noise::stream(9, stream).fill_from((step * BATCH) as u64, &mut values);
    flow::pictures(values, BATCH, SHAPE, &Device::flex())
}

fn parse(objective: &str) -> Objective {
    let table: toml::Table = toml::from_str(objective).unwrap();
    table.try_into().unwrap()
}

/// The sum of the losses of a step.
fn loss(
    objectives: &[Objective],
    student: &Network,
    optimiser: &Optimiser,
    teacher: &Field<'_>,
) -> Tensor<1> {
    let dice = Dice::new(5, optimiser.step, BATCH);
    let x1 = normal(0, optimiser.step);
    let context = Context {
        student,
        stopped: &optimiser.network,
        average: &optimiser.average,
        teacher,
        pair: Pair { x0: x1.clone() * DATA.deviation + DATA.mean, x1 },
        data: Pair {
            x1: normal(1, optimiser.step),
            x0: normal(2, optimiser.step) * DATA.deviation + DATA.mean,
        },
        dice: &dice,
        progress: optimiser.step as f32 / STEPS as f32,
        lpips: None,
    };
    objectives.iter().map(|objective| objective.loss(&context)).reduce(|a, b| a + b).unwrap()
}

/// Trains a perceptron, and returns it with its last loss.
fn train(objectives: &[Objective], teacher: &Field<'_>) -> (Network, f32) {
    let config = "learning_rate = 1e-2\nwarmup_steps = 50\ndecay = \"cosine\"\nclip_norm = 1.0\nema = 0.95";
    let mut optimiser = Optimiser::new(toml::from_str(config).unwrap(), STEPS, perceptron(0.1));
    let mut last = f32::NAN;
    for _ in 0..STEPS {
        let student = optimiser.network.tracked();
        let loss = loss(objectives, &student, &optimiser, teacher);
        last = loss.clone().inner().into_scalar::<f32>();
        optimiser.update(student.gradients(&loss.backward()));
    }
    (optimiser.average, last)
}

/// Largest difference of u(x, t, s) from what it should be, over these times and 1.5 deviations of x_t.
fn error(network: &Network, times: &[(f64, f64)], expected: impl Fn(f64, f64, f64) -> f64) -> f64 {
    let mut worst: f64 = 0.0;
    for &(t, s) in times {
        for z in [-1.5, -0.5, 0.0, 0.5, 1.5] {
            let x = (1.0 - t) * DATA.mean + DATA.scale(t) * z;
            let device = Device::flex();
            let picture = flow::pictures(vec![x as f32], 1, SHAPE, &device);
            let u = network.forward(picture, &flow::times(t as f32, s as f32, 1, &device));
            worst = worst.max((f64::from(u.into_scalar::<f32>()) - expected(x, t, s)).abs());
        }
    }
    worst
}

#[track_caller]
fn leads_to(objective: &str, times: &[(f64, f64)], tolerance: f64, expected: impl Fn(f64, f64, f64) -> f64) {
    let (network, _) = train(&[parse(objective)], &teacher);
    let error = error(&network, times, expected);
    println!("{objective}: {error:.4}");
    assert!(error < tolerance, "{objective}: {error}");
}

#[test]
fn velocities_are_those_of_their_pairs() {
    leads_to("[rectified-flow]", VELOCITIES, 0.1, |x, t, _| DATA.velocity(x, t));
    leads_to("[reflow]\ntime = \"u-shaped\"", VELOCITIES, 0.03, |x, t, _| straight(x, t));
    leads_to("[velocity-kd]", VELOCITIES, 0.03, |x, t, _| DATA.velocity(x, t));
    leads_to("[annealing-reflow]\nanneal = \"cosine\"", VELOCITIES, 0.03, |x, t, _| straight(x, t));
}

#[test]
fn outputs_are_the_teachers_pictures() {
    leads_to("[distill]", ONE_STEP, 0.03, |x, t, _| straight(x, t));
    leads_to("[output]\ndivergence = \"pseudo-huber\"", ONE_STEP, 0.03, |x, t, _| straight(x, t));
    // The picture is between the teacher's and that of its two steps, which start where the picture leads.
    leads_to("[flow-guided]", ONE_STEP, 0.03, |x1, _, _| {
        let mut picture = DATA.flow(x1, 1.0, 0.0);
        for _ in 0..100 {
            let guided = (0..100).map(|i| {
                let r = 0.2 + 0.6 * (f64::from(i) + 0.5) / 100.0;
                let x_r = r * x1 + (1.0 - r) * picture;
                x_r - r * DATA.velocity(x_r, r)
            });
            picture = 0.5 * (DATA.flow(x1, 1.0, 0.0) + guided.sum::<f64>() / 100.0);
        }
        x1 - picture
    });
}

#[test]
fn anchored_velocity_is_straight_from_noise() {
    for form in ["integral", "exact", "difference", "stop-gradient"] {
        leads_to(&format!("[anchored]\nform = \"{form}\""), FROM_NOISE, 0.03, |x, t, _| straight(x, t));
    }
}

#[test]
fn consistency_with_the_teacher_is_its_flow() {
    for options in [
        "midpoint = \"teacher\"\node_steps = 4",
        "midpoint = \"soft\"\node = \"heun\"\ntarget = \"ema\"",
        "midpoint = \"teacher\"\node = \"heun\"\nscale = \"one\"",
    ] {
        leads_to(&format!("[consistency]\n{options}"), PAIRS, 0.1, average);
    }
    leads_to("[ctm]", PAIRS, 0.1, average);
}

#[test]
fn consistency_models_are_the_flow_to_data() {
    // Where the map is linear it is a chain of the teacher's steps; and the mean of neighbours on lines is a step of Euler's.
    let chain = |x: f64, t: f64, step: &dyn Fn(f64, f64) -> f64| {
        let end = (1..=(t * 4.0).round() as usize).rev().fold(x, |x, n| x - step(x, n as f64 / 4.0) / 4.0);
        (x - end) / t
    };
    leads_to("[cd]\ngrid = 4", TO_DATA, 0.1, |x, t, _| {
        chain(x, t, &|x, t| {
            let v = DATA.velocity(x, t);
            0.5 * (v + DATA.velocity(x - v / 4.0, t - 0.25))
        })
    });
    leads_to("[ct]\ngrid = 4", TO_DATA, 0.15, |x, t, _| chain(x, t, &|x, t| DATA.velocity(x, t)));
}

#[test]
fn two_steps_of_the_teacher_become_one() {
    let times = [(1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)];
    leads_to("[progressive]\ngrid = 4", &times, 0.03, |x, t, _| {
        let first = DATA.velocity(x, t);
        0.5 * (first + DATA.velocity(x - first / 8.0, t - 1.0 / 8.0))
    });
}

#[test]
fn models_without_a_teacher_find_its_flow() {
    leads_to("[shortcut]", PAIRS, 0.12, average);
    leads_to("[meanflow]", PAIRS, 0.12, average);
}

#[test]
fn on_the_teachers_pairs_they_are_straight() {
    let Objective::MeanFlow(options) = parse("[meanflow]\ncoupling = \"teacher\"") else { panic!() };
    assert_eq!(options.coupling, Coupling::Teacher);
    leads_to("[meanflow]\ncoupling = \"teacher\"", PAIRS, 0.06, |x, t, _| straight(x, t));
    let traflow = ["[output]", "[velocity]", "[consistency]"].map(parse);
    let (network, _) = train(&traflow, &teacher);
    let error = error(&network, PAIRS, |x, t, _| straight(x, t));
    assert!(error < 0.06, "eq. 12: {error}");
}

/// SCoT asks for the teacher's flow and for straight lines from noise: with a straight teacher they are one.
#[test]
fn scot_follows_a_straight_teacher() {
    let straight_teacher = |x: Tensor<4>, times: &Times| {
        let t = flow::per_picture(times.t.clone());
        let rest = t.clone().neg() + 1.0;
        let x1 = (x - rest.clone() * DATA.mean) / (rest * DATA.deviation + t);
        x1 * (1.0 - DATA.deviation) - DATA.mean
    };
    let (network, _) = train(&[parse("[scot]")], &straight_teacher);
    let error = error(&network, PAIRS, |x, t, _| straight(x, t));
    assert!(error < 0.06, "{error}");
}

#[test]
fn boot_is_the_flow_from_noise() {
    leads_to("[boot]", FROM_NOISE, 0.06, average);
}

/// The map that goes nowhere, or everywhere by the same vector, has no self-consistency loss, and no gradient leads away.
#[test]
fn self_consistency_alone_does_nothing() {
    let objective = parse("[consistency]\nmidpoint = \"self\"");
    assert!(objective.is_degenerate());
    for everywhere in [0.0, 0.5] {
        let start = perceptron(0.0).map(|parameter| match parameter.name.as_str() {
            "last.bias" => parameter.value.clone() + everywhere,
            _ => parameter.value.clone(),
        });
        assert!(error(&start, PAIRS, average) > 0.5);
        let optimiser = Optimiser::new(toml::from_str("learning_rate = 1e-2").unwrap(), STEPS, start);
        let student = optimiser.network.tracked();
        let value = loss(std::slice::from_ref(&objective), &student, &optimiser, &teacher);
        assert_eq!(value.clone().inner().into_scalar::<f32>(), 0.0);
        for gradient in student.gradients(&value.backward()).into_iter().flatten() {
            assert_eq!(gradient.abs().max().into_scalar::<f32>(), 0.0);
        }
    }
}

/// Velocity on pairs wants straight lines, consistency the teacher's curves: together they reach neither.
#[test]
fn velocity_and_teacher_consistency_disagree_for_a_curved_teacher() {
    let both = ["[velocity]", "[consistency]\nmidpoint = \"teacher\"\node = \"heun\""].map(parse);
    let (network, last) = train(&both, &teacher);
    let lines = error(&network, PAIRS, |x, t, _| straight(x, t));
    let curves = error(&network, PAIRS, average);
    assert!(lines > 0.1 && curves > 0.1 && last > 1e-3, "lines {lines}, curves {curves}, loss {last}");
}
