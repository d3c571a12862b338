//! What a handle holds, and what is done with it: the safe part.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use sha2::{Digest, Sha256};
#[cfg(feature = "float")]
use traflow_runtime::Engine;
use traflow_runtime::{Cpu, EngineError, IntegerEngine, Isa, Mix, Model, ModelError, SelfTestError, Shape};

use crate::Status;

/// What a picture starts from.
pub(crate) enum Source {
    Seed(u64),
    Between(Mix),
}

/// A checked model, and where it runs.
pub(crate) struct Handle {
    pub(crate) model: Model<'static>,
    /// Where the model lies.
    pub(crate) file: &'static [u8],
    /// Address and size of the caller's arena, which is the caller's between two calls.
    pub(crate) arena: (*mut u8, usize),
    isa: Isa,
    class: Option<usize>,
}

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0} is a null pointer, or not where such a value may lie, or longer than memory")]
    Pointer(&'static str),
    #[error("{0} and {1} overlap")]
    Overlap(&'static str, &'static str),
    #[error("no file was opened with this handle")]
    Closed,
    #[error("the file: {0}")]
    File(#[from] ModelError),
    #[error("the file has numbers of floating point, which this build of the library does not run")]
    #[cfg(not(feature = "float"))]
    Float,
    #[error("only a file of integers has a self-test")]
    NoSelfTest,
    #[error("{name} has room for {found} numbers, the picture has {needed}")]
    Room { name: &'static str, needed: usize, found: usize },
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    SelfTest(#[from] SelfTestError),
}

impl Error {
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Pointer(_) | Self::Overlap(..) => Status::Pointer,
            Self::Closed => Status::Closed,
            Self::File(_) => Status::File,
            #[cfg(not(feature = "float"))]
            Self::Float => Status::Kind,
            Self::NoSelfTest => Status::Kind,
            Self::Room { .. } => Status::Room,
            Self::Engine(EngineError::Arena { .. }) => Status::Arena,
            Self::Engine(EngineError::Steps { .. }) => Status::Steps,
            Self::Engine(EngineError::Class { .. }) => Status::Class,
            Self::Engine(_) => Status::Kind,
            Self::SelfTest(_) => Status::SelfTest,
        }
    }
}

impl Handle {
    /// Checks a file.
    pub(crate) fn open(file: &'static [u8]) -> Result<Self, Error> {
        let model = Model::new(file)?;
        #[cfg(not(feature = "float"))]
        if !is_of_integers(&model) {
            return Err(Error::Float);
        }
        Ok(Self { model, file, arena: (core::ptr::null_mut(), 0), isa: Isa::detect(), class: None })
    }

    pub(crate) fn shape(&self) -> Shape {
        self.model.image().shape()
    }

    pub(crate) fn is_of_integers(&self) -> bool {
        is_of_integers(&self.model)
    }

    /// Bytes of an arena that suffice at any address.
    pub(crate) fn arena_bytes(&self) -> usize {
        IntegerEngine::arena_bytes(&self.model)
    }

    /// Chooses the class of the following pictures.
    pub(crate) fn set_class(&mut self, class: Option<usize>) -> Result<(), Error> {
        let offered = self.model.classes();
        match class {
            Some(class) if class >= offered => Err(EngineError::Class { class, offered }.into()),
            _ => {
                self.class = class;
                Ok(())
            }
        }
    }

    /// Checks that an arena is large enough.
    pub(crate) fn check(&self, arena: &mut [u8]) -> Result<(), Error> {
        #[cfg(feature = "float")]
        if !self.is_of_integers() {
            return Ok(Engine::new(self.model, arena).map(drop)?);
        }
        Ok(IntegerEngine::on(Cpu::new(self.isa), self.model, arena).map(drop)?)
    }

    /// Writes the bytes of a picture, by row, column and channel.
    pub(crate) fn bytes(
        &self,
        arena: &mut [u8],
        source: Source,
        steps: usize,
        y: &mut [u8],
    ) -> Result<(), Error> {
        let y = room("pixels", y, self.shape())?;
        #[cfg(feature = "float")]
        if !self.is_of_integers() {
            let mut engine = self.engine(arena)?;
            let picture = match source {
                Source::Seed(seed) => engine.generate(seed, steps)?,
                Source::Between(mix) => engine.mix(&mix, steps)?,
            };
            let bytes = traflow_runtime::bytes(picture, self.shape());
            y.iter_mut().zip(bytes).for_each(|(y, byte)| *y = byte);
            return Ok(());
        }
        let mut engine = IntegerEngine::on(Cpu::new(self.isa), self.model, arena)?;
        let picture = match source {
            Source::Seed(seed) => engine.generate(seed, steps)?,
            Source::Between(mix) => engine.mix(&mix, steps)?,
        };
        y.iter_mut().zip(picture.bytes()).for_each(|(y, byte)| *y = byte);
        Ok(())
    }

    /// Writes the numbers of a picture, by channel, row and column.
    #[cfg(feature = "float")]
    pub(crate) fn floats(
        &self,
        arena: &mut [u8],
        seed: u64,
        steps: usize,
        y: &mut [f32],
    ) -> Result<(), Error> {
        let shape = self.shape();
        let y = room("image", y, shape)?;
        if !self.is_of_integers() {
            y.copy_from_slice(self.engine(arena)?.generate(seed, steps)?);
            return Ok(());
        }
        let mut engine = IntegerEngine::on(Cpu::new(self.isa), self.model, arena)?;
        let channels = usize::from(shape.channels);
        for (index, &number) in engine.generate(seed, steps)?.numbers.iter().enumerate() {
            y[index % channels * shape.pixels() + index / channels] = f32::from(number) / 4096.0;
        }
        Ok(())
    }

    #[cfg(feature = "float")]
    fn engine<'a>(&self, arena: &'a mut [u8]) -> Result<Engine<'static, 'a>, EngineError> {
        let mut engine = Engine::on(Cpu::new(self.isa), self.model, arena)?;
        engine.set_class(self.class)?;
        Ok(engine)
    }

    /// Runs the file's self-test.
    pub(crate) fn self_test(&self, arena: &mut [u8]) -> Result<(), Error> {
        if !self.is_of_integers() {
            return Err(Error::NoSelfTest);
        }
        Ok(IntegerEngine::on(Cpu::new(self.isa), self.model, arena)?.self_test()?)
    }
}

fn is_of_integers(model: &Model<'_>) -> bool {
    model.weights() == traflow_graph::model::Dtype::I8
}

/// The part of a buffer that a picture fills.
fn room<'a, T>(name: &'static str, buffer: &'a mut [T], shape: Shape) -> Result<&'a mut [T], Error> {
    let (found, needed) = (buffer.len(), shape.elements());
    buffer.get_mut(..needed).ok_or(Error::Room { name, needed, found })
}

/// The SHA-256 of bytes, as a C string of hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> [u8; 65] {
    let mut text = [0; 65];
    for (digits, byte) in text.chunks_exact_mut(2).zip(Sha256::digest(bytes)) {
        let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' - 10 + value };
        digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 15)]);
    }
    text
}

/// A C string of at most so many bytes.
pub(crate) struct Message {
    bytes: [u8; Self::BYTES],
    len: usize,
}

impl Message {
    pub(crate) const BYTES: usize = 248;

    pub(crate) const fn new() -> Self {
        Self { bytes: [0; Self::BYTES], len: 0 }
    }

    /// Replaces the text.
    pub(crate) fn set(&mut self, text: &impl fmt::Display) {
        *self = Self::new();
        // What does not fit is cut off.
        _ = write!(self, "{text}");
    }

    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }
}

impl Write for Message {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // The last byte stays 0.
        let mut end = text.len().min(Self::BYTES - 1 - self.len);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.bytes[self.len..][..end].copy_from_slice(&text.as_bytes()[..end]);
        self.len += end;
        if end == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}
