//! `airlockfsd audit`: it confirms what holds of a running pair, and names what an option weakened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use airlockfs_tests::daemon::{Daemon, Launch, READY, bin_dir};
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::{ROOT, attr_flags};
use airlockfs_tests::mount::Mount;
use airlockfs_tests::procfs::Process;
use airlockfs_tests::program;
use airlockfs_tests::tempdir::TempDir;
use serde_json::Value;

fn audit(pid: i32, args: &[&str]) -> Output {
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let output = Command::new(program)
        .arg("audit")
        .arg(pid.to_string())
        .args(args)
        .output();
    output.expect("airlockfsd")
}

/// By process and name of a point: its outcome and the option that weakened it.
type Points = BTreeMap<(String, String), (String, String)>;

/// The exit code, and the points.
fn outcomes(pid: i32) -> (i32, Points) {
    let output = audit(pid, &["--format=json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let points = report["points"].as_array().expect("a list").iter();
    let points = points.map(|point| {
        let key = (text(&point["process"]), text(&point["point"]));
        println!("{point}");
        (key, (text(&point["outcome"]), text(&point["option"])))
    });
    let code = output.status.code().expect("an exit code");
    assert_eq!(report["holds"], code == 0);
    (code, points.collect())
}

fn all_hold(daemon: &Daemon) {
    let (code, points) = outcomes(daemon.supervisor().pid());
    for (point, (outcome, _)) in &points {
        assert_eq!(outcome, "ok", "{point:?}");
    }
    assert_eq!(code, 0);
    for process in ["supervisor", "worker"] {
        for point in [
            "seccomp",
            "no_new_privs",
            "capabilities",
            "bounding set",
            "groups",
            "id maps",
            "limits",
            "namespaces",
            "root",
            "descriptors",
            "log",
            "report",
            "profile",
            "Landlock",
            "program",
            "mapped",
            "tracer",
            "filter",
            "ids",
            "unchanged",
        ] {
            assert!(
                points.contains_key(&(process.to_owned(), point.to_owned())),
                "{process}: {point}"
            );
        }
    }
}

#[test]
fn all_holds_by_default_while_a_guest_works() {
    for options in [
        &[][..],
        &["--readonly"],
        &["--xattr", "--allow-device-nodes", "--no-donate"],
        &["--uid=5", "--gid=5", "--mode=755"],
        &[
            "--posix-lock",
            "--flock",
            "--posix-acl",
            "--security-label",
            "--killpriv-v2",
        ],
        &[
            "--translate-uid=map:0:1000:10",
            "--default-uid=5",
            "--writeback",
            "--allow-direct-io",
        ],
    ] {
        let daemon = Daemon::start(options);
        std::fs::create_dir(daemon.host("directory")).expect("mkdir");
        std::fs::write(daemon.host("file"), "data").expect("write");
        all_hold(&daemon);
        let client = daemon.client();
        let file = client.lookup(ROOT, "file").expect("LOOKUP").nodeid;
        client.lookup(ROOT, "directory").expect("LOOKUP");
        client.open(file, libc::O_RDONLY).expect("OPEN");
        all_hold(&daemon);
    }
}

#[test]
fn all_holds_for_several_shares_and_another_directory_is_found_out() {
    let home = TempDir::new().expect("a directory");
    let (one, two) = (home.join("one"), home.join("two"));
    std::fs::create_dir(&one).expect("mkdir");
    std::fs::write(&two, "data").expect("write");
    let daemon = Launch::airlockfs()
        .by_name()
        .args([
            format!("--share=a name={}", one.display()),
            format!("--share-ro=file={}", two.display()),
        ])
        .start();
    all_hold(&daemon);
    let client = daemon.client();
    let file = client.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    client.lookup(ROOT, "a name").expect("LOOKUP");
    client.open(file, libc::O_RDONLY).expect("OPEN");
    all_hold(&daemon);

    std::fs::rename(&one, home.join("moved")).expect("rename");
    std::fs::create_dir(&one).expect("mkdir");
    let (code, points) = outcomes(daemon.supervisor().pid());
    let root = &points[&("worker".to_owned(), "root".to_owned())];
    assert_eq!((code, root.0.as_str()), (2, "failed"));
}

#[test]
fn all_holds_for_an_ordinary_user() {
    let daemon = Launch::airlockfs().user(1000).start();
    all_hold(&daemon);
}

/// Root on the host looks by the host's process ids.
#[test]
fn all_holds_for_a_pair_in_another_pid_namespace() {
    let home = TempDir::new().expect("a directory");
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let mut unshare = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(program)
        .arg("--shared-dir")
        .arg(&*home)
        .arg("--socket-path")
        .arg(home.join("socket"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare");
    let log = BufReader::new(unshare.stderr.take().expect("a pipe"));
    let ready = log
        .lines()
        .map_while(Result::ok)
        .find(|line| line.contains(READY));
    assert!(ready.is_some());
    let children = format!("/proc/{0}/task/{0}/children", unshare.id());
    let children = std::fs::read_to_string(children).expect("children");
    let pid = children.trim().parse().expect("one child");
    let supervisor = Process::open(pid).expect("a process");
    let (code, points) = outcomes(pid);
    unshare.kill().expect("kill");
    unshare.wait().expect("wait");
    assert!(supervisor.ended_within(10_000));
    for (point, (outcome, _)) in &points {
        assert_eq!(outcome, "ok", "{point:?}");
    }
    assert_eq!(code, 0);
}

/// Kata's Go shim: its command line, in the sandbox's mount and network namespaces, with the system's log; volumes are
/// bound beneath the shared directory once the daemon runs, a guest works, and root on the host looks at it from outside.
#[test]
fn all_holds_as_kata_starts_it() {
    let home = TempDir::new().expect("a directory");
    let shared = home.join("shared");
    let dev = home.join("dev");
    for directory in [&shared, &dev, &shared.join("volume"), &home.join("source")] {
        std::fs::create_dir(directory).expect("mkdir");
    }
    std::fs::write(home.join("source/file"), "data").expect("write");
    let _shared = Mount::shared(&shared).expect("a shared mount");

    // A /dev with a system's log, which is this test; the host's own may have none.
    let log = UnixDatagram::bind(dev.join("log")).expect("bind");
    log.set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a time limit");
    let socket = home.join("vhost-fs.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let mut daemon = Command::new("unshare")
        .args(["--mount", "--net", "--propagation", "slave", "sh", "-ec"])
        .arg("cp -a /dev/null \"$0\"; mount --bind \"$0\" /dev; exec \"$@\" 3<&0 </dev/null")
        .args([&dev, &program])
        .args(["--syslog", "--cache=auto"])
        .arg(format!("--shared-dir={}", shared.display()))
        .args(["--fd=3", "--thread-pool-size=1", "--announce-submounts"])
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("unshare");
    let mut line = [0; 4096];
    while let length = log.recv(&mut line).expect("a line in the log")
        && !String::from_utf8_lossy(&line[..length]).contains(READY)
    {}

    let volume = Mount::bind(&home.join("source"), &shared.join("volume")).expect("bind");
    let client = Client::connect(&socket).expect("a client");
    client.init().expect("INIT");
    let directory = client.lookup(ROOT, "volume").expect("LOOKUP");
    assert!(directory.attr.flags & attr_flags::SUBMOUNT != 0);
    let file = client.lookup(directory.nodeid, "file").expect("LOOKUP").nodeid;
    client.open(file, libc::O_RDWR).expect("OPEN");

    let pid = i32::try_from(daemon.id()).expect("a pid");
    let (code, points) = outcomes(pid);
    drop(volume);
    let pair = Process::open(pid).and_then(Process::tree).expect("processes");
    // As the shim ends it.
    daemon.kill().expect("kill");
    daemon.wait().expect("wait");
    for (point, (outcome, _)) in &points {
        assert_eq!(outcome, "ok", "{point:?}");
    }
    assert_eq!(code, 0);
    assert!(pair.iter().all(|process| process.ended_within(10_000)));
}

/// What each process could make its own, and what it had to leave as the launcher made it.
#[test]
fn a_log_that_the_filter_alone_keeps_from_more_than_lines_is_named() {
    const USER: u32 = 1000;
    let home = TempDir::new().expect("a directory");
    let (ours, socket) = std::os::unix::net::UnixStream::pair().expect("sockets");
    let file = |reads| {
        let mut options = File::options();
        options.read(reads).write(true).create(true);
        OwnedFd::from(options.open(home.join("log")).expect("a file"))
    };
    for (stderr, user, expected) in [
        (file(true), None, ("ok", "")),
        (
            file(false),
            Some(USER),
            ("weakened", "stderr that is a file which its user may not open"),
        ),
        (
            OwnedFd::from(socket),
            None,
            ("weakened", "stderr that is a socket"),
        ),
    ] {
        let launch = Launch::airlockfs().by_fd().stderr(stderr);
        let launch = match user {
            Some(user) => launch.user(user),
            None => launch,
        };
        let daemon = launch.spawn().expect("a daemon");
        let _guest = daemon.client();
        let (code, points) = outcomes(daemon.supervisor().pid());
        assert_eq!(code, i32::from(expected.0 == "weakened"));
        for process in ["supervisor", "worker"] {
            let (outcome, option) = &points[&(process.to_owned(), "log".to_owned())];
            assert_eq!((outcome.as_str(), option.as_str()), expected, "{process}");
        }
    }
    drop(ours);
}

#[test]
fn what_options_weaken_is_named() {
    let daemon = Daemon::start(["--seccomp", "none", "--sandbox", "none"]);
    let (code, points) = outcomes(daemon.supervisor().pid());
    assert_eq!(code, 1);
    let outcome = |process: &str, point: &str| {
        let (outcome, option) = &points[&(process.to_owned(), point.to_owned())];
        (outcome.clone(), option.clone())
    };
    let weakened = |option: &str| ("weakened".to_owned(), option.to_owned());
    for process in ["supervisor", "worker"] {
        assert_eq!(outcome(process, "seccomp"), weakened("--seccomp none"));
        assert_eq!(outcome(process, "namespaces"), weakened("--sandbox none"));
        assert_eq!(outcome(process, "root"), weakened("--sandbox none"));
        // They weaken what they name and nothing else.
        assert_eq!(outcome(process, "capabilities").0, "ok");
        assert_eq!(outcome(process, "no_new_privs").0, "ok");
        assert_eq!(outcome(process, "descriptors").0, "ok");
    }
    let text = audit(daemon.supervisor().pid(), &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("WEAKENED by --seccomp none"), "{text}");
}

#[test]
fn the_mildest_weakening_is_named_too() {
    let daemon = Daemon::start(["--sandbox=chroot", "--seccomp=log"]);
    std::fs::write(daemon.host("file"), "data").expect("write");
    let client = daemon.client();
    let file = client.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    client.open(file, libc::O_RDWR).expect("OPEN");
    let (code, points) = outcomes(daemon.supervisor().pid());
    assert_eq!(code, 1);
    let options: BTreeSet<String> = points.values().map(|(_, option)| option.clone()).collect();
    assert_eq!(
        options.iter().map(String::as_str).collect::<Vec<_>>(),
        ["", "--sandbox chroot", "--seccomp log"]
    );
}

/// As with another version of the programs: what runs is not what the command line means to this one. Here the command line
/// is another one than it was, as only root outside can make it.
#[test]
fn a_pair_that_runs_another_profile_fails() {
    use std::os::unix::fs::FileExt;
    let daemon = Daemon::start(["--xattr"]);
    all_hold(&daemon);
    let pid = daemon.supervisor().pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    // arg_start is field 48 of proc_pid_stat(5), the state field 3.
    let start: u64 = fields
        .split_whitespace()
        .nth(45)
        .expect("a field")
        .parse()
        .expect("an address");
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("cmdline");
    let option = b"\0--xattr\0";
    let at = line
        .windows(option.len())
        .position(|window| window == option)
        .expect("the option");
    let memory = std::fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/mem"));
    let memory = memory.expect("its memory");
    memory
        .write_all_at(b"--flock", start + at as u64 + 1)
        .expect("its command line");
    let (code, points) = outcomes(pid);
    assert_eq!(code, 2);
    let outcome = |process: &str| points[&(process.to_owned(), "profile".to_owned())].0.clone();
    assert_eq!(
        (outcome("supervisor").as_str(), outcome("worker").as_str()),
        ("ok", "failed")
    );
    let text = audit(pid, &[]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("NOT the one that its command line means to this version; + call "),
        "{text}"
    );
    assert!(
        text.contains("; - call flock ") || text.contains(" more"),
        "{text}"
    );
}

/// The programs' names and nothing of their confinement: two shells.
#[test]
fn an_unconfined_pair_fails() {
    let home = TempDir::new().expect("a directory");
    for name in ["airlockfsd", "airlockfs-worker"] {
        program::copy(Path::new("/bin/sh"), &home.join(name));
    }
    let mut supervisor = Command::new(home.join("airlockfsd"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(
            File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .expect("/dev/null"),
        )
        .spawn()
        .expect("a shell");
    let mut stdin = supervisor.stdin.take().expect("a pipe");
    let worker = home.join("airlockfs-worker");
    writeln!(stdin, "{} -c 'echo started; read line'", worker.display()).expect("write");
    let mut stdout = BufReader::new(supervisor.stdout.take().expect("a pipe"));
    let mut line = String::new();
    stdout.read_line(&mut line).expect("read");
    assert_eq!(line, "started\n");

    let (code, points) = outcomes(i32::try_from(supervisor.id()).expect("a pid"));
    drop(stdin);
    supervisor.wait().expect("wait");
    assert_eq!(code, 2);
    for process in ["supervisor", "worker"] {
        for point in [
            "seccomp",
            "no_new_privs",
            "limits",
            "namespaces",
            "root",
            "descriptors",
            "log",
        ] {
            let (outcome, _) = &points[&(process.to_owned(), point.to_owned())];
            assert_eq!(outcome, "failed", "{process}: {point}");
        }
    }
}

#[test]
fn a_process_that_is_no_pair_is_refused() {
    let own = i32::try_from(std::process::id()).expect("a pid");
    let output = audit(own, &[]);
    assert_eq!(output.status.code(), Some(66));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("not airlockfsd"),
        "{output:?}"
    );
}
