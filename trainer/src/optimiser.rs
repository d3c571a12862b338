//! AdamW with warm-up, a norm that clips the whole gradient, and moving averages of the weights.

use anyhow::{Context, Result, ensure};
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, Optimizer};
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};
use traflow_graph::checkpoint::Tensors;

use crate::network::Network;

/// How the weights are moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimiserConfig {
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0.
    #[serde(default)]
    pub warmup_steps: usize,
    /// How the learning rate goes on after the warm-up.
    #[serde(default)]
    pub decay: Decay,
    /// AdamW's decoupled weight decay.
    #[serde(default = "weight_decay")]
    pub weight_decay: f32,
    /// Norm to which the gradient of all parameters together is shortened; 0 leaves it.
    #[serde(default = "clip_norm")]
    pub clip_norm: f32,
    /// Factor of the moving average; the first n steps use (1 + n) / (10 + n) where that is smaller.
    #[serde(default = "ema")]
    pub ema: f64,
    /// Factor of a second moving average, from the first step on, which is kept beside the first. Targets with "ema" take the
    /// first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub second_ema: Option<f64>,
}

fn weight_decay() -> f32 {
    0.01
}

fn clip_norm() -> f32 {
    1.0
}

fn ema() -> f64 {
    0.999
}

impl OptimiserConfig {
    /// # Errors
    /// Names what is not within its range.
    pub fn check(&self) -> Result<()> {
        let rate = self.learning_rate;
        ensure!(rate.is_finite() && rate > 0.0, "learning_rate is {rate}, not above 0");
        for (name, value) in [("weight_decay", self.weight_decay), ("clip_norm", self.clip_norm)] {
            ensure!(value.is_finite() && value >= 0.0, "{name} is {value}, below 0");
        }
        for (name, factor) in [("ema", Some(self.ema)), ("second_ema", self.second_ema)] {
            let factor = factor.unwrap_or_default();
            ensure!((0.0..1.0).contains(&factor), "{name} is {factor}, not in [0, 1)");
        }
        Ok(())
    }
}

/// Course of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// It stays.
    #[default]
    None,
    /// Half a cosine, to 0 at the last step.
    Cosine,
}

/// The weights that are trained and all that moves them.
pub struct Optimiser {
    config: OptimiserConfig,
    steps: usize,
    adamw: AdamW,
    moments: Vec<Option<AdamWState<4>>>,
    /// The weights that are trained, not tracked by autodiff.
    pub network: Network,
    /// Their moving average: what is judged and kept.
    pub average: Network,
    /// A second one, by `second_ema`.
    pub second: Option<Network>,
    /// Number of the step that comes next.
    pub step: usize,
}

/// What a step did.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// Norm of the gradient of all parameters together, before it was clipped; not finite where the step was skipped.
    pub gradient_norm: f32,
    /// Learning rate of the step.
    pub learning_rate: f64,
}

/// Norm of the gradient of all parameters together.
pub fn norm(gradients: &[Option<Tensor<4>>]) -> f32 {
    let squares = gradients.iter().flatten().map(|g| g.clone().square().sum());
    squares.reduce(|a, b| a + b).map_or(0.0, |sum| sum.into_scalar::<f32>()).sqrt()
}

impl Optimiser {
    /// Starts a training of `steps` steps from a network without autodiff.
    pub fn new(config: OptimiserConfig, steps: usize, start: Network) -> Self {
        // PyTorch's epsilon; Burn's own is 1e-5.
        let adamw = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(config.weight_decay).build();
        let second = config.second_ema.is_some();
        Self {
            config,
            steps,
            adamw,
            moments: vec![None; start.parameters.len()],
            network: start.clone(),
            second: second.then(|| start.clone()),
            average: start,
            step: 0,
        }
    }

    fn learning_rate(&self) -> f64 {
        let warmup = self.config.warmup_steps;
        if self.step < warmup {
            return self.config.learning_rate * (self.step + 1) as f64 / warmup as f64;
        }
        let course = match self.config.decay {
            Decay::None => 1.0,
            Decay::Cosine => {
                let part = (self.step - warmup) as f64 / (self.steps - warmup).max(1) as f64;
                0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
            }
        };
        self.config.learning_rate * course
    }

    /// Moves the weights against a gradient, which has an element a parameter: none where the loss does not depend on
    /// it. A gradient that is not finite moves nothing: one bad batch does not end a long training.
    pub fn update(&mut self, gradients: Vec<Option<Tensor<4>>>) -> Update {
        let learning_rate = self.learning_rate();
        let gradient_norm = norm(&gradients);
        self.step += 1;
        if !gradient_norm.is_finite() {
            return Update { gradient_norm, learning_rate };
        }
        let clip = match self.config.clip_norm {
            norm if norm > 0.0 && gradient_norm > norm => norm / gradient_norm,
            _ => 1.0,
        };
        let mut pairs = gradients.into_iter().zip(&mut self.moments);
        self.network = self.network.map(|parameter| match pairs.next() {
            Some((Some(gradient), moments)) => {
                let value = parameter.value.clone();
                let gradient = if clip < 1.0 { gradient * clip } else { gradient };
                let (value, state) = self.adamw.step(learning_rate, value, gradient, moments.take());
                *moments = state;
                value
            }
            _ => parameter.value.clone(),
        });
        let n = self.step as f64;
        self.average = self.averaged(&self.average, self.config.ema.min((1.0 + n) / (10.0 + n)));
        if let (Some(second), Some(factor)) = (&self.second, self.config.second_ema) {
            self.second = Some(self.averaged(second, factor));
        }
        Update { gradient_norm, learning_rate }
    }

    /// A moving average after this step.
    fn averaged(&self, average: &Network, factor: f64) -> Network {
        // An f32 near 1 does not hold what is left to it.
        let share = (1.0 - factor) as f32;
        let mut current = self.network.parameters.iter();
        average.map(|average| match current.next() {
            Some(parameter) => {
                average.value.clone() + (parameter.value.clone() - average.value.clone()) * share
            }
            None => average.value.clone(),
        })
    }

    /// Everything that a resumed training needs besides the number of the step.
    ///
    /// # Errors
    /// Where the device cannot give its values.
    pub fn state(&self) -> Result<Tensors> {
        let mut tensors = Tensors::new();
        let mut put = |kind: &str, name: &str, tensor: &Tensor<4>| -> Result<()> {
            let values = tensor.clone().try_into_vec_as::<f32>()?;
            tensors.insert(format!("{kind}/{name}"), (tensor.dims().to_vec(), values));
            Ok(())
        };
        for ((parameter, average), moments) in
            self.network.parameters.iter().zip(&self.average.parameters).zip(&self.moments)
        {
            put("parameter", &parameter.name, &parameter.value)?;
            put("average", &parameter.name, &average.value)?;
            if let Some(state) = moments {
                put("moment-1", &parameter.name, &state.momentum.moment_1)?;
                put("moment-2", &parameter.name, &state.momentum.moment_2)?;
            }
        }
        for parameter in self.second.iter().flat_map(|second| &second.parameters) {
            put("second", &parameter.name, &parameter.value)?;
        }
        Ok(tensors)
    }

    /// Goes on from a [`state`](Optimiser::state) after `step` steps of which `updates` moved the weights.
    ///
    /// # Errors
    /// Where a tensor is missing or has another shape.
    pub fn restore(&mut self, step: usize, updates: usize, tensors: &Tensors) -> Result<()> {
        let device = self.average.device();
        let get = |kind: &str, name: &str, dimensions: [usize; 4]| -> Result<Tensor<4>> {
            let (found, values) =
                tensors.get(&format!("{kind}/{name}")).with_context(|| format!("no tensor {kind}/{name}"))?;
            ensure!(found[..] == dimensions, "tensor {kind}/{name} has shape {found:?}, not {dimensions:?}");
            Ok(Tensor::from_data(TensorData::new(values.clone(), dimensions), &device))
        };
        let read = |network: &Network, kind: &str| -> Result<Vec<Tensor<4>>> {
            network.parameters.iter().map(|p| get(kind, &p.name, p.value.dims())).collect()
        };
        let mut values = read(&self.average, "parameter")?.into_iter();
        let mut averages = read(&self.average, "average")?.into_iter();
        if let Some(second) = &self.second {
            let mut seconds = read(second, "second")?.into_iter();
            self.second = Some(second.map(|p| seconds.next().unwrap_or_else(|| p.value.clone())));
        }
        for (parameter, moments) in self.average.parameters.iter().zip(&mut self.moments) {
            let (name, dimensions) = (&parameter.name, parameter.value.dims());
            if tensors.contains_key(&format!("moment-1/{name}")) {
                let first = get("moment-1", name, dimensions)?;
                let second = get("moment-2", name, dimensions)?;
                *moments = Some(AdamWState::new(AdaptiveMomentumState::new(updates, first, second)));
            }
        }
        self.network = self.average.map(|p| values.next().unwrap_or_else(|| p.value.clone()));
        self.average = self.average.map(|p| averages.next().unwrap_or_else(|| p.value.clone()));
        self.step = step;
        Ok(())
    }

    /// Number of steps that moved the weights.
    pub fn updates(&self) -> usize {
        self.moments.iter().flatten().map(|state| state.momentum.time).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use traflow_graph::unet::Unet;

    use super::*;
    use crate::initial;

    /// The first average begins with a ramp; the second has its factor at once, to all digits of what it takes.
    #[test]
    fn averages_take_the_share_of_their_factor() {
        let config: OptimiserConfig =
            toml::from_str("learning_rate = 1e-2\nema = 0.999\nsecond_ema = 0.99999556").unwrap();
        let graph = Unet::preset("nano", Some(8)).unwrap().graph().unwrap();
        let mut optimiser = Optimiser::new(config, 1, initial::random(graph, 1, &Device::flex()));
        let gradients = optimiser.network.parameters.iter().map(|p| Some(p.value.ones_like())).collect();
        optimiser.update(gradients);
        // A bias starts as zero, so that an average is the share of the step.
        let bias = optimiser.network.parameters.iter().position(|p| p.name.ends_with(".bias")).unwrap();
        let of =
            |network: &Network| f64::from(network.parameters[bias].value.clone().mean().into_scalar::<f32>());
        let (step, average) = (of(&optimiser.network), of(&optimiser.average));
        let second = of(optimiser.second.as_ref().unwrap());
        assert!(step < -0.009, "{step}");
        assert!((average / step / (9.0 / 11.0) - 1.0).abs() < 1e-5, "{average} of {step}");
        assert!((second / step / 4.44e-6 - 1.0).abs() < 1e-5, "{second} of {step}");
    }
}
