//! A fallen worker: it has the share and the ring, and nothing else.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};

use airlockfs_breach::Argument;
use airlockfs_tests::tempdir::TempDir;
use libc::*;

use crate::names::{self, nothing_outside_is_named};
use crate::pair::{Filter, Outcome, Pair, USER, Who};
use crate::road::{self, args};
use crate::{Test, common, test};

pub(crate) const TESTS: &[Test] = &[
    test!(no_road_leads_the_worker_out_of_the_share_in_production),
    test!(no_road_leads_the_worker_out_of_the_share_without_the_filter),
    test!(the_worker_can_name_nothing_outside_the_share),
    test!(a_directory_that_leaves_the_share_leads_nowhere_else),
    test!(a_directory_that_is_passed_in_opens_nothing),
    test!(a_device_in_the_share_is_not_opened),
    test!(a_program_in_the_share_is_not_executed),
    test!(the_worker_holds_nothing_of_the_guests_memory),
    test!(a_read_only_share_is_not_changed_by_a_fallen_worker),
];

fn no_road_leads_the_worker_out_of_the_share_in_production() {
    road::in_production(Who::Worker, common::ROADS);
}

fn no_road_leads_the_worker_out_of_the_share_without_the_filter() {
    road::behind_the_filter(Who::Worker, common::ROADS);
}

/// A directory outside every share, with a secret in it.
fn outside() -> TempDir {
    let outside = TempDir::new().expect("a directory");
    fs::write(outside.join("secret"), "secret").expect("a file");
    fs::create_dir(outside.join("below")).expect("a directory");
    outside
}

/// It is as it was.
fn untouched(outside: &TempDir) {
    let mut names: Vec<_> = fs::read_dir(&**outside)
        .expect("a list")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["below", "secret"]);
    let secret = fs::metadata(outside.join("secret")).expect("the secret");
    assert_eq!(
        (secret.uid(), secret.mode() & 0o7777, secret.len()),
        (0, 0o644, 6)
    );
}

/// By no path, link, `..`, procfs or descriptor.
fn the_worker_can_name_nothing_outside_the_share() {
    names::each_way(Who::Worker, |who, pair| {
        let outside = outside();
        symlink(&*outside, pair.host("absolute")).expect("a link");
        let up = "../".repeat(16) + outside.to_str().expect("text").trim_start_matches('/');
        symlink(&up, pair.host("relative")).expect("a link");
        let secret = outside.join("secret");
        let mut names = vec![
            secret.to_str().expect("text").to_owned(),
            format!("{up}/secret"),
            "absolute/secret".to_owned(),
            "relative/secret".to_owned(),
            "/absolute/secret".to_owned(),
            "/relative/secret".to_owned(),
            "../../../../etc/passwd".to_owned(),
            "/proc/self/root/etc/passwd".to_owned(),
            "../root/etc/passwd".to_owned(),
            "../../1/root/etc/passwd".to_owned(),
            "../task/1/mem".to_owned(),
        ];
        for pid in [
            pair.process(Who::Supervisor).pid(),
            std::process::id().cast_signed(),
        ] {
            names.push(format!("/proc/{pid}/mem"));
        }
        nothing_outside_is_named(who, &pair.held(who), &names, pair);
        // Of procfs there is the list of its descriptors, without a way up.
        for name in [
            "../status",
            "../mem",
            "../environ",
            "../exe",
            "../fd/0",
            "../root",
            "../task",
        ] {
            for flags in [O_PATH, O_RDONLY] {
                denied(pair, SYS_openat, args![AT_FDCWD, name, flags], &[ENOENT]);
            }
        }
        untouched(&outside);
    });
}

/// The filter lets the worker open, so each of these is tried with it too.
const FILTERS: [(Filter, Option<u32>); 3] = [
    (Filter::Kill, None),
    (Filter::None, None),
    (Filter::None, Some(USER)),
];

fn call(pair: &Pair, number: i64, arguments: &[Argument]) -> i64 {
    match pair.call(Who::Worker, number, arguments) {
        Outcome::Returned(result) => result,
        outcome => panic!("{number} {arguments:?} ended with {outcome:?}"),
    }
}

fn denied(pair: &Pair, number: i64, arguments: &[Argument], errnos: &[i32]) {
    let result = call(pair, number, arguments);
    assert!(
        errnos.iter().any(|errno| result == -i64::from(*errno)),
        "{:?}: {number} {arguments:?}: {result}",
        pair.filter
    );
    pair.denied(Who::Worker, Outcome::Returned(result));
}

/// The descriptor of the share's root that the worker works from.
fn root(pair: &Pair) -> i32 {
    let held = pair.process(Who::Worker).descriptors().expect("its descriptors");
    let share = fs::metadata(pair.host(".")).expect("the share").ino();
    let list = format!("/proc/{}/fd", pair.process(Who::Worker).pid());
    let found = held.into_iter().map(|(number, _)| number).find(|number| {
        fs::metadata(format!("{list}/{number}")).is_ok_and(|found| found.ino() == share && found.is_dir())
    });
    found.expect("the share's root")
}

/// The host moves a directory that the worker holds out of the share: `..` of it is not in the share any more.
fn a_directory_that_leaves_the_share_leads_nowhere_else() {
    for (filter, user) in FILTERS {
        let outside = outside();
        let pair = Pair::started(filter, &[], user);
        fs::create_dir(pair.host("moved")).expect("a directory");
        let moved = call(
            &pair,
            SYS_openat,
            args![root(&pair), "moved", O_PATH | O_NOFOLLOW],
        );
        assert!(moved >= 0, "{moved}");
        fs::rename(pair.host("moved"), outside.join("below/moved")).expect("renamed");
        for name in ["..", "../../secret", "../../below"] {
            for flags in [O_PATH, O_RDONLY, O_RDWR] {
                denied(
                    &pair,
                    SYS_openat,
                    args![moved, name, flags | O_NOFOLLOW],
                    &[ENOENT, EACCES, EISDIR],
                );
            }
        }
        denied(
            &pair,
            SYS_mkdirat,
            args![moved, "../made", 0o700],
            &[ENOENT, EACCES],
        );
        denied(
            &pair,
            SYS_unlinkat,
            args![moved, "../../secret", 0],
            &[ENOENT, EACCES],
        );
        untouched(&outside);
    }
}

/// Somebody hands the worker a directory of the host: Landlock knows it is not of the share.
fn a_directory_that_is_passed_in_opens_nothing() {
    for (filter, user) in FILTERS {
        let outside = outside();
        let pair = Pair::started(filter, &[], user);
        let directory = pair.pass_in(Who::Worker, File::open(&*outside).expect("a directory"));
        let root = root(&pair);
        for flags in [O_RDONLY, O_RDWR, O_WRONLY | O_TRUNC, O_CREAT | O_RDWR] {
            denied(
                &pair,
                SYS_openat,
                args![directory, "secret", flags | O_NOFOLLOW, 0o600],
                &[EACCES],
            );
        }
        denied(
            &pair,
            SYS_openat,
            args![directory, "new", O_CREAT | O_RDWR | O_NOFOLLOW, 0o600],
            &[EACCES],
        );
        denied(
            &pair,
            SYS_openat,
            args![directory, "below", O_RDONLY | O_NOFOLLOW],
            &[EACCES],
        );
        // O_PATH names it, and opens nothing by the number either.
        let held = call(&pair, SYS_openat, args![directory, "secret", O_PATH | O_NOFOLLOW]);
        assert!(held >= 0, "{held}");
        for flags in [O_RDONLY, O_RDWR, O_RDWR | O_TRUNC] {
            denied(
                &pair,
                SYS_openat,
                args![AT_FDCWD, held.to_string().as_str(), flags],
                &[EACCES],
            );
        }
        denied(
            &pair,
            SYS_truncate,
            args![held.to_string().as_str(), 0],
            &[EACCES],
        );
        // Nothing is made, moved or removed there, nor linked out of it into the share.
        denied(&pair, SYS_mkdirat, args![directory, "new", 0o700], &[EACCES]);
        denied(
            &pair,
            SYS_mknodat,
            args![directory, "new", S_IFREG | 0o600, 0],
            &[EACCES],
        );
        denied(&pair, SYS_symlinkat, args!["x", directory, "new"], &[EACCES]);
        denied(&pair, SYS_unlinkat, args![directory, "secret", 0], &[EACCES]);
        denied(
            &pair,
            SYS_unlinkat,
            args![directory, "below", AT_REMOVEDIR],
            &[EACCES],
        );
        denied(
            &pair,
            SYS_renameat2,
            args![directory, "secret", root, "secret", 0],
            &[EACCES, EXDEV],
        );
        denied(
            &pair,
            SYS_renameat2,
            args![root, "open", directory, "open", 0],
            &[EACCES, EXDEV],
        );
        let number = held.to_string();
        denied(
            &pair,
            SYS_linkat,
            args![AT_FDCWD, number.as_str(), root, "secret", AT_SYMLINK_FOLLOW],
            &[EACCES, EXDEV],
        );
        untouched(&outside);
    }
}

fn a_device_in_the_share_is_not_opened() {
    for (filter, user) in FILTERS {
        let pair = Pair::started(filter, &[], user);
        let null = nix::sys::stat::makedev(1, 3);
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o666);
        nix::sys::stat::mknod(&pair.host("null"), nix::sys::stat::SFlag::S_IFCHR, mode, null)
            .expect("a device");
        for flags in [O_RDONLY, O_RDWR] {
            denied(
                &pair,
                SYS_openat,
                args![root(&pair), "null", flags | O_NOFOLLOW],
                &[EACCES],
            );
        }
        // Nor does it make any: in production the call ends it.
        for kind in [S_IFCHR, S_IFBLK] {
            let made = args![root(&pair), "device", kind | 0o600, null];
            let pair = match filter {
                Filter::Kill => &Pair::new(filter, &[]),
                _ => &pair,
            };
            let outcome = pair.call(Who::Worker, SYS_mknodat, made);
            let held = [EPERM, EACCES].map(|errno| Outcome::Returned(-i64::from(errno)));
            assert!(
                outcome == Outcome::Killed || held.contains(&outcome),
                "{outcome:?}"
            );
            pair.denied(Who::Worker, outcome);
        }
    }
}

fn a_program_in_the_share_is_not_executed() {
    for user in [None, Some(USER)] {
        // Without the filter, which has no call for it.
        let pair = Pair::started(Filter::None, &[], user);
        fs::copy("/bin/true", pair.host("program")).expect("a program");
        denied(&pair, SYS_execve, args!["/program", 0, 0], &[EACCES]);
        denied(&pair, SYS_execve, args!["/open", 0, 0], &[EACCES]);
        denied(
            &pair,
            SYS_execveat,
            args![root(&pair), "program", 0, 0, 0],
            &[EACCES],
        );
        let held = call(&pair, SYS_openat, args![root(&pair), "program", O_RDONLY]);
        denied(
            &pair,
            SYS_execveat,
            args![held, "", 0, 0, AT_EMPTY_PATH],
            &[EACCES],
        );
        denied(
            &pair,
            SYS_mmap,
            args![0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, held, 0],
            &[EPERM],
        );
    }
}

/// Neither mapped nor held, while the supervisor has it mapped.
fn the_worker_holds_nothing_of_the_guests_memory() {
    let pair = Pair::new(Filter::Kill, &[]);
    let maps = |who| {
        let pid = pair.process(who).pid();
        fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps")
    };
    // The name that the harness gives it.
    assert!(maps(Who::Supervisor).contains("memfd:airlockfs-guest"));
    assert!(!maps(Who::Worker).contains("memfd:airlockfs-guest"));
    let held = pair.process(Who::Worker).descriptors().expect("its descriptors");
    assert!(
        held.iter()
            .all(|(_, target)| !target.to_string_lossy().contains("airlockfs-guest"))
    );
}

/// Not by any call, with the filter or without: the mount is read-only, and Landlock grants no such right.
fn a_read_only_share_is_not_changed_by_a_fallen_worker() {
    for (filter, user) in [
        (Filter::Trap, None),
        (Filter::None, None),
        (Filter::None, Some(USER)),
    ] {
        let pair = Pair::started(filter, &["--readonly", "--xattr"], user);
        fs::write(pair.host("file"), "as it was").expect("a file");
        let root = root(&pair);
        let held = call(&pair, SYS_openat, args![root, "file", O_PATH | O_NOFOLLOW]);
        let open = call(&pair, SYS_openat, args![root, "file", O_RDONLY | O_NOFOLLOW]);
        assert!(held >= 0 && open >= 0);
        let held = held.to_string();
        let held = held.as_str();
        let mut attempts = vec![
            (SYS_mkdirat, args![root, "new", 0o700].to_vec()),
            (SYS_mknodat, args![root, "new", S_IFREG | 0o600, 0].to_vec()),
            (SYS_symlinkat, args!["x", root, "new"].to_vec()),
            (
                SYS_linkat,
                args![AT_FDCWD, held, root, "new", AT_SYMLINK_FOLLOW].to_vec(),
            ),
            (SYS_renameat2, args![root, "file", root, "new", 0].to_vec()),
            (SYS_unlinkat, args![root, "file", 0].to_vec()),
            (SYS_fchmodat, args![AT_FDCWD, held, 0o777].to_vec()),
            (SYS_fchmod, args![open, 0o777].to_vec()),
            (SYS_fchownat, args![root, "file", 1, 1, 0].to_vec()),
            (SYS_fchown, args![open, 1, 1].to_vec()),
            (SYS_utimensat, args![AT_FDCWD, held, 0, 0].to_vec()),
            (SYS_truncate, args![held, 0].to_vec()),
            (SYS_ftruncate, args![open, 0].to_vec()),
            (SYS_fallocate, args![open, 0, 0, 4096].to_vec()),
            (SYS_write, args![open, "changed", 7].to_vec()),
            (SYS_setxattr, args![held, "user.a", "x", 1, 0].to_vec()),
            (SYS_fsetxattr, args![open, "user.a", "x", 1, 0].to_vec()),
            (SYS_removexattr, args![held, "user.a"].to_vec()),
            (
                SYS_mount,
                args!["none", "/", "", MS_REMOUNT | MS_BIND, 0].to_vec(),
            ),
            (
                SYS_mount_setattr,
                args![
                    AT_FDCWD,
                    "/",
                    0,
                    [[0; 8], 1_u64.to_ne_bytes(), [0; 8], [0; 8]].concat(),
                    32
                ]
                .to_vec(),
            ),
        ];
        for flags in [O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC, O_WRONLY | O_CREAT] {
            attempts.push((
                SYS_openat,
                args![root, "file", flags | O_NOFOLLOW, 0o600].to_vec(),
            ));
            attempts.push((SYS_openat, args![AT_FDCWD, held, flags, 0o600].to_vec()));
        }
        attempts.push((
            SYS_openat,
            args![root, "new", O_WRONLY | O_CREAT | O_NOFOLLOW, 0o600].to_vec(),
        ));
        attempts.push((SYS_openat, args![root, ".", O_TMPFILE | O_RDWR, 0o600].to_vec()));
        for (number, arguments) in attempts {
            let outcome = pair.call(Who::Worker, number, &arguments);
            let no_way = match outcome {
                Outcome::Returned(result) => [EROFS, EACCES, EPERM, EBADF, EINVAL]
                    .iter()
                    .any(|errno| result == -i64::from(*errno)),
                Outcome::Trapped | Outcome::Killed => true,
            };
            assert!(
                no_way,
                "{filter:?}: {number} {arguments:?} ended with {outcome:?}"
            );
            pair.denied(Who::Worker, outcome);
        }
        let found = fs::metadata(pair.host("file")).expect("the file");
        assert_eq!((found.mode() & 0o7777, found.uid(), found.nlink()), (0o644, 0, 1));
        assert_eq!(fs::read(pair.host("file")).expect("the file"), b"as it was");
        assert_eq!(fs::read_dir(pair.host(".")).expect("the share").count(), 1);
    }
}
