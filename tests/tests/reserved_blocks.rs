//! The guest gets no blocks that the host's file system keeps for its root, whoever in the guest
//! asks for them and whichever process writes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Client, Opened, SetAttr};
use airlockfs_tests::ground::Ground;
use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

/// Of a small ext4: a third is root's, and nothing is kept back for later (a journal, delayed allocation).
fn shared(options: &[&str]) -> (Ground, Daemon, Client) {
    let ground = Ground::ext4(48 << 20, &["-m", "30", "-O", "^has_journal"], "nodelalloc");
    let mode = fs::Permissions::from_mode(0o777);
    fs::set_permissions(ground.path(), mode).expect("chmod");
    let daemon = Launch::airlockfs().share(&ground.path()).args(options).start();
    let client = daemon.client();
    (ground, daemon, client)
}

/// Blocks that are free, and those of them that are not root's.
fn free(ground: &Ground) -> (u64, u64) {
    let found = statvfs(&ground.path()).expect("statvfs");
    (found.blocks_free(), found.blocks_available())
}

fn created(fs: &Client, name: &str) -> Result<Opened, Errno> {
    fs.create(ROOT, name, libc::O_RDWR, 0o644).map(|(_, file)| file)
}

/// Takes what there is with small files, each of which is written to once: that goes through the worker.
fn fill(fs: &Client, who: &str) {
    let data = [7; 16 << 10];
    for i in 0..10_000 {
        let file = match created(fs, &format!("{who}{i}")) {
            Ok(file) => file,
            Err(errno) => return assert_eq!(errno, Errno::ENOSPC, "{who}"),
        };
        let written = fs.write(file, 0, &data);
        fs.release(file).expect("RELEASE");
        match written {
            Ok(written) if written as usize == data.len() => {}
            Ok(_) | Err(Errno::ENOSPC) => return,
            Err(errno) => panic!("{who}: {errno}"),
        }
    }
    panic!("{who}: there is no end");
}

#[test]
fn what_the_file_system_keeps_for_root_stays_roots() {
    for options in [&[][..], &["--no-donate"]] {
        let (ground, _daemon, fs) = shared(options);
        let (free_before, available) = free(&ground);
        let reserve = free_before - available;
        assert!(reserve > 1000, "{reserve}");
        // What names and the like take in root's name.
        let least = reserve - 64;
        let kept = |what: &str| {
            let (free, available) = free(&ground);
            assert!(
                free >= least,
                "{options:?} {what}: {free} of {reserve} blocks are left"
            );
            assert!(
                available < 64,
                "{options:?} {what}: {available} blocks are left over"
            );
        };
        let user = fs.as_user(1000, 1000);
        let large = created(&user, "large").expect("CREATE");
        let copied = created(&user, "copied").expect("CREATE");
        user.write(copied, 0, &[1; 256 << 10]).expect("WRITE");
        fill(&user, "user");
        kept("a user's writes");
        // A file that nobody wrote to yet is allocated by the worker, as is what is copied.
        assert_eq!(
            user.fallocate(large, 0, 0, 4 << 20),
            Err(Errno::ENOSPC),
            "{options:?}"
        );
        let copy = user.copy_file_range((copied, 0), (large, 0), 256 << 10);
        assert!(
            matches!(copy, Err(Errno::ENOSPC)) || copy.is_ok_and(|copied| copied < 256 << 10),
            "{options:?} {copy:?}"
        );
        kept("a user's allocation and copy");
        fill(&fs, "root");
        kept("a guest's root");
        // Once it was written to more than once its descriptor is the supervisor's, unless that holds none.
        for i in 0..4 {
            let written = user.write(large, i << 20, &vec![1; 1 << 20]);
            assert!(written.is_err() || written.is_ok_and(|written| written < 1 << 20));
        }
        kept("writes of whoever has the file");
    }
}

#[test]
fn where_room_is_scarce_roots_write_keeps_setuid_as_ever() {
    let (ground, _daemon, fs) = shared(&["--no-donate"]);
    let (entry, file) = fs.create(ROOT, "program", libc::O_RDWR, 0o755).expect("CREATE");
    fs.write(file, 0, b"program").expect("WRITE");
    fs.setattr(entry.nodeid, SetAttr::default().mode(0o4755))
        .expect("SETATTR");
    fill(&fs, "root");
    let (_, available) = free(&ground);
    assert!(available < 64, "{available}");
    fs.write(file, 0, b"changed").expect("WRITE");
    assert_eq!(fs.getattr(entry.nodeid).expect("GETATTR").mode & 0o7777, 0o4755);
    // And the thread is itself again: only root makes this.
    fs.setattr(entry.nodeid, SetAttr::default().uid(12))
        .expect("SETATTR");
}
