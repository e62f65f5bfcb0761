//! The start: by path or descriptor, as root or as an ordinary user. An error is one line with a
//! code of its own.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use airlockfs_tests::daemon::{Daemon, Failure, Launch, READY, bin_dir};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::program;
use airlockfs_tests::skip::skip;
use airlockfs_tests::tempdir::TempDir;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

fn failure(launch: Launch) -> Failure {
    match launch.try_start().expect("a program") {
        Ok(_) => panic!("the daemon started"),
        Err(failure) => failure,
    }
}

/// One line, which names what is wrong; the exit code.
fn one_line(failure: &Failure, words: &[&str]) -> i32 {
    let lines: Vec<_> = failure.log.iter().filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    for word in words {
        assert!(lines[0].contains(word), "{word:?} in {:?}", lines[0]);
    }
    let code = failure.status.code().expect("an exit code");
    assert_ne!(code, 0);
    code
}

#[test]
fn what_is_wrong_is_one_line_with_a_code_of_its_kind() {
    let home = TempDir::new().expect("a directory");
    let missing = home.join("missing");
    let file = home.join("file");
    fs::write(&file, "").expect("write");
    let used = home.join("used");
    let _listener = UnixListener::bind(&used).expect("bind");

    let no_dir = failure(Launch::airlockfs().share(&missing));
    let no_dir = one_line(&no_dir, &["missing"]);
    let not_a_dir = failure(Launch::airlockfs().share(&file));
    one_line(&not_a_dir, &["file"]);
    let in_use = failure(Launch::airlockfs().socket(&used));
    let in_use = one_line(&in_use, &["used", "in use"]);
    let option = failure(Launch::airlockfs().args(["--no-such-option"]));
    let option = one_line(&option, &["--no-such-option"]);
    let no_socket_dir = failure(Launch::airlockfs().socket(&home.join("no/such/dir/sock")));
    one_line(&no_socket_dir, &["no/such/dir"]);
    assert!(no_dir != option && in_use != option, "{no_dir} {in_use} {option}");
    // Somebody's socket is still theirs.
    assert!(std::os::unix::net::UnixStream::connect(&used).is_ok());
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let long = "t".repeat(37);
    for (option, value) in [
        ("--tag", long.as_str()),
        ("--tag", ""),
        ("--num-request-queues", "0"),
        ("--num-request-queues", "1000"),
        ("--num-request-queues", "many"),
        ("--cache", "sometimes"),
        ("--sandbox", "maybe"),
        ("--seccomp", "off"),
        ("--rlimit-nofile", "-1"),
        ("--rlimit-nofile", "10"),
    ] {
        let failed = failure(Launch::airlockfs().args([format!("{option}={value}")]));
        one_line(&failed, &[option]);
    }
}

#[test]
fn a_limit_of_descriptors_that_is_too_low_is_told() {
    one_line(&failure(Launch::airlockfs().nofile(40)), &["ulimit"]);
}

#[test]
fn a_security_option_given_twice_is_refused() {
    for twice in [
        ["--sandbox=namespace", "--sandbox=none"],
        ["--seccomp=kill", "--seccomp=none"],
        ["--shared-dir=/", "--tag=x"],
    ] {
        one_line(&failure(Launch::airlockfs().args(twice)), &[]);
    }
}

#[test]
fn a_worker_that_is_not_there_is_told() {
    let home = TempDir::new().expect("a directory");
    let daemon = home.join("airlockfsd");
    program::copy(&bin_dir().expect("binaries").join("airlockfsd"), &daemon);
    one_line(&failure(Launch::program(&daemon)), &["airlockfs-worker"]);
}

#[test]
fn a_socket_left_behind_is_replaced_and_anything_else_is_kept() {
    let home = TempDir::new().expect("a directory");
    let socket = home.join("socket");
    drop(UnixListener::bind(&socket).expect("bind"));
    let daemon = Launch::airlockfs().socket(&socket).start();
    daemon.client().getattr(ROOT).expect("GETATTR");
    drop(daemon);

    let file = home.join("precious");
    fs::write(&file, "data").expect("write");
    one_line(&failure(Launch::airlockfs().socket(&file)), &["precious"]);
    assert_eq!(fs::read_to_string(&file).expect("read"), "data");
}

#[test]
fn a_second_daemon_does_not_take_the_socket() {
    let first = Daemon::start(["--tag", "first"]);
    one_line(&failure(Launch::airlockfs().socket(first.socket())), &["in use"]);
    first.client().getattr(ROOT).expect("GETATTR");
}

#[test]
fn a_listening_socket_is_handed_down() {
    let daemon = Launch::airlockfs().by_fd().start();
    daemon.client().getattr(ROOT).expect("GETATTR");
}

/// What is opened first gets their numbers.
#[test]
fn a_launcher_may_close_the_standard_streams() {
    let home = TempDir::new().expect("a directory");
    let launcher = home.join("launcher");
    let daemon = bin_dir().expect("a place for binaries").join("airlockfsd");
    program::script(&launcher, &format!("exec {} \"$@\" <&- >&-", daemon.display()));
    let daemon = Launch::program(&launcher).start();
    // It ends when its VMM does.
    let client = daemon.client();
    for number in 0..=1 {
        let stream = format!("/proc/{}/fd/{number}", daemon.supervisor().pid());
        assert_eq!(
            fs::read_link(stream).expect("an open stream"),
            Path::new("/dev/null")
        );
    }
    client.getattr(ROOT).expect("GETATTR");
}

#[test]
fn launchers_see_the_line_they_wait_for_at_any_log_level() {
    for level in ["error", "off", "debug"] {
        let daemon = Daemon::start(["--log-level", level]);
        assert!(daemon.log().iter().any(|line| line.contains(READY)));
    }
}

#[test]
fn the_socket_is_the_users_alone() {
    let daemon = Launch::airlockfs().umask(0).start();
    let meta = fs::symlink_metadata(daemon.socket()).expect("stat");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.mode() & 0o007, 0, "mode {:o}", meta.mode());
}

#[test]
fn the_tag_fills_its_field() {
    let tag = "t".repeat(36);
    let daemon = Daemon::start(["--tag", &tag]);
    let fs = daemon.connect();
    assert_eq!(fs.session().vmm().config().expect("config").tag, tag.as_bytes());
}

#[test]
fn there_are_eight_request_queues_unless_told() {
    let daemon = Daemon::start(["--tag", "queues"]);
    let fs = daemon.connect();
    let space = fs.session().vmm().config().expect("config").clone();
    assert_eq!(space.num_request_queues, 8);
    assert_eq!(fs.session().vmm().request_queues(), 8);
}

#[test]
fn an_ordinary_user_starts_it() {
    // The binaries, where that user can read them.
    let home = TempDir::new().expect("a directory");
    for name in ["airlockfsd", "airlockfs-worker"] {
        program::copy(&bin_dir().expect("binaries").join(name), &home.join(name));
    }
    let daemon = Launch::program(&home.join("airlockfsd")).user(1000).start();
    let client = daemon.client();
    let (entry, file) = client.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    client.write(file, 0, b"text").expect("WRITE");
    let meta = fs::metadata(daemon.host("file")).expect("stat");
    // The guest's root is the user, outside.
    assert_eq!((meta.uid(), meta.gid()), (1000, 1000));
    assert_eq!((entry.attr.uid, entry.attr.gid), (0, 0));
    client.unlink(ROOT, "file").expect("UNLINK");
}

/// On which CPUs the pair's threads may run, each list once.
fn cpus(daemon: &Daemon) -> Vec<String> {
    let mut lists = Vec::new();
    for pid in [
        daemon.supervisor().pid(),
        daemon.worker().expect("a worker").pid(),
    ] {
        for task in fs::read_dir(format!("/proc/{pid}/task")).expect("tasks") {
            let status = fs::read_to_string(task.expect("a task").path().join("status")).expect("status");
            let list = status
                .lines()
                .find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
            lists.push(list.expect("a list").to_owned());
        }
    }
    lists.sort_unstable();
    lists.dedup();
    lists
}

#[test]
fn it_runs_on_the_cpus_that_its_launcher_may_use() {
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    let mut one = CpuSet::new();
    let last = (0..CpuSet::count()).rfind(|cpu| allowed.is_set(*cpu) == Ok(true));
    let last = last.expect("a CPU");
    one.set(last).expect("a CPU");
    sched_setaffinity(Pid::from_raw(0), &one).expect("affinity");
    let daemon = Daemon::start(["--tag", "cpus"]);
    assert_eq!(cpus(&daemon), [last.to_string()]);
}

/// A cgroup with CPUs of its own (cgroup v1 or v2, cpuset(7)), removed in the end.
struct Cpuset {
    directory: PathBuf,
    /// The file that takes the thread or process in it.
    members: &'static str,
}

impl Cpuset {
    /// With one CPU; or why this host has none.
    fn new() -> Result<(Self, String, String), String> {
        let (v1, v2) = (Path::new("/sys/fs/cgroup/cpuset"), Path::new("/sys/fs/cgroup"));
        let (root, members) = match (
            v1.join("cpuset.cpus").is_file(),
            v2.join("cgroup.controllers").is_file(),
        ) {
            (true, _) => (v1, "tasks"),
            (false, true) => (v2, "cgroup.procs"),
            (false, false) => return Err("no cgroups are mounted".to_owned()),
        };
        if members == "cgroup.procs" {
            fs::write(root.join("cgroup.subtree_control"), "+cpuset")
                .map_err(|error| format!("this host's cgroups give no cpusets: {error}"))?;
        }
        let directory = root.join(format!("airlockfs-test-{}", std::process::id()));
        fs::create_dir(&directory).map_err(|error| format!("no cgroup may be made here: {error}"))?;
        let set = Self { directory, members };
        let all = CpuSet::count();
        let allowed = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
        let cpus: Vec<String> = (0..all)
            .filter(|cpu| allowed.is_set(*cpu) == Ok(true))
            .map(|cpu| cpu.to_string())
            .collect();
        if members == "tasks" {
            let mems = fs::read_to_string(root.join("cpuset.mems")).expect("mems");
            set.write("cpuset.mems", &mems);
        }
        let (first, every) = (cpus[0].clone(), cpus.join(","));
        set.write("cpuset.cpus", &first);
        Ok((set, first, every))
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.directory.join(name), text).expect("write");
    }

    /// The CPUs as the kernel writes them.
    fn cpus(&self) -> String {
        let text = fs::read_to_string(self.directory.join("cpuset.cpus"));
        text.expect("CPUs").trim().to_owned()
    }
}

impl Drop for Cpuset {
    fn drop(&mut self) {
        // Zombies leave it in their own time.
        while let Err(error) = fs::remove_dir(&self.directory) {
            assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
            std::thread::yield_now();
        }
    }
}

#[test]
fn cpus_that_its_cgroup_is_given_later_are_used() {
    let (set, first, every) = match Cpuset::new() {
        Ok(set) => set,
        Err(why) => return skip("cpus_that_its_cgroup_is_given_later_are_used", &why),
    };
    // The daemon begins in it.
    let launcher = TempDir::new().expect("a directory");
    let program = launcher.join("airlockfsd");
    let daemon = bin_dir().expect("binaries").join("airlockfsd");
    let worker = daemon.with_file_name("airlockfs-worker");
    std::os::unix::fs::symlink(worker, launcher.join("airlockfs-worker")).expect("a link");
    let members = set.directory.join(set.members);
    let script = format!(
        "echo $$ > {} && exec {} \"$@\"",
        members.display(),
        daemon.display()
    );
    program::script(&program, &script);
    let daemon = Launch::program(&program).start();
    assert_eq!(cpus(&daemon), [first]);
    set.write("cpuset.cpus", &every);
    assert_eq!(cpus(&daemon), [set.cpus()]);
    drop(daemon);
}
