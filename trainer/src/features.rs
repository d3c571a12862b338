//! A small classifier whose features judge pictures.
//!
//! Its features are the means over the pixels of its last layer but one. It is trained on the labels of the data set,
//! and its file also holds the statistics of the training pictures' features, so that a generator can be judged
//! against the whole training set without having it.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use nalgebra::{DMatrix, DVector};
use traflow_graph::checkpoint::{self, Precision, Texts};
use traflow_graph::graph::{Builder, Graph};
use traflow_graph::op::{Op, Shape};

use crate::data::{self, Images};
use crate::flow::{self, Dice};
use crate::initial;
use crate::metrics::frechet::{self, Statistics};
use crate::network::Network;
use crate::optimiser::{Decay, Optimiser, OptimiserConfig};

/// Channels of the three levels; the last is the number of features.
const CHANNELS: [u16; 3] = [16, 32, 64];

/// Pictures of a step of the training, and steps.
const BATCH: usize = 128;
const STEPS: usize = 3000;

/// A classifier with less test accuracy than this is not used to judge.
const MIN_ACCURACY: f64 = 0.9;

/// Pictures with their classes.
pub struct Labelled {
    /// The pictures.
    pub images: Images,
    /// The class of each.
    pub labels: Vec<u16>,
}

/// A trained classifier and what it says of the pictures that it was trained on.
pub struct Features {
    network: Network,
    /// SHA-256 of the file.
    pub digest: String,
    /// Share of the test pictures that it classifies right.
    pub accuracy: f64,
    /// Statistics of the training pictures.
    pub reference: Statistics,
    /// Fréchet distance of the training pictures and all test pictures. Fewer pictures are always farther.
    pub floor: f64,
}

/// The classifier: two convolutions at each of three resolutions, then a linear layer on every pixel; its mean over
/// the pixels is that layer on the mean. The last features are not normalised, for their size tells classes apart.
fn graph(shape: Shape, classes: u16) -> Result<Graph> {
    let mut g = Builder::new();
    let mut x = g.image(shape);
    for (level, channels) in CHANNELS.into_iter().enumerate() {
        if level > 0 {
            x = g.push(&format!("down{level}"), Op::Downsample, &[x]);
        }
        x = g.conv2d(&format!("level{level}_in"), x, channels, 3);
        x = g.group_norm(&format!("level{level}_norm"), x, 1e-5, true);
        x = g.conv2d(&format!("level{level}_out"), x, channels, 3);
        x = g.silu(&format!("level{level}"), x);
    }
    g.conv2d("classes", x, classes, 1);
    Ok(g.finish()?)
}

/// Features `[n, 64]` and logits `[n, classes]`.
fn forward(network: &Network, x: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
    let n = x.dims()[0];
    let times = flow::times(0.0, 0.0, n, &x.device());
    let mut features = None;
    let last = format!("level{}", CHANNELS.len() - 1);
    let mean = |x: Tensor<4>| {
        let [n, c, h, w] = x.dims();
        x.reshape([n, c, h * w]).mean_dim(2).reshape([n, c])
    };
    let logits = network.forward_with(x, &times, |node, value| {
        if node.name == last {
            features = Some(value.clone());
        }
        value
    });
    (mean(features.expect("the graph has this node")), mean(logits))
}

impl Features {
    /// Trains a classifier and writes it to `path`.
    ///
    /// # Errors
    /// Where pictures and labels do not fit together, the accuracy is too low to judge by, or the file cannot be
    /// written.
    pub fn train(
        path: &Path,
        train: &Labelled,
        test: &Labelled,
        device: &Device,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        for set in [train, test] {
            let (images, labels) = (set.images.len(), set.labels.len());
            ensure!(images == labels, "there are {images} pictures and {labels} labels");
            ensure!(images > CHANNELS[2].into(), "{images} pictures are too few to judge by");
        }
        let shape = train.images.shape();
        ensure!(shape == test.images.shape(), "training and test pictures differ in shape");
        let classes = train.labels.iter().chain(&test.labels).max().map_or(1, |last| last.saturating_add(1));
        let config = OptimiserConfig {
            learning_rate: 3e-3,
            warmup_steps: 50,
            decay: Decay::Cosine,
            weight_decay: 0.05,
            clip_norm: 1.0,
            ema: 0.995,
            second_ema: None,
        };
        let start = initial::random(graph(shape, classes)?, 1, device);
        let mut optimiser = Optimiser::new(config, STEPS, start);
        let training = device.clone().autodiff();
        while optimiser.step < STEPS {
            let chosen = Dice::new(1, optimiser.step, BATCH).pictures(train.images.len());
            let labels: Vec<i32> = chosen.iter().map(|&i| i32::from(train.labels[i])).collect();
            let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [BATCH]), &training);
            let network = optimiser.network.tracked();
            let (_, logits) = forward(&network, train.images.batch(&chosen, &training));
            let likelihood = log_softmax(logits, 1).gather(1, labels.reshape([BATCH, 1]));
            optimiser.update(network.gradients(&likelihood.mean().neg().backward()));
            progress(optimiser.step, STEPS);
        }
        let network = optimiser.average;
        let (train_features, _) = judge(&network, train, device)?;
        let (test_features, accuracy) = judge(&network, test, device)?;
        ensure!(
            accuracy >= MIN_ACCURACY,
            "the classifier is right on {:.1} % of the test pictures; below {:.0} % it cannot judge",
            100.0 * accuracy,
            100.0 * MIN_ACCURACY
        );
        let dimensions = usize::from(CHANNELS[2]);
        let reference = Statistics::new(&train_features, dimensions)?;
        let floor = frechet::distance(&reference, &Statistics::new(&test_features, dimensions)?);
        let mut tensors = network.tensors()?;
        let f32s = |values: &[f64]| values.iter().map(|x| *x as f32).collect();
        let mean = (vec![dimensions], f32s(reference.mean.as_slice()));
        let covariance = (vec![dimensions, dimensions], f32s(reference.covariance.as_slice()));
        tensors.insert("reference.mean".to_owned(), mean);
        tensors.insert("reference.covariance".to_owned(), covariance);
        let texts = Texts::from([
            ("format".to_owned(), "traflow-features".to_owned()),
            ("classes".to_owned(), classes.to_string()),
            ("shape".to_owned(), format!("{} {} {}", shape.channels, shape.height, shape.width)),
            ("accuracy".to_owned(), accuracy.to_string()),
            ("floor".to_owned(), floor.to_string()),
        ]);
        Ok(checkpoint::write_tensors(path, &texts, &tensors, Precision::F32)?)
    }

    /// Reads a classifier.
    ///
    /// # Errors
    /// Where the file is not such a file.
    pub fn read(path: &Path, device: &Device) -> Result<Self> {
        let context = || format!("{}: not a file of features", path.display());
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        let digest = data::digest(&bytes);
        let (texts, mut tensors) = checkpoint::tensors_from_bytes(&path.display().to_string(), &bytes)?;
        let text = |key: &str| texts.get(key).with_context(|| format!("no {key} in its metadata"));
        let read = || -> Result<Self> {
            ensure!(text("format")? == "traflow-features", "its format is another");
            let sizes: Vec<u16> = text("shape")?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
            let &[channels, height, width] = &sizes[..] else {
                anyhow::bail!("its shape is not three sizes")
            };
            let mut take = |name: &str, length: usize| -> Result<Vec<f32>> {
                let (_, values) = tensors.remove(name).with_context(|| format!("no tensor {name}"))?;
                ensure!(values.len() == length, "tensor {name} has {} values, not {length}", values.len());
                Ok(values)
            };
            let d = usize::from(CHANNELS[2]);
            let f64s = |values: Vec<f32>| values.into_iter().map(f64::from);
            let reference = Statistics {
                mean: DVector::from_iterator(d, f64s(take("reference.mean", d)?)),
                covariance: DMatrix::from_iterator(d, d, f64s(take("reference.covariance", d * d)?)),
            };
            let graph = graph(Shape::new(channels, height, width), text("classes")?.parse()?)?;
            let network =
                Network::new(graph, device, |name, dimensions| take(name, dimensions.iter().product()))?;
            let (accuracy, floor) = (text("accuracy")?.parse()?, text("floor")?.parse()?);
            Ok(Self { network, digest, accuracy, reference, floor })
        };
        read().with_context(context)
    }

    /// Shape of the pictures that it judges.
    pub fn shape(&self) -> Option<Shape> {
        self.network.graph().image()
    }

    /// Name of a Fréchet distance of these features.
    pub fn name(&self) -> String {
        format!("FD-{}", &self.digest[..8])
    }

    /// Number of features.
    pub fn dim(&self) -> usize {
        CHANNELS[2].into()
    }

    /// Features `[n, dim]` of pictures `[n, c, h, w]`, which are rounded to the 256 levels that the training pictures have.
    ///
    /// # Errors
    /// Where they are not finite numbers.
    pub fn of(&self, pictures: &[f32]) -> Result<Vec<f32>> {
        let shape = self.shape().context("the classifier reads no pictures")?;
        let lost = pictures.iter().position(|x| !x.is_finite());
        ensure!(
            lost.is_none(),
            "picture {} has a number that is not finite",
            lost.unwrap_or_default() / shape.elements()
        );
        let device = self.network.device();
        let mut features = Vec::new();
        for pictures in pictures.chunks(shape.elements() * BATCH) {
            let n = pictures.len() / shape.elements();
            let pictures = data::from_pixels(&data::to_pixels(pictures));
            let x = flow::pictures(pictures, n, shape, &device);
            features.extend(forward(&self.network, x).0.try_into_vec_as::<f32>()?);
        }
        Ok(features)
    }

    /// Fréchet distance of the pictures with these features to the training pictures.
    ///
    /// # Errors
    /// Where there are too few pictures.
    pub fn distance(&self, features: &[f32]) -> Result<f64> {
        Ok(frechet::distance(&self.reference, &Statistics::new(features, self.dim())?))
    }
}

/// Features of all pictures, and the share that is classified right.
fn judge(network: &Network, set: &Labelled, device: &Device) -> Result<(Vec<f32>, f64)> {
    let mut features = Vec::new();
    let mut right = 0;
    let all: Vec<usize> = (0..set.images.len()).collect();
    for chosen in all.chunks(BATCH) {
        let (batch_features, logits) = forward(network, set.images.batch(chosen, device));
        features.extend(batch_features.try_into_vec_as::<f32>()?);
        let found = logits.argmax(1).try_into_vec_as::<i64>()?;
        right += found.iter().zip(chosen).filter(|&(class, &i)| *class == i64::from(set.labels[i])).count();
    }
    Ok((features, right as f64 / set.images.len() as f64))
}
