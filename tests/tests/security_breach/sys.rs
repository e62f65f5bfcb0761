//! A call that neither std nor nix wraps.
#![expect(unsafe_code, reason = "nix has no name_to_handle_at")]

use std::ffi::CStr;

/// Fills in a `struct file_handle` that says how much room it has; left as it is where the file system has none.
pub(crate) fn name_to_handle_at(path: &CStr, handle: &mut [u8], mount: &mut i32) {
    // SAFETY: the path is terminated; handle and mount outlive the call, and the handle's first field is its room.
    unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            path.as_ptr(),
            handle.as_mut_ptr(),
            std::ptr::from_mut(mount),
            0,
        );
    }
}
