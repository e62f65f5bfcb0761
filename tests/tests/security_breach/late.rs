//! What the host mounts beneath a read-only share while it is served. The mount is writable, as the
//! host made it: a later mount does not inherit the flags of the share's mount. Landlock's rights
//! do cover it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use airlockfs_breach::Argument;
use airlockfs_tests::fuse::SetAttr;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::mount::Mount;
use airlockfs_tests::tempdir::TempDir;
use libc::*;
use nix::errno::Errno;

use crate::pair::{Filter, Outcome, Pair, Who};
use crate::road::args;
use crate::{Test, test};

pub(crate) const TESTS: &[Test] = &[
    test!(a_late_mount_beneath_a_read_only_share_is_not_changed_by_its_guest),
    test!(a_late_mount_beneath_a_read_only_share_is_not_written_by_a_fallen_worker),
];

/// A host with a directory to share read-only, `share`, which has an empty directory `mnt`; `other` to share as well; and
/// `source` with a file, which is not shared.
struct Host {
    _shared: Mount,
    home: TempDir,
}

/// How the directory is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// Nothing that this worker serves may change.
    All,
    /// Beside another that may.
    Mixed,
}

impl Host {
    fn new() -> Self {
        let home = TempDir::new().expect("a directory");
        for name in ["share/mnt", "other", "source/dir"] {
            fs::create_dir_all(home.join(name)).expect("a directory");
        }
        fs::write(home.join("source/file"), "as it was").expect("a file");
        let share = home.join("share");
        let shared = Mount::shared(&share).expect("a shared mount");
        Self {
            _shared: shared,
            home,
        }
    }

    fn pair(&self, how: How, filter: Filter) -> Pair {
        let path = |name: &str| self.home.join(name).display().to_string();
        let options = match how {
            How::All => vec!["--readonly".to_owned(), format!("--share=y={}", path("share"))],
            How::Mixed => vec![
                format!("--share=x={}", path("other")),
                format!("--share-ro=y={}", path("share")),
            ],
        };
        let mut options: Vec<&str> = options.iter().map(String::as_str).collect();
        options.push("--xattr");
        Pair::new(filter, &options)
    }

    /// The mount that comes late.
    fn mounts(&self) -> Mount {
        Mount::bind(&self.home.join("source"), &self.home.join("share/mnt")).expect("a bind mount")
    }

    /// Mode, owner, time of modification, names beside it, content.
    fn state(&self) -> (u32, u32, i64, usize, Vec<u8>) {
        let file = self.home.join("source/file");
        let found = fs::metadata(&file).expect("the file");
        let names = fs::read_dir(self.home.join("source")).expect("a list").count();
        let content = fs::read(&file).expect("the file");
        (found.mode(), found.uid(), found.mtime(), names, content)
    }
}

fn a_late_mount_beneath_a_read_only_share_is_not_changed_by_its_guest() {
    for how in [How::All, How::Mixed] {
        let host = Host::new();
        let pair = host.pair(how, Filter::Kill);
        let guest = &pair.guest;
        let share = guest.lookup(ROOT, "y").expect("LOOKUP").nodeid;
        let before = guest.lookup(share, "mnt").expect("LOOKUP").nodeid;
        let _mount = host.mounts();
        let was = host.state();
        let directory = guest.lookup(share, "mnt").expect("LOOKUP").nodeid;
        assert_ne!(directory, before, "the mount does not arrive");
        let file = guest.lookup(directory, "file").expect("LOOKUP").nodeid;
        let changes = [
            guest.open(file, O_RDWR).map(drop),
            guest.open(file, O_RDONLY | O_TRUNC).map(drop),
            guest.create(directory, "new", O_RDWR, 0o600).map(drop),
            guest.mkdir(directory, "new", 0o700).map(drop),
            guest.mknod(directory, "new", S_IFREG | 0o600, 0).map(drop),
            guest.symlink(directory, "new", "target").map(drop),
            guest.link(file, directory, "new").map(drop),
            guest.rename(directory, "file", directory, "new"),
            guest.unlink(directory, "file"),
            guest.rmdir(directory, "dir"),
            guest.setattr(file, SetAttr::default().mode(0o777)).map(drop),
            guest.setattr(file, SetAttr::default().uid(1)).map(drop),
            guest.setattr(file, SetAttr::default().mtime(1, 1)).map(drop),
            guest.setattr(file, SetAttr::default().size(0)).map(drop),
            guest.setxattr(file, "user.a", b"x", 0),
        ];
        assert!(
            changes.iter().all(|change| *change == Err(Errno::EROFS)),
            "{how:?}: {changes:?}"
        );
        assert_eq!(host.state(), was);
    }
}

/// Neither content nor names, by Landlock alone if need be. Mode, owner, times and attributes, for which Landlock has no
/// right, only if the filter has no call for them: under `--readonly`, not beside a share that may change.
fn a_late_mount_beneath_a_read_only_share_is_not_written_by_a_fallen_worker() {
    for (how, filter) in [
        (How::All, Filter::Trap),
        (How::All, Filter::None),
        (How::Mixed, Filter::Trap),
        (How::Mixed, Filter::None),
    ] {
        let host = Host::new();
        let pair = host.pair(how, filter);
        let _mount = host.mounts();
        let was = host.state();
        let call = |number, arguments: &[Argument]| pair.call(Who::Worker, number, arguments);
        let opened = |path: &str, flags| match call(SYS_openat, args![AT_FDCWD, path, flags | O_NOFOLLOW]) {
            Outcome::Returned(number @ 0..) => number,
            outcome => panic!("{path}: {outcome:?}"),
        };
        let directory = opened("/y/mnt", O_PATH);
        let held = opened("/y/mnt/file", O_PATH);
        let open = opened("/y/mnt/file", O_RDONLY);
        let held = held.to_string();
        let held = held.as_str();
        let mut attempts = vec![
            (SYS_mkdirat, args![directory, "new", 0o700].to_vec()),
            (SYS_mknodat, args![directory, "new", S_IFREG | 0o600, 0].to_vec()),
            (SYS_symlinkat, args!["x", directory, "new"].to_vec()),
            (
                SYS_linkat,
                args![AT_FDCWD, held, directory, "new", AT_SYMLINK_FOLLOW].to_vec(),
            ),
            (
                SYS_renameat2,
                args![directory, "file", directory, "new", 0].to_vec(),
            ),
            (SYS_unlinkat, args![directory, "file", 0].to_vec()),
            (SYS_unlinkat, args![directory, "dir", AT_REMOVEDIR].to_vec()),
            (SYS_truncate, args![held, 0].to_vec()),
            (SYS_ftruncate, args![open, 0].to_vec()),
            (SYS_fallocate, args![open, 0, 0, 4096].to_vec()),
            (SYS_write, args![open, "changed", 7].to_vec()),
            (
                SYS_openat,
                args![directory, ".", O_TMPFILE | O_RDWR, 0o600].to_vec(),
            ),
        ];
        for flags in [
            O_WRONLY,
            O_RDWR,
            O_RDONLY | O_TRUNC,
            O_WRONLY | O_TRUNC,
            O_RDWR | O_CREAT,
        ] {
            attempts.push((
                SYS_openat,
                args![directory, "file", flags | O_NOFOLLOW, 0o600].to_vec(),
            ));
            attempts.push((SYS_openat, args![AT_FDCWD, held, flags, 0o600].to_vec()));
        }
        attempts.push((
            SYS_openat,
            args![directory, "new", O_RDWR | O_CREAT | O_NOFOLLOW, 0o600].to_vec(),
        ));
        for (number, arguments) in attempts {
            let outcome = call(number, &arguments);
            let no_way = match outcome {
                Outcome::Returned(result) => [EACCES, EPERM, EBADF, EINVAL, EXDEV]
                    .iter()
                    .any(|errno| result == -i64::from(*errno)),
                Outcome::Trapped | Outcome::Killed => true,
            };
            assert!(no_way, "{how:?} {filter:?}: {number} {arguments:?}: {outcome:?}");
            pair.denied(Who::Worker, outcome);
        }
        assert_eq!(host.state(), was, "{how:?} {filter:?}");

        let metadata = [
            (SYS_fchmodat, args![AT_FDCWD, held, 0o600].to_vec()),
            (SYS_fchownat, args![AT_FDCWD, held, 1, 1, 0].to_vec()),
            (SYS_utimensat, args![AT_FDCWD, held, 0, 0].to_vec()),
            (SYS_setxattr, args![held, "user.a", "x", 1, 0].to_vec()),
        ];
        for (number, arguments) in metadata {
            let outcome = call(number, &arguments);
            if (how, filter) == (How::All, Filter::Trap) {
                assert_eq!(outcome, Outcome::Trapped, "{number}");
                pair.denied(Who::Worker, outcome);
            } else {
                println!("NOT HELD, as THREAT_MODEL.md says: {how:?} {filter:?}: call {number}: {outcome:?}");
            }
        }
        if (how, filter) == (How::All, Filter::Trap) {
            assert_eq!(host.state(), was);
        }
    }
}
