//! A model file in static memory.

use traflow_graph::model::{Aligned, MAGIC};

/// A model file that [`include_model!`](crate::include_model) has put into a program.
#[derive(Clone, Copy, Debug)]
pub struct Embedded(&'static Aligned<[u8]>);

impl Embedded {
    /// A file, whose header alone is looked at: [`Model::new`](crate::Model::new) checks it.
    ///
    /// # Panics
    /// Where it is no model file; for a constant the compiler says so.
    pub const fn new(file: &'static Aligned<[u8]>) -> Self {
        let bytes = &file.0;
        assert!(bytes.len() >= 64, "a model file has a header of 64 bytes");
        let mut index = 0;
        while index < MAGIC.len() {
            assert!(bytes[index] == MAGIC[index], "it is not a TraFlow model file");
            index += 1;
        }
        Self(file)
    }

    /// The file.
    pub const fn bytes(&self) -> &'static [u8] {
        &self.0.0
    }

    /// What [`Model::arena_bytes`](crate::Model::arena_bytes) says of it: the size of an arena that begins at a multiple
    /// of 64, which a static array can have.
    pub const fn arena_bytes(&self) -> usize {
        let bytes = self.bytes();
        u32::from_le_bytes([bytes[40], bytes[41], bytes[42], bytes[43]]) as usize
    }
}

/// Puts a model file into the program, at an address that suits it, as an [`Embedded`]; where the file is no model file,
/// the program does not compile.
///
/// ```ignore
/// const MODEL: Embedded = include_model!("digits.traflow");
/// static mut ARENA: Aligned<[u8; MODEL.arena_bytes()]> = Aligned([0; MODEL.arena_bytes()]);
/// ```
#[macro_export]
macro_rules! include_model {
    ($path:expr) => {{
        static FILE: &$crate::Aligned<[u8]> = &$crate::Aligned(*include_bytes!($path));
        const { $crate::Embedded::new(FILE) }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Model;

    const MODEL: Embedded = crate::include_model!("../../tests/golden/gray-int8-v3.traflow");

    #[test]
    fn the_arena_is_that_of_the_model() {
        assert_eq!(MODEL.arena_bytes(), Model::new(MODEL.bytes()).unwrap().arena_bytes());
    }
}
