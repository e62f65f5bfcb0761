//! The command line of `airlockfsctl`.

use std::path::PathBuf;

use airlockfs_options::Cli;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows what airlockfs may do, and checks what a running pair can do.
#[derive(Debug, Parser)]
#[command(
    name = "airlockfsctl",
    version,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub(crate) struct CommandLine {
    /// The airlockfsd that executes this program [default: the one that it is installed with]
    #[arg(long, hide = true, value_name = "PATH")]
    pub(crate) airlockfsd: Option<PathBuf>,
    /// Audit in this process, without a time limit
    #[arg(long, hide = true)]
    pub(crate) at_once: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What is done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show what each process may do, and why
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Check a running pair from outside. Exits with 0 (all holds), 1 (weakened by options) or 2
    /// (something failed or cannot be seen)
    Audit(Audit),
}

/// Check a running pair from outside. Exits with 0 (all holds), 1 (weakened by options) or 2
/// (something failed or cannot be seen)
#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Process id of the supervisor, airlockfsd
    #[arg(value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) pid: i32,
    /// text for people, json for programs
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: AuditFormat,
    /// The airlockfsd that it should run, if not the installed one: the file itself, not its name or content
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,
    /// The airlockfs-worker that it should run, if not the one that the installed airlockfsd starts
    #[arg(long, value_name = "PATH")]
    pub(crate) worker: Option<PathBuf>,
}

/// How an audit is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AuditFormat {
    Text,
    Json,
}

/// `airlockfsctl policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Show what both processes may do with these options
    Show(Box<ShowPolicy>),
    /// Say who may make a system call, has a capability or a Landlock right, or may touch a path;
    /// why, and by which option
    Explain(Box<ExplainPolicy>),
    /// Compare two policies; exits with 1 when they differ
    Diff {
        /// A file from `show --format json`, or quoted options as for serving ('' for none)
        #[arg(allow_hyphen_values = true)]
        old: String,
        /// The same
        #[arg(allow_hyphen_values = true)]
        new: String,
    },
}

/// Show what both processes may do with these options
#[derive(Debug, Args)]
pub(crate) struct ShowPolicy {
    /// text for people, json for `policy diff`, oci for container tools (one filter with the calls
    /// of both processes)
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) format: Format,
    #[command(flatten)]
    pub(crate) serve: Cli,
}

/// Say who may make a system call, has a capability or a Landlock right, or may touch a path; why,
/// and by which option
#[derive(Debug, Args)]
pub(crate) struct ExplainPolicy {
    /// A name such as openat, CAP_MKNOD or make_reg, or an absolute path on this host with options
    /// as for serving
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
