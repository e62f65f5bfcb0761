//! Runs inside the guest, for what busybox cannot do: shared memory mappings of a file.
//!
//! `guest-tool mmap-write FILE OFFSET TEXT` stores TEXT through a mapping and flushes it;
//! `guest-tool mmap-read FILE OFFSET COUNT` prints what a mapping shows.

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use mapping::Mapping;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-tool: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["mmap-write", path, offset, text] => {
            let mut mapping = open(path, true)?;
            let start: usize = offset.parse().context("the offset is not a number")?;
            mapping
                .bytes_mut()
                .get_mut(start..start.saturating_add(text.len()))
                .context("beyond the end of the file")?
                .copy_from_slice(text.as_bytes());
            mapping.flush()
        }
        ["mmap-read", path, offset, count] => {
            let mapping = open(path, false)?;
            let start: usize = offset.parse().context("the offset is not a number")?;
            let count: usize = count.parse().context("the count is not a number")?;
            let bytes = mapping
                .bytes()
                .get(start..start.saturating_add(count))
                .context("beyond the end of the file")?;
            Ok(std::io::stdout().write_all(bytes)?)
        }
        _ => bail!("usage: guest-tool mmap-write FILE OFFSET TEXT | mmap-read FILE OFFSET COUNT"),
    }
}

fn open(path: &str, write: bool) -> Result<Mapping> {
    let file = File::options()
        .read(true)
        .write(write)
        .open(path)
        .with_context(|| format!("cannot open {path}"))?;
    Mapping::new(&file, write).with_context(|| format!("cannot map {path}"))
}

/// A MAP_SHARED mapping of a whole file (mmap(2)).
mod mapping {
    #![allow(
        unsafe_code,
        reason = "a mapping is memory that the compiler knows nothing of"
    )]

    use std::ffi::c_void;
    use std::fs::File;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    use anyhow::{Context, Result};
    use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};

    pub(super) struct Mapping {
        start: NonNull<c_void>,
        length: NonZeroUsize,
    }

    impl Mapping {
        /// Maps all of `file`, for stores too if `write`. Nobody else may shrink or change the file
        /// meanwhile.
        pub(super) fn new(file: &File, write: bool) -> Result<Self> {
            let length = usize::try_from(file.metadata()?.len())?;
            let length = NonZeroUsize::new(length).context("an empty file has nothing to map")?;
            let mut protection = ProtFlags::PROT_READ;
            protection.set(ProtFlags::PROT_WRITE, write);
            // SAFETY: the kernel picks the address, so no memory in use is replaced.
            let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0)? };
            Ok(Self { start, length })
        }

        pub(super) fn bytes(&self) -> &[u8] {
            // SAFETY: the mapping is readable, `length` bytes long and lives as long as `self`; the
            // guest's script runs one program at a time, so nothing changes the file meanwhile.
            unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.length.get()) }
        }

        /// Only for a mapping made for writing: otherwise a store ends the program with SIGSEGV.
        pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
            // SAFETY: as in `bytes`, and `&mut self` makes this the only reference.
            unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.length.get()) }
        }

        /// Writes the stores to the file and waits for it (msync(2), MS_SYNC).
        pub(super) fn flush(&mut self) -> Result<()> {
            // SAFETY: exactly the mapping that `new` made.
            unsafe { msync(self.start, self.length.get(), MsFlags::MS_SYNC) }?;
            Ok(())
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: exactly the mapping that `new` made, and no slice of it outlives `self`.
            // The only error is a wrong address, and the program ends right after.
            let _ = unsafe { munmap(self.start, self.length.get()) };
        }
    }
}
