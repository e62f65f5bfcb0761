//! Measures the ring with a no-op. This program is the supervisor's side; the other side is the
//! real worker, confined as in production. `airlockfs-ring [WORKER]` prints a line for each depth.

use std::{
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use airlockfs_ipc::{
    channel,
    message::{Request, SeccompMode, Share, Start, Started, WorkerConfig},
    ring::{MessageBuffer, SupervisorLane, SupervisorRing},
};
use airlockfs_policy::{
    UserNamespace,
    spawn::{WorkerLaunch, open_executable, spawn_worker},
};
use airlockfs_tests::tempdir::TempDir;
use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const POLL: Duration = Duration::from_micros(50);
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: usize = 7;

fn main() -> anyhow::Result<()> {
    let worker = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("airlockfs-worker"),
    };
    let executable = open_executable(&worker)?;
    let directory = TempDir::new()?;
    let ring = SupervisorRing::create(1, POLL)?;
    let (control, theirs) = channel::pair()?;
    let config = config(&directory)?;
    let stderr = std::io::stderr();
    let worker = spawn_worker(&WorkerLaunch {
        executable: executable.as_fd(),
        control: theirs.as_fd(),
        log: stderr.as_fd(),
        sandbox: config.sandbox,
        user_namespace: UserNamespace::Auto,
        allow_missing: &[],
        joins_network: false,
    })?;
    worker.executing.wait()?;
    drop(theirs);
    control.send(
        &Start {
            lanes: 1,
            network: false,
            config,
        },
        &ring.worker.descriptors(),
    )?;
    match control.receive::<Started>(0)? {
        Some((Started::Ready(_), _)) => {}
        other => bail!("the worker did not start: {other:?}"),
    }
    let mut lanes = ring.lanes;
    let lane = lanes.first_mut().context("a lane")?;
    println!("| depth | no-ops per second | mean round trip |\n|---:|---:|---:|");
    for depth in [1, 4, 16, 64] {
        let mut rates: Vec<f64> = (0..ROUNDS)
            .map(|_| round(lane, depth))
            .collect::<Result<_, _>>()?;
        rates.sort_by(f64::total_cmp);
        let rate = rates.get(ROUNDS / 2).copied().unwrap_or_default();
        println!("| {depth} | {rate:.0} | {:.2} µs |", depth as f64 / rate * 1e6);
    }
    Ok(())
}

/// No-ops per second with `depth` in flight.
fn round(lane: &mut SupervisorLane, depth: usize) -> anyhow::Result<f64> {
    let mut buffer = MessageBuffer::new();
    let begin = Instant::now();
    let mut done = 0_u64;
    while begin.elapsed() < ROUND || lane.in_flight() > 0 {
        while begin.elapsed() < ROUND && lane.in_flight() < depth {
            lane.submit(&Request::Ping, None)
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        }
        lane.flush();
        while lane.next_completion(&mut buffer)?.is_some() {
            done += 1;
        }
        if lane.in_flight() == depth && !lane.look(|| false) && lane.before_sleep(true) {
            poll(
                &mut [PollFd::new(lane.doorbell(), PollFlags::POLLIN)],
                PollTimeout::NONE,
            )?;
            nix::unistd::read(lane.doorbell(), &mut [0; 8])?;
            lane.after_sleep();
        }
    }
    Ok(done as f64 / begin.elapsed().as_secs_f64())
}

fn config(directory: &std::path::Path) -> anyhow::Result<WorkerConfig> {
    let path = directory.canonicalize()?;
    let found = path.metadata()?;
    let share = Share {
        path: path.as_os_str().as_bytes().to_vec(),
        identity: (found.dev(), found.ino()),
        name: None,
        readonly: false,
    };
    Ok(WorkerConfig {
        shares: vec![share],
        readonly: false,
        xattr: false,
        xattr_map: None,
        posix_acl: false,
        no_setuid: false,
        device_nodes: false,
        project_ids: false,
        immutable_flags: false,
        donate: true,
        writeback: false,
        direct_io: false,
        preserve_noatime: false,
        announce_submounts: true,
        zero_open: false,
        posix_lock: false,
        flock: false,
        lock_wait_ms: 0,
        file_handles: false,
        uid_map: Vec::new(),
        gid_map: Vec::new(),
        view: airlockfs_ipc::message::View::default(),
        sandbox: airlockfs_ipc::message::Sandbox::Namespace,
        seccomp: SeccompMode::Kill,
        allow_missing: Vec::new(),
        spare_threads: 1,
        stall_limit: 30,
        max_descriptors: 1024,
        max_memory: 1 << 30,
        poll_us: u32::try_from(POLL.as_micros())?,
        informs: true,
    })
}
