//! C's `main`: see [`airlockfs_policy::entry`].
#![expect(unsafe_code, reason = "a symbol of the C library's choice")]

// SAFETY: nothing else of this program is called `main`, which the C library calls with these arguments, once.
#[unsafe(no_mangle)]
extern "C" fn main(_count: libc::c_int, _arguments: *const *const libc::c_char) -> libc::c_int {
    airlockfs_policy::entry::run(|| crate::run()).into()
}
