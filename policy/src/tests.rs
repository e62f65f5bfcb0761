//! The tables, under every combination of features.

use airlockfs_ipc::message::{Sandbox, SeccompMode};
use caps::Capability;

use crate::rule::{Feature, Test};
use crate::{Features, Process, Profile, SyscallRule, seccomp, supervisor_profile, worker_profile};

const FLAGS: usize = 12;

/// Every combination of the options that select rules.
fn combinations() -> impl Iterator<Item = Features> {
    (0..1_u32 << FLAGS).map(|number| {
        let mut bits = (0..FLAGS).map(|bit| number >> bit & 1 == 1);
        let mut next = || bits.next().unwrap();
        Features {
            rootful: next(),
            readonly: next(),
            owners: next(),
            no_setuid: next(),
            xattr: next(),
            device_nodes: next(),
            project_ids: next(),
            file_flags: next(),
            // It brings a capability and nothing else: with every other option and without it, but not with each two of them.
            immutable_flags: number.count_ones() % 2 == 1,
            trusted_xattr: false,
            donate: next(),
            posix_lock: next(),
            flock: next(),
            sandbox: if next() { Sandbox::Namespace } else { Sandbox::None },
            seccomp: SeccompMode::Kill,
            allow_missing: Vec::new(),
        }
    })
}

fn every_profile(check: impl Fn(&Features, &Profile)) {
    for features in combinations() {
        check(&features, &supervisor_profile(&features));
        check(&features, &worker_profile(&features));
    }
}

fn names(profile: &Profile) -> Vec<&'static str> {
    let carried_out = profile.syscalls.iter().filter(|rule| rule.errno.is_none());
    carried_out.map(|rule| rule.name).collect()
}

/// Whether some line lets `arguments` through.
fn lets_through(profile: &Profile, name: &str, arguments: [u64; 6]) -> bool {
    let passes = |rule: &SyscallRule| {
        let holds = |pin: &crate::Pin| pin.matches(arguments[usize::from(pin.argument)]);
        rule.pins.is_empty() || rule.pins.iter().any(|pins| pins.iter().all(holds))
    };
    let rules = profile
        .syscalls
        .iter()
        .filter(|rule| rule.name == name && rule.errno.is_none());
    rules.clone().count() > 0 && rules.clone().any(passes)
}

#[test]
fn everything_granted_has_a_reason() {
    every_profile(|_, profile| {
        assert!(profile.syscalls.iter().all(|rule| rule.reason.len() > 3));
        assert!(
            profile
                .capabilities
                .iter()
                .all(|granted| granted.reason.len() > 5)
        );
        assert!(profile.namespaces.iter().all(|own| own.reason.len() > 5));
        assert!(profile.landlock.rights.iter().all(|right| right.reason.len() > 3));
        assert!(profile.limits.iter().all(|limit| limit.reason.len() > 5));
        assert!(profile.state.iter().all(|held| held.reason.len() > 5));
    });
}

#[test]
fn no_line_repeats_or_swallows_another() {
    every_profile(|_, profile| {
        for (index, rule) in profile.syscalls.iter().enumerate() {
            for other in &profile.syscalls[index + 1..] {
                let same = rule.number == other.number;
                assert_eq!(same, rule.name == other.name);
                assert!(
                    !same || !rule.pins.is_empty() && !other.pins.is_empty(),
                    "{}",
                    rule.name
                );
                assert!(
                    !same || rule.pins.iter().all(|pins| !other.pins.contains(pins)),
                    "{}",
                    rule.name
                );
            }
        }
    });
}

#[test]
fn no_profile_has_a_call_that_reaches_out() {
    const NEVER: &[&str] = &[
        "open_by_handle_at",
        "name_to_handle_at",
        "open",
        "openat2",
        "creat",
        "execve",
        "execveat",
        "fork",
        "vfork",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "pidfd_getfd",
        "pidfd_send_signal",
        "kill",
        "tkill",
        "tgkill",
        "socket",
        "socketpair",
        "connect",
        "bind",
        "listen",
        "mount",
        "umount2",
        "move_mount",
        "open_tree",
        "fsopen",
        "fsmount",
        "fsconfig",
        "mount_setattr",
        "pivot_root",
        "chroot",
        "chdir",
        "fchdir",
        "unshare",
        "setns",
        "bpf",
        "io_uring_setup",
        "io_uring_enter",
        "userfaultfd",
        "perf_event_open",
        "keyctl",
        "add_key",
        "memfd_create",
        "pkey_mprotect",
        "seccomp",
        "setresuid",
        "setuid",
        "prlimit64",
        "setrlimit",
        "personality",
        "inotify_init1",
        "fanotify_init",
        "ioperm",
        "iopl",
        "modify_ldt",
        "shmget",
        "msgget",
        "semget",
        "mq_open",
        "umask",
        "statfs",
        "stat",
        "lstat",
        "newfstatat",
        "chmod",
        "chown",
        "rename",
        "unlink",
    ];
    every_profile(|_, profile| {
        for name in names(profile) {
            assert!(!NEVER.contains(&name), "{:?} may call {name}", profile.process);
        }
    });
}

#[test]
fn the_supervisor_has_no_call_that_takes_a_path() {
    for features in combinations() {
        for name in names(&supervisor_profile(&features)) {
            let takes_a_path = name.ends_with("at") && name != "fstat";
            let takes_a_path = takes_a_path || name.contains("xattr") || name.contains("statx");
            assert!(!takes_a_path && name != "ioctl", "{name}");
        }
    }
}

#[test]
fn memory_is_never_executable() {
    let exec = libc::PROT_EXEC as u64;
    let kinds = [
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        libc::MAP_SHARED,
        libc::MAP_SHARED | libc::MAP_NORESERVE,
        // In the place of guest memory that is gone.
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
    ];
    every_profile(|_, profile| {
        for prot in [exec, exec | 1, exec | 3] {
            assert!(!lets_through(profile, "mprotect", [0, 0, prot, 0, 0, 0]));
            for kind in kinds {
                assert!(!lets_through(profile, "mmap", [0, 0, prot, kind as u64, 0, 0]));
            }
        }
        // Each maps what it maps, and nothing else.
        let own = match profile.process {
            Process::Supervisor => &kinds[2..],
            Process::Worker => &kinds[..1],
        };
        for kind in kinds {
            assert_eq!(
                lets_through(profile, "mmap", [0, 0, 3, kind as u64, u64::MAX, 0]),
                own.contains(&kind)
            );
        }
    });
}

/// All threads run before the filter is in force, and last.
#[test]
fn no_profile_has_a_call_that_makes_or_ends_a_thread_or_what_it_waits_for() {
    const GONE: &[&str] = &[
        "clone",
        "clone3",
        "set_robust_list",
        "rseq",
        "rt_sigprocmask",
        "sigaltstack",
        "gettid",
        "prctl",
        "sched_getaffinity",
        "mprotect",
        "madvise",
        "getrandom",
        "exit",
        "epoll_create1",
        "eventfd2",
    ];
    every_profile(|_, profile| {
        // malloc of musl makes heaps accessible, and gives memory back, by these.
        let gnu = cfg!(target_env = "gnu");
        for name in GONE
            .iter()
            .filter(|name| gnu || !["mprotect", "madvise"].contains(name))
        {
            let lacks = profile.syscalls.iter().all(|rule| rule.name != *name);
            assert!(lacks, "{:?} may call {name}", profile.process);
        }
    });
}

/// What docs/CONFINEMENT.md says of the process that reads guest bytes.
#[test]
fn the_supervisor_has_27_calls_at_most_and_none_that_reads_what_rings() {
    every_profile(|features, profile| {
        if profile.process == Process::Supervisor {
            let count = match (features.donate, features.readonly) {
                (false, _) => 21,
                (true, true) => 25,
                (true, false) => 27,
            };
            let malloc = if cfg!(target_env = "gnu") { 0 } else { 3 };
            assert_eq!(profile.syscall_count(), count + malloc, "{:?}", names(profile));
            for name in ["read", "readv", "poll", "ppoll"] {
                assert!(!names(profile).contains(&name), "{name}");
            }
        }
    });
}

#[test]
fn a_readonly_worker_has_nothing_that_changes_a_file() {
    const READING: &[&str] = &[
        "statx",
        "openat",
        "getdents64",
        "readlinkat",
        "fstatfs",
        "faccessat2",
        "preadv2",
        "lseek",
        "fsync",
        "fdatasync",
        "syncfs",
        "getxattr",
        "listxattr",
        "ioctl",
        "fcntl",
        "flock",
    ];
    const NO_FILES: &[&str] = &[
        "write",
        "recvmsg",
        "sendmsg",
        "close",
        "setfsuid",
        "setfsgid",
        "setgroups",
        "capget",
        "capset",
    ];
    let runtime = crate::runtime::RUNTIME.iter().chain(crate::runtime::LARGE_BLOCKS);
    let runtime: Vec<&str> = runtime.map(|rule| rule.name).collect();
    for features in combinations().filter(|features| features.readonly) {
        let profile = worker_profile(&features);
        for name in names(&profile) {
            assert!(
                READING.contains(&name) || NO_FILES.contains(&name) || runtime.contains(&name),
                "{name}"
            );
        }
        for flags in [
            libc::O_WRONLY,
            libc::O_RDWR,
            libc::O_CREAT,
            libc::O_TRUNC,
            libc::O_TMPFILE,
        ] {
            assert!(
                !lets_through(&profile, "openat", [0, 0, flags as u64, 0, 0, 0]),
                "{flags:#x}"
            );
        }
        assert!(lets_through(
            &profile,
            "openat",
            [0, 0, (libc::O_PATH | libc::O_NOFOLLOW) as u64, 0, 0, 0]
        ));
        // FS_IOC_SETFLAGS
        assert!(!lets_through(&profile, "ioctl", [0, 0x4008_6602, 0, 0, 0, 0]));
        let rights: Vec<&str> = profile.landlock.rights.iter().map(|right| right.name).collect();
        assert_eq!(rights, ["read_file", "read_dir"]);
    }
}

#[test]
fn options_bring_their_calls_and_no_others() {
    for features in combinations() {
        let worker = worker_profile(&features);
        let has = |name| names(&worker).contains(&name);
        assert_eq!(has("getxattr"), features.xattr);
        assert_eq!(has("setxattr"), features.xattr && !features.readonly);
        assert_eq!(has("flock"), features.flock);
        assert_eq!(has("ioctl"), features.file_flags);
        // FS_IOC_FSSETXATTR
        assert_eq!(
            lets_through(&worker, "ioctl", [0, 0x401c_5820, 0, 0, 0, 0]),
            features.file_flags && features.project_ids && !features.readonly
        );
        for device in [
            [0, 0, u64::from(libc::S_IFBLK), 0, 0, 0],
            [0, 0, u64::from(libc::S_IFCHR), 0x103, 0, 0],
        ] {
            let allowed = features.device_nodes && !features.readonly;
            assert_eq!(lets_through(&worker, "mknodat", device), allowed);
        }
        let may = !features.no_setuid && !features.readonly;
        let (create, cwd) = (libc::O_CREAT | libc::O_NOFOLLOW, libc::AT_FDCWD as u32);
        for (name, arguments) in [
            ("openat", [0, 0, create as u64, 0o4755, 0, 0]),
            ("openat", [0, 0, create as u64, 0o2755, 0, 0]),
            ("openat", [0, 0, libc::O_TMPFILE as u64, 0o4755, 0, 0]),
            ("mknodat", [0, 0, u64::from(libc::S_IFREG | 0o2755), 0, 0, 0]),
            ("fchmodat", [u64::from(cwd), 0, 0o4755, 0, 0, 0]),
        ] {
            assert_eq!(lets_through(&worker, name, arguments), may, "{name}");
        }
        let lock = [0, libc::F_OFD_SETLK as u64, 0, 0, 0, 0];
        assert_eq!(lets_through(&worker, "fcntl", lock), features.posix_lock);
        let supervisor = supervisor_profile(&features);
        let nowait = [0, 0, 0, 0, 0, libc::RWF_NOWAIT as u64];
        assert_eq!(lets_through(&supervisor, "preadv2", nowait), features.donate);
        assert_eq!(
            names(&supervisor).contains(&"pwritev2"),
            features.donate && !features.readonly
        );
    }
}

#[test]
fn capabilities_are_those_of_a_file_server() {
    use Capability::*;
    for features in combinations() {
        assert!(supervisor_profile(&features).capabilities.is_empty());
        let granted = worker_profile(&features).capabilities;
        let has = |capability| granted.iter().any(|granted| granted.what == capability);
        for never in [CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_SETPCAP, CAP_SYS_PTRACE] {
            assert!(!has(never), "{never}");
        }
        assert_eq!(has(CAP_MKNOD), features.device_nodes && !features.readonly);
        let immutable = features.immutable_flags && !features.readonly;
        assert_eq!(has(CAP_LINUX_IMMUTABLE), immutable);
        assert_eq!(has(CAP_CHOWN), features.owners && !features.readonly);
        let file_capabilities = features.xattr && !features.readonly && !features.no_setuid;
        assert_eq!(has(CAP_SETFCAP), file_capabilities);
    }
}

#[test]
fn landlock_grants_neither_execution_nor_devices() {
    for features in combinations() {
        assert!(supervisor_profile(&features).landlock.rights.is_empty());
        for right in worker_profile(&features).landlock.rights {
            assert!(!["execute", "ioctl_dev"].contains(&right.name));
            // Whiteouts are character devices, and harmless; real ones need CAP_MKNOD besides.
            assert_eq!(right.name == "make_block", right.feature == Feature::DeviceNodes);
        }
    }
}

#[test]
fn every_profile_compiles() {
    for mode in [
        SeccompMode::Kill,
        SeccompMode::Log,
        SeccompMode::Trap,
        SeccompMode::None,
    ] {
        every_profile(|_, profile| {
            let profile = Profile {
                seccomp: mode,
                ..profile.clone()
            };
            let program = seccomp::compile(&profile).unwrap();
            assert_eq!(program.is_none(), mode == SeccompMode::None);
            // BPF_MAXINSNS
            assert!(program.is_none_or(|program| program.len() < 4096));
        });
    }
}

/// What `program` answers to a call, and how many instructions it takes (linux/bpf_common.h).
fn run(program: &[seccompiler::sock_filter], number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => 0xc000_003e,
        "aarch64" => 0xc000_00b7,
        other => panic!("AUDIT_ARCH of {other}"),
    };
    // `struct seccomp_data`.
    let mut data = vec![number, architecture, 0, 0];
    data.extend(
        arguments
            .iter()
            .flat_map(|value| [*value as u32, (*value >> 32) as u32]),
    );
    let (mut at, mut accumulator) = (0, 0);
    for steps in 1.. {
        let step = &program[at];
        at += 1;
        let code = u32::from(step.code);
        let jump = |condition: bool| usize::from(if condition { step.jt } else { step.jf });
        match (code & 7, code & 0xf0) {
            (libc::BPF_RET, _) => return (step.k, steps),
            (libc::BPF_LD, _) => accumulator = data[step.k as usize / 4],
            (libc::BPF_ALU, libc::BPF_AND) => accumulator &= step.k,
            (libc::BPF_JMP, libc::BPF_JA) => at += step.k as usize,
            (libc::BPF_JMP, libc::BPF_JEQ) => at += jump(accumulator == step.k),
            (libc::BPF_JMP, libc::BPF_JGE) => at += jump(accumulator >= step.k),
            (libc::BPF_JMP, libc::BPF_JGT) => at += jump(accumulator > step.k),
            _ => panic!("instruction {code:#x}"),
        }
    }
    unreachable!()
}

#[test]
fn the_program_lets_through_what_the_lines_say_and_finds_it_soon() {
    const LAST: i64 = 600;
    let every_feature = Features {
        rootful: true,
        owners: true,
        xattr: true,
        device_nodes: true,
        project_ids: true,
        file_flags: true,
        donate: true,
        posix_lock: true,
        flock: true,
        sandbox: Sandbox::Namespace,
        ..combinations().next().unwrap()
    };
    let readonly = Features {
        readonly: true,
        ..every_feature.clone()
    };
    for features in [every_feature, readonly] {
        for mut profile in [supervisor_profile(&features), worker_profile(&features)] {
            profile.seccomp = SeccompMode::Kill;
            let program = seccomp::compile(&profile).unwrap().unwrap();
            for number in (0..LAST).chain([0x4000_0000, 0x4000_0101, 0xffff_ffff]) {
                let lines: Vec<&SyscallRule> = profile
                    .syscalls
                    .iter()
                    .filter(|rule| rule.number == number)
                    .collect();
                // Every argument as some line wants it, and all of them just wrong.
                let wanted = lines.iter().flat_map(|rule| rule.pins).map(|pins| {
                    let mut arguments = [0; 6];
                    for pin in *pins {
                        arguments[usize::from(pin.argument)] |= match pin.test {
                            Test::Is(value) | Test::Bits(_, value) => value,
                            Test::Not(_) => 0,
                        };
                    }
                    arguments
                });
                let wanted: Vec<_> = wanted.chain([[0; 6], [u64::MAX; 6]]).collect();
                let wrong = wanted.iter().flat_map(|right| {
                    (0..6).flat_map(|argument| {
                        // With bit 1 a descriptor that was 0 is the log's.
                        [0, 1, 7, 31, 32, 63].map(|bit| {
                            let mut arguments = *right;
                            arguments[argument] ^= 1 << bit;
                            arguments
                        })
                    })
                });
                for arguments in wanted.iter().copied().chain(wrong) {
                    let (answer, steps) = run(&program, number as u32, arguments);
                    let refused = lines.iter().find_map(|rule| rule.errno);
                    let expected = match refused {
                        Some(errno) => libc::SECCOMP_RET_ERRNO | errno as u32,
                        None if lines.iter().any(|rule| rule.matching(&arguments).is_some()) => {
                            libc::SECCOMP_RET_ALLOW
                        }
                        None => libc::SECCOMP_RET_KILL_PROCESS,
                    };
                    assert_eq!(answer, expected, "call {number} with {arguments:x?}");
                    assert!(
                        !lines.is_empty() || steps <= 20,
                        "{steps} instructions for call {number}"
                    );
                }
            }
        }
    }
}
