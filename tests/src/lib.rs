//! Harness for airlockfs: a vhost-user front end, a FUSE client, a /dev/fuse bridge and the daemons
//! they drive.
//!
//! - [`vmm`] is what a VMM does: guest memory, virtqueues, the vhost-user socket.
//! - [`fuse`] is what a guest kernel does: requests and replies of the FUSE protocol, from
//!   definitions of its own.
//! - [`daemon`] starts the real binaries, confined as in production; [`deny`] takes a system call
//!   from them.
//! - [`boundary`] breaks the rules between the two processes, from either side.
//! - [`ground`] makes file systems to share.
//! - [`bridge`] mounts a daemon on the host through /dev/fuse.
//! - [`stallfs`] is a file system of the host that stops answering.
//! - [`placement`] puts them on processors, [`procfs`] reads what they used.
//! - [`trace`] counts what they do.
//!
//! Only [`boundary`] depends on the daemon's crates. All else tests what goes over the wire.

pub mod boundary;
pub mod bridge;
pub mod daemon;
pub mod deny;
pub mod fuse;
pub mod ground;
pub mod mount;
pub mod placement;
pub mod procfs;
pub mod program;
pub mod skip;
pub mod stallfs;
pub mod stderr;
pub mod stop;
pub mod tempdir;
pub mod trace;
pub mod vmm;
