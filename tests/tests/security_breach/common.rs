//! Attempts that must fail in both processes: other processes, the system, the network, new rights,
//! code.

use libc::*;

use crate::pair::{BOTH, Filter, Outcome, Pair, USER, Who};
use crate::road::Behind::{Errno, Nothing};
use crate::road::{CANARY, Road, Scene, Tried, args};
use crate::{Test, test};

/// What a barrier says that is asked for another process: not there for you, or not allowed.
const OTHERS: &[i32] = &[EPERM, ESRCH, EACCES];

const OWN_MEMORY: &str = "its own memory: whoever runs code there has what the process has";
const AS_CONFINED: &str = "what it gives stays within the same barriers";

/// A `siginfo_t` for the calls that send one: SI_QUEUE.
fn siginfo(signal: i32) -> Vec<u8> {
    let mut info = vec![0; 128];
    info[..4].copy_from_slice(&signal.to_ne_bytes());
    info[8..12].copy_from_slice(&(-1_i32).to_ne_bytes());
    info
}

/// A new socket, and an address to use with it.
fn socket(scene: &Scene<'_>, family: i32, kind: i32, call: i64, address: &[u8]) -> Tried {
    let socket = scene.call(SYS_socket, args![family, kind, 0])?;
    let end = scene.call(call, args![socket, address.to_vec(), address.len()]);
    scene.call(SYS_close, args![socket])?;
    end
}

/// `struct sockaddr_in` of the loopback interface.
pub(crate) fn loopback(port: u16) -> Vec<u8> {
    let mut address = vec![2, 0];
    address.extend(port.to_be_bytes());
    address.extend([127, 0, 0, 1]);
    address.resize(16, 0);
    address
}

/// `struct sockaddr_un`.
pub(crate) fn unix(name: &[u8]) -> Vec<u8> {
    [&[1, 0], name].concat()
}

/// A page of this process, to change how it is mapped.
fn page(scene: &Scene<'_>) -> u64 {
    scene.place(&vec![0; 3 * 4096]).next_multiple_of(4096)
}

/// What it holds but memory: that of the ring and of the guest lies in a memfd, to which no mount and no Landlock
/// right applies.
fn files(scene: &Scene<'_>) -> Vec<i32> {
    let held = scene
        .pair
        .process(scene.who)
        .descriptors()
        .expect("its descriptors");
    let files = held
        .into_iter()
        .filter(|(_, target)| !target.to_string_lossy().starts_with("/memfd:"));
    files.map(|(number, _)| number).collect()
}

/// The memory that it holds as files of such names, but not the guest's, whose name is the harness's choice.
fn memory(scene: &Scene<'_>, name: &str) -> Vec<i32> {
    let held = scene.pair.process(scene.who).descriptors();
    let memory = held.expect("its descriptors").into_iter().filter(|(_, target)| {
        let target = target.to_string_lossy();
        target.starts_with(&format!("/memfd:{name}")) && !target.contains("airlockfs-guest")
    });
    let memory: Vec<i32> = memory.map(|(number, _)| number).collect();
    assert!(!memory.is_empty(), "it holds none");
    memory
}

#[rustfmt::skip]
pub(crate) const ROADS: &[Road] = &[
    // Signals.
    Road { name: "kill the others", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_kill, args![pid, SIGKILL])) },
    Road { name: "signal process 1 of the host", behind: Errno(OTHERS),
        // Process 1 of the worker's namespace is itself.
        go: |s| s.call(SYS_kill, args![if s.who == Who::Worker { -1 } else { 1 }, 0]) },
    Road { name: "signal whole groups", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_kill, args![-pid, SIGKILL])) },
    Road { name: "tgkill the others' threads", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_tgkill, args![pid, pid, SIGKILL])) },
    Road { name: "tkill", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_tkill, args![pid, SIGKILL])) },
    Road { name: "queue a signal", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_rt_sigqueueinfo, args![pid, SIGKILL, siginfo(SIGKILL)])) },
    Road { name: "queue a signal to a thread", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_rt_tgsigqueueinfo, args![pid, pid, SIGKILL, siginfo(SIGKILL)])) },
    Road { name: "signal by a new pidfd", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| {
            let pidfd = s.call(SYS_pidfd_open, args![pid, 0])?;
            s.call(SYS_pidfd_send_signal, args![pidfd, SIGKILL, 0, 0])
        }) },
    Road { name: "signal by any held descriptor", behind: Errno(&[EPERM, EBADF]),
        go: |s| s.each(s.pair.held(s.who), |fd| s.call(SYS_pidfd_send_signal, args![fd, SIGKILL, 0, 0])) },
    Road { name: "have a descriptor's owner signalled", behind: Nothing("the signal is sent with the sender's rights"),
        go: |s| s.each(s.others(), |pid| s.call(SYS_fcntl, args![2, F_SETOWN, pid])) },
    // Others' memory and descriptors.
    Road { name: "attach to the others", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_ptrace, args![PTRACE_ATTACH, pid, 0, 0])) },
    Road { name: "seize the others", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_ptrace, args![PTRACE_SEIZE, pid, 0, 0])) },
    Road { name: "read the others' memory", behind: Errno(OTHERS),
        go: |s| {
            let ours = s.iovec(s.place(&[0; 32]), 32);
            let theirs = s.iovec(CANARY.as_ptr() as u64, 32);
            s.each(s.others(), |pid| s.call(SYS_process_vm_readv, args![pid, ours, 1, theirs, 1, 0]))
        } },
    Road { name: "write the others' memory", behind: Errno(OTHERS),
        go: |s| {
            let ours = s.iovec(s.place(&[0; 32]), 32);
            let theirs = s.iovec(CANARY.as_ptr() as u64, 32);
            s.each(s.others(), |pid| s.call(SYS_process_vm_writev, args![pid, ours, 1, theirs, 1, 0]))
        } },
    Road { name: "take the others' descriptors", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| {
            let pidfd = s.call(SYS_pidfd_open, args![pid, 0])?;
            s.each(0..8, |fd| s.call(SYS_pidfd_getfd, args![pidfd, fd, 0]))
        }) },
    Road { name: "take descriptors by any held descriptor", behind: Errno(&[EPERM, EBADF]),
        go: |s| s.each(s.pair.held(s.who), |fd| s.call(SYS_pidfd_getfd, args![fd, 0, 0])) },
    Road { name: "compare with the others", behind: Errno(OTHERS),
        // KCMP_VM
        go: |s| s.each(s.others(), |pid| s.call(SYS_kcmp, args![pid, pid, 1, 0, 0])) },
    Road { name: "advise on the others' memory", behind: Errno(&[EPERM, ESRCH, EACCES, EBADF]),
        go: |s| {
            let place = s.iovec(CANARY.as_ptr() as u64 & !4095, 4096);
            s.each(s.others(), |pid| {
                let pidfd = s.call(SYS_pidfd_open, args![pid, 0])?;
                s.call(SYS_process_madvise, args![pidfd, place, 1, MADV_COLD, 0])
            })
        } },
    Road { name: "find the others' lock lists", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| {
            s.call(SYS_get_robust_list, args![pid, vec![0_u8; 8], vec![0_u8; 8]])
        }) },
    Road { name: "move the others' pages", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| s.call(SYS_move_pages, args![pid, 0, 0, 0, 0, 0])) },
    Road { name: "change the others' limits", behind: Errno(OTHERS),
        go: |s| s.each([s.other(), s.vmm()], |pid| {
            s.call(SYS_prlimit64, args![pid, RLIMIT_NOFILE as i32, vec![1_u8; 16], 0])
        }) },
    Road { name: "schedule the others", behind: Nothing("a process of the same user may be scheduled, not touched"),
        go: |s| s.each(s.others(), |pid| s.call(SYS_sched_setaffinity, args![pid, 8, vec![1_u8; 8]])) },
    // Own rights.
    Road { name: "raise its limits", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_prlimit64, args![0, RLIMIT_CORE as i32, vec![1_u8; 16], 0]) },
    Road { name: "raise its limits by the old call", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_setrlimit, args![RLIMIT_MEMLOCK as i32, vec![0xff_u8; 16]]) },
    Road { name: "take every capability", behind: Errno(&[EPERM]),
        go: |s| {
            // _LINUX_CAPABILITY_VERSION_3, this thread
            let header = [0x2008_0522_u32.to_ne_bytes(), [0; 4]].concat();
            s.call(SYS_capset, args![header, vec![0xff_u8; 24]])
        } },
    Road { name: "take a capability it gave up, with file handles", behind: Errno(&[EPERM]),
        go: |s| {
            let header = [0x2008_0522_u32.to_ne_bytes(), [0; 4]].concat();
            let mut sets = vec![0_u8; 24];
            // CAP_DAC_READ_SEARCH, permitted and effective
            sets[0] = 1 << 2;
            sets[4] = 1 << 2;
            s.call(SYS_capset, args![header, sets])
        } },
    Road { name: "unlock securebits", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_prctl, args![PR_SET_SECUREBITS, 0]) },
    Road { name: "raise ambient capabilities", behind: Errno(&[EPERM]),
        // CAP_SYS_ADMIN
        go: |s| s.call(SYS_prctl, args![PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, 21, 0, 0]) },
    Road { name: "take no_new_privs back", behind: Errno(&[EINVAL]),
        go: |s| s.call(SYS_prctl, args![PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0]) },
    Road { name: "become dumpable", behind: Nothing("a process of root may look at it anyway, others lack the rights"),
        go: |s| s.call(SYS_prctl, args![PR_SET_DUMPABLE, 1]) },
    Road { name: "let itself be traced", behind: Nothing("Yama's exception; the other checks stay"),
        go: |s| s.call(SYS_prctl, args![PR_SET_PTRACER, -1_i64]) },
    Road { name: "rewrite what /proc says of it", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_prctl, args![PR_SET_MM, PR_SET_MM_EXE_FILE, 2, 0, 0]) },
    Road { name: "replace its filter", behind: Nothing("filters only add up"),
        go: |s| s.call(SYS_seccomp, args![SECCOMP_SET_MODE_FILTER, 0, 0]) },
    // Namespaces and mounts.
    Road { name: "unshare a user namespace", behind: Errno(&[EPERM, EINVAL]),
        go: |s| s.call(SYS_unshare, args![CLONE_NEWUSER | CLONE_NEWNS]) },
    Road { name: "unshare mounts", behind: Errno(&[EPERM]), go: |s| s.call(SYS_unshare, args![CLONE_NEWNS]) },
    Road { name: "fork", behind: Nothing(AS_CONFINED), go: |s| s.call(SYS_clone, args![SIGCHLD, 0, 0, 0, 0]) },
    Road { name: "fork into a user namespace", behind: Nothing(AS_CONFINED),
        go: |s| s.call(SYS_clone, args![CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0]) },
    Road { name: "clone3, whose flags no filter sees", behind: Errno(&[EINVAL]),
        // Flags that the kernel refuses: where there is no filter a copy of this process would take orders too.
        go: |s| {
            let mut arguments = (CLONE_THREAD as u64).to_ne_bytes().to_vec();
            arguments.resize(88, 0);
            s.call(SYS_clone3, args![arguments, 88])
        } },
    Road { name: "enter the namespaces of any held descriptor", behind: Errno(&[EPERM, EINVAL, EBADF]),
        go: |s| s.each(s.pair.held(s.who), |fd| s.call(SYS_setns, args![fd, CLONE_NEWNS | CLONE_NEWNET])) },
    Road { name: "enter the others' namespaces", behind: Errno(OTHERS),
        go: |s| s.each(s.others(), |pid| {
            let pidfd = s.call(SYS_pidfd_open, args![pid, 0])?;
            s.call(SYS_setns, args![pidfd, CLONE_NEWNS])
        }) },
    Road { name: "mount", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_mount, args!["none", "/", "tmpfs", 0, 0]) },
    Road { name: "mount procfs", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_mount, args!["none", "/", "proc", 0, 0]) },
    Road { name: "remount without its flags", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_mount, args!["none", "/", "", MS_REMOUNT | MS_BIND, 0]) },
    Road { name: "detach its root", behind: Errno(&[EPERM]), go: |s| s.call(SYS_umount2, args!["/", MNT_DETACH]) },
    Road { name: "make a file system", behind: Errno(&[EPERM]), go: |s| s.call(SYS_fsopen, args!["tmpfs", 0]) },
    Road { name: "pick up its mount", behind: Errno(&[EPERM]), go: |s| s.call(SYS_fspick, args![AT_FDCWD, "/", 0]) },
    Road { name: "copy its mount", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_open_tree, args![AT_FDCWD, "/", OPEN_TREE_CLONE]) },
    Road { name: "move mounts", behind: Errno(&[EPERM]),
        go: |s| s.each(s.pair.held(s.who), |fd| {
            s.call(SYS_move_mount, args![fd, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH])
        }) },
    Road { name: "change its mount's flags", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_mount_setattr, args![AT_FDCWD, "/", 0, vec![0_u8; 32], 32]) },
    Road { name: "pivot back", behind: Errno(&[EPERM]), go: |s| s.call(SYS_pivot_root, args![".", "."]) },
    Road { name: "change its root", behind: Errno(&[EPERM, EACCES]), go: |s| s.call(SYS_chroot, args!["/"]) },
    // The system.
    Road { name: "swap", behind: Errno(&[EPERM]), go: |s| s.call(SYS_swapon, args!["/", 0]) },
    Road { name: "reboot", behind: Errno(&[EPERM, EINVAL]), go: |s| s.call(SYS_reboot, args![0, 0, 0, 0]) },
    Road { name: "load a module", behind: Errno(&[EPERM, ENOSYS]),
        go: |s| s.call(SYS_init_module, args![vec![0_u8; 64], 64, ""]) },
    Road { name: "load a kernel", behind: Errno(&[EPERM, ENOSYS]),
        go: |s| s.call(SYS_kexec_load, args![0, 0, 0, 0]) },
    Road { name: "set the clock", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_clock_settime, args![CLOCK_REALTIME, vec![0_u8; 16]]) },
    Road { name: "name the host", behind: Errno(&[EPERM]), go: |s| s.call(SYS_sethostname, args!["x", 1]) },
    Road { name: "read the kernel's log", behind: Errno(&[EPERM, EINVAL]),
        // SYSLOG_ACTION_READ_CLEAR
        go: |s| s.call(SYS_syslog, args![4, vec![0_u8; 64], 64]) },
    Road { name: "load a program into the kernel", behind: Errno(&[EPERM, ENOSYS]),
        // BPF_PROG_GET_FD_BY_ID
        go: |s| s.call(SYS_bpf, args![13, [1_u32.to_ne_bytes(), [0; 4], [0; 4]].concat(), 12]) },
    Road { name: "watch page faults in the kernel", behind: Errno(&[EPERM, ENOSYS]),
        go: |s| s.call(SYS_userfaultfd, args![0]) },
    Road { name: "count the others' events", behind: Errno(&[EPERM, EACCES, ESRCH, ENOSYS]),
        go: |s| {
            // struct perf_event_attr: PERF_TYPE_SOFTWARE, of 112 bytes, not of the kernel
            let mut attr = vec![0_u8; 112];
            attr[..8].copy_from_slice(&[1, 0, 0, 0, 112, 0, 0, 0]);
            attr[40] = 0b0110_0000;
            s.each(s.others(), |pid| s.call(SYS_perf_event_open, args![attr.clone(), pid, -1, -1, 0]))
        } },
    Road { name: "use io_uring", behind: Nothing(AS_CONFINED),
        go: |s| s.call(SYS_io_uring_setup, args![8, vec![0_u8; 120]]) },
    Road { name: "use kernel keys", behind: Nothing("the session's keyring of whoever started it"),
        // KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING
        go: |s| s.call(SYS_keyctl, args![0, -3_i64, 0]) },
    Road { name: "add a key", behind: Nothing("the session's keyring of whoever started it"),
        go: |s| s.call(SYS_add_key, args!["user", "x", "x", 1, -3_i64]) },
    Road { name: "type into the terminal", behind: Errno(&[ENOTTY, EIO, EPERM, EACCES]),
        go: |s| s.each([0, 1, 2], |fd| s.call(SYS_ioctl, args![fd, TIOCSTI, "x"])) },
    // The network, and whoever listens.
    Road { name: "connect over TCP", behind: Errno(&[EACCES, ENETUNREACH]),
        go: |s| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
            let port = listener.local_addr().expect("an address").port();
            socket(s, AF_INET, SOCK_STREAM, SYS_connect, &loopback(port))
        } },
    Road { name: "listen on TCP", behind: Errno(&[EACCES]),
        go: |s| socket(s, AF_INET, SOCK_STREAM, SYS_bind, &loopback(0)) },
    Road { name: "send over UDP", behind: Errno(&[ENETUNREACH, EACCES]),
        go: |s| socket(s, AF_INET, SOCK_DGRAM, SYS_connect, &loopback(53)) },
    Road { name: "take packets", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_socket, args![AF_PACKET, SOCK_RAW, 0]) },
    Road { name: "send raw packets", behind: Errno(&[EPERM]),
        go: |s| s.call(SYS_socket, args![AF_INET, SOCK_RAW, IPPROTO_ICMP]) },
    Road { name: "connect to an abstract socket", behind: Errno(&[EPERM, ECONNREFUSED]),
        go: |s| {
            use std::os::linux::net::SocketAddrExt;
            let name = format!("airlockfs-breach-{}", s.pair.process(s.who).pid());
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).expect("a name");
            let listener = std::os::unix::net::UnixListener::bind_addr(&address).expect("a listener");
            let end = socket(s, AF_UNIX, SOCK_STREAM, SYS_connect, &unix(format!("\0{name}").as_bytes()));
            drop(listener);
            end
        } },
    Road { name: "connect to the VMM's socket by its path", behind: Errno(&[ENOENT, EACCES]),
        go: |s| {
            let path = s.pair.socket();
            socket(s, AF_UNIX, SOCK_STREAM, SYS_connect, &unix(path.to_str().expect("text").as_bytes()))
        } },
    Road { name: "listen at a path outside", behind: Errno(&[ENOENT, EACCES, EROFS]),
        go: |s| socket(s, AF_UNIX, SOCK_STREAM, SYS_bind, &unix(b"/run/airlockfs-breach.sock")) },
    Road { name: "connect its held descriptors", behind: Errno(&[ENOTSOCK, EBADF, EINVAL, EISCONN, EACCES, ENOENT, EPERM, EPROTOTYPE, ECONNREFUSED]),
        go: |s| s.each(s.pair.held(s.who), |fd| s.call(SYS_connect, args![fd, unix(b"/run/dbus/system_bus_socket"), 29])) },
    Road { name: "bind its held descriptors", behind: Errno(&[ENOTSOCK, EBADF, EINVAL, EACCES, ENOENT, EPERM, EROFS]),
        go: |s| s.each(s.pair.held(s.who), |fd| s.call(SYS_bind, args![fd, unix(b"/run/airlockfs-breach.sock"), 29])) },
    Road { name: "make a pair of sockets", behind: Nothing(AS_CONFINED),
        go: |s| s.call(SYS_socketpair, args![AF_UNIX, SOCK_STREAM, 0, vec![0_u8; 8]]) },
    // System V and POSIX objects of the host.
    Road { name: "attach the host's shared memory", behind: Errno(&[EINVAL, EACCES, EIDRM, EPERM, ENOSYS]),
        go: |s| s.each(0..4, |id| s.call(SYS_shmat, args![id, 0, SHM_RDONLY])) },
    Road { name: "find the host's message queues", behind: Errno(&[ENOENT, EACCES, ENOSYS]),
        go: |s| s.call(SYS_mq_open, args!["airlockfs", O_RDONLY, 0, 0]) },
    // Code.
    Road { name: "execute a shell", behind: Errno(&[ENOENT, EACCES]),
        go: |s| s.call(SYS_execve, args!["/bin/sh", 0, 0]) },
    Road { name: "execute any held file", behind: Errno(&[EACCES]),
        go: |s| s.each(files(s), |fd| s.call(SYS_execveat, args![fd, "", 0, 0, AT_EMPTY_PATH])) },
    Road { name: "execute the report", behind: Errno(&[EACCES]),
        // Made with MFD_NOEXEC_SEAL (Linux 6.3), as the ring's memory, of which no descriptor is left.
        go: |s| s.each(memory(s, "airlockfs-"), |fd| s.call(SYS_execveat, args![fd, "", 0, 0, AT_EMPTY_PATH])) },
    Road { name: "execute the guest's memory or what else it holds", behind: Nothing(OWN_MEMORY),
        go: |s| s.each(s.pair.held(s.who), |fd| s.call(SYS_execveat, args![fd, "", 0, 0, AT_EMPTY_PATH])) },
    Road { name: "map executable memory", behind: Errno(&[EACCES]),
        go: |s| s.call(SYS_mmap, args![0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0]) },
    Road { name: "map any held file executable", behind: Errno(&[EPERM, EACCES, ENODEV, EBADF]),
        go: |s| s.each(files(s), |fd| s.call(SYS_mmap, args![0, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0])) },
    Road { name: "make memory executable", behind: Errno(&[EACCES]),
        go: |s| s.call(SYS_mprotect, args![page(s), 4096, PROT_READ | PROT_EXEC]) },
    Road { name: "make memory executable with a key", behind: Errno(&[EACCES]),
        go: |s| s.call(SYS_pkey_mprotect, args![page(s), 4096, PROT_READ | PROT_EXEC, -1]) },
    Road { name: "make readable mean executable", behind: Nothing(OWN_MEMORY),
        // READ_IMPLIES_EXEC
        go: |s| s.call(SYS_personality, args![0x0040_0000]) },
    Road { name: "make a file in memory", behind: Nothing(OWN_MEMORY),
        go: |s| s.call(SYS_memfd_create, args!["x", 0]) },
    Road { name: "attach executable shared memory", behind: Errno(&[EACCES]),
        go: |s| {
            let id = s.call(SYS_shmget, args![IPC_PRIVATE, 4096, 0o700])?;
            s.call(SYS_shmat, args![id, 0, SHM_EXEC])
        } },
    // Files, by handles and by watching.
    Road { name: "open a file handle", behind: Errno(&[EPERM, EBADF, ESTALE]),
        // ESTALE: of a pidfd, which has handles for pidfds only.
        go: |s| s.each(s.pair.held(s.who), |fd| {
            s.call(SYS_open_by_handle_at, args![fd, handle_of("/etc/passwd"), O_RDONLY])
        }) },
    Road { name: "watch the whole system's files", behind: Errno(&[EPERM, ENOSYS]),
        // FAN_CLASS_CONTENT
        go: |s| s.call(SYS_fanotify_init, args![4, O_RDONLY]) },
    Road { name: "account processes to a file", behind: Errno(&[EPERM, ENOSYS]),
        go: |s| s.call(SYS_acct, args!["/x"]) },
];

pub(crate) const TESTS: &[Test] = &[
    test!(what_is_given_up_is_locked),
    test!(the_roads_lead_somewhere_where_nothing_confines),
];

/// Those that a process of root walks to their end and that leave the host as it is.
#[rustfmt::skip]
const OPEN: &[&str] = &[
    "signal process 1 of the host",
    "seize the others",
    "read the others' memory",
    "take the others' descriptors",
    "compare with the others",
    "advise on the others' memory",
    "find the others' lock lists",
    "move the others' pages",
    "raise its limits",
    "take a capability it gave up, with file handles",
    "unlock securebits",
    "unshare a user namespace",
    "unshare mounts",
    "enter the others' namespaces",
    "mount",
    "mount procfs",
    "remount without its flags",
    "detach its root",
    "make a file system",
    "pick up its mount",
    "copy its mount",
    "change its mount's flags",
    "change its root",
    "name the host",
    "connect over TCP",
    "listen on TCP",
    "send over UDP",
    "take packets",
    "send raw packets",
    "connect to an abstract socket",
    "connect to the VMM's socket by its path",
];

fn the_roads_lead_somewhere_where_nothing_confines() {
    crate::road::lead_somewhere_unconfined(ROADS, OPEN);
}

/// The securebits say so, and nobody of the same user may look at the process. Read back where no filter forbids it.
fn what_is_given_up_is_locked() {
    for user in [None, Some(USER)] {
        let pair = Pair::started(Filter::None, &[], user);
        for who in BOTH {
            let told = |option: i32| pair.call(who, SYS_prctl, args![option, 0, 0, 0, 0]);
            // NOROOT, NO_SETUID_FIXUP off, KEEP_CAPS off and NO_CAP_AMBIENT_RAISE, each locked.
            assert_eq!(told(PR_GET_SECUREBITS), Outcome::Returned(0b1110_1011), "{who:?}");
            assert_eq!(told(PR_GET_DUMPABLE), Outcome::Returned(0), "{who:?}");
            assert_eq!(told(PR_GET_NO_NEW_PRIVS), Outcome::Returned(1), "{who:?}");
        }
    }
}

/// The `struct file_handle` of a file of the host, as another process would hand it over.
pub(crate) fn handle_of(path: &str) -> Vec<u8> {
    let path = std::ffi::CString::new(path).expect("a path");
    let mut handle = vec![0_u8; 136];
    handle[..4].copy_from_slice(&128_u32.to_ne_bytes());
    let mut mount = 0_i32;
    crate::sys::name_to_handle_at(&path, &mut handle, &mut mount);
    handle
}
