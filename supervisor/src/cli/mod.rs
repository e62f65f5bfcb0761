//! The command line: virtiofsd's options by their names, and our own.

use std::{path::PathBuf, time::Duration};

use airlockfs_ipc::message::{Barrier, Sandbox, SeccompMode};
use airlockfs_policy::IdMapRange;
use clap::{ArgAction, ArgGroup, Args, Parser, Subcommand, ValueEnum};

use crate::own_user::SupervisorUid;

mod share;
mod values;

pub(crate) use share::{Cache, Share, When};
pub(crate) use values::NamedPath;
use values::{log_level, memory, poll_time, tag};

/// Shares a host directory with a virtual machine over virtio-fs, for guests that nobody trusts.
///
/// Two processes serve it: this one speaks to the guest and can reach no file; its worker holds
/// the directory and never sees the guest. Point a VMM's vhost-user-fs device at the socket and
/// mount the tag in the guest:
///
///   airlockfsd --socket-path /run/vm.sock --shared-dir /srv/share
///
///   mount -t virtiofs TAG /mnt          (in the guest)
///
/// airlockfsd policy says what a command line would be allowed, airlockfsd audit what holds of a running pair.
#[derive(Debug, Parser)]
#[command(name = "airlockfsd", version, max_term_width = 100, verbatim_doc_comment)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct CommandLine {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Cli,
}

/// What is done instead of serving. Its options, those for serving among them twice, are made when it is asked for.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum Command {
    /// What each process may do, and why
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Check a running pair from outside: 0 all holds, 1 weakened by its options, 2 something failed or cannot be seen
    Audit {
        /// Process id of the supervisor, airlockfsd
        #[arg(value_parser = clap::value_parser!(i32).range(1..))]
        pid: i32,
        /// For people or for programs
        #[arg(long, value_enum, default_value = "text")]
        format: AuditFormat,
        /// The airlockfsd that it should run, if not this one: the file itself, not its name or content
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
        /// The airlockfs-worker that it should run, if not the one beside this program
        #[arg(long, value_name = "PATH")]
        worker: Option<PathBuf>,
        /// In this process, without a limit of time
        #[arg(long, hide = true)]
        at_once: bool,
    },
}

/// How an audit is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditFormat {
    Text,
    Json,
}

/// `airlockfsd policy`.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub(crate) enum PolicyCommand {
    /// Show what both processes may do, served with these options
    Show(Box<ShowPolicy>),
    /// Say who may make a system call, has a capability or a Landlock right, or may touch a path, why and by which option
    Explain(Box<ExplainPolicy>),
    /// Compare two policies; exits with 1 when they differ
    Diff {
        /// A file of `show --format json`, or quoted options as for serving ('' for none)
        #[arg(allow_hyphen_values = true)]
        old: String,
        /// The same
        #[arg(allow_hyphen_values = true)]
        new: String,
    },
}

/// Show what both processes may do, served with these options
#[derive(Debug, Args)]
pub(crate) struct ShowPolicy {
    /// text for people, json for `policy diff`, oci for container tooling (one filter of what either process may call)
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) serve: Cli,
}

/// Say who may make a system call, has a capability or a Landlock right, or may touch a path, why and by which option
#[derive(Debug, Args)]
pub(crate) struct ExplainPolicy {
    /// Such as openat, CAP_MKNOD or make_reg; or an absolute path of this host, with options as for serving
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) serve: Cli,
}

/// How a policy is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
    Oci,
}

/// The options for serving. What must be there is checked by [`crate::settings::check`], so that a policy can be shown
/// for less.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("listen").args(["socket_path", "fd", "print_capabilities"]))]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) device: Device,
    #[command(flatten)]
    pub(crate) share: Share,
    #[command(flatten)]
    pub(crate) confinement: Confinement,
    #[command(flatten)]
    pub(crate) service: Service,
}

/// Most request queues of a device.
pub(crate) const REQUEST_QUEUES_MAX: u16 = 8;

#[derive(Debug, Args)]
#[command(next_help_heading = "Socket and device")]
pub(crate) struct Device {
    /// Listen on this vhost-user socket; a stale one is replaced, one in use is not
    #[arg(long, alias = "socket", value_name = "PATH")]
    pub(crate) socket_path: Option<PathBuf>,
    /// Listen on this inherited descriptor of a listening Unix socket
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) fd: Option<i32>,
    /// Give the socket to this group and let it connect
    #[arg(long, value_name = "GROUP", conflicts_with = "fd")]
    pub(crate) socket_group: Option<String>,
    /// Tag offered in the device's configuration space, at most 36 bytes; QEMU takes its own instead
    #[arg(long, value_parser = tag)]
    pub(crate) tag: Option<String>,
    /// Request queues that the VMM may use (its num-request-queues); a thread serves one, or several on few CPUs [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(REQUEST_QUEUES_MAX)))]
    pub(crate) num_request_queues: Option<u16>,
    /// When the VMM disconnects: exit with 0 as virtiofsd does, or listen for the next one
    #[arg(long, value_enum, default_value = "exit", value_name = "WHAT")]
    pub(crate) on_disconnect: OnDisconnect,
    /// Longest busy look for work before sleeping, in microseconds; 0 never looks
    #[arg(long, value_name = "auto|N", default_value = "auto", value_parser = poll_time)]
    pub(crate) poll_us: Duration,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Confinement")]
pub(crate) struct Confinement {
    /// How the worker is placed: own namespaces, chroot, or neither (for launchers that confine the daemon)
    #[arg(long, value_enum, default_value = "namespace", value_name = "HOW")]
    pub(crate) sandbox: SandboxArg,
    /// What a forbidden system call does in either process: kill, log, trap; none means no filter
    #[arg(long, value_enum, default_value = "kill", value_name = "WHAT")]
    pub(crate) seccomp: SeccompArg,
    /// Go on although the kernel lacks this barrier; the log keeps saying so. May be repeated
    #[arg(long, value_enum, value_name = "BARRIER")]
    pub(crate) allow_missing: Vec<BarrierArg>,
    /// Let the guest make device nodes (the worker keeps CAP_MKNOD)
    #[arg(long)]
    pub(crate) allow_device_nodes: bool,
    /// Let the guest change project ids of files, and so which quota of the host counts them
    #[arg(long)]
    pub(crate) allow_project_ids: bool,
    /// Let the guest make files immutable or append-only, chattr +i and +a (the worker keeps CAP_LINUX_IMMUTABLE; only as
    /// the host's root)
    #[arg(long)]
    pub(crate) allow_immutable: bool,
    /// Keep every file's descriptor in the worker; data then passes through the ring
    #[arg(long)]
    pub(crate) no_donate: bool,
    /// User ids of the worker's user namespace, as :INSIDE:OUTSIDE:COUNT:. May be repeated
    #[arg(long, value_name = "MAP", value_parser = crate::ids::namespace_range)]
    pub(crate) uid_map: Vec<IdMapRange>,
    /// Group ids of the worker's user namespace, likewise
    #[arg(long, value_name = "MAP", value_parser = crate::ids::namespace_range)]
    pub(crate) gid_map: Vec<IdMapRange>,
    /// User and group id of the supervisor where root starts it: one of FIRST:COUNT that no other process holds, or N
    /// itself, whoever else has it [default: 61184:4336, systemd's for dynamic users]
    #[arg(long, value_name = "FIRST:COUNT|N", value_parser = crate::ids::supervisor_uid)]
    pub(crate) supervisor_uid: Option<SupervisorUid>,
    /// Accepted from virtiofsd's command lines; file handles are never used, so mandatory is refused
    #[arg(long, value_enum, value_name = "WHEN", default_value = "never", hide = true)]
    pub(crate) inode_file_handles: FileHandles,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Service")]
pub(crate) struct Service {
    /// Threads of the supervisor for file data that waits for a disk [default: 8]
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) thread_pool_size: u16,
    /// Threads of the worker that take over where a call on the shared directory takes long or hangs
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=32))]
    pub(crate) spare_threads: u16,
    /// When all of those hang: how long a request waits for one, in seconds, before the guest gets EIO
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86400))]
    pub(crate) stall_limit: u32,
    /// Descriptors the worker may hold, at least 128; 0 takes the limit as it is [default: the hard limit, at most a million]
    #[arg(long, value_name = "N")]
    pub(crate) rlimit_nofile: Option<u64>,
    /// Memory the worker may take for what the guest knows, opens and locks, at least 16M: in bytes, or with K, M, G. A
    /// quarter bounds the descriptors, at 256 bytes each
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    pub(crate) max_memory: u64,
    /// error, warn, info, debug, trace or off
    #[arg(long, default_value = "info", value_name = "LEVEL", value_parser = log_level)]
    pub(crate) log_level: log::LevelFilter,
    /// Log to the system's log instead of stderr
    #[arg(long)]
    pub(crate) syslog: bool,
    /// Print what this back end can do, as JSON for launchers, and exit
    #[arg(long)]
    pub(crate) print_capabilities: bool,
    /// Foreground, as always; accepted from old command lines
    #[arg(short = 'f', hide = true, action = ArgAction::SetTrue)]
    _foreground: bool,
}

/// `--on-disconnect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnDisconnect {
    Exit,
    Listen,
}

/// `--inode-file-handles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FileHandles {
    Never,
    #[value(alias = "fallback")]
    Prefer,
    Mandatory,
}

macro_rules! mirrored {
    ($(#[$doc:meta])* $arg:ident => $target:ident { $($(#[$variant_doc:meta])* $variant:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        pub(crate) enum $arg { $($(#[$variant_doc])* $variant),+ }

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
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .take_while(|line| !line.is_empty())
        .map(str::trim)
        .collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}
