//! A `Start` message that airlockfsd would never send: lanes, descriptors, settings.

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::symlink,
    },
    time::Duration,
};

use airlockfs_ipc::{
    channel::{Channel, pair},
    message::{Farewell, IdRange, IdRangeKind, Sandbox, Start, Started, WorkerConfig},
    ring::SupervisorRing,
};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        memfd::{MFdFlags, memfd_create},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    client::{Scratch, config, share},
    raw::LANE,
    spawn::{Who, spawn},
};

/// How a start ended: what it said, its exit code if it ended, its log.
type Outcome = (Option<Started>, Option<i32>, String);

/// Starts a worker and tells it `tell`; a worker that serves is ended by the end of its channel.
fn start(sandbox: Sandbox, tell: impl FnOnce(&Channel)) -> Outcome {
    let home = Scratch::new();
    let (control, theirs) = pair().unwrap();
    let theirs_fd: OwnedFd = theirs.as_fd().try_clone_to_owned().unwrap();
    drop(theirs);
    let path = home.path("log");
    let log = File::create_new(&path).unwrap();
    let process = spawn(theirs_fd, &log, sandbox, Who::default());
    tell(&control);
    let mut ready = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
    assert_eq!(
        poll(&mut ready, PollTimeout::from(30_000u16)),
        Ok(1),
        "it says nothing"
    );
    let said = control.receive::<Started>(0).unwrap().map(|(said, _)| said);
    let _ = control.send(&Farewell::Farewell, &[]);
    let child = Pid::from_raw(process.child.unwrap());
    let code = match waitpid(child, None).unwrap() {
        WaitStatus::Exited(_, code) => code,
        other => panic!("{other:?}: {}", fs::read_to_string(&path).unwrap()),
    };
    (said, Some(code), fs::read_to_string(&path).unwrap())
}

/// It refused: told in one line, which is the supervisor's to log, with an exit code of that kind, and nothing served.
fn assert_refused((said, code, log): Outcome, what: &str) {
    match said {
        Some(Started::Failed { kind, message }) => {
            assert_eq!(code, Some(kind.into()), "{what}: {message}");
            assert!((64..=78).contains(&kind), "{what}: {kind}");
            assert!(!message.contains('\n'), "{what}: {message}");
        }
        Some(Started::Ready(report)) => panic!("{what}: it serves: {report:?}"),
        None => panic!("{what}: it ended without a word: {log}"),
    }
    assert_eq!(log, "", "{what}");
}

fn with_config(what: &str, change: impl FnOnce(&mut WorkerConfig, &Scratch)) -> Outcome {
    let home = Scratch::new();
    fs::create_dir(home.path("share")).unwrap();
    fs::write(home.path("file"), "text").unwrap();
    symlink("share", home.path("link")).unwrap();
    let mut config = config(vec![share(&home.path("share"), None, false)]);
    change(&mut config, &home);
    let ring = SupervisorRing::create(1, Duration::ZERO).unwrap();
    let sandbox = config.sandbox;
    let start_message = Start {
        lanes: 1,
        network: false,
        config,
    };
    let outcome = start(sandbox, |control| {
        control.send(&start_message, &ring.worker.descriptors()).unwrap();
    });
    assert!(!outcome.2.contains("panicked"), "{what}: {}", outcome.2);
    outcome
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    type Change = fn(&mut WorkerConfig, &Scratch);
    let changes: &[(&str, Change)] = &[
        ("no share", |config, _| config.shares.clear()),
        ("a relative path", |config, _| {
            config.shares[0].path = b"share".to_vec()
        }),
        ("no path", |config, _| config.shares[0].path = vec![]),
        ("a NUL in the path", |config, _| config.shares[0].path.push(0)),
        ("a path through a link", |config, home| {
            config.shares[0].path = home.path("link").into_os_string().into_encoded_bytes();
        }),
        ("a path through dots and a link", |config, home| {
            config.shares[0].path = home.path("link/../link").into_os_string().into_encoded_bytes();
        }),
        ("a file as the root", |config, home| {
            config.shares = vec![share(&home.path("file"), None, false)];
        }),
        ("nothing there", |config, _| {
            config.shares[0].path.extend(b"/none")
        }),
        ("another directory", |config, _| {
            config.shares[0].path = b"/".to_vec()
        }),
        ("another number", |config, _| config.shares[0].identity.1 ^= 1),
        ("a device", |config, _| {
            config.shares = vec![share(std::path::Path::new("/dev/null"), Some("a"), false)];
        }),
        ("two roots", |config, _| {
            let again = config.shares[0].clone();
            config.shares.push(again);
        }),
        ("a root and a name", |config, _| {
            let mut again = config.shares[0].clone();
            again.name = Some(b"a".to_vec());
            config.shares.push(again);
        }),
        ("one name twice", |config, _| {
            config.shares[0].name = Some(b"a".to_vec());
            let again = config.shares[0].clone();
            config.shares.push(again);
        }),
        ("files that change and are not opened", |config, _| {
            config.zero_open = true
        }),
        ("setuid for all", |config, _| config.view.mode = Some(0o4755)),
        ("a mask of types", |config, _| config.view.dmask = 0o40_000),
        ("no owner", |config, _| config.view.uid = Some(u32::MAX)),
        ("too many threads", |config, _| config.spare_threads = u16::MAX),
        ("no descriptors", |config, _| config.max_descriptors = 0),
        ("rules that are none", |config, _| {
            config.xattr_map = Some(":x".repeat(100))
        }),
    ];
    for (what, change) in changes {
        assert_refused(with_config(what, change), what);
    }
    for sandbox in [Sandbox::None, Sandbox::Namespace] {
        for name in [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"/etc",
            b"../../tmp",
            b"a\0",
            &[b'x'; 256],
        ] {
            let what = format!("the name {}", name.escape_ascii());
            let outcome = with_config(&what, |config, _| {
                config.sandbox = sandbox;
                config.shares[0].name = Some(name.to_vec());
            });
            assert_refused(outcome, &what);
        }
    }
}

#[test]
fn settings_at_their_edges_are_served_or_refused() {
    type Change = fn(&mut WorkerConfig);
    fn all_ids(from: u32, to: u32, count: u32) -> Vec<IdRange> {
        use IdRangeKind::{ForbidGuest, Guest, Host, Map, SquashGuest, SquashHost};
        let kinds = [Guest, Host, SquashGuest, SquashHost, ForbidGuest, Map];
        let range = |kind| IdRange {
            kind,
            from,
            to,
            count,
        };
        kinds.into_iter().map(range).collect()
    }
    let changes: &[Change] = &[
        |config| config.spare_threads = 0,
        |config| config.spare_threads = 32,
        |config| config.max_descriptors = u64::MAX,
        |config| config.poll_us = u32::MAX,
        |config| config.uid_map = all_ids(0, 0, 0),
        |config| config.uid_map = all_ids(u32::MAX, u32::MAX, u32::MAX),
        |config| config.gid_map = all_ids(0, u32::MAX, u32::MAX),
        |config| config.gid_map = all_ids(7, 7, 7).repeat(200),
        |config| config.xattr_map = Some(String::new()),
        |config| config.xattr_map = Some("\0".repeat(30_000)),
        |config| config.xattr = false,
        |config| config.shares[0].readonly = true,
    ];
    for (index, change) in changes.iter().enumerate() {
        let what = format!("change {index}");
        let outcome = with_config(&what, |config, _| change(config));
        match outcome {
            (Some(Started::Ready(_)), code, log) => assert_eq!((code, &log[..]), (Some(0), ""), "{what}"),
            refused => assert_refused(refused, &what),
        }
    }
}

#[test]
fn other_numbers_of_lanes_than_descriptors_are_refused() {
    let home = Scratch::new();
    for (lanes, real, drop_last) in [
        (0, 1, false),
        (2, 1, false),
        (1, 2, false),
        (10, 9, false),
        (u16::MAX, 1, false),
        (1, 1, true),
    ] {
        let ring = SupervisorRing::create(real, Duration::ZERO).unwrap();
        let config = config(vec![share(&home.path(""), None, false)]);
        let message = Start {
            lanes,
            network: false,
            config,
        };
        let mut descriptors = ring.worker.descriptors();
        if drop_last {
            descriptors.pop();
        }
        let outcome = start(Sandbox::None, |control| {
            control.send(&message, &descriptors).unwrap()
        });
        assert_refused(outcome, &format!("{lanes} lanes, descriptors of {real}"));
    }
}

#[test]
fn a_network_namespace_that_is_none_is_refused() {
    let home = Scratch::new();
    let ring = SupervisorRing::create(1, Duration::ZERO).unwrap();
    for (what, first) in [
        ("the ring", None),
        ("another namespace", Some("/proc/self/ns/uts")),
        ("a file", Some("/etc/passwd")),
    ] {
        let config = config(vec![share(&home.path(""), None, false)]);
        let message = Start {
            lanes: 1,
            network: true,
            config,
        };
        let first = first.map(|path| File::open(path).unwrap());
        let mut descriptors: Vec<_> = first.iter().map(AsFd::as_fd).collect();
        descriptors.extend(ring.worker.descriptors());
        let outcome = start(Sandbox::None, |control| {
            control.send(&message, &descriptors).unwrap()
        });
        assert_refused(outcome, what);
    }
    let config = config(vec![share(&home.path(""), None, false)]);
    let message = Start {
        lanes: 1,
        network: true,
        config,
    };
    let outcome = start(Sandbox::None, |control| control.send(&message, &[]).unwrap());
    assert_refused(outcome, "no descriptor");
}

fn memory(length: u64, flags: MFdFlags, seals: SealFlag) -> OwnedFd {
    let memory = File::from(memfd_create(c"test", flags).unwrap());
    memory.set_len(length).unwrap();
    let _ = fcntl(&memory, FcntlArg::F_ADD_SEALS(seals));
    memory.into()
}

#[test]
fn descriptors_of_the_wrong_kind_are_refused() {
    let home = Scratch::new();
    let whole = LANE as u64;
    let sealing = MFdFlags::MFD_ALLOW_SEALING;
    let sealed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    let open = |path: &str| OwnedFd::from(File::open(path).unwrap());
    let memories = [
        ("no seals", memory(whole, sealing, SealFlag::empty())),
        ("seals that may go", memory(whole, sealing, SealFlag::F_SEAL_GROW)),
        ("no sealing", memory(whole, MFdFlags::empty(), SealFlag::empty())),
        ("too small", memory(whole - 1, sealing, sealed)),
        ("empty", memory(0, sealing, sealed)),
        (
            "write-sealed",
            memory(whole, sealing, sealed | SealFlag::F_SEAL_WRITE),
        ),
        ("a device", open("/dev/zero")),
        ("a directory", open("/")),
        ("a file", open("/etc/passwd")),
        ("a pipe", nix::unistd::pipe().unwrap().0),
    ];
    let tell = |descriptors: &[BorrowedFd<'_>]| {
        let config = config(vec![share(&home.path(""), None, false)]);
        start(Sandbox::None, |control| {
            control
                .send(
                    &Start {
                        lanes: 1,
                        network: false,
                        config,
                    },
                    descriptors,
                )
                .unwrap();
        })
    };
    let ring = SupervisorRing::create(1, Duration::ZERO).unwrap();
    let good = ring.worker.descriptors();
    for (what, memory) in &memories {
        let mut descriptors = good.clone();
        descriptors[0] = memory.as_fd();
        assert_refused(tell(&descriptors), what);
    }
    // A doorbell and a channel may be anything that leads nowhere; a directory leads somewhere.
    let directory = open("/etc");
    for place in [1, 2] {
        let mut descriptors = good.clone();
        descriptors[place] = directory.as_fd();
        assert_refused(tell(&descriptors), "a directory");
    }
}

#[test]
fn what_is_no_start_message_is_refused() {
    let bytes: [&[u8]; 3] = [&[0xff; 10], &[1], &[0; 60_000]];
    for bytes in bytes {
        let outcome = start(Sandbox::None, |control| {
            send_bytes(control, bytes);
        });
        assert_refused(outcome, &format!("{} bytes", bytes.len()));
    }
    // More descriptors than any start has.
    let file = File::open("/").unwrap();
    let outcome = start(Sandbox::None, |control| {
        control.send(&1u16, &[file.as_fd(); 60]).unwrap();
    });
    assert_refused(outcome, "60 descriptors");
}

/// Sends bytes as one datagram.
fn send_bytes(control: &Channel, bytes: &[u8]) {
    nix::sys::socket::send(
        std::os::fd::AsRawFd::as_raw_fd(&control.as_fd()),
        bytes,
        nix::sys::socket::MsgFlags::empty(),
    )
    .unwrap();
}
