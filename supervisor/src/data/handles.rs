//! Which open files the supervisor knows, and where their data goes. Shared by all queues' threads.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use airlockfs_ipc::{
    Handle, NodeId,
    recycle::{Recycler, Shared},
};

use super::DonatedFile;

/// A first access larger than this asks for the descriptor; a smaller one rides in the ring, since most small files
/// are read once.
const SMALL: u32 = 32 << 10;
/// Parts of the table, each with a lock of its own.
const SHARDS: usize = 32;

/// What a guest opened a file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    /// O_RDONLY, O_WRONLY or O_RDWR.
    pub(crate) mode: i32,
}

impl Access {
    /// From the flags of open(2).
    pub(crate) fn of_flags(flags: u32) -> Self {
        Self {
            mode: flags.cast_signed() & libc::O_ACCMODE,
        }
    }
}

/// Where an access goes.
#[derive(Debug)]
pub(crate) enum Route {
    /// To the file itself.
    File(Shared<DonatedFile>),
    /// To the file, once the worker was asked for it. Said once for a handle; then [`HandleTable::donated`] or
    /// [`HandleTable::refused`] must follow.
    AskFirst(Access),
    /// To the worker.
    Ring,
}

#[derive(Debug)]
struct Entry {
    access: Access,
    state: State,
}

#[derive(Debug)]
enum State {
    Untouched,
    Touched,
    Asked,
    Refused,
    Donated(Shared<DonatedFile>),
}

/// Handles are numbered by the worker one after the other: they need no hashing.
#[derive(Debug, Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, number: u64) {
        // An odd factor spreads neighbours over the high bits, which the map also looks at.
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Shard = HashMap<Handle, Entry, BuildHasherDefault<NumberHasher>>;

/// Open files and directories by handle.
#[derive(Debug)]
pub(crate) struct HandleTable {
    shards: [Mutex<Shard>; SHARDS],
    /// Most entries of a part. Handles are numbered one after the other and so fall to all parts alike: more than
    /// that are not the worker's to give, and their data stays in the ring.
    max: usize,
    /// Changes when the guest gives some file a setuid or setgid bit: then a file that had none may have one now.
    mode_changes: AtomicU32,
    by_node: ByNode,
    files: Recycler<DonatedFile>,
}

/// Files that are used without having been opened, and so never released: the oldest makes room.
#[derive(Debug)]
struct ByNode {
    max: usize,
    /// All that are in the table, the oldest first; some are not any more.
    order: Mutex<VecDeque<Handle>>,
}

impl ByNode {
    /// Notes one, and says which must go for it.
    fn admit(&self, handle: Handle) -> Option<Handle> {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(handle);
        (order.len() > self.max).then(|| order.pop_front()).flatten()
    }
}

impl HandleTable {
    /// An empty table for so many handles. `by_node`: how many files that are used without having been opened it may hold
    /// besides; 0 where there are none.
    pub(crate) fn new(handles: usize, by_node: usize) -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            max: (handles / SHARDS + 1).saturating_add(by_node),
            by_node: ByNode {
                max: by_node,
                order: Mutex::default(),
            },
            mode_changes: AtomicU32::new(0),
            files: Recycler::default(),
        }
    }

    fn shard(&self, handle: Handle) -> MutexGuard<'_, Shard> {
        // The remainder is below SHARDS.
        self.shards[(handle.0 % SHARDS as u64) as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// A regular file was opened.
    pub(crate) fn opened(&self, handle: Handle, access: Access) {
        let state = State::Untouched;
        self.insert(handle, Entry { access, state });
    }

    /// A directory was opened: it has no data.
    pub(crate) fn opened_directory(&self, handle: Handle) {
        let entry = Entry {
            access: Access { mode: libc::O_RDONLY },
            state: State::Refused,
        };
        self.insert(handle, entry);
    }

    fn insert(&self, handle: Handle, entry: Entry) {
        let mut shard = self.shard(handle);
        if shard.len() < self.max {
            shard.insert(handle, entry);
        }
    }

    /// A handle was released: its descriptor is closed once the accesses under way are over. False: it is not known.
    pub(crate) fn released(&self, handle: Handle) -> bool {
        let entry = self.shard(handle).remove(&handle);
        let known = entry.is_some();
        if let Some(Entry {
            state: State::Donated(file),
            ..
        }) = entry
        {
            self.files.give_back(file);
        }
        known
    }

    /// The session is over.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let mut order = self.by_node.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.clear();
    }

    /// Where a read or a write of `size` bytes goes.
    pub(crate) fn route(&self, handle: Handle, size: u32) -> Route {
        let mut shard = self.shard(handle);
        let Some(entry) = shard.get_mut(&handle) else {
            drop(shard);
            return self.route_unopened(handle, size);
        };
        match &entry.state {
            State::Donated(file) => Route::File(file.clone()),
            State::Untouched if size <= SMALL => {
                entry.state = State::Touched;
                Route::Ring
            }
            State::Untouched | State::Touched => {
                entry.state = State::Asked;
                Route::AskFirst(entry.access)
            }
            State::Asked | State::Refused => Route::Ring,
        }
    }

    /// The first access to a file that is used without having been opened.
    fn route_unopened(&self, handle: Handle, size: u32) -> Route {
        if handle.node().is_none() || self.by_node.max == 0 {
            return Route::Ring;
        }
        let access = Access { mode: libc::O_RDONLY };
        let (state, route) = match size <= SMALL {
            true => (State::Touched, Route::Ring),
            false => (State::Asked, Route::AskFirst(access)),
        };
        self.insert(handle, Entry { access, state });
        if let Some(oldest) = self.by_node.admit(handle) {
            self.released(oldest);
        }
        route
    }

    /// FORGET of these nodes, 16 bytes for each: nobody uses their files any more.
    pub(crate) fn forgotten(&self, records: &[u8]) {
        if self.by_node.max == 0 {
            return;
        }
        for node in records.chunks_exact(16).filter_map(|record| record.first_chunk()) {
            if let Some(handle) = Handle::of_node(NodeId(u64::from_ne_bytes(*node))) {
                self.released(handle);
            }
        }
    }

    /// The file, if it was donated already: for what does not make it worth while to ask.
    pub(crate) fn file(&self, handle: Handle) -> Option<Shared<DonatedFile>> {
        match &self.shard(handle).get(&handle)?.state {
            State::Donated(file) => Some(file.clone()),
            _ => None,
        }
    }

    /// The worker gave what was asked for. Without effect if the handle was released meanwhile.
    pub(crate) fn donated(&self, handle: Handle, file: DonatedFile) -> Shared<DonatedFile> {
        let file = self.files.share(file);
        self.set(handle, State::Donated(file.clone()));
        file
    }

    /// The worker keeps the descriptor: this handle's data stays in the ring.
    pub(crate) fn refused(&self, handle: Handle) {
        self.set(handle, State::Refused);
    }

    fn set(&self, handle: Handle, state: State) {
        if let Some(entry) = self.shard(handle).get_mut(&handle) {
            entry.state = state;
        }
    }

    /// The guest gave some file a setuid or setgid bit.
    pub(crate) fn mode_changed(&self) {
        self.mode_changes.fetch_add(1, Relaxed);
    }

    /// How often that happened.
    pub(crate) fn mode_changes(&self) -> u32 {
        self.mode_changes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLE: Handle = Handle(7);

    fn table() -> HandleTable {
        let table = HandleTable::new(64, 0);
        table.opened(
            HANDLE,
            Access::of_flags((libc::O_RDWR | libc::O_TRUNC).cast_unsigned()),
        );
        table
    }

    #[test]
    fn a_small_first_access_rides_in_the_ring_and_the_second_asks_once() {
        let table = table();
        assert!(matches!(table.route(HANDLE, SMALL), Route::Ring));
        assert!(matches!(
            table.route(HANDLE, 1),
            Route::AskFirst(Access { mode: libc::O_RDWR })
        ));
        assert!(
            matches!(table.route(HANDLE, 1 << 20), Route::Ring),
            "asked already"
        );
        table.refused(HANDLE);
        assert!(matches!(table.route(HANDLE, 1 << 20), Route::Ring));
        assert!(matches!(table.route(Handle(8), 1), Route::Ring), "unknown");
    }

    #[test]
    fn a_large_first_access_asks() {
        assert!(matches!(table().route(HANDLE, SMALL + 1), Route::AskFirst(_)));
    }

    #[test]
    fn a_donation_for_a_released_handle_is_dropped() {
        let table = table();
        table.released(HANDLE);
        let file = table.donated(HANDLE, DonatedFile::for_test());
        assert!(table.file(HANDLE).is_none());
        assert_eq!(file.users(), 1);
        table.opened(HANDLE, Access::of_flags(0));
        let file = table.donated(HANDLE, DonatedFile::for_test());
        assert!(table.file(HANDLE).is_some());
        table.clear();
        assert_eq!(file.users(), 1, "cleared");
    }

    #[test]
    fn more_handles_than_there_can_be_take_no_memory() {
        let table = HandleTable::new(64, 0);
        for number in 1..10_000 {
            table.opened(Handle(number), Access::of_flags(0));
            table.opened_directory(Handle(number << 32 | 1));
        }
        let all: usize = table.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert!((64..=128).contains(&all), "{all}");
        assert!(matches!(table.route(Handle(64), SMALL + 1), Route::AskFirst(_)));
        assert!(matches!(table.route(Handle(9999), SMALL + 1), Route::Ring));
        table.clear();
        table.opened(Handle(9999), Access::of_flags(0));
        assert!(matches!(table.route(Handle(9999), SMALL + 1), Route::AskFirst(_)));
    }

    #[test]
    fn files_that_nobody_opened_are_donated_too_and_the_oldest_makes_room() {
        let table = HandleTable::new(64, 2);
        let by_node = |node| Handle::of_node(NodeId(node)).unwrap();
        let mut files = Vec::new();
        for node in 1..=3 {
            let handle = by_node(node);
            assert!(matches!(
                table.route(handle, SMALL + 1),
                Route::AskFirst(Access { mode: libc::O_RDONLY })
            ));
            files.push(table.donated(handle, DonatedFile::for_test()));
        }
        assert!(table.file(by_node(1)).is_none() && table.file(by_node(3)).is_some());
        let record = [3_u64.to_ne_bytes(), 1_u64.to_ne_bytes()].concat();
        table.forgotten(&record);
        assert!(table.file(by_node(3)).is_none() && table.file(by_node(2)).is_some());
        assert!(matches!(table.route(by_node(9), 1), Route::Ring));
        assert!(matches!(table.route(by_node(9), 1), Route::AskFirst(_)));
        table.clear();
        assert!(files.iter().all(|file| file.users() == 1));
        // Where files are opened, nobody has such a handle.
        assert!(matches!(
            HandleTable::new(64, 0).route(by_node(1), SMALL + 1),
            Route::Ring
        ));
    }
}
