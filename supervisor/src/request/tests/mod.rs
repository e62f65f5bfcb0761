//! Queues between a driver that writes descriptor chains and a worker that answers as the test says, in one thread.

mod data;
mod few;
mod late;
mod rings;
mod several;
mod unawaited;

use std::{
    fs::File,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::Arc,
    time::Duration,
};

use airlockfs_ipc::{
    Bytes, Errno, Handle, NodeId, ProtocolError,
    message::{Attr, Entry, FileOperation, Reply, Request},
    ring::{MessageBuffer, SLOTS, SupervisorRing, Ticket, WorkerLane},
};
use nix::sys::memfd::{MFdFlags, memfd_create};
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{QueueT, desc::split::Descriptor};
use vm_memory::{Bytes as _, GuestAddress, GuestAddressSpace};

use super::{
    rounds::HIPRIO,
    schedule::{AT_A_TIME, BATCH, FORGETS_LIE},
    *,
};
use crate::{
    backend::Vring,
    data::CompletionQueue,
    fuse::Options,
    guest_memory::{Memory, SharedMemory},
    shared::{FailureReason, Shared, tests::OPTIONS},
    wait::Waiter,
};

const TABLE: u64 = 0;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0x9000;
const BUFFERS: u64 = 0x10_0000;
/// From one queue's rings to the other's.
const OTHER: u64 = 0x2_0000;
/// Room for one request's buffers.
const STRIDE: u64 = 0x40_0000;
const SIZE: u16 = 256;
const HANDLE: Handle = Handle(5);

/// FUSE_POSIX_LOCKS, offered at INIT.
const POSIX_LOCKS: u32 = 1 << 1;

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const SETLKW: u32 = 33;
const DESTROY: u32 = 38;

/// Everything but the two other processes.
struct Rig {
    memory: SharedMemory,
    /// The second one is not started.
    vrings: [Vring; 2],
    group: Group,
    buffers: Buffers,
    worker: WorkerLane,
    message: MessageBuffer,
    ring_memory: OwnedFd,
    /// The queue that the driver uses now.
    at: usize,
    sent: u16,
    seen: u16,
    /// These two of the other queue.
    others: (u16, u16),
}

#[derive(Debug, PartialEq)]
struct Answer {
    unique: u64,
    error: i32,
    body: Vec<u8>,
}

impl Rig {
    fn new(donate: bool, options: Options) -> Self {
        let memory = SharedMemory::new(
            Memory::from_ranges(&[(GuestAddress(0), (BUFFERS + 8 * STRIDE) as usize)]).unwrap(),
        );
        let ring = SupervisorRing::create(1, Duration::ZERO).unwrap();
        let descriptors = ring
            .worker
            .descriptors()
            .iter()
            .map(|fd| fd.try_clone_to_owned().unwrap())
            .collect();
        let worker = airlockfs_ipc::ring::map(descriptors, 1, &Arc::default())
            .unwrap()
            .pop()
            .unwrap();
        let shared = Arc::new(Shared::for_test(memory.clone(), donate, options));
        let ring_memory = ring.worker.descriptors()[0].try_clone_to_owned().unwrap();
        let lane = ring.lanes.into_iter().next().unwrap();
        let group = Group::new([1, 2], shared, lane, Arc::new(CompletionQueue::new().unwrap()));
        let vrings = [0, OTHER as u32].map(|offset| {
            let vring = Vring::new(Arc::new(Waiter::new().unwrap()));
            let mut state = vring.lock();
            let ring = state.queue_mut();
            ring.set_size(SIZE);
            ring.set_desc_table_address(Some(TABLE as u32 + offset), None);
            ring.set_avail_ring_address(Some(AVAIL as u32 + offset), None);
            ring.set_used_ring_address(Some(USED as u32 + offset), None);
            ring.set_event_idx(true);
            drop(state);
            vring
        });
        vrings[0].lock().queue_mut().set_ready(true);
        vrings[0].enable(true).unwrap();
        let buffers = Buffers::new();
        Self {
            memory,
            vrings,
            group,
            buffers,
            worker,
            message: MessageBuffer::new(),
            ring_memory,
            at: 0,
            sent: 0,
            seen: 0,
            others: (0, 0),
        }
    }

    /// From now on the driver uses the other queue, which is started.
    fn change(&mut self) {
        self.at = 1 - self.at;
        let here = std::mem::replace(&mut self.others, (self.sent, self.seen));
        (self.sent, self.seen) = here;
        self.start_ring(true);
    }

    /// Where something of the queue lies whose first one has it there.
    fn place(&self, of_first: u64) -> GuestAddress {
        GuestAddress(of_first + self.at as u64 * OTHER)
    }

    /// One with a session.
    fn running(donate: bool) -> Self {
        Self::running_with(donate, OPTIONS)
    }

    fn running_with(donate: bool, options: Options) -> Self {
        let mut rig = Self::new(donate, options);
        rig.init(1);
        assert_eq!(rig.run_one().error, 0);
        rig
    }

    /// One with a session and an open file.
    fn with_file(donate: bool) -> Self {
        Self::with_file_and(donate, OPTIONS)
    }

    fn with_file_and(donate: bool, options: Options) -> Self {
        let mut rig = Self::running_with(donate, options);
        rig.send(
            OPEN,
            2,
            &[(libc::O_RDWR as u32).to_ne_bytes(), [0; 4]].concat(),
            16,
        );
        rig.run();
        rig.serve(|request| match request {
            Request::Open { .. } => Reply::Opened { handle: HANDLE },
            other => panic!("{other:?}"),
        });
        assert_eq!(rig.run_one().error, 0);
        rig
    }

    fn init(&mut self, unique: u64) {
        let mut body = vec![0; 64];
        for (place, value) in body.chunks_exact_mut(4).zip([7u32, 36, 0x20000, POSIX_LOCKS]) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        self.send(26, unique, &body, 64);
    }

    /// Adds a request with room for `answer` bytes behind the header.
    fn send(&mut self, opcode: u32, unique: u64, body: &[u8], answer: u32) {
        let mut request = vec![0; 40];
        request[0..4].copy_from_slice(&(40 + body.len() as u32).to_ne_bytes());
        request[4..8].copy_from_slice(&opcode.to_ne_bytes());
        request[8..16].copy_from_slice(&unique.to_ne_bytes());
        request[16..24].copy_from_slice(&1u64.to_ne_bytes());
        request.extend(body);
        self.send_raw(&request, 16 + answer);
    }

    fn send_raw(&mut self, request: &[u8], room: u32) {
        let memory = self.memory.memory();
        let head = self.sent % (SIZE / 2) * 2;
        let buffer = self.buffer(head);
        memory.write_slice(request, GuestAddress(buffer)).unwrap();
        let (next, write) = (VRING_DESC_F_NEXT as u16, VRING_DESC_F_WRITE as u16);
        let put = |index: u16, descriptor: Descriptor| {
            memory
                .write_obj(descriptor, self.place(TABLE + 16 * u64::from(index)))
                .unwrap();
        };
        put(
            head,
            Descriptor::new(buffer, request.len() as u32, next, head + 1),
        );
        put(head + 1, Descriptor::new(buffer + STRIDE / 2, room, write, 0));
        let place = AVAIL + 4 + 2 * u64::from(self.sent % SIZE);
        memory.write_obj(head, self.place(place)).unwrap();
        self.sent = self.sent.wrapping_add(1);
        memory.write_obj(self.sent, self.place(AVAIL + 2)).unwrap();
    }

    /// Few requests have large buffers; the others' may overlap the next one's.
    fn buffer(&self, head: u16) -> u64 {
        let place = u64::from(head / 2) + 3 * self.at as u64;
        BUFFERS + place % 7 * STRIDE + u64::from(head) * 0x800
    }

    /// What the VMM says of the ring's state.
    fn start_ring(&mut self, started: bool) {
        let vring = &self.vrings[self.at];
        vring.lock().queue_mut().set_ready(started);
        vring.enable(true).unwrap();
    }

    /// Sleeps until the worker or a data thread has something for the queue.
    fn sleep(&mut self) {
        let bells = [self.group.doorbell(), self.group.completions.bell()];
        let waiter = Waiter::level([&bells[0], &bells[1]]).unwrap();
        waiter.wait(Some(Duration::from_secs(60))).unwrap();
    }

    fn run(&mut self) -> Option<Duration> {
        self.group.run(&self.vrings, &mut self.buffers, || false)
    }

    /// At how many requests sent the device asks for the next kick (`avail_event`).
    fn kick_asked_for(&self) -> u16 {
        let place = self.place(USED + 4 + 8 * u64::from(SIZE));
        self.memory.memory().read_obj(place).unwrap()
    }

    /// Has the worker answer everything that waits for it.
    fn serve(&mut self, mut answer: impl FnMut(&Request<'_>) -> Reply<'static>) -> usize {
        let mut count = 0;
        while let Some((ticket, request)) = self.worker.take(&mut self.message).unwrap() {
            let reply = answer(&request);
            self.worker.answer(ticket, &reply);
            count += 1;
        }
        count
    }

    /// Runs the queue, and gives the answers published since.
    fn run_all(&mut self) -> Vec<Option<Answer>> {
        self.run();
        let memory = self.memory.memory();
        let index: u16 = memory.read_obj(self.place(USED + 2)).unwrap();
        let mut answers = Vec::new();
        while self.seen != index {
            let place = USED + 4 + 8 * u64::from(self.seen % SIZE);
            let [head, length]: [u32; 2] = memory.read_obj(self.place(place)).unwrap();
            let mut bytes = vec![0; length as usize];
            memory
                .read_slice(&mut bytes, GuestAddress(self.buffer(head as u16) + STRIDE / 2))
                .unwrap();
            answers.push((length > 0).then(|| {
                assert_eq!(bytes[0..4], length.to_ne_bytes());
                Answer {
                    error: -i32::from_ne_bytes(bytes[4..8].try_into().unwrap()),
                    unique: u64::from_ne_bytes(bytes[8..16].try_into().unwrap()),
                    body: bytes.split_off(16),
                }
            }));
            self.seen = self.seen.wrapping_add(1);
        }
        answers
    }

    fn run_one(&mut self) -> Answer {
        let mut answers = self.run_all();
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.pop().unwrap().expect("an answer")
    }

    fn read(&mut self, unique: u64, offset: u64, size: u32) {
        let mut body = HANDLE.0.to_ne_bytes().to_vec();
        body.extend(offset.to_ne_bytes());
        body.extend(size.to_ne_bytes());
        body.extend([0; 20]);
        self.send(READ, unique, &body, size);
    }

    fn write(&mut self, unique: u64, offset: u64, data: &[u8]) {
        let mut body = HANDLE.0.to_ne_bytes().to_vec();
        body.extend(offset.to_ne_bytes());
        body.extend((data.len() as u32).to_ne_bytes());
        body.extend([0; 20]);
        body.extend(data);
        self.send(WRITE, unique, &body, 8);
    }

    /// Gives a descriptor to whoever asks.
    fn donate(&mut self, file: &File) {
        let worker = self.worker.clone();
        assert_eq!(
            self.serve(|request| {
                assert_eq!(*request, Request::Donate { handle: HANDLE });
                worker.channel().send(&HANDLE, &[file.as_fd()]).unwrap();
                Reply::Donated
            }),
            1
        );
    }

    fn failure(&self) -> Option<&FailureReason> {
        self.group.shared.failure.reason()
    }
}

fn entry() -> Reply<'static> {
    Reply::Entry(Entry {
        node: NodeId(2),
        attr: Attr {
            mode: libc::S_IFREG,
            ..Attr::default()
        },
    })
}

fn file(content: &[u8]) -> File {
    let file = File::from(memfd_create(c"test", MFdFlags::empty()).unwrap());
    file.write_all_at(content, 0).unwrap();
    file
}

#[test]
fn requests_travel_to_the_worker_and_their_answers_back_in_any_order() {
    let mut rig = Rig::running(true);
    for unique in 10..13 {
        rig.send(LOOKUP, unique, b"name\0", 128);
    }
    assert_eq!(rig.run_all(), []);
    let mut held: Vec<Ticket> = Vec::new();
    while let Some((ticket, request)) = rig.worker.take(&mut rig.message).unwrap() {
        assert!(matches!(
            request,
            Request::Lookup {
                parent: NodeId::ROOT,
                ..
            }
        ));
        held.push(ticket);
    }
    for ticket in held.into_iter().rev() {
        rig.worker.answer(ticket, &entry());
    }
    let answers: Vec<_> = rig.run_all().into_iter().flatten().collect();
    assert_eq!(
        answers.iter().map(|a| (a.unique, a.error)).collect::<Vec<_>>(),
        [(12, 0), (11, 0), (10, 0)]
    );
    assert_eq!(answers[0].body[0..8], 2u64.to_ne_bytes());
}

#[test]
fn nothing_but_init_is_served_before_init() {
    let mut rig = Rig::new(true, OPTIONS);
    rig.send(LOOKUP, 1, b"name\0", 128);
    assert_eq!(rig.run_one().error, libc::EIO);
    rig.init(2);
    assert_eq!(rig.run_one().error, 0);
    rig.init(3);
    assert_eq!(rig.run_one().error, libc::EIO, "a second INIT");
    assert_eq!(rig.serve(|_| Reply::Done), 0, "the worker knows nothing of it");
}

#[test]
fn destroy_resets_the_worker_and_allows_another_init() {
    let mut rig = Rig::running(true);
    rig.send(DESTROY, 2, b"", 0);
    assert_eq!(rig.run_all(), []);
    assert_eq!(
        rig.serve(|request| {
            assert_eq!(*request, Request::Reset);
            Reply::Done
        }),
        1
    );
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 2,
            error: 0,
            body: vec![]
        }
    );
    rig.send(GETATTR, 3, &[0; 16], 104);
    assert_eq!(rig.run_one().error, libc::EIO);
    rig.init(4);
    rig.run();
    assert_eq!(rig.serve(|_| Reply::Done), 1);
    assert_eq!(rig.run_one().error, 0);
}

#[test]
fn forgets_of_a_batch_go_in_one_message_and_are_not_answered() {
    let mut rig = Rig::running(true);
    for unique in 2..5 {
        rig.send(FORGET, unique, &7u64.to_ne_bytes(), 0);
    }
    assert_eq!(rig.run_all(), [None, None, None]);
    let record = [1u64.to_le_bytes(), 7u64.to_le_bytes()].concat();
    assert_eq!(
        rig.serve(|request| {
            assert_eq!(*request, Request::Forget(Bytes(&record.repeat(3))));
            Reply::Done
        }),
        1
    );
    assert_eq!(rig.run_all(), []);
    assert_eq!(rig.group.queues[0].taken(), 0);
}

#[test]
fn a_worker_that_breaks_the_rules_leaves_nobody_waiting() {
    let mut rig = Rig::running(true);
    for unique in 2..5 {
        rig.send(LOOKUP, unique, b"name\0", 128);
    }
    rig.run();
    let (ticket, _) = rig.worker.take(&mut rig.message).unwrap().unwrap();
    rig.worker.answer(ticket, &Reply::Offset(1));
    let mut answers: Vec<_> = rig
        .run_all()
        .into_iter()
        .flatten()
        .map(|a| (a.unique, a.error))
        .collect();
    answers.sort_unstable();
    assert_eq!(answers, [2, 3, 4].map(|unique| (unique, libc::EIO)));
    assert!(matches!(rig.failure(), Some(FailureReason::Violation(_))));
    rig.send(LOOKUP, 5, b"name\0", 128);
    assert_eq!(rig.run_one().error, libc::EIO);
    rig.init(6);
    assert_eq!(rig.run_one().error, libc::EIO);
}

#[test]
fn a_lane_full_of_nonsense_is_left_alone() {
    let mut rig = Rig::running(true);
    rig.send(LOOKUP, 2, b"name\0", 128);
    rig.run();
    // As many completions as there can never be: each look finds them again.
    let memory = File::from(rig.ring_memory.try_clone().unwrap());
    memory.write_all_at(&u32::MAX.to_ne_bytes(), 64).unwrap();
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 2,
            error: libc::EIO,
            body: vec![]
        }
    );
    rig.send(LOOKUP, 3, b"name\0", 128);
    assert_eq!(rig.run_one().error, libc::EIO);
    assert_eq!(
        rig.failure(),
        Some(&FailureReason::Violation(ProtocolError(
            "more completions than requests"
        )))
    );
}
