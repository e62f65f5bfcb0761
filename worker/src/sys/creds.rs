//! The calling thread's identity for file system checks (credentials(7)). glibc's functions change all threads of a
//! process; these are the system calls themselves and change one.
#![expect(
    unsafe_code,
    reason = "raw system calls, with numbers and plain structures only"
)]

use airlockfs_ipc::Errno;

use super::check;

/// Sets the thread's fsuid (setfsuid(2)), and sees that it took effect: the call itself does not say. Leaving 0 takes
/// the file system capabilities from the effective set, returning to it gives them back (capabilities(7)).
pub(crate) fn switch_uid(uid: u32) -> Result<(), Errno> {
    switch(libc::SYS_setfsuid, uid)
}

/// Sets the thread's fsgid (setfsgid(2)).
pub(crate) fn switch_gid(gid: u32) -> Result<(), Errno> {
    switch(libc::SYS_setfsgid, gid)
}

fn switch(call: i64, id: u32) -> Result<(), Errno> {
    // SAFETY: takes a number. -1 is no valid id: the second call changes nothing and says what is in force.
    let now = unsafe {
        libc::syscall(call, id);
        libc::syscall(call, u32::MAX)
    };
    // The result is an `int`: ids above 2^31 come back negative.
    if now as u32 == id {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Sets the thread's supplementary groups to this one or to none (setgroups(2)).
pub(crate) fn set_groups(group: Option<u32>) -> Result<(), Errno> {
    let groups = [group.unwrap_or_default()];
    // SAFETY: as many groups as said stand at the address.
    check(unsafe { libc::syscall(libc::SYS_setgroups, usize::from(group.is_some()), groups.as_ptr()) })?;
    Ok(())
}

/// By number (linux/capability.h).
pub(crate) const CAP_DAC_OVERRIDE: u32 = 1;
/// By number.
pub(crate) const CAP_FSETID: u32 = 4;

/// Adds one of the first 32 capabilities to the thread's effective set (capset(2)).
pub(crate) fn raise(capability: u32) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Sets {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    // _LINUX_CAPABILITY_VERSION_3, the calling thread.
    let mut header = Header {
        version: 0x2008_0522,
        pid: 0,
    };
    let mut sets = [Sets::default(); 2];
    // SAFETY: version 3 reads and writes a header and two sets.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    let [low, _] = &mut sets;
    low.effective |= 1 << capability;
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })?;
    Ok(())
}
