//! Teacher pairs (x1, x̂0): noise by its seed, and the picture that the teacher's ODE makes of it.
//!
//! A folder of shards `00000.safetensors`, …, each with up to [`SHARD`] pictures of consecutive seeds in order, and in
//! its metadata what made them. A shard is written whole or not at all, so a generation that was interrupted goes on
//! at the first one that is missing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use burn::tensor::{Device, Tensor};
use traflow_graph::checkpoint::{self, Precision, Tensors, Texts};
use traflow_graph::noise::Noise;
use traflow_graph::op::Shape;

use crate::flow;
use crate::network::Network;
use crate::sample::{Sampler, sample};

/// Pairs of a shard.
pub const SHARD: usize = 512;

/// What makes pairs; all shards of a folder have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// SHA-256 of the teacher's file.
    pub teacher: String,
    /// How the teacher is solved.
    pub sampler: String,
    /// Seed of the first pair; each pair has the next one.
    pub first_seed: u64,
    /// Shape of the pictures.
    pub shape: Shape,
}

impl Recipe {
    fn texts(&self, shard: usize) -> Texts {
        Texts::from([
            ("format".to_owned(), "traflow-pairs".to_owned()),
            ("teacher".to_owned(), self.teacher.clone()),
            ("sampler".to_owned(), self.sampler.clone()),
            ("first_seed".to_owned(), self.seed(shard, 0).to_string()),
        ])
    }

    fn seed(&self, shard: usize, index: usize) -> u64 {
        self.first_seed.wrapping_add((shard * SHARD + index) as u64)
    }
}

/// Pairs in memory.
pub struct Pairs {
    /// Seed of the first pair; each pair has the next one.
    pub first_seed: u64,
    /// Shape of the pictures.
    pub shape: Shape,
    /// `[n, c, h, w]`.
    pub images: Vec<f32>,
    /// SHA-256 of the teacher's file.
    pub teacher: String,
    /// How the teacher was solved.
    pub sampler: String,
}

/// Makes `count` pairs, those that the folder has already left out. `progress` hears how many pairs are there.
///
/// # Errors
/// Where the folder has more pairs, a shard of it is damaged or of another recipe, the solver gives a number that is not
/// finite, or a shard cannot be written.
pub fn generate(
    folder: &Path,
    network: &Network,
    sampler: Sampler,
    recipe: &Recipe,
    count: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<()> {
    let more = |path: &Path| format!("{}: the folder has more than {count} pairs already", path.display());
    let beyond = path(folder, count.div_ceil(SHARD));
    ensure!(!beyond.exists(), more(&beyond));
    for (shard, start) in (0..count).step_by(SHARD).enumerate() {
        let path = path(folder, shard);
        let length = SHARD.min(count - start);
        if path.exists() {
            let found = read_shard(&path, recipe, shard)?.len() / recipe.shape.elements();
            ensure!(found <= length, more(&path));
            if found == length {
                progress(start + length);
                continue;
            }
        }
        let seeds: Vec<u64> = (0..length).map(|index| recipe.seed(shard, index)).collect();
        let images = sample(network, sampler.clone(), &seeds, recipe.shape, &mut |done| {
            progress(start + done);
        })?;
        ensure!(
            images.iter().all(|x| x.is_finite()),
            "the teacher's pictures of seeds {} to {} are not finite numbers",
            seeds[0],
            seeds[length - 1]
        );
        let Shape { channels, height, width } = recipe.shape;
        let dimensions = vec![length, channels.into(), height.into(), width.into()];
        let marks = marks(&images, &seeds, recipe.shape);
        let tensors = Tensors::from([
            ("images".to_owned(), (dimensions, images)),
            ("marks".to_owned(), (vec![length, 2], marks)),
        ]);
        checkpoint::write_tensors(&path, &recipe.texts(shard), &tensors, Precision::F32)?;
    }
    Ok(())
}

/// Reads all pairs of a folder and checks their order and statistics.
///
/// # Errors
/// Names the shard that is missing, damaged, out of order or of another recipe.
pub fn read(folder: &Path, shape: Shape) -> Result<Pairs> {
    let first = path(folder, 0);
    let file = checkpoint::read_tensors(&first).with_context(|| format!("pairs {}", folder.display()))?;
    let texts = &file.0;
    let text = |key: &str| {
        texts.get(key).cloned().with_context(|| format!("{}: no {key} in its metadata", first.display()))
    };
    let first_seed = text("first_seed")?;
    let recipe = Recipe {
        teacher: text("teacher")?,
        sampler: text("sampler")?,
        first_seed: first_seed
            .parse()
            .with_context(|| format!("{}: first_seed {first_seed:?}", first.display()))?,
        shape,
    };
    let mut images = images_of(&first, file, &recipe, 0)?;
    for shard in 1..=last(folder)? {
        let path = path(folder, shard);
        ensure!(path.exists(), "{}: it is missing, and a later shard is there", path.display());
        ensure!(
            images.len() == shard * SHARD * shape.elements(),
            "{}: the shard before it is not full",
            path.display()
        );
        images.extend(read_shard(&path, &recipe, shard)?);
    }
    // What a solver that diverged, or pictures of another scale, would show.
    let mean = images.iter().map(|x| f64::from(*x)).sum::<f64>() / images.len() as f64;
    let square = images.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / images.len() as f64;
    let deviation = (square - mean * mean).max(0.0).sqrt();
    ensure!(
        mean.abs() < 1.0 && (0.02..2.0).contains(&deviation),
        "{}: the pictures have mean {mean:.3} and deviation {deviation:.3}, which pictures in [-1, 1] do not have",
        folder.display()
    );
    Ok(Pairs {
        first_seed: recipe.first_seed,
        shape,
        images,
        teacher: recipe.teacher,
        sampler: recipe.sampler,
    })
}

fn path(folder: &Path, shard: usize) -> PathBuf {
    folder.join(format!("{shard:05}.safetensors"))
}

/// The number of the last shard of a folder.
fn last(folder: &Path) -> Result<usize> {
    let context = || format!("reading {}", folder.display());
    let mut last = 0;
    for entry in fs::read_dir(folder).with_context(context)? {
        let name = entry.with_context(context)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".safetensors"));
        last = last.max(number.and_then(|number| number.parse().ok()).unwrap_or(0));
    }
    Ok(last)
}

/// What tells a pair from its neighbours: the first number of its noise and the mean of its picture. Pairs that were
/// reordered, or noise that is not what it was, do not match their marks.
fn marks(images: &[f32], seeds: &[u64], shape: Shape) -> Vec<f32> {
    let mean = |picture: &[f32]| picture.iter().sum::<f32>() / picture.len() as f32;
    let pictures = images.chunks_exact(shape.elements());
    let number = |seed: u64| {
        let mut number = [0.0];
        Noise::new(seed).fill(&mut number);
        number[0]
    };
    seeds.iter().zip(pictures).flat_map(|(&seed, picture)| [number(seed), mean(picture)]).collect()
}

fn read_shard(path: &Path, recipe: &Recipe, shard: usize) -> Result<Vec<f32>> {
    images_of(path, checkpoint::read_tensors(path)?, recipe, shard)
}

/// The pictures of a shard that was read, checked against recipe and marks.
fn images_of(
    path: &Path,
    (texts, mut tensors): (Texts, Tensors),
    recipe: &Recipe,
    shard: usize,
) -> Result<Vec<f32>> {
    let at = || path.display();
    for (key, expected) in recipe.texts(shard) {
        let found = texts.get(&key).map_or("nothing", String::as_str);
        ensure!(found == expected, "{}: its {key} is {found}, not {expected}", at());
    }
    let (dimensions, images) =
        tensors.remove("images").with_context(|| format!("{}: no tensor images", at()))?;
    let Shape { channels, height, width } = recipe.shape;
    let expected: [usize; 3] = [channels.into(), height.into(), width.into()];
    ensure!(
        dimensions.len() == 4 && dimensions[1..] == expected && (1..=SHARD).contains(&dimensions[0]),
        "{}: its pictures have shape {dimensions:?} where {} are expected",
        at(),
        recipe.shape
    );
    let seeds: Vec<u64> = (0..dimensions[0]).map(|index| recipe.seed(shard, index)).collect();
    let (_, found) = tensors.remove("marks").with_context(|| format!("{}: no tensor marks", at()))?;
    let expected = marks(&images, &seeds, recipe.shape);
    ensure!(found.len() == expected.len(), "{}: its marks are not two a picture", at());
    let wrong = found.iter().zip(&expected).position(|(a, b)| (a - b).abs() > 1e-5);
    if let Some(wrong) = wrong {
        anyhow::bail!("{}: pair {} is not that of its seed: the order has changed", at(), wrong / 2);
    }
    Ok(images)
}

impl Pairs {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.images.len() / self.shape.elements()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Seeds of some pairs.
    pub fn seeds(&self, indices: &[usize]) -> Vec<u64> {
        indices.iter().map(|&i| self.first_seed.wrapping_add(i as u64)).collect()
    }

    /// Some pairs: noise x1 and pictures x̂0, both `[n, c, h, w]`.
    pub fn batch(&self, indices: &[usize], device: &Device) -> (Tensor<4>, Tensor<4>) {
        let elements = self.shape.elements();
        let seeds = self.seeds(indices);
        let images = indices.iter().flat_map(|&i| &self.images[i * elements..(i + 1) * elements]);
        let x0 = flow::pictures(images.copied().collect(), indices.len(), self.shape, device);
        (flow::seeded_noise(&seeds, self.shape, device), x0)
    }
}
