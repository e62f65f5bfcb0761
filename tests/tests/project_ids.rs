//! The host bounds a share by project quotas. Without an option, a guest changes neither the
//! project id of a file, nor whether new files inherit it, nor how the host lays files out.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::fuse::{Client, Opened};
use airlockfs_tests::ground::Ground;
use nix::errno::Errno;

/// FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR (uapi `linux/fs.h`).
const GETFLAGS: u32 = 0x8008_6601;
const SETFLAGS: u32 = 0x4008_6602;
const FSGETXATTR: u32 = 0x801c_581f;
const FSSETXATTR: u32 = 0x401c_5820;
/// FS_PROJINHERIT_FL, FS_DAX_FL, FS_NODUMP_FL.
const PROJINHERIT_FL: u32 = 0x2000_0000;
const DAX_FL: u32 = 0x0200_0000;
const NODUMP_FL: u32 = 0x40;
/// Words of `struct fsxattr`.
const XFLAGS: usize = 0;
const EXTSIZE: usize = 1;
const PROJID: usize = 3;
const COWEXTSIZE: usize = 4;
/// FS_XFLAG_NODUMP.
const NODUMP: u32 = 0x80;
/// FS_XFLAG_*: what else there is to set, by name. Realtime data lies on another device.
const HOSTS: [(&str, u32); 9] = [
    ("REALTIME", 0x1),
    ("RTINHERIT", 0x100),
    ("PROJINHERIT", 0x200),
    ("NOSYMLINKS", 0x400),
    ("EXTSIZE", 0x800),
    ("EXTSZINHERIT", 0x1000),
    ("FILESTREAM", 0x4000),
    ("DAX", 0x8000),
    ("COWEXTSIZE", 0x1_0000),
];

/// What `xfs_io` prints for a command on a path of the host.
fn xfs_io(path: &Path, command: &str) -> String {
    let output = Command::new("xfs_io")
        .args(["-r", "-c", command])
        .arg(path)
        .output();
    let output = output.expect("xfs_io");
    assert!(output.status.success(), "{command}: {output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// A share in project 42 with a file and a directory of it; what is made there joins the project.
fn shared(options: &[&str]) -> (Ground, Daemon, Client) {
    let ground = Ground::xfs();
    let share = ground.path();
    xfs_io(&share, "chproj 42");
    xfs_io(&share, "chattr +P");
    let daemon = Launch::airlockfs().share(&share).args(options).start();
    let client = daemon.client();
    client.mkdir(ROOT, "dir", 0o755).expect("MKDIR");
    client.create(ROOT, "file", libc::O_RDWR, 0o644).expect("CREATE");
    (ground, daemon, client)
}

fn opened(fs: &Client) -> [(&'static str, Opened); 3] {
    let node = |name| fs.lookup(ROOT, name).expect("LOOKUP").nodeid;
    [
        (".", fs.opendir(ROOT).expect("OPENDIR")),
        ("dir", fs.opendir(node("dir")).expect("OPENDIR")),
        ("file", fs.open(node("file"), libc::O_RDWR).expect("OPEN")),
    ]
}

fn flags(fs: &Client, file: Opened) -> u32 {
    let (_, out) = fs.ioctl(file, GETFLAGS, &[], 4).expect("FS_IOC_GETFLAGS");
    u32::from_le_bytes(out.try_into().expect("four bytes"))
}

fn extended(fs: &Client, file: Opened) -> [u32; 7] {
    let (_, out) = fs.ioctl(file, FSGETXATTR, &[], 28).expect("FS_IOC_FSGETXATTR");
    std::array::from_fn(|word| u32::from_le_bytes(out[4 * word..][..4].try_into().expect("four bytes")))
}

fn set_flags(fs: &Client, file: Opened, flags: u32) -> Result<(), Errno> {
    fs.ioctl(file, SETFLAGS, &flags.to_le_bytes(), 0).map(drop)
}

fn set_extended(fs: &Client, file: Opened, words: [u32; 7]) -> Result<(), Errno> {
    fs.ioctl(file, FSSETXATTR, &words.map(u32::to_le_bytes).concat(), 0)
        .map(drop)
}

/// The same with one word changed by `change`.
fn changed(fs: &Client, file: Opened, word: usize, change: impl FnOnce(u32) -> u32) -> Result<(), Errno> {
    let mut words = extended(fs, file);
    words[word] = change(words[word]);
    set_extended(fs, file, words)
}

#[test]
fn a_guest_stays_in_its_project() {
    let (ground, _daemon, fs) = shared(&[]);
    for fs in [fs.clone(), fs.as_user(1000, 1000)] {
        for (name, file) in opened(&fs) {
            let path = ground.path().join(name);
            let before = xfs_io(&path, "stat -v");
            assert!(before.contains("fsxattr.projid = 42"), "{before}");
            for project in [0, 7, u32::MAX] {
                assert_eq!(
                    changed(&fs, file, PROJID, |_| project),
                    Err(Errno::EPERM),
                    "{name}"
                );
            }
            assert_eq!(
                changed(&fs, file, EXTSIZE, |_| 1 << 20),
                Err(Errno::EPERM),
                "{name}"
            );
            assert_eq!(
                changed(&fs, file, COWEXTSIZE, |_| 1 << 20),
                Err(Errno::EPERM),
                "{name}"
            );
            for (flag, bit) in HOSTS {
                assert_eq!(
                    changed(&fs, file, XFLAGS, |flags| flags ^ bit),
                    Err(Errno::EPERM),
                    "{name} {flag}"
                );
            }
            // What needs the size beside the flag comes no further with it.
            let mut sized = extended(&fs, file);
            (sized[XFLAGS], sized[EXTSIZE]) = (sized[XFLAGS] | 0x1800, 1 << 20);
            assert_eq!(set_extended(&fs, file, sized), Err(Errno::EPERM), "{name}");
            for bit in [PROJINHERIT_FL, DAX_FL] {
                let now = flags(&fs, file);
                assert_eq!(
                    set_flags(&fs, file, now ^ bit),
                    Err(Errno::EPERM),
                    "{name} {bit:#x}"
                );
            }
            assert_eq!(xfs_io(&path, "stat -v"), before, "{name}");
        }
    }
}

#[test]
fn a_set_that_leaves_them_alone_passes() {
    let (ground, _daemon, fs) = shared(&[]);
    for (name, file) in opened(&fs) {
        let path = ground.path().join(name);
        let before = xfs_io(&path, "lsattr");
        for set in [true, false] {
            // As chattr(1) does, and as xfs_io(8) does.
            let now = flags(&fs, file) & !NODUMP_FL;
            let wanted = now | if set { NODUMP_FL } else { 0 };
            assert_eq!(set_flags(&fs, file, wanted), Ok(()), "{name}");
            assert_eq!(flags(&fs, file), wanted, "{name}");
            let wanted = |flags: u32| if set { flags & !NODUMP } else { flags | NODUMP };
            assert_eq!(changed(&fs, file, XFLAGS, wanted), Ok(()), "{name}");
            assert_eq!(extended(&fs, file)[XFLAGS] & NODUMP == 0, set, "{name}");
            // Nor does one that changes nothing.
            assert_eq!(changed(&fs, file, PROJID, |id| id), Ok(()), "{name}");
        }
        assert_eq!(
            changed(&fs, file, XFLAGS, |flags| flags & !NODUMP),
            Ok(()),
            "{name}"
        );
        assert_eq!(xfs_io(&path, "lsattr"), before, "{name}");
        assert_eq!(xfs_io(&path, "lsproj"), "projid = 42", "{name}");
    }
}

#[test]
fn what_is_made_and_moved_stays_in_its_project() {
    let (ground, _daemon, fs) = shared(&[]);
    let dir = fs.lookup(ROOT, "dir").expect("LOOKUP").nodeid;
    fs.create(dir, "inner", libc::O_RDWR, 0o644).expect("CREATE");
    fs.mkdir(dir, "deeper", 0o755).expect("MKDIR");
    for name in ["dir/inner", "dir/deeper"] {
        assert_eq!(
            xfs_io(&ground.path().join(name), "lsproj"),
            "projid = 42",
            "{name}"
        );
    }
    // Into another project nothing is moved or linked: the kernel says so.
    let other = ground.path().join("other");
    std::fs::create_dir(&other).expect("mkdir");
    xfs_io(&other, "chproj 43");
    let other = fs.lookup(ROOT, "other").expect("LOOKUP").nodeid;
    let file = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    assert_eq!(fs.rename(ROOT, "file", other, "file"), Err(Errno::EXDEV));
    assert_eq!(fs.link(file, other, "file").map(drop), Err(Errno::EXDEV));
}

#[test]
fn a_change_by_the_host_is_not_undone_by_a_guest_in_the_middle_of_its_own() {
    let (ground, daemon, fs) = shared(&[]);
    let path = ground.path().join("file");
    let node = fs.lookup(ROOT, "file").expect("LOOKUP").nodeid;
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let file = fs.open(node, libc::O_RDWR).expect("OPEN");
            let mut passed = 0;
            while !over.load(Ordering::Relaxed) || passed == 0 {
                let result = changed(&fs, file, XFLAGS, |flags| flags ^ NODUMP);
                assert!(matches!(result, Ok(()) | Err(Errno::EPERM)), "{result:?}");
                passed += usize::from(result.is_ok());
            }
        });
        let mut wrong = None;
        for project in 100..250 {
            xfs_io(&path, &format!("chproj {project}"));
            let now = xfs_io(&path, "lsproj");
            if now != format!("projid = {project}") {
                wrong = Some((project, now));
                break;
            }
        }
        over.store(true, Ordering::Relaxed);
        guest.join().expect("the guest");
        assert_eq!(wrong, None);
    });
    drop(daemon);
}

#[test]
fn an_option_lets_the_guest_choose_projects_and_nothing_else_of_the_hosts() {
    let (ground, _daemon, fs) = shared(&["--allow-project-ids"]);
    for (name, file) in opened(&fs) {
        let path = ground.path().join(name);
        assert_eq!(changed(&fs, file, PROJID, |_| 43), Ok(()), "{name}");
        assert_eq!(xfs_io(&path, "lsproj"), "projid = 43", "{name}");
        assert_eq!(
            changed(&fs, file, XFLAGS, |flags| flags ^ NODUMP),
            Ok(()),
            "{name}"
        );
        assert_eq!(
            changed(&fs, file, PROJID, |_| u32::MAX),
            Err(Errno::EINVAL),
            "{name}"
        );
        for (flag, bit) in HOSTS.iter().filter(|(flag, _)| *flag != "PROJINHERIT") {
            let result = changed(&fs, file, XFLAGS, |flags| flags ^ bit);
            assert_eq!(result, Err(Errno::EPERM), "{name} {flag}");
        }
        assert_eq!(
            changed(&fs, file, EXTSIZE, |_| 1 << 20),
            Err(Errno::EPERM),
            "{name}"
        );
        let now = flags(&fs, file);
        assert_eq!(set_flags(&fs, file, now ^ DAX_FL), Err(Errno::EPERM), "{name}");
    }
    let [_, (_, dir), _] = opened(&fs);
    assert_eq!(changed(&fs, dir, XFLAGS, |flags| flags & !0x200), Ok(()));
    assert!(!xfs_io(&ground.path().join("dir"), "lsattr").contains('P'));
    let now = flags(&fs, dir);
    assert_eq!(set_flags(&fs, dir, now | PROJINHERIT_FL), Ok(()));
    let listed = xfs_io(&ground.path().join("dir"), "lsattr");
    assert!(listed.contains('P'), "{listed}");
}
