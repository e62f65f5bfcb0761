//! `airlockfsd audit` goes by what the kernel says. A pair that only looks like ours does not pass,
//! nor does one that somebody controls. The audit does not hang, obey or end anything.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch, bin_dir};
use airlockfs_tests::deny::Lies;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::program;
use airlockfs_tests::tempdir::TempDir;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;

fn audit<S: AsRef<std::ffi::OsStr>>(pid: u32, args: impl IntoIterator<Item = S>) -> Output {
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let output = Command::new(program)
        .arg("audit")
        .arg(pid.to_string())
        .args(args)
        .output();
    output.expect("airlockfsd")
}

/// By process and name of a point: its outcome and what was found.
type Points = BTreeMap<(String, String), (String, String)>;

/// The exit code, and the points.
fn outcomes<S: AsRef<std::ffi::OsStr>>(pid: u32, args: impl IntoIterator<Item = S>) -> (i32, Points) {
    let args: Vec<_> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
    let output = audit(pid, args.into_iter().chain(["--format=json".into()]));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let points = report["points"].as_array().expect("a list").iter();
    let points = points.map(|point| {
        println!("{point}");
        let key = (text(&point["process"]), text(&point["point"]));
        (key, (text(&point["outcome"]), text(&point["found"])))
    });
    (output.status.code().expect("an exit code"), points.collect())
}

fn point<'a>(points: &'a Points, process: &str, name: &str) -> (&'a str, &'a str) {
    let key = (process.to_owned(), name.to_owned());
    let (outcome, found) = points.get(&key).unwrap_or_else(|| panic!("no point {key:?}"));
    (outcome, found)
}

fn pid(daemon: &Daemon) -> u32 {
    daemon.supervisor().pid().cast_unsigned()
}

/// All is as it should be but these points, which failed.
fn fails_only(points: &Points, failed: &[(&str, &str)]) {
    for ((process, name), (outcome, found)) in points {
        let expected = match failed.contains(&(process, name)) {
            true => "failed",
            false => "ok",
        };
        assert_eq!(outcome, expected, "{process} {name}: {found}");
    }
    for (process, name) in failed {
        point(points, process, name);
    }
}

/// Two shells by our names, beneath a filter that allows everything, made in a way of the test's.
struct Fakes {
    home: TempDir,
    supervisor: Child,
}

impl Fakes {
    fn start(prepare: impl FnOnce(&Path, &mut Command)) -> Self {
        let home = TempDir::new().expect("a directory");
        fs::set_permissions(&*home, fs::Permissions::from_mode(0o755)).expect("chmod");
        for name in ["airlockfsd", "airlockfs-worker"] {
            program::copy(Path::new("/bin/sh"), &home.join(name));
        }
        let mut command = Command::new(home.join("airlockfsd"));
        prepare(&home, &mut command);
        let mut supervisor = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let worker = home.join("airlockfs-worker");
        let stdin = supervisor.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{} -c 'echo started; read line'", worker.display()).expect("write");
        let mut stdout = BufReader::new(supervisor.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("read");
        assert_eq!(line, "started\n");
        Self { home, supervisor }
    }

    fn pid(&self) -> u32 {
        self.supervisor.id()
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        self.supervisor.wait().expect("wait");
    }
}

/// A number of no system call.
const NO_CALL: i64 = i32::MAX as i64;

/// Of the kernel's status they are as filtered as ours.
#[test]
fn a_filter_that_allows_everything_fails() {
    let fakes = Fakes::start(|_, command| Lies::new(&[NO_CALL]).for_program(command));
    let (code, points) = outcomes(fakes.pid(), [""; 0]);
    assert_eq!(code, 2);
    for process in ["supervisor", "worker"] {
        assert_eq!(point(&points, process, "seccomp").0, "ok");
        let (outcome, found) = point(&points, process, "filter");
        assert_eq!(outcome, "failed");
        assert!(found.contains("NOT the policy's"), "{found}");
        let (outcome, found) = point(&points, process, "program");
        assert!(outcome == "failed" && found.contains("which is NOT"), "{found}");
    }
}

/// Instruction by instruction: these two differ in what a forbidden call does.
#[test]
fn another_action_of_the_filter_fails() {
    use std::os::unix::fs::FileExt;
    let daemon = Daemon::start(["--seccomp=trap"]);
    let (code, points) = outcomes(pid(&daemon), [""; 0]);
    assert_eq!(code, 0);
    fails_only(&points, &[]);
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid(&daemon))).expect("stat");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    // arg_start is field 48 of proc_pid_stat(5), the state field 3.
    let start: u64 = fields
        .split_whitespace()
        .nth(45)
        .expect("a field")
        .parse()
        .expect("an address");
    let line = fs::read(format!("/proc/{}/cmdline", pid(&daemon))).expect("cmdline");
    let at = line.windows(4).position(|window| window == b"trap");
    let memory = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{}/mem", pid(&daemon)));
    memory
        .expect("its memory")
        .write_all_at(b"kill", start + at.expect("the option") as u64)
        .expect("write");
    let (code, points) = outcomes(pid(&daemon), [""; 0]);
    assert_eq!(code, 2);
    for process in ["supervisor", "worker"] {
        assert_eq!(point(&points, process, "filter").0, "failed");
        assert_eq!(point(&points, process, "seccomp").0, "ok");
    }
}

/// Copies of both programs in a directory.
fn copies(home: &Path) -> [PathBuf; 2] {
    ["airlockfsd", "airlockfs-worker"].map(|name| {
        let copy = home.join(name);
        program::copy(&bin_dir().expect("binaries").join(name), &copy);
        copy
    })
}

#[test]
fn the_program_is_told_by_its_inode_and_only_root_may_change_it() {
    let home = TempDir::new().expect("a directory");
    let [program, worker] = copies(&home);
    let daemon = Launch::program(&program).start();
    let (code, points) = outcomes(pid(&daemon), [""; 0]);
    assert_eq!(code, 2);
    let both = [("supervisor", "program"), ("worker", "program")];
    let mapped = [("supervisor", "mapped"), ("worker", "mapped")];
    fails_only(&points, &[both, mapped].concat());

    let named = [
        format!("--program={}", program.display()),
        format!("--worker={}", worker.display()),
    ];
    let (code, points) = outcomes(pid(&daemon), &named);
    fails_only(&points, &[]);
    assert_eq!(code, 0);

    // Anybody may write to one now, and the other's place is taken.
    fs::set_permissions(&worker, fs::Permissions::from_mode(0o757)).expect("chmod");
    program::copy(&program, &home.join("new"));
    fs::rename(home.join("new"), &program).expect("rename");
    let (code, points) = outcomes(pid(&daemon), &named);
    assert_eq!(code, 2);
    fails_only(&points, &[both, mapped].concat());
    let replaced = point(&points, "supervisor", "program").1;
    assert!(replaced.contains("deleted or replaced"), "{replaced}");
    let changeable = point(&points, "worker", "program").1;
    assert!(changeable.contains("CHANGED"), "{changeable}");
}

/// A library of somebody's in the real program.
#[test]
fn foreign_code_in_the_process_is_found() {
    let home = TempDir::new().expect("a directory");
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let library = maps
        .lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("libgcc_s.so"));
    let copy = home.join("library.so");
    program::copy(Path::new(library.expect("a library that is no loader's")), &copy);
    let daemon = Launch::airlockfs().env("LD_PRELOAD", &copy).start();
    let (code, points) = outcomes(pid(&daemon), [""; 0]);
    assert_eq!(code, 2);
    fails_only(&points, &[("supervisor", "mapped")]);
    let found = point(&points, "supervisor", "mapped").1;
    assert!(
        found.contains("UNEXPECTED") && found.contains("library.so"),
        "{found}"
    );
}

#[test]
fn a_debugger_is_found_and_keeps_the_filter_from_being_seen() {
    let daemon = Daemon::start(["--tag=traced"]);
    let thread = Pid::from_raw(daemon.supervisor().pid());
    ptrace::seize(thread, ptrace::Options::empty()).expect("seize");
    let (code, points) = outcomes(pid(&daemon), [""; 0]);
    assert_eq!(code, 2);
    assert_eq!(point(&points, "supervisor", "tracer").0, "failed");
    assert_eq!(point(&points, "supervisor", "filter").0, "unknown");
    assert_eq!(point(&points, "worker", "filter").0, "ok");
}

/// Whoever may not see the filters is told so, and that is not ok.
#[test]
fn what_may_not_be_seen_is_not_ok() {
    let daemon = Daemon::start(["--tag=unseen"]);
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let mut command = Command::new(program);
    command.args(["audit", &pid(&daemon).to_string(), "--format=json"]);
    // A filter on the one who asks.
    Lies::new(&[NO_CALL]).for_program(&mut command);
    let output = command.output().expect("airlockfsd");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("\"unknown\"") && text.contains("CAP_SYS_ADMIN"),
        "{text}"
    );
    assert!(!text.contains("\"failed\""), "{text}");
}

/// What a fake holds in a report's place: its number, by the name that a report's descriptor has.
const PLACE: i32 = 9;
const NAME: &str = "memfd:airlockfs-report (deleted)";

/// A mount of its own whose root has such a file, which nobody else sees, held by its path alone.
fn in_a_mount_of_its_own(home: &Path, command: &mut Command, make: fn(&Path)) {
    let directory = home.join("mount");
    fs::create_dir(&directory).expect("mkdir");
    let held = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_PRIVATE | MsFlags::MS_REC, none).expect("private");
        mount(Some("none"), &directory, Some("tmpfs"), MsFlags::empty(), none).expect("tmpfs");
        make(&directory.join(NAME));
        open(
            &directory.join(NAME),
            OFlag::O_PATH | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .expect("open")
    });
    let held = held.join().expect("a file");
    hold(command, held.as_raw_fd());
    std::mem::forget(held);
}

#[expect(unsafe_code, reason = "a descriptor is handed down")]
fn hold(command: &mut Command, number: i32) {
    // SAFETY: dup2 and fcntl are async-signal-safe, and the descriptor stays open.
    unsafe {
        command.pre_exec(move || {
            // Where it has that number already, dup2 leaves it to be closed by exec.
            match libc::dup2(number, PLACE) == PLACE && libc::fcntl(PLACE, libc::F_SETFD, 0) == 0 {
                true => Ok(()),
                false => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

fn fifo(path: &Path) {
    mkfifo(path, Mode::from_bits_truncate(0o666)).expect("a FIFO");
}

/// It is asked for nothing that is waited for: a FIFO that nobody writes to.
#[test]
fn a_fifo_in_a_reports_place_is_no_report_and_holds_up_nobody() {
    for user in [0, 1000] {
        let fakes = Fakes::start(|home, command| {
            in_a_mount_of_its_own(home, command, fifo);
            command.uid(user);
        });
        let link = fs::read_link(format!("/proc/{}/fd/{PLACE}", fakes.pid())).expect("a link");
        assert_eq!(link.to_str(), Some(format!("/{NAME}").as_str()));
        let (code, points) = outcomes(fakes.pid(), [""; 0]);
        assert_eq!(code, 2);
        let (outcome, found) = point(&points, "supervisor", "report");
        assert!(outcome == "failed" && found.contains("none"), "{found}");
    }
}

/// It is sealed, and larger than all memory.
#[test]
fn a_report_without_end_is_none() {
    let fakes = Fakes::start(|_, command| {
        let memory = memfd_create(
            c"airlockfs-report",
            MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC,
        )
        .expect("a memfd");
        let memory = fs::File::from(memory);
        memory.set_len(100 << 30).expect("a size");
        let all =
            SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
        fcntl(&memory, FcntlArg::F_ADD_SEALS(all)).expect("seals");
        hold(command, memory.as_raw_fd());
        std::mem::forget(memory);
    });
    let (code, points) = outcomes(fakes.pid(), [""; 0]);
    assert_eq!(code, 2);
    let (outcome, found) = point(&points, "supervisor", "report");
    assert!(outcome == "failed" && found.contains("none"), "{found}");
}

/// What root's terminal would obey is shown, not sent.
#[test]
fn names_of_an_attackers_choice_are_escaped() {
    let fakes = Fakes::start(|home, command| {
        let path = home.join("\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}\n  report        ok: fine");
        // A directory, which neither process may hold: so it is named.
        fs::create_dir(&path).expect("mkdir");
        let path = CString::new(path.to_str().expect("text")).expect("no NUL");
        let held = open(path.as_c_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).expect("open");
        hold(command, held.as_raw_fd());
        std::mem::forget(held);
        command.arg0("\u{1b}[2J");
    });
    let output = audit(fakes.pid(), ["--format=text"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\\u{1b}]0;owned\\u{7}"), "{text}");
    for said in [&output.stdout, &output.stderr] {
        let said = String::from_utf8_lossy(said);
        println!("{said}");
        let obeyed = said
            .chars()
            .find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(obeyed, None, "{said:?}");
        assert!(!said.contains("\n  report        ok"), "{said}");
    }
    assert!(fakes.home.join("airlockfsd").exists());
}

#[test]
fn a_command_line_without_end_is_refused() {
    let fakes = Fakes::start(|_, command| {
        command.args(["-s", "--"]);
        command.args((0..16).map(|_| "y".repeat(100_000)));
    });
    let output = audit(fakes.pid(), [""; 0]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(0));
    assert!(said.len() < 10_000, "{} bytes", said.len());
}

/// An audit stops each thread for a moment: nobody notices.
#[test]
fn a_pair_that_works_is_not_disturbed() {
    let daemon = Daemon::start(["--num-request-queues=2"]);
    let client = daemon.client();
    let (_, file) = client.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    let number = pid(&daemon);
    let audits = std::thread::spawn(move || {
        for _ in 0..10 {
            let (code, points) = outcomes(number, [""; 0]);
            assert_eq!(code, 0, "{points:?}");
        }
    });
    let mut requests = 0;
    while !audits.is_finished() || requests == 0 {
        client.write(file, 0, b"data").expect("WRITE");
        client.lookup(ROOT, "file").expect("LOOKUP");
        client.fsync(file, false).expect("FSYNC");
        requests += 1;
    }
    audits.join().expect("audits");
    assert!(daemon.is_alive());
}

/// A share on a file system whose server does not answer, as anybody's fake may have: the audit ends, and says so.
#[test]
fn a_file_system_that_does_not_answer_holds_up_nobody() {
    let server = Daemon::start(["--cache=never"]);
    fs::create_dir(server.host("directory")).expect("mkdir");
    let mount = TempDir::new().expect("a mount point");
    let _bridge = Bridge::mount(server.socket(), &mount, &BridgeConfig::default()).expect("mount");
    let daemon = Launch::airlockfs().share(&mount.join("directory")).start();
    assert_eq!(outcomes(pid(&daemon), [""; 0]).0, 0);
    let stalled = server.supervisor();
    stalled.signal(Signal::SIGSTOP).expect("SIGSTOP");
    let output = audit(pid(&daemon), [""; 0]);
    stalled.signal(Signal::SIGCONT).expect("SIGCONT");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("NOT audited") && said.contains("within 30 s"),
        "{said}"
    );
}
