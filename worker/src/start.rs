//! From the first instruction to the first request: receive what to serve, give up everything else, say so.

use std::{
    collections::HashSet,
    fs,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, atomic::AtomicU64},
    thread,
    time::Duration,
};

use airlockfs_ipc::{
    Name,
    channel::Channel,
    message::{Farewell, MEMORY_PER_DESCRIPTOR, Start, Started, View, WorkerConfig},
    ring::{self, Alarm, MAX_LANES, WorkerLane},
};
use airlockfs_policy::{
    Advised, ExitKind, Namespaces, StartError,
    confine::{WorkerPlan, WorkerRoots, confine_worker},
};
use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{getegid, geteuid},
};

use crate::{
    by_node::ByNode,
    creds::Identities,
    crew::{self, Crew},
    gate::Gate,
    handle::Handles,
    ids::{IdMap, Mapped},
    inode::Inodes,
    listings::Listings,
    locks::Locks,
    reserve::Reserve,
    sys,
    view::{self, Owner},
    volume::{SYNTHETIC, Volume},
    watch,
    xattr_map::XattrMap,
};

/// Descriptors beyond the guest's budget: the ring's, the channels', those open for the length of an operation.
const RESERVED: u64 = 128;
/// Most spare threads, as `--spare-threads` has it.
const SPARES_MAX: u16 = 32;
/// Fewest descriptors to serve a guest with.
const FEWEST: u64 = 64;

/// What is left to the main thread once all serve.
pub(crate) struct Serving {
    /// It stays open as long as the supervisor lives.
    pub(crate) control: Channel,
    /// Lines that inform are logged, too.
    pub(crate) informs: bool,
}

/// Why it does not start.
pub(crate) struct NotStarted {
    pub(crate) error: StartError,
    /// The supervisor was told and says it, or it ended in good order before, and said why.
    pub(crate) told: bool,
}

/// Starts serving; when it returns, lanes and pool run.
pub(crate) fn start() -> Result<Serving, NotStarted> {
    let control = sys::control().map_err(|_| NotStarted {
        error: StartError::new(
            ExitKind::Usage,
            "airlockfs-worker is started by airlockfsd, not by hand",
        ),
        told: false,
    })?;
    let control = Channel::from(control);
    match serving(&control) {
        Ok(informs) => Ok(Serving { control, informs }),
        Err(error) => {
            let failed = Started::Failed {
                kind: error.kind.code(),
                message: error.message.clone(),
            };
            let told = match control.send(&failed, &[]) {
                Ok(()) => true,
                // What it left is there, or the end.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                    matches!(control.receive::<Farewell>(0), Ok(Some(_)))
                }
                Err(_) => false,
            };
            Err(NotStarted { error, told })
        }
    }
}

fn failed(message: impl Into<String>) -> StartError {
    StartError::new(ExitKind::OsError, message)
}

/// Whether lines that inform are logged.
fn serving(control: &Channel) -> Result<bool, StartError> {
    let received = control
        .receive::<Start>(2 + 2 * usize::from(MAX_LANES))
        .map_err(|error| failed(format!("cannot read what to serve: {error}")))?;
    let Some((message, mut descriptors)) = received else {
        return Err(failed("airlockfsd ended before it said what to serve"));
    };
    let Start {
        lanes,
        network,
        config,
    } = message;
    let network = match network {
        true if descriptors.is_empty() => return Err(failed("the network namespace is missing")),
        true => Some(descriptors.remove(0)),
        false => None,
    };
    #[cfg(feature = "breach")]
    let breach = airlockfs_breach::handed_over(&mut descriptors, 1 + 2 * usize::from(lanes));
    check(&config)?;
    let informs = config.informs;
    let alarm = Arc::new(Alarm::default());
    let lanes = ring::map(descriptors, lanes, &alarm)
        .map_err(|error| failed(format!("cannot map the ring: {error}")))?;
    let xattr_map = match &config.xattr_map {
        Some(rules) => Some(
            XattrMap::parse(rules)
                .map_err(|error| StartError::new(ExitKind::Usage, format!("--xattrmap: {error}")))?,
        ),
        None => None,
    };
    // What cannot be asked any more once confined.
    let (own_uid, own_gid) = (geteuid().as_raw(), getegid().as_raw());
    let uid_map = Mapped::parse(&fs::read_to_string("/proc/self/uid_map").unwrap_or_default());
    let gid_map = Mapped::parse(&fs::read_to_string("/proc/self/gid_map").unwrap_or_default());
    let (overflow_uid, overflow_gid) = (overflow_id("overflowuid"), overflow_id("overflowgid"));
    let (nofile, budget) = descriptor_limits(&config)?;

    let mut expected = vec![(control.as_fd(), "control channel")];
    expected.extend(lanes.iter().flat_map(WorkerLane::descriptors));
    expected.extend(
        network
            .as_ref()
            .map(|network| (network.as_fd(), "its network namespace")),
    );
    #[cfg(feature = "breach")]
    expected.extend(
        breach
            .as_ref()
            .map(|orders| (orders.as_fd(), "orders of the tests")),
    );
    let namespaces = std::env::args().nth(1).unwrap_or_default();
    let (unfiltered, roots) = confine_worker(&WorkerPlan {
        config: &config,
        namespaces: Namespaces::parse(&namespaces),
        network: network.as_ref().map(AsFd::as_fd),
        expected: &expected,
        nofile,
    })?;
    drop(network);

    let has = |capability: u32| unfiltered.capabilities() & 1 << capability != 0;
    let overflow = |map: &Mapped, id: u32| (!map.contains(id)).then_some(id);
    let shown = &config.view;
    let view = view::View::new(
        shown,
        config.no_setuid,
        Owner::new(shown.uid, shown.default_uid, overflow(&uid_map, overflow_uid)),
        Owner::new(shown.gid, shown.default_gid, overflow(&gid_map, overflow_gid)),
    );
    let identities = Identities {
        uids: IdMap::new(config.uid_map.clone()),
        gids: IdMap::new(config.gid_map.clone()),
        own_uid,
        own_gid,
        other_uids: has(CAP_SETUID).then_some(uid_map),
        other_gids: has(CAP_SETGID).then_some(gid_map),
        any_uid: view.uid.is_forced(),
        any_gid: view.gid.is_forced(),
    };
    let WorkerRoots { shares, proc_self_fd } = roots;
    let volume = volume(config, shares, (identities, view), xattr_map, budget)?;
    let gate = Arc::new(Gate::default());
    let threads = run(&gate, (lanes, alarm), volume, proc_self_fd)?;
    #[cfg(feature = "breach")]
    let threads = threads
        + airlockfs_breach::start("airlockfs-worker", breach, {
            let gate = gate.clone();
            move || {
                gate.pass();
            }
        })
        .map_err(|error| failed(error.to_string()))?;
    gate.wait_for(threads);
    let (confined, report) = unfiltered.filter()?;
    // Before the others run, who would have this thread's processor first.
    let told = control.send(&Started::Ready(report), &[]);
    told.map_err(|error| failed(format!("cannot report to airlockfsd: {error}")))?;
    gate.open(confined);
    Ok(informs)
}

/// What the kernel shows for ids outside a user namespace (proc_sys_kernel(5)).
fn overflow_id(name: &str) -> u32 {
    let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    text.trim().parse().unwrap_or(65_534)
}

/// Refuses what airlockfsd never asks for.
fn check(config: &WorkerConfig) -> Result<(), StartError> {
    let usage = |message: &str| Err(StartError::new(ExitKind::Usage, message));
    if config.shares.is_empty() {
        return usage("nothing to serve");
    }
    if config.shares.iter().any(|share| !share.path.starts_with(b"/")) {
        return usage("a shared directory's path is not absolute");
    }
    let names: Vec<_> = config.shares.iter().map(|share| share.name.as_deref()).collect();
    if !matches!(names[..], [None]) {
        let proper = |name: &Option<&[u8]>| name.is_some_and(|name| Name::new(name).is_ok());
        if !names.iter().all(proper) {
            return usage("each of several shares needs a name of one path component");
        }
        let distinct: HashSet<_> = names.iter().collect();
        if distinct.len() < names.len() {
            return usage("two shares of one name");
        }
    }
    let readonly = config.readonly || config.shares.iter().all(|share| share.readonly);
    if config.zero_open && !readonly {
        return usage("files that change need to be opened");
    }
    let View {
        uid,
        gid,
        mode,
        fmask,
        dmask,
        default_uid,
        default_gid,
    } = config.view;
    if [uid, gid, default_uid, default_gid].contains(&Some(u32::MAX)) {
        return usage("an owner without an id");
    }
    if mode.is_some_and(|mode| mode > 0o1777) || fmask > 0o7777 || dmask > 0o7777 {
        return usage("permissions that are none");
    }
    if config.spare_threads > SPARES_MAX {
        return usage("too many threads");
    }
    if config.stall_limit == 0 {
        return usage("no time for a request to wait");
    }
    Ok(())
}

const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

/// The limit of open files for the process, and how many of them are the guest's.
fn descriptor_limits(config: &WorkerConfig) -> Result<(u64, usize), StartError> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)
        .map_err(|error| failed(format!("cannot read the limit of open files: {error}")))?;
    let most = (config.max_memory / 4 / MEMORY_PER_DESCRIPTOR).min(config.max_descriptors);
    let nofile = most.saturating_add(RESERVED).min(hard);
    let budget = nofile.saturating_sub(RESERVED);
    if budget < FEWEST {
        let needed = RESERVED + FEWEST;
        return Err(StartError::new(
            ExitKind::Config,
            format!(
                "{nofile} open files are too few to serve a guest, {needed} are needed; raise the limit (ulimit -Hn, \
                 LimitNOFILE=) or --rlimit-nofile"
            ),
        ));
    }
    Ok((nofile, usize::try_from(budget).unwrap_or(usize::MAX)))
}

fn volume(
    config: WorkerConfig,
    shares: Vec<OwnedFd>,
    (identities, view): (Identities, view::View),
    xattr_map: Option<XattrMap>,
    budget: usize,
) -> Result<Volume, StartError> {
    let cannot = |error| failed(format!("cannot look at the shared directory: {error}"));
    let for_locks = budget / 8;
    // What is left over is for directories on the way.
    let (for_handles, by_node) = match config.zero_open {
        true => (budget / 2, budget / 4),
        false => (budget / 4 * 3, 0),
    };
    // A quarter is for what goes with descriptors ([`MEMORY_PER_DESCRIPTOR`]).
    let for_inodes = usize::try_from(config.max_memory / 4 * 3).unwrap_or(usize::MAX);
    let inodes = Inodes::new(budget - for_locks - by_node, for_inodes, config.file_handles);
    if config.shares.iter().any(|share| share.name.is_some()) {
        inodes.add_synthetic_root(&SYNTHETIC).map_err(cannot)?;
    }
    let mut nodes = Vec::new();
    for (index, descriptor) in (0..).zip(shares) {
        nodes.push(inodes.add_root(index, descriptor).map_err(cannot)?);
    }
    Ok(Volume {
        inodes,
        handles: Handles::new(for_handles),
        by_node: ByNode::new(by_node),
        listings: Listings::default(),
        reserve: Reserve::default(),
        locks: Locks::new(for_locks, Duration::from_millis(config.lock_wait_ms)),
        config,
        identities,
        view,
        xattr_map,
        roots: nodes,
        in_memory: AtomicU64::new(0),
        not_saying: AtomicU64::new(0),
        local: AtomicU64::new(0),
    })
}

/// Starts the threads behind the gate. Returns how many there are. `unneeded` is closed before they are all there.
fn run(
    gate: &Arc<Gate>,
    (lanes, alarm): (Vec<WorkerLane>, Arc<Alarm>),
    volume: Volume,
    unneeded: OwnedFd,
) -> Result<usize, StartError> {
    let cannot = |error| failed(format!("cannot start a thread: {}", Advised(&error)));
    let (spares, poll) = (volume.config.spare_threads.max(1), volume.config.poll_us);
    let limit = Duration::from_secs(volume.config.stall_limit.into());
    let volume = Arc::new(volume);
    // It is a mount of its own, which the kernel takes apart in its own time.
    let first = move || drop(unneeded);
    Inodes::start_sweeper(volume.clone(), gate.clone(), first).map_err(cannot)?;
    let locks = volume.config.posix_lock || volume.config.flock;
    let crew = Arc::new(Crew::new(lanes, volume, alarm));
    let poll = Duration::from_micros(poll.into());
    let threads = crew.start(spares, poll, gate).map_err(cannot)? + 2 + usize::from(locks);
    if locks {
        Locks::start(crew.clone(), gate.clone()).map_err(cannot)?;
    }
    let gate = gate.clone();
    thread::Builder::new()
        .name("watch".into())
        .spawn(move || {
            gate.pass();
            crew::broken(watch::watch(&crew, limit))
        })
        .map_err(cannot)?;
    Ok(threads)
}
