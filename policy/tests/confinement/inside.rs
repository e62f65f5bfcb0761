//! The processes that confine themselves: they take orders afterwards.
#![expect(unsafe_code, reason = "takes the descriptors it was started with by number")]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

use airlockfs_breach::{start_helper, survive_traps};
use airlockfs_ipc::channel::{self, Channel};
use airlockfs_ipc::message::{ConfinementReport, Start, Started};
use airlockfs_policy::confine::{SupervisorPlan, WorkerPlan, confine_supervisor, confine_worker};
use airlockfs_policy::spawn::{WorkerLaunch, spawn_worker};
use airlockfs_policy::{Features, Namespaces, StartError, UserNamespace};

/// A configuration's `poll_us` of a worker that tells a forbidden call and ends.
pub(crate) const TELLS: u32 = 77;

fn channel_at(number: i32) -> Channel {
    // SAFETY: whoever started this process put the channel there, and nothing else takes it.
    Channel::from(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What `airlockfs-worker` does at its start.
pub(crate) fn worker(namespaces: &str) -> ExitCode {
    let held = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut held: Vec<_> = held.map(|entry| entry.unwrap().file_name()).collect();
    held.sort();
    assert_eq!(
        held,
        ["0", "1", "2", "3", "4"],
        "started with these, the last is this list's"
    );
    let control = channel_at(3);
    let (start, mut handed): (Start, Vec<OwnedFd>) = control.receive(4).unwrap().unwrap();
    let network = start.network.then(|| handed.remove(0));
    // Otherwise as in production: the handler that tells the call.
    if start.config.poll_us != TELLS {
        survive_traps();
    }
    let mut expected = vec![(control.as_fd(), "control")];
    expected.extend(handed.iter().map(|fd| (fd.as_fd(), "handed over")));
    expected.extend(network.iter().map(|fd| (fd.as_fd(), "network")));
    let plan = WorkerPlan {
        config: &start.config,
        namespaces: Namespaces::parse(namespaces),
        network: network.as_ref().map(AsFd::as_fd),
        expected: &expected,
        nofile: 256,
    };
    match confine_worker(&plan) {
        Ok((unfiltered, roots)) => {
            drop(network);
            start_helper().unwrap();
            let report = unfiltered.filter().expect("the filter is installed").1;
            let descriptors = [roots.proc_self_fd.as_raw_fd(), roots.shares[0].as_raw_fd()];
            control.send(&(Started::Ready(report), descriptors), &[]).unwrap();
            serve(&control)
        }
        Err(error) => {
            control.send(&(failed(&error), [0, 0]), &[]).unwrap();
            ExitCode::FAILURE
        }
    }
}

/// What `airlockfsd` does to itself.
pub(crate) fn supervisor() -> ExitCode {
    let control = channel_at(0);
    let (start, handed): (Start, _) = control.receive(4).unwrap().unwrap();
    survive_traps();
    let mut named = vec![control.as_fd()];
    named.extend(handed.iter().map(AsFd::as_fd));
    let answer = match confine(&start, &named) {
        Ok(report) => Started::Ready(report),
        Err(error) => failed(&error),
    };
    control.send(&(answer, [0, 0]), &[]).unwrap();
    serve(&control)
}

/// What `airlockfsd` does when it starts: it starts the worker, then confines itself.
pub(crate) fn launcher() -> ExitCode {
    let control = channel_at(0);
    let (mut start, _): (Start, _) = control.receive(0).unwrap().unwrap();
    let (ours, workers) = channel::pair().unwrap();
    let (executable, stderr) = (File::open("/proc/self/exe").unwrap(), std::io::stderr());
    let launch = WorkerLaunch {
        executable: executable.as_fd(),
        control: workers.as_fd(),
        log: stderr.as_fd(),
        sandbox: start.config.sandbox,
        user_namespace: UserNamespace::Auto,
        allow_missing: &start.config.allow_missing,
        joins_network: true,
    };
    let started = spawn_worker(&launch).and_then(|spawned| {
        spawned.executing.wait()?;
        Ok((spawned.pidfd, spawned.network))
    });
    let (pidfd, network) = match started {
        Ok(started) => started,
        Err(error) => {
            let failure = failed(&error);
            control.send(&(failure, [0, 0]), &[]).unwrap();
            return ExitCode::FAILURE;
        }
    };
    drop(workers);
    start.network = network.is_some();
    let handed: Vec<_> = network.iter().map(AsFd::as_fd).collect();
    ours.send(&start, &handed).unwrap();
    drop(network);
    let Some(((started, descriptors), _)) = ours.receive::<(Started, [i32; 2])>(0).unwrap() else {
        panic!("the worker did not start");
    };
    control.send(&(started, descriptors), &[pidfd.as_fd()]).unwrap();
    drop(executable);
    let named = [control.as_fd(), ours.as_fd(), pidfd.as_fd()];
    let answer = match confine(&start, &named) {
        Ok(report) => Started::Ready(report),
        Err(error) => failed(&error),
    };
    control.send(&(answer, [0, 0]), &[]).unwrap();
    serve(&control)
}

fn failed(error: &StartError) -> Started {
    Started::Failed {
        kind: error.kind.code(),
        message: error.message.clone(),
    }
}

fn confine(start: &Start, expected: &[BorrowedFd<'_>]) -> Result<ConfinementReport, StartError> {
    let rootful = nix::unistd::geteuid().is_root();
    let expected: Vec<_> = expected.iter().map(|fd| (*fd, "handed over")).collect();
    let plan = SupervisorPlan {
        features: &Features::of(&start.config, rootful),
        expected: &expected,
        uid: 65534,
        gid: 65534,
        nofile: 256,
    };
    let unfiltered = confine_supervisor(&plan)?;
    start_helper().unwrap();
    unfiltered.filter().map(|(_, report)| report)
}

fn serve(control: &Channel) -> ExitCode {
    airlockfs_breach::serve(control).unwrap();
    ExitCode::SUCCESS
}
