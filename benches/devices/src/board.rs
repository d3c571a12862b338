//! What is different on each board: how a program begins, how it prints, and how many instructions it has run.

use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt;

/// Prints a line.
macro_rules! print_line {
    ($($argument:tt)*) => {{
        use core::fmt::Write;
        // Printing cannot fail.
        _ = writeln!($crate::board::Output, $($argument)*);
    }};
}
pub(crate) use print_line;

#[cfg(target_arch = "arm")]
global_asm!(
    ".section .vectors, \"a\"",
    ".word stack_top, start, fault, fault, fault, fault, fault",
    ".section .text.start, \"ax\"",
    ".thumb_func",
    ".global start",
    "start:",
    // Coprocessors 10 and 11 are the unit of floating point and vectors.
    "ldr r0, =0xe000ed88",
    "ldr r1, =0x00f00000",
    "str r1, [r0]",
    "dsb",
    "isb",
    "bl main",
    ".thumb_func",
    "fault:",
    "bl on_fault",
);

#[cfg(target_arch = "riscv32")]
global_asm!(
    ".section .start, \"ax\"",
    ".global start",
    "start:",
    "la sp, stack_top",
    "la t0, fault",
    "csrw mtvec, t0",
    "call main",
    ".balign 4",
    "fault:",
    "call on_fault",
);

#[unsafe(no_mangle)]
extern "C" fn on_fault() -> ! {
    print_line!("error: the processor has met a fault");
    exit(false)
}

#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print_line!("error: {info}");
    exit(false)
}

/// Calls the machine that a virtual board runs on, see "Semihosting for AArch32 and AArch64" and RISC-V's.
fn call(operation: usize, argument: *const u8) {
    // SAFETY: the operations that are used here read their argument alone.
    unsafe {
        #[cfg(target_arch = "arm")]
        asm!("bkpt 0xab", inout("r0") operation => _, in("r1") argument);
        #[cfg(target_arch = "riscv32")]
        asm!(
            ".balign 16", ".option push", ".option norvc",
            "slli x0, x0, 0x1f", "ebreak", "srai x0, x0, 7",
            ".option pop",
            inout("a0") operation => _, in("a1") argument,
        );
    }
}

/// Where lines are printed.
pub(crate) struct Output;

impl fmt::Write for Output {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.as_bytes().iter().for_each(|byte| call(3, byte));
        Ok(())
    }
}

/// Ends the program.
pub(crate) fn exit(success: bool) -> ! {
    let arguments = [0x20026usize, usize::from(!success)];
    call(0x20, arguments.as_ptr().cast());
    loop {}
}

/// Memory for everything.
#[repr(align(64))]
struct Memory(UnsafeCell<[u8; 384 << 10]>);

// SAFETY: there is one thread, and it takes the memory once.
unsafe impl Sync for Memory {}

static MEMORY: Memory = Memory(UnsafeCell::new([0; 384 << 10]));

/// Takes the memory.
///
/// # Safety
/// It is taken once.
pub(crate) unsafe fn memory() -> &'static mut [u8] {
    // SAFETY: the caller's promise.
    unsafe { &mut *MEMORY.0.get() }
}

/// Counts instructions. QEMU runs one every so many nanoseconds of the board's time, by its option `-icount`.
pub(crate) struct Counter {
    /// Ticks of [`CALIBRATION`] instructions.
    ticks: u64,
}

/// Instructions of the loop that a counter is made with.
const CALIBRATION: u64 = 2_000_000;

impl Counter {
    /// Starts it.
    pub(crate) fn new() -> Self {
        #[cfg(target_arch = "arm")]
        // SAFETY: the registers of SysTick: reload value, value, and control, for the clock of the processor.
        unsafe {
            (0xe000_e014 as *mut u32).write_volatile(0xff_ffff);
            (0xe000_e018 as *mut u32).write_volatile(0);
            (0xe000_e010 as *mut u32).write_volatile(5);
        }
        let start = now();
        // SAFETY: a loop of two instructions.
        unsafe {
            #[cfg(target_arch = "arm")]
            asm!("2: subs {n}, #1", "bne 2b", n = inout(reg) CALIBRATION as u32 / 2 => _);
            #[cfg(target_arch = "riscv32")]
            asm!("2: addi {n}, {n}, -1", "bnez {n}, 2b", n = inout(reg) CALIBRATION as u32 / 2 => _);
        }
        Self { ticks: since(start) }
    }

    /// Instructions that some work takes, to about a hundred-thousandth of them.
    pub(crate) fn count(&self, work: impl FnOnce()) -> u64 {
        let start = now();
        work();
        self.instructions(since(start))
    }

    /// Instructions in so many ticks.
    pub(crate) fn instructions(&self, ticks: u64) -> u64 {
        (ticks * CALIBRATION + self.ticks / 2) / self.ticks
    }
}

/// The ticks of the board.
pub(crate) fn now() -> u32 {
    #[cfg(target_arch = "arm")]
    // SAFETY: the register of SysTick's value, which falls.
    unsafe {
        0xff_ffff - (0xe000_e018 as *const u32).read_volatile()
    }
    #[cfg(target_arch = "riscv32")]
    {
        let ticks;
        // SAFETY: reads a counter.
        unsafe { asm!("csrr {}, minstret", out(reg) ticks) };
        ticks
    }
}

/// Ticks since then, fewer than 2²⁴.
pub(crate) fn since(start: u32) -> u64 {
    let mask = if cfg!(target_arch = "arm") { 0xff_ffff } else { u32::MAX };
    u64::from(now().wrapping_sub(start) & mask)
}
