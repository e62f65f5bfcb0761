//! From the command line to a confined pair of processes that serves, in one line of steps.

use std::{fmt, os::fd::AsFd};

use airlockfs_ipc::message::ConfinementReport;
use airlockfs_options::{self as options, Cli, SandboxArg};
use airlockfs_policy::{
    ExitKind, Features, StartError,
    confine::{SupervisorPlan, confine_supervisor},
    digest,
};

use crate::{
    crew::Crew,
    own_user::OwnUser,
    serve::{self, ServeError},
    settings, socket,
    wait::Waiter,
    watch::{self, Ends},
    worker_process::{self, Control, START_LIMIT, Worker},
};

/// Launches and serves until the VMM or a signal ends it.
pub(crate) fn run(cli: Cli) -> Result<(), StartError> {
    let (workers_log, weaker_log) = match cli.service.syslog {
        true => airlockfs_policy::log::system(cli.confinement.sandbox == SandboxArg::Namespace)?,
        false => (airlockfs_policy::log::own()?, None),
    };
    options::check(&cli)?;
    settings::warn_of_limits();
    let as_root = nix::unistd::geteuid().is_root();
    let shares = worker_process::shares(&cli.share)?;
    let user = OwnUser::take(cli.confinement.supervisor_uid, as_root)?;
    let descriptors = settings::descriptors(&cli)?;
    let listener = socket::listen(&cli.device)?;
    let queues = settings::queues(&cli);
    let config = options::worker_config(&cli, shares, descriptors.for_guest);
    let features = Features::of(&config, as_root);
    let signals = watch::signals()
        .map_err(|error| StartError::new(ExitKind::OsError, format!("cannot take signals: {error}")))?;

    let namespace = options::user_namespace(&cli);
    let Worker {
        lanes,
        control,
        process,
    } = worker_process::start(
        config,
        namespace,
        1 + queues.lanes,
        cli.device.poll_us,
        workers_log,
    )?;
    // While the worker is loaded and confines itself, this process does the same.
    let mut expected = vec![
        (listener.as_fd(), "the listening vhost-user socket"),
        (control.as_fd(), "the worker's control channel"),
        (process.pidfd.as_fd(), "the worker's process"),
        (process.executing.as_fd(), "the worker's way to its program"),
        (signals.as_fd(), "signals"),
    ];
    expected.extend(user.lock());
    expected.extend(lanes.iter().flat_map(|lane| lane.descriptors()));
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
        uid: user.id,
        gid: user.id,
        nofile: descriptors.limit,
    });
    drop(expected);
    // Dropped when all is over, or when it never comes to serving.
    let worker = control.again();
    process.executing.wait()?;
    let unfiltered = unfiltered.map_err(|error| first_cause(&worker, error))?;
    // In a user namespace of its own either process sees owners with other eyes.
    let own_users = process.namespaces.has(libc::CLONE_NEWUSER);
    let attributes_alike = options::attributes_alike(&cli) && features.rootful && !own_users;
    let serve_options = settings::serve_options(&cli, descriptors, queues, attributes_alike);
    let ends = Ends {
        worker: control,
        worker_process: process.pidfd,
        signals,
    };
    let note = user.note.clone();
    let weakened = process.weakened;
    let worker_pid = process.pid;
    let greeting = move |own: &ConfinementReport, workers: &ConfinementReport| {
        log::info!("worker {worker_pid} is confined: {}", Shown(workers));
        log::info!("supervisor {own_pid} is confined: {}", Shown(own));
        process
            .notes
            .iter()
            .chain(&note)
            .for_each(|note| log::info!("{note}"));
        for line in weaker_log
            .iter()
            .chain(&weakened)
            .chain(&workers.weakened)
            .chain(&own.weakened)
        {
            log::warn!("weaker than by default: {line}");
        }
        // Of what each process applied, as it sealed it.
        log::info!(
            "policy digests: supervisor {}, worker {}",
            digest(&own.profile),
            digest(&workers.profile)
        );
    };
    let mut crew = Crew::gathered();
    let prepared = serve::prepare(
        listener,
        lanes,
        ends,
        Box::new(greeting),
        &serve_options,
        &mut crew,
    )
    .map_err(|error| first_cause(&worker, failed(error)))?;
    #[cfg(feature = "breach")]
    let newcomer = breach.as_ref().map(|_| crew.newcomer());
    #[cfg(feature = "breach")]
    airlockfs_breach::start("airlockfsd", breach, || {
        newcomer.into_iter().for_each(|come| come(Ok(())))
    })
    .map_err(|error| StartError::new(ExitKind::OsError, error.to_string()))?;
    crew.wait().map_err(|error| {
        StartError::new(
            ExitKind::OsError,
            format!("a thread cannot prepare itself: {error}"),
        )
    })?;
    // The filter lets nobody make one.
    let hears = Waiter::level([&worker]).ok();
    let (confined, report) = unfiltered
        .filter()
        .map_err(|error| first_cause_heard(&worker, hears.as_ref(), error))?;
    drop(hears);
    serve::serve(confined, report, prepared).map_err(failed)
}

/// What kept the worker from starting comes first: it has most likely kept this process, too.
fn first_cause(worker: &Control, own: StartError) -> StartError {
    first_cause_heard(worker, Waiter::level([worker]).ok().as_ref(), own)
}

/// The same with a waiter for the worker's word.
fn first_cause_heard(worker: &Control, hears: Option<&Waiter>, own: StartError) -> StartError {
    let heard = hears.map(|waiter| waiter.wait(Some(START_LIMIT)));
    match heard {
        Some(Ok(told)) if told != 0 => worker.started().err().unwrap_or(own),
        _ => own,
    }
}

fn failed(error: ServeError) -> StartError {
    let kind = match &error {
        ServeError::Vmm(_) | ServeError::Memory => ExitKind::Protocol,
        ServeError::System(..) => ExitKind::OsError,
        ServeError::NoVmm(_) => ExitKind::Unavailable,
        ServeError::Boundary(reason) => reason.kind(),
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
