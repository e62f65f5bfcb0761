//! Locks as programs of two guests and of the host take them.
#![allow(
    unsafe_code,
    reason = "processes of their own, as record locks belong to processes"
)]

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use airlockfs_tests::daemon::Launch;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork, pipe, read, write};

use crate::common::{Mounted, same_everywhere};

const OPTIONS: &[&str] = &["--posix-lock", "--flock"];

/// A process that does `work`, whose outcome it ends with. Forked, so it may only make system calls.
struct Child(Pid);

impl Child {
    fn start(work: impl FnOnce() -> nix::Result<()>) -> Self {
        // SAFETY: the child makes system calls and ends without running anything of the parent's.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => Self(child),
            ForkResult::Child => {
                let errno = work().err().unwrap_or(Errno::UnknownErrno) as i32;
                // SAFETY: ends the process.
                unsafe { libc::_exit(errno) }
            }
        }
    }

    fn end(self) -> Errno {
        match waitpid(self.0, None).expect("wait") {
            WaitStatus::Exited(_, errno) => Errno::from_raw(errno),
            WaitStatus::Signaled(..) => Errno::ECHILD,
            other => panic!("{other:?}"),
        }
    }

    fn runs(&self) -> bool {
        waitpid(self.0, Some(WaitPidFlag::WNOHANG)).expect("wait") == WaitStatus::StillAlive
    }
}

/// A child inherits what the others have open, and with it their flock(2) locks: one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No error.
const DONE: Errno = Errno::UnknownErrno;

fn lock(kind: i32, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

fn set(file: &File, kind: i32, start: i64, length: i64) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_SETLK(&lock(kind, start, length))).map(drop)
}

fn wait(file: &File, kind: i32, start: i64, length: i64) -> nix::Result<()> {
    fcntl(file, FcntlArg::F_SETLKW(&lock(kind, start, length))).map(drop)
}

fn flock(file: &File, operation: i32) -> nix::Result<()> {
    // SAFETY: takes a descriptor and a number.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), operation) }).map(drop)
}

fn open(path: impl AsRef<Path>) -> File {
    File::options().read(true).write(true).open(path).expect("open")
}

/// SIGALRM in a second, which system calls do not survive.
fn interrupt_soon() -> nix::Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGALRM, &action) }?;
    alarm::set(1);
    Ok(())
}

#[test]
fn programs_of_one_guest_exclude_each_other_as_on_a_local_file_system() {
    let _alone = alone();
    same_everywhere(
        &[OPTIONS, &["--posix-lock", "--flock", "--cache=never"], &[]],
        |directory| {
            let path = directory.join("file");
            fs::write(&path, "text").expect("write");
            let mut outcomes = Vec::new();
            let file = open(&path);
            set(&file, libc::F_WRLCK, 10, 10).expect("lock");
            set(&file, libc::F_RDLCK, 30, 0).expect("lock");
            let path = &path;
            let child = |kind, start, length| {
                let path = path.clone();
                Child::start(move || set(&open(path), kind, start, length)).end()
            };
            for (kind, start, length) in [
                (libc::F_RDLCK, 0, 10),
                (libc::F_RDLCK, 0, 11),
                (libc::F_WRLCK, 19, 1),
                (libc::F_WRLCK, 20, 10),
                (libc::F_WRLCK, 20, 11),
                (libc::F_RDLCK, 30, 0),
                (libc::F_WRLCK, i64::MAX, 1),
                (libc::F_WRLCK, -1, 1),
            ] {
                outcomes.push(format!(
                    "{kind} {start} {length}: {:?}",
                    child(kind, start, length)
                ));
            }
            // Who it is, asked by another process.
            let parent = nix::unistd::getpid();
            let asked = Child::start({
                let path = path.clone();
                move || {
                    let file = open(path);
                    let mut found = lock(libc::F_WRLCK, 0, 0);
                    fcntl(&file, FcntlArg::F_GETLK(&mut found))?;
                    let as_held = found.l_type == libc::F_WRLCK as i16
                        && (found.l_start, found.l_len) == (10, 10)
                        && found.l_pid == parent.as_raw();
                    if as_held { Ok(()) } else { Err(Errno::EBADMSG) }
                }
            });
            outcomes.push(format!("getlk: {:?}", asked.end()));
            // Closing any descriptor of the file gives its locks up.
            drop(open(path));
            outcomes.push(format!("after close: {:?}", child(libc::F_WRLCK, 0, 0)));
            flock(&file, libc::LOCK_SH).expect("flock");
            let child = |operation| {
                let path = path.clone();
                Child::start(move || flock(&open(path), operation | libc::LOCK_NB)).end()
            };
            outcomes.push(format!("{:?}", child(libc::LOCK_SH)));
            outcomes.push(format!("{:?}", child(libc::LOCK_EX)));
            // The open file's, not the descriptor's.
            let twin = file.try_clone().expect("dup");
            drop(file);
            outcomes.push(format!("{:?}", child(libc::LOCK_EX)));
            drop(twin);
            // Soon: a process that another test is about to start may have inherited it for a moment.
            let last = Child::start({
                let path = path.clone();
                move || flock(&open(path), libc::LOCK_EX)
            });
            outcomes.push(format!("{:?}", last.end()));
            outcomes
        },
    );
}

#[test]
fn a_circle_of_waits_is_refused() {
    let _alone = alone();
    same_everywhere(&[OPTIONS], |directory| {
        for name in ["one", "two"] {
            fs::write(directory.join(name), "text").expect("write");
        }
        let (one, two) = (directory.join("one"), directory.join("two"));
        let file = open(&one);
        set(&file, libc::F_WRLCK, 0, 1).expect("lock");
        let (ready, tell) = pipe().expect("pipe");
        let child = Child::start({
            let (one, two) = (one.clone(), two.clone());
            move || {
                let (one, two) = (open(one), open(two));
                set(&two, libc::F_WRLCK, 0, 1)?;
                write(&tell, b"x")?;
                wait(&one, libc::F_WRLCK, 0, 1)
            }
        });
        read(&ready, &mut [0]).expect("read");
        let other = open(&two);
        // Whichever of the two comes second is refused.
        let mine = wait(&other, libc::F_WRLCK, 0, 1);
        set(&file, libc::F_UNLCK, 0, 1).expect("unlock");
        let theirs = child.end();
        let mine = mine.err().unwrap_or(DONE);
        vec![format!(
            "{}",
            matches!((mine, theirs), (Errno::EDEADLK, DONE) | (DONE, Errno::EDEADLK))
        )]
    });
}

#[test]
fn a_signal_ends_a_wait_of_either_kind() {
    let _alone = alone();
    same_everywhere(
        &[OPTIONS, &["--posix-lock", "--flock", "--no-donate"]],
        |directory| {
            let path = directory.join("file");
            fs::write(&path, "text").expect("write");
            let file = open(&path);
            set(&file, libc::F_WRLCK, 0, 0).expect("lock");
            flock(&file, libc::LOCK_EX).expect("flock");
            let children = [false, true].map(|whole| {
                let path = path.clone();
                Child::start(move || {
                    let file = open(path);
                    interrupt_soon()?;
                    if whole {
                        flock(&file, libc::LOCK_EX)
                    } else {
                        wait(&file, libc::F_WRLCK, 0, 0)
                    }
                })
            });
            let mut outcomes: Vec<_> = children.map(|child| format!("{:?}", child.end())).into();
            // Killed, it ends as well, and does not get the lock afterwards.
            let (ready, tell) = pipe().expect("pipe");
            let child = Child::start({
                let path = path.clone();
                move || {
                    let file = open(path);
                    write(&tell, b"x")?;
                    wait(&file, libc::F_WRLCK, 0, 0)
                }
            });
            read(&ready, &mut [0]).expect("read");
            outcomes.push(format!("waits: {}", child.runs()));
            kill(child.0, Signal::SIGKILL).expect("kill");
            outcomes.push(format!("{:?}", child.end()));
            drop(file);
            let after = Child::start(move || set(&open(path), libc::F_WRLCK, 0, 0)).end();
            outcomes.push(format!("{after:?}"));
            outcomes
        },
    );
}

/// A program that inherited the lock with another descriptor, or whose lock is the host's for ever, waits no longer than
/// `--lock-wait`: a guest over virtio-fs cannot even kill it before. What it is told is an errno that it can know.
#[test]
fn a_wait_without_end_is_ended() {
    let _alone = alone();
    let mounted = Mounted::new(&["--posix-lock", "--flock", "--lock-wait=1.5"]);
    let path = mounted.at("file");
    fs::write(&path, "text").expect("write");
    let (file, again) = (open(&path), open(&path));
    let whole = || {
        (
            flock(&again, libc::LOCK_EX),
            std::io::Error::last_os_error().raw_os_error(),
        )
    };
    flock(&file, libc::LOCK_EX).expect("flock");
    let begun = std::time::Instant::now();
    assert_eq!(whole(), (Err(Errno::EDEADLK), Some(libc::EDEADLK)));
    assert!(begun.elapsed().as_millis() >= 1500);
    // The one that waited has nothing, and the next one may have it.
    flock(&file, libc::LOCK_UN).expect("unlock");
    assert_eq!(whole().0, Ok(()));
    flock(&again, libc::LOCK_UN).expect("unlock");
    // Record locks of two open files of one process, and of the host.
    let ofd = |file: &File| fcntl(file, FcntlArg::F_OFD_SETLKW(&lock(libc::F_WRLCK, 0, 0))).map(drop);
    ofd(&file).expect("lock");
    assert_eq!(ofd(&again), Err(Errno::EDEADLK));
    drop(file);
    assert_eq!(ofd(&again), Ok(()));
    drop(again);
    let host = open(mounted.host("file"));
    let held = lock(libc::F_WRLCK, 0, 0);
    // Linux does not wait for the RELEASE that gave up the last one.
    fcntl(&host, FcntlArg::F_OFD_SETLKW(&held)).expect("the host's lock");
    let file = open(&path);
    assert_eq!(wait(&file, libc::F_WRLCK, 0, 0), Err(Errno::EDEADLK));
    // One that is given up in time is had.
    let waiting = std::thread::spawn(move || wait(&file, libc::F_WRLCK, 0, 0));
    drop(host);
    assert_eq!(waiting.join().expect("the wait"), Ok(()));
}

#[test]
fn two_guests_and_the_host_exclude_each_other() {
    let _alone = alone();
    let one = Mounted::new(OPTIONS);
    let two = Mounted::launch(Launch::airlockfs().share(one.daemon.share()).args(OPTIONS));
    fs::write(one.at("file"), "text").expect("write");
    let places = [one.at("file"), two.at("file"), one.host("file")];
    for (holder, held) in places.iter().enumerate() {
        let file = open(held);
        set(&file, libc::F_WRLCK, 5, 5).expect("lock");
        flock(&file, libc::LOCK_EX).expect("flock");
        for (other, path) in places.iter().enumerate() {
            let try_both = |start| {
                let path = path.clone();
                let record = Child::start(move || set(&open(path), libc::F_WRLCK, start, 5)).end();
                let path = places[other].clone();
                let whole = Child::start(move || flock(&open(path), libc::LOCK_SH | libc::LOCK_NB)).end();
                (record, whole)
            };
            let refused = (Errno::EAGAIN, Errno::EAGAIN);
            assert_eq!(try_both(9), refused, "{holder} holds, {other} tries");
            assert_eq!(try_both(10).0, DONE, "{holder} holds, {other} tries");
        }
        // One of each other place waits, and gets it in the end.
        let waiting: Vec<_> = places
            .iter()
            .cloned()
            .flat_map(|path| {
                let whole = path.clone();
                [
                    Child::start(move || wait(&open(path), libc::F_WRLCK, 0, 0)),
                    Child::start(move || flock(&open(whole), libc::LOCK_EX)),
                ]
            })
            .collect();
        // Closing it here alone would not do: the children have inherited the open file.
        flock(&file, libc::LOCK_UN).expect("unlock");
        drop(file);
        for child in waiting {
            assert_eq!(child.end(), DONE);
        }
    }
}
