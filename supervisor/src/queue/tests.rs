//! A queue between a driver that writes descriptor chains and a worker that answers as the test says, in one thread.

use std::{
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::atomic::{AtomicBool, AtomicU64},
    time::Duration,
};

use airlockfs_ipc::{
    Errno, Handle, NodeId, ProtocolError,
    message::{Attr, Entry, Reply},
    ring::{SLOTS, SupervisorRing, Ticket, WorkerLane},
};
use nix::sys::{
    eventfd::EventFd,
    memfd::{MFdFlags, memfd_create},
};
use virtio_bindings::bindings::virtio_ring::{VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes as _, GuestAddress};

use super::*;
use crate::{
    data::{HandleTable, Pool},
    fuse::{CacheMode, CachePolicy, Options},
    session::Session,
    shared::Failure,
};

const TABLE: u64 = 0;
const AVAIL: u64 = 0x8000;
const USED: u64 = 0x9000;
const BUFFERS: u64 = 0x10_0000;
/// Room for one request's buffers.
const STRIDE: u64 = 0x40_0000;
const SIZE: u16 = 256;
const HANDLE: Handle = Handle(5);

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const DESTROY: u32 = 38;

/// Everything but the two other processes.
struct Rig {
    memory: SharedMemory,
    vring: Vring,
    queue: Queue,
    scratch: Scratch,
    worker: WorkerLane,
    message: MessageBuffer,
    sent: u16,
    seen: u16,
}

#[derive(Debug, PartialEq)]
struct Answer {
    unique: u64,
    error: i32,
    body: Vec<u8>,
}

impl Rig {
    fn new(donate: bool) -> Self {
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
        let worker = airlockfs_ipc::ring::map(descriptors, 1, Duration::ZERO)
            .unwrap()
            .pop()
            .unwrap();
        let shared = Arc::new(Shared {
            memory: memory.clone(),
            session: Session::default(),
            handles: donate.then(HandleTable::new),
            pool: Pool::new(memory.clone(), 2).unwrap(),
            options: OPTIONS,
            failure: Failure::new(EventFd::new().unwrap()),
            draining: AtomicBool::new(false),
            malformed: AtomicU64::new(0),
        });
        let lane = ring.lanes.into_iter().next().unwrap();
        let queue = Queue::new(1, shared, lane, Arc::new(Port::new().unwrap()));
        let vring = Vring::new(memory.clone(), SIZE).unwrap();
        vring.set_queue_info(TABLE, AVAIL, USED).unwrap();
        vring.set_queue_event_idx(true);
        vring.set_queue_ready(true);
        vring.set_enabled(true);
        let scratch = Scratch::new();
        Self {
            memory,
            vring,
            queue,
            scratch,
            worker,
            message: MessageBuffer::new(),
            sent: 0,
            seen: 0,
        }
    }

    /// One with a session.
    fn running(donate: bool) -> Self {
        let mut rig = Self::new(donate);
        rig.init(1);
        assert_eq!(rig.run_one().error, 0);
        rig
    }

    /// One with a session and an open file.
    fn with_file(donate: bool) -> Self {
        let mut rig = Self::running(donate);
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
        for (place, value) in body.chunks_exact_mut(4).zip([7u32, 36, 0x20000, 0]) {
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
                .write_obj(descriptor, GuestAddress(TABLE + 16 * u64::from(index)))
                .unwrap();
        };
        put(
            head,
            Descriptor::new(buffer, request.len() as u32, next, head + 1),
        );
        put(head + 1, Descriptor::new(buffer + STRIDE / 2, room, write, 0));
        let place = AVAIL + 4 + 2 * u64::from(self.sent % SIZE);
        memory.write_obj(head, GuestAddress(place)).unwrap();
        self.sent = self.sent.wrapping_add(1);
        memory.write_obj(self.sent, GuestAddress(AVAIL + 2)).unwrap();
    }

    /// Few requests have large buffers; the others' may overlap the next one's.
    fn buffer(&self, head: u16) -> u64 {
        BUFFERS + u64::from(head / 2 % 7) * STRIDE + u64::from(head) * 0x800
    }

    fn run(&mut self) {
        self.queue.run(&self.vring, &mut self.scratch);
    }

    /// Has the worker answer everything that waits for it.
    fn serve(&mut self, mut answer: impl FnMut(&Request<'_>) -> Reply<'static>) -> usize {
        let mut count = 0;
        while let Some((ticket, request)) = self.worker.next(&mut self.message).unwrap() {
            let reply = answer(&request);
            self.worker.complete(ticket, &reply);
            count += 1;
        }
        self.worker.flush();
        count
    }

    /// Runs the queue, and gives the answers published since.
    fn run_all(&mut self) -> Vec<Option<Answer>> {
        self.run();
        let memory = self.memory.memory();
        let index: u16 = memory.read_obj(GuestAddress(USED + 2)).unwrap();
        let mut answers = Vec::new();
        while self.seen != index {
            let place = USED + 4 + 8 * u64::from(self.seen % SIZE);
            let [head, length]: [u32; 2] = memory.read_obj(GuestAddress(place)).unwrap();
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
        let channel = self.worker.completer();
        assert_eq!(
            self.serve(|request| {
                assert_eq!(*request, Request::Donate { handle: HANDLE });
                channel.channel().send(&HANDLE, &[file.as_fd()]).unwrap();
                Reply::Donated
            }),
            1
        );
    }

    fn failure(&self) -> Option<&FailureReason> {
        self.queue.shared.failure.reason()
    }
}

const OPTIONS: Options = Options {
    cache: CachePolicy::new(CacheMode::Auto),
    readdirplus: true,
    writeback: false,
    announce_submounts: true,
    xattr: false,
    posix_acl: false,
    security_label: false,
    posix_lock: false,
    flock: false,
    killpriv_v2: false,
    allow_mmap: false,
    zero_open: false,
    forward_flush: false,
    forward_access: false,
    idmapped_mounts: false,
};

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
    while let Some((ticket, request)) = rig.worker.next(&mut rig.message).unwrap() {
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
        rig.worker.complete(ticket, &entry());
    }
    rig.worker.flush();
    let answers: Vec<_> = rig.run_all().into_iter().flatten().collect();
    assert_eq!(
        answers.iter().map(|a| (a.unique, a.error)).collect::<Vec<_>>(),
        [(12, 0), (11, 0), (10, 0)]
    );
    assert_eq!(answers[0].body[0..8], 2u64.to_ne_bytes());
}

#[test]
fn nothing_but_init_is_served_before_init() {
    let mut rig = Rig::new(true);
    rig.send(LOOKUP, 1, b"name\0", 128);
    assert_eq!(rig.run_one().error, libc::EIO);
    rig.init(2);
    assert_eq!(rig.run_one().error, 0);
    rig.init(3);
    assert_eq!(rig.run_one().error, libc::EIO, "a second INIT");
    assert_eq!(rig.serve(|_| Reply::Done), 0, "the worker knows nothing of it");
}

#[test]
fn init_after_the_rings_were_stopped_starts_anew_and_a_pause_does_not() {
    let mut rig = Rig::running(true);
    rig.queue.shared.session.rings_stopped();
    rig.send(LOOKUP, 2, b"name\0", 128);
    rig.run();
    assert_eq!(rig.serve(|_| entry()), 1);
    assert_eq!(rig.run_one().error, 0, "resumed");
    rig.init(3);
    rig.send(LOOKUP, 4, b"name\0", 128);
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 4,
            error: libc::EIO,
            body: vec![]
        },
        "not begun yet"
    );
    assert_eq!(
        rig.serve(|request| {
            assert_eq!(*request, Request::Reset);
            Reply::Done
        }),
        1
    );
    let answer = rig.run_one();
    assert_eq!((answer.unique, answer.error), (3, 0));
    rig.init(5);
    assert_eq!(rig.run_one().error, libc::EIO);
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
fn malformed_requests_are_given_back_empty_and_the_queue_goes_on() {
    let mut rig = Rig::running(true);
    rig.send_raw(b"short", 100);
    rig.send_raw(&[0xff; 100], 4);
    let memory = rig.memory.memory();
    rig.send(LOOKUP, 9, b"name\0", 128);
    // Its first descriptor now points nowhere.
    memory
        .write_obj(
            u64::MAX - 3,
            GuestAddress(TABLE + 16 * u64::from((rig.sent - 1) * 2)),
        )
        .unwrap();
    rig.send(LOOKUP, 10, b"name\0", 128);
    assert_eq!(rig.run_all(), [None, None, None]);
    assert_eq!(rig.serve(|_| entry()), 1);
    assert_eq!(rig.run_one().unique, 10);
    assert_eq!(
        rig.queue.shared.malformed.load(Relaxed),
        2,
        "an unknown opcode is lawful"
    );
}

#[test]
fn more_requests_than_slots_are_all_answered() {
    let mut rig = Rig::running(true);
    let count = SLOTS as u64 + 3 - 1;
    for _ in 0..SIZE / 2 {
        rig.send(LOOKUP, 7, b"n\0", 128);
    }
    rig.run();
    assert_eq!(rig.queue.in_flight(), SLOTS);
    for _ in 0..2 {
        rig.send(LOOKUP, 7, b"n\0", 128);
    }
    rig.run();
    assert_eq!(
        rig.queue.in_flight(),
        SLOTS,
        "those that find no slot wait in the ring"
    );
    let mut answered = 0;
    while answered < count {
        assert!(rig.serve(|_| entry()) > 0);
        answered += rig.run_all().len() as u64;
    }
    assert_eq!((answered, rig.queue.in_flight()), (count, 0));
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
    assert_eq!(rig.queue.in_flight(), 0);
}

#[test]
fn a_worker_that_breaks_the_rules_leaves_nobody_waiting() {
    let mut rig = Rig::running(true);
    for unique in 2..5 {
        rig.send(LOOKUP, unique, b"name\0", 128);
    }
    rig.run();
    let (ticket, _) = rig.worker.next(&mut rig.message).unwrap().unwrap();
    rig.worker.complete(ticket, &Reply::Offset(1));
    rig.worker.flush();
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
fn a_second_read_is_served_from_the_donated_file_without_the_worker() {
    let mut rig = Rig::with_file(true);
    rig.read(10, 0, 4096);
    rig.run();
    assert_eq!(
        rig.serve(|request| {
            assert_eq!(
                *request,
                Request::Read {
                    handle: HANDLE,
                    offset: 0,
                    size: 4096
                }
            );
            Reply::Data { size: 3 }
        }),
        1
    );
    assert_eq!(rig.run_one().body.len(), 3);
    rig.read(11, 2, 4096);
    assert_eq!(rig.run_all(), []);
    rig.donate(&file(b"content"));
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 11,
            error: 0,
            body: b"ntent".to_vec()
        }
    );
    rig.read(12, 0, 4);
    assert_eq!(rig.run_one().body, b"cont");
    rig.read(13, 100, 4);
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 13,
            error: 0,
            body: vec![]
        }
    );
    assert_eq!(rig.serve(|_| Reply::Done), 0);
}

#[test]
fn a_large_write_asks_for_the_descriptor_and_what_waits_completes_later() {
    let mut rig = Rig::with_file(true);
    let data = vec![7; 100_000];
    rig.write(10, 5, &data);
    rig.run();
    let donated = file(b"");
    rig.donate(&donated);
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 10,
            error: 0,
            body: [100_000u64.to_ne_bytes()].concat()
        }
    );
    let mut back = vec![0; 100_005];
    donated.read_exact_at(&mut back, 0).unwrap();
    assert_eq!(back[5..], data);
    let mut body = HANDLE.0.to_ne_bytes().to_vec();
    body.extend([0; 8]);
    rig.send(FSYNC, 11, &body, 0);
    rig.run();
    let mut answers = rig.run_all();
    while answers.is_empty() {
        rig.queue.sleep();
        answers = rig.run_all();
    }
    assert_eq!(
        answers,
        [Some(Answer {
            unique: 11,
            error: 0,
            body: vec![]
        })]
    );
}

#[test]
fn what_the_worker_keeps_goes_through_the_ring() {
    let mut rig = Rig::with_file(true);
    rig.write(10, 0, &vec![7; 40_000]);
    rig.run();
    assert_eq!(rig.serve(|_| Reply::NotDonated), 1);
    rig.run();
    let (ticket, request) = rig.worker.next(&mut rig.message).unwrap().unwrap();
    assert_eq!(
        request,
        Request::Write {
            handle: HANDLE,
            offset: 0,
            size: 40_000,
            kill_suidgid: false
        }
    );
    let mut data = vec![0; 40_000];
    rig.worker.bulk(&ticket).unwrap().copy_to_slice(0, &mut data);
    assert!(data.iter().all(|&byte| byte == 7));
    rig.worker.complete(ticket, &Reply::Written { size: 39_999 });
    rig.worker.flush();
    assert_eq!(rig.run_one().body, 39_999u64.to_ne_bytes());
}

#[test]
fn a_read_larger_than_a_buffer_goes_through_the_ring_in_pieces() {
    let mut rig = Rig::with_file(false);
    rig.read(10, 100, (1 << 20) + 10);
    rig.run();
    let mut expected = vec![(100, 1 << 20), (100 + (1 << 20), 10)].into_iter();
    for _ in 0..2 {
        let (offset, size) = expected.next().unwrap();
        let (ticket, request) = rig.worker.next(&mut rig.message).unwrap().unwrap();
        assert_eq!(
            request,
            Request::Read {
                handle: HANDLE,
                offset,
                size
            }
        );
        rig.worker
            .bulk(&ticket)
            .unwrap()
            .copy_from_slice(0, &vec![size as u8 + 1; size as usize]);
        rig.worker.complete(ticket, &Reply::Data { size });
        rig.worker.flush();
        if size == 10 {
            break;
        }
        assert_eq!(rig.run_all(), []);
    }
    let body = rig.run_one().body;
    assert_eq!(body.len(), (1 << 20) + 10);
    assert_eq!(body[(1 << 20) - 1..][..3], [1, 11, 11]);
}

#[test]
fn a_donated_descriptor_for_another_access_ends_the_session() {
    let mut rig = Rig::with_file(true);
    rig.read(10, 0, 1 << 20);
    rig.run();
    rig.donate(&File::open("/dev/null").unwrap());
    assert_eq!(
        rig.run_one(),
        Answer {
            unique: 10,
            error: libc::EIO,
            body: vec![]
        }
    );
    let expected = ProtocolError("a donated descriptor that is no regular file's");
    assert_eq!(rig.failure(), Some(&FailureReason::Violation(expected)));
}

#[test]
fn a_write_that_must_keep_the_setuid_bit_is_the_workers() {
    let mut rig = Rig::with_file(true);
    rig.write(10, 0, &vec![7; 40_000]);
    rig.run();
    let donated = file(b"");
    rig.donate(&donated);
    assert_eq!(rig.run_one().error, 0);
    nix::sys::stat::fchmod(&donated, nix::sys::stat::Mode::from_bits_truncate(0o4755)).unwrap();
    // FATTR_MODE with the setuid bit.
    let mut body = vec![0; 88];
    body[0] = 1;
    body[68..72].copy_from_slice(&0o4755u32.to_ne_bytes());
    rig.send(SETATTR, 11, &body, 104);
    rig.run();
    rig.serve(|request| {
        assert!(matches!(request, Request::SetAttr { .. }));
        Reply::Attr(Attr {
            mode: libc::S_IFREG | 0o4755,
            ..Attr::default()
        })
    });
    assert_eq!(rig.run_one().error, 0);
    rig.write(12, 0, b"more");
    rig.run();
    assert_eq!(
        rig.serve(|request| {
            assert!(matches!(request, Request::Write { .. }));
            Reply::Written { size: 4 }
        }),
        1
    );
    assert_eq!(rig.run_one().error, 0);
}

#[test]
fn release_closes_the_donated_descriptor() {
    let mut rig = Rig::with_file(true);
    rig.read(10, 0, 1 << 20);
    rig.run();
    rig.donate(&file(b"content"));
    assert_eq!(rig.run_one().error, 0);
    let handles = rig.queue.shared.handles.as_ref().unwrap();
    let donated = Arc::downgrade(&handles.file(HANDLE).unwrap());
    let mut body = HANDLE.0.to_ne_bytes().to_vec();
    body.extend([0; 16]);
    rig.send(RELEASE, 11, &body, 0);
    rig.run();
    assert!(donated.upgrade().is_none());
    assert_eq!(
        rig.serve(|request| {
            assert!(matches!(request, Request::Release { .. }));
            Reply::Done
        }),
        1
    );
    assert_eq!(rig.run_one().error, 0);
}

#[test]
fn a_ring_that_is_not_ready_or_makes_no_sense_is_left_alone() {
    let mut rig = Rig::running(true);
    rig.send(LOOKUP, 2, b"name\0", 128);
    rig.vring.set_queue_ready(false);
    assert_eq!((rig.run_all(), rig.queue.in_flight()), (vec![], 0));
    rig.vring.set_queue_ready(true);
    let memory = rig.memory.memory();
    memory
        .write_obj(rig.sent.wrapping_add(SIZE + 1), GuestAddress(AVAIL + 2))
        .unwrap();
    assert_eq!((rig.run_all(), rig.queue.in_flight()), (vec![], 0));
    memory.write_obj(rig.sent, GuestAddress(AVAIL + 2)).unwrap();
    rig.run();
    assert_eq!(rig.serve(|_| Reply::Error(Errno::ENOENT)), 1);
    assert_eq!(rig.run_one().error, libc::ENOENT);
}

#[test]
fn the_driver_is_asked_for_a_kick_at_the_next_entry_only() {
    let mut rig = Rig::running(true);
    let memory = rig.memory.memory();
    let event = || {
        memory
            .read_obj::<u16>(GuestAddress(USED + 4 + 8 * u64::from(SIZE)))
            .unwrap()
    };
    assert_eq!(event(), 1);
    rig.send(LOOKUP, 2, b"name\0", 128);
    rig.send(LOOKUP, 3, b"name\0", 128);
    rig.run();
    assert_eq!(event(), 3);
}

#[test]
fn a_write_to_a_file_open_for_reading_is_never_made_here() {
    let mut rig = Rig::running(true);
    rig.send(OPEN, 2, &[0; 8], 16);
    rig.run();
    rig.serve(|_| Reply::Opened { handle: HANDLE });
    assert_eq!(rig.run_one().error, 0);
    rig.write(10, 0, &vec![7; 40_000]);
    rig.run();
    rig.donate(&File::open(std::env::current_exe().unwrap()).unwrap());
    rig.run();
    let refuse = |request: &Request<'_>| {
        assert!(matches!(
            request,
            Request::Write { .. } | Request::Fallocate { .. }
        ));
        Reply::Error(Errno::EBADF)
    };
    assert_eq!(rig.serve(refuse), 1);
    assert_eq!(rig.run_one().error, libc::EBADF);
    let fallocate = [HANDLE.0, 0, 100, 0].map(u64::to_ne_bytes).concat();
    rig.send(43, 11, &fallocate, 0);
    rig.run();
    assert_eq!(rig.serve(refuse), 1);
    assert_eq!(rig.run_one().error, libc::EBADF);
}
