//! What a command line means: for the worker, for what confines both processes.

use airlockfs_ipc::message::{Barrier, SeccompMode, Share, View, WorkerConfig};
use airlockfs_policy::{
    ExitKind, Features, Profile, StartError, UserNamespace, supervisor_profile, worker_profile,
};

use crate::cli::{Cache, Cli, FileHandles, SandboxArg, When};

/// Directories and files under one tag: what is to be served must fit the worker's first message.
const MOST_SHARES: usize = 64;

/// Refuses combinations that cannot mean anything.
pub fn check(cli: &Cli) -> Result<(), StartError> {
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

/// The guest sees a file's attributes as fstat(2) tells them.
pub fn attributes_alike(cli: &Cli) -> bool {
    let share = &cli.share;
    let translated = !share.translate_uid.is_empty() || !share.translate_gid.is_empty();
    let named = share.named().next().is_some();
    !translated && !named && share.view.message() == View::default()
}

/// Files are opened and closed without a message: where nothing changes, nothing need be asked. What an open file is
/// for on the host (locks, flags of open(2)) needs one.
pub fn zero_open(cli: &Cli) -> bool {
    let share = &cli.share;
    let needed = share.posix_lock || share.flock || share.allow_direct_io || share.preserve_noatime;
    share.is_readonly() && share.cache == Cache::Always && !needed
}

/// Extended attributes are served.
pub fn xattr(cli: &Cli) -> bool {
    let share = &cli.share;
    share.xattr
        || share.xattrmap.is_some()
        || share.posix_acl != When::Never
        || share.security_label != When::Never
}

/// The worker's part.
pub fn worker_config(cli: &Cli, shares: Vec<Share>, max_descriptors: u64) -> WorkerConfig {
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
        file_handles: cli.share.file_handles,
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
pub fn profiles(cli: &Cli, as_root: bool) -> (Profile, Profile) {
    let config = worker_config(cli, Vec::new(), 0);
    let own_user_namespace = user_namespace(cli) != UserNamespace::Auto;
    (
        supervisor_profile(&Features::of(&config, as_root)),
        worker_profile(&Features::of(&config, as_root && !own_user_namespace)),
    )
}

/// The worker's user namespace.
pub fn user_namespace(cli: &Cli) -> UserNamespace {
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
