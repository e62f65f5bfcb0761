//! Names and proc paths as C strings on the stack.

use std::{
    ffi::CStr,
    os::fd::{AsFd, AsRawFd},
};

use airlockfs_ipc::{NAME_MAX, Name};

/// A one-component name, terminated.
#[derive(Clone, Copy)]
pub(crate) struct CName([u8; NAME_MAX + 1]);

impl CName {
    /// Copies `name`.
    pub(crate) fn new(name: Name<'_>) -> Self {
        let mut bytes = [0; NAME_MAX + 1];
        let (room, _) = bytes.split_at_mut(name.as_bytes().len().min(NAME_MAX));
        room.copy_from_slice(name.as_bytes().get(..room.len()).unwrap_or_default());
        Self(bytes)
    }

    /// The string.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

/// A descriptor's decimal number. The working directory is `/proc/self/fd`, so this path names the inode behind the
/// descriptor, symbolic links included, and works where an O_PATH descriptor itself is refused.
pub(crate) struct ProcPath {
    digits: [u8; 12],
    start: usize,
}

impl ProcPath {
    /// The path of `descriptor`.
    pub(crate) fn new(descriptor: impl AsFd) -> Self {
        let mut number = descriptor.as_fd().as_raw_fd().unsigned_abs();
        let mut path = Self {
            digits: [0; 12],
            start: 11,
        };
        loop {
            path.start = path.start.saturating_sub(1);
            if let Some(digit) = path.digits.get_mut(path.start) {
                *digit = b'0' + (number % 10) as u8;
            }
            number /= 10;
            if number == 0 {
                return path;
            }
        }
    }

    /// The string.
    pub(crate) fn as_c_str(&self) -> &CStr {
        let digits = self.digits.get(self.start..).unwrap_or_default();
        CStr::from_bytes_until_nul(digits).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::BorrowedFd;

    #[test]
    fn names_are_terminated() {
        let longest = [b'x'; NAME_MAX];
        for name in [&b"a"[..], &longest] {
            let c_name = CName::new(Name::new(name).unwrap());
            assert_eq!(c_name.as_c_str().to_bytes(), name);
        }
    }

    #[test]
    #[expect(unsafe_code, reason = "only the numbers are looked at")]
    fn proc_paths_are_decimal() {
        for number in [0, 7, 10, 1_048_576, i32::MAX] {
            // SAFETY: the descriptor is never used.
            let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
            let path = ProcPath::new(descriptor);
            assert_eq!(path.as_c_str().to_str().unwrap(), number.to_string());
        }
    }
}
