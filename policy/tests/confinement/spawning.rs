//! How the worker is started, and how the two processes' lives hang together.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use airlockfs_ipc::message::{Barrier, Sandbox};
use airlockfs_policy::{IdMapRange, UserNamespace};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Test;
use crate::outside::{
    Scratch, USER, config, launcher, try_worker, wait_for_end, worker, worker_without_network,
};

pub(crate) const TESTS: &[Test] = &[
    (
        "the worker starts with its name, no environment and its own session",
        starts_clean,
    ),
    (
        "the worker sees its end of file however the supervisor dies",
        dies_with_the_supervisor,
    ),
    (
        "a worker without a network namespace of its own does not start",
        no_network,
    ),
    (
        "an ordinary user's worker has a user namespace with one id",
        one_id,
    ),
    ("an ordinary user's worker maps subordinate ids", subordinate_ids),
    ("root can give the worker a user namespace", chosen_maps),
    (
        "without user namespaces the start is refused with advice",
        no_user_namespaces,
    ),
    (
        "without user namespaces the start can be allowed",
        no_user_namespaces_allowed,
    ),
];

fn starts_clean() {
    let scratch = Scratch::new("clean");
    let session = worker(&config(scratch.path()));
    assert_eq!(
        session.proc("cmdline"),
        "airlockfs-worker\0mnt,pid,net,ipc,uts,cgroup\0"
    );
    assert_eq!(session.proc("environ"), "");
    assert_eq!(session.proc("comm"), "airlockfs-worke\n");
    assert_eq!(session.status("NSpid"), format!("{}\t1", session.pid));
    assert_eq!(session.status("NSsid"), format!("{}\t1", session.pid));
    assert_eq!(session.status("SigBlk"), "0000000000000000");
    let limits = session.proc("limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        line.strip_prefix(name)
            .unwrap()
            .split_whitespace()
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(limit("Max open files"), ["256", "256"]);
    assert_eq!(limit("Max core file size"), ["0", "0"]);
}

fn dies_with_the_supervisor() {
    let scratch = Scratch::new("death");
    for uid in [0, USER] {
        let as_user = |command: &mut Command| {
            command.uid(uid).gid(uid);
        };
        let (worker, supervisor) = launcher(&config(scratch.path()), as_user).unwrap();
        let uid_map = fs::read_to_string(format!("/proc/{}/uid_map", pid_of(&worker.pidfd)));
        assert!(uid_map.is_ok_and(|map| !map.is_empty()), "it lives until then");
        kill(Pid::from_raw(supervisor.pid), Signal::SIGKILL).unwrap();
        assert!(
            wait_for_end(&worker.pidfd),
            "the worker of uid {uid} outlives its supervisor"
        );
    }
}

fn one_id() {
    let scratch = Scratch::new("one-id");
    std::os::unix::fs::chown(scratch.path(), Some(USER), Some(USER)).unwrap();
    let as_user = |command: &mut Command| {
        command.uid(USER).gid(USER);
    };
    let (worker, supervisor) = launcher(&config(scratch.path()), as_user).unwrap();
    assert_eq!(
        worker.report.namespaces,
        ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
    );
    assert_eq!(supervisor.report.uid, USER);
    let pid = pid_of(&worker.pidfd);
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", &USER.to_string(), "1"]
    );
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/mountinfo"))
            .unwrap()
            .lines()
            .count(),
        1
    );
}

fn subordinate_ids() {
    let scratch = Scratch::new("subids");
    std::os::unix::fs::chown(scratch.path(), Some(USER), Some(USER)).unwrap();
    let ranges = scratch.path().join("ranges");
    fs::write(&ranges, format!("{USER}:500000:65536\n")).unwrap();
    let accounts = scratch.path().join("passwd");
    let known = fs::read_to_string("/etc/passwd").unwrap();
    fs::write(&accounts, format!("{known}someone:x:{USER}:{USER}::/:/bin/sh\n")).unwrap();
    let with_ranges = |command: &mut Command| {
        let replaced = [
            (accounts.clone(), "/etc/passwd"),
            (ranges.clone(), "/etc/subuid"),
            (ranges.clone(), "/etc/subgid"),
        ];
        let as_root = move || {
            for (source, target) in &replaced {
                mount(
                    Some(source),
                    *target,
                    None::<&str>,
                    MsFlags::MS_BIND,
                    None::<&str>,
                )?;
            }
            Ok(())
        };
        as_user(command, as_root, || Ok(()));
    };
    let (worker, _supervisor) = launcher(&config(scratch.path()), with_ranges).unwrap();
    let pid = pid_of(&worker.pidfd);
    for kind in ["uid", "gid"] {
        let map = fs::read_to_string(format!("/proc/{pid}/{kind}_map")).unwrap();
        let own = USER.to_string();
        let expected = ["0", &own, "1", "1", "500000", "65536"];
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), expected);
    }
    assert_eq!(worker.report.weakened, Vec::<String>::new());
}

/// Makes the child the ordinary user, in a mount namespace of its own that `as_root` changed; then `as_user` has its
/// turn.
#[expect(
    unsafe_code,
    reason = "runs between fork and exec of a process with one thread"
)]
fn as_user(
    command: &mut Command,
    as_root: impl Fn() -> nix::Result<()> + Send + Sync + 'static,
    as_user: impl Fn() -> nix::Result<()> + Send + Sync + 'static,
) {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let become_user = move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_PRIVATE | MsFlags::MS_REC,
            None::<&str>,
        )?;
        as_root()?;
        let (uid, gid) = (Uid::from_raw(USER), Gid::from_raw(USER));
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)?;
        as_user()?;
        Ok(())
    };
    // SAFETY: the process that forks has one thread, so nothing holds a lock in the child.
    unsafe { command.pre_exec(become_user) };
}

fn chosen_maps() {
    let scratch = Scratch::new("maps");
    std::os::unix::fs::chown(scratch.path(), Some(700_000), Some(700_000)).unwrap();
    let range = IdMapRange {
        inside: 0,
        outside: 700_000,
        count: 1000,
    };
    let maps = UserNamespace::Maps {
        uids: vec![range],
        gids: vec![range],
    };
    let session = try_worker(&config(scratch.path()), maps, &[]).unwrap();
    assert_eq!(session.status("Uid"), "700000\t700000\t700000\t700000");
    assert!(session.report.namespaces.iter().any(|name| name == "user"));
    assert_eq!(session.report.weakened, Vec::<String>::new());
    session.must(
        libc::SYS_mkdirat,
        &[libc::AT_FDCWD.into(), "/new".into(), 0o700.into()],
    );
}

/// Puts the child in a user namespace where the limit of further ones is zero.
fn without_user_namespaces(command: &mut Command) {
    let forbid = || {
        nix::sys::prctl::set_dumpable(true)?;
        unshare(CloneFlags::CLONE_NEWUSER)?;
        let same = format!("{USER} {USER} 1");
        let files = [
            ("self/setgroups", "deny"),
            ("self/uid_map", same.as_str()),
            ("self/gid_map", same.as_str()),
            ("sys/user/max_user_namespaces", "0"),
        ];
        for (file, text) in files {
            fs::write(format!("/proc/{file}"), text).map_err(|_| nix::Error::EPERM)?;
        }
        Ok(())
    };
    as_user(command, || Ok(()), forbid);
}

fn no_network() {
    let scratch = Scratch::new("no-network");
    let refused = worker_without_network(&config(scratch.path())).err().unwrap();
    assert!(refused.contains("without a network namespace"), "{refused}");
}

fn no_user_namespaces() {
    let scratch = Scratch::new("no-userns");
    let refused = launcher(&config(scratch.path()), without_user_namespaces)
        .err()
        .unwrap();
    assert!(refused.contains("user.max_user_namespaces"), "{refused}");
}

fn no_user_namespaces_allowed() {
    let scratch = Scratch::new("no-userns-allowed");
    let mut allowed = config(scratch.path());
    allowed.allow_missing = vec![Barrier::UserNamespaces];
    allowed.sandbox = Sandbox::Namespace;
    let (worker, supervisor) = launcher(&allowed, without_user_namespaces).unwrap();
    for report in [worker.report, supervisor.report] {
        assert!(report.namespaces.is_empty());
        assert!(
            report.weakened.iter().any(|line| line.contains("namespaces")),
            "{:?}",
            report.weakened
        );
        assert!(report.landlock_abi > 0 && report.syscalls > 0);
    }
}

fn pid_of(pidfd: &std::os::fd::OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).unwrap();
    info.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .unwrap()
}
