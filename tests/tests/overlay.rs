//! An overlay on the share, as container engines in a guest mount it. `--xattrmap
//! ':map:trusted.:user.virtiofs.:'` keeps its `trusted.*` attributes.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use airlockfs_tests::bridge::{Bridge, BridgeConfig};
use airlockfs_tests::daemon::{Daemon, Launch};
use airlockfs_tests::mount::Mount;
use airlockfs_tests::tempdir::TempDir;
use nix::errno::Errno;

const MAP: &str = "--xattrmap=:map:trusted.:user.virtiofs.:";

/// The overlay whose layers are in `layers`, or whose lower layer is in `apart`.
fn overlaid(layers: &Path, apart: Option<&Path>, at: &Path, options: &str) -> Mount {
    let lower = apart.unwrap_or(layers).join("lower");
    let [upper, work] = ["upper", "work"].map(|name| layers.join(name));
    Mount::overlay(at, &lower, &upper, &work, options).expect("an overlay")
}

/// Layers as a container engine keeps them beside each other; the lower one has something of every kind.
fn layers(at: &Path) {
    let lower = at.join("lower");
    for dir in ["etc/deep", "usr/bin", "gone", "replaced", "moved/inner"] {
        fs::create_dir_all(lower.join(dir)).expect("mkdir");
    }
    for file in [
        "etc/passwd",
        "etc/deep/file",
        "usr/bin/tool",
        "gone/file",
        "replaced/old",
        "moved/inner/file",
    ] {
        fs::write(lower.join(file), format!("lower {file}")).expect("write");
    }
    fs::hard_link(lower.join("usr/bin/tool"), lower.join("usr/bin/alias")).expect("link");
    symlink("passwd", lower.join("etc/link")).expect("symlink");
    for name in ["upper", "work"] {
        fs::create_dir(at.join(name)).expect("mkdir");
    }
}

/// What package managers do to a root file system.
fn work(at: &Path) {
    fs::write(at.join("etc/passwd"), "changed").expect("copied up");
    fs::set_permissions(at.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755))
        .expect("metadata copied up");
    fs::remove_dir_all(at.join("gone")).expect("removed");
    fs::remove_dir_all(at.join("replaced")).expect("removed");
    fs::create_dir(at.join("replaced")).expect("an opaque directory");
    fs::write(at.join("replaced/new"), "new").expect("create");
    // A redirected directory, or a copy where that is off.
    let moved = Command::new("mv")
        .args([at.join("moved"), at.join("elsewhere")])
        .status();
    assert!(moved.expect("mv").success());
    std::os::unix::fs::lchown(at.join("etc/link"), Some(7), None).expect("a link copied up");
    fs::rename(at.join("etc/link"), at.join("etc/renamed")).expect("rename");
    fs::hard_link(at.join("etc/passwd"), at.join("etc/second")).expect("link");
    nix::unistd::mkfifo(&at.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
}

/// Every name with its kind, permissions, owner, links and content.
fn picture(at: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut left = vec![at.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("list") {
            let path = entry.expect("an entry").path();
            let found = fs::symlink_metadata(&path).expect("stat");
            let content = match found.file_type() {
                kind if kind.is_file() => fs::read_to_string(&path).expect("read"),
                kind if kind.is_symlink() => fs::read_link(&path).expect("readlink").display().to_string(),
                _ => String::new(),
            };
            if found.is_dir() {
                left.push(path.clone());
            }
            let links = if found.is_dir() { 0 } else { found.nlink() };
            let name = path.strip_prefix(at).expect("beneath it").display();
            all.push(format!(
                "{name} {:o} {} {links} {content}",
                found.mode(),
                found.uid()
            ));
        }
    }
    all.sort();
    all
}

#[test]
fn an_overlay_on_the_share_keeps_all_it_knows_across_mounts() {
    for overlay in [
        "redirect_dir=off",
        "metacopy=on,redirect_dir=on",
        "metacopy=on,redirect_dir=on,index=on",
    ] {
        let at = TempDir::new().expect("a mount point");
        let plain = TempDir::new().expect("a directory");
        layers(&plain);
        let mounted = overlaid(&plain, None, &at, overlay);
        work(&at);
        drop(mounted);
        let mounted = overlaid(&plain, None, &at, overlay);
        let expected = picture(&at);
        drop(mounted);
        // An index holds file handles of the lower layer, and those of the share end with the guest's session.
        let image = TempDir::new().expect("a directory");
        layers(&image);
        let apart = overlay.contains("index").then_some(&*image);
        for cache in ["--cache=auto", "--cache=always", "--cache=never"] {
            let share = TempDir::new().expect("a directory");
            layers(&share);
            let mount_point = TempDir::new().expect("a mount point");
            // The second time by a new daemon and a guest that knows nothing: all of it is on the host.
            for again in [false, true] {
                let daemon = Launch::airlockfs().share(&share).args([MAP, cache]).start();
                let config = BridgeConfig::default();
                let bridge = Bridge::mount(daemon.socket(), &mount_point, &config).expect("mount");
                let mounted = overlaid(&mount_point, apart, &at, overlay);
                if !again {
                    work(&at);
                }
                assert_eq!(picture(&at), expected, "{overlay} {cache}, again: {again}");
                drop(mounted);
                drop(bridge);
            }
            // What is gone is a whiteout there, which is no device that anybody could open.
            let gone = fs::symlink_metadata(share.join("upper/gone")).expect("a whiteout");
            assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        }
    }
}

/// user.* is for regular files and directories (xattr(7)), whatever a guest that does not know that asks for, and by
/// whatever name: an overlay passes over it where a symbolic link refuses the name of its origin.
#[test]
fn symbolic_links_and_special_files_have_no_user_attributes() {
    for (option, name) in [("--xattr", &b"user.name"[..]), (MAP, b"trusted.overlay.origin")] {
        let (daemon, fs) = Daemon::with_client([option]);
        symlink("file", daemon.host("link")).expect("symlink");
        nix::unistd::mkfifo(&daemon.host("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        fs::write(daemon.host("file"), "text").expect("write");
        for special in ["link", "fifo"] {
            let node = fs.walk(special).expect("LOOKUP").nodeid;
            assert_eq!(
                fs.setxattr(node, name, b"value", 0),
                Err(Errno::EPERM),
                "{special}"
            );
            assert_eq!(fs.getxattr(node, name, 100), Err(Errno::ENODATA), "{special}");
            assert_eq!(fs.removexattr(node, name), Err(Errno::EPERM), "{special}");
            assert!(fs.listxattr(node, 100).expect("LISTXATTR").is_empty());
        }
        let node = fs.walk("file").expect("LOOKUP").nodeid;
        assert_eq!(fs.setxattr(node, name, b"value", 0), Ok(()));
        assert_eq!(fs.getxattr(node, name, 100).expect("GETXATTR"), b"value");
    }
}
