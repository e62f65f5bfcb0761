//! The log: each process makes its own descriptor 2 from the one that a launcher left, and nobody
//! waits for the reader.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use airlockfs_tests::daemon::{Daemon, Launch, READY, bin_dir};
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::procfs::Process;
use airlockfs_tests::stderr::{Kind, READ, Stderr};
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;

/// Far longer than a guest ever waits.
const PATIENCE: Duration = Duration::from_secs(60);
/// A user who may not open what root made.
const USER: u32 = 1000;

/// A daemon with this stderr, which listens on a socket that is there before it.
fn with_stderr(stderr: OwnedFd, user: Option<u32>, options: &[&str]) -> Daemon {
    let launch = Launch::airlockfs().by_fd().stderr(stderr).args(options);
    let launch = match user {
        Some(user) => launch.user(user),
        None => launch,
    };
    launch.spawn().expect("a daemon")
}

/// A guest, if it is served in time.
fn guest(daemon: &Daemon) -> Client {
    let (socket, (told, heard)) = (daemon.socket().to_owned(), mpsc::channel());
    std::thread::spawn(move || {
        let client = Client::connect(&socket).expect("a connection");
        client.init().expect("INIT");
        // Too late if nobody waits any more.
        let _ = told.send(client);
    });
    heard.recv_timeout(PATIENCE).expect("a guest that is served")
}

fn flags_of(descriptor: BorrowedFd<'_>) -> i32 {
    fcntl(descriptor, FcntlArg::F_GETFL).expect("F_GETFL")
}

/// Open flags of descriptor 2 of a process.
fn log_flags(process: &Process) -> i32 {
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/2", process.pid())).expect("fdinfo");
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    i32::from_str_radix(flags.expect("flags").trim(), 8).expect("octal")
}

/// The supervisor and the worker of one that has been heard by a guest: both are confined.
fn both(daemon: &Daemon) -> [Process; 2] {
    let supervisor = Process::open(daemon.supervisor().pid()).expect("the supervisor");
    [supervisor, daemon.worker().expect("a worker")]
}

#[test]
fn a_log_that_nobody_reads_stops_neither_the_guest_nor_the_end() {
    for (kind, user) in READ
        .map(|kind| (kind, None))
        .into_iter()
        .chain([(Kind::Pipe, Some(USER))])
    {
        let stderr = Stderr::new(kind).expect("a stderr");
        stderr.fill().expect("full");
        let mut daemon = with_stderr(stderr.writes(), user, &[]);
        let client = guest(&daemon);
        assert_eq!(client.lookup(ROOT, "x").err(), Some(Errno::ENOENT), "{kind:?}");
        assert_eq!(daemon.terminate().code(), Some(0), "{kind:?}");
    }
}

/// The worker's last words are that the supervisor was killed.
#[test]
fn a_log_that_nobody_reads_does_not_keep_the_worker_from_its_end() {
    for kind in READ {
        let stderr = Stderr::new(kind).expect("a stderr");
        stderr.fill().expect("full");
        let daemon = with_stderr(stderr.writes(), None, &[]);
        let _guest = guest(&daemon);
        let [supervisor, worker] = both(&daemon);
        supervisor.signal(Signal::SIGKILL).expect("SIGKILL");
        assert!(worker.ended_within(30_000), "{kind:?}");
    }
}

#[test]
fn a_start_that_fails_ends_though_nobody_reads_why() {
    for kind in READ {
        for wrong in [
            "--no-such-option",
            "--tag=much-too-long-a-tag-for-any-virtio-fs-device",
        ] {
            let stderr = Stderr::new(kind).expect("a stderr");
            stderr.fill().expect("full");
            let mut daemon = with_stderr(stderr.writes(), None, &[wrong]);
            assert!(
                daemon.wait().code().is_some_and(|code| code != 0),
                "{kind:?} {wrong}"
            );
        }
    }
}

/// A container that is paused, a debugger, `audit`: whoever waits for a limited time then goes on with that.
#[test]
fn a_pair_that_is_stopped_while_nobody_reads_its_log_goes_on() {
    let stderr = Stderr::new(Kind::Pipe).expect("a stderr");
    stderr.fill().expect("full");
    let mut daemon = with_stderr(stderr.writes(), None, &[]);
    let client = guest(&daemon);
    for _ in 0..50 {
        for process in both(&daemon) {
            process.signal(Signal::SIGSTOP).expect("SIGSTOP");
            while !process.status("State").expect("a state").starts_with('T') {}
            process.signal(Signal::SIGCONT).expect("SIGCONT");
        }
        assert_eq!(client.lookup(ROOT, "x").err(), Some(Errno::ENOENT));
    }
    assert_eq!(daemon.terminate().code(), Some(0));
}

const DROPPED: &str = " lines of this log were dropped";

/// How many is said when there is room again, and no line is in pieces.
#[test]
fn lines_that_are_dropped_are_counted() {
    for (kind, user) in [(Kind::Pipe, None), (Kind::Pipe, Some(USER)), (Kind::Socket, None)] {
        let mut stderr = Stderr::new(kind).expect("a stderr");
        stderr.fill().expect("full");
        let daemon = with_stderr(stderr.writes(), user, &["--on-disconnect=listen"]);
        // Each is told of in several lines, and then goes.
        for _ in 0..2000 {
            drop(UnixStream::connect(daemon.socket()).expect("a connection"));
        }
        guest(&daemon).getattr(ROOT).expect("GETATTR");
        let log = stderr.read_until(DROPPED).expect("a log");
        let told = log.lines().find(|line| line.contains(DROPPED)).expect("the line");
        let count = told.split_whitespace().find_map(|word| word.parse::<u64>().ok());
        assert!(count.is_some_and(|count| count > 0), "{kind:?}: {told}");
        let whole =
            |line: &&str| line.starts_with("airlockfs") || line.starts_with(READY) || line.contains("filled");
        let torn: Vec<_> = log
            .lines()
            .filter(|line| !line.is_empty() && !whole(line))
            .collect();
        // What it was filled with ends in the middle of a line.
        assert!(torn.len() <= 1, "{kind:?}: {torn:?}");
    }
}

/// A description of each process's own, whatever the launcher's allows, and that stays as it was.
#[test]
fn descriptor_2_becomes_write_only_and_append_only_and_each_processes_own() {
    for kind in [Kind::Pipe, Kind::Fifo, Kind::Terminal] {
        let mut stderr = Stderr::new(kind).expect("a stderr");
        let was = flags_of(stderr.writes.as_fd());
        let daemon = with_stderr(stderr.writes(), None, &[]);
        let _guest = guest(&daemon);
        for process in both(&daemon) {
            assert_own(&process, &format!("{kind:?}"));
        }
        assert_eq!(flags_of(stderr.writes.as_fd()), was, "{kind:?}");
        stderr
            .read_until(READY)
            .expect("the line that launchers wait for");
    }
}

fn assert_own(process: &Process, what: &str) {
    let flags = log_flags(process);
    let own = libc::O_APPEND | libc::O_NONBLOCK;
    assert_eq!(flags & libc::O_ACCMODE, libc::O_WRONLY, "{what}: {flags:#o}");
    assert_eq!(flags & own, own, "{what}: {flags:#o}");
}

/// As `2<>log` gives it, and `2>log`, which other programs write to as well.
#[test]
fn a_log_file_is_added_to_at_its_end() {
    let home = TempDir::new().expect("a directory");
    for reads in [true, false] {
        let path = home.join("log");
        fs::write(&path, "first\n").expect("write");
        let opened = File::options().read(reads).write(true).open(&path).expect("open");
        let was = flags_of(opened.as_fd());
        let mut daemon = with_stderr(opened.try_clone().expect("a descriptor").into(), None, &[]);
        let _guest = guest(&daemon);
        for process in both(&daemon) {
            assert_own(&process, "a file");
        }
        assert_eq!(flags_of(opened.as_fd()), was);
        assert_eq!(daemon.terminate().code(), Some(0));
        let log = fs::read_to_string(&path).expect("read");
        assert!(log.starts_with("first\n"), "{log}");
        assert!(log.contains(READY) && log.contains("asked to end"), "{log}");
    }
}

#[test]
fn no_log_and_the_null_device_are_for_writing_only_too() {
    let null = |options: &mut fs::OpenOptions| OwnedFd::from(options.open("/dev/null").expect("/dev/null"));
    for stderr in [
        null(File::options().read(true).write(true)),
        null(File::options().read(true)),
        null(File::options().write(true)),
    ] {
        let daemon = with_stderr(stderr, None, &[]);
        let _guest = guest(&daemon);
        for process in both(&daemon) {
            assert_own(&process, "/dev/null");
        }
    }
}

/// Another user's: what is for writing alone is kept, with the launcher's flags; the rest is given up.
#[test]
fn what_cannot_be_opened_anew_is_kept_if_nothing_can_be_read_there() {
    let home = TempDir::new().expect("a directory");
    let path = home.join("log");
    for (reads, kept) in [(false, true), (true, false)] {
        fs::write(&path, "").expect("write");
        let opened = File::options().read(reads).write(true).open(&path).expect("open");
        let was = flags_of(opened.as_fd());
        let daemon = with_stderr(opened.try_clone().expect("a descriptor").into(), Some(USER), &[]);
        let _guest = guest(&daemon);
        for process in both(&daemon) {
            let target = fs::read_link(format!("/proc/{}/fd/2", process.pid())).expect("a link");
            assert_eq!(target == path, kept, "{}", target.display());
            assert_eq!(log_flags(&process) & libc::O_ACCMODE, libc::O_WRONLY);
        }
        assert_eq!(flags_of(opened.as_fd()), was);
        let log = fs::read_to_string(&path).expect("read");
        let said = if kept {
            READY
        } else {
            "stderr cannot be opened anew for writing alone"
        };
        assert!(log.contains(said), "{log}");
    }
    // Neither is a datagram socket, of which each line could go elsewhere.
    let (reads, writes) = std::os::unix::net::UnixDatagram::pair().expect("sockets");
    let daemon = with_stderr(writes.into(), None, &[]);
    let _guest = guest(&daemon);
    for process in both(&daemon) {
        let target = fs::read_link(format!("/proc/{}/fd/2", process.pid())).expect("a link");
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    let mut line = [0; 4096];
    let length = reads.recv(&mut line).expect("a line");
    let line = String::from_utf8_lossy(&line[..length]);
    assert!(line.contains("stderr cannot be opened anew"), "{line}");
}

/// Who reads the lines of a journal's stream does not have them say who they are from: the header does, once.
#[test]
fn the_systems_log_is_told_once_who_speaks() {
    let home = TempDir::new().expect("a directory");
    let run = home.join("run");
    fs::create_dir_all(run.join("systemd/journal")).expect("mkdir");
    let journal = std::os::unix::net::UnixListener::bind(run.join("systemd/journal/stdout")).expect("bind");
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let mut daemon = Command::new("unshare")
        .args(["--mount", "sh", "-ec"])
        .arg("mount --bind \"$0\" /run; exec \"$@\"")
        .args([&run, &program])
        .args(["--syslog", "--shared-dir"])
        .arg(&*home)
        .arg("--socket-path")
        .arg(home.join("socket"))
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare");
    let (mut supervisor, mut worker) = (accepted(&journal), accepted(&journal));
    read_until(&mut supervisor, READY);
    let client = Client::connect(&home.join("socket")).expect("a client");
    client.init().expect("INIT");
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.id().cast_signed()),
        Signal::SIGKILL,
    )
    .expect("kill");
    daemon.wait().expect("wait");
    read_until(&mut worker, "airlockfs-worker: ");

    fn accepted(journal: &std::os::unix::net::UnixListener) -> UnixStream {
        let (mut stream, _) = journal.accept().expect("a stream");
        let limit = Some(PATIENCE);
        stream.set_read_timeout(limit).expect("a time limit");
        let header = read_until(&mut stream, "\n\n6\n0\n0\n0\n0\n");
        assert!(header.starts_with("airlockfs"), "{header}");
        // Nothing can be told to them.
        assert!(stream.write(b"x").is_err());
        stream
    }

    fn read_until(stream: &mut UnixStream, text: &str) -> String {
        let mut read = Vec::new();
        while !String::from_utf8_lossy(&read).contains(text) {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("more of it");
            read.extend(byte);
        }
        String::from_utf8_lossy(&read).into_owned()
    }
}

/// A launcher's own descriptor of a pipe may be blocking, and stays so.
#[test]
fn the_launchers_pipe_stays_blocking() {
    let stderr = Stderr::new(Kind::Pipe).expect("a stderr");
    let daemon = with_stderr(stderr.writes(), Some(USER), &[]);
    let _guest = guest(&daemon);
    assert_eq!(flags_of(stderr.writes.as_fd()) & libc::O_NONBLOCK, 0);
    assert!(stderr.writes.as_raw_fd() > 2);
}
