//! The debugger: a thread that seizes every thread of the processes and lets it go on from stop to stop.
#![allow(unsafe_code, reason = "dlsym, and a union of libc's that ptrace fills in")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::fs;
use std::mem::offset_of;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Count, elsewhere, mapped};

/// How long the processes may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(120);
/// Where allocations end, one for each debug register.
const ALLOCATING: [&CStr; 4] = [c"malloc", c"calloc", c"realloc", c"posix_memalign"];
/// Debug control register: all four are local breakpoints on execution (Intel SDM, volume 3, section 18.2.4).
const EXECUTION: i64 = 0b0101_0101;

/// Counts what processes do, for as long as they live.
#[derive(Debug)]
pub struct Tracer {
    shared: Arc<Mutex<Shared>>,
    pids: Vec<i32>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Every stop counts.
    events: u64,
    counts: BTreeMap<i32, Count>,
    threads: BTreeMap<i32, Thread>,
    error: Option<String>,
}

#[derive(Debug)]
struct Thread {
    /// Its process.
    pid: i32,
    /// It entered a system call and has not come back.
    inside: bool,
    /// Its debug registers are set.
    armed: bool,
    /// It looks at the clock now and then while requests are served: how often depends on time, and not on what they are.
    watches: bool,
}

impl Tracer {
    /// Seizes all threads of these processes, those that are started later too.
    pub fn attach(pids: &[i32]) -> Result<Self> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (ready, wait) = channel();
        let (theirs, list) = (Arc::clone(&shared), pids.to_vec());
        // Only the thread that seized may ask; it ends when there is nothing left to trace.
        std::thread::Builder::new().name("tracer".into()).spawn(move || {
            let result = Loop::new(&theirs, &list).and_then(|tracing| tracing.run(&ready));
            lock(&theirs).error = Some(match result {
                Ok(()) => "what was traced is gone".to_owned(),
                Err(error) => format!("{error:#}"),
            });
        })?;
        let pids = pids.to_vec();
        // An error closes the channel.
        if wait.recv().is_err() {
            bail!("tracing: {}", lock(&shared).error.clone().unwrap_or_default());
        }
        Ok(Self { shared, pids })
    }

    /// Waits until all threads sleep in a system call and nothing happens any more; what was counted so far, in the order
    /// of the processes.
    pub fn settled(&self) -> Result<Vec<Count>> {
        let begin = Instant::now();
        let mut last = None;
        loop {
            // The tracer needs the lock: it is not held while /proc is read.
            let inside = {
                let shared = self.lock();
                if let Some(error) = &shared.error {
                    bail!("tracing: {error}");
                }
                let all = shared.threads.values().all(|thread| thread.inside);
                all.then(|| (shared.events, shared.threads.keys().copied().collect::<Vec<_>>()))
            };
            let rests = inside
                .filter(|(_, threads)| threads.iter().copied().all(is_asleep))
                .map(|(events, _)| events);
            // What sleeps in both looks, and did nothing between, was asleep all the time: nobody was there to wake it.
            if rests.is_some() && rests == last {
                let shared = self.lock();
                if rests == Some(shared.events) {
                    let count = |pid| shared.counts.get(pid).cloned().unwrap_or_default();
                    return Ok(self.pids.iter().map(count).collect());
                }
            }
            last = rests;
            if begin.elapsed() > PATIENCE {
                let shared = self.lock();
                let states = shared.threads.keys().map(|tid| (*tid, is_asleep(*tid)));
                let states: Vec<_> = states.collect();
                bail!("the processes do not come to rest: asleep {states:?}, {shared:?}");
            }
            std::thread::yield_now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The state in /proc/TID/stat: asleep until something wakes it, not stopped by us.
fn is_asleep(tid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('S'))
}

struct Loop<'a> {
    shared: &'a Mutex<Shared>,
    /// Where each process has the allocating functions.
    breakpoints: BTreeMap<i32, [u64; 4]>,
}

impl<'a> Loop<'a> {
    fn new(shared: &'a Mutex<Shared>, pids: &[i32]) -> Result<Self> {
        let maps =
            |pid: &str| Ok::<_, std::io::Error>(mapped(&fs::read_to_string(format!("/proc/{pid}/maps"))?));
        let own = maps("self")?;
        let mut breakpoints = BTreeMap::new();
        for pid in pids {
            let theirs = maps(&pid.to_string())?;
            let mut addresses = [0; 4];
            for (place, name) in addresses.iter_mut().zip(ALLOCATING) {
                // SAFETY: the name ends with a NUL; the result is only a number here.
                let function = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
                *place = elsewhere(function as u64, &own, &theirs)?;
            }
            breakpoints.insert(*pid, addresses);
        }
        Ok(Self { shared, breakpoints })
    }

    fn run(self, ready: &Sender<()>) -> Result<()> {
        // Threads may start while they are seized one by one: until a look finds no new one.
        while self.seize_new()? {}
        let mut ready = Some(ready);
        loop {
            if ready.is_some() && lock(self.shared).threads.values().all(|thread| thread.armed) {
                ready
                    .take()
                    .map(|ready| ready.send(()).context("nobody waits"))
                    .transpose()?;
            }
            // Only what this thread traces, not the children of others in this process.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(None, Some(flags)) {
                Ok(status) => self.stop(status)?,
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => return Ok(()),
                Err(error) => return Err(error).context("waitpid"),
            }
        }
    }

    fn seize_new(&self) -> Result<bool> {
        let mut found = BTreeSet::new();
        for pid in self.breakpoints.keys() {
            for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
                found.insert((*pid, entry?.file_name().to_string_lossy().parse::<i32>()?));
            }
        }
        let mut any = false;
        for (pid, tid) in found {
            if lock(self.shared).threads.contains_key(&tid) {
                continue;
            }
            let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
            match ptrace::seize(Pid::from_raw(tid), options) {
                Ok(()) => ptrace::interrupt(Pid::from_raw(tid)).context("PTRACE_INTERRUPT")?,
                // It ended, or its creator was seized first: then it is traced already, and stops by itself.
                Err(Errno::ESRCH | Errno::EPERM) => continue,
                Err(error) => return Err(error).context("PTRACE_SEIZE"),
            }
            self.note(tid, pid);
            any = true;
        }
        Ok(any)
    }

    fn note(&self, tid: i32, pid: i32) {
        let thread = Thread {
            pid,
            inside: false,
            armed: false,
            watches: fs::read_to_string(format!("/proc/{tid}/comm")).is_ok_and(|name| name.trim() == "watch"),
        };
        lock(self.shared).threads.entry(tid).or_insert(thread);
    }

    fn stop(&self, status: WaitStatus) -> Result<()> {
        let mut shared = lock(self.shared);
        shared.events += 1;
        let (tid, signal) = match status {
            WaitStatus::Exited(tid, _) | WaitStatus::Signaled(tid, ..) => {
                shared.threads.remove(&tid.as_raw());
                return Ok(());
            }
            WaitStatus::PtraceSyscall(tid) => {
                self.syscall(&mut shared, tid)?;
                (tid, None)
            }
            WaitStatus::Stopped(tid, Signal::SIGTRAP) if take_breakpoint(tid)? => {
                if let Some(pid) = shared.threads.get(&tid.as_raw()).map(|thread| thread.pid) {
                    shared.counts.entry(pid).or_default().allocations += 1;
                }
                (tid, None)
            }
            WaitStatus::Stopped(tid, signal) => (tid, Some(signal)),
            WaitStatus::PtraceEvent(tid, ..) => {
                drop(shared);
                self.arm(tid)?;
                (tid, None)
            }
            _ => return Ok(()),
        };
        match ptrace::syscall(tid, signal) {
            // Killed meanwhile.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error).context("PTRACE_SYSCALL"),
        }
    }

    fn syscall(&self, shared: &mut Shared, tid: Pid) -> Result<()> {
        let info = match ptrace::syscall_info(tid) {
            Err(Errno::ESRCH) => return Ok(()),
            info => info.context("PTRACE_GET_SYSCALL_INFO")?,
        };
        let Some(thread) = shared.threads.get_mut(&tid.as_raw()) else {
            return Ok(());
        };
        thread.inside = info.op == libc::PTRACE_SYSCALL_INFO_ENTRY;
        if thread.inside {
            let (pid, watches) = (thread.pid, thread.watches);
            // SAFETY: at the entry of a system call this is the member that the kernel filled in.
            let entry = unsafe { info.u.entry };
            let count = shared.counts.entry(pid).or_default();
            match watches && entry.nr == libc::SYS_futex as u64 {
                true => count.ticks += 1,
                false => count.call(pid, entry.nr, &entry.args),
            }
        }
        Ok(())
    }

    /// Sets a thread's breakpoints the first time it stops.
    fn arm(&self, tid: Pid) -> Result<()> {
        if lock(self.shared)
            .threads
            .get(&tid.as_raw())
            .is_some_and(|thread| thread.armed)
        {
            return Ok(());
        }
        let pid = process(tid)?;
        let addresses = self
            .breakpoints
            .get(&pid)
            .context("a thread of another process")?;
        for (number, address) in addresses.iter().enumerate() {
            write_register(tid, number, *address as i64)?;
        }
        write_register(tid, 7, EXECUTION)?;
        self.note(tid.as_raw(), pid);
        if let Some(thread) = lock(self.shared).threads.get_mut(&tid.as_raw()) {
            thread.armed = true;
        }
        Ok(())
    }
}

/// Whether a thread stopped at a breakpoint of ours; it goes on behind it.
fn take_breakpoint(tid: Pid) -> Result<bool> {
    let hit = ptrace::read_user(tid, register(6)).context("the debug status register")? & 0b1111 != 0;
    if hit {
        write_register(tid, 6, 0)?;
    }
    Ok(hit)
}

fn write_register(tid: Pid, number: usize, value: i64) -> Result<()> {
    ptrace::write_user(tid, register(number), value).with_context(|| format!("debug register {number}"))
}

/// Where a debug register is in what PTRACE_POKEUSER writes.
fn register(number: usize) -> ptrace::AddressType {
    (offset_of!(libc::user, u_debugreg) + number * size_of::<u64>()) as ptrace::AddressType
}

fn process(tid: Pid) -> Result<i32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status"))?;
    let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    Ok(group.context("Tgid")?.trim().parse()?)
}
