//! New threads on the processor of the one that starts them, and a new process on another.

use std::io;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// The calling thread.
const SELF: Pid = Pid::from_raw(0);

/// Where the calling thread may run, to be asked for again. A thread that ever asked for processors stays with these, also when
/// its cgroup gets more (cpuset(7)); so where nobody asked for fewer than the cgroup has, this is every one there could be.
fn anywhere() -> nix::Result<CpuSet> {
    let now = sched_getaffinity(SELF)?;
    let mut every = CpuSet::new();
    (0..CpuSet::count()).try_for_each(|cpu| every.set(cpu))?;
    sched_setaffinity(SELF, &every)?;
    if sched_getaffinity(SELF)? == now {
        return Ok(every);
    }
    sched_setaffinity(SELF, &now)?;
    Ok(now)
}

/// Where threads may run that are started on one processor for now. The kernel spreads new threads over all, also where
/// another process is busy, behind which a newcomer waits for half a millisecond while this processor has nothing to do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gathered(Option<CpuSet>);

impl Gathered {
    /// From now on the calling thread, and those that it starts, run where it is.
    pub fn here() -> Self {
        let anywhere = anywhere();
        let mut one = CpuSet::new();
        let gathered = sched_getcpu()
            .and_then(|cpu| one.set(cpu))
            .and_then(|()| sched_setaffinity(SELF, &one));
        Self(anywhere.ok().filter(|_| gathered.is_ok()))
    }

    /// Has the calling thread run where it might before.
    pub fn spread(&self) {
        if let Some(anywhere) = &self.0 {
            // What was allowed a moment ago.
            let _ = sched_setaffinity(SELF, anywhere);
        }
    }
}

/// A way to another processor than this one. The kernel moves a new process off its parent's when it likes, which may be
/// when its parent sleeps, half a millisecond later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elsewhere {
    others: CpuSet,
    all: CpuSet,
}

impl Elsewhere {
    /// None where there is no other processor.
    pub(crate) fn than_here() -> Option<Self> {
        let all = anywhere().ok()?;
        let mut others = sched_getaffinity(SELF).ok()?;
        others.unset(sched_getcpu().ok()?).ok()?;
        let some = (0..CpuSet::count()).any(|cpu| others.is_set(cpu) == Ok(true));
        some.then_some(Self { others, all })
    }

    /// Moves the calling thread there, which may run anywhere from then on. Two system calls, and nothing that must not be
    /// done between fork and exec.
    pub(crate) fn go(&self) {
        // Where that is refused, it stays.
        let _ = sched_setaffinity(SELF, &self.others);
        let _ = sched_setaffinity(SELF, &self.all);
    }
}

/// Starts a thread here, which is over soon, and lets it go first.
pub(crate) fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    let gathered = Gathered::here();
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK);
    let started = thread.spawn(work);
    std::thread::yield_now();
    gathered.spread();
    started
}

/// Room for a few system calls.
const STACK: usize = 64 << 10;
