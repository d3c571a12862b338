//! Pictures beside each other, as a PNG file.

use anyhow::{Result, bail, ensure};
use png::{BitDepth, ColorType};
use traflow_runtime::Shape;

/// Pixels between the pictures of a grid.
const GAP: usize = 2;

/// Pictures beside each other, in a grid as square as it gets.
pub(crate) struct Grid {
    shape: Shape,
    columns: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// Its pixels; none before there are pictures.
    pub(crate) bytes: Vec<u8>,
}

impl Grid {
    pub(crate) fn new(shape: Shape, count: usize) -> Result<Self> {
        if shape.channels != 1 && shape.channels != 3 {
            bail!("a picture of {} channels is neither gray nor RGB", shape.channels);
        }
        let columns = (1..).find(|n| n * n >= count).unwrap_or(1);
        let width = columns * (usize::from(shape.width) + GAP) - GAP;
        let height = count.div_ceil(columns) * (usize::from(shape.height) + GAP) - GAP;
        ensure!(width.max(height) <= 65_536, "a grid of {width}×{height} pixels is too large");
        Ok(Self { shape, columns, width, height, bytes: Vec::new() })
    }

    /// Puts the bytes of pictures, each by row, column and channel, into their places.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.bytes.resize(self.width * self.height * usize::from(self.shape.channels), 255);
        for (index, picture) in bytes.chunks_exact(self.shape.elements()).enumerate() {
            self.put_picture(index, picture);
        }
    }

    fn put_picture(&mut self, index: usize, picture: &[u8]) {
        let (width, channels) = (usize::from(self.shape.width), usize::from(self.shape.channels));
        let top = index / self.columns * (usize::from(self.shape.height) + GAP);
        let left = index % self.columns * (width + GAP);
        for (row, bytes) in picture.chunks_exact(width * channels).enumerate() {
            let start = ((top + row) * self.width + left) * channels;
            self.bytes[start..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    pub(crate) fn color(&self) -> ColorType {
        if self.shape.channels == 1 { ColorType::Grayscale } else { ColorType::Rgb }
    }

    /// The bytes of a PNG file.
    pub(crate) fn png(&self, texts: &[(&str, String)]) -> Result<Vec<u8>> {
        let mut png = Vec::new();
        let mut encoder = png::Encoder::new(&mut png, self.width as u32, self.height as u32);
        encoder.set_color(self.color());
        encoder.set_depth(BitDepth::Eight);
        for (keyword, text) in texts {
            encoder.add_text_chunk((*keyword).to_owned(), text.clone())?;
        }
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.bytes)?;
        writer.finish()?;
        Ok(png)
    }
}
