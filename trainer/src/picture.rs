//! Pictures as PNG files.

use std::io::Cursor;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use traflow_graph::op::Shape;

use crate::data::{Images, from_pixels, to_pixels};

/// A grid of pictures, filled row by row on black.
///
/// pictures: `[n, c, h, w]` in [-1, 1], of that shape, c = 1 (gray) or 3 (red, green, blue); `gap` is the
/// number of black pixels between neighbours.
///
/// # Errors
/// Where the values are not whole pictures of that shape, or the grid is too large for a picture.
pub fn grid(pictures: &[f32], shape: Shape, columns: usize, gap: usize) -> Result<DynamicImage> {
    let (c, h, w) = (usize::from(shape.channels), usize::from(shape.height), usize::from(shape.width));
    ensure!(c == 1 || c == 3, "a picture has 1 or 3 channels, not {c}");
    let length = c * h * w;
    ensure!(
        length > 0 && !pictures.is_empty() && pictures.len().is_multiple_of(length),
        "{} values are no pictures of {c}×{h}×{w}",
        pictures.len()
    );
    let count = pictures.len() / length;
    let columns = columns.clamp(1, count);
    let side = |count: usize, size: usize| u32::try_from(count * (size + gap) - gap);
    let width = side(columns, w).context("the grid is too wide")?;
    let height = side(count.div_ceil(columns), h).context("the grid is too high")?;
    let mut pixels = vec![0; c * width as usize * height as usize];
    for (index, picture) in pictures.chunks_exact(length).enumerate() {
        let (top, left) = (index / columns * (h + gap), index % columns * (w + gap));
        let picture = to_pixels(picture);
        for y in 0..h {
            for x in 0..w {
                let pixel = (top + y) * width as usize + left + x;
                for channel in 0..c {
                    // The network has planes, a PNG has the channels of a pixel side by side.
                    pixels[pixel * c + channel] = picture[(channel * h + y) * w + x];
                }
            }
        }
    }
    let image = if c == 1 {
        GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
    };
    image.context("the grid is too large")
}

/// Each picture, and after it the nearest one of a data set of the same shape: whoever has both beside each other sees
/// what a network has made and what it has learned by heart.
pub fn beside_nearest(pictures: &[f32], images: &Images) -> Vec<f32> {
    let beside = |picture: &[f32]| {
        let nearest =
            images.nearest(picture).into_iter().flat_map(|index| from_pixels(images.picture(index)));
        picture.iter().copied().chain(nearest).collect::<Vec<f32>>()
    };
    pictures.chunks_exact(images.picture_len()).flat_map(beside).collect()
}

/// Writes a picture as a PNG file, as a whole or not at all.
///
/// # Errors
/// Where the file cannot be written.
pub fn save(image: &DynamicImage, path: &Path) -> Result<()> {
    let mut png = Cursor::new(Vec::new());
    image
        .write_to(&mut png, ImageFormat::Png)
        .and_then(|()| Ok(traflow_graph::file::write(path, png.get_ref())?))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use image::GenericImageView;

    use super::*;

    #[test]
    fn pictures_fill_the_grid_row_by_row() {
        let pictures: Vec<f32> = [-1.0, 0.0, 1.0].iter().flat_map(|&x| [x; 6]).collect();
        let image = grid(&pictures, Shape::new(1, 2, 3), 2, 1).unwrap();
        let gray = image.as_luma8().unwrap();
        assert_eq!((gray.width(), gray.height()), (7, 5));
        let rows: Vec<&[u8]> = gray.as_raw().chunks(7).collect();
        assert_eq!(rows[0], [0, 0, 0, 0, 128, 128, 128]);
        assert_eq!(rows[1], rows[0]);
        assert_eq!(rows[2], [0; 7]);
        assert_eq!(rows[3], [255, 255, 255, 0, 0, 0, 0]);
        assert_eq!(rows[4], rows[3]);
        // No more columns than pictures.
        assert_eq!(grid(&pictures, Shape::new(1, 2, 3), 9, 0).unwrap().dimensions(), (9, 2));
        assert_eq!(grid(&pictures, Shape::new(1, 2, 3), 0, 0).unwrap().dimensions(), (3, 6));
    }

    #[test]
    fn planes_become_colours_and_a_file_keeps_them() {
        let image = grid(&[1.0, -1.0, -1.0, 1.0, 0.0, 0.0], Shape::new(3, 1, 2), 1, 0).unwrap();
        assert_eq!(image.as_rgb8().unwrap().as_raw(), &[255, 0, 128, 0, 255, 128]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/a.png");
        save(&image, &path).unwrap();
        assert_eq!(image::open(&path).unwrap(), image);
        let error = format!("{:#}", save(&image, folder.path()).unwrap_err());
        assert!(error.starts_with("writing /") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn the_nearest_picture_stands_beside() {
        let images = Images { channels: 1, height: 1, width: 2, pixels: vec![0, 0, 255, 0, 255, 255] };
        let beside = beside_nearest(&[0.9, -0.2, -1.0, -0.9], &images);
        assert_eq!(beside, [0.9, -0.2, 1.0, -1.0, -1.0, -0.9, -1.0, -1.0]);
    }

    #[test]
    fn what_is_no_picture_is_an_error() {
        for (values, [c, h, w]) in
            [(4, [2, 1, 2]), (5, [1, 1, 2]), (0, [1, 1, 1]), (3, [1, 0, 3]), (3, [3, 1, 0])]
        {
            let shape = Shape::new(c, h, w);
            assert!(grid(&vec![0.0; values], shape, 1, 0).is_err(), "{shape:?}");
        }
    }
}
