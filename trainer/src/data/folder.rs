//! Folders of pictures: PNG and JPEG files in the folder and in the folders below it, by name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use rayon::prelude::*;
use traflow_graph::op::Shape;

use super::Images;

/// Endings of the files that are read.
const ENDINGS: [&str; 3] = ["png", "jpg", "jpeg"];

/// The pictures of a folder, each turned as it says, cut from the middle and scaled to this shape; what is transparent stands
/// on white.
///
/// # Errors
/// Where there are none, one cannot be read, or the shape is neither gray nor in colour.
pub(super) fn read_images(folder: &Path, shape: Shape) -> Result<Images> {
    let files = files(folder)?;
    ensure!(!files.is_empty(), "{}: there is no PNG or JPEG file in it", folder.display());
    let pictures = files
        .par_iter()
        .map(|file| picture(file, shape).with_context(|| format!("reading {}", file.display())));
    let pixels = pictures.collect::<Result<Vec<_>>>()?.concat();
    let [channels, height, width] = [shape.channels, shape.height, shape.width].map(usize::from);
    Ok(Images { channels, height, width, pixels })
}

/// The class of each picture of a folder: the place of the folder below it that the picture is in among all of these, by
/// name. Those without pictures count too, so that a part of a data set has the classes of the whole.
///
/// # Errors
/// Where a picture is in no such folder, or there are more of them than a u16 counts.
pub(super) fn read_labels(folder: &Path) -> Result<Vec<u16>> {
    let classes: Vec<PathBuf> = entries(folder)?.into_iter().filter(|path| path.is_dir()).collect();
    let class = |file: PathBuf| -> Result<u16> {
        let first = file.strip_prefix(folder)?.components().next().map(|first| folder.join(first));
        let place = first.and_then(|first| classes.binary_search(&first).ok());
        let place = place.with_context(|| format!("{}: it is in no folder of a class", file.display()))?;
        u16::try_from(place).with_context(|| format!("{}: more than 65,536 classes", folder.display()))
    };
    files(folder)?.into_iter().map(class).collect()
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("reading {}", folder.display());
    let entries = fs::read_dir(folder).with_context(context)?;
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>().with_context(context)?;
    paths.sort();
    Ok(paths)
}

/// All pictures below a folder, by name.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in entries(folder)? {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if ENDINGS.contains(&&*ending) {
            found.push(path);
        }
    }
    Ok(found)
}

/// One picture, `[channels, height, width]`.
fn picture(file: &Path, shape: Shape) -> Result<Vec<u8>> {
    let mut decoder = ImageReader::open(file)?.with_guessed_format()?.into_decoder()?;
    Limits::default().reserve(decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    let mut image = DynamicImage::from_decoder(decoder)?;
    image.apply_orientation(orientation);
    let mut image = image.to_rgba8();
    for pixel in image.pixels_mut() {
        let [red, green, blue, opaque] = pixel.0.map(u32::from);
        // To the nearest.
        let on_white = |value: u32| ((value * opaque + 255 * (255 - opaque) + 127) / 255) as u8;
        pixel.0 = [on_white(red), on_white(green), on_white(blue), 255];
    }
    let (width, height) = (u32::from(shape.width), u32::from(shape.height));
    // The largest part with the shape's ratio, from the middle. Sizes of an image that was decoded have room in 64 bits.
    let (of_width, of_height) = (u64::from(image.width()), u64::from(image.height()));
    let part = |side: u64, other: u64, [a, b]: [u32; 2]| {
        side.min(other * u64::from(a) / u64::from(b).max(1)).max(1) as u32
    };
    let part_width = part(of_width, of_height, [width, height]);
    let part_height = part(of_height, of_width, [height, width]);
    let (left, top) = ((image.width() - part_width) / 2, (image.height() - part_height) / 2);
    let image = DynamicImage::from(image).crop_imm(left, top, part_width, part_height).resize_exact(
        width,
        height,
        FilterType::Lanczos3,
    );
    match shape.channels {
        1 => Ok(image.to_luma8().into_raw()),
        3 => {
            let image = image.to_rgb8();
            let plane = |channel: usize| image.pixels().map(move |pixel| pixel.0[channel]);
            Ok((0..3).flat_map(plane).collect())
        }
        channels => bail!("a network of {channels} channels reads no such files"),
    }
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use image::{Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;

    /// Two classes of two pictures, and a text.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, colour) in
            [("a/1.png", [255, 0, 0, 255]), ("a/2.PNG", [0, 0, 0, 0]), ("b/c/3.png", [0, 0, 255, 255])]
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // What is left and right of the middle is cut off.
            let image = RgbaImage::from_fn(40, 20, |x, _| {
                Rgba(if (10..30).contains(&x) { colour } else { [0, 255, 0, 255] })
            });
            image.save_with_format(path, image::ImageFormat::Png).unwrap();
        }
        fs::write(folder.path().join("a/notes.txt"), "none").unwrap();
        folder
    }

    #[test]
    fn pictures_are_cut_scaled_and_put_on_white() {
        let folder = folder();
        let images = read_images(folder.path(), Shape::new(3, 4, 4)).unwrap();
        assert_eq!(images.shape(), Shape::new(3, 4, 4));
        let expected = [[255, 0, 0], [255, 255, 255], [0, 0, 255]];
        assert_eq!(images.len(), expected.len());
        for (index, colour) in expected.into_iter().enumerate() {
            let planes: Vec<u8> = colour.into_iter().flat_map(|value| [value; 16]).collect();
            assert_eq!(images.picture(index), planes, "{index}");
        }
        let gray = read_images(folder.path(), Shape::new(1, 2, 2)).unwrap();
        assert_eq!(gray.picture(1), [255; 4]);
        assert_eq!(read_labels(folder.path()).unwrap(), [0, 0, 1]);
    }

    /// ImageNet has 1000; here all are empty but the first and the last.
    #[test]
    fn classes_are_counted_with_those_that_are_empty() {
        let folder = tempfile::tempdir().unwrap();
        for class in 0..1000 {
            fs::create_dir(folder.path().join(format!("n{class:03}"))).unwrap();
        }
        for class in ["n000", "n999"] {
            RgbImage::new(2, 2).save(folder.path().join(class).join("1.png")).unwrap();
        }
        assert_eq!(read_labels(folder.path()).unwrap(), [0, 999]);
    }

    /// A photograph that was taken with the camera on its side: the top of what is stored is the right of what was seen.
    #[test]
    fn pictures_stand_as_they_say() {
        let folder = tempfile::tempdir().unwrap();
        let image = RgbImage::from_fn(16, 16, |_, y| if y < 8 { Rgb([255; 3]) } else { Rgb([0; 3]) });
        let mut stored = Vec::new();
        JpegEncoder::new(&mut stored).encode_image(&image).unwrap();
        // After the two bytes of the start of the file: Exif, a TIFF of one entry, orientation 6.
        let entry = [0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0];
        let tiff = [&b"MM\0*\0\0\0\x08\0\x01"[..], &entry, &[0; 4]].concat();
        let exif = [&[0xff, 0xe1, 0, 2 + 6 + tiff.len() as u8], &b"Exif\0\0"[..], &tiff].concat();
        fs::write(folder.path().join("a.jpg"), &stored).unwrap();
        fs::write(folder.path().join("b.jpg"), [&stored[..2], &exif, &stored[2..]].concat()).unwrap();
        let images = read_images(folder.path(), Shape::new(1, 2, 2)).unwrap();
        let is_white = |index: usize| [0, 1, 2, 3].map(|i| images.picture(index)[i] > 127);
        assert_eq!(is_white(0), [true, true, false, false]);
        assert_eq!(is_white(1), [false, true, false, true]);
    }

    #[test]
    fn what_is_no_picture_is_named() {
        let folder = folder();
        let error = |shape| format!("{:#}", read_images(folder.path(), shape).unwrap_err());
        assert!(error(Shape::new(2, 4, 4)).ends_with("a network of 2 channels reads no such files"));
        fs::write(folder.path().join("0.png"), "text").unwrap();
        assert!(error(Shape::new(3, 4, 4)).contains("0.png: "), "{}", error(Shape::new(3, 4, 4)));
        let label = read_labels(folder.path()).unwrap_err().to_string();
        assert!(label.ends_with("0.png: it is in no folder of a class"), "{label}");
        let empty = tempfile::tempdir().unwrap();
        let none = read_images(empty.path(), Shape::new(3, 4, 4)).unwrap_err().to_string();
        assert!(none.ends_with("there is no PNG or JPEG file in it"), "{none}");
    }
}
