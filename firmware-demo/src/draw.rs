//! What the screens show, on any screen of embedded-graphics.

use core::fmt::Write;

use embedded_graphics::mono_font::{MonoTextStyle, ascii::FONT_6X10};
use embedded_graphics::pixelcolor::{Gray4, GrayColor, Rgb888};
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::Rectangle;
use embedded_graphics::text::{Baseline, Text};
use traflow_runtime::Picture;

/// A color that a pixel of a picture can be drawn in.
pub trait Shade: PixelColor {
    /// The color of a pixel's bytes, one or three.
    fn of(bytes: &[u8]) -> Self;
}

impl Shade for Gray4 {
    fn of(bytes: &[u8]) -> Self {
        Self::new(bytes.first().copied().unwrap_or(0) >> 4)
    }
}

impl Shade for Rgb888 {
    fn of(bytes: &[u8]) -> Self {
        match *bytes {
            [r, g, b] => Self::new(r, g, b),
            _ => bytes.first().map_or(Self::BLACK, |&gray| Self::new(gray, gray, gray)),
        }
    }
}

/// Draws a picture with its upper left corner here, each pixel as a square.
fn picture<D: DrawTarget<Color: Shade>>(
    screen: &mut D,
    picture: &Picture<'_>,
    at: Point,
    scale: u32,
) -> Result<(), D::Error> {
    let (channels, width) = (usize::from(picture.shape.channels), usize::from(picture.shape.width));
    let mut bytes = picture.bytes();
    for pixel in 0..picture.shape.pixels() {
        let mut color = [0; 3];
        for byte in color.iter_mut().take(channels) {
            *byte = bytes.next().unwrap_or(0);
        }
        let corner = Point::new((pixel % width) as i32, (pixel / width) as i32);
        let square = Rectangle::new(at + corner * scale as i32, Size::new_equal(scale));
        screen.fill_solid(&square, Shade::of(&color[..channels.min(3)]))?;
    }
    Ok(())
}

/// How many times a picture fits into a square of this side.
fn scale(shown: &Picture<'_>, side: u32) -> u32 {
    (side / u32::from(shown.shape.height.max(shown.shape.width)).max(1)).max(1)
}

/// A picture on a small screen, with the seeds that it is between beside it.
///
/// # Errors
/// Those of the screen.
pub fn label<D>(screen: &mut D, shown: &Picture<'_>, seeds: [u64; 2], at: u16) -> Result<(), D::Error>
where
    D: DrawTarget<Color = Gray4> + OriginDimensions,
{
    screen.clear(Gray4::BLACK)?;
    let height = screen.size().height;
    let scale = scale(shown, height);
    let margin = (height - (scale * u32::from(shown.shape.height)).min(height)) / 2;
    picture(screen, shown, Point::new(margin as i32, margin as i32), scale)?;
    let left = height as i32 + 2;
    let style = MonoTextStyle::new(&FONT_6X10, Gray4::WHITE);
    let mut line = Line::default();
    let _ = write!(line, "seed {}", seeds[0]);
    Text::with_baseline(line.text(), Point::new(left, 8), style, Baseline::Top).draw(screen)?;
    if at > 0 {
        let mut line = Line::default();
        let _ = write!(line, "  to {}", seeds[1]);
        Text::with_baseline(line.text(), Point::new(left, 22), style, Baseline::Top).draw(screen)?;
        let bar = Rectangle::new(Point::new(left, 40), Size::new(u32::from(at) * 56 / 256, 4));
        screen.fill_solid(&bar, Gray4::new(9))?;
    }
    Ok(())
}

/// Columns and rows of pictures on a large screen.
pub const GRID: [u32; 2] = [4, 3];

/// One picture of a large screen full of them.
///
/// # Errors
/// Those of the screen.
pub fn cell<D>(screen: &mut D, shown: &Picture<'_>, index: u32) -> Result<(), D::Error>
where
    D: DrawTarget<Color = Rgb888> + OriginDimensions,
{
    let side = screen.size().height / GRID[1];
    let scale = scale(shown, side);
    let corner = Point::new((index % GRID[0] * side) as i32, (index / GRID[0] * side) as i32);
    let margin = side.saturating_sub(scale * u32::from(shown.shape.height)) / 2;
    picture(screen, shown, corner + Point::new_equal(margin as i32), scale)
}

/// A short text without a heap; what does not fit is cut.
#[derive(Default)]
struct Line {
    bytes: [u8; 24],
    len: usize,
}

impl Line {
    fn text(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or("")
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for (place, byte) in self.bytes[self.len..].iter_mut().zip(text.bytes()) {
            *place = byte;
            self.len += 1;
        }
        Ok(())
    }
}
