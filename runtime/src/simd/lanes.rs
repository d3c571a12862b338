//! Vectors of integers.

/// Vectors of integers of an instruction set: 16 lanes, as a panel of weights has, whatever registers they fill.
pub trait Lanes: Copy + Send + Sync {}

/// Work on integers, in two forms that give the same numbers.
pub trait IntegerKernel: Sized {
    /// For processors with vector registers, compiled for every such instruction set. The scratch memory is that of the
    /// thread.
    fn vectors<S: Lanes>(self, s: S, scratch: &mut [u8]) {
        _ = s;
        self.words(scratch);
    }

    /// For processors with nothing but general registers: plain Rust, and what a build for one of them may use, chosen by
    /// `cfg` when it is compiled. It is what the instruction set "scalar" runs, so that it is tested everywhere.
    fn words(self, scratch: &mut [u8]);
}
