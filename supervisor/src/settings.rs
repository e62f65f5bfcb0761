//! How to serve: what the command line means to this process, on this system.

use std::hash::{BuildHasher, RandomState};

use airlockfs_ipc::message::MEMORY_PER_DESCRIPTOR;
use airlockfs_options::{Cache, Cli, OnDisconnect, REQUEST_QUEUES_MAX, When, xattr, zero_open};
use airlockfs_policy::{ExitKind, StartError};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::{
    device::TAG_MAX,
    fuse::{CacheMode, CachePolicy, Options},
    serve::{self, ServeOptions},
};

/// Descriptors either process needs for itself, apart from the guest's files.
const OWN_DESCRIPTORS: u64 = 64;
/// The least it makes sense to serve with.
const FEWEST_DESCRIPTORS: u64 = 128;
/// As many as virtiofsd asks for.
const MOST_DESCRIPTORS: u64 = 1_000_000;
/// They read what waits for a device, which is the faster the more of them it knows.
const DEFAULT_DATA_THREADS: usize = 8;

/// How to serve.
pub(crate) fn serve_options(
    cli: &Cli,
    descriptors: Descriptors,
    queues: Queues,
    attributes_alike: bool,
) -> ServeOptions {
    let tag = cli.device.tag.as_ref().map(|text| {
        let mut tag = [0; TAG_MAX];
        tag.iter_mut()
            .zip(text.bytes())
            .for_each(|(place, byte)| *place = byte);
        tag
    });
    ServeOptions {
        tag,
        fuse: fuse_options(cli),
        donate: !cli.confinement.no_donate,
        attributes_alike,
        used_by_node: match zero_open(cli) {
            true => usize::try_from(descriptors.for_guest / 4).unwrap_or(usize::MAX),
            false => 0,
        },
        handles: usize::try_from(descriptors.for_guest).unwrap_or(usize::MAX),
        on_disconnect: match cli.device.on_disconnect {
            OnDisconnect::Exit => serve::OnDisconnect::Exit,
            OnDisconnect::Listen => serve::OnDisconnect::Listen,
        },
        data_threads: match cli.service.thread_pool_size {
            0 => DEFAULT_DATA_THREADS,
            size => size.into(),
        },
        request_queues: queues.request,
    }
}

/// FUSE options that INIT grants where the guest can.
fn fuse_options(cli: &Cli) -> Options {
    let share = &cli.share;
    let mode = match share.cache {
        Cache::Never => CacheMode::Never,
        Cache::Auto => CacheMode::Auto,
        Cache::Metadata => CacheMode::Metadata,
        Cache::Always => CacheMode::Always,
    };
    let mut cache = CachePolicy::new(mode);
    cache.entry = share.entry_timeout.unwrap_or(cache.entry);
    cache.attr = share.attr_timeout.unwrap_or(cache.attr);
    cache.negative = share.negative_timeout;
    if share.file_handles {
        // A handle of another start's must not pass for one of this. Taken from the kernel while that may be asked.
        cache.generation = RandomState::new().hash_one(()) as u32;
    }
    Options {
        cache,
        readdirplus: !share.no_readdirplus,
        writeback: share.writeback,
        announce_submounts: !share.no_announce_submounts,
        xattr: xattr(cli),
        posix_acl: share.posix_acl != When::Never,
        security_label: share.security_label != When::Never,
        posix_lock: share.posix_lock,
        flock: share.flock,
        killpriv_v2: share.killpriv_v2,
        allow_mmap: !share.no_allow_mmap,
        zero_open: zero_open(cli),
        forward_flush: share.posix_lock,
        forward_access: false,
        idmapped_mounts: true,
        file_handles: share.file_handles,
    }
}

/// How many descriptors a process may hold (RLIMIT_NOFILE), and how many of them are for the guest's files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Descriptors {
    pub(crate) limit: u64,
    pub(crate) for_guest: u64,
}

/// The limit that `--rlimit-nofile` and the system's hard limit give.
pub(crate) fn descriptors(cli: &Cli) -> Result<Descriptors, StartError> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| {
        StartError::new(
            ExitKind::OsError,
            format!("cannot read the limit of open files: {error}"),
        )
    })?;
    let limit = match cli.service.rlimit_nofile {
        None => hard.min(MOST_DESCRIPTORS),
        Some(0) => soft,
        // Only CAP_SYS_RESOURCE raises a hard limit, and a daemon should not need it: as much as there is.
        Some(wanted) => wanted.min(hard),
    };
    if limit < FEWEST_DESCRIPTORS {
        let message = format!(
            "at most {limit} files may be open, at least {FEWEST_DESCRIPTORS} are needed: raise the hard limit \
             (ulimit -Hn, LimitNOFILE=) or --rlimit-nofile"
        );
        return Err(StartError::new(ExitKind::Config, message));
    }
    Ok(Descriptors {
        limit,
        for_guest: (limit - OWN_DESCRIPTORS).min(cli.service.max_memory / 4 / MEMORY_PER_DESCRIPTOR),
    })
}

/// Says that the kernel will end this process, if it was told to: no signal's handler could do better.
pub(crate) fn warn_of_limits() {
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_CPU)
        && soft != RLIM_INFINITY
    {
        log::warn!("the kernel ends this daemon after {soft} s of CPU time (ulimit -t, LimitCPU=)");
    }
}

/// Request queues, and the lanes for them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Queues {
    pub(crate) request: u16,
    pub(crate) lanes: u16,
}

/// Request queues: all there can be, when the command line does not say. How many are used is the VMM's to say, and one
/// that nobody uses costs a few hundred bytes. Each has a lane, which is a thread in either process, if there is a CPU for
/// each of these: more would take the CPU from one another and have a message for every few requests.
pub(crate) fn queues(cli: &Cli) -> Queues {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpus = u16::try_from(cpus).unwrap_or(u16::MAX);
    let request = cli.device.num_request_queues.unwrap_or(REQUEST_QUEUES_MAX);
    Queues {
        request,
        lanes: request.min((cpus / 2).max(1)),
    }
}
