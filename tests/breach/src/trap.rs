//! Surviving `--seccomp trap`.
#![expect(unsafe_code, reason = "a signal handler that changes what it interrupted")]

use crate::order::TRAPPED;

/// From now on a call trapped by the filter returns [`TRAPPED`]. Goes before confinement, which has no call for it.
pub fn survive_traps() {
    extern "C" fn handler(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: with SA_SIGINFO the third argument is the interrupted context, ours to change.
        let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
        // -4000 is within the range the C library takes for error numbers.
        #[cfg(target_arch = "x86_64")]
        {
            context.uc_mcontext.gregs[libc::REG_RAX as usize] = TRAPPED;
        }
        #[cfg(target_arch = "aarch64")]
        {
            context.uc_mcontext.regs[0] = TRAPPED.cast_unsigned();
        }
    }
    // SAFETY: the handler only writes to its own context.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut());
    }
}
