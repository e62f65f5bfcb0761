//! Descriptor 2 in a fallen process: it can add lines to the log and do nothing else, whatever the
//! launcher left there. Tried with the production filter in its variant that traps, so that one
//! pair tries everything, and without a filter.

use std::fs::{self, File};
use std::io::Write;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use airlockfs_breach::Argument;
use airlockfs_tests::stderr::{Kind, READ, Stderr};
use airlockfs_tests::tempdir::TempDir;
use libc::*;

use crate::common::unix;
use crate::pair::{BOTH, Filter, Outcome, Pair, Who};
use crate::road::args;
use crate::{Test, test};

pub(crate) const TESTS: &[Test] = &[
    test!(nothing_is_read_from_the_log),
    test!(a_log_file_is_neither_overwritten_nor_cut_nor_has_holes),
    test!(the_systems_log_gets_lines_and_nobody_else_does),
];

/// A buffer of `length` bytes, as preadv2(2) wants it.
fn vector(pair: &Pair, who: Who, bytes: &[u8]) -> u64 {
    let place = pair.place(who, bytes);
    pair.place(
        who,
        &[place.to_ne_bytes(), (bytes.len() as u64).to_ne_bytes()].concat(),
    )
}

/// The call is trapped, or the kernel refuses it with one of these.
fn denied(pair: &Pair, who: Who, number: i64, arguments: &[Argument], errnos: &[i32]) {
    let outcome = pair.call(who, number, arguments);
    let no_way = match outcome {
        Outcome::Returned(result) => errnos.iter().any(|errno| result == -i64::from(*errno)),
        Outcome::Trapped | Outcome::Killed => true,
    };
    assert!(
        no_way,
        "{who:?} {:?}: {number} {arguments:?}: {outcome:?}",
        pair.filter
    );
    if pair.filter == Filter::Trap && number != SYS_openat {
        assert_eq!(outcome, Outcome::Trapped, "{who:?}: {number} {arguments:?}");
    }
    pair.denied(who, outcome);
}

/// What is typed on a terminal, or waits in a pipe or socket.
fn nothing_is_read_from_the_log() {
    for filter in [Filter::Trap, Filter::None] {
        for kind in READ {
            // A launcher's socket is one for reading, which the filter alone forbids; an end of a pipe likewise.
            if filter == Filter::None && kind == Kind::Socket {
                continue;
            }
            let mut stderr = Stderr::new(kind).expect("a stderr");
            let pair = Pair::with_stderr(filter, &[], stderr.writes(), None);
            if matches!(kind, Kind::Terminal | Kind::Socket) {
                stderr.reads.write_all(b"a secret\n").expect("typed");
            }
            for who in BOTH {
                let place = vector(&pair, who, &[0; 64]);
                let refused = [EBADF, ESPIPE, ENOTSOCK];
                denied(&pair, who, SYS_preadv2, args![2, place, 1, -1, -1, 0], &refused);
                denied(
                    &pair,
                    who,
                    SYS_preadv2,
                    args![2, place, 1, -1, 0, RWF_NOWAIT],
                    &refused,
                );
                denied(&pair, who, SYS_preadv2, args![2, place, 1, 0, 0, 0], &refused);
                denied(&pair, who, SYS_read, args![2, vec![0_u8; 64], 64], &refused);
                denied(&pair, who, SYS_recvmsg, args![2, vec![0_u8; 56], 0], &refused);
                denied(
                    &pair,
                    who,
                    SYS_ioctl,
                    args![2, TIOCSTI, "x"],
                    &[ENOTTY, EIO, EPERM, EACCES],
                );
                if who == Who::Worker && matches!(kind, Kind::Terminal | Kind::Fifo) {
                    denied(
                        &pair,
                        who,
                        SYS_openat,
                        args![AT_FDCWD, "2", O_RDONLY | O_NONBLOCK],
                        &[EACCES],
                    );
                }
            }
        }
    }
}

fn a_log_file_is_neither_overwritten_nor_cut_nor_has_holes() {
    let home = TempDir::new().expect("a directory");
    let first = "what others wrote\n".repeat(4096);
    for filter in [Filter::Trap, Filter::None] {
        let path = home.join("log");
        fs::write(&path, &first).expect("write");
        let opened = File::options().read(true).write(true).open(&path).expect("open");
        let pair = Pair::with_stderr(filter, &["--posix-lock", "--flock"], opened.into(), None);
        for who in BOTH {
            let place = vector(&pair, who, b"overwritten\n");
            let read = [EBADF, EACCES];
            denied(&pair, who, SYS_preadv2, args![2, place, 1, 0, 0, 0], &read);
            denied(
                &pair,
                who,
                SYS_mmap,
                args![0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 2, 0],
                &read,
            );
            // What is let through anyway goes to its end.
            for offset in [0, -1] {
                let outcome = pair.call(who, SYS_pwritev2, args![2, place, 1, offset, 0, 0]);
                let added = filter == Filter::None && outcome == Outcome::Returned(12);
                assert!(
                    added || outcome == Outcome::Trapped,
                    "{who:?} {filter:?}: {outcome:?}"
                );
            }
            if filter == Filter::Trap {
                let hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
                for mode in [hole, FALLOC_FL_ZERO_RANGE, FALLOC_FL_COLLAPSE_RANGE, 0] {
                    denied(&pair, who, SYS_fallocate, args![2, mode, 0, 4096], &[]);
                }
                denied(&pair, who, SYS_ftruncate, args![2, 0], &[]);
                denied(&pair, who, SYS_lseek, args![2, 0, SEEK_SET], &[]);
                denied(&pair, who, SYS_lseek, args![2, 0, SEEK_DATA], &[]);
                denied(&pair, who, SYS_fcntl, args![2, F_DUPFD_CLOEXEC, 0], &[]);
                denied(&pair, who, SYS_fcntl, args![2, F_SETFL, 0], &[]);
                denied(&pair, who, SYS_flock, args![2, LOCK_EX | LOCK_NB], &[]);
                denied(&pair, who, SYS_copy_file_range, args![2, 0, 2, 0, 4096, 0], &[]);
            }
            if who == Who::Worker {
                for flags in [O_RDONLY, O_WRONLY, O_RDWR | O_TRUNC] {
                    denied(&pair, who, SYS_openat, args![AT_FDCWD, "2", flags], &[EACCES]);
                }
                let cut = pair.call(who, SYS_truncate, args!["2", 0]);
                assert_eq!(cut, Outcome::Returned(-i64::from(EACCES)));
                pair.denied(who, cut);
            }
        }
        let log = fs::read_to_string(&path).expect("read");
        assert!(log.starts_with(&first), "{filter:?}");
    }
}

/// Neither a socket of the host's with an abstract name, nor one in the share, nor whoever the log's is.
fn the_systems_log_gets_lines_and_nobody_else_does() {
    let name = format!("airlockfs-breach-log-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let others = UnixDatagram::bind_addr(&address).expect("bind");
    others.set_nonblocking(true).expect("it does not wait");
    for filter in [Filter::Trap, Filter::None] {
        // A /dev with a log; the host's own may have none.
        let dev = TempDir::new().expect("a directory");
        let log = UnixDatagram::bind(dev.join("log")).expect("bind");
        log.set_nonblocking(true).expect("it does not wait");
        let null = File::open("/dev/null").expect("open");
        let pair = Pair::with_stderr(filter, &["--syslog"], null.into(), Some(&dev));
        let shared = UnixDatagram::bind(pair.host("socket")).expect("bind");
        shared.set_nonblocking(true).expect("it does not wait");
        let here = fs::read_to_string("/proc/net/unix").expect("the sockets of this namespace");
        for who in BOTH {
            let link = format!("/proc/{}/fd/2", pair.process(who).pid());
            let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&link).expect("its log"));
            let listed = here.lines().any(|line| line.contains(&format!(" {inode}")));
            assert!(!listed, "{who:?}: its socket is in this network namespace");
            for other in [unix(format!("\0{name}").as_bytes()), unix(b"/socket")] {
                let length = other.len();
                // The one in the share is the guest's to reach, by a worker without a filter.
                let own = who == Who::Worker && filter == Filter::None && other[2] != 0;
                if own {
                    continue;
                }
                let refused = [EPERM, EACCES, ECONNREFUSED, ENOENT];
                let number = if filter == Filter::Trap {
                    SYS_sendmsg
                } else {
                    SYS_sendto
                };
                let message = match filter {
                    Filter::Trap => args![2, message(&pair, who, &other), MSG_NOSIGNAL].to_vec(),
                    _ => args![2, "forged", 6, MSG_NOSIGNAL, other, length].to_vec(),
                };
                denied(&pair, who, number, &message, &refused);
            }
        }
        for socket in [&others, &shared] {
            assert!(
                socket.recv(&mut [0; 64]).is_err(),
                "{filter:?}: somebody else was told"
            );
        }
        let mut line = [0; 4096];
        let mut lines = 0;
        while let Ok(length) = log.recv(&mut line) {
            let line = String::from_utf8_lossy(&line[..length]);
            assert!(
                line.starts_with("airlockfs") || line.starts_with("Waiting for"),
                "{line}"
            );
            lines += 1;
        }
        assert!(lines > 0, "the system's log got nothing");
    }
}

/// A `struct msghdr` to this address.
fn message(pair: &Pair, who: Who, address: &[u8]) -> u64 {
    let name = pair.place(who, address);
    let part = vector(pair, who, b"forged");
    let words = [name, address.len() as u64, part, 1, 0, 0, 0];
    pair.place(who, &words.map(u64::to_ne_bytes).concat())
}
