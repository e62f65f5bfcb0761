//! Guest memory that is not there any more. Its files are the VMM's, which may truncate them at any time, or hand over a
//! huge page that the host does not have: an access then raises SIGBUS, in whatever thread makes it (mmap(2)).
//!
//! The handler puts memory of this process in the place of the region and notes that the VMM's memory failed; the access is
//! carried out anew and finds zeros, as if the guest had written them. The watching thread ends the connection. Any other
//! SIGBUS ends the process, as it would without the handler.
//!
//! The table of regions is looked up by the handler, so it takes no lock and no memory.
#![expect(unsafe_code, reason = "a signal handler that changes what is mapped")]

use std::{
    ffi::{c_int, c_void},
    io,
    mem::MaybeUninit,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd},
    ptr,
    sync::{
        OnceLock,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
        },
    },
};

use nix::sys::{
    eventfd::{EfdFlags, EventFd},
    memfd::{MFdFlags, memfd_create},
    mman::{MapFlags, ProtFlags, mmap},
};

use crate::end::end;

/// Most regions at a time: those of a connection, and as many that requests in flight still use.
const REGIONS: usize = 1024;
/// The smallest page, and a huge page that is larger than any.
const PAGES: [usize; 2] = [1 << 12, 1 << 34];

/// Where a region is mapped; a length of 0: nothing is.
struct Range {
    start: AtomicUsize,
    length: AtomicUsize,
    taken: AtomicBool,
}

static TABLE: [Range; REGIONS] = [const {
    Range {
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        taken: AtomicBool::new(false),
    }
}; REGIONS];

/// The VMM's memory failed.
static FAILED: AtomicBool = AtomicBool::new(false);
/// Rung when it does.
static BELL: OnceLock<EventFd> = OnceLock::new();
/// A page whose file has none: an access there raises SIGBUS.
static NOWHERE: AtomicUsize = AtomicUsize::new(0);

/// A mapping of guest memory that is known to the handler as long as this lives.
#[derive(Debug)]
pub(crate) struct Known(usize);

impl Known {
    /// `length` bytes from `start` on. `None`: there are too many.
    pub(crate) fn new(start: *mut u8, length: usize) -> Option<Self> {
        let place = TABLE.iter().position(|range| !range.taken.swap(true, Acquire))?;
        let range = TABLE.get(place)?;
        range.start.store(start.addr(), Relaxed);
        range.length.store(length, Release);
        Some(Self(place))
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(range) = TABLE.get(self.0) {
            range.length.store(0, Relaxed);
            range.taken.store(false, Release);
        }
    }
}

/// From now on guest memory that is not there is told by [`bell`]. Called once, before the system call filter is in force.
pub(crate) fn handle() -> io::Result<()> {
    let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    // Set once.
    let _ = BELL.set(bell);
    NOWHERE.store(nowhere()?, Relaxed);
    // SAFETY: plain data, for which all-zero is valid.
    let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the handler calls nothing but what is async-signal-safe, and leaves errno as it was.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Rung when the VMM's memory fails; meant for an edge-triggered epoll(7). `None` before [`handle`].
pub(crate) fn bell() -> Option<BorrowedFd<'static>> {
    BELL.get().map(AsFd::as_fd)
}

/// Whether the VMM's memory failed since [`forget`].
pub(crate) fn happened() -> bool {
    FAILED.load(SeqCst)
}

/// The VMM is gone, and nobody uses its memory any more.
pub(crate) fn forget() {
    FAILED.store(false, SeqCst);
}

/// The VMM's memory failed: an access was in vain, or a system call said EFAULT.
pub(crate) fn report() {
    if !FAILED.swap(true, SeqCst)
        && let Some(bell) = BELL.get()
    {
        // A counter that is full is an event, too.
        let _ = nix::unistd::write(bell, &1_u64.to_ne_bytes());
    }
}

/// The address of a page that is mapped and never there.
fn nowhere() -> io::Result<usize> {
    let noexec = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    // Kernels before 6.3 do not know MFD_NOEXEC_SEAL.
    let empty = memfd_create(c"airlockfs-nowhere", noexec)
        .or_else(|_| memfd_create(c"airlockfs-nowhere", MFdFlags::MFD_CLOEXEC))?;
    let page = const { NonZeroUsize::new(PAGES[0]).expect("a page has a size") };
    // SAFETY: a fresh mapping at an address of the kernel's choice, which only the handler uses.
    let place = unsafe { mmap(None, page, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, &empty, 0) }?;
    Ok(place.as_ptr().addr())
}

extern "C" fn handler(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the C library's place of this thread's errno.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: with SA_SIGINFO the kernel tells about the signal there.
    let info = unsafe { &*info };
    // SAFETY: a positive code says that the kernel raised it for an access: then the address is set, and else not used.
    let (code, address) = (info.si_code, unsafe { info.si_addr() }.addr());
    if code > 0 && replace(address) {
        report();
        // SAFETY: as above.
        unsafe { *errno = before };
        return;
    }
    // The signal is blocked in its handler: the kernel ends the process by it. A page that is not there needs no system call.
    // SAFETY: the page is mapped; that it is not there is the point.
    let _ = unsafe { ptr::read_volatile(ptr::with_exposed_provenance::<u8>(NOWHERE.load(Relaxed))) };
    end(128 + libc::SIGBUS as u8);
}

/// Puts empty memory in the place of the region that `address` lies in. False: it lies in none, or that cannot be done.
fn replace(address: usize) -> bool {
    let found = TABLE.iter().find_map(|range| {
        let (length, start) = (range.length.load(Acquire), range.start.load(Relaxed));
        (address.wrapping_sub(start) < length).then_some((start, length))
    });
    let Some((start, length)) = found else {
        return false;
    };
    // A mapping of huge pages ends at the end of one, whatever was asked for, and is replaced whole.
    let [mut page, largest] = PAGES;
    while page <= largest {
        if length
            .checked_next_multiple_of(page)
            .is_some_and(|length| place_memory(start, length))
        {
            return true;
        }
        page *= 2;
    }
    // There may be no room for all of it (vm.overcommit_memory).
    place_memory(address & !(PAGES[0] - 1), PAGES[0])
}

fn place_memory(start: usize, length: usize) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let start = ptr::without_provenance_mut(start);
    // SAFETY: what is mapped there is a region of guest memory, known as long as it is mapped: shared memory that is reached
    // through volatile or opaque copies only, so its bytes may change to any others.
    let placed = unsafe { libc::mmap(start, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    placed == start
}
