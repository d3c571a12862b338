//! Where kernels run.

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

    /// Runs tasks that have nothing in common, in any order: at most as many as there are threads where they use scratch
    /// memory. Each has that memory to itself while it runs; what it finds in it is rubbish.
    pub(crate) fn run<K: Kernel + Send>(&self, tasks: impl Iterator<Item = K>, scratch: &mut [f32]) {
        let run = |task, scratch: &mut [u8]| self.isa.run(task, bytemuck::cast_slice_mut(scratch));
        self.share(tasks, bytemuck::cast_slice_mut(scratch), run);
    }

    /// The same for kernels of integers, on vectors of an instruction set.
    pub(crate) fn run_integers<K: IntegerKernel + Send>(
        &self,
        vectors: Vectors,
        tasks: impl Iterator<Item = K>,
        scratch: &mut [u8],
    ) {
        self.share(tasks, scratch, |task, scratch| vectors.run(task, scratch));
    }

    fn share<T: Send>(
        &self,
        tasks: impl Iterator<Item = T>,
        scratch: &mut [u8],
        run: impl Fn(T, &mut [u8]) + Sync,
    ) {
        #[cfg(feature = "threads")]
        if let Some(threads) = &self.threads {
            return threads.run(tasks, scratch, run);
        }
        for task in tasks {
            run(task, scratch);
        }
    }

    /// Runs what calls [`run`](Self::run), on a thread that waits for others without going to sleep.
    pub(crate) fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        #[cfg(feature = "threads")]
        if let Some(threads) = &self.threads {
            return threads.enter(work);
        }
        work()
    }
}

#[cfg(feature = "threads")]
pub use threads::ThreadsError;

#[cfg(feature = "threads")]
mod threads {
    use std::sync::{Mutex, PoisonError};
    use std::vec::Vec;

    use super::{Cpu, Isa};

    /// Threads, and scratch memory for all but the first.
    #[derive(Debug)]
    pub(super) struct Threads {
        pool: rayon::ThreadPool,
        scratch: Vec<Mutex<Vec<u64>>>,
    }

    /// The operating system gives no threads.
    #[derive(Debug, thiserror::Error)]
    #[error("starting threads: {0}")]
    pub struct ThreadsError(#[from] rayon::ThreadPoolBuildError);

    impl Cpu {
        /// Several threads, which live as long as this value. The results are those of one thread, bit by bit.
        ///
        /// # Errors
        /// Where the operating system does not give them.
        pub fn with_threads(isa: Isa, count: usize) -> Result<Self, ThreadsError> {
            if count <= 1 {
                return Ok(Self::new(isa));
            }
            let pool = rayon::ThreadPoolBuilder::new().num_threads(count).build()?;
            let scratch = (1..count).map(|_| Mutex::default()).collect();
            Ok(Self { isa, threads: Some(Threads { pool, scratch }) })
        }
    }

    impl Threads {
        pub(super) fn count(&self) -> usize {
            self.scratch.len() + 1
        }

        pub(super) fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
            self.pool.install(work)
        }

        /// Runs the first task here and the others in the pool.
        pub(super) fn run<T: Send>(
            &self,
            mut tasks: impl Iterator<Item = T>,
            scratch: &mut [u8],
            run: impl Fn(T, &mut [u8]) + Sync,
        ) {
            let Some(first) = tasks.next() else { return };
            let (len, run) = (scratch.len(), &run);
            rayon::in_place_scope(|scope| {
                for (index, task) in tasks.enumerate() {
                    scope.spawn(move |_| {
                        let own = &self.scratch[index % self.scratch.len()];
                        let mut own = own.lock().unwrap_or_else(PoisonError::into_inner);
                        if 8 * own.len() < len {
                            own.resize(len.div_ceil(8), 0);
                        }
                        run(task, &mut bytemuck::cast_slice_mut(&mut own)[..len]);
                    });
                }
                run(first, scratch);
            });
        }
    }
}
