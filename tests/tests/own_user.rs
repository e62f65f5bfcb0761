//! The supervisor's user, if root starts it: no other process has it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use airlockfs_tests::daemon::{Daemon, Failure, Launch, bin_dir};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::tempdir::TempDir;
use nix::sys::resource::Resource;
use serde_json::Value;

/// The ids of a kind, all the same.
fn id(daemon: &Daemon, kind: &str) -> u32 {
    let text = daemon.supervisor().status(kind).expect("its ids");
    let ids: BTreeSet<&str> = text.split_whitespace().collect();
    assert_eq!(ids.len(), 1, "{kind}: {text}");
    ids.first().expect("one").parse().expect("a number")
}

fn uid(daemon: &Daemon) -> u32 {
    let uid = id(daemon, "Uid");
    assert_eq!(uid, id(daemon, "Gid"));
    assert_eq!(daemon.supervisor().status("Groups").expect("groups"), "");
    uid
}

fn one_line(launch: Launch) -> String {
    let failure: Failure = launch.try_start().expect("a program").expect_err("it starts");
    let lines: Vec<_> = failure.log.iter().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    lines[0].clone()
}

/// Whether a process of this user may send a signal to the daemon.
fn may_stop(user: u32, daemon: &Daemon) -> bool {
    let pid = daemon.supervisor().pid().to_string();
    let mut kill = Command::new("kill");
    kill.args(["-STOP", &pid])
        .uid(user)
        .gid(user)
        .stderr(Stdio::null());
    kill.status().expect("kill").success()
}

#[test]
fn no_other_user_may_signal_it_and_no_other_daemon_has_its_user() {
    let daemons: Vec<Daemon> = (0..3).map(|_| Daemon::start(["--tag", "own"])).collect();
    let uids: BTreeSet<u32> = daemons.iter().map(uid).collect();
    for daemon in &daemons {
        for other in uids
            .iter()
            .chain(&[65_534])
            .filter(|other| **other != uid(daemon))
        {
            assert!(
                !may_stop(*other, daemon),
                "user {other} stopped user {}'s",
                uid(daemon)
            );
        }
        daemon.client().getattr(ROOT).expect("GETATTR");
    }
    assert_eq!(uids.len(), daemons.len());
    assert!(uids.iter().all(|uid| (61_184..65_520).contains(uid)), "{uids:?}");
    let said = format!("is confined: uid {0}, gid {0}", uid(&daemons[0]));
    assert!(daemons[0].wait_for_log(&said));
}

/// The kernel counts threads by user: those of one guest's daemon are not another's.
#[test]
fn the_limit_of_a_users_processes_is_not_shared() {
    let start = || {
        Launch::airlockfs()
            .args(["--thread-pool-size=2", "--num-request-queues=1"])
            .limit(Resource::RLIMIT_NPROC, 9)
            .start()
    };
    let daemons = [start(), start(), start()];
    for daemon in &daemons {
        daemon.client().getattr(ROOT).expect("GETATTR");
    }
}

/// The file that stands for a user id, as systemd's for dynamic users: whoever has the id has it locked.
#[test]
fn its_user_is_locked_as_long_as_it_lives_by_a_file_that_it_can_only_read() {
    let mut daemon = Daemon::start(["--tag", "lock"]);
    let own = uid(&daemon);
    let file = ["/run/systemd/dynamic-uid", "/run/airlockfs"]
        .iter()
        .map(|directory| Path::new(directory).join(own.to_string()))
        .find(|path| path.exists())
        .expect("its file");
    let free = || {
        let file = File::open(&file).expect("root may");
        // SAFETY: numbers only.
        #[expect(unsafe_code, reason = "flock(2)")]
        let locked = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
        locked == 0
    };
    assert!(!free());
    let found = fs::metadata(&file).expect("its file");
    assert_eq!(found.len(), 0);
    let held = daemon.supervisor().descriptors().expect("its descriptors");
    let is_lock = |number: i32| {
        let held = fs::metadata(format!("/proc/{}/fd/{number}", daemon.supervisor().pid()));
        held.is_ok_and(|held| (held.dev(), held.ino()) == (found.dev(), found.ino()))
    };
    let (number, _) = held
        .iter()
        .find(|(number, _)| is_lock(*number))
        .expect("the lock");
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/{number}", daemon.supervisor().pid()));
    let info = info.expect("fdinfo");
    let flags = info
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .expect("flags");
    let flags = i32::from_str_radix(flags.trim(), 8).expect("a number");
    assert_eq!(flags & libc::O_ACCMODE, libc::O_RDONLY);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(free());
}

#[test]
fn a_range_gives_each_id_once_and_names_are_not_taken() {
    let launch = || Launch::airlockfs().args(["--supervisor-uid=70411:1"]);
    let mut first = launch().start();
    assert_eq!(uid(&first), 70_411);
    let line = one_line(launch());
    assert!(line.contains("70411:1") && line.contains("in use"), "{line}");
    assert_eq!(first.terminate().code(), Some(0));
    assert_eq!(uid(&launch().start()), 70_411);
    // `daemon` everywhere.
    let line = one_line(Launch::airlockfs().args(["--supervisor-uid=1:1"]));
    assert!(line.contains("--supervisor-uid 1:1"), "{line}");
    for wrong in [
        "0",
        "0:5",
        "5:0",
        "4294967295",
        "4294967290:10",
        "-1",
        "nobody",
        "1:2:3",
    ] {
        let line = one_line(Launch::airlockfs().args([format!("--supervisor-uid={wrong}")]));
        assert!(line.contains("--supervisor-uid"), "{wrong}: {line}");
    }
}

#[test]
fn an_ordinary_user_stays_who_he_is() {
    let home = TempDir::new().expect("a directory");
    // The binaries, where that user can read them.
    for name in ["airlockfsd", "airlockfs-worker"] {
        fs::copy(bin_dir().expect("binaries").join(name), home.join(name)).expect("copy");
    }
    let launch = || Launch::program(&home.join("airlockfsd")).user(1000);
    assert_eq!(id(&launch().start(), "Uid"), 1000);
    let line = one_line(launch().args(["--supervisor-uid=61184:4336"]));
    assert!(line.contains("root's to give"), "{line}");
}

/// The outcome of audit's point about its user, and audit's exit code.
fn audited(daemon: &Daemon) -> (String, i32) {
    let output = Command::new(bin_dir().expect("binaries").join("airlockfsd"))
        .args(["audit", "--format=json", &daemon.supervisor().pid().to_string()])
        .output()
        .expect("airlockfsd");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let mut points = report["points"].as_array().expect("points").iter();
    let point = points
        .find(|point| point["point"] == "own user")
        .expect("the point");
    println!("{point}");
    let outcome = point["outcome"].as_str().expect("an outcome");
    (outcome.to_owned(), output.status.code().expect("a code"))
}

struct Neighbour(Child);

impl Neighbour {
    fn of(user: u32) -> Self {
        let mut sleep = Command::new("sleep");
        Self(sleep.arg("600").uid(user).gid(user).spawn().expect("sleep"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn audit_finds_another_process_of_its_user() {
    let daemon = Daemon::start(["--tag", "audited"]);
    assert_eq!(audited(&daemon), ("ok".to_owned(), 0));
    let neighbour = Neighbour::of(uid(&daemon));
    assert_eq!(audited(&daemon), ("failed".to_owned(), 2));
    drop(neighbour);
    assert_eq!(audited(&daemon), ("ok".to_owned(), 0));

    // One that was asked for may be somebody's.
    let named = || Daemon::start(["--supervisor-uid=70412"]);
    let (one, other) = (named(), named());
    assert_eq!((uid(&one), uid(&other)), (70_412, 70_412));
    assert_eq!(audited(&one), ("weakened".to_owned(), 1));
    drop(other);
    assert_eq!(audited(&one), ("ok".to_owned(), 0));
}
