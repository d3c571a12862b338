//! What is asked of the operating system: files as memory, memory, and a second core.

use std::fs::File;
use std::panic::resume_unwind;
use std::path::Path;
use std::thread::{self, Scope, ScopedJoinHandle};

use anyhow::{Context, Result, ensure};
#[cfg(target_os = "linux")]
use memmap2::Advice;
use memmap2::{Mmap, MmapMut};
#[cfg(target_os = "linux")]
use rustix::thread::{sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The bytes of a file, in memory that the operating system fills from it.
pub(crate) fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path)?;
    ensure!(file.metadata()?.is_file(), "it is no regular file");
    // SAFETY: the map is only read. That nobody else writes into the file meanwhile is asked of whoever calls this program: it
    // would change the numbers of a picture and the names of nodes, and end this program where the file becomes shorter. The
    // places of tensors were checked, and are checked again when used.
    let map = unsafe { Mmap::map(&file) }?;
    // In pages as large as the system has them, if it offers that.
    #[cfg(target_os = "linux")]
    {
        _ = map.advise(Advice::HugePage);
    }
    Ok(map)
}

/// So many zeros, in pages as large as the system has them.
pub(crate) fn memory(bytes: usize) -> Result<MmapMut> {
    let memory = MmapMut::map_anon(bytes).with_context(|| format!("asking for {bytes} bytes of memory"))?;
    #[cfg(target_os = "linux")]
    {
        _ = memory.advise(Advice::HugePage);
    }
    Ok(memory)
}

/// The most memory that this program has had, the file's with it, where the operating system says so.
pub(crate) fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Something that is computed on another thread, or at once where the operating system gives none.
pub(crate) struct Aside<'scope, T>(Result<ScopedJoinHandle<'scope, T>, T>);

impl<'scope, T: Send> Aside<'scope, T> {
    pub(crate) fn start(scope: &'scope Scope<'scope, '_>, work: impl Fn() -> T + Copy + Send + 'scope) -> Self
    where
        T: 'scope,
    {
        #[cfg(target_os = "linux")]
        let core = sched_getcpu();
        let begin = move || {
            #[cfg(target_os = "linux")]
            avoid(core);
            work()
        };
        Self(thread::Builder::new().spawn_scoped(scope, begin).map_err(|_| work()))
    }

    /// Waits for it.
    pub(crate) fn result(self) -> T {
        match self.0 {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(result) => result,
        }
    }
}

/// Moves this thread to another core than this one, where there is another. A thread may begin on the core of who began it, and
/// then both share that for some milliseconds though another is free.
#[cfg(target_os = "linux")]
fn avoid(core: usize) {
    if let Ok(mut cores) = sched_getaffinity(None) {
        cores.unset(core);
        // That there is no other is an error, and changes nothing.
        _ = sched_setaffinity(None, &cores);
    }
}
