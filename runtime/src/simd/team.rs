//! Threads that do one piece of work together, and wait for the next one awake.
//!
//! A kernel takes 2 to 200 µs and a picture has a hundred, so what counts is the time between "go" and "done". Here that is
//! one number, which those who wait look at again and again.

use std::hint::spin_loop;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::vec::Vec;

/// How often a thread looks for work before it sleeps: some tens of microseconds, longer than what a single thread does
/// between two kernels.
const LOOKS: usize = 4000;

/// The state of a team: how many threads work, whether others may join them, and the number of the piece of work.
const JOIN: usize = 1;
const OPEN: usize = 1 << 12;
const TURN: usize = 1 << 13;

/// Work, which is given the number of the thread, from 0.
type Work<'a> = dyn Fn(usize) + Sync + 'a;

/// Threads beside that of the caller.
#[derive(Debug)]
pub(crate) struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held while there is work, of which there is one piece at a time.
    turns: Mutex<()>,
}

struct Shared {
    state: AtomicUsize,
    /// Valid for those who have joined. None tells them to end.
    work: Mutex<Option<&'static Work<'static>>>,
    /// Whether work has panicked in one of them.
    failed: AtomicBool,
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Team {
    /// Starts so many threads.
    ///
    /// # Errors
    /// Where the operating system does not give them, or there are too many to count.
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        if count >= OPEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let shared = Arc::new(Shared {
            state: AtomicUsize::new(0),
            work: Mutex::default(),
            failed: AtomicBool::new(false),
        });
        // A team that is not complete ends those that were started.
        let mut team = Self { shared, threads: Vec::new(), turns: Mutex::default() };
        for index in 0..count {
            let shared = team.shared.clone();
            team.threads.push(thread::Builder::new().spawn(move || shared.serve(index))?);
        }
        Ok(team)
    }

    /// Calls `own` here and `work` at the same time on those of the threads that are there before it ends: one that the
    /// operating system keeps waiting is not waited for. So `own` has to do whatever `work` leaves.
    ///
    /// # Panics
    /// Where one of them does. Work must not call this function of the same team: it would wait for itself.
    pub(crate) fn run(&self, work: &Work<'_>, own: impl FnOnce()) {
        let _turn = lock(&self.turns);
        // SAFETY: the lifetime is a promise to nobody but the threads, which use the reference only between joining and
        // leaving. This function does not end before all have left and none can join, not even by a panic: `Done` sees to it.
        let work = unsafe { core::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        {
            let _done = Done(&self.shared);
            self.shared.failed.store(false, Ordering::Relaxed);
            self.announce(Some(work));
            own();
        }
        assert!(!self.shared.failed.load(Ordering::Relaxed), "a thread panicked");
    }

    fn announce(&self, work: Option<&'static Work<'static>>) {
        *lock(&self.shared.work) = work;
        // Nobody works, and none can join but by this.
        self.shared.state.fetch_add(TURN + OPEN, Ordering::Release);
        self.threads.iter().for_each(|thread| thread.thread().unpark());
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.announce(None);
        for thread in self.threads.drain(..) {
            // Panics of work were caught.
            _ = thread.join();
        }
    }
}

/// Lets nobody join any more and waits for those who have, when it goes.
struct Done<'a>(&'a Shared);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.fetch_sub(OPEN, Ordering::AcqRel) - OPEN;
        let mut looks = 0;
        while state & (OPEN - 1) > 0 {
            looks += 1;
            // Where there are more threads than processors, one of them may wait for this one's.
            if looks < LOOKS {
                spin_loop()
            } else {
                thread::yield_now()
            }
            state = self.0.state.load(Ordering::Acquire);
        }
    }
}

impl Shared {
    /// What a thread does all its life.
    fn serve(&self, index: usize) {
        let (mut seen, mut looks) = (0, 0);
        loop {
            let state = self.state.load(Ordering::Acquire);
            if state / TURN == seen || state & OPEN == 0 {
                looks += 1;
                // Whoever announces work wakes those who sleep; a wake-up that came before lets the next sleep end at once.
                if looks < LOOKS {
                    spin_loop()
                } else {
                    thread::park()
                }
                continue;
            }
            let joined =
                self.state.compare_exchange(state, state + JOIN, Ordering::AcqRel, Ordering::Relaxed);
            if joined.is_err() {
                continue;
            }
            (seen, looks) = (state / TURN, 0);
            let Some(work) = *lock(&self.work) else { return };
            if catch_unwind(AssertUnwindSafe(|| work(index))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(JOIN, Ordering::Release);
        }
    }
}

/// Nothing that these locks guard can be left half done.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn all_work_is_done_once() {
        for count in [1, 3] {
            let team = Team::new(count).unwrap();
            // Miri takes a millisecond for what a processor does in a nanosecond.
            for round in 0..if cfg!(miri) { 10 } else { 1000 } {
                let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
                let take = || {
                    while next.fetch_add(1, Ordering::Relaxed) < round {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                };
                team.run(
                    &|index| {
                        assert!(index < count);
                        take()
                    },
                    take,
                );
                assert_eq!(done.into_inner(), round);
            }
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_a_team() {
        let team = Team::new(2).unwrap();
        for whose in 0..3 {
            let joined = AtomicUsize::new(0);
            let work = |index: usize| {
                joined.fetch_add(1, Ordering::Relaxed);
                assert!(index != whose, "on purpose");
            };
            let own = || {
                // Until both others are there.
                while joined.load(Ordering::Relaxed) < 2 {
                    thread::yield_now();
                }
                work(2);
            };
            let caught = catch_unwind(AssertUnwindSafe(|| team.run(&work, own)));
            assert!(caught.is_err(), "{whose}");
        }
        team.run(&|_| (), || ());
    }
}
