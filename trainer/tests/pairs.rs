//! Pairs go on where they stopped, and are checked when they are read.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;

use burn::tensor::Device;
use traflow_graph::checkpoint::{self, Precision};
use traflow_graph::op::Shape;
use traflow_graph::unet::{Architecture, Unet};
use traflow_trainer::initial;
use traflow_trainer::network::Network;
use traflow_trainer::pairs::{self, Recipe, SHARD};
use traflow_trainer::sample::Sampler;
use traflow_trainer::solver::Solver;

const SHAPE: Shape = Shape::new(1, 4, 4);

fn network() -> Network {
    let unet = Unet {
        architecture: Architecture::Ddpmpp,
        image: [1, 4, 4],
        base: 4,
        mult: vec![1],
        blocks: 1,
        attention: vec![],
        ..Unet::default()
    };
    initial::random(unet.graph().unwrap(), 1, &Device::flex())
}

fn recipe() -> Recipe {
    Recipe { teacher: "abc".into(), sampler: "euler 1 step".into(), first_seed: 9, shape: SHAPE }
}

const SAMPLER: Sampler = Sampler::Ode(Solver::Euler, 1);

#[test]
fn an_interrupted_generation_goes_on() {
    let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let count = SHARD + 30;
    let make = |folder: &tempfile::TempDir, count| {
        pairs::generate(folder.path(), &network(), SAMPLER, &recipe(), count, &mut |_| ()).unwrap();
    };
    make(&whole, count);
    make(&cut, SHARD);
    let first = cut.path().join("00000.safetensors");
    let before = fs::metadata(&first).unwrap().modified().unwrap();
    make(&cut, count);
    assert_eq!(before, fs::metadata(&first).unwrap().modified().unwrap(), "a shard was made twice");
    let kept = whole;
    let (whole, cut) = (pairs::read(kept.path(), SHAPE).unwrap(), pairs::read(cut.path(), SHAPE).unwrap());
    assert_eq!((cut.len(), cut.first_seed), (count, 9));
    for fewer in [SHARD, count - 1] {
        let error =
            pairs::generate(kept.path(), &network(), SAMPLER, &recipe(), fewer, &mut |_| ()).unwrap_err();
        assert!(error.to_string().ends_with(&format!("more than {fewer} pairs already")), "{error}");
    }
    assert!(whole.images == cut.images);

    // Those of a shard that is lost are not missed in silence.
    let at = |shard: usize| kept.path().join(format!("{shard:05}.safetensors"));
    fs::rename(at(1), at(2)).unwrap();
    let error = pairs::read(kept.path(), SHAPE).err().unwrap().to_string();
    assert!(error.ends_with("00001.safetensors: it is missing, and a later shard is there"), "{error}");
}

#[test]
fn pairs_of_another_order_or_recipe_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    pairs::generate(folder.path(), &network(), SAMPLER, &recipe(), 8, &mut |_| ()).unwrap();
    let path = folder.path().join("00000.safetensors");
    let (texts, tensors) = checkpoint::read_tensors(&path).unwrap();

    // Two pictures change places.
    let mut swapped = tensors.clone();
    let (left, right) = swapped.get_mut("images").unwrap().1.split_at_mut(16);
    left.swap_with_slice(&mut right[..16]);
    checkpoint::write_tensors(&path, &texts, &swapped, Precision::F32).unwrap();
    let error = pairs::read(folder.path(), SHAPE).err().unwrap().to_string();
    assert!(error.ends_with("pair 0 is not that of its seed: the order has changed"), "{error}");

    // The seeds are others.
    let mut shifted = texts.clone();
    shifted.insert("first_seed".into(), "10".into());
    checkpoint::write_tensors(&path, &shifted, &tensors, Precision::F32).unwrap();
    assert!(pairs::read(folder.path(), SHAPE).is_err());

    // The teacher that is to go on is another.
    checkpoint::write_tensors(&path, &texts, &tensors, Precision::F32).unwrap();
    let other = Recipe { teacher: "def".into(), ..recipe() };
    let error = pairs::generate(folder.path(), &network(), SAMPLER, &other, 8, &mut |_| ()).unwrap_err();
    assert!(error.to_string().ends_with("its teacher is abc, not def"), "{error}");

    let error = pairs::read(folder.path(), Shape::new(3, 4, 4)).err().unwrap().to_string();
    assert!(error.contains("[8, 1, 4, 4]"), "{error}");
    fs::write(&path, b"short").unwrap();
    assert!(pairs::read(folder.path(), SHAPE).is_err());
    fs::remove_file(&path).unwrap();
    assert!(pairs::read(folder.path(), SHAPE).is_err());
}
