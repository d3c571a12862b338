//! The border to C, and to WebAssembly, which calls the same functions.
//!
//! Here raw pointers become slices and references, and nothing else happens: `handle.rs` does the work and has no
//! `unsafe`. cbindgen makes `traflow.h` of this file.
#![no_std]

// The standard library brings what happens on a panic, and so does a program for a system without one.
#[cfg(not(any(target_os = "none", target_family = "wasm")))]
extern crate std;

#[cfg(feature = "bench")]
mod bench;
mod handle;

use core::ffi::c_char;
use core::mem::{align_of, size_of};
use core::slice;

use traflow_runtime::Mix;

use handle::{Error, Handle, Message, Source, digest};

/// Words of a handle.
pub const WORDS: usize = 64;

/// A model that was opened. It is memory of the caller, whose contents are this library's own; it needs no closing. One
/// thread at a time may use it; several handles may share a file.
#[repr(C)]
pub struct Traflow {
    opaque: [u64; WORDS],
}

/// What became of a call. traflow_message() says more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is done.
    Ok = 0,
    /// A pointer is null or not aligned as its type, or two buffers overlap.
    Pointer = 1,
    /// No file was opened with this handle.
    Closed = 2,
    /// The file is not a model file, or damaged.
    File = 3,
    /// This kind of file is not for this call, or not for this build of the library.
    Kind = 4,
    /// There is no arena, or it is too small.
    Arena = 5,
    /// The file has no schedule of so many steps.
    Steps = 6,
    /// The file does not have this class.
    Class = 7,
    /// A buffer is too short for the picture.
    Room = 8,
    /// A node of the self-test gives something else than the file says.
    SelfTest = 9,
}

/// What lies in the words of a `Traflow` after [`traflow_open`].
#[repr(C)]
struct Memory {
    mark: u64,
    message: Message,
    handle: Option<Handle>,
}

const _: () = assert!(size_of::<Memory>() <= size_of::<Traflow>());
const _: () = assert!(align_of::<Memory>() <= align_of::<Traflow>());

/// Stands in memory that [`traflow_open`] has written.
const MARK: u64 = 0x5452_4146_4c4f_5701;

/// The handle's contents; `None` where nothing was opened.
///
/// # Safety
/// The pointer is null, or one to a `Traflow` that was zeroed or opened, and that nobody else uses during the call.
unsafe fn memory<'a>(model: *mut Traflow) -> Option<&'a mut Memory> {
    let memory = model.cast::<Memory>();
    if !usable(memory) {
        return None;
    }
    // SAFETY: a `Traflow` has room for it, and any bits are a number. Where the mark stands, `traflow_open` has written
    // the whole.
    unsafe { ((&raw const (*memory).mark).read() == MARK).then(|| &mut *memory) }
}

/// Whether a handle may be where the pointer says.
fn usable(memory: *const Memory) -> bool {
    !memory.is_null() && memory.is_aligned()
}

/// What an opened handle says; zero where nothing was opened.
///
/// # Safety
/// As [`memory`].
unsafe fn ask<T: Default>(model: *const Traflow, question: impl FnOnce(&Handle) -> T) -> T {
    // SAFETY: the caller's promise. Nothing is written through the pointer.
    let memory = unsafe { memory(model.cast_mut()) };
    memory.and_then(|memory| memory.handle.as_ref()).map(question).unwrap_or_default()
}

/// Does something with an opened handle and writes down what went wrong.
///
/// # Safety
/// As [`memory`].
unsafe fn call(model: *mut Traflow, work: impl FnOnce(&mut Handle) -> Result<(), Error>) -> Status {
    // SAFETY: the caller's promise.
    let memory = unsafe { memory(model) };
    let Some(Memory { message, handle, .. }) = memory else {
        return if usable(model.cast()) { Status::Closed } else { Status::Pointer };
    };
    finish(message, handle.as_mut().ok_or(Error::Closed).and_then(work))
}

fn finish(message: &mut Message, result: Result<(), Error>) -> Status {
    match result {
        Ok(()) => {
            *message = Message::new();
            Status::Ok
        }
        Err(error) => {
            message.set(&error);
            error.status()
        }
    }
}

/// A buffer of the caller, by its name in messages.
struct Buffer<T> {
    name: &'static str,
    pointer: *mut T,
    len: usize,
}

impl<T> Buffer<T> {
    fn new(name: &'static str, pointer: *mut T, len: usize) -> Result<Self, Error> {
        let fits = len.checked_mul(size_of::<T>()).is_some_and(|bytes| isize::try_from(bytes).is_ok());
        if pointer.is_null() || !pointer.is_aligned() || !fits {
            return Err(Error::Pointer(name));
        }
        Ok(Self { name, pointer, len })
    }

    /// Sees to it that this buffer has no byte in common with another one.
    fn apart(&self, name: &'static str, pointer: *const u8, bytes: usize) -> Result<(), Error> {
        let (a, b) = (self.pointer.addr(), pointer.addr());
        let apart = b.checked_sub(a).is_some_and(|gap| gap >= self.len * size_of::<T>())
            || a.checked_sub(b).is_some_and(|gap| gap >= bytes);
        if apart { Ok(()) } else { Err(Error::Overlap(self.name, name)) }
    }

    /// The same with what was opened: the file and the handle.
    fn apart_from_opened(&self, model: *const Traflow, handle: &Handle) -> Result<(), Error> {
        self.apart("file", handle.file.as_ptr(), handle.file.len())?;
        self.apart("model", model.cast(), size_of::<Memory>())
    }

    /// Its elements.
    ///
    /// # Safety
    /// As many elements as the caller has said can be read and written there, and nobody else does during the call.
    unsafe fn elements<'a>(&self) -> &'a mut [T] {
        // SAFETY: neither null, unaligned nor too long; the rest is the caller's promise.
        unsafe { slice::from_raw_parts_mut(self.pointer, self.len) }
    }
}

/// The handle's arena.
///
/// # Safety
/// It is still there, and nobody else uses it during the call.
unsafe fn arena<'a>(handle: &Handle) -> Result<(&'a mut [u8], Buffer<u8>), Error> {
    let (pointer, len) = handle.arena;
    if pointer.is_null() {
        handle.check(&mut [])?;
    }
    let buffer = Buffer::new("arena", pointer, len)?;
    // SAFETY: the caller's promise.
    Ok((unsafe { buffer.elements() }, buffer))
}

/// Opens a model file that is in memory, and checks all of it: this takes a few milliseconds where the network has
/// some hundred nodes. The file must lie at a multiple of 4, better of 64, apart from the handle, and stay unchanged for as
/// long as the model is used. After a failure traflow_message()
/// says what is wrong with it.
///
/// # Safety
/// `model` is null or a `traflow` that can be written; `file` is null or so many bytes that can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_open(model: *mut Traflow, file: *const u8, bytes: usize) -> Status {
    let memory = model.cast::<Memory>();
    if !usable(memory) {
        return Status::Pointer;
    }
    let file = Buffer::new("file", file.cast_mut(), bytes);
    // Whatever is written into the handle would be written into the file.
    if file.as_ref().is_ok_and(|file| file.apart("model", model.cast(), size_of::<Memory>()).is_err()) {
        return Status::Pointer;
    }
    let handle = file.and_then(|file| {
        // SAFETY: so many bytes can be read, and they outlive the handle, by the caller's promise.
        Handle::open(unsafe { slice::from_raw_parts(file.pointer, file.len) })
    });
    let mut message = Message::new();
    let (handle, status) = match handle {
        Ok(handle) => (Some(handle), Status::Ok),
        Err(error) => (None, finish(&mut message, Err(error))),
    };
    // SAFETY: a `Traflow` has room for it. Nothing that was there before is read or dropped.
    unsafe { memory.write(Memory { mark: MARK, message, handle }) };
    status
}

/// What went wrong in the last call with this model: English text that ends with a zero byte, empty where nothing did.
/// It is there until the next call.
///
/// # Safety
/// `model` is null or a `traflow` that was zeroed or opened.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_message(model: *const Traflow) -> *const c_char {
    // SAFETY: the caller's promise. Nothing is written through the pointer.
    match unsafe { memory(model.cast_mut()) } {
        Some(memory) => memory.message.as_ptr().cast(),
        None => c"no file was opened with this handle".as_ptr(),
    }
}

/// Columns of a picture; 0 where no file was opened, like the following numbers.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_width(model: *const Traflow) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ask(model, |handle| handle.shape().width.into()) }
}

/// Rows of a picture.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_height(model: *const Traflow) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ask(model, |handle| handle.shape().height.into()) }
}

/// Channels of a picture: 1 is gray, 3 are red, green and blue.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_channels(model: *const Traflow) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ask(model, |handle| handle.shape().channels.into()) }
}

/// Classes that a picture can be asked for.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_classes(model: *const Traflow) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ask(model, |handle| handle.model.classes() as u32) }
}

/// The numbers of steps that the file has schedules for, by index from 0 and in increasing order; after the last comes 0.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_steps(model: *const Traflow, index: u32) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { ask(model, |handle| handle.model.steps().nth(index as usize).unwrap_or(0) as u32) }
}

/// Whether the file is of integers, so that its pictures are the same on every machine.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_is_integer(model: *const Traflow) -> bool {
    // SAFETY: the caller's promise.
    unsafe { ask(model, Handle::is_of_integers) }
}

/// Bytes of an arena that suffice at any address.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_arena_bytes(model: *const Traflow) -> usize {
    // SAFETY: the caller's promise.
    unsafe { ask(model, Handle::arena_bytes) }
}

/// Gives memory to run in. Between calls the caller may use it for something else.
///
/// # Safety
/// `model` is null or a `traflow` that was zeroed or opened; `arena` is null or so many bytes that can be read and
/// written during every call with this model.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_set_arena(model: *mut Traflow, arena: *mut u8, bytes: usize) -> Status {
    let work = |handle: &mut Handle| {
        let buffer = Buffer::new("arena", arena, bytes)?;
        buffer.apart_from_opened(model, handle)?;
        // SAFETY: the caller's promise, and the arena overlaps neither the file nor the handle.
        handle.check(unsafe { buffer.elements() })?;
        handle.arena = (arena, bytes);
        Ok(())
    };
    // SAFETY: the caller's promise.
    unsafe { call(model, work) }
}

/// Chooses the class of the following pictures, counted from 0; -1 asks for none in particular, as it is at first.
///
/// # Safety
/// As traflow_message().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_set_class(model: *mut Traflow, class: i32) -> Status {
    let work = |handle: &mut Handle| handle.set_class((class != -1).then_some(class as u32 as usize));
    // SAFETY: the caller's promise.
    unsafe { call(model, work) }
}

/// Makes the picture of a seed, as height · width · channels bytes by row, column and channel.
///
/// # Safety
/// `model` is null or a `traflow` that was zeroed or opened; `pixels` is null or so many bytes that can be written; the
/// arena is as traflow_set_arena() says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_generate(
    model: *mut Traflow,
    seed: u64,
    steps: u32,
    pixels: *mut u8,
    bytes: usize,
) -> Status {
    // SAFETY: the caller's promise.
    unsafe { call(model, |handle| draw(model, handle, Source::Seed(seed), steps, pixels, bytes)) }
}

/// Makes the picture of a point in a square that has seeds at its corners: upper left, upper right, lower left and lower
/// right. `x` and `y` are its distances from the left and from above, from 0 to 256. The bytes are those of
/// traflow_generate().
///
/// # Safety
/// As traflow_generate(); `seeds` is null or four numbers that can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_generate_between(
    model: *mut Traflow,
    seeds: *const u64,
    x: u32,
    y: u32,
    steps: u32,
    pixels: *mut u8,
    bytes: usize,
) -> Status {
    let work = |handle: &mut Handle| {
        let seeds = Buffer::new("seeds", seeds.cast_mut(), 4)?;
        // SAFETY: four numbers can be read, by the caller's promise.
        let seeds = unsafe { seeds.pointer.cast::<[u64; 4]>().read() };
        let at = [x, y].map(|place| place.min(Mix::SIDE.into()) as u16);
        // SAFETY: the caller's promise.
        unsafe { draw(model, handle, Source::Between(Mix::new(seeds, at)), steps, pixels, bytes) }
    };
    // SAFETY: the caller's promise.
    unsafe { call(model, work) }
}

/// Writes the bytes of a picture.
///
/// # Safety
/// `pixels` is null or so many bytes that can be written; the arena is as traflow_set_arena() says.
unsafe fn draw(
    model: *const Traflow,
    handle: &Handle,
    source: Source,
    steps: u32,
    pixels: *mut u8,
    bytes: usize,
) -> Result<(), Error> {
    let buffer = Buffer::new("pixels", pixels, bytes)?;
    // SAFETY: the caller's promise about the arena; then about the pixels, which overlap nothing that is used with them.
    unsafe {
        let (arena, memory) = arena(handle)?;
        buffer.apart("arena", memory.pointer, memory.len)?;
        buffer.apart_from_opened(model, handle)?;
        handle.bytes(arena, source, steps as usize, buffer.elements())
    }
}

/// Makes the picture of a seed, as channels · height · width numbers by channel, row and column, about in [-1, 1] and
/// not clamped. A library that was built without the feature `float` does not have this function.
///
/// # Safety
/// As traflow_generate(), for so many numbers.
#[cfg(feature = "float")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_generate_floats(
    model: *mut Traflow,
    seed: u64,
    steps: u32,
    image: *mut f32,
    count: usize,
) -> Status {
    let work = |handle: &mut Handle| {
        let buffer = Buffer::new("image", image, count)?;
        // SAFETY: the caller's promise about the arena; then about the image, which overlaps nothing that is used with it.
        unsafe {
            let (arena, memory) = arena(handle)?;
            buffer.apart("arena", memory.pointer, memory.len)?;
            buffer.apart_from_opened(model, handle)?;
            handle.floats(arena, seed, steps as usize, buffer.elements())
        }
    };
    // SAFETY: the caller's promise.
    unsafe { call(model, work) }
}

/// Runs the self-test of a file of integers: every node computes what the file expects.
///
/// # Safety
/// `model` is null or a `traflow` that was zeroed or opened; the arena is as traflow_set_arena() says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_self_test(model: *mut Traflow) -> Status {
    // SAFETY: the caller's promise.
    unsafe { call(model, |handle| handle.self_test(arena(handle)?.0)) }
}

/// Writes the SHA-256 of bytes as 64 hexadecimal digits and a zero byte: of a picture's bytes it is what
/// `traflow-run --digest` prints.
///
/// # Safety
/// `data` is null or so many bytes that can be read; `text` is null or 65 bytes that can be written, elsewhere.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_digest(data: *const u8, bytes: usize, text: *mut c_char) -> Status {
    let Ok(data) = Buffer::new("data", data.cast_mut(), bytes) else { return Status::Pointer };
    if text.is_null() {
        return Status::Pointer;
    }
    // SAFETY: the caller's promise.
    unsafe {
        let digest = digest(slice::from_raw_parts(data.pointer, data.len));
        text.cast::<[u8; 65]>().write(digest);
    }
    Status::Ok
}

/// Measures the convolution, for `web/bench.js`: a build for use does not have this.
///
/// # Safety
/// `memory` is null or so many numbers that can be read and written.
///
/// cbindgen:ignore
#[cfg(feature = "bench")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn traflow_bench_conv2d(
    memory: *mut f32,
    count: usize,
    channels: u32,
    size: u32,
    outs: u32,
    kernel: u32,
    rounds: u32,
) -> Status {
    let Ok(memory) = Buffer::new("memory", memory, count) else { return Status::Pointer };
    // SAFETY: the caller's promise.
    let done = bench::conv2d(unsafe { memory.elements() }, [channels, size, outs, kernel, rounds]);
    done.map_or(Status::Room, |()| Status::Ok)
}

/// Measures what the machine can do, for `web/bench.js`.
///
/// cbindgen:ignore
#[cfg(feature = "bench")]
#[unsafe(no_mangle)]
pub extern "C" fn traflow_bench_peak(rounds: u32) -> f64 {
    bench::peak(rounds)
}

/// A panic is a bug of this library; there is nobody to tell.
#[cfg(all(not(test), any(target_os = "none", target_family = "wasm")))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    #[cfg(target_family = "wasm")]
    core::arch::wasm32::unreachable();
    #[cfg(not(target_family = "wasm"))]
    loop {}
}
