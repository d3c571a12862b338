//! The committed classifier finds the committed test pictures as far from the training pictures as it says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use traflow_trainer::data;
use traflow_trainer::evaluate::Report;
use traflow_trainer::features::Features;

fn at(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn the_floor_is_that_of_the_test_pictures() {
    let features = Features::read(&at("models/fashion-features.safetensors"), &Device::flex()).unwrap();
    let test = data::read_images(&at("data/fashion-mnist/t10k-images-idx3-ubyte.gz")).unwrap();
    assert!(features.accuracy >= 0.9);
    let of = |pictures: &[f32]| features.of(pictures).unwrap();
    let distance = features.distance(&of(&data::from_pixels(&test.pixels))).unwrap();
    assert!((distance / features.floor - 1.0).abs() < 1e-3, "{distance} is not {}", features.floor);

    // A generator that always draws the same few pictures is far away, noise farther.
    let few = data::from_pixels(&test.pixels[..100 * test.picture_len()]).repeat(10);
    let few = features.distance(&of(&few)).unwrap();
    let noise =
        features.distance(&of(&(0..1000 * 784).map(|i| (i as f32 * 0.7).sin()).collect::<Vec<_>>())).unwrap();
    assert!(10.0 * distance < few && few < noise, "{distance}, {few}, {noise}");

    let mut lost = data::from_pixels(&test.pixels[..100 * 784]);
    lost[5 * 784] = f32::NAN;
    let error = features.of(&lost).unwrap_err().to_string();
    assert_eq!(error, "picture 5 has a number that is not finite");

    let mut report = Report::new(&features);
    let (half, rest) = test.pixels.split_at(2000 * 784);
    let real = of(&data::from_pixels(half));
    report.real = Some(real);
    report
        .judge(
            &features,
            "others of the test set".into(),
            &data::from_pixels(&rest[..2000 * 784]),
            test.shape(),
        )
        .unwrap();
    // Halves of one set: nearly all are among the others, both ways.
    let beside = report.judgements[0].beside.unwrap();
    assert!(beside.precision > 0.8 && beside.recall > 0.8 && beside.discrepancy < 0.01, "{beside:?}");
    // The floor is that of as many pictures, from which others of the set are about as far.
    let floor = report.judgements[0].floor.unwrap();
    assert!(floor > 2.0 * features.floor, "{floor}");
    assert!((0.5..2.0).contains(&(report.judgements[0].distance / floor)), "{report:?}");
    report.judge(&features, "the test set".into(), &data::from_pixels(&test.pixels), test.shape()).unwrap();
    assert!(report.table().starts_with("FD-") && report.table().contains("not FID"), "{}", report.table());
    assert_eq!(report.judgements[1].floor, None, "there are fewer real pictures than are judged");

    // README's number, that of the quickstart and of docs/reproduce.md.
    let first = features.distance(&of(&data::from_pixels(&test.pixels[..5000 * 784]))).unwrap();
    assert_eq!(format!("{first:.4}"), "0.0339");
}

#[test]
fn a_file_of_something_else_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("features.safetensors");
    let whole = fs::read(at("models/fashion-features.safetensors")).unwrap();
    for bytes in
        [&whole[..whole.len() / 2], &[], &fs::read(at("models/fashion-student.safetensors")).unwrap()]
    {
        fs::write(&path, bytes).unwrap();
        let error = format!("{:#}", Features::read(&path, &Device::flex()).err().unwrap());
        assert!(error.contains("features.safetensors") && !error.contains('\n'), "{error}");
    }
}
