//! A library that gives O_DIRECT (open(2)) to a program that knows nothing of it: loaded before the C library
//! (`LD_PRELOAD`), it adds the flag to each open of the file that `$DIRECT_IO` names, and begins allocations of a page and
//! more on a page, as direct transfers want their memory. For the suite that runs fsx.
#![allow(unsafe_code, reason = "functions of the C library, for any program to call")]

use std::ffi::{c_char, c_int, c_long, c_uint, c_void};

use nix::libc;

/// Bytes of a page: no file system wants direct transfers aligned to more.
const PAGE: usize = 4096;

/// open64(3), as Rust's standard library calls it: `mode` is always given there.
///
/// # Safety
/// `path` ends with a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: c_uint) -> c_int {
    // SAFETY: both strings end with a NUL.
    let direct = unsafe {
        let name = libc::getenv(c"DIRECT_IO".as_ptr());
        !name.is_null() && libc::strcmp(name, path) == 0
    };
    let flags = if direct { flags | libc::O_DIRECT } else { flags };
    // SAFETY: the caller's string. The system call sets errno as open does.
    let fd: c_long = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags, mode) };
    // A descriptor or -1.
    fd as c_int
}

/// calloc(3).
///
/// # Safety
/// None of its own: what it returns is given back to free(3), as the C library's is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else {
        return std::ptr::null_mut();
    };
    // SAFETY: the C library's own functions; what they return holds as many bytes.
    unsafe {
        let memory = if bytes < PAGE {
            libc::malloc(bytes)
        } else {
            libc::memalign(PAGE, bytes)
        };
        if !memory.is_null() {
            libc::memset(memory, 0, bytes);
        }
        memory
    }
}
