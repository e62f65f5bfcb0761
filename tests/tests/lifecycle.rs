//! The two processes live and die together, inherit nothing, and cost nothing when idle.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use airlockfs_tests::daemon::{Daemon, Launch, READY, bin_dir};
use airlockfs_tests::fuse::abi::{ROOT, WRITE, WriteIn};
use airlockfs_tests::fuse::{Client, Wait};
use airlockfs_tests::procfs::Process;
use airlockfs_tests::tempdir::TempDir;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use zerocopy::IntoBytes;

#[test]
fn an_idle_pair_uses_no_cpu() {
    let (daemon, fs) = Daemon::with_client(["--tag", "idle"]);
    fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    let worker = daemon.worker().expect("a worker");
    let ticks = || {
        let sum = |p: &Process| p.cpu_ticks().expect("/proc/PID/stat");
        (sum(daemon.supervisor()), sum(&worker))
    };
    // Whatever the last request left to do is done once a second passes without any; then comes the window that is measured.
    let mut before = ticks();
    for _ in 0..60 {
        std::thread::sleep(Duration::from_secs(1));
        let now = ticks();
        if now == before {
            break;
        }
        before = now;
    }
    std::thread::sleep(Duration::from_secs(10));
    assert_eq!(ticks(), before);
    fs.getattr(ROOT).expect("GETATTR");
}

#[test]
fn inherited_descriptors_are_closed_in_both() {
    let secret = TempDir::new().expect("a directory");
    let path = secret.join("secret");
    std::fs::write(&path, "secret").expect("write");
    let mut launch = Launch::airlockfs();
    for _ in 0..5 {
        launch = launch.inherit(File::open(&path).expect("open").into());
    }
    launch = launch.inherit(File::open("/").expect("open").into());
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let daemon = launch.inherit(read).inherit(write).start();
    let fs = daemon.client();
    fs.getattr(ROOT).expect("GETATTR");
    for process in [daemon.supervisor(), &daemon.worker().expect("a worker")] {
        for (fd, target) in process.descriptors().expect("descriptors") {
            let target = target.to_string_lossy();
            assert!(
                !target.contains("secret"),
                "process {} holds {fd}: {target}",
                process.pid()
            );
            assert!(fd < 3 || !target.starts_with("pipe:"), "{fd}: {target}");
        }
    }
    let supervisor = daemon.supervisor().descriptors().expect("descriptors");
    let ids = daemon.supervisor().status("Uid").expect("its ids");
    let own = ids.split_whitespace().next().expect("an id");
    let locks = ["/run/systemd/dynamic-uid", "/run/airlockfs"].map(|directory| format!("{directory}/{own}"));
    for (fd, target) in supervisor {
        // No directory, and no path but its log's, its sources of silence and the empty file that stands for its user id.
        let path = target.to_string_lossy();
        // By itself: it lies in a mount that no path leads to.
        let identity = |path: &str| {
            let found = std::fs::metadata(path).ok()?;
            (found.is_file() && found.len() == 0).then(|| (found.dev(), found.ino()))
        };
        let held = identity(&format!("/proc/{}/fd/{fd}", daemon.supervisor().pid()));
        let lock = held.is_some() && locks.iter().any(|lock| identity(lock) == held);
        assert!(
            !path.starts_with('/') || path.starts_with("/dev/") || path.starts_with("/memfd:") || lock,
            "{fd}: {path}"
        );
    }
}

/// What many launchers do to end it. It is not an error, nor is there anything to say where only errors are asked for.
#[test]
fn the_supervisors_death_takes_the_worker_along_and_is_no_error() {
    for (level, told) in [("info", true), ("warn", false)] {
        let (mut daemon, fs) = Daemon::with_client([format!("--log-level={level}")]);
        fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
        let worker = daemon.worker().expect("a worker");
        daemon.supervisor().signal(Signal::SIGKILL).expect("SIGKILL");
        daemon.wait();
        assert!(worker.ended_within(10_000));
        assert_eq!(daemon.wait_for_log(UNEXPECTED), told, "{:?}", daemon.log());
        assert_no_error(&daemon);
    }
}

/// Nobody may continue it or kill it once its supervisor is gone: the kernel has to.
#[test]
fn a_stopped_worker_ends_with_its_supervisor() {
    type End = fn(&Daemon, &mut Option<Client>);
    let ends: [(&str, End, Option<i32>); 3] = [
        (
            "SIGTERM",
            |daemon, _| daemon.supervisor().signal(Signal::SIGTERM).expect("SIGTERM"),
            Some(0),
        ),
        (
            "SIGKILL",
            |daemon, _| daemon.supervisor().signal(Signal::SIGKILL).expect("SIGKILL"),
            None,
        ),
        ("the VMM goes", |_, fs| drop(fs.take()), Some(0)),
    ];
    for user in [0, 1000] {
        for (what, end, code) in ends {
            let mut daemon = Launch::airlockfs().user(user).start();
            let mut fs = Some(daemon.client());
            let worker = daemon.worker().expect("a worker");
            worker.signal(Signal::SIGSTOP).expect("SIGSTOP");
            end(&daemon, &mut fs);
            assert_eq!(daemon.wait().code(), code, "{what}: {:#?}", daemon.log());
            let ended = worker.ended_within(10_000);
            if !ended {
                worker.signal(Signal::SIGKILL).expect("SIGKILL");
            }
            assert!(ended, "{what}, user {user}: the worker stays behind");
            assert_no_error(&daemon);
        }
    }
}

/// Who ends a service signals all its processes. The worker waits for the supervisor, which finishes what is in flight.
#[test]
fn a_signal_to_both_is_the_supervisors_to_heed() {
    for sandbox in ["namespace", "chroot", "none"] {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            let (mut daemon, fs) = Daemon::with_client([format!("--sandbox={sandbox}")]);
            let worker = daemon.worker().expect("a worker");
            worker.signal(signal).expect("a signal");
            fs.getattr(ROOT).expect("GETATTR");
            daemon.supervisor().signal(signal).expect("a signal");
            assert_eq!(
                daemon.wait().code(),
                Some(0),
                "{sandbox} {signal}: {:#?}",
                daemon.log()
            );
            assert!(worker.ended_within(10_000), "{sandbox} {signal}");
            assert_no_error(&daemon);
        }
    }
}

/// The worker ends when it is told to, and the supervisor a moment later: here the moment is as long as it takes to see
/// the worker's end.
#[test]
fn a_worker_that_ended_as_it_was_told_is_no_failure() {
    let (mut daemon, fs) = Daemon::with_client(["--tag", "order"]);
    let worker = daemon.worker().expect("a worker");
    let main = Pid::from_raw(daemon.supervisor().pid());
    // Its main thread reads what the VMM says.
    ptrace::seize(main, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("PTRACE_SEIZE");
    ptrace::interrupt(main).expect("PTRACE_INTERRUPT");
    waitpid(main, None).expect("a stop");
    drop(fs);
    loop {
        ptrace::syscall(main, None).expect("PTRACE_SYSCALL");
        waitpid(main, None).expect("a stop");
        let call = ptrace::syscall_info(main).expect("PTRACE_GET_SYSCALL_INFO");
        if call.op == libc::PTRACE_SYSCALL_INFO_ENTRY && sends(&call) {
            break;
        }
    }
    // The farewell.
    ptrace::syscall(main, None).expect("PTRACE_SYSCALL");
    waitpid(main, None).expect("a stop");
    assert!(worker.ended_within(10_000), "the worker was told to end");
    // Nobody waits for that thread for ever.
    assert_eq!(daemon.wait().code(), Some(0), "{:#?}", daemon.log());
    assert_no_error(&daemon);
}

#[expect(unsafe_code, reason = "a union that ptrace fills in")]
fn sends(call: &libc::ptrace_syscall_info) -> bool {
    // SAFETY: at the entry of a system call, as the caller checked, this is the member that the kernel filled in.
    unsafe { call.u.entry.nr == libc::SYS_sendmsg as u64 }
}

/// No line of either process is an error's.
fn assert_no_error(daemon: &Daemon) {
    // All of it: both have ended, and nobody else has their stderr.
    assert!(!daemon.wait_for_log("ERROR"), "{:#?}", daemon.log());
}

/// `setpriv --pdeathsig`, `unshare --kill-child` and launchers of their kind: the kernel takes the signal back when ids
/// change, as the supervisor's do.
#[test]
fn a_launcher_that_wants_it_to_end_with_itself_takes_it_along() {
    for (signal, user) in [("KILL", 0), ("TERM", 0), ("TERM", 1000)] {
        let home = TempDir::new().expect("a directory");
        std::os::unix::fs::chown(&*home, Some(user), Some(user)).expect("chown");
        let mut launcher = Command::new("sh")
            // A shell that is asked for nothing after a command becomes that command.
            .args(["-c", "setpriv --pdeathsig \"$0\" \"$@\"; exit", signal])
            .arg(bin_dir().expect("a place for binaries").join("airlockfsd"))
            .arg("--shared-dir")
            .arg(&*home)
            .arg("--socket-path")
            .arg(home.join("socket"))
            .uid(user)
            .gid(user)
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut log = BufReader::new(launcher.stderr.take().expect("a pipe")).lines();
        let ready = |line: &std::io::Result<String>| line.as_ref().is_ok_and(|line| line.contains(READY));
        assert!(log.any(|line| ready(&line)), "{signal} {user}");
        let pair = Process::open(i32::try_from(launcher.id()).expect("a pid"))
            .and_then(Process::tree)
            .expect("processes");
        // The launcher, the supervisor, the worker.
        assert_eq!(pair.len(), 3, "{signal} {user}");
        launcher.kill().expect("kill");
        launcher.wait().expect("wait");
        for process in pair {
            let ended = process.ended_within(10_000);
            if !ended {
                process.signal(Signal::SIGKILL).expect("kill");
            }
            assert!(ended, "{signal} {user}: process {}", process.pid());
        }
    }
}

/// What the worker says of a supervisor that was killed, and of no other.
const UNEXPECTED: &str = "airlockfs-worker: INFO: airlockfsd ended without a farewell";

#[test]
fn a_supervisor_that_ends_in_good_order_is_not_said_to_have_been_killed() {
    // The VMM goes.
    let (mut daemon, fs) = Daemon::with_client(["--tag", "order"]);
    drop(fs);
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!daemon.wait_for_log(UNEXPECTED), "{:?}", daemon.log());
    // Nor for what makes a start fail after the worker's.
    let failure = Launch::airlockfs().args(["--tag", &"t".repeat(37)]).try_start();
    let failure = failure.expect("a start").expect_err("a tag that is too long");
    assert!(
        !failure.log.iter().any(|line| line.contains(UNEXPECTED)),
        "{:?}",
        failure.log
    );
}

#[test]
fn sigterm_ends_both_and_keeps_what_was_written() {
    let (mut daemon, fs) = Daemon::with_client(["--tag", "term"]);
    let worker = daemon.worker().expect("a worker");
    let (_, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    fs.write(file, 0, b"text").expect("WRITE");
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(worker.ended_within(10_000));
    assert_eq!(std::fs::read(daemon.host("file")).expect("read"), b"text");
    assert!(!daemon.wait_for_log(UNEXPECTED), "{:?}", daemon.log());
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    let (mut daemon, fs) = Daemon::with_client(["--tag", "term"]);
    let (entry, file) = fs.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    let mut lane = fs.session().lane(1);
    let mut slots = Vec::new();
    let data = vec![7; 1 << 20];
    while let Some(slot) = lane.acquire() {
        let body = WriteIn {
            fh: file.fh,
            offset: (slots.len() << 20) as u64,
            size: 1 << 20,
            ..WriteIn::default()
        };
        let len = lane.write(slot, fs.header(WRITE, entry.nodeid), &[body.as_bytes(), &data]);
        lane.submit(slot, len, 24);
        slots.push(slot);
    }
    lane.flush();
    daemon.supervisor().signal(Signal::SIGTERM).expect("SIGTERM");
    let mut written = 0;
    for slot in &slots {
        // What was taken is finished; what was not is the guest's to send again.
        if let Wait::Done(done) = lane.wait_for(*slot, Duration::from_secs(30))
            && done.len == 24
        {
            written += 1;
        }
    }
    assert_eq!(daemon.wait().code(), Some(0));
    let size = std::fs::metadata(daemon.host("file")).expect("stat").len();
    assert!(
        size >= written << 20,
        "{written} writes were acknowledged, {size} bytes are there"
    );
}
