//! A fallen supervisor: it has guest memory, the files that the guest has open, the ring, and nothing else.

use std::fs;

use airlockfs_tests::fuse::abi::ROOT;
use libc::*;

use crate::common;
use crate::names::{self, nothing_outside_is_named};
use crate::pair::{Outcome, Who};
use crate::road::{self, Behind, Road, args};
use crate::{Test, test};

pub(crate) const TESTS: &[Test] = &[
    test!(no_road_leads_the_supervisor_anywhere_in_production),
    test!(no_road_leads_the_supervisor_anywhere_without_the_filter),
    test!(the_supervisor_can_name_nothing),
    test!(what_the_guest_may_only_read_the_supervisor_may_only_read),
];

/// Besides those of both processes.
#[rustfmt::skip]
const ROADS: &[Road] = &[
    Road { name: "list its root", behind: Behind::Errno(&[EACCES]),
        go: |s| s.call(SYS_openat, args![AT_FDCWD, "/", O_RDONLY | O_DIRECTORY]) },
    Road { name: "create in its root", behind: Behind::Errno(&[EACCES, EROFS]),
        go: |s| s.call(SYS_openat, args![AT_FDCWD, "/x", O_CREAT | O_WRONLY, 0o600]) },
    Road { name: "create without a name in its root", behind: Behind::Errno(&[EACCES, EROFS]),
        go: |s| s.call(SYS_openat, args![AT_FDCWD, "/", O_TMPFILE | O_RDWR, 0o600]) },
    Road { name: "become root", behind: Behind::Errno(&[EPERM, EINVAL]),
        go: |s| s.call(SYS_setresuid, args![0, 0, 0]) },
    Road { name: "become root's group", behind: Behind::Errno(&[EPERM, EINVAL]),
        go: |s| s.call(SYS_setresgid, args![0, 0, 0]) },
    Road { name: "take groups", behind: Behind::Errno(&[EPERM]),
        go: |s| s.call(SYS_setgroups, args![1, vec![0_u8; 4]]) },
    Road { name: "give away what it holds", behind: Behind::Errno(&[EPERM, EINVAL, EOPNOTSUPP]),
        go: |s| s.each(s.pair.held(s.who), |fd| s.call(SYS_fchown, args![fd, 1, 1])) },
];

fn no_road_leads_the_supervisor_anywhere_in_production() {
    road::in_production(Who::Supervisor, common::ROADS);
    road::in_production(Who::Supervisor, ROADS);
}

fn no_road_leads_the_supervisor_anywhere_without_the_filter() {
    road::behind_the_filter(Who::Supervisor, common::ROADS);
    road::behind_the_filter(Who::Supervisor, ROADS);
}

/// Neither a path of the host, nor procfs and its links, nor anything beneath what it holds.
fn the_supervisor_can_name_nothing() {
    names::each_way(Who::Supervisor, |who, pair| {
        let held = pair.held(who);
        let worker = pair.process(Who::Worker).pid();
        let mut names = [
            "/etc/passwd",
            "../etc/passwd",
            "etc/passwd",
            "/proc/self/mem",
            "/sys/kernel",
            "/dev/null",
        ]
        .map(str::to_owned)
        .to_vec();
        names.push(pair.host("open").to_str().expect("text").to_owned());
        for pid in [worker, std::process::id().cast_signed(), 1] {
            names.extend(["mem", "root/etc/passwd", "fd/3"].map(|file| format!("/proc/{pid}/{file}")));
        }
        nothing_outside_is_named(who, &held, &names, pair);
        // What it holds, to be opened again with other rights.
        let again: Vec<String> = held
            .iter()
            .flat_map(|fd| {
                [
                    format!("/proc/self/fd/{fd}"),
                    format!("/dev/fd/{fd}"),
                    format!("{fd}"),
                ]
            })
            .collect();
        nothing_outside_is_named(who, &[], &again, pair);
        assert_eq!(
            fs::read(pair.host("open")).expect("the guest's file"),
            b"#!/bin/sh\n"
        );
    });
}

/// Descriptors carry the access that the guest has, whatever call is made on them.
fn what_the_guest_may_only_read_the_supervisor_may_only_read() {
    names::each_way(Who::Supervisor, |who, pair| {
        fs::write(pair.host("reads"), "as it was").expect("a file");
        let node = pair.guest.lookup(ROOT, "reads").expect("LOOKUP").nodeid;
        let file = pair.guest.open(node, O_RDONLY).expect("OPEN");
        // The second brings the file over.
        for _ in 0..2 {
            assert_eq!(pair.guest.read(file, 0, 100).expect("READ"), b"as it was");
        }
        let held = pair.process(who).descriptors().expect("its descriptors");
        let held = held.into_iter().find(|(_, target)| target.ends_with("reads"));
        let (fd, _) = held.expect("the file that the guest reads");
        let other = pair
            .held(who)
            .into_iter()
            .find(|other| *other != fd)
            .unwrap_or(fd);
        let iovec = {
            let bytes = pair.place(who, b"changed");
            pair.place(who, &[bytes.to_ne_bytes(), 7_u64.to_ne_bytes()].concat())
        };
        let attempts = [
            (SYS_write, args![fd, "changed", 7].to_vec()),
            (SYS_writev, args![fd, iovec, 1].to_vec()),
            (SYS_pwrite64, args![fd, "changed", 7, 0].to_vec()),
            (SYS_pwritev, args![fd, iovec, 1, 0, 0].to_vec()),
            (SYS_pwritev2, args![fd, iovec, 1, 0, 0, 0].to_vec()),
            (SYS_ftruncate, args![fd, 0].to_vec()),
            (SYS_fallocate, args![fd, 0, 0, 4096].to_vec()),
            (
                SYS_fallocate,
                args![fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096].to_vec(),
            ),
            (
                SYS_copy_file_range,
                args![fd, 0, fd, vec![16_u8, 0, 0, 0, 0, 0, 0, 0], 4, 0].to_vec(),
            ),
            (SYS_sendfile, args![fd, other, 0, 4].to_vec()),
            (SYS_splice, args![other, 0, fd, 0, 4, 0].to_vec()),
            (
                SYS_mmap,
                args![0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0].to_vec(),
            ),
        ];
        for (number, arguments) in attempts {
            let outcome = pair.call(who, number, &arguments);
            let no_way = match outcome {
                Outcome::Returned(result) => [EBADF, EACCES, EINVAL, EPERM, EXDEV]
                    .iter()
                    .any(|errno| result == -i64::from(*errno)),
                Outcome::Trapped | Outcome::Killed => true,
            };
            assert!(
                no_way,
                "{:?}: {number} {arguments:?} ended with {outcome:?}",
                pair.filter
            );
            pair.denied(who, outcome);
        }
        assert_eq!(fs::read(pair.host("reads")).expect("the file"), b"as it was");
    });
}
