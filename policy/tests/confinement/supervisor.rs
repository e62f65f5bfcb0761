//! What a confined supervisor is, and what it can still do.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;

use airlockfs_breach::{Argument, Order};
use airlockfs_ipc::message::{Sandbox, SeccompMode};
use libc::*;
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;
use crate::outside::{KILLED, Outcome, Scratch, Session, USER, config, supervisor, try_supervisor};

pub(crate) const TESTS: &[Test] = &[
    ("the supervisor is nobody, nowhere, with nothing", nobody_nowhere),
    ("the supervisor of an ordinary user is as poor", ordinary_user),
    (
        "without namespaces Landlock still holds the supervisor",
        without_namespaces,
    ),
    (
        "the supervisor reads and writes what it was handed",
        uses_descriptors,
    ),
    (
        "a process that was stopped and continued goes on",
        stopped_and_continued,
    ),
    (
        "a directory among the supervisor's descriptors is refused",
        no_directory,
    ),
    ("a read-only supervisor has no call that writes a file", readonly),
];

fn poor(session: &Session) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(session.status(set), "0000000000000000", "{set}");
    }
    assert_eq!(session.status("Seccomp"), "2");
    assert_eq!(session.status("NoNewPrivs"), "1");
    assert_eq!(session.report.capabilities, 0);
    let mounts = session.proc("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / ro,nosuid,nodev,noexec"), "{mounts}");
    assert_eq!(
        fs::read_dir(format!("/proc/{}/root/", session.pid))
            .unwrap()
            .count(),
        0
    );
    for name in ["mnt", "net", "ipc", "uts", "cgroup"] {
        let own = session.proc(&format!("ns/{name}"));
        assert_ne!(
            own,
            fs::read_link(format!("/proc/self/ns/{name}"))
                .unwrap()
                .to_str()
                .unwrap()
        );
    }
    // Not dumpable: what it is belongs to root, and no process of its user may look.
    assert_eq!(
        fs::metadata(format!("/proc/{}/mem", session.pid)).unwrap().uid(),
        0
    );
    let held: Vec<_> = fs::read_dir(format!("/proc/{}/fd", session.pid))
        .unwrap()
        .collect();
    assert_eq!(held.len(), 3, "{held:?}");
    assert_eq!(
        fs::read_link(format!("/proc/{}/fd/1", session.pid))
            .unwrap()
            .to_str(),
        Some("/dev/null")
    );
}

fn nobody_nowhere() {
    let scratch = Scratch::new("nobody");
    let session = supervisor(&config(scratch.path()), 0, &[]);
    poor(&session);
    assert_eq!(session.status("Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(session.status("Gid"), "65534\t65534\t65534\t65534");
    assert_eq!(session.status("Groups"), "");
    assert_eq!((session.report.uid, session.report.gid), (65534, 65534));
    assert_eq!(session.report.weakened, Vec::<String>::new());
    // Its threads all run by now.
    assert_eq!(session.order(Order::Thread), Err(KILLED));
}

fn ordinary_user() {
    let scratch = Scratch::new("ordinary");
    let session = supervisor(&config(scratch.path()), USER, &[]);
    poor(&session);
    assert_eq!(session.report.uid, USER);
    assert!(session.report.namespaces.iter().any(|name| name == "user"));
}

fn without_namespaces() {
    let scratch = Scratch::new("supervisor-none");
    fs::write(scratch.path().join("file"), "x").unwrap();
    let mut open_sandbox = config(scratch.path());
    open_sandbox.sandbox = Sandbox::None;
    open_sandbox.seccomp = SeccompMode::None;
    for uid in [0, USER] {
        let session = supervisor(&open_sandbox, uid, &[]);
        assert!(!session.report.weakened.is_empty());
        for name in [
            "/etc/passwd",
            "/",
            "/proc/self/fd/0",
            scratch.path().join("file").to_str().unwrap(),
        ] {
            let outcome = session.call(SYS_openat, &[AT_FDCWD.into(), name.into(), O_RDONLY.into()]);
            assert!(
                matches!(outcome, Outcome::Returned(-13 | -6)),
                "{name}: {outcome:?}"
            );
        }
    }
}

fn uses_descriptors() {
    let scratch = Scratch::new("supervisor-data");
    let path = scratch.path().join("file");
    fs::write(&path, "0123456789").unwrap();
    let donated = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let session = supervisor(&config(scratch.path()), 0, &[&donated]);
    let file = Argument::from(handed(&session, &path));
    let (buffer, _) = session.order(Order::Place(vec![0; 4])).unwrap();
    let vector = [buffer.to_ne_bytes(), 4_u64.to_ne_bytes()].concat();
    let zero = || Argument::from(0);
    session.must(
        SYS_preadv2,
        &[file.clone(), vector.into(), 1.into(), zero(), zero(), zero()],
    );
    let (_, data) = session.order(Order::Look(buffer as u64, 4)).unwrap();
    assert_eq!(data, b"0123");
    session.must(SYS_lseek, &[file.clone(), 0.into(), SEEK_DATA.into()]);
    session.must(
        SYS_write,
        &[file.clone(), Argument::Bytes(b"ab".to_vec()), 2.into()],
    );
    session.must(SYS_fallocate, &[file.clone(), 0.into(), 0.into(), 100.into()]);
    // Large blocks come from the heap; the call itself looks at its first argument alone.
    for _ in 0..10 {
        session.must(
            SYS_fsync,
            &[file.clone(), Argument::Buffer(8 << 20), Argument::Buffer(1)],
        );
    }
    session.must(SYS_fstat, &[file.clone(), Argument::Buffer(256)]);
    let shared = [
        0.into(),
        4096.into(),
        (PROT_READ | PROT_WRITE).into(),
        (MAP_SHARED | MAP_NORESERVE).into(),
        file,
        0.into(),
    ];
    let (address, _) = session.must(SYS_mmap, &shared);
    session.must(SYS_munmap, &[address.into(), 4096.into()]);
    assert_eq!(fs::metadata(&path).unwrap().len(), 100);
    assert!(fs::read(&path).unwrap().starts_with(b"ab2345"));
}

/// What it waits for but locks it waits for by epoll_wait(2), which ends then and needs no call to go on.
fn stopped_and_continued() {
    let scratch = Scratch::new("supervisor-stopped");
    let epoll = File::from(Epoll::new(EpollCreateFlags::empty()).unwrap().0);
    let session = supervisor(&config(scratch.path()), 0, &[&epoll]);
    let epoll = Argument::from(handed(&session, std::path::Path::new("anon_inode:[eventpoll]")));
    let events = || Argument::Buffer(12);
    let wait = |limit: i32| vec![epoll.clone(), events(), 1.into(), limit.into()];
    session.send(Order::Call(SYS_epoll_wait, wait(10_000)));
    while !session.proc("syscall").starts_with(&format!("{SYS_epoll_wait} ")) {}
    for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
        kill(Pid::from_raw(session.pid), signal).unwrap();
    }
    assert_eq!(session.answer().unwrap().0, -i64::from(EINTR));
    assert_eq!(session.must(SYS_epoll_wait, &wait(0)).0, 0);
}

fn no_directory() {
    let scratch = Scratch::new("supervisor-directory");
    let directory = File::open(scratch.path()).unwrap();
    let refused = try_supervisor(&config(scratch.path()), 0, &[&directory])
        .err()
        .unwrap();
    assert!(refused.contains("'handed over' is a directory"), "{refused}");
}

/// The number under which a process holds a file.
fn handed(session: &Session, path: &std::path::Path) -> i32 {
    let list = fs::read_dir(format!("/proc/{}/fd", session.pid)).unwrap();
    let found = list
        .map(Result::unwrap)
        .find(|entry| fs::read_link(entry.path()).unwrap() == path);
    found.unwrap().file_name().to_str().unwrap().parse().unwrap()
}

fn readonly() {
    let scratch = Scratch::new("supervisor-readonly");
    let path = scratch.path().join("file");
    fs::write(&path, "x").unwrap();
    let mut readonly = config(scratch.path());
    readonly.readonly = true;
    for number in [SYS_pwritev2, SYS_fallocate, SYS_ftruncate] {
        let session = supervisor(&readonly, 0, &[&File::open(&path).unwrap()]);
        let file = Argument::from(handed(&session, &path));
        assert_eq!(
            session.call(number, &[file, 0.into(), 0.into(), 0.into()]),
            KILLED,
            "{number}"
        );
    }
}
