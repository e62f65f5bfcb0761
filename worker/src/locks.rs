//! Locks that guests hold on the host, and requests that wait for one.
//!
//! A POSIX record lock belongs to a process of the guest, on the host to an open file description: each owner gets one
//! of its own for each inode, so that owners exclude each other, in one guest, between guests and against the host's
//! programs. flock(2) locks belong to an open file in the guest, which is one here.
//!
//! A request that must wait holds no thread: the kernel does not tell when a lock could be had, so one thread tries
//! again when a lock is given up here, and now and then for those that others hold. A wait that closes a circle among the
//! guest's own owners is refused (EDEADLK); the kernel cannot see it, since descriptions are no processes.

mod ranges;

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use airlockfs_ipc::{Errno, Handle, NodeId, message::FileLock, recycle::Shared};

use self::ranges::Ranges;
use crate::{
    gate::Gate,
    handle::Open,
    sys::{set_lock, set_whole_lock},
};

/// Most requests that wait at once: each holds a slot of the ring, and some must be left for those that unlock.
const WAITING_MAX: usize = 64;
/// Most ranges that are locked at once: the kernel has a structure for each, which no limit of this process counts, and
/// goes through those of a file one by one.
const RANGES_MAX: usize = 1 << 14;
/// INTERRUPTs that are remembered for requests which they overtook: as many as all lanes have slots for, several times.
const INTERRUPTS: usize = 1024;
/// How soon a lock that others hold is tried again, at first and at last.
const RETRY: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(100)];

/// Who holds a lock: an owner in the guest, on an inode.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    /// The inode.
    pub(crate) node: NodeId,
    /// The guest's number for the process or the open file.
    pub(crate) owner: u64,
}

/// A lock to take, or a record lock to clear.
pub(crate) enum Wanted {
    /// A record lock, through the owner's own open file description.
    Record(Arc<OwnedFd>, FileLock),
    /// The whole file, through the handle's; F_RDLCK or F_WRLCK.
    Whole(Shared<Open>, u32),
}

/// Told how the wait ended.
pub(crate) type Answer = Box<dyn FnOnce(Result<(), Errno>) + Send>;

struct Waiting {
    /// What INTERRUPT calls it.
    name: u64,
    holder: Holder,
    wanted: Wanted,
    answer: Answer,
}

/// All locks of the guest.
pub(crate) struct Locks {
    state: Mutex<State>,
    changed: Condvar,
    /// Most open file descriptions that owners have.
    max: usize,
}

/// What holds an owner's record locks on an inode.
struct Record {
    file: Arc<OwnedFd>,
    /// The handle that it locked through first. The owner of an OFD lock is an open file (fcntl(2)), which is one handle
    /// for ever, and whose close the guest tells by RELEASE alone: FLUSH names the process.
    handle: Handle,
    ranges: Ranges,
}

#[derive(Default)]
struct State {
    /// By node, then by owner; no node without an owner.
    records: HashMap<NodeId, HashMap<u64, Record>>,
    /// All of them.
    count: usize,
    /// The ranges of all.
    ranges: usize,
    /// Names of waits that were interrupted before they began.
    interrupted: VecDeque<u64>,
    waiting: Vec<Waiting>,
    retry: Duration,
}

impl Locks {
    /// None yet; at most `max` owners that hold record locks.
    pub(crate) fn new(max: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            max,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread that tries waiting locks, behind `gate`; it runs as long as the process.
    pub(crate) fn start(
        locks: Arc<impl AsRef<Self> + Send + Sync + 'static>,
        gate: Arc<Gate>,
    ) -> io::Result<()> {
        thread::Builder::new().name("locks".into()).spawn(move || {
            gate.pass();
            let _guard = crate::EndsWithPanic;
            (*locks).as_ref().run();
        })?;
        Ok(())
    }

    /// The open file description of an owner, made by `open` if it has none yet; `handle` is what it locks through.
    /// ENOLCK if there are too many.
    pub(crate) fn of_owner(
        &self,
        holder: Holder,
        handle: Handle,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(file) = self.existing(holder) {
            return Ok(file);
        }
        let file = Arc::new(open()?);
        let mut state = self.state();
        if state.count >= self.max {
            return Err(Errno::raw(libc::ENOLCK));
        }
        let State { records, count, .. } = &mut *state;
        let record = records
            .entry(holder.node)
            .or_default()
            .entry(holder.owner)
            .or_insert_with(|| {
                *count = count.saturating_add(1);
                Record {
                    file,
                    handle,
                    ranges: Ranges::default(),
                }
            });
        Ok(record.file.clone())
    }

    /// The open file description of an owner that has one.
    pub(crate) fn existing(&self, holder: Holder) -> Option<Arc<OwnedFd>> {
        let state = self.state();
        let record = state.records.get(&holder.node)?.get(&holder.owner)?;
        Some(record.file.clone())
    }

    /// Takes or clears a lock, or says EAGAIN if another is in the way.
    pub(crate) fn try_now(&self, holder: Holder, wanted: &Wanted) -> Result<(), Errno> {
        self.state().try_now(holder, wanted)
    }

    /// The guest's process whose lock is in the way of one of `holder`'s, if it is one of this guest.
    pub(crate) fn who_holds(&self, holder: Holder, lock: &FileLock) -> Option<u32> {
        let state = self.state();
        state.blockers(holder, lock).map(|(_, pid)| pid).next()
    }

    /// Ends a wait with EINTR, now or when it comes.
    pub(crate) fn interrupt(&self, name: u64) {
        let mut state = self.state();
        let found = state.waiting.iter().position(|waiting| waiting.name == name);
        let Some(position) = found else {
            if state.interrupted.len() >= INTERRUPTS {
                state.interrupted.pop_front();
            }
            state.interrupted.push_back(name);
            return;
        };
        let waiting = state.waiting.swap_remove(position);
        drop(state);
        interrupt(vec![waiting]);
    }

    /// Takes a lock when it can be had, and tells `answer`. At once: ENOLCK if too many wait, EDEADLK if it would wait for
    /// itself, EINTR if it was interrupted before.
    pub(crate) fn wait(&self, name: u64, holder: Holder, wanted: Wanted, answer: Answer) {
        let mut state = self.state();
        let known = state.interrupted.iter().position(|&other| other == name);
        let refused = if let Some(position) = known {
            state.interrupted.remove(position);
            Some(libc::EINTR)
        } else if state.waiting.len() >= WAITING_MAX {
            Some(libc::ENOLCK)
        } else if state.would_deadlock(holder, &wanted) {
            Some(libc::EDEADLK)
        } else {
            None
        };
        if let Some(errno) = refused {
            drop(state);
            return answer(Err(Errno::raw(errno)));
        }
        state.waiting.push(Waiting {
            name,
            holder,
            wanted,
            answer,
        });
        // It may have been given up since it was found in the way.
        state.retry = Duration::ZERO;
        drop(state);
        self.changed.notify_one();
    }

    /// Says that a lock was given up, which another may wait for.
    pub(crate) fn given_up(&self) {
        let mut state = self.state();
        if !state.waiting.is_empty() {
            state.retry = Duration::ZERO;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Gives up all record locks of an owner on an inode, and what it waits for there.
    pub(crate) fn drop_owner(&self, holder: Holder) {
        let mut state = self.state();
        let gone_records = state.take_records(holder.node, |owner, _| owner == holder.owner);
        let (gone, left) = std::mem::take(&mut state.waiting)
            .into_iter()
            .partition(|waiting| waiting.holder == holder);
        state.waiting = left;
        drop(state);
        interrupt(gone);
        self.end(gone_records);
    }

    /// Gives up the record locks of the owners that took them through a handle which is closed for good.
    pub(crate) fn drop_handle(&self, node: NodeId, handle: Handle) {
        let gone = self
            .state()
            .take_records(node, |_, record| record.handle == handle);
        self.end(gone);
    }

    /// Closes what held locks, and lets others try.
    fn end(&self, records: Vec<Record>) {
        if !records.is_empty() {
            drop(records);
            self.given_up();
        }
    }

    /// Gives up everything.
    pub(crate) fn clear(&self) {
        let all = std::mem::take(&mut *self.state());
        interrupt(all.waiting);
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            if state.waiting.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if !state.retry.is_zero() {
                let retry = state.retry;
                let waited = self.changed.wait_timeout(state, retry);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let [first, last] = RETRY;
            state.retry = (state.retry * 2).clamp(first, last);
            let mut left = Vec::new();
            let mut done = Vec::new();
            for waiting in std::mem::take(&mut state.waiting) {
                match state.try_now(waiting.holder, &waiting.wanted) {
                    Err(Errno::EAGAIN) => left.push(waiting),
                    result => done.push((waiting, result)),
                }
            }
            state.waiting = left;
            drop(state);
            for (waiting, result) in done {
                (waiting.answer)(result);
            }
            state = self.state();
        }
    }
}

impl State {
    /// With the kernel's account and this one under one lock, they say the same.
    fn try_now(&mut self, holder: Holder, wanted: &Wanted) -> Result<(), Errno> {
        let (file, lock) = match wanted {
            Wanted::Record(file, lock) => (file, lock),
            Wanted::Whole(file, kind) => return set_whole_lock(&**file, *kind),
        };
        if lock.kind != libc::F_UNLCK as u32 && self.ranges >= RANGES_MAX {
            return Err(Errno::raw(libc::ENOLCK));
        }
        set_lock(file, lock)?;
        let owners = self.records.get_mut(&holder.node);
        if let Some(record) = owners.and_then(|owners| owners.get_mut(&holder.owner)) {
            let before = record.ranges.len();
            record.ranges.set(lock);
            self.ranges = (self.ranges + record.ranges.len()).saturating_sub(before);
        }
        Ok(())
    }

    /// Other owners that hold what is in the way of a lock, and their processes.
    fn blockers<'a>(&'a self, holder: Holder, lock: &'a FileLock) -> impl Iterator<Item = (u64, u32)> + 'a {
        let owners = self.records.get(&holder.node).into_iter().flatten();
        owners
            .filter(move |(owner, _)| **owner != holder.owner)
            .filter_map(move |(owner, record)| Some((*owner, record.ranges.in_the_way(lock)?)))
    }

    /// Whether somebody in the way waits, directly or by others, for the one who is about to wait.
    fn would_deadlock(&self, holder: Holder, wanted: &Wanted) -> bool {
        let Wanted::Record(_, lock) = wanted else {
            return false;
        };
        let mut seen = vec![holder.owner];
        let mut steps = vec![(holder, *lock)];
        while let Some((at, lock)) = steps.pop() {
            for (owner, _) in self.blockers(at, &lock) {
                if owner == holder.owner {
                    return true;
                }
                if seen.contains(&owner) {
                    continue;
                }
                seen.push(owner);
                let waits = self
                    .waiting
                    .iter()
                    .filter(|waiting| waiting.holder.owner == owner);
                steps.extend(waits.filter_map(|waiting| match waiting.wanted {
                    Wanted::Record(_, lock) => Some((waiting.holder, lock)),
                    Wanted::Whole(..) => None,
                }));
            }
        }
        false
    }

    /// Takes out an inode's records that `gone` chooses.
    fn take_records(&mut self, node: NodeId, gone: impl Fn(u64, &Record) -> bool) -> Vec<Record> {
        let Some(owners) = self.records.get_mut(&node) else {
            return Vec::new();
        };
        let taken: Vec<_> = owners
            .extract_if(|owner, record| gone(*owner, record))
            .map(|(_, record)| record)
            .collect();
        if owners.is_empty() {
            self.records.remove(&node);
        }
        self.count = self.count.saturating_sub(taken.len());
        let ranges: usize = taken.iter().map(|record| record.ranges.len()).sum();
        self.ranges = self.ranges.saturating_sub(ranges);
        taken
    }
}

fn interrupt(waiting: Vec<Waiting>) {
    for waiting in waiting {
        (waiting.answer)(Err(Errno::raw(libc::EINTR)));
    }
}
