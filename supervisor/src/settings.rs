//! What the command line means: for the worker, for FUSE, for confinement.

use airlockfs_ipc::message::{Barrier, MEMORY_PER_DESCRIPTOR, SeccompMode, Share, View, WorkerConfig};
use airlockfs_policy::{
    ExitKind, Features, Profile, StartError, UserNamespace, supervisor_profile, worker_profile,
};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::{
    cli::{Cache, Cli, FileHandles, OnDisconnect, REQUEST_QUEUES_MAX, SandboxArg, When},
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
/// Directories and files under one tag: what is to be served must fit the worker's first message.
const MOST_SHARES: usize = 64;

/// Refuses combinations that cannot mean anything.
pub(crate) fn check(cli: &Cli) -> Result<(), StartError> {
    let usage = |message: &str| Err(StartError::new(ExitKind::Usage, message));
    if cli.device.socket_path.is_none() && cli.device.fd.is_none() {
        return usage("--socket-path PATH or --fd N is required; see airlockfsd --help");
    }
    let mut names: Vec<_> = cli.share.named().map(|(named, _)| &named.name).collect();
    match (&cli.share.shared_dir, names.len()) {
        (None, 0) => {
            return usage("--shared-dir DIR or --share NAME=PATH is required; see airlockfsd --help");
        }
        (Some(_), 1..) => {
            return usage("--shared-dir is the root by itself: it does not go with --share and --share-ro");
        }
        (_, count) if count > MOST_SHARES => return usage("--share and --share-ro: at most 64 of them"),
        _ => {}
    }
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair.first() == pair.last()) {
        let name = twice
            .first()
            .map_or_else(String::new, |name| name.to_string_lossy().into());
        return usage(&format!("--share and --share-ro: {name} is the name of two"));
    }
    if !names.is_empty() && cli.confinement.sandbox == SandboxArg::Chroot {
        return usage("--sandbox chroot takes one --shared-dir, not --share and --share-ro");
    }
    if cli.confinement.inode_file_handles == FileHandles::Mandatory {
        return usage(
            "--inode-file-handles=mandatory is not supported: file handles reach outside the share; leave it out, \
             descriptors are opened again when needed",
        );
    }
    if cli.share.is_readonly() && cli.share.writeback {
        return usage("--writeback makes no sense with --readonly");
    }
    let view = cli.share.view.message();
    let permissions = (view.uid, view.gid, view.mode, view.fmask, view.dmask);
    if cli.share.posix_acl != When::Never && permissions != (None, None, None, 0, 0) {
        return usage(
            "--posix-acl makes no sense with --uid, --gid, --mode and masks: ACLs say who may do what by the host's \
             owners and permissions",
        );
    }
    Ok(())
}

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

/// The guest sees a file's attributes as fstat(2) tells them.
pub(crate) fn attributes_alike(cli: &Cli) -> bool {
    let share = &cli.share;
    let translated = !share.translate_uid.is_empty() || !share.translate_gid.is_empty();
    let named = share.named().next().is_some();
    !translated && !named && share.view.message() == View::default()
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
    }
}

/// Files are opened and closed without a message: where nothing changes, nothing need be asked. What an open file is
/// for on the host (locks, flags of open(2)) needs one.
fn zero_open(cli: &Cli) -> bool {
    let share = &cli.share;
    let needed = share.posix_lock || share.flock || share.allow_direct_io || share.preserve_noatime;
    share.is_readonly() && share.cache == Cache::Always && !needed
}

fn xattr(cli: &Cli) -> bool {
    let share = &cli.share;
    share.xattr
        || share.xattrmap.is_some()
        || share.posix_acl != When::Never
        || share.security_label != When::Never
}

/// The worker's part.
pub(crate) fn worker_config(cli: &Cli, shares: Vec<Share>, max_descriptors: u64) -> WorkerConfig {
    WorkerConfig {
        readonly: cli.share.is_readonly(),
        shares,
        xattr: xattr(cli),
        xattr_map: cli.share.xattrmap.clone(),
        posix_acl: cli.share.posix_acl != When::Never,
        no_setuid: cli.share.no_setuid,
        device_nodes: cli.confinement.allow_device_nodes,
        project_ids: cli.confinement.allow_project_ids,
        immutable_flags: cli.confinement.allow_immutable,
        donate: !cli.confinement.no_donate,
        writeback: cli.share.writeback,
        direct_io: cli.share.allow_direct_io,
        preserve_noatime: cli.share.preserve_noatime,
        announce_submounts: !cli.share.no_announce_submounts,
        zero_open: zero_open(cli),
        posix_lock: cli.share.posix_lock,
        flock: cli.share.flock,
        lock_wait_ms: u64::try_from(cli.share.lock_wait.as_millis()).unwrap_or(u64::MAX),
        uid_map: cli.share.translate_uid.clone(),
        gid_map: cli.share.translate_gid.clone(),
        view: cli.share.view.message(),
        sandbox: cli.confinement.sandbox.into(),
        seccomp: SeccompMode::from(cli.confinement.seccomp),
        allow_missing: cli
            .confinement
            .allow_missing
            .iter()
            .map(|barrier| Barrier::from(*barrier))
            .collect(),
        spare_threads: cli.service.spare_threads,
        stall_limit: cli.service.stall_limit,
        max_descriptors,
        max_memory: cli.service.max_memory,
        poll_us: u32::try_from(cli.device.poll_us.as_micros()).unwrap_or(u32::MAX),
        informs: cli.service.log_level >= log::LevelFilter::Info,
    }
}

/// What the supervisor and the worker may do, started as root or not.
pub(crate) fn profiles(cli: &Cli, as_root: bool) -> (Profile, Profile) {
    let config = worker_config(cli, Vec::new(), 0);
    let own_user_namespace = user_namespace(cli) != UserNamespace::Auto;
    (
        supervisor_profile(&Features::of(&config, as_root)),
        worker_profile(&Features::of(&config, as_root && !own_user_namespace)),
    )
}

/// The worker's user namespace.
pub(crate) fn user_namespace(cli: &Cli) -> UserNamespace {
    let confinement = &cli.confinement;
    if confinement.uid_map.is_empty() && confinement.gid_map.is_empty() {
        UserNamespace::Auto
    } else {
        UserNamespace::Maps {
            uids: confinement.uid_map.clone(),
            gids: confinement.gid_map.clone(),
        }
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
