//! The command line: virtiofsd's options by their names, and our own.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use airlockfs_ipc::message::{Barrier, Sandbox, SeccompMode};
use airlockfs_policy::IdMapRange;
use clap::{ArgAction, ArgGroup, Args, Parser, ValueEnum};

use crate::{ids::SupervisorUid, modernise};

mod share;
mod values;

pub use share::{Cache, Share, View, When};
pub use values::NamedPath;
use values::{log_level, memory, poll_time, tag};

/// Shares a host directory with a virtual machine over virtio-fs, for guests that nobody trusts.
///
/// Two processes serve it. This one speaks to the guest and can open no file. Its worker holds the
/// directory and never sees the guest. Point a VMM's vhost-user-fs device at the socket and mount
/// the tag in the guest:
///
///   airlockfsd --socket-path /run/vm.sock --shared-dir /srv/share
///
///   mount -t virtiofs TAG /mnt          (in the guest)
///
/// This program executes airlockfsctl for two commands:
///
///   airlockfsd policy show|explain|diff   shows what a command line would allow
///
///   airlockfsd audit PID                  checks a running pair
#[derive(Debug, Parser)]
#[command(name = "airlockfsd", version, max_term_width = 100, verbatim_doc_comment)]
struct CommandLine {
    #[command(flatten)]
    serve: Cli,
}

/// Reads a command line, the program's name first, in old and new spelling.
///
/// # Errors
/// It cannot be understood, or it asks for help or the version.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    CommandLine::try_parse_from(modernise(words)).map(|line| line.serve)
}

/// The options for serving. What must be there is checked by [`crate::check`], so that a policy can be shown
/// for less.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("listen").args(["socket_path", "fd", "print_capabilities"]))]
#[expect(missing_docs, reason = "each is documented at its type")]
pub struct Cli {
    #[command(flatten)]
    pub device: Device,
    #[command(flatten)]
    pub share: Share,
    #[command(flatten)]
    pub confinement: Confinement,
    #[command(flatten)]
    pub service: Service,
}

/// Most request queues of a device.
pub const REQUEST_QUEUES_MAX: u16 = 8;

/// Options about the socket and the device.
#[derive(Debug, Args)]
#[command(next_help_heading = "Socket and device")]
pub struct Device {
    /// Listen on this vhost-user socket; a stale one is replaced, one in use is not
    #[arg(long, alias = "socket", value_name = "PATH")]
    pub socket_path: Option<PathBuf>,
    /// Listen on this inherited descriptor of a listening Unix socket
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub fd: Option<i32>,
    /// Give the socket to this group and let it connect
    #[arg(long, value_name = "GROUP", conflicts_with = "fd")]
    pub socket_group: Option<String>,
    /// Tag offered in the device's configuration space, at most 36 bytes; QEMU takes its own instead
    #[arg(long, value_parser = tag)]
    pub tag: Option<String>,
    /// Request queues that the VMM may use (its num-request-queues). On few CPUs a thread serves
    /// several [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(REQUEST_QUEUES_MAX)))]
    pub num_request_queues: Option<u16>,
    /// When the VMM disconnects: exit with 0, as virtiofsd does, or listen for the next VMM
    #[arg(long, value_enum, default_value = "exit", value_name = "WHAT")]
    pub on_disconnect: OnDisconnect,
    /// Longest time to poll for work before sleeping, in microseconds; 0 never polls
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = poll_time)]
    pub poll_us: Duration,
}

/// Options about confinement.
#[derive(Debug, Args)]
#[command(next_help_heading = "Confinement")]
pub struct Confinement {
    /// How to isolate the worker: own namespaces, chroot, or neither (for launchers that confine
    /// the daemon)
    #[arg(long, value_enum, default_value = "namespace", value_name = "HOW")]
    pub sandbox: SandboxArg,
    /// What a forbidden system call does in either process: kill, log or trap; none installs no
    /// filter
    #[arg(long, value_enum, default_value = "kill", value_name = "WHAT")]
    pub seccomp: SeccompArg,
    /// Start even if the kernel lacks this barrier; each start logs it. May be repeated
    #[arg(long, value_enum, value_name = "BARRIER")]
    pub allow_missing: Vec<BarrierArg>,
    /// Let the guest make device nodes (the worker keeps CAP_MKNOD)
    #[arg(long)]
    pub allow_device_nodes: bool,
    /// Let the guest change project ids of files, and so which host quota counts them
    #[arg(long)]
    pub allow_project_ids: bool,
    /// Let the guest make files immutable or append-only, chattr +i and +a (the worker keeps CAP_LINUX_IMMUTABLE; only as
    /// the host's root)
    #[arg(long)]
    pub allow_immutable: bool,
    /// Keep all file descriptors in the worker. File data then passes through the ring
    #[arg(long)]
    pub no_donate: bool,
    /// User ids of the worker's user namespace, as :INSIDE:OUTSIDE:COUNT:. May be repeated
    #[arg(long, value_name = "MAP", value_parser = crate::ids::namespace_range)]
    pub uid_map: Vec<IdMapRange>,
    /// The same for group ids
    #[arg(long, value_name = "MAP", value_parser = crate::ids::namespace_range)]
    pub gid_map: Vec<IdMapRange>,
    /// User and group id of the supervisor if root starts it: one of FIRST:COUNT that no other
    /// process holds, or exactly N, even if others have it [default: 61184:4336, systemd's for
    /// dynamic users]
    #[arg(long, value_name = "FIRST:COUNT|N", value_parser = crate::ids::supervisor_uid)]
    pub supervisor_uid: Option<SupervisorUid>,
    /// Accepted for virtiofsd's command lines. File handles are never used, so mandatory is refused
    #[arg(long, value_enum, value_name = "WHEN", default_value = "never", hide = true)]
    pub inode_file_handles: FileHandles,
}

/// Options about the service: threads, limits, the log.
#[derive(Debug, Args)]
#[command(next_help_heading = "Service")]
pub struct Service {
    /// Threads of the supervisor for file data that waits for a disk [default: 8]
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub thread_pool_size: u16,
    /// Threads of the worker that take over when a call on the shared directory takes long or hangs
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub spare_threads: u16,
    /// How long a request waits for a thread when all of them hang, in seconds; then the guest gets
    /// EIO
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub stall_limit: u32,
    /// Descriptors the worker may hold, at least 128; 0 keeps the present limit [default: the hard
    /// limit, at most a million]
    #[arg(long, value_name = "N")]
    pub rlimit_nofile: Option<u64>,
    /// Memory for what the guest knows, opens and locks, at least 16M: in bytes, or with K, M, G. A
    /// quarter of it bounds the descriptors, at 256 bytes each
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    pub max_memory: u64,
    /// error, warn, info, debug, trace or off
    #[arg(long, default_value = "info", value_name = "LEVEL", value_parser = log_level)]
    pub log_level: log::LevelFilter,
    /// Log to the system log instead of stderr
    #[arg(long)]
    pub syslog: bool,
    /// Print this back end's capabilities as JSON for launchers, and exit
    #[arg(long)]
    pub print_capabilities: bool,
    /// Run in the foreground, as always. Accepted for old command lines
    #[arg(short = 'f', hide = true, action = ArgAction::SetTrue)]
    _foreground: bool,
}

/// `--on-disconnect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the help would show it: --on-disconnect says it")]
pub enum OnDisconnect {
    Exit,
    Listen,
}

/// `--inode-file-handles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "named as virtiofsd names them")]
pub enum FileHandles {
    Never,
    #[value(alias = "fallback")]
    Prefer,
    Mandatory,
}

macro_rules! mirrored {
    ($(#[$doc:meta])* $arg:ident => $target:ident { $($(#[$variant_doc:meta])* $variant:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        #[expect(missing_docs, reason = "documented at what it mirrors")]
        pub enum $arg { $($(#[$variant_doc])* $variant),+ }

        impl From<$arg> for $target {
            fn from(arg: $arg) -> Self {
                match arg { $($arg::$variant => Self::$variant),+ }
            }
        }
    };
}

mirrored!(
    /// `--sandbox`.
    SandboxArg => Sandbox { Namespace, Chroot, None }
);
mirrored!(
    /// `--seccomp`.
    SeccompArg => SeccompMode { Kill, Log, Trap, None }
);
mirrored!(
    /// `--allow-missing`.
    BarrierArg => Barrier { Landlock, UserNamespaces, Namespaces }
);

/// What the parser found wrong, in one line.
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}
