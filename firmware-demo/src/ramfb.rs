//! The screen of QEMU's `virt`: memory that QEMU is told of (ramfb), 640×480 pixels.

use core::convert::Infallible;
use core::ptr::addr_of;

use embedded_graphics::pixelcolor::Rgb888;
use embedded_graphics::prelude::*;

const WIDTH: usize = 640;
const HEIGHT: usize = 480;

/// QEMU's configuration device (docs/specs/fw_cfg.rst).
const FW_CFG: usize = 0x0902_0000;
const DIRECTORY: u16 = 0x19;

/// The screen.
pub struct Ramfb {
    frame: [u32; WIDTH * HEIGHT],
}

impl Ramfb {
    /// A black screen that nobody sees yet.
    pub const fn new() -> Self {
        Self { frame: [0; WIDTH * HEIGHT] }
    }

    /// Shows it, and everything that is drawn from now on, where the machine has the device `ramfb`.
    pub fn start(&'static mut self) -> Option<&'static mut Self> {
        let file = file(b"etc/ramfb")?;
        let mut setting = [0; 28];
        setting[..8].copy_from_slice(&(addr_of!(self.frame).addr() as u64).to_be_bytes());
        // 32 bits a pixel, blue first.
        setting[8..12].copy_from_slice(&u32::from_le_bytes(*b"XR24").to_be_bytes());
        setting[16..20].copy_from_slice(&(WIDTH as u32).to_be_bytes());
        setting[20..24].copy_from_slice(&(HEIGHT as u32).to_be_bytes());
        setting[24..28].copy_from_slice(&(4 * WIDTH as u32).to_be_bytes());
        // Select the file and write it.
        let control = u32::from(file) << 16 | 0b1_1000;
        let mut access = [0u64; 2];
        access[0] = (u64::from(control) << 32 | setting.len() as u64).to_be();
        access[1] = (setting.as_ptr().addr() as u64).to_be();
        let address = (access.as_ptr().addr() as u64).to_be();
        // SAFETY: this is the device's register for such requests; it reads `setting` before the write ends.
        unsafe {
            core::arch::asm!("dsb sy");
            ((FW_CFG + 16) as *mut u64).write_volatile(address);
            core::arch::asm!("dsb sy");
            addr_of!(access).read_volatile();
        }
        Some(self)
    }
}

impl Default for Ramfb {
    fn default() -> Self {
        Self::new()
    }
}

/// The number of a file of the configuration device.
fn file(name: &[u8]) -> Option<u16> {
    // SAFETY: these are registers of the device; the data comes a byte at a time.
    let byte = || unsafe { (FW_CFG as *const u8).read_volatile() };
    // SAFETY: as above.
    unsafe { ((FW_CFG + 8) as *mut u16).write_volatile(DIRECTORY.to_be()) };
    let count = u32::from_be_bytes(core::array::from_fn(|_| byte()));
    for _ in 0..count {
        let entry: [u8; 64] = core::array::from_fn(|_| byte());
        if entry[8..].starts_with(name) && entry[8 + name.len()] == 0 {
            return Some(u16::from_be_bytes([entry[4], entry[5]]));
        }
    }
    None
}

impl OriginDimensions for Ramfb {
    fn size(&self) -> Size {
        Size::new(WIDTH as u32, HEIGHT as u32)
    }
}

impl DrawTarget for Ramfb {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, color) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) else { continue };
            if x < WIDTH
                && let Some(pixel) = self.frame.get_mut(y * WIDTH + x)
            {
                *pixel = u32::from_be_bytes([0, color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}
