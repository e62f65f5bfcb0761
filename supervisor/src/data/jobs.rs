//! What a group of queues knows of the requests that its data threads have: enough to answer the guest without them.

use crate::{
    fuse::{self, OUT_HEADER_LEN},
    guest_memory::{Memory, Piece, Pieces},
    request::{Head, Request},
};

/// Pieces of guest memory that a reply's header may lie in, for this: it lies in one as a rule.
const PIECES: usize = 4;

/// Jobs that are not done, or whose end somebody waits for.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    list: Vec<Job>,
    count: u64,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Job {
    number: u64,
    /// Its chain.
    pub(crate) head: Head,
    /// Its `unique`.
    pub(crate) unique: u64,
    /// Where its answer's header goes.
    pub(crate) header: Header,
}

/// Where the header of a reply goes.
#[derive(Debug)]
pub(crate) struct Header([Option<Piece>; PIECES]);

impl Header {
    fn of(writable: &Pieces) -> Self {
        let mut pieces = writable.range(0, OUT_HEADER_LEN);
        Self(std::array::from_fn(|_| pieces.next()))
    }

    /// Writes an error there. How many bytes: none if there is no room.
    pub(crate) fn write_error(&self, memory: &Memory, unique: u64, errno: airlockfs_ipc::Errno) -> usize {
        let mut room = Pieces::default();
        for piece in self.0.iter().flatten() {
            if room.push(memory, piece.address, piece.length).is_err() {
                return 0;
            }
        }
        let header = fuse::reply::error(unique, errno);
        room.write(memory, 0, &header).map_or(0, |()| header.len())
    }
}

impl Jobs {
    /// None yet.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            list: Vec::with_capacity(room),
            count: 0,
        }
    }

    /// How many there are.
    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }

    /// A data thread is about to get this one.
    pub(crate) fn enter(&mut self, request: &mut Request) {
        self.count = self.count.wrapping_add(1);
        request.number = self.count;
        self.list.push(Job {
            number: request.number,
            head: request.head,
            unique: request.unique,
            header: Header::of(&request.chain.writable),
        });
    }

    /// It is done. False: nobody waits for it any more.
    pub(crate) fn done(&mut self, request: &Request) -> bool {
        let found = self.list.iter().position(|job| job.number == request.number);
        found.map(|place| self.list.swap_remove(place)).is_some()
    }

    /// Nobody waits for those of a queue any more. Calls `each` with them.
    pub(crate) fn give_up(&mut self, queue: u8, mut each: impl FnMut(&Job)) {
        self.list.retain(|job| {
            let stays = job.head.queue != queue;
            if !stays {
                each(job);
            }
            stays
        });
    }
}
