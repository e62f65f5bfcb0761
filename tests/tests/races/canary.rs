//! The tree that must not be touched.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

/// In every byte string of it: contents, names, targets, attributes.
pub(crate) const MARK: &[u8] = b"CANARY-MARK";

/// An inode, bit for bit.
#[derive(Debug, PartialEq, Eq)]
struct Inode {
    numbers: [u64; 7],
    times: [(i64, i64); 3],
    content: Vec<u8>,
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// The tree, and how it was.
pub(crate) struct Canary {
    pub(crate) path: PathBuf,
    before: BTreeMap<PathBuf, Inode>,
    /// Inode numbers of everything outside the share.
    pub(crate) inodes: BTreeSet<u64>,
}

impl Canary {
    /// Beneath `home`, with the names that the share has too, so that whoever follows a link finds them.
    pub(crate) fn new(home: &Path) -> Self {
        let path = home.join("outside");
        let mark = String::from_utf8_lossy(MARK).into_owned();
        for dir in ["", "dir", "sub", "sub/sub", "many"] {
            fs::create_dir_all(path.join(dir)).expect("mkdir");
            for name in ["file", "0", "1", &format!("only-here-{mark}")] {
                let file = path.join(dir).join(name);
                fs::write(&file, mark.repeat(100)).expect("write");
                fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("chmod");
                set_xattr(&file, "user.mark", MARK);
            }
        }
        symlink(format!("{mark}-target"), path.join("link")).expect("symlink");
        let mut inodes: BTreeSet<_> = names(&path).iter().map(|path| inode(path)).collect();
        inodes.insert(inode(home));
        // Any look at a content would show: the access times are older than all others.
        for path in names(&path) {
            let (old, omit) = (TimeSpec::new(1, 0), TimeSpec::UTIME_OMIT);
            let flags = UtimensatFlags::NoFollowSymlink;
            utimensat(nix::fcntl::AT_FDCWD, &path, &old, &omit, flags).expect("utimensat");
        }
        let before = picture(&path);
        // Taking it moved them.
        for path in names(&path) {
            let (old, omit) = (TimeSpec::new(1, 0), TimeSpec::UTIME_OMIT);
            let flags = UtimensatFlags::NoFollowSymlink;
            utimensat(nix::fcntl::AT_FDCWD, &path, &old, &omit, flags).expect("utimensat");
        }
        let mut canary = Self { path, before, inodes };
        for (path, inode) in &mut canary.before {
            inode.times = times(path);
        }
        canary
    }

    /// Bit for bit as before, access times included.
    pub(crate) fn assert_untouched(&self) {
        let after = picture(&self.path);
        for (path, inode) in &self.before {
            assert_eq!(after.get(path), Some(inode), "{} was touched", path.display());
        }
        assert_eq!(after.len(), self.before.len(), "something was made or removed");
    }
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).expect("lstat").ino()
}

/// The tree's paths, without opening a file. Listing a directory moves its access time, so those are told apart.
fn names(path: &Path) -> Vec<PathBuf> {
    let mut all = vec![path.to_owned()];
    let mut at = 0;
    while at < all.len() {
        if fs::symlink_metadata(&all[at]).expect("lstat").is_dir() {
            let entries = fs::read_dir(&all[at]).expect("list");
            all.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        at += 1;
    }
    all
}

fn times(path: &Path) -> [(i64, i64); 3] {
    let meta = fs::symlink_metadata(path).expect("lstat");
    [
        (meta.atime(), meta.atime_nsec()),
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    ]
}

/// The whole tree: of each inode first its times, then what a look at it changes.
fn picture(root: &Path) -> BTreeMap<PathBuf, Inode> {
    let mut found = BTreeMap::new();
    let mut queue = vec![root.to_owned()];
    while let Some(path) = queue.pop() {
        let times = times(&path);
        let meta = fs::symlink_metadata(&path).expect("lstat");
        let content = if meta.is_dir() {
            let entries = fs::read_dir(&path).expect("list");
            queue.extend(entries.map(|entry| entry.expect("an entry").path()));
            Vec::new()
        } else if meta.is_symlink() {
            fs::read_link(&path)
                .expect("readlink")
                .into_os_string()
                .into_encoded_bytes()
        } else {
            fs::read(&path).expect("read")
        };
        let inode = Inode {
            numbers: [
                meta.ino(),
                meta.mode().into(),
                meta.nlink(),
                meta.uid().into(),
                meta.gid().into(),
                meta.rdev(),
                meta.size(),
            ],
            times,
            content,
            attributes: xattrs(&path),
        };
        found.insert(path, inode);
    }
    found
}

#[expect(unsafe_code, reason = "nix has no xattr calls")]
fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let (path, name) = (c_string(path), std::ffi::CString::new(name).expect("a name"));
    // SAFETY: both strings are terminated, the value has its length.
    let set = unsafe {
        libc::lsetxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    assert_eq!(set, 0, "setxattr: {}", std::io::Error::last_os_error());
}

fn c_string(path: &Path) -> std::ffi::CString {
    std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("a path")
}

#[expect(unsafe_code, reason = "nix has no xattr calls")]
fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = c_string(path);
    let mut list = vec![0u8; 4096];
    // SAFETY: the string is terminated, the list has its length.
    let length = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    list.truncate(usize::try_from(length).unwrap_or(0));
    let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let c_name = std::ffi::CString::new(name).expect("a name");
            let mut value = vec![0u8; 4096];
            // SAFETY: both strings are terminated, the value has its length.
            let length = unsafe {
                libc::lgetxattr(
                    path.as_ptr(),
                    c_name.as_ptr(),
                    value.as_mut_ptr().cast(),
                    value.len(),
                )
            };
            value.truncate(usize::try_from(length).unwrap_or(0));
            (name.to_vec(), value)
        })
        .collect()
}
