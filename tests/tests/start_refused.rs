//! Kernels, launchers' filters, limits and leftovers that disturb the start. The daemon starts, or
//! ends with one line that names the cause.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt;

use airlockfs_tests::daemon::{Failure, Launch};
use airlockfs_tests::deny::deny;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::tempdir::TempDir;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};

/// It ended with one line and a code of its own.
fn one_line(what: &str, failure: &Failure) -> String {
    let lines: Vec<_> = failure.log.iter().filter(|line| !line.is_empty()).collect();
    let [line] = lines.as_slice() else {
        panic!("{what}: {}: {lines:#?}", failure.status);
    };
    let code = failure.status.code();
    assert!(
        code.is_some_and(|code| (64..=78).contains(&code)),
        "{what}: {}: {line}",
        failure.status
    );
    assert!(
        !line.contains("os error 0") && !line.contains("Success"),
        "{what}: {line}"
    );
    (*line).clone()
}

/// What either process calls on its way. Left out is what it has no program without: memory, execve(2), open(2).
const CALLS: &[(libc::c_long, &str)] = &[
    (libc::SYS_bind, "bind"),
    (libc::SYS_capget, "capget"),
    (libc::SYS_capset, "capset"),
    (libc::SYS_close_range, "close_range"),
    (libc::SYS_dup3, "dup3"),
    (libc::SYS_epoll_create1, "epoll_create1"),
    (libc::SYS_epoll_ctl, "epoll_ctl"),
    (libc::SYS_eventfd2, "eventfd2"),
    (libc::SYS_execveat, "execveat"),
    (libc::SYS_fchdir, "fchdir"),
    (libc::SYS_fsconfig, "fsconfig"),
    (libc::SYS_fsmount, "fsmount"),
    (libc::SYS_fsopen, "fsopen"),
    (libc::SYS_ftruncate, "ftruncate"),
    (libc::SYS_landlock_add_rule, "landlock_add_rule"),
    (libc::SYS_landlock_create_ruleset, "landlock_create_ruleset"),
    (libc::SYS_landlock_restrict_self, "landlock_restrict_self"),
    (libc::SYS_listen, "listen"),
    (libc::SYS_memfd_create, "memfd_create"),
    (libc::SYS_mount, "mount"),
    (libc::SYS_mount_setattr, "mount_setattr"),
    (libc::SYS_move_mount, "move_mount"),
    (libc::SYS_open_tree, "open_tree"),
    (libc::SYS_openat2, "openat2"),
    (libc::SYS_pipe2, "pipe2"),
    (libc::SYS_pivot_root, "pivot_root"),
    (libc::SYS_prctl, "prctl"),
    (libc::SYS_preadv2, "preadv2"),
    (libc::SYS_prlimit64, "prlimit64"),
    (libc::SYS_sched_getaffinity, "sched_getaffinity"),
    (libc::SYS_sched_setaffinity, "sched_setaffinity"),
    (libc::SYS_seccomp, "seccomp"),
    (libc::SYS_sendmsg, "sendmsg"),
    (libc::SYS_setdomainname, "setdomainname"),
    (libc::SYS_setgroups, "setgroups"),
    (libc::SYS_sethostname, "sethostname"),
    (libc::SYS_setitimer, "setitimer"),
    (libc::SYS_setns, "setns"),
    (libc::SYS_setresgid, "setresgid"),
    (libc::SYS_setresuid, "setresuid"),
    (libc::SYS_setsid, "setsid"),
    (libc::SYS_signalfd4, "signalfd4"),
    (libc::SYS_socket, "socket"),
    (libc::SYS_socketpair, "socketpair"),
    (libc::SYS_statx, "statx"),
    (libc::SYS_umount2, "umount2"),
    (libc::SYS_unshare, "unshare"),
];

#[test]
fn a_system_call_that_is_not_to_be_had_is_told_in_one_line_or_done_without() {
    for (call, name) in CALLS {
        for errno in [libc::ENOSYS, libc::EPERM] {
            let what = format!("{name} fails with {}", io::Error::from_raw_os_error(errno));
            let call = *call;
            let launch = Launch::airlockfs().before(move || deny(call, errno));
            match launch.try_start().expect("a program") {
                Ok(daemon) => drop(daemon.client()),
                Err(failure) => println!("{what}: {}", one_line(&what, &failure)),
            }
        }
    }
}

#[test]
fn what_the_new_process_cannot_do_is_told_with_its_cause() {
    let launch = || Launch::airlockfs().before(|| deny(libc::SYS_close_range, libc::ENOSYS));
    let failure = launch()
        .try_start()
        .expect("a program")
        .expect_err("no close_range");
    let line = one_line("no close_range", &failure);
    assert!(
        line.contains("close_range") && line.contains("Function not implemented"),
        "{line}"
    );
}

/// The child tells its parent by a pipe, and nobody else by whatever lies at that pipe's later number.
#[test]
fn a_launchers_descriptor_is_not_written_to() {
    let home = TempDir::new().expect("a directory");
    let file = File::create(home.join("launchers")).expect("a file");
    let number = file.as_raw_fd();
    let launch = Launch::airlockfs()
        .before(move || {
            // 4 and 5 are what the child has later.
            for place in [4, 5] {
                // SAFETY: dup2(2) of an open descriptor; the child has no other use for these numbers.
                #[expect(unsafe_code, reason = "a descriptor at a number")]
                if unsafe { libc::dup2(number, place) } < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        })
        .before(|| deny(libc::SYS_setsid, libc::EPERM));
    let failure = launch.try_start().expect("a program").expect_err("no setsid");
    one_line("no setsid", &failure);
    assert_eq!(fs::read(home.join("launchers")).expect("read"), b"");
}

#[test]
fn a_limit_that_is_too_low_is_told_in_one_line() {
    let cases: &[(&str, Resource, u64, &str)] = &[
        ("no byte in a file", Resource::RLIMIT_FSIZE, 0, "ulimit -f"),
        (
            "the ring does not fit",
            Resource::RLIMIT_FSIZE,
            1 << 20,
            "ulimit -f",
        ),
        ("no threads", Resource::RLIMIT_NPROC, 0, "ulimit -u"),
        ("little memory", Resource::RLIMIT_AS, 40 << 20, "ulimit -v"),
        ("little data", Resource::RLIMIT_DATA, 2 << 20, "ulimit -v"),
        ("few files", Resource::RLIMIT_NOFILE, 100, "ulimit -Hn"),
        (
            "few files for the worker",
            Resource::RLIMIT_NOFILE,
            128,
            "ulimit -Hn",
        ),
    ];
    for (what, resource, limit, advice) in cases {
        let launch = Launch::airlockfs().limit(*resource, *limit);
        let failure = launch.try_start().expect("a program").expect_err(what);
        let line = one_line(what, &failure);
        assert!(line.contains(advice), "{what}: {line}");
    }
}

#[test]
fn a_limit_of_the_stack_that_may_be_raised_is() {
    let launch = Launch::airlockfs().before(|| {
        let (_, hard) = getrlimit(Resource::RLIMIT_STACK)?;
        Ok(setrlimit(Resource::RLIMIT_STACK, 64 << 10, hard)?)
    });
    launch.start().client().getattr(ROOT).expect("GETATTR");
}

#[test]
fn a_limit_of_processor_time_is_told() {
    let daemon = Launch::airlockfs().limit(Resource::RLIMIT_CPU, 1000).start();
    let told = daemon.log().iter().any(|line| line.contains("LimitCPU="));
    assert!(told, "{:#?}", daemon.log());
}

/// Ticks of processor time in user mode (proc_pid_stat(5)).
fn user_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().nth(11).expect("utime");
    ticks.parse().expect("a number")
}

/// alarm(2) and setitimer(2) outlive execve(2). This one counts processor time, of which the daemon uses more.
#[test]
fn a_launchers_timer_ends_nobody() {
    let mut daemon = Launch::airlockfs()
        .before(|| {
            let time = libc::timeval {
                tv_sec: 0,
                tv_usec: 400_000,
            };
            let timer = libc::itimerval {
                it_interval: time,
                it_value: time,
            };
            // SAFETY: the kernel reads `timer`.
            #[expect(unsafe_code, reason = "setitimer(2)")]
            let set = unsafe { libc::setitimer(libc::ITIMER_VIRTUAL, &timer, std::ptr::null_mut()) };
            match set {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
        .start();
    let client = daemon.client();
    let pid = daemon.supervisor().pid();
    while daemon.is_alive() && user_ticks(pid) < 100 {
        for _ in 0..1000 {
            if client.getattr(ROOT).is_err() {
                break;
            }
        }
    }
    assert!(daemon.is_alive(), "it ended by {:?}", daemon.wait().signal());
}

#[test]
fn signals_that_a_launcher_ignored_or_blocked_change_nothing() {
    let daemon = Launch::airlockfs()
        .before(|| {
            for ignored in Signal::iterator().filter(|one| !matches!(one, Signal::SIGKILL | Signal::SIGSTOP))
            {
                // SAFETY: no handler.
                #[expect(unsafe_code, reason = "a signal's disposition")]
                unsafe { signal(ignored, SigHandler::SigIgn) }?;
            }
            Ok(SigSet::all().thread_block()?)
        })
        .start();
    let client = daemon.client();
    client.getattr(ROOT).expect("GETATTR");
    let worker = daemon.worker().expect("a worker");
    worker.signal(Signal::SIGKILL).expect("SIGKILL");
    // The end of a child that nobody waits for would be lost.
    assert!(daemon.wait_for_log("SIGKILL"), "{:#?}", daemon.log());
    let mut daemon = Launch::airlockfs()
        .before(|| Ok(SigSet::all().thread_block()?))
        .start();
    assert_eq!(daemon.terminate().code(), Some(0));
}
