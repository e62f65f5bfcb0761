//! From the command line to a confined pair of processes that serves, in one line of steps.

use std::{fmt, os::fd::AsFd};

use airlockfs_ipc::message::ConfinementReport;
use airlockfs_policy::{
    ExitKind, Features, StartError,
    confine::{SupervisorPlan, confine_supervisor},
};

use crate::{
    cli::Cli,
    crew::Crew,
    policy_command::Policy,
    serve::{self, Ends, ServeError},
    settings, socket, worker_process,
};

/// Id of a start as root: nobody's.
const NOBODY: u32 = 65_534;

/// Launches and serves until the VMM or a signal ends it.
pub(crate) fn run(cli: &Cli) -> Result<(), StartError> {
    settings::check(cli)?;
    let shares = worker_process::shares(&cli.share)?;
    let descriptors = settings::descriptors(cli)?;
    let listener = socket::listen(&cli.device)?;
    let queues = settings::request_queues(cli);
    let config = settings::worker_config(cli, shares, descriptors.for_guest);
    let features = Features::of(&config, nix::unistd::geteuid().is_root());
    let signals = serve::signals()
        .map_err(|error| StartError::new(ExitKind::OsError, format!("cannot take signals: {error}")))?;

    let namespace = settings::user_namespace(cli);
    let worker = worker_process::start(config, namespace, queues + 1, cli.device.poll_us)?;
    // While the worker confines itself, this process does the same.
    let policy = Policy::of(cli);
    let mut expected = vec![
        (listener.as_fd(), "the listening vhost-user socket"),
        (worker.control.as_fd(), "the worker's control channel"),
        (worker.process.pidfd.as_fd(), "the worker's process"),
        (signals.as_fd(), "signals"),
    ];
    expected.extend(worker.lanes.iter().flat_map(|lane| lane.descriptors()));
    #[cfg(feature = "breach")]
    let breach = airlockfs_breach::inherited(airlockfs_breach::SUPERVISOR);
    #[cfg(feature = "breach")]
    expected.extend(
        breach
            .as_ref()
            .map(|orders| (orders.as_fd(), "orders of the tests")),
    );
    // The filter has no call that tells it.
    let own_pid = std::process::id();
    let unfiltered = confine_supervisor(&SupervisorPlan {
        features: &features,
        expected: &expected,
        uid: NOBODY,
        gid: NOBODY,
        nofile: descriptors.limit,
    });
    drop(expected);
    let options = settings::serve_options(cli, descriptors);
    let mut crew = Crew::default();
    let prepared = unfiltered.and_then(|unfiltered| {
        let prepared = serve::prepare(listener, worker.lanes, &options, &mut crew);
        Ok((unfiltered, prepared.map_err(failed)?))
    });
    // Dropped when all is over, or when it never comes to serving.
    let control = worker.control.again();
    // What kept the worker from starting comes first: it has most likely kept this process, too.
    let worker_report = control.ready()?;
    let (unfiltered, prepared) = prepared?;
    // In a user namespace of its own either process sees owners with other eyes.
    let own_users = worker_report.namespaces.iter().any(|kind| kind == "user");
    let attributes_alike = settings::attributes_alike(cli) && features.rootful && !own_users;
    let ends = Ends {
        worker: worker.control,
        worker_process: worker.process.pidfd,
        signals,
    };
    let ready = prepared
        .beside(ends, attributes_alike, &mut crew)
        .map_err(failed)?;
    #[cfg(feature = "breach")]
    let newcomer = breach.as_ref().map(|_| crew.newcomer());
    #[cfg(feature = "breach")]
    airlockfs_breach::start("airlockfsd", breach, || {
        newcomer.into_iter().for_each(|come| come())
    })
    .map_err(|error| StartError::new(ExitKind::OsError, error.to_string()))?;
    crew.wait();
    let (confined, report) = unfiltered.filter()?;
    log::info!(
        "worker {} is confined: {}",
        worker.process.pid,
        Shown(&worker_report)
    );
    log::info!("supervisor {} is confined: {}", own_pid, Shown(&report));
    log::info!(
        "policy digests: supervisor {}, worker {}",
        policy.supervisor.digest,
        policy.worker.digest
    );
    for note in &worker.process.notes {
        log::info!("{note}");
    }
    for line in worker
        .process
        .weakened
        .iter()
        .chain(&worker_report.weakened)
        .chain(&report.weakened)
    {
        log::warn!("weaker than by default: {line}");
    }

    serve::serve(confined, ready).map_err(failed)
}

fn failed(error: ServeError) -> StartError {
    let kind = match error {
        ServeError::Vmm(_) => ExitKind::Protocol,
        ServeError::System(..) => ExitKind::OsError,
        ServeError::Boundary(_) => ExitKind::Software,
    };
    StartError::new(kind, error.to_string())
}

/// A report in one line.
struct Shown<'a>(&'a ConfinementReport);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let namespaces = if report.namespaces.is_empty() {
            "none".to_owned()
        } else {
            report.namespaces.join(" ")
        };
        write!(
            f,
            "uid {}, gid {}, capabilities {:#x}, own namespaces: {namespaces}, Landlock ABI {}, seccomp lets {} system \
             calls through ({} instructions)",
            report.uid,
            report.gid,
            report.capabilities,
            report.landlock_abi,
            report.syscalls,
            report.filter_instructions,
        )
    }
}
