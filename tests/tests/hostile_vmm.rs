//! Whatever a VMM says, its connection ends at worst: the daemon serves the next one, with the same threads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::Wait;
use airlockfs_tests::fuse::abi::{GETATTR, GetattrIn, ROOT};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::unistd::pipe;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use zerocopy::IntoBytes;

// Requests (QEMU's docs/interop/vhost-user.rst).
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const GET_QUEUE_NUM: u32 = 17;
const SET_VRING_ENABLE: u32 = 18;
const SET_BACKEND_REQ_FD: u32 = 21;
const GPU_SET_SOCKET: u32 = 33;
const RESET_DEVICE: u32 = 34;
const GET_MAX_MEM_SLOTS: u32 = 36;
const ADD_MEM_REG: u32 = 37;
const REM_MEM_REG: u32 = 38;

/// Flags of a message: version 1; an answer is wanted.
const VERSION: u32 = 1;
const NEED_REPLY: u32 = 8;
/// Protocol features.
const BACKEND_REQ: u64 = 1 << 5;
/// VHOST_USER_F_PROTOCOL_FEATURES.
const PROTOCOL_FEATURES: u64 = 1 << 30;
const PAGE: u64 = 4096;

/// What a message is, its request, its body, and the descriptors beside it.
type Message<'a> = (&'a str, u32, Vec<u8>, Vec<&'a dyn AsFd>);

/// A connection on which anything can be said.
struct Raw(UnixStream);

impl Raw {
    /// One that has said who it is, and agreed on all features.
    fn connect(daemon: &Daemon) -> Self {
        let raw = Self(UnixStream::connect(daemon.socket()).expect("connect"));
        raw.0
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("SO_RCVTIMEO");
        raw.send(SET_OWNER, &[], &[]);
        let offered = raw.ask(GET_PROTOCOL_FEATURES, &[]);
        raw.send(SET_PROTOCOL_FEATURES, &offered.to_ne_bytes(), &[]);
        let features = raw.ask(GET_FEATURES, &[]);
        raw.send(SET_FEATURES, &features.to_ne_bytes(), &[]);
        raw
    }

    /// On the connection of a VMM that does not say anything meanwhile.
    fn of(socket: &UnixStream) -> Self {
        Self(socket.try_clone().expect("a duplicate"))
    }

    fn say(&self, request: u32, flags: u32, body: &[u8], files: &[&dyn AsFd]) {
        let header = [request, flags, body.len() as u32].map(u32::to_ne_bytes).concat();
        let message = [&header[..], body].concat();
        let files: Vec<i32> = files.iter().map(|file| file.as_fd().as_raw_fd()).collect();
        // The connection may be at its end: then nothing is heard either.
        let _ = self.0.send_with_fds(&[&message[..]], &files);
    }

    fn send(&self, request: u32, body: &[u8], files: &[&dyn AsFd]) {
        self.say(request, VERSION, body, files);
    }

    /// The number that is answered.
    fn ask(&self, request: u32, body: &[u8]) -> u64 {
        self.send(request, body, &[]);
        self.answer(request).expect("an answer")
    }

    fn answer(&self, request: u32) -> Option<u64> {
        let mut answer = [0; 20];
        (&self.0).read_exact(&mut answer).ok()?;
        assert_eq!(answer[..4], request.to_ne_bytes());
        Some(u64::from_ne_bytes(answer[12..].try_into().expect("8 bytes")))
    }

    /// Whether it is accepted (REPLY_ACK).
    fn accepts(&self, request: u32, body: &[u8], files: &[&dyn AsFd]) -> bool {
        self.say(request, VERSION | NEED_REPLY, body, files);
        self.answer(request) == Some(0)
    }

    fn assert_ends(&self, what: &str) {
        let mut rest = [0; 64];
        loop {
            match (&self.0).read(&mut rest) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
                Err(error) => panic!("{what}: the connection lasts: {error}"),
            }
        }
    }
}

fn numbers<const N: usize>(numbers: [u64; N]) -> Vec<u8> {
    numbers.map(u64::to_ne_bytes).concat()
}

fn state(index: u32, number: u32) -> Vec<u8> {
    [index, number].map(u32::to_ne_bytes).concat()
}

fn memory(pages: u64) -> OwnedFd {
    let memory = memfd_create(c"airlockfs-guest", MFdFlags::empty()).expect("memfd_create");
    nix::unistd::ftruncate(&memory, (pages * PAGE) as i64).expect("ftruncate");
    memory
}

fn listening() -> Daemon {
    Daemon::start(["--on-disconnect=listen", "--num-request-queues=2"])
}

fn assert_serves(daemon: &Daemon, after: &str) {
    assert!(daemon.is_alive(), "{after}: {:#?}", daemon.log());
    let fs = daemon.client();
    fs.getattr(ROOT)
        .unwrap_or_else(|error| panic!("{after}: GETATTR: {error}"));
    fs.forget(1 << 40, 1);
}

/// Ids of all threads of the supervisor, and how many descriptors of what kind it has.
fn supervisor(daemon: &Daemon) -> (BTreeSet<String>, usize) {
    let threads = fs::read_dir(format!("/proc/{}/task", daemon.supervisor().pid())).expect("its threads");
    let threads = threads.map(|thread| {
        thread
            .expect("a thread")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    let descriptors = daemon.supervisor().descriptors().expect("its descriptors");
    (threads.collect(), descriptors.len())
}

/// All threads come to rest: none has had a CPU for a while.
fn assert_rests(daemon: &Daemon, what: &str) {
    let times = || {
        let (threads, _) = supervisor(daemon);
        let time = |thread| {
            fs::read_to_string(format!(
                "/proc/{}/task/{thread}/schedstat",
                daemon.supervisor().pid()
            ))
        };
        threads.into_iter().map(time).collect::<Result<Vec<_>, _>>()
    };
    let mut before = times().expect("schedstat");
    for _ in 0..600 {
        std::thread::sleep(Duration::from_millis(50));
        let now = times().expect("schedstat");
        if now == before {
            return;
        }
        before = now;
    }
    panic!("{what}: a thread is busy: {before:?}");
}

#[test]
fn one_vmm_after_another_is_served_by_the_same_threads() {
    let daemon = listening();
    let before = supervisor(&daemon);
    for round in 0..3 {
        let fs = daemon.client();
        let (_, file) = fs
            .create(ROOT, format!("file{round}"), libc::O_RDWR, 0o644)
            .expect("CREATE");
        fs.write(file, 0, &vec![1; 1 << 20]).expect("WRITE");
        // A thread of the pool does it.
        fs.fsync(file, false).expect("FSYNC");
        fs.session().vmm().reset().expect("reset");
        fs.init().expect("INIT");
        assert_eq!(supervisor(&daemon).0, before.0, "while VMM {round} is there");
        fs.destroy().expect("DESTROY");
        drop(fs);
        assert!(daemon.wait_for_log("the VMM is gone"), "{:#?}", daemon.log());
    }
    // The next connection is taken when all of the last is gone.
    assert_serves(&daemon, "the last");
    let fs = daemon.client();
    drop(fs);
    assert_eq!(supervisor(&daemon).0, before.0);
}

/// Descriptors that no VMM should give for a kick, and whether they can be waited for.
fn odd_kicks() -> Vec<(&'static str, OwnedFd, bool)> {
    let null = File::open("/dev/null").expect("open");
    let path = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open("/dev/null");
    let random = File::open("/dev/random").expect("open");
    let (reader, writer) = pipe().expect("pipe");
    let (ended, _) = pipe().expect("pipe");
    let (_, unread) = pipe().expect("pipe");
    let (full, to_full) = pipe().expect("pipe");
    nix::unistd::write(&to_full, &[0; 60_000]).expect("write");
    let (socket, _other) = UnixStream::pair().expect("socketpair");
    let event = EventFd::from_value(u32::MAX).expect("eventfd");
    let set = Epoll::new(EpollCreateFlags::empty()).expect("epoll");
    set.add(&event, EpollEvent::new(EpollFlags::EPOLLIN, 0))
        .expect("epoll_ctl");
    // Kept open by whoever holds it.
    let keep = event.as_fd().try_clone_to_owned().expect("a duplicate");
    std::mem::forget(keep);
    vec![
        (
            "a regular file",
            File::open(std::env::current_exe().expect("a path"))
                .expect("open")
                .into(),
            false,
        ),
        ("a directory", File::open("/").expect("open").into(), false),
        ("/dev/null", null.into(), false),
        ("a mere path", path.expect("open").into(), false),
        ("memory", memory(1), false),
        ("/dev/random, which is always readable", random.into(), true),
        ("a pipe that is empty", reader, true),
        ("a pipe's other end", writer, true),
        ("a pipe that ended", ended, true),
        ("a pipe that nobody reads", unread, true),
        ("a pipe that is full", full, true),
        ("a socket that ended", socket.into(), true),
        (
            "an eventfd that was kicked often",
            event.as_fd().try_clone_to_owned().expect("a duplicate"),
            true,
        ),
        ("an epoll set that has something to tell", set.0, true),
    ]
}

#[test]
fn a_kick_of_the_wrong_kind_neither_ends_nor_blocks_nor_busies_a_queue() {
    for (what, kick, can_be_waited_for) in odd_kicks() {
        let daemon = listening();
        let fs = daemon.client();
        fs.getattr(ROOT).expect("GETATTR");
        let raw = Raw::of(fs.session().vmm().socket());
        assert_eq!(
            raw.accepts(SET_VRING_KICK, &numbers([1]), &[&kick]),
            can_be_waited_for,
            "{what}"
        );
        if can_be_waited_for {
            assert_rests(&daemon, what);
            // The ring is stopped and started again, with a proper one.
            let vmm = fs.session().vmm();
            let base = vmm
                .stop_queue(1)
                .unwrap_or_else(|error| panic!("{what}: {error:#}"));
            vmm.start_queue(1, base).expect("start");
            fs.getattr(ROOT)
                .unwrap_or_else(|error| panic!("{what}: GETATTR: {error}"));
        } else {
            raw.assert_ends(what);
            assert!(
                daemon.wait_for_log("make no sense"),
                "{what}: {:#?}",
                daemon.log()
            );
        }
        drop((raw, fs));
        assert_serves(&daemon, what);
    }
}

/// A byte in a pipe or a socket is a kick as well, and each is heard; as nothing is read, until they are full. An eventfd,
/// which the specification demands, is never full.
#[test]
fn every_kick_is_heard_whatever_it_is_written_to() {
    let (reader, writer) = pipe().expect("pipe");
    let (ours, theirs) = UnixStream::pair().expect("socketpair");
    let event = EventFd::new().expect("eventfd");
    let kicked = event.as_fd().try_clone_to_owned().expect("a duplicate");
    let ends: [(OwnedFd, OwnedFd, &[u8], usize); 3] = [
        (reader, writer, &[1], 100),
        (theirs.into(), ours.into(), &[1], 100),
        (kicked, event.into(), &1_u64.to_ne_bytes(), 2000),
    ];
    let (_daemon, fs) = Daemon::with_client(["--tag", "kicks"]);
    for (kick, writer, token, rounds) in ends {
        let raw = Raw::of(fs.session().vmm().socket());
        assert!(raw.accepts(SET_VRING_KICK, &numbers([1]), &[&kick]));
        for round in 0..rounds {
            let mut lane = fs.session().lane(1);
            let slot = lane.acquire().expect("a slot");
            let len = lane.write(slot, fs.header(GETATTR, ROOT), &[GetattrIn::default().as_bytes()]);
            lane.submit(slot, len, 104);
            // This kicks the descriptor from before, which nobody listens to any more.
            lane.flush();
            nix::unistd::write(&writer, token).expect("a kick");
            let outcome = lane.wait_for(slot, Duration::from_secs(30));
            assert!(matches!(outcome, Wait::Done(_)), "kick {round}: {outcome:?}");
            lane.release(slot);
        }
    }
}

/// QEMU with a larger num-request-queues: what to change is in the log.
#[test]
fn a_vmm_with_more_queues_than_there_are_is_told_of_with_the_option() {
    let daemon = listening();
    let raw = Raw::connect(&daemon);
    assert_eq!(raw.ask(GET_QUEUE_NUM, &[]), 3);
    raw.send(SET_VRING_NUM, &state(3, 128), &[]);
    raw.assert_ends("a third request queue");
    assert!(
        daemon
            .wait_for_log("request queue 3, and there are 2 of these: give airlockfsd --num-request-queues")
    );
    assert_serves(&daemon, "a VMM with too many queues");
}

#[test]
fn messages_that_make_no_sense_end_their_connection_only() {
    let daemon = listening();
    let null = File::open("/dev/null").expect("open");
    let (socket, _other) = UnixStream::pair().expect("socketpair");
    let page = memory(1);
    let region = |guest, size, user| numbers([0, guest, size, user, 0]);
    let address = |descriptor| {
        let used = numbers([descriptor, 0x1000, 0x1000, 0]);
        [state(0, 0), used].concat()
    };
    let offered = {
        let raw = Raw::connect(&daemon);
        raw.ask(GET_PROTOCOL_FEATURES, &[])
    };
    let messages: &[Message<'_>] = &[
        ("no request", 99, vec![], vec![]),
        ("a second owner", SET_OWNER, vec![], vec![]),
        ("features not offered", SET_FEATURES, numbers([1 << 40]), vec![]),
        (
            "protocol features not offered",
            SET_PROTOCOL_FEATURES,
            numbers([offered | BACKEND_REQ]),
            vec![],
        ),
        (
            "a channel that was not agreed on",
            SET_BACKEND_REQ_FD,
            vec![],
            vec![&socket],
        ),
        ("a GPU's socket", GPU_SET_SOCKET, vec![], vec![&socket]),
        ("a GPU's socket that is none", GPU_SET_SOCKET, vec![], vec![&null]),
        ("a ring of no size", SET_VRING_NUM, state(1, 0), vec![]),
        (
            "a ring whose size is no power of two",
            SET_VRING_NUM,
            state(1, 3),
            vec![],
        ),
        ("a ring that is too large", SET_VRING_NUM, state(1, 2048), vec![]),
        ("a ring of 2^16 + 8", SET_VRING_NUM, state(1, 0x1_0008), vec![]),
        ("a ring that is not there", SET_VRING_NUM, state(3, 8), vec![]),
        (
            "a ring of the largest number",
            SET_VRING_BASE,
            state(u32::MAX, 0),
            vec![],
        ),
        (
            "a position beyond 16 bits",
            SET_VRING_BASE,
            state(0, 0x1_0000),
            vec![],
        ),
        ("the end of no ring", GET_VRING_BASE, state(9, 0), vec![]),
        (
            "the kick of no ring",
            SET_VRING_KICK,
            numbers([0xff]),
            vec![&page],
        ),
        (
            "a kick without a descriptor",
            SET_VRING_KICK,
            numbers([0]),
            vec![],
        ),
        (
            "an interrupt of no ring",
            SET_VRING_CALL,
            numbers([0x1ff]),
            vec![],
        ),
        ("an error of no ring", SET_VRING_ERR, numbers([0x1ff]), vec![]),
        ("neither on nor off", SET_VRING_ENABLE, state(0, 2), vec![]),
        ("the start of no ring", SET_VRING_ENABLE, state(3, 1), vec![]),
        ("a ring without memory", SET_VRING_ADDR, address(0x1000), vec![]),
        (
            "a ring that is not aligned",
            SET_VRING_ADDR,
            address(0x1001),
            vec![],
        ),
        ("a table without regions", SET_MEM_TABLE, state(0, 0), vec![]),
        ("memory without a file", ADD_MEM_REG, region(0, PAGE, 0), vec![]),
        (
            "memory that ends nowhere",
            ADD_MEM_REG,
            region(u64::MAX, PAGE, 0),
            vec![&page],
        ),
        ("no memory", ADD_MEM_REG, region(0, 0, 0), vec![&page]),
        (
            "memory that cannot be mapped",
            ADD_MEM_REG,
            region(0, PAGE, 0),
            vec![&socket],
        ),
        (
            "memory that is not there",
            REM_MEM_REG,
            region(0, PAGE, 0),
            vec![],
        ),
    ];
    for (what, request, body, files) in messages {
        let raw = Raw::connect(&daemon);
        assert!(raw.accepts(RESET_DEVICE, &[], &[]), "a good one, before {what}");
        assert!(!raw.accepts(*request, body, files), "{what}");
        raw.assert_ends(what);
        assert!(daemon.is_alive(), "{what}: {:#?}", daemon.log());
    }
    assert!(daemon.wait_for_log("make no sense"), "{:#?}", daemon.log());
    assert_serves(&daemon, "all of them");
}

#[test]
fn memory_comes_and_goes_in_regions_and_rings_are_found_there() {
    let daemon = listening();
    let raw = Raw::connect(&daemon);
    assert_eq!(raw.ask(GET_MAX_MEM_SLOTS, &[]), 509);
    let file = memory(3);
    let region = |guest: u64, user: u64| numbers([0, guest, PAGE, user, guest]);
    let address = |user: u64| [state(1, 0), numbers([user, user, user, 0])].concat();
    for guest in [2 * PAGE, 0, PAGE] {
        assert!(raw.accepts(ADD_MEM_REG, &region(guest, 0x7000_0000 + guest), &[&file]));
    }
    for page in 0..3 {
        assert!(raw.accepts(SET_VRING_ADDR, &address(0x7000_0000 + page * PAGE), &[]));
    }
    assert!(raw.accepts(REM_MEM_REG, &region(PAGE, 0x7000_1000), &[]));
    assert!(raw.accepts(SET_VRING_ADDR, &address(0x7000_2000), &[]));
    // A place that is free again, and memory that lies elsewhere in the VMM.
    assert!(raw.accepts(ADD_MEM_REG, &region(PAGE, 0x5000_0000), &[&file]));
    assert!(raw.accepts(SET_VRING_ADDR, &address(0x5000_0000), &[]));
    let table = [state(1, 0), numbers([0, 3 * PAGE, 0x9000_0000, 0])].concat();
    assert!(raw.accepts(SET_MEM_TABLE, &table, &[&file]));
    assert!(raw.accepts(SET_VRING_ADDR, &address(0x9000_2000), &[]));
    assert!(
        !raw.accepts(SET_VRING_ADDR, &address(0x7000_0000), &[]),
        "it is not there any more"
    );
    raw.assert_ends("a ring outside memory");
    assert_serves(&daemon, "regions");
}

#[test]
fn rings_of_a_vmm_that_cannot_enable_them_are_enabled() {
    let daemon = listening();
    let fs = daemon.client();
    let vmm = fs.session().vmm();
    vmm.enable_queue(1, false).expect("SET_VRING_ENABLE");
    let raw = Raw::of(vmm.socket());
    let features = vmm.features() & !PROTOCOL_FEATURES;
    assert!(raw.accepts(SET_FEATURES, &numbers([features]), &[]));
    fs.getattr(ROOT).expect("GETATTR");
    assert!(
        !raw.accepts(SET_VRING_ENABLE, &state(1, 1), &[]),
        "it was not agreed on"
    );
    raw.assert_ends("SET_VRING_ENABLE");
}

#[test]
fn a_device_that_is_reset_serves_again_once_its_rings_are_enabled() {
    let (daemon, fs) = Daemon::with_client(["--tag", "reset"]);
    let vmm = fs.session().vmm();
    for _ in 0..3 {
        let raw = Raw::of(vmm.socket());
        assert!(raw.accepts(RESET_DEVICE, &[], &[]));
        assert!(raw.accepts(SET_FEATURES, &numbers([vmm.features()]), &[]));
        vmm.reset().expect("rings that begin anew");
        fs.init().expect("INIT");
        fs.getattr(ROOT).expect("GETATTR");
    }
    assert!(daemon.is_alive());
}

#[test]
fn a_vmm_that_stops_in_the_middle_of_a_message_keeps_nobody_from_ending() {
    let half = [SET_FEATURES, VERSION, 8].map(u32::to_ne_bytes).concat();
    for length in [1, 11, 12] {
        let mut daemon = listening();
        let raw = Raw::connect(&daemon);
        assert!(raw.accepts(RESET_DEVICE, &[], &[]));
        raw.0.send_with_fds(&[&half[..length]], &[]).expect("send");
        daemon.supervisor().signal(Signal::SIGTERM).expect("SIGTERM");
        assert_eq!(daemon.wait().code(), Some(0), "{:#?}", daemon.log());
        raw.assert_ends("the daemon");
        let log = daemon.log().join("\n");
        assert!(!log.contains("ending without it"), "{log}");
    }
}
