//! Does with a file what a script can't: for the field suite.
//!
//! `file-tool handle FILE` prints the file's handle (name_to_handle_at(2)); `file-tool by-handle
//! DIR HANDLE` prints what is in the file of a handle, on the file system of DIR.
//! `file-tool copy FROM TO` copies into a file as it is, by copy_file_range(2).
//! `file-tool dirty FILE` writes a MiB behind the first one, says `dirty`, and closes the file at
//! its input's end.
//! `file-tool idmap FROM AT FIRST SHOWN COUNT` mounts FROM at AT with the ids from FIRST on shown
//! as those from SHOWN on.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};
use nix::fcntl::copy_file_range;
use nix::sched::{CloneFlags, unshare};

const USAGE: &str = "usage: file-tool handle FILE | by-handle DIR HANDLE | copy FROM TO | dirty FILE | idmap FROM AT FIRST SHOWN COUNT";

/// How it calls itself: a user namespace lives while a process is in it.
const NAMESPACE: &str = "namespace";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("file-tool: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["handle", path] => {
            println!("{}", sys::handle(path)?);
            Ok(())
        }
        ["by-handle", dir, handle] => {
            let mut file = sys::open_by_handle(&open(dir)?, handle)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok(std::io::stdout().write_all(&text)?)
        }
        ["copy", from, to] => {
            let (from, to) = (open(from)?, File::options().write(true).open(to)?);
            let length = usize::try_from(from.metadata()?.len())?;
            let copied = copy_file_range(&from, Some(&mut 0), &to, Some(&mut 0), length)?;
            ensure!(copied == length, "{copied} bytes of {length} were copied");
            Ok(())
        }
        ["dirty", path] => {
            let file = File::options().write(true).open(path)?;
            let text: Vec<u8> = (0..1 << 20).map(|index| (index % 251) as u8 + 1).collect();
            file.write_all_at(&text, 1 << 20)?;
            println!("dirty");
            wait()
        }
        ["idmap", from, at, first, shown, count] => idmap(from, at, &format!("{first} {shown} {count}")),
        [NAMESPACE] => {
            unshare(CloneFlags::CLONE_NEWUSER)?;
            println!();
            wait()
        }
        _ => bail!("{USAGE}"),
    }
}

fn open(path: &str) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {path}"))
}

/// Waits for the input's end.
fn wait() -> Result<()> {
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// `map` is a line for uid_map and gid_map (user_namespaces(7)).
fn idmap(from: &str, at: &str, map: &str) -> Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .arg(NAMESPACE)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let said = child.stdout.as_mut().context("a pipe")?;
    said.read_exact(&mut [0])?;
    let of_child = Path::new("/proc").join(child.id().to_string());
    for file in ["uid_map", "gid_map"] {
        fs::write(of_child.join(file), map).with_context(|| format!("cannot write {file}"))?;
    }
    let mapped = sys::idmap(from, at, &File::open(of_child.join("ns/user"))?);
    drop(child.stdin.take());
    child.wait()?;
    mapped
}

/// System calls that nix does not wrap.
mod sys {
    #![allow(unsafe_code, reason = "system calls that nix does not wrap")]

    use std::ffi::CString;
    use std::fs::File;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    use anyhow::{Context, Result, ensure};
    use nix::errno::Errno;

    /// MAX_HANDLE_SZ.
    const MOST: usize = 128;

    /// `struct file_handle` with room for any.
    #[repr(C)]
    struct Handle {
        length: u32,
        kind: i32,
        bytes: [u8; MOST],
    }

    /// `struct mount_attr`.
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        namespace: u64,
    }

    /// A handle in hexadecimal digits, its kind first.
    pub(super) fn handle(path: &str) -> Result<String> {
        let path = CString::new(path)?;
        let (mut mount, mut handle) = (
            0i32,
            Handle {
                length: MOST as u32,
                kind: 0,
                bytes: [0; MOST],
            },
        );
        // SAFETY: a terminated string, a handle with the room that it says, and a number to be
        // written.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                libc::AT_FDCWD,
                path.as_ptr(),
                &raw mut handle,
                &raw mut mount,
                0,
            )
        })
        .context("name_to_handle_at")?;
        let bytes = handle.bytes.iter().take(handle.length as usize);
        let digits: Vec<String> = bytes.map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{:08x}{}", handle.kind, digits.concat()))
    }

    /// Opens the file of a handle as [`handle`] prints it, for reading.
    pub(super) fn open_by_handle(dir: &File, digits: &str) -> Result<File> {
        let (kind, rest) = digits.split_at_checked(8).context("HANDLE is none")?;
        ensure!(rest.is_ascii() && rest.len() <= 2 * MOST, "HANDLE is none");
        let mut handle = Handle {
            length: (rest.len() / 2) as u32,
            kind: i32::from_str_radix(kind, 16)?,
            bytes: [0; MOST],
        };
        for (at, byte) in handle.bytes.iter_mut().enumerate().take(rest.len() / 2) {
            *byte = u8::from_str_radix(rest.get(2 * at..2 * at + 2).unwrap_or_default(), 16)?;
        }
        // SAFETY: a handle with as many bytes as it says, and numbers.
        let file = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                dir.as_raw_fd(),
                &raw const handle,
                libc::O_RDONLY,
            )
        })
        .context("open_by_handle_at")?;
        // SAFETY: a new descriptor, which nobody else has.
        Ok(unsafe { File::from_raw_fd(i32::try_from(file)?) })
    }

    /// Mounts a directory once more, with ids as `namespace` maps them (mount_setattr(2)).
    pub(super) fn idmap(from: &str, at: &str, namespace: &File) -> Result<()> {
        let (from, at) = (CString::new(from)?, CString::new(at)?);
        let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
        // SAFETY: a terminated string and numbers.
        let tree = Errno::result(unsafe {
            libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), flags)
        })
        .context("open_tree")?;
        // SAFETY: a new descriptor, which nobody else has.
        let tree = unsafe { OwnedFd::from_raw_fd(i32::try_from(tree)?) };
        let attr = MountAttr {
            set: libc::MOUNT_ATTR_IDMAP,
            clear: 0,
            propagation: 0,
            namespace: u64::try_from(namespace.as_raw_fd())?,
        };
        // SAFETY: an empty string, and a structure of the size that is said.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attr,
                size_of::<MountAttr>(),
            )
        })
        .context("mount_setattr")?;
        // SAFETY: terminated strings and numbers.
        Errno::result(unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                at.as_ptr(),
                libc::MOVE_MOUNT_F_EMPTY_PATH,
            )
        })
        .context("move_mount")?;
        Ok(())
    }
}
