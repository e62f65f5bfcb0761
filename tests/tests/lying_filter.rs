//! A launcher whose filter answers in the kernel's place (a container's profile that returns error
//! 0). A call that "succeeds" then gives nothing up. The daemon detects that and does not serve.

use airlockfs_tests::daemon::Launch;
use libc::*;
use nix::sched::{CloneFlags, unshare};

/// A group to be dropped.
const ADM: u32 = 4;

/// Starts it where these calls do nothing. It ends with a code of its own and a line that says what is wrong.
fn refused(name: &str, calls: &[i64], prepare: impl Fn(Launch) -> Launch) -> String {
    let launch = prepare(Launch::airlockfs()).answered(calls);
    let failure = match launch.try_start().expect("a program") {
        Ok(daemon) => panic!("{name} does nothing, and it serves:\n{}", daemon.log().join("\n")),
        Err(failure) => failure,
    };
    println!("{name}: {} {:?}", failure.status, failure.log);
    let code = failure.status.code();
    assert!(
        code.is_some_and(|code| code != 0),
        "{name}: {}, {:?}",
        failure.status,
        failure.log
    );
    let log = failure.log.join("\n");
    assert!(log.contains("airlockfsd: "), "{name}: {log:?}");
    assert!(
        !log.contains("panicked") && !log.contains("fatal runtime"),
        "{name}: {log}"
    );
    log
}

macro_rules! calls {
    ($($name:ident)*) => { &[$((stringify!($name), $name)),*] };
}

/// What root's pair calls to give something up, in either process.
const GIVES_UP: &[(&str, i64)] = calls! {
    SYS_setresuid SYS_setresgid SYS_setgroups SYS_capset SYS_prctl SYS_prlimit64 SYS_umask SYS_close_range SYS_dup2
    SYS_fcntl SYS_unshare SYS_setns SYS_mount SYS_umount2 SYS_pivot_root SYS_mount_setattr SYS_move_mount SYS_open_tree
    SYS_fsopen SYS_fsconfig SYS_fsmount SYS_fchdir SYS_sethostname SYS_setdomainname
    SYS_landlock_create_ruleset
    SYS_landlock_restrict_self SYS_seccomp SYS_memfd_create
};

#[test]
fn nothing_is_served_where_a_call_that_gives_something_up_does_nothing() {
    // Names to forget: this host may have none.
    unshare(CloneFlags::CLONE_NEWUTS).expect("a UTS namespace");
    for file in ["hostname", "domainname"] {
        std::fs::write(format!("/proc/sys/kernel/{file}"), "told").expect("a name");
    }
    for (name, number) in GIVES_UP {
        refused(name, &[*number], |launch| launch.group(ADM));
    }
}

/// Also where what would tell it is silenced, too.
#[test]
fn nothing_is_served_where_several_do_nothing() {
    for (name, calls) in [
        ("ids", &[SYS_setresuid, SYS_setresgid, SYS_setgroups][..]),
        ("privileges", &[SYS_capset, SYS_prctl, SYS_seccomp]),
        ("place", &[SYS_unshare, SYS_mount, SYS_umount2, SYS_pivot_root]),
        ("barriers", &[SYS_seccomp, SYS_landlock_restrict_self]),
        ("descriptors", &[SYS_close_range, SYS_fcntl]),
    ] {
        refused(name, calls, |launch| launch);
    }
}

#[test]
fn nothing_is_served_by_an_ordinary_users_pair_either() {
    for (name, number) in calls! {
        SYS_capset SYS_prlimit64 SYS_umask SYS_close_range SYS_unshare SYS_mount SYS_umount2
        SYS_pivot_root SYS_mount_setattr SYS_landlock_restrict_self SYS_seccomp
    } {
        refused(name, &[*number], |launch| launch.user(1000));
    }
}

#[test]
fn nothing_is_served_with_less_of_a_sandbox_either() {
    for (name, number) in calls! {
        SYS_setresuid SYS_setgroups SYS_capset SYS_prctl SYS_landlock_restrict_self SYS_seccomp
    } {
        refused(name, &[*number], |launch| {
            launch.group(ADM).args(["--sandbox=none"])
        });
    }
    let log = refused("SYS_chroot", &[SYS_chroot], |launch| {
        launch.args(["--sandbox=chroot"])
    });
    assert!(log.contains("chroot"), "{log}");
}

/// The line names the call and what may be to blame.
#[test]
fn the_line_says_which_call_has_no_effect() {
    for (call, word) in [
        (SYS_landlock_restrict_self, "landlock_restrict_self"),
        (SYS_unshare, "unshare"),
        (SYS_close_range, "close_range"),
        (SYS_setresuid, "the user ids"),
        (SYS_seccomp, "the system call filter"),
    ] {
        let log = refused(word, &[call], |launch| launch);
        assert!(log.contains(word) && log.contains("filter"), "{log}");
    }
}
