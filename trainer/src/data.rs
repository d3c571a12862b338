//! Data sets: folders of PNG and JPEG files, pictures and labels in the IDX format of MNIST, plain or gzipped, and CIFAR-10's
//! binary files.
//!
//! Pictures in colour are IDX files of four dimensions: pictures, channels, rows, columns.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Tensor};
use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use traflow_graph::op::Shape;

use crate::flow;

mod folder;

/// Magic number of a file of grey pictures: bytes in three dimensions.
const IMAGES: u32 = 0x0803;

/// Magic number of a file of pictures with channels: bytes in four dimensions.
const COLOUR_IMAGES: u32 = 0x0804;

/// Magic number of a file of labels: bytes in one dimension.
const LABELS: u32 = 0x0801;

/// Pictures of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Channels of a picture.
    pub channels: usize,
    /// Rows of a picture.
    pub height: usize,
    /// Columns of a picture.
    pub width: usize,
    /// `[n, channels, height, width]`, from 0, black, to 255.
    pub pixels: Vec<u8>,
}

impl Images {
    /// Shape of one picture.
    pub fn shape(&self) -> Shape {
        Shape::new(self.channels as u16, self.height as u16, self.width as u16)
    }

    /// Bytes of one picture.
    pub fn picture_len(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.pixels.len() / self.picture_len().max(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.pixels.is_empty()
    }

    /// Picture `index`, `[channels, height, width]`.
    ///
    /// # Panics
    /// If there is no such picture.
    pub fn picture(&self, index: usize) -> &[u8] {
        let length = self.picture_len();
        &self.pixels[index * length..][..length]
    }

    /// Some pictures as a batch, `[n, channels, height, width]` in [-1, 1].
    pub fn batch(&self, indices: &[usize], device: &Device) -> Tensor<4> {
        let values = indices.iter().flat_map(|&i| from_pixels(self.picture(i))).collect();
        flow::pictures(values, indices.len(), self.shape(), device)
    }

    /// The index of the picture with the least squared distance from this one, whose values are in [-1, 1], or `None`
    /// where there are no pictures.
    pub fn nearest(&self, picture: &[f32]) -> Option<usize> {
        let distance = |index: usize| -> f32 {
            from_pixels(self.picture(index)).iter().zip(picture).map(|(a, b)| (a - b).powi(2)).sum()
        };
        let all = (0..self.len()).map(|index| (index, distance(index)));
        all.min_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
    }
}

/// Channels, height and width of CIFAR-10's pictures.
const CIFAR: [usize; 3] = [3, 32, 32];

/// Reads pictures from an IDX file, gzipped or not, or, where the name ends in `.bin`, from one of CIFAR-10's files.
///
/// # Errors
/// Where the file cannot be read, is of another kind, has no pictures, or is not as long as it says.
pub fn read_images(path: &Path) -> Result<Images> {
    if is_cifar(path) {
        return Ok(read_cifar(path)?.0);
    }
    let (dimensions, pixels) = read(path, &[IMAGES, COLOUR_IMAGES])?;
    let (channels, height, width) = match dimensions[..] {
        [_, channels, height, width] => (channels, height, width),
        [_, height, width] => (1, height, width),
        _ => bail!("{}: its dimensions {dimensions:?} are not those of pictures", path.display()),
    };
    let fits = [channels, height, width].iter().all(|&d| u16::try_from(d).is_ok());
    ensure!(fits, "{}: pictures of {channels}×{height}×{width} are too large", path.display());
    Ok(Images { channels, height, width, pixels })
}

/// Pictures of this shape: those of a file, as [`read_images`] has them, or those of a folder of PNG and JPEG files, cut from
/// the middle and scaled.
///
/// # Errors
/// Where there are none, one cannot be read, or those of a file have another shape.
pub fn read_pictures(path: &Path, shape: Shape) -> Result<Images> {
    if path.is_dir() {
        return folder::read_images(path, shape);
    }
    let images = read_images(path)?;
    ensure!(images.shape() == shape, "{}: pictures of {}, not {shape}", path.display(), images.shape());
    Ok(images)
}

fn is_cifar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "bin")
}

fn read_cifar(path: &Path) -> Result<(Images, Vec<u8>)> {
    let context = || format!("reading {}", path.display());
    parse_cifar(&fs::read(path).with_context(context)?).with_context(context)
}

/// Pictures and labels of one of CIFAR-10's binary files: a byte of label, then red, green and blue, row by row.
fn parse_cifar(file: &[u8]) -> Result<(Images, Vec<u8>)> {
    let [channels, height, width] = CIFAR;
    let record = 1 + channels * height * width;
    ensure!(
        !file.is_empty() && file.len().is_multiple_of(record),
        "its {} bytes are no records of {record} bytes, as CIFAR-10 has",
        file.len()
    );
    let labels: Vec<u8> = file.iter().step_by(record).copied().collect();
    if let Some(index) = labels.iter().position(|&label| label > 9) {
        bail!("picture {index} has label {}, CIFAR-10's end with 9", labels[index]);
    }
    let pixels = file.chunks_exact(record).flat_map(|record| &record[1..]).copied().collect();
    Ok((Images { channels, height, width, pixels }, labels))
}

/// Reads labels from an IDX file, gzipped or not, or, where the name ends in `.bin`, from one of CIFAR-10's files; those of a
/// folder's pictures are the places of the folders in it.
///
/// # Errors
/// As [`read_images`].
pub fn read_labels(path: &Path) -> Result<Vec<u16>> {
    if path.is_dir() {
        return folder::read_labels(path);
    }
    let labels = if is_cifar(path) { read_cifar(path)?.1 } else { read(path, &[LABELS])?.1 };
    Ok(labels.into_iter().map(u16::from).collect())
}

/// The SHA-256 of a file's bytes in hexadecimal digits.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The dimensions and the bytes of an IDX file of one of these kinds.
fn read(path: &Path, magics: &[u32]) -> Result<(Vec<usize>, Vec<u8>)> {
    let file = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let read = if file.starts_with(&[0x1f, 0x8b]) {
        parse(MultiGzDecoder::new(file.as_slice()), magics)
    } else {
        parse(file.as_slice(), magics)
    };
    read.with_context(|| format!("reading {}", path.display()))
}

fn parse(mut file: impl Read, magics: &[u32]) -> Result<(Vec<usize>, Vec<u8>)> {
    let mut number = || -> Result<u32> {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes).context("its header is cut off or damaged")?;
        Ok(u32::from_be_bytes(bytes))
    };
    let found = number()?;
    ensure!(magics.contains(&found), "its magic number is {found:#010x}, not {:#010x}", magics[0]);
    // The last byte of a magic number is the number of dimensions.
    let dimensions = (0..found & 0xff).map(|_| Ok(number()? as usize)).collect::<Result<Vec<_>>>()?;
    let length = dimensions.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let length = match length {
        Some(0) => bail!("it is empty: its dimensions are {dimensions:?}"),
        Some(length) if length < usize::MAX => length,
        _ => bail!("its dimensions {dimensions:?} are too large"),
    };
    // The buffer grows with what is there, whatever the header promises; one byte more tells that there is more.
    let mut bytes = Vec::new();
    file.take(length as u64 + 1).read_to_end(&mut bytes).context("its data are cut off or damaged")?;
    if bytes.len() < length {
        bail!("it has {} bytes of data where its dimensions {dimensions:?} need {length}", bytes.len());
    }
    ensure!(bytes.len() == length, "it has more data than its dimensions {dimensions:?} need");
    Ok((dimensions, bytes))
}

/// Pixels 0 to 255 as values in [-1, 1].
pub fn from_pixels(pixels: &[u8]) -> Vec<f32> {
    pixels.iter().map(|&p| f32::from(p) / 127.5 - 1.0).collect()
}

/// Values in [-1, 1] as pixels 0 to 255, rounded to the nearest; values beyond are clamped.
pub fn to_pixels(values: &[f32]) -> Vec<u8> {
    // A float becomes an integer by saturation; no number becomes 0.
    values.iter().map(|x| ((x + 1.0) * 127.5).round() as u8).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::PathBuf;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn idx(magic: u32, dimensions: &[u32], bytes: usize) -> Vec<u8> {
        let header = [&[magic], dimensions].concat();
        header.iter().flat_map(|n| n.to_be_bytes()).chain((0..bytes).map(|i| i as u8)).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn with_file<T>(bytes: &[u8], read: impl Fn(&Path) -> Result<T>) -> Result<T> {
        let mut file = tempfile::NamedTempFile::with_prefix("idx").unwrap();
        file.write_all(bytes).unwrap();
        read(file.path())
    }

    fn error(bytes: &[u8]) -> String {
        let text = format!("{:#}", with_file(bytes, read_images).unwrap_err());
        assert!(text.starts_with("reading /") && text.contains("/idx") && !text.contains('\n'), "{text}");
        text.split_once(": ").unwrap().1.to_owned()
    }

    #[test]
    fn pictures_and_labels_are_read_plain_and_gzipped() {
        let file = idx(IMAGES, &[2, 3, 4], 24);
        for bytes in [gzip(&file), file] {
            let images = with_file(&bytes, read_images).unwrap();
            assert_eq!((images.channels, images.height, images.width, images.len()), (1, 3, 4, 2));
            assert_eq!(images.picture(1), (12..24).collect::<Vec<u8>>());
        }
        let file = idx(LABELS, &[5], 5);
        for bytes in [gzip(&file), file] {
            assert_eq!(with_file(&bytes, read_labels).unwrap(), [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn pictures_in_colour_are_read() {
        let file = idx(COLOUR_IMAGES, &[2, 3, 2, 4], 48);
        for bytes in [gzip(&file), file] {
            let images = with_file(&bytes, read_images).unwrap();
            assert_eq!((images.channels, images.height, images.width, images.len()), (3, 2, 4, 2));
            assert_eq!(images.picture(1), (24..48).collect::<Vec<u8>>());
        }
        assert_eq!(
            error(&idx(COLOUR_IMAGES, &[1, 3, 2, 4], 23)),
            "it has 23 bytes of data where its dimensions [1, 3, 2, 4] need 24"
        );
        let wide =
            format!("{:#}", with_file(&idx(IMAGES, &[1, 1, 70_000], 70_000), read_images).unwrap_err());
        assert!(wide.ends_with("pictures of 1×1×70000 are too large"), "{wide}");
    }

    #[test]
    fn cifar_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data_batch_1.bin");
        let record = |label: u8| std::iter::once(label).chain((0..3072).map(move |i| i as u8 ^ label));
        let file: Vec<u8> = record(9).chain(record(3)).collect();
        fs::write(&path, &file).unwrap();
        let images = read_images(&path).unwrap();
        assert_eq!((images.channels, images.height, images.width, images.len()), (3, 32, 32, 2));
        assert_eq!(images.picture(1), (0..3072).map(|i| i as u8 ^ 3).collect::<Vec<u8>>());
        assert_eq!(read_labels(&path).unwrap(), [9, 3]);
        for (bytes, reason) in [
            (&file[..3072], "its 3072 bytes are no records of 3073 bytes, as CIFAR-10 has"),
            (&[], "its 0 bytes are no records of 3073 bytes, as CIFAR-10 has"),
            (&[10; 3073], "picture 0 has label 10, CIFAR-10's end with 9"),
        ] {
            fs::write(&path, bytes).unwrap();
            let text = format!("{:#}", read_images(&path).unwrap_err());
            assert!(text.ends_with(reason), "{text}");
        }
    }

    #[test]
    fn damaged_files_are_errors() {
        assert!(error(b"").starts_with("its header is cut off or damaged: "));
        assert_eq!(error(&idx(LABELS, &[2, 3, 4], 24)), "its magic number is 0x00000801, not 0x00000803");
        assert_eq!(
            error(&idx(IMAGES, &[2, 3, 4], 23)),
            "it has 23 bytes of data where its dimensions [2, 3, 4] need 24"
        );
        assert_eq!(
            error(&idx(IMAGES, &[2, 3, 4], 25)),
            "it has more data than its dimensions [2, 3, 4] need"
        );
        assert_eq!(error(&idx(IMAGES, &[0, 28, 28], 0)), "it is empty: its dimensions are [0, 28, 28]");
        let large = [u32::MAX; 3];
        assert_eq!(
            error(&idx(IMAGES, &large, 9)),
            "its dimensions [4294967295, 4294967295, 4294967295] are too large"
        );
        assert!(error(&idx(IMAGES, &[u32::MAX, u32::MAX, 1], 9)).starts_with("it has 9 bytes of data"));
        let missing = read_images(Path::new("/no/such/file")).unwrap_err();
        assert!(format!("{missing:#}").starts_with("reading /no/such/file: No such file"));
    }

    #[test]
    fn every_cut_of_a_gzipped_file_is_an_error() {
        let file = gzip(&idx(IMAGES, &[2, 3, 4], 24));
        for length in 0..file.len() {
            error(&file[..length]);
        }
        for place in 0..file.len() * 8 {
            let mut damaged = file.clone();
            damaged[place / 8] ^= 1 << (place % 8);
            // The time stamp and the like may be any; the pictures are as they were, or there are none.
            if let Ok(images) = with_file(&damaged, read_images) {
                assert_eq!(images.pixels, (0..24).collect::<Vec<u8>>());
            }
        }
    }

    #[test]
    fn fashion_mnist_is_read() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../data/fashion-mnist");
        let images = read_images(&folder.join("t10k-images-idx3-ubyte.gz")).unwrap();
        assert_eq!((images.channels, images.height, images.width, images.len()), (1, 28, 28, 10_000));
        let labels = read_labels(&folder.join("t10k-labels-idx1-ubyte.gz")).unwrap();
        assert_eq!((labels.len(), labels.iter().max()), (10_000, Some(&9)));
    }

    #[test]
    fn pixels_survive_the_way_there_and_back() {
        let pixels: Vec<u8> = (0..=255).collect();
        let values = from_pixels(&pixels);
        assert_eq!((values[0], values[255]), (-1.0, 1.0));
        assert_eq!(to_pixels(&values), pixels);
        assert_eq!(to_pixels(&[-7.0, 9.0, f32::INFINITY, f32::NAN, 0.0]), [0, 255, 255, 0, 128]);
    }
}
