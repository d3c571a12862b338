//! Where kernels run.

#[cfg(feature = "threads")]
use std::sync::Mutex;

use crate::simd::{IntegerKernel, Isa, Kernel, Vectors};

/// An instruction set, and how many tasks run at the same time.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    #[cfg(feature = "threads")]
    threads: Option<threads::Threads>,
}

impl Cpu {
    /// One thread.
    pub const fn new(isa: Isa) -> Self {
        Self {
            isa,
            #[cfg(feature = "threads")]
            threads: None,
        }
    }

    /// The instruction set.
    pub const fn isa(&self) -> Isa {
        self.isa
    }

    /// Number of tasks that run at the same time.
    pub fn threads(&self) -> usize {
        #[cfg(feature = "threads")]
        if let Some(threads) = &self.threads {
            return threads.count();
        }
        1
    }

    /// Runs tasks that have nothing in common, in any order. Each has scratch memory to itself while it runs; what it finds
    /// in it is rubbish.
    pub(crate) fn run<K: Kernel + Send>(&self, tasks: impl Iterator<Item = K> + Send, scratch: &mut [f32]) {
        let run = |task, scratch: &mut [u8]| self.isa.run(task, bytemuck::cast_slice_mut(scratch));
        self.share(tasks, bytemuck::cast_slice_mut(scratch), run);
    }

    /// The same for kernels of integers, on vectors of an instruction set.
    pub(crate) fn run_integers<K: IntegerKernel + Send>(
        &self,
        vectors: Vectors,
        tasks: impl Iterator<Item = K> + Send,
        scratch: &mut [u8],
    ) {
        self.share(tasks, scratch, |task, scratch| vectors.run(task, scratch));
    }

    /// The same for tasks that need no vectors.
    pub(crate) fn share<T: Send>(
        &self,
        #[cfg_attr(not(feature = "threads"), allow(unused_mut))] mut tasks: impl Iterator<Item = T> + Send,
        scratch: &mut [u8],
        run: impl Fn(T, &mut [u8]) + Sync,
    ) {
        #[cfg(feature = "threads")]
        if let Some(threads) = &self.threads {
            let Some(first) = tasks.next() else { return };
            // A single one is not worth waking anybody.
            let Some(second) = tasks.next() else { return run(first, scratch) };
            let tasks = Mutex::new([first, second].into_iter().chain(tasks));
            let next = |scratch: &mut [u8]| {
                let task = threads::lock(&tasks).next();
                task.map(|task| run(task, scratch)).is_some()
            };
            return threads.run(&next, scratch);
        }
        for task in tasks {
            run(task, scratch);
        }
    }
}

#[cfg(feature = "threads")]
pub use threads::ThreadsError;

#[cfg(feature = "threads")]
mod threads {
    use std::io;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::vec::Vec;

    use traflow_graph::model::ALIGN;

    use super::{Cpu, Isa};
    use crate::simd::Team;

    /// Threads, and scratch memory for all but the first.
    #[derive(Debug)]
    pub(super) struct Threads {
        team: Team,
        scratch: Vec<Mutex<Vec<u64>>>,
    }

    /// The operating system gives no threads.
    #[derive(Debug, thiserror::Error)]
    #[error("starting threads: {0}")]
    pub struct ThreadsError(#[from] io::Error);

    impl Cpu {
        /// Several threads, which live as long as this value. The results are those of one thread, bit by bit.
        ///
        /// # Errors
        /// Where the operating system does not give them.
        pub fn with_threads(isa: Isa, count: usize) -> Result<Self, ThreadsError> {
            if count <= 1 {
                return Ok(Self::new(isa));
            }
            let scratch = (1..count).map(|_| Mutex::default()).collect();
            Ok(Self { isa, threads: Some(Threads { team: Team::new(count - 1)?, scratch }) })
        }
    }

    impl Threads {
        pub(super) fn count(&self) -> usize {
            self.scratch.len() + 1
        }

        /// Everybody does tasks until there are none, which `next` says after each call.
        pub(super) fn run(&self, next: &(dyn Fn(&mut [u8]) -> bool + Sync), scratch: &mut [u8]) {
            let len = scratch.len();
            let work = |index: usize| {
                let mut own = lock(&self.scratch[index]);
                if 8 * own.len() < len + ALIGN {
                    own.resize((len + ALIGN).div_ceil(8), 0);
                }
                // Vectors that lie in two lines of memory take longer to load.
                let own: &mut [u8] = bytemuck::cast_slice_mut(&mut own);
                let skip = own.as_ptr().align_offset(ALIGN);
                let own = &mut own[skip..skip + len];
                while next(own) {}
            };
            self.team.run(&work, || while next(scratch) {});
        }
    }

    /// Tasks and scratch memory are whole whenever nobody uses them.
    pub(super) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
