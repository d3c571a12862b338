//! Threads that do one piece of work together, and wait for the next one awake.
//!
//! A kernel takes 2 to 200 µs and a picture has a hundred, so what counts is the time between "go" and "done". Here that is
//! one number, which those who wait look at again and again.

use std::cell::UnsafeCell;
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

/// The state of a team: how many threads work, how many have come to this piece of work, whether others may, whether all are to
/// end, and the number of the piece of work, as much of it as there is room for.
const JOIN: usize = 1;
const CAME: usize = 1 << 12;
const OPEN: usize = 1 << 24;
const END: usize = 1 << 25;
const TURN: usize = 1 << 26;

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
    call: Call,
    /// How many threads sleep, or are about to.
    asleep: AtomicUsize,
    /// Whether work has panicked in one of them.
    failed: AtomicBool,
}

/// What those who wait look at, and what they need first when there is work, in one pair of lines of the caches and alone
/// there: what is written beside it would have to be fetched from who looks.
#[repr(align(128))]
struct Call {
    state: AtomicUsize,
    /// Written while nobody has joined and none can, and valid for those who have.
    work: UnsafeCell<Option<&'static Work<'static>>>,
}

// SAFETY: the work is `Sync`, and it is written when nobody reads it, as the state says.
unsafe impl Sync for Call {}

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
        if count >= CAME {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let shared = Arc::new(Shared {
            call: Call { state: AtomicUsize::new(0), work: UnsafeCell::new(None) },
            asleep: AtomicUsize::new(0),
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
            let _done = Done(self);
            let Call { state, work: place } = &self.shared.call;
            // SAFETY: nobody works, and none can join but by what follows.
            unsafe { *place.get() = Some(work) };
            // So nobody else changes the state either, and a plain store does not wait until this processor has the line.
            let turn = state.load(Ordering::Relaxed) / TURN;
            state.store(turn.wrapping_add(1).wrapping_mul(TURN) + OPEN, Ordering::Release);
            // One that goes to sleep at this moment may be overlooked, and is woken by the next piece of work.
            if self.shared.asleep.load(Ordering::Relaxed) > 0 {
                self.wake();
            }
            own();
        }
        // It is seldom changed, so that each processor has it at hand.
        if self.shared.failed.load(Ordering::Relaxed) {
            self.shared.failed.store(false, Ordering::Relaxed);
            panic!("a thread panicked");
        }
    }

    fn wake(&self) {
        self.threads.iter().for_each(|thread| thread.thread().unpark());
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.call.state.store(END, Ordering::Release);
        self.wake();
        for thread in self.threads.drain(..) {
            // Panics of work were caught.
            _ = thread.join();
        }
    }
}

/// Lets nobody join any more and waits for those who have, when it goes.
struct Done<'a>(&'a Team);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        let Team { shared, threads, .. } = self.0;
        let state = &shared.call.state;
        let all = threads.len() * CAME;
        // Where all have come nobody else can, and the line stays where it is.
        let mut now = state.load(Ordering::Acquire);
        if now & (OPEN - CAME) < all {
            now = state.fetch_sub(OPEN, Ordering::AcqRel) - OPEN;
        }
        let mut looks = 0;
        while now & (CAME - JOIN) > 0 {
            looks += 1;
            // Where there are more threads than processors, one of them may wait for this one's.
            if looks < LOOKS {
                spin_loop()
            } else {
                thread::yield_now()
            }
            now = state.load(Ordering::Acquire);
        }
    }
}

impl Shared {
    /// What a thread does all its life.
    fn serve(&self, index: usize) {
        let Self { call: Call { state: of_team, work }, asleep, failed } = self;
        let (mut seen, mut looks) = (0, 0);
        loop {
            let state = of_team.load(Ordering::Acquire);
            if state & END > 0 {
                return;
            }
            if state / TURN == seen || state & OPEN == 0 {
                looks += 1;
                if looks < LOOKS {
                    spin_loop()
                } else if looks == LOOKS {
                    // And looks once more before it sleeps.
                    asleep.fetch_add(1, Ordering::SeqCst);
                } else {
                    // A wake-up that came before lets this end at once.
                    thread::park();
                    asleep.fetch_sub(1, Ordering::SeqCst);
                    looks = 0;
                }
                continue;
            }
            let joined =
                of_team.compare_exchange(state, state + JOIN + CAME, Ordering::AcqRel, Ordering::Relaxed);
            if joined.is_err() {
                continue;
            }
            if looks == LOOKS {
                asleep.fetch_sub(1, Ordering::SeqCst);
            }
            (seen, looks) = (state / TURN, 0);
            // SAFETY: this thread has joined, so nobody writes it.
            let work = unsafe { *work.get() };
            if catch_unwind(AssertUnwindSafe(|| work.map(|work| work(index)))).is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            of_team.fetch_sub(JOIN, Ordering::Release);
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
    use std::time::{Duration, Instant};

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
    fn those_who_sleep_are_woken() {
        let team = Team::new(2).unwrap();
        let joined = AtomicUsize::new(0);
        while joined.load(Ordering::Relaxed) < 2 {
            while team.shared.asleep.load(Ordering::Relaxed) < 2 {
                thread::yield_now();
            }
            joined.store(0, Ordering::Relaxed);
            let work = |_| _ = joined.fetch_add(1, Ordering::Relaxed);
            team.run(&work, || thread::sleep(Duration::from_millis(20)));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_a_team() {
        let team = Team::new(2).unwrap();
        for whose in 0..3 {
            // A thread that goes to sleep may overlook the first call.
            let caught = loop {
                let (joined, start) = (AtomicUsize::new(0), Instant::now());
                let work = |index: usize| {
                    joined.fetch_add(1, Ordering::Relaxed);
                    assert!(index != whose, "on purpose");
                };
                let own = || {
                    // Until both others are there.
                    while joined.load(Ordering::Relaxed) < 2 && start.elapsed() < Duration::from_secs(1) {
                        thread::yield_now();
                    }
                    work(2);
                };
                let caught = catch_unwind(AssertUnwindSafe(|| team.run(&work, own)));
                if joined.into_inner() == 3 {
                    break caught;
                }
            };
            assert!(caught.is_err(), "{whose}");
        }
        team.run(&|_| (), || ());
    }
}
