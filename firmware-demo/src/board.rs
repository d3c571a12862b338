//! Start, clock, stack and end of a program on a board.

use core::fmt;
use core::ptr::addr_of_mut;

pub use semihosting::{print, println};

use crate::Failure;

/// Declares where a program starts, with a function whose failure is said and becomes the exit code of QEMU. So do a panic
/// and a hard fault, with 101.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg_attr(target_arch = "arm", cortex_m_rt::entry)]
        #[cfg_attr(target_arch = "riscv32", riscv_rt::entry)]
        fn start() -> ! {
            $crate::board::run($main)
        }

        #[panic_handler]
        fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
            $crate::board::abort(format_args!("{info}"))
        }

        #[cfg(target_arch = "arm")]
        #[cortex_m_rt::exception]
        unsafe fn HardFault(frame: &cortex_m_rt::ExceptionFrame) -> ! {
            $crate::board::abort(format_args!("hard fault at {:#010x}", frame.pc()))
        }

        // The other architectures have no crate that keeps the name.
        #[cfg(target_arch = "aarch64")]
        #[unsafe(no_mangle)]
        extern "C" fn rust_start() -> ! {
            start()
        }
    };
}

// riscv-rt and cortex-m-rt do this elsewhere: stack, floating point and zeros.
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".section .text.start",
    ".global _start",
    "_start:",
    "ldr x0, =_stack_start",
    "mov sp, x0",
    "mov x0, #(3 << 20)",
    "msr cpacr_el1, x0",
    "isb",
    "ldr x0, =__sbss",
    "ldr x1, =__ebss",
    "1: cmp x0, x1",
    "b.hs 2f",
    "stp xzr, xzr, [x0], #16",
    "b 1b",
    "2: bl rust_start",
);

/// Runs a program, prints how much stack it used, and ends QEMU with its result.
pub fn run(main: fn() -> Result<(), Failure>) -> ! {
    paint();
    clock::start();
    let result = main();
    if let Err(failure) = &result {
        println!("error: {failure}");
    }
    println!("stack: {} bytes", stack_bytes());
    semihosting::process::exit(result.err().map_or(0, |failure| failure.code().into()))
}

/// Ends QEMU after what must not happen.
pub fn abort(reason: fmt::Arguments<'_>) -> ! {
    println!("{reason}");
    semihosting::process::exit(101)
}

/// What a word of the stack holds that nobody has written to.
const PAINT: usize = 0x5441_4c46;

unsafe extern "C" {
    static mut _stack_start: usize;
    #[cfg(not(target_arch = "riscv32"))]
    static mut _stack_end: usize;
    #[cfg(target_arch = "riscv32")]
    static mut __estack: usize;
}

fn lowest() -> *mut usize {
    #[cfg(target_arch = "riscv32")]
    let end = addr_of_mut!(__estack);
    #[cfg(not(target_arch = "riscv32"))]
    let end = addr_of_mut!(_stack_end);
    end.map_addr(|address| address.next_multiple_of(size_of::<usize>()))
}

/// Fills the stack below this function.
#[inline(never)]
fn paint() {
    let mut here = 0usize;
    let top = addr_of_mut!(here).addr() - 256;
    let mut word = lowest();
    while word.addr() < top {
        // SAFETY: between the last static and the frame of this function there is free stack.
        unsafe {
            word.write_volatile(PAINT);
            word = word.add(1);
        }
    }
}

/// The most bytes of stack that were ever used.
pub fn stack_bytes() -> usize {
    let (mut word, top) = (lowest(), addr_of_mut!(_stack_start).addr());
    // SAFETY: this is the stack.
    while word.addr() < top && unsafe { word.read_volatile() } == PAINT {
        // SAFETY: it is below the top.
        word = unsafe { word.add(1) };
    }
    top - word.addr()
}

/// Counts instructions, where QEMU runs with `-icount`.
pub mod clock {
    /// Starts the counter and finds out how it runs.
    pub(super) fn start() {
        #[cfg(target_arch = "arm")]
        systick::start();
    }

    /// Instructions since the start, in parts of [`per_instruction`].
    pub fn ticks() -> u64 {
        #[cfg(target_arch = "arm")]
        return systick::ticks();
        #[cfg(target_arch = "riscv32")]
        {
            loop {
                let (high, low, again): (u32, u32, u32);
                // SAFETY: it reads the two halves of a counter, and the upper one again.
                unsafe {
                    core::arch::asm!(
                        "csrr {high}, minstreth", "csrr {low}, minstret", "csrr {again}, minstreth",
                        high = out(reg) high, low = out(reg) low, again = out(reg) again,
                    );
                }
                if high == again {
                    return u64::from(high) << 32 | u64::from(low);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        {
            let count: u64;
            // SAFETY: it reads a counter.
            unsafe { core::arch::asm!("isb", "mrs {}, cntvct_el0", out(reg) count) };
            count
        }
    }

    /// Ticks of 100,000 instructions: a loop of two, measured.
    pub fn calibrate() -> u64 {
        let before = ticks();
        // SAFETY: it counts a register down.
        unsafe {
            #[cfg(target_arch = "arm")]
            core::arch::asm!("1: subs {n}, #1", "bne 1b", n = inout(reg) 50_000u32 => _);
            #[cfg(target_arch = "riscv32")]
            core::arch::asm!("1: addi {n}, {n}, -1", "bnez {n}, 1b", n = inout(reg) 50_000u32 => _);
            #[cfg(target_arch = "aarch64")]
            core::arch::asm!("1: subs {n}, {n}, #1", "b.ne 1b", n = inout(reg) 50_000u64 => _);
        }
        (ticks() - before).max(1)
    }

    /// The timer that every Cortex-M has. It counts 24 bits, and an interrupt the rest.
    #[cfg(target_arch = "arm")]
    mod systick {
        use core::sync::atomic::{AtomicU32, Ordering};
        use cortex_m::peripheral::syst::SystClkSource;
        use cortex_m::peripheral::{Peripherals, SYST};

        const TOP: u32 = 0xff_ffff;
        static WRAPS: AtomicU32 = AtomicU32::new(0);

        pub(super) fn start() {
            let Some(Peripherals { mut SYST, .. }) = Peripherals::take() else { return };
            SYST.set_clock_source(SystClkSource::Core);
            SYST.set_reload(TOP);
            SYST.clear_current();
            SYST.enable_counter();
            SYST.enable_interrupt();
        }

        pub(super) fn ticks() -> u64 {
            loop {
                let wraps = WRAPS.load(Ordering::Relaxed);
                let now = TOP - SYST::get_current();
                if WRAPS.load(Ordering::Relaxed) == wraps {
                    return (u64::from(wraps) << 24) + u64::from(now);
                }
            }
        }

        #[cortex_m_rt::exception]
        fn SysTick() {
            // There is one core, and nobody else writes.
            WRAPS.store(WRAPS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        }
    }
}
