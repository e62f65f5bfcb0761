//! A request of the guest as a value: it moves by ownership from step to step, and is used again once it is answered.

use airlockfs_ipc::{
    Errno, Handle, ProtocolError,
    message::{self, FileOperation, Reply},
    recycle,
    ring::{Bulk, SLOTS},
};

use crate::{
    chain::Chain,
    data::{Access, DonatedFile},
    fuse::{InitOutcome, Negotiated, Operation, Row},
};

/// A request, from its descriptor chain to its answer.
#[derive(Debug)]
pub(crate) struct Request {
    /// Its descriptor chain in its virtqueue.
    pub(crate) head: Head,
    /// The chain's buffers.
    pub(crate) chain: Chain,
    /// `unique` of the FUSE header.
    pub(crate) unique: u64,
    /// What is known of its operation.
    pub(crate) row: &'static Row,
    /// The largest answer that was asked for, in the unit of the row's reply: bytes, as a rule.
    pub(crate) limit: u64,
    /// Flags of open(2), or the mode that a file gets: what `follows` of the row depends on.
    pub(crate) mode: u32,

    /// What is done to an open file; means nothing for others.
    pub(crate) operation: FileOperation,
    /// Where in the readable buffers a write's data begins.
    pub(crate) data_at: usize,
    /// Bytes of file data moved so far.
    pub(crate) done: usize,
    /// The donated file that it is carried out on here.
    pub(crate) file: Option<recycle::Shared<DonatedFile>>,

    /// What the worker's reply is for.
    pub(crate) awaits: Awaits,
    /// The bulk buffer it holds.
    pub(crate) bulk: Option<Bulk>,
    /// Nobody waits any more: the guest was answered EIO, or is gone. What the reply brings is given back.
    pub(crate) late: bool,

    /// The result of a file operation; none from a data thread if this process may not do it.
    pub(crate) reply: Option<Reply<'static>>,
    /// Its number among those that data threads have.
    pub(crate) number: u64,
    /// How often its queue's requests had been given up when it was begun here.
    pub(crate) given_up: u32,
}

/// A descriptor chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Head {
    /// Which of the group's virtqueues it came in.
    pub(crate) queue: u8,
    /// Its first descriptor.
    pub(crate) index: u16,
}

/// What a reply of the worker is for.
#[derive(Debug)]
pub(crate) enum Awaits {
    /// The answer.
    Answer,
    /// A lock, which may be as long in coming as another holds it.
    Lock,
    /// A lock nobody wants any more: the driver began anew with its ring.
    StaleLock,
    /// INIT, whose session begins once the worker forgot the one before.
    Begin(Negotiated),
    /// DESTROY.
    End,
    /// Data through the ring: so many bytes of it, behind those moved before.
    Data(u32),
    /// A descriptor with this access, for the file operation that is then carried out on it.
    Donation(Access),
}

/// What comes next for a request.
#[derive(Debug)]
pub(super) enum Next<'a> {
    /// Step 3: it was decoded.
    Route(Box<Request>, Operation<'a>),
    /// Step 3: it is carried out here, on its file.
    Local(Box<Request>),
    /// Step 4: the worker is asked.
    Ask(Box<Request>, message::Request<'a>),
    /// Step 7.
    Answer(Box<Request>, Answer<'a>),
    /// It waits until the lane has room for it.
    Wait(Box<Request>),
    /// There is no room for it: it stays in its ring, untouched.
    Stay(Box<Request>),
    /// Nobody waits for it any more: its chain is not given back.
    Drop(Box<Request>),
    /// The worker or a data thread has it.
    Away,
}

/// What the guest finds in its chain.
#[derive(Debug)]
pub(super) enum Answer<'a> {
    /// Nothing: no answer is wanted.
    Nothing,
    /// It makes no sense, for this reason: the errno, or nothing where no answer is possible.
    Malformed(&'static str, Option<Errno>),
    /// A bare header.
    Done,
    /// An errno.
    Error(Errno),
    /// The result of waiting for a lock: now, or once it is known whether the ring goes on.
    Lock(Option<Errno>),
    /// INIT's.
    Init(Box<InitOutcome>),
    /// What the worker says, with what stands in the bulk buffer.
    Reply(&'a Reply<'a>),
    /// The request's own reply: a file operation's, whose data stands in guest memory already.
    Moved,
    /// EIO: the worker broke the rules.
    Violation(ProtocolError),
}

impl Request {
    /// One to be filled in.
    pub(crate) fn empty() -> Box<Self> {
        Box::new(Self {
            head: Head::default(),
            chain: Chain::default(),
            unique: 0,
            row: Row::NONE,
            limit: 0,
            mode: 0,
            operation: FileOperation::Fsync {
                handle: Handle(0),
                datasync: false,
            },
            data_at: 0,
            done: 0,
            file: None,
            awaits: Awaits::Answer,
            bulk: None,
            late: false,
            reply: None,
            number: 0,
            given_up: 0,
        })
    }

    /// Whether it is one of a queue's waits for a lock.
    pub(super) const fn is_lock_of(&self, queue: u8) -> bool {
        matches!(self.awaits, Awaits::Lock) && self.head.queue == queue
    }
}

/// A long BATCH_FORGET that was taken in part. Its chain is the device's until all of it is.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) request: Box<Request>,
    /// Bytes of records that were not taken yet.
    pub(super) left: usize,
}

/// Requests kept for use again, besides those of a lane.
pub(super) const SPARE: usize = 64;

/// Requests to be used again, with the room that their buffers have.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes are what goes round")]
pub(super) struct Spare(Vec<Box<Request>>);

impl Spare {
    /// One to be filled in: nothing of an earlier request counts.
    pub(super) fn take(&mut self, head: Head) -> Box<Request> {
        let mut request = self.0.pop().unwrap_or_else(Request::empty);
        request.head = head;
        request.unique = 0;
        request.row = Row::NONE;
        request.awaits = Awaits::Answer;
        (request.late, request.done, request.reply) = (false, 0, None);
        request
    }

    /// It is over, and holds nothing.
    pub(super) fn keep(&mut self, mut request: Box<Request>) {
        request.file = None;
        if self.0.len() < SLOTS + SPARE {
            self.0.push(request);
        }
    }
}
