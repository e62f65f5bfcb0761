//! Starts the worker's binary: as production does where it is to have namespaces, else as a plain child.

use std::{
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use airlockfs_ipc::message::Sandbox;
use airlockfs_policy::{
    UserNamespace,
    spawn::{WorkerLaunch, open_executable, spawn_worker},
};
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, Pid, fork, pipe},
};

const WORKER: &str = env!("CARGO_BIN_EXE_airlockfs-worker");

/// A started worker.
pub(crate) struct Process {
    /// The child of this process, which ends as the worker does; none once it was waited for.
    pub(crate) child: Option<i32>,
    /// The worker.
    pub(crate) worker: i32,
}

/// As whom a worker is started.
#[derive(Default)]
pub(crate) struct Who {
    /// The user namespace it gets.
    pub(crate) users: UserNamespace,
    /// An ordinary user, where it gets no namespaces.
    pub(crate) uid: Option<u32>,
}

/// Starts a worker with its end of the control channel.
pub(crate) fn spawn(control: OwnedFd, log: &File, sandbox: Sandbox, who: Who) -> Process {
    match sandbox {
        Sandbox::Namespace => launch(&control, log, who.users),
        Sandbox::Chroot | Sandbox::None => plain(&control, log, who.uid),
    }
}

#[expect(
    unsafe_code,
    reason = "the child's descriptor 3 is made between fork and exec"
)]
fn plain(control: &OwnedFd, log: &File, uid: Option<u32>) -> Process {
    let mut command = Command::new(WORKER);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(log.try_clone().unwrap());
    let number = control.as_raw_fd();
    // SAFETY: fcntl and dup2 are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            if number == 3 {
                libc::fcntl(3, libc::F_SETFD, 0);
            } else {
                libc::dup2(number, 3);
            }
            Ok(())
        });
    }
    let pid = command.spawn().unwrap().id().try_into().unwrap();
    Process {
        child: Some(pid),
        worker: pid,
    }
}

/// A process with one thread starts the worker, as the supervisor does, and ends with it.
#[expect(unsafe_code, reason = "fork in a process with threads")]
fn launch(control: &OwnedFd, log: &File, users: UserNamespace) -> Process {
    let (read, write) = pipe().unwrap();
    // SAFETY: glibc makes its memory allocator usable after fork, and nothing else of other threads is used.
    match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => {
            drop(write);
            let mut pid = [0; 4];
            File::from(read).read_exact(&mut pid).expect("the worker starts");
            Process {
                child: Some(child.as_raw()),
                worker: i32::from_ne_bytes(pid),
            }
        }
        ForkResult::Child => {
            close_all_but([control.as_raw_fd(), log.as_raw_fd(), write.as_raw_fd()]);
            let code = launcher(control, log, users, write);
            // SAFETY: ends the process without running what the parent registered.
            unsafe { libc::_exit(code) }
        }
    }
}

/// Closes what belongs to other tests: their workers wait for the end of file on it.
#[expect(unsafe_code, reason = "descriptors of which only the numbers are known")]
fn close_all_but(mut kept: [i32; 3]) {
    kept.sort_unstable();
    let mut first = 3;
    for last in kept.into_iter().chain([i32::MAX]) {
        if first < last {
            // SAFETY: a process that has just been forked, in which nothing uses these descriptors.
            unsafe { libc::close_range(first as u32, last as u32 - 1, 0) };
        }
        first = last.saturating_add(1);
    }
}

fn launcher(control: &OwnedFd, log: &File, users: UserNamespace, pid: OwnedFd) -> i32 {
    let executable = open_executable(Path::new(WORKER)).unwrap();
    let spawned = spawn_worker(&WorkerLaunch {
        executable: executable.as_fd(),
        control: control.as_fd(),
        log: log.as_fd(),
        sandbox: Sandbox::Namespace,
        user_namespace: users,
        allow_missing: &[],
        joins_network: false,
    });
    let worker = match spawned {
        Ok(spawned) => spawned.pid,
        Err(error) => {
            eprintln!("{error}");
            return 1;
        }
    };
    let told = File::from(pid).write_all(&worker.to_ne_bytes());
    // Only the worker holds its end now.
    let closed = nix::unistd::close(control.as_raw_fd());
    match waitpid(Pid::from_raw(worker), None) {
        Ok(WaitStatus::Exited(_, code)) if told.is_ok() && closed.is_ok() => code,
        _ => 1,
    }
}
