//! Whatever a VMM says, at worst its connection ends. The daemon serves the next VMM with the same
//! threads.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use airlockfs_tests::daemon::{Daemon, on_disconnect};
use airlockfs_tests::fuse::abi::{GETATTR, GetattrIn, READ, ROOT, ReadIn};
use airlockfs_tests::fuse::{Client, Wait};
use airlockfs_tests::vmm::fds;
use airlockfs_tests::vmm::memory::GUEST_BASE;
use airlockfs_tests::vmm::raw::{
    BACKEND_REQ, PAGE, PROTOCOL_FEATURES, Raw, VERSION, memory, numbers, requests::*, state,
};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::unistd::pipe;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;
use zerocopy::IntoBytes;

/// What a message is, its request, its body, and the descriptors beside it.
type Message<'a> = (&'a str, u32, Vec<u8>, Vec<&'a dyn AsFd>);

const PATIENCE: Duration = Duration::from_secs(30);

/// What the daemon does when a VMM goes: it ends, or in the suite that is a link to this one, it listens.
fn mode() -> &'static str {
    on_disconnect(env!("CARGO_CRATE_NAME"))
}

fn started() -> Daemon {
    Daemon::start([mode(), "--num-request-queues=2"])
}

fn listening() -> Daemon {
    Daemon::start(["--on-disconnect=listen", "--num-request-queues=2"])
}

/// The VMM goes, whatever it was like: the daemon that listens goes on, the other one ends by itself and another takes its
/// place.
fn next(mut daemon: Daemon, after: &str) -> Daemon {
    if mode().ends_with("listen") {
        assert!(daemon.is_alive(), "{after}: {:#?}", daemon.log());
        return daemon;
    }
    let status = daemon.wait();
    // EX_PROTOCOL: the VMM is told to be at fault.
    let known = status.code().is_some_and(|code| [0, 76].contains(&code));
    assert!(known, "{after}: {status}: {:#?}", daemon.log());
    started()
}

/// The next VMM is served.
fn assert_serves(daemon: Daemon, after: &str) -> Daemon {
    let daemon = next(daemon, after);
    let fs = daemon.client();
    fs.getattr(ROOT)
        .unwrap_or_else(|error| panic!("{after}: GETATTR: {error}"));
    fs.forget(1 << 40, 1);
    drop(fs);
    next(daemon, after)
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
    let fs = daemon.client();
    fs.getattr(ROOT).expect("GETATTR");
    drop(fs);
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
        ("/dev/random, which is always readable", random.into(), false),
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
        let daemon = started();
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
        assert_serves(daemon, what);
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
    let (_daemon, fs) = Daemon::with_client([mode()]);
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
    let daemon = started();
    let raw = Raw::connect(&daemon);
    assert_eq!(raw.ask(GET_QUEUE_NUM, &[]), 3);
    raw.send(SET_VRING_NUM, &state(3, 128), &[]);
    raw.assert_ends("a third request queue");
    assert!(
        daemon
            .wait_for_log("request queue 3, and there are 2 of these: give airlockfsd --num-request-queues")
    );
    drop(raw);
    assert_serves(daemon, "a VMM with too many queues");
}

#[test]
fn messages_that_make_no_sense_end_their_connection_only() {
    let mut daemon = started();
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
    daemon = next(daemon, "one that asked");
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
        assert!(
            daemon.wait_for_log("make no sense"),
            "{what}: {:#?}",
            daemon.log()
        );
        drop(raw);
        daemon = assert_serves(daemon, what);
    }
}

#[test]
fn memory_comes_and_goes_in_regions_and_rings_are_found_there() {
    let daemon = started();
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
    assert_serves(daemon, "regions");
}

#[test]
fn rings_of_a_vmm_that_cannot_enable_them_are_enabled() {
    let daemon = started();
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
    let (daemon, fs) = Daemon::with_client([mode()]);
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
        let mut daemon = started();
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

/// An eventfd that can take no more, so that a write to it waits for ever.
fn full_event() -> EventFd {
    let event = EventFd::new().expect("eventfd");
    event.write(u64::MAX - 1).expect("a large number");
    event
}

/// Sends a GETATTR whose answer is seen in the ring, and does not wait for an interrupt.
fn ask_quietly(fs: &Client, queue: usize) {
    let mut lane = fs.session().lane(queue);
    let slot = lane.acquire().expect("a slot");
    let len = lane.write(slot, fs.header(GETATTR, ROOT), &[GetattrIn::default().as_bytes()]);
    lane.submit(slot, len, 104);
    fs.session().vmm().queue(queue).arm();
    lane.flush();
    let begun = Instant::now();
    while lane.poll().is_none() {
        assert!(begun.elapsed() < PATIENCE, "no answer");
        std::thread::yield_now();
    }
    lane.release(slot);
}

/// A VMM whose queue's thread waits in a write to what it gave for interrupts.
fn stuck(daemon: &Daemon) -> (Client, EventFd) {
    let fs = daemon.client();
    fs.getattr(ROOT).expect("GETATTR");
    // The thread is done with the interrupt for that.
    let vmm = fs.session().vmm();
    let base = vmm.stop_queue(1).expect("GET_VRING_BASE");
    vmm.start_queue(1, base).expect("start");
    let event = full_event();
    let raw = Raw::of(fs.session().vmm().socket());
    assert!(raw.accepts(SET_VRING_CALL, &numbers([1]), &[&event]));
    ask_quietly(&fs, 1);
    (fs, event)
}

#[test]
fn an_interrupt_that_blocks_keeps_neither_the_next_vmm_nor_the_end_waiting() {
    let daemon = started();
    let (fs, _event) = stuck(&daemon);
    drop(fs);
    assert_serves(daemon, "a VMM that went");

    // Its own messages are carried out.
    let daemon = started();
    let (fs, _event) = stuck(&daemon);
    let vmm = fs.session().vmm();
    let base = vmm.stop_queue(1).expect("GET_VRING_BASE");
    vmm.start_queue(1, base).expect("start");
    fs.getattr(ROOT).expect("GETATTR");
    drop(fs);
    assert_serves(daemon, "a VMM that stopped its rings");

    // It goes in the middle of a message that waits for the thread.
    let daemon = started();
    let (fs, _event) = stuck(&daemon);
    let raw = Raw::of(fs.session().vmm().socket());
    raw.send(GET_VRING_BASE, &state(1, 0), &[]);
    raw.0.shutdown(Shutdown::Both).expect("shutdown");
    drop((raw, fs));
    assert_serves(daemon, "a VMM that went while it stopped its rings");

    let mut daemon = started();
    let (_fs, _event) = stuck(&daemon);
    assert_eq!(daemon.terminate().code(), Some(0), "{:#?}", daemon.log());
}

/// The thread is got out of it without harm to what it does for a VMM that means well.
#[test]
fn an_interrupt_that_was_exchanged_reaches_the_new_one() {
    let daemon = started();
    let (fs, event) = stuck(&daemon);
    let vmm = fs.session().vmm();
    // The queue's own eventfd again, while the thread waits in a write to the other one.
    let call = vmm.queue(1).call_fd();
    call.clear();
    let raw = Raw::of(vmm.socket());
    assert!(raw.accepts(SET_VRING_CALL, &numbers([1]), &[&*call]));
    event.read().expect("room for one");
    assert!(fds::wait([call.as_fd()], 30_000)[0], "nobody told of the answer");
    fs.getattr(ROOT).expect("GETATTR");
}

#[test]
fn an_interrupt_of_another_kind_than_an_eventfd_ends_the_connection() {
    let (_reader, full) = pipe().expect("pipe");
    let (socket, _other) = UnixStream::pair().expect("socketpair");
    let kinds: [(&str, OwnedFd); 5] = [
        ("a pipe", full),
        ("a socket", socket.into()),
        ("memory", memory(1)),
        (
            "a device",
            File::options()
                .write(true)
                .open("/dev/null")
                .expect("open")
                .into(),
        ),
        ("a directory", File::open("/").expect("open").into()),
    ];
    let mut daemon = started();
    for (what, call) in kinds {
        let raw = Raw::connect(&daemon);
        assert!(!raw.accepts(SET_VRING_CALL, &numbers([1]), &[&call]), "{what}");
        raw.assert_ends(what);
        drop(raw);
        daemon = assert_serves(daemon, what);
    }
}

#[test]
fn memory_that_its_file_does_not_hold_is_refused() {
    let pages = |first, size| numbers([0, 0, size * PAGE, 0, first * PAGE]);
    let table = |first, size| [state(1, 0), numbers([0, size * PAGE, 0, first * PAGE])].concat();
    let mut daemon = started();
    for (first, size) in [(0, 5), (4, 1), (3, 2), (1 << 40, 1)] {
        for (request, body) in [
            (ADD_MEM_REG, pages(first, size)),
            (SET_MEM_TABLE, table(first, size)),
        ] {
            let what = format!("pages {first} to {} of 4", first + size);
            let raw = Raw::connect(&daemon);
            let file = memory(4);
            assert!(!raw.accepts(request, &body, &[&file]), "{what}");
            raw.assert_ends(&what);
            assert!(daemon.wait_for_log("does not hold"), "{:#?}", daemon.log());
            drop(raw);
            daemon = assert_serves(daemon, &what);
        }
    }
    let raw = Raw::connect(&daemon);
    assert!(raw.accepts(ADD_MEM_REG, &pages(3, 1), &[&memory(4)]));
    drop(raw);
    assert_serves(daemon, "memory that is there");
}

/// mmap(2) fails for what every check before it lets pass. A VMM may seal its file between the two.
#[test]
fn memory_that_cannot_be_mapped_ends_its_connection_only() {
    let mut daemon = started();
    let region = numbers([0, 0, PAGE, 0, 0]);
    let table = [state(1, 0), numbers([0, PAGE, 0, 0])].concat();
    for (request, body) in [(ADD_MEM_REG, region), (SET_MEM_TABLE, table)] {
        for seal in [libc::F_SEAL_WRITE, libc::F_SEAL_FUTURE_WRITE] {
            let what = format!("request {request}, seal {seal}");
            let file = memfd_create(c"airlockfs-guest", MFdFlags::MFD_ALLOW_SEALING).expect("memory");
            nix::unistd::ftruncate(&file, PAGE.cast_signed()).expect("ftruncate");
            let seal = SealFlag::from_bits_retain(seal);
            fcntl(&file, FcntlArg::F_ADD_SEALS(seal)).expect("F_ADD_SEALS");
            let raw = Raw::connect(&daemon);
            assert!(!raw.accepts(request, &body, &[&file]), "{what}");
            raw.assert_ends(&what);
            drop(raw);
            daemon = assert_serves(daemon, &what);
        }
    }
}

/// Where a VMM cuts its memory off, with a request on its way.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// All of it: the rings are gone.
    All,
    /// From the request on.
    Request,
    /// From the room for the answer on.
    Answer,
}

/// Gives a VMM's request for `opcode` to the daemon and takes the memory away before it is kicked.
fn cut(fs: &Client, cut: Cut, opcode: u32, node: u64, body: &[u8]) {
    let vmm = fs.session().vmm();
    let mut lane = fs.session().lane(1);
    let slot = lane.acquire().expect("a slot");
    let len = lane.write(slot, fs.header(opcode, node), &[body]);
    let (request, answer) = lane.addresses(slot);
    lane.submit(slot, len, 1 << 20);
    let mut queue = vmm.queue(1);
    let at = match cut {
        Cut::All => GUEST_BASE,
        Cut::Request => request & !(PAGE - 1),
        Cut::Answer => (answer + PAGE) & !(PAGE - 1),
    };
    // A thread that is awake takes the request without being kicked.
    if at == GUEST_BASE {
        queue.publish();
    }
    vmm.memory().truncate(at).expect("ftruncate");
    if at != GUEST_BASE {
        queue.publish();
    }
    queue.kick();
}

#[test]
fn memory_that_is_truncated_ends_its_connection_with_its_reason_and_nothing_else() {
    for place in [Cut::All, Cut::Request, Cut::Answer] {
        // By a system call from the file, and by a copy from the ring.
        for donates in [true, false] {
            let more: &[&str] = if donates { &[] } else { &["--no-donate"] };
            let mut daemon = Daemon::start([&[mode()][..], more].concat());
            fs::write(daemon.host("file"), vec![7; 1 << 20]).expect("write");
            let what = format!("{place:?}, donates: {donates}");
            let fs = daemon.client();
            let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
            let file = fs.open(node, libc::O_RDONLY).expect("OPEN");
            for _ in 0..3 {
                fs.read(file, 0, 100).expect("READ");
            }
            let read = ReadIn {
                fh: file.fh,
                size: 1 << 19,
                ..ReadIn::default()
            };
            cut(&fs, place, READ, node, read.as_bytes());
            Raw::of(fs.session().vmm().socket()).assert_ends(&what);
            assert!(
                daemon.wait_for_log("the VMM's memory failed"),
                "{what}: {:#?}",
                daemon.log()
            );
            drop(fs);
            let log = |daemon: &Daemon| daemon.log().join("\n");
            assert!(!log(&daemon).contains("was ended by"), "{what}: {}", log(&daemon));
            daemon = assert_serves(daemon, &what);
            assert!(!log(&daemon).contains("was ended by"), "{what}: {}", log(&daemon));
        }
    }
}

/// The main thread looks at the ring as well, when it is told where that is.
#[test]
fn memory_that_is_truncated_before_its_rings_are_named_ends_its_connection() {
    let daemon = started();
    let raw = Raw::connect(&daemon);
    let file = memory(4);
    assert!(raw.accepts(ADD_MEM_REG, &numbers([0, 0, 4 * PAGE, 0, 0]), &[&file]));
    nix::unistd::ftruncate(&file, 0).expect("ftruncate");
    let addresses = [state(1, 0), numbers([0, PAGE, 2 * PAGE, 0])].concat();
    raw.send(SET_VRING_ADDR, &addresses, &[]);
    raw.assert_ends("memory that is gone");
    assert!(
        daemon.wait_for_log("the VMM's memory failed"),
        "{:#?}",
        daemon.log()
    );
    drop(raw);
    assert_serves(daemon, "memory that is gone");
}

/// As many regions as there may be, again and again: those that were taken away are known no longer.
#[test]
fn regions_that_come_and_go_for_ever_are_no_more_than_there_may_be() {
    let daemon = started();
    let raw = Raw::connect(&daemon);
    let page = memory(1);
    let region = |place: u64| numbers([0, place * PAGE, PAGE, place * PAGE, 0]);
    for _ in 0..4 {
        for place in 0..509 {
            assert!(raw.accepts(ADD_MEM_REG, &region(place), &[&page]));
        }
        for place in 0..509 {
            assert!(raw.accepts(REM_MEM_REG, &region(place), &[]));
        }
    }
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.supervisor().pid())).expect("maps");
    assert_eq!(maps.matches("airlockfs-guest").count(), 0);
    drop(raw);
    assert_serves(daemon, "regions");
}

/// Huge pages are replaced whole, also where the region ends in the middle of one.
#[test]
fn huge_pages_that_are_taken_away_end_their_connection() {
    const HUGE: u64 = 2 << 20;
    let mut daemon = started();
    for size in [HUGE, HUGE - PAGE] {
        let what = format!("{size} bytes of huge pages");
        let file = memfd_create(c"airlockfs-guest", MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB);
        let file = file.expect("memory of huge pages");
        nix::unistd::ftruncate(&file, HUGE as i64).expect("ftruncate");
        let raw = Raw::connect(&daemon);
        assert!(raw.accepts(ADD_MEM_REG, &numbers([0, 0, size, 0, 0]), &[&file]));
        nix::unistd::ftruncate(&file, 0).expect("ftruncate");
        let addresses = [state(1, 0), numbers([0, PAGE, 2 * PAGE, 0])].concat();
        raw.send(SET_VRING_ADDR, &addresses, &[]);
        raw.assert_ends(&what);
        assert!(
            daemon.wait_for_log("the VMM's memory failed"),
            "{what}: {:#?}",
            daemon.log()
        );
        drop(raw);
        daemon = assert_serves(daemon, &what);
    }
}
