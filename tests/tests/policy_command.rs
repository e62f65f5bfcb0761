//! `airlockfsd policy`, which is airlockfsctl's: what it prints is what the processes run under.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use airlockfs_tests::daemon::{Daemon, bin_dir};
use airlockfs_tests::program;
use airlockfs_tests::tempdir::TempDir;
use serde_json::{Value, json};

/// Calls that change a file system, whatever their arguments.
const CHANGING: &[&str] = &[
    "copy_file_range",
    "fallocate",
    "fchmodat",
    "fchownat",
    "ftruncate",
    "linkat",
    "mkdirat",
    "mknodat",
    "pwritev2",
    "removexattr",
    "renameat2",
    "setxattr",
    "symlinkat",
    "truncate",
    "unlinkat",
    "utimensat",
];

fn policy(args: &[&str]) -> Output {
    let program = bin_dir().expect("a place for binaries").join("airlockfsd");
    let output = Command::new(program).arg("policy").args(args).output();
    output.expect("airlockfsd")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn shown(options: &[&str]) -> Value {
    let mut args = vec!["show", "--format", "json"];
    args.extend(options);
    let output = policy(&args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Names of the system calls that are carried out.
fn calls(process: &Value) -> BTreeSet<String> {
    let calls = process["syscalls"].as_array().expect("a list").iter();
    let calls = calls.filter(|call| call["errno"].is_null());
    calls.map(|call| string(&call["name"])).collect()
}

fn string(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

fn names(list: &Value) -> Vec<String> {
    let list = list.as_array().expect("a list");
    list.iter().map(|entry| string(&entry["name"])).collect()
}

fn capability_mask(list: &Value) -> u64 {
    let number = |name: &str| match name {
        "CAP_CHOWN" => 0,
        "CAP_DAC_OVERRIDE" => 1,
        "CAP_FOWNER" => 3,
        "CAP_FSETID" => 4,
        "CAP_SETGID" => 6,
        "CAP_SETUID" => 7,
        "CAP_LINUX_IMMUTABLE" => 9,
        "CAP_MKNOD" => 27,
        "CAP_SETFCAP" => 31,
        other => panic!("{other}"),
    };
    names(list)
        .iter()
        .fold(0, |mask, name| mask | 1_u64 << number(name))
}

#[test]
fn airlockfsd_executes_airlockfsctl_and_either_says_the_same() {
    let home = TempDir::new().expect("a directory");
    let real = bin_dir().expect("a place for binaries");
    let run = |program: &Path, args: &[&str]| Command::new(program).args(args).output().expect("a program");
    let show = ["policy", "show", "--readonly"];
    let expected = run(&real.join("airlockfsctl"), &show);
    assert!(expected.status.success(), "{expected:?}");

    let daemon = home.join("bin/airlockfsd");
    std::fs::create_dir_all(home.join("bin")).expect("mkdir");
    program::copy(&real.join("airlockfsd"), &daemon);
    for args in [&show[..], &["audit", "1"], &["policy"], &["audit", "--help"]] {
        let missing = run(&daemon, args);
        assert_eq!(missing.status.code(), Some(69), "{missing:?}");
        let said = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(
            said.starts_with("airlockfsd: airlockfsctl is not there"),
            "{said}"
        );
        assert!(said.contains("reinstall airlockfs"), "{said}");
    }
    // Installed as packages do it, or beside.
    for place in ["bin", "libexec/airlockfs"] {
        let directory = home.join(place);
        std::fs::create_dir_all(&directory).expect("mkdir");
        symlink(real.join("airlockfsctl"), directory.join("airlockfsctl")).expect("symlink");
        let shown = run(&daemon, &show);
        assert_eq!(
            (shown.status.code(), text(&shown)),
            (Some(0), text(&expected)),
            "{place}"
        );
        // Arguments and exit codes pass through.
        assert_eq!(
            run(&daemon, &["policy", "diff", "", "--xattr"]).status.code(),
            Some(1)
        );
        assert_eq!(
            run(&daemon, &["policy", "show", "--no-such"]).status.code(),
            Some(64)
        );
        std::fs::remove_file(directory.join("airlockfsctl")).expect("remove");
    }
    // Another program in its place is executed as it is: by its descriptor, with the same words.
    program::copy(Path::new("/bin/echo"), &home.join("bin/airlockfsctl"));
    let echoed = text(&run(&daemon, &["audit", "a b", ""]));
    assert_eq!(echoed, format!("--airlockfsd {} audit a b \n", daemon.display()));
}

#[test]
fn what_is_shown_is_what_the_processes_report() {
    for options in [
        &[][..],
        &["--readonly"],
        &["--xattr", "--allow-device-nodes", "--no-donate"],
        &["--allow-immutable"],
        &["--uid=0", "--gid=0", "--mode=755"],
    ] {
        let shown = shown(options);
        let daemon = Daemon::start(options);
        assert!(daemon.wait_for_log("policy digests"), "{:#?}", daemon.log());
        let log = daemon.log();
        for process in ["worker", "supervisor"] {
            let expected = &shown[process];
            let report = log
                .iter()
                .find(|line| line.contains(process) && line.contains("is confined"))
                .unwrap_or_else(|| panic!("{log:#?}"));
            let namespaces = names(&expected["namespaces"]).join(" ");
            let parts = [
                format!("seccomp lets {} system calls", calls(expected).len()),
                format!("capabilities {:#x},", capability_mask(&expected["capabilities"])),
                format!("own namespaces: {namespaces},"),
            ];
            for part in parts {
                assert!(report.contains(&part), "{options:?}: {part:?} in {report:?}");
            }
            let digest = string(&expected["digest"]);
            assert!(
                log.iter()
                    .any(|line| line.contains(&format!("{process} {digest}"))),
                "{digest} in {log:#?}"
            );
        }
    }
}

#[test]
fn readonly_has_no_call_that_changes_a_file() {
    let writing = shown(&[]);
    let readonly = shown(&["--readonly", "--xattr", "--allow-device-nodes"]);
    for process in ["supervisor", "worker"] {
        let allowed = calls(&readonly[process]);
        for call in CHANGING {
            assert!(!allowed.contains(*call), "{process}: {call}");
        }
    }
    assert_eq!(names(&readonly["worker"]["landlock"]), ["read_file", "read_dir"]);
    assert!(calls(&writing["worker"]).contains("unlinkat"));
    assert_ne!(writing["worker"]["digest"], readonly["worker"]["digest"]);
}

#[test]
fn every_line_has_a_reason() {
    let shown = shown(&["--xattr", "--posix-lock", "--flock"]);
    for process in ["supervisor", "worker"] {
        for list in ["syscalls", "landlock", "capabilities", "namespaces", "limits"] {
            for entry in shown[process][list].as_array().expect("a list") {
                assert!(string(&entry["reason"]).len() > 3, "{entry}");
            }
        }
    }
    let text = text(&policy(&["show", "--xattr"]));
    assert!(text.contains("getxattr") && text.contains("GETXATTR"), "{text}");
}

#[test]
fn the_oci_profile_kills_by_default_and_has_one_condition_for_an_argument() {
    for options in [&["--readonly"][..], &[]] {
        let output = policy(&[&["show", "--format=oci"], options].concat());
        let filter: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(filter["defaultAction"], "SCMP_ACT_KILL_PROCESS");
        let rules = filter["syscalls"].as_array().expect("a list");
        let mut found = BTreeSet::new();
        for rule in rules {
            found.extend(names_of(rule));
            let args = rule["args"].as_array().cloned().unwrap_or_default();
            let indexes: BTreeSet<u64> = args.iter().filter_map(|arg| arg["index"].as_u64()).collect();
            // Of several conditions on one argument container runtimes demand one only.
            assert_eq!(indexes.len(), args.len(), "{rule}");
        }
        let shown = shown(options);
        let mut expected = calls(&shown["supervisor"]);
        expected.extend(calls(&shown["worker"]));
        expected.insert("getsockopt".to_owned());
        assert_eq!(found, expected);
        let refused = rules.iter().find(|rule| rule["names"][0] == "getsockopt");
        assert_eq!(refused.expect("getsockopt")["errnoRet"], libc::ENOPROTOOPT);
    }
}

/// What a static busybox takes beyond the profile to start and to end.
const BUSYBOX: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "execve",
    "getpid",
    "getrandom",
    "gettid",
    "getuid",
    "mprotect",
    "newfstatat",
    "openat",
    "prctl",
    "prlimit64",
    "readlink",
    "readlinkat",
    "rseq",
    "rt_sigaction",
    "set_robust_list",
    "set_tid_address",
    "uname",
];

/// crun's exit code for a container that SIGSYS ended.
const ENDED_BY_SIGSYS: i32 = 128 + libc::SIGSYS;

#[test]
fn a_container_runtime_enforces_the_oci_profile() {
    let container = Container::new();
    let output = policy(&["show", "--format=oci"]);
    let profile: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    // As it is, it has no call to execute anything.
    assert_eq!(container.run(&profile, &[], &["true"]), Some(ENDED_BY_SIGSYS));
    assert_eq!(container.run(&profile, BUSYBOX, &["true"]), Some(0));
    assert_eq!(
        container.run(&profile, BUSYBOX, &["hostname", "new"]),
        Some(ENDED_BY_SIGSYS)
    );
    // It has lseek, but with other arguments.
    let copy = |how: &[&str]| {
        let command = [&["dd", "if=/bin/busybox", "of=/dev/null", "count=1"], how].concat();
        container.run(&profile, &[BUSYBOX, &["dup2", "read"]].concat(), &command)
    };
    assert_eq!(copy(&[]), Some(0));
    assert_eq!(copy(&["skip=1"]), Some(ENDED_BY_SIGSYS));
}

/// A container with busybox alone, for crun.
struct Container(TempDir);

impl Container {
    fn new() -> Self {
        let home = TempDir::new().expect("a directory");
        for name in ["bin", "dev", "proc", "sys"] {
            std::fs::create_dir_all(home.join("rootfs").join(name)).expect("mkdir");
        }
        // Debian: busybox-static.
        program::copy(Path::new("/bin/busybox"), &home.join("rootfs/bin/busybox"));
        Self(home)
    }

    /// Runs a command of busybox under `profile` and these calls, with any arguments, besides. Its exit code.
    fn run(&self, profile: &Value, besides: &[&str], command: &[&str]) -> Option<i32> {
        let mut seccomp = profile.clone();
        if !besides.is_empty() {
            let rule = json!({ "names": besides, "action": "SCMP_ACT_ALLOW" });
            seccomp["syscalls"].as_array_mut().expect("a list").push(rule);
        }
        let command = [&["/bin/busybox"], command].concat();
        let config = json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": command,
                "cwd": "/",
                "noNewPrivileges": true,
            },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
            "linux": {
                "namespaces": [{ "type": "mount" }, { "type": "pid" }, { "type": "uts" }],
                "seccomp": seccomp,
            },
        });
        std::fs::write(self.0.join("config.json"), config.to_string()).expect("config.json");
        // crun wants one hierarchy of control groups, which hosts with both kinds do not have.
        let script = "umount -lR /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; \
                      exec crun --root \"$PWD/state\" --cgroup-manager=disabled run airlockfs-test";
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .current_dir(&*self.0)
            .output()
            .expect("unshare");
        println!("{command:?} and {} calls: {output:?}", besides.len());
        output.status.code()
    }
}

fn names_of(rule: &Value) -> Vec<String> {
    let names = rule["names"].as_array().expect("a list");
    names.iter().map(string).collect()
}

#[test]
fn explain_says_who_why_and_by_which_option() {
    let explained = |name| {
        let output = policy(&["explain", name]);
        (output.status.code(), text(&output))
    };
    let (code, said) = explained("mknodat");
    assert_eq!(code, Some(0));
    assert!(
        said.contains("--allow-device-nodes") && said.contains("MKNOD of devices"),
        "{said}"
    );
    assert!(
        said.contains("worker: ") && !said.contains("supervisor: "),
        "{said}"
    );
    assert!(said.contains("arg2 & 0xf000 == 0x2000"), "{said}");
    let (_, said) = explained("CAP_MKNOD");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("with --allow-device-nodes"), "{said}");
    let (_, said) = explained("cap_setuid");
    assert!(said.contains("worker: capability CAP_SETUID, always"), "{said}");
    for name in ["execve", "socket", "CAP_SYS_ADMIN"] {
        let (code, said) = explained(name);
        assert_eq!(code, Some(1));
        assert!(said.contains("neither process may"), "{said}");
    }
}

#[test]
fn explain_says_who_may_touch_a_path() {
    let home = TempDir::new().expect("a directory");
    let share = home.join("share");
    std::fs::create_dir(&share).expect("mkdir");
    std::fs::write(share.join("file"), "x").expect("write");
    std::os::unix::fs::symlink("/etc/passwd", share.join("link")).expect("symlink");
    let text_of = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let shared = format!("--shared-dir={}", text_of(&share));
    let explained = |path: &str, options: &[&str]| {
        let output = policy(&[&["explain", path, &shared], options].concat());
        (output.status.code(), text(&output))
    };
    let (code, said) = explained(&text_of(&share.join("file")), &[]);
    assert_eq!(code, Some(0));
    assert!(
        said.contains("supervisor: no") && said.contains("worker: yes"),
        "{said}"
    );
    assert!(
        said.contains("write_file") && said.contains("remove_file"),
        "{said}"
    );
    let (_, said) = explained(&text_of(&share.join("file")), &["--readonly"]);
    assert!(
        said.contains("read_file") && !said.contains("write_file"),
        "{said}"
    );
    // One of two shares is read-only.
    let other = home.join("other");
    std::fs::create_dir(&other).expect("mkdir");
    let two = [
        format!("--share=a={}", text_of(&share)),
        format!("--share-ro=b={}", text_of(&other)),
    ];
    for (path, writes) in [(&share, true), (&other, false)] {
        let output = policy(&["explain", &text_of(path), &two[0], &two[1]]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert_eq!(said.contains("write_file"), writes, "{said}");
    }
    for outside in [
        "/etc/passwd",
        "/proc/self/fd",
        "/dev/vda",
        &text_of(&share.join("link")),
        &text_of(&share.join("../x")),
    ] {
        let (code, said) = explained(outside, &[]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("worker: no"), "{said}");
    }
}

#[test]
fn diff_names_what_an_option_takes_away() {
    let output = policy(&["diff", "", "--readonly"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output);
    for call in CHANGING {
        // Attributes are off in both.
        if !call.ends_with("xattr") {
            let line = format!("- worker: syscall {call}");
            assert!(said.lines().any(|l| l.starts_with(&line)), "{line}: {said}");
        }
    }
    assert!(said.contains("- worker: capability CAP_CHOWN\n"), "{said}");
    assert!(said.contains("- worker: landlock make_reg\n"), "{said}");
    assert!(said.contains("- supervisor: syscall pwritev2"), "{said}");
    assert!(
        said.lines().all(|line| line.starts_with("- ")
            || line.contains("syscall openat")
            || line == "+ worker: mounts the share is mounted read-only"),
        "{said}"
    );

    // Who is told the owner of everything changes none.
    let said = text(&policy(&["diff", "", "--uid=0 --gid=0"]));
    let lines: Vec<_> = said.lines().collect();
    let [call, capability] = lines.as_slice() else {
        panic!("{said}")
    };
    assert!(
        call.starts_with("- worker: syscall fchownat")
            || capability.starts_with("- worker: syscall fchownat")
    );
    assert!(said.contains("- worker: capability CAP_CHOWN\n"), "{said}");
    assert!(text(&policy(&["diff", "", "--uid=0 --mode=755"])).is_empty());

    let same = policy(&["diff", "--cache=always", "--shared-dir /srv --socket-path /run/s"]);
    assert_eq!((same.status.code(), text(&same)), (Some(0), String::new()));
}

#[test]
fn an_option_allows_what_it_needs_and_no_more() {
    let changed = |old: &str, new: &str| !text(&policy(&["diff", old, new])).is_empty();
    for (old, new) in [
        ("", "--mode=755 --umask=22 --fmask=111 --dmask=22"),
        ("", "--uid=1"),
        ("", "--gid=1"),
        ("", "--default-uid=1 --default-gid=1"),
        (
            "",
            "--entry-timeout=1 --attr-timeout=1 --negative-timeout=1 --cache=never",
        ),
        ("", "--writeback"),
        ("", "--no-readdirplus --no-announce-submounts --no-allow-mmap"),
        ("", "--allow-direct-io --preserve-noatime"),
        ("", "--translate-uid=map:0:1:1 --translate-gid=squash-host:0:1:1"),
        ("", "--killpriv-v2"),
        ("", "--share a=/srv --share-ro b=/tmp"),
        ("--readonly", "--readonly --cache=always"),
        ("--readonly", "--share-ro a=/srv"),
        ("--xattr", "--xattrmap=:map::user.vm.:"),
        ("--xattr", "--posix-acl"),
        ("--xattr", "--security-label"),
    ] {
        assert!(!changed(old, new), "{old:?} {new:?}");
    }
    for option in [
        "--uid=1 --gid=1",
        "--readonly",
        "--xattr",
        "--posix-lock",
        "--flock",
        "--allow-device-nodes",
        "--no-donate",
        "--uid-map=:0:1000:1: --gid-map=:0:1000:1:",
    ] {
        assert!(changed("", option), "{option}");
    }
}

#[test]
fn diff_reads_what_show_wrote_and_finds_a_changed_file_out() {
    let home = TempDir::new().expect("a directory");
    let path = home.join("policy.json");
    let saved = text(&policy(&["show", "--format=json", "--xattr"]));
    std::fs::write(&path, &saved).expect("write");
    let file = path.to_str().expect("text");
    assert_eq!(policy(&["diff", file, "--xattr"]).status.code(), Some(0));
    let less = policy(&["diff", file, ""]);
    assert_eq!(less.status.code(), Some(1));
    assert!(text(&less).contains("- worker: syscall getxattr"), "{less:?}");

    std::fs::write(&path, saved.replacen("\"getxattr\"", "\"getxattrat\"", 1)).expect("write");
    let forged = policy(&["diff", file, "--xattr"]);
    assert_eq!(forged.status.code(), Some(64));
    assert!(
        String::from_utf8_lossy(&forged.stderr).contains("digest"),
        "{forged:?}"
    );
}
