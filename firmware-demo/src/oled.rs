//! The OLED of the LM3S6965 board, 128×64 pixels of 16 grays by an SSD0323, and its buttons.

use core::convert::Infallible;

use embedded_graphics::pixelcolor::Gray4;
use embedded_graphics::prelude::*;

const WIDTH: usize = 128;
const HEIGHT: usize = 64;

/// Registers of the board, by address.
mod register {
    pub(super) const CLOCK_OF_SERIAL: usize = 0x400f_e104;
    pub(super) const CLOCK_OF_PINS: usize = 0x400f_e108;
    pub(super) const PORT_C: usize = 0x4000_6000;
    pub(super) const PORT_E: usize = 0x4002_4000;
    pub(super) const PORT_F: usize = 0x4002_5000;
    /// Of a port.
    pub(super) const DIRECTION: usize = 0x400;
    pub(super) const FUNCTION: usize = 0x420;
    pub(super) const PULL_UP: usize = 0x510;
    pub(super) const ENABLE: usize = 0x51c;
    /// The synchronous serial interface, an Arm PL022.
    pub(super) const SERIAL: usize = 0x4000_8000;
    pub(super) const CONTROL0: usize = 0x0;
    pub(super) const CONTROL1: usize = 0x4;
    pub(super) const DATA: usize = 0x8;
    pub(super) const STATUS: usize = 0xc;
    pub(super) const PRESCALE: usize = 0x10;
}

use register::*;

fn write(address: usize, value: u32) {
    // SAFETY: every address that this file writes to is a register of the board.
    unsafe { (address as *mut u32).write_volatile(value) }
}

fn read(address: usize) -> u32 {
    // SAFETY: every address that this file reads is a register of the board.
    unsafe { (address as *const u32).read_volatile() }
}

/// The screen, and what it is to show after [`Oled::flush`].
pub struct Oled {
    frame: [u8; WIDTH * HEIGHT / 2],
}

impl Oled {
    /// A black screen that nobody sees yet.
    pub const fn new() -> Self {
        Self { frame: [0; WIDTH * HEIGHT / 2] }
    }

    /// Switches it on. There is one.
    pub fn start(&mut self) {
        write(CLOCK_OF_SERIAL, 1 << 4);
        write(CLOCK_OF_PINS, 0b11_1111);
        // Pin 7 of port C says whether a byte is a command (low) or a pixel; buttons pull pins of E and F down.
        write(PORT_C + DIRECTION, 1 << 7);
        write(PORT_C + ENABLE, 1 << 7);
        write(PORT_E + PULL_UP, 0b1111);
        write(PORT_E + ENABLE, 0b1111);
        write(PORT_F + PULL_UP, 0b10);
        write(PORT_F + ENABLE, 0b10);
        write(PORT_C + FUNCTION, 0);
        // Eight bits, clock high while idle.
        write(SERIAL + CONTROL1, 0);
        write(SERIAL + PRESCALE, 2);
        write(SERIAL + CONTROL0, 0b1100_0111);
        write(SERIAL + CONTROL1, 0b10);
        // Columns of two pixels, rows, rows from the top and left to right, all lines, on.
        self.send(false, &[0xa8, 63, 0xa0, 0x52, 0xa1, 0, 0xa2, 0, 0xa4, 0x81, 0x7f, 0xaf]);
    }

    fn send(&self, pixels: bool, bytes: &[u8]) {
        // The address says which pins a write changes.
        write(PORT_C + (1 << 7 << 2), u32::from(pixels) << 7);
        for &byte in bytes {
            while read(SERIAL + STATUS) & 0b10 == 0 {}
            write(SERIAL + DATA, byte.into());
            // What comes back is nothing.
            while read(SERIAL + STATUS) & 0b100 == 0 {}
            read(SERIAL + DATA);
        }
    }

    /// Shows what was drawn.
    pub fn flush(&mut self) {
        self.send(false, &[0x15, 0, 63, 0x75, 0, 63]);
        self.send(true, &self.frame);
    }
}

impl Default for Oled {
    fn default() -> Self {
        Self::new()
    }
}

impl OriginDimensions for Oled {
    fn size(&self) -> Size {
        Size::new(WIDTH as u32, HEIGHT as u32)
    }
}

impl DrawTarget for Oled {
    type Color = Gray4;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Gray4>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, color) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { continue };
            if x < WIDTH
                && let Some(two) = self.frame.get_mut(y * WIDTH / 2 + x / 2)
            {
                let shift = if x.is_multiple_of(2) { 4 } else { 0 };
                *two = *two & !(0xf << shift) | color.luma() << shift;
            }
        }
        Ok(())
    }
}

/// What a button asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Button {
    /// The next seed.
    Up,
    /// The seed before.
    Down,
    /// To stay, or to go on.
    Select,
}

/// The levels of the buttons when they were last read.
#[derive(Debug, Default)]
pub struct Buttons {
    levels: [u32; 2],
}

impl Buttons {
    /// The button that has been pressed since the last call: one whose pin fell.
    pub fn pressed(&mut self) -> Option<Button> {
        let levels = [PORT_E, PORT_F].map(|port| read(port + 0x3fc));
        let [arrows, select] = [0, 1].map(|port| self.levels[port] & !levels[port]);
        self.levels = levels;
        match (arrows & 0b11, select & 0b10) {
            (_, 0b10) => Some(Button::Select),
            (0b01, _) => Some(Button::Up),
            (0b10, _) => Some(Button::Down),
            _ => None,
        }
    }
}
