//! Locks that guests hold on the host, and requests that wait for one.
//!
//! A POSIX record lock belongs to a process of the guest, on the host to an open file description: each owner gets one
//! of its own for each inode, so that owners exclude each other, in one guest, between guests and against the host's
//! programs. flock(2) locks belong to an open file in the guest, which is one here.
//!
//! A request that must wait holds no thread: the kernel does not tell when a lock could be had, so one thread has it tried
//! again, by a thread of the crew, when a lock is given up here, and now and then for those that others hold. A wait that closes a circle among the
//! guest's own owners is refused (EDEADLK); the kernel cannot see it, since descriptions are no processes.
//!
//! Any call that sets a lock may hang, where a server keeps the locks. None is made under the lock of this table: what an
//! owner does to an inode's locks has a lock of its own, so that the kernel's account and this one change in one order.

mod ranges;

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc::SyncSender},
    thread,
    time::{Duration, Instant},
};

use airlockfs_ipc::{Errno, Handle, NodeId, message::FileLock, recycle::Shared};

use self::ranges::Ranges;
use crate::{
    crew::Crew,
    gate::Gate,
    handle::Open,
    session,
    sys::{set_lock, set_whole_lock},
};

/// Most requests that wait at once: each holds a slot of the ring, and some must be left for those that unlock.
const WAITING_MAX: usize = 64;
/// Most ranges that are locked at once: the kernel has a structure for each, which no limit of this process counts, and
/// goes through those of a file one by one.
const RANGES_MAX: usize = 1 << 14;
/// INTERRUPTs that are remembered for requests which they overtook: as many as all lanes have slots for, several times.
const INTERRUPTS: usize = 1024;
/// The answer to who has waited for long enough: nobody knows whether the lock will ever be given up, and where a program
/// waits for itself (flock(2) of a file whose lock it inherited with another descriptor) it never is. Not EINTR, which
/// Linux's FUSE client turns into ERESTARTSYS (`fuse_setlk`), for the kernel alone, and hands to the program as errno 512
/// where no signal is pending.
const WAITED: Errno = Errno::raw(libc::EDEADLK);
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
#[derive(Clone)]
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
    /// A thread tries to take it. It stays here until that has an end.
    tried: bool,
    /// Nobody wants it any more, should it not be had now.
    given_up: bool,
    /// When it has waited for long enough.
    until: Option<Instant>,
}

impl Waiting {
    /// What ends the wait if the lock cannot be had now.
    fn end(&self) -> Option<Errno> {
        match self.until {
            _ if self.given_up => Some(Errno::raw(libc::EINTR)),
            Some(until) if until <= Instant::now() => Some(WAITED),
            _ => None,
        }
    }

    /// Tells how it ended. By then nothing is held for it: the answer may be the last that the session waits for.
    fn tell(self, result: Result<(), Errno>) {
        drop(self.wanted);
        (self.answer)(result);
    }
}

/// All locks of the guest.
pub(crate) struct Locks {
    state: Mutex<State>,
    changed: Condvar,
    /// Most open file descriptions that owners have.
    max: usize,
    /// The longest wait; zero: there is none.
    longest: Duration,
}

/// What holds an owner's record locks on an inode.
struct Record {
    file: Arc<OwnedFd>,
    /// The handle that it locked through first. The owner of an OFD lock is an open file (fcntl(2)), which is one handle
    /// for ever, and whose close the guest tells by RELEASE alone: FLUSH names the process.
    handle: Handle,
    ranges: Ranges,
    /// Held while the kernel is asked to change them.
    changing: Arc<Mutex<()>>,
}

/// What is known of all locks.
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
    /// Held by whoever tries a lock of this session.
    session: Session,
}

/// A session, held by whoever tries its locks or closes its files: while it is, one of them may still be had for a moment.
#[derive(Clone, Default)]
pub(crate) struct Session(Arc<Mutex<Option<SyncSender<()>>>>);

impl Session {
    /// Whether both are one.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// From now on it is told when nobody holds it any more: the other end of `tell` is disconnected then.
    pub(crate) fn tell_end(&self, tell: SyncSender<()>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    }
}

impl Locks {
    /// None yet; at most `max` owners that hold record locks, and waits no longer than `longest` unless that is zero.
    pub(crate) fn new(max: usize, longest: Duration) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            max,
            longest,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the thread that has waiting locks tried by the crew, behind `gate`; it runs as long as the process.
    pub(crate) fn start(crew: Arc<Crew>, gate: Arc<Gate>) -> io::Result<()> {
        thread::Builder::new().name("locks".into()).spawn(move || {
            gate.pass();
            crew.volume().locks.run(&crew);
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
        if session::is_over() {
            return Err(Errno::EBADF);
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
                    changing: Arc::default(),
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
        let (file, lock) = match wanted {
            Wanted::Record(file, lock) => (file, lock),
            Wanted::Whole(file, kind) => return set_whole_lock(&**file, *kind),
        };
        let changing = {
            let mut state = self.state();
            if lock.kind != libc::F_UNLCK as u32 && state.ranges >= RANGES_MAX {
                return Err(Errno::raw(libc::ENOLCK));
            }
            state.record(holder).map(|record| record.changing.clone())
        };
        let _changing = changing
            .as_ref()
            .map(|changing| changing.lock().unwrap_or_else(PoisonError::into_inner));
        set_lock(file, lock)?;
        self.state().note(holder, lock);
        Ok(())
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
        if let Some(waiting) = found.and_then(|position| state.waiting.get_mut(position))
            && waiting.tried
        {
            waiting.given_up = true;
            return;
        }
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
            tried: false,
            given_up: false,
            until: Instant::now()
                .checked_add(self.longest)
                .filter(|_| !self.longest.is_zero()),
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
        for waiting in &mut state.waiting {
            waiting.given_up |= waiting.holder == holder;
        }
        let gone = state.take_waiting(|waiting| waiting.given_up && !waiting.tried);
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

    /// Gives up everything. The session, and what is still to be closed.
    pub(crate) fn clear(&self) -> (Session, impl Send + use<>) {
        let mut all = std::mem::take(&mut *self.state());
        interrupt(std::mem::take(&mut all.waiting));
        (all.session, all.records)
    }

    fn run(&self, crew: &Arc<Crew>) {
        let mut state = self.state();
        loop {
            if state.waiting.iter().all(|waiting| waiting.tried) {
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
            let mut nodes: Vec<_> = state.untried().map(|waiting| waiting.holder.node).collect();
            nodes.sort_unstable();
            nodes.dedup();
            let mut errands = Vec::new();
            for node in nodes {
                let mut list = Vec::new();
                for waiting in &mut state.waiting {
                    if waiting.holder.node == node && !waiting.tried {
                        waiting.tried = true;
                        list.push((waiting.name, waiting.holder, waiting.wanted.clone()));
                    }
                }
                errands.push((list, state.session.clone()));
            }
            drop(state);
            for (list, session) in errands {
                crew.leave_to_spare(Box::new(move |volume| {
                    volume.locks.try_again(list, &session);
                    drop(session);
                }));
            }
            state = self.state();
        }
    }

    /// Tries the waiting locks of one inode, in a session that may be over meanwhile.
    fn try_again(&self, list: Vec<(u64, Holder, Wanted)>, session: &Session) {
        for (name, holder, wanted) in list {
            let result = self.try_now(holder, &wanted);
            let mut state = self.state();
            if !state.session.is(session) {
                // In the next one others may have these names.
                return;
            }
            let Some(position) = state.waiting.iter().position(|waiting| waiting.name == name) else {
                continue;
            };
            let Some(waiting) = state.waiting.get_mut(position) else {
                continue;
            };
            waiting.tried = false;
            let result = match (result, waiting.end()) {
                (Err(Errno::EAGAIN), None) => continue,
                (Err(Errno::EAGAIN), Some(errno)) => Err(errno),
                (result, _) => result,
            };
            let waiting = state.waiting.swap_remove(position);
            drop(state);
            drop(wanted);
            waiting.tell(result);
        }
        self.changed.notify_one();
    }
}

impl State {
    fn record(&mut self, holder: Holder) -> Option<&mut Record> {
        self.records.get_mut(&holder.node)?.get_mut(&holder.owner)
    }

    /// Notes a lock that the kernel set or cleared.
    fn note(&mut self, holder: Holder, lock: &FileLock) {
        if let Some(record) = self.record(holder) {
            let before = record.ranges.len();
            record.ranges.set(lock);
            let after = record.ranges.len();
            self.ranges = (self.ranges + after).saturating_sub(before);
        }
    }

    /// Those that wait and are not being tried.
    fn untried(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().filter(|waiting| !waiting.tried)
    }

    /// Takes out those that `gone` chooses.
    fn take_waiting(&mut self, gone: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        let (gone, left) = std::mem::take(&mut self.waiting).into_iter().partition(gone);
        self.waiting = left;
        gone
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
        waiting.tell(Err(Errno::raw(libc::EINTR)));
    }
}
