//! A fresh daemon with a front end, ready to be measured.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use super::cases::{Actors, Case, Extent, HostLoop, Setup, Unit};
use super::engine::{Engine, Outcome};
use super::launcher::Launcher;
use super::tree::Tree;
use super::variant::Variant;
use super::wait::Wait;
use airlockfs_tests::daemon::Daemon;
use airlockfs_tests::fuse::{self, Client, SessionConfig};
use airlockfs_tests::placement::{Placement, unpin};
use airlockfs_tests::procfs::{Processes, Resident, thread_cpu};
use airlockfs_tests::vmm::memory::Memory;
use airlockfs_tests::vmm::{Vmm, VmmConfig};

/// How long a daemon may take from its first answer until it rests.
const SETTLES: Duration = Duration::from_secs(2);

/// How things are measured.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Where things run.
    pub placement: Placement,
    /// How the daemon is started.
    pub launcher: Launcher,
    /// How the front end waits.
    pub wait: Wait,
    /// How long a measurement takes, where its case does not say.
    pub time: Duration,
    /// Less work where the case says how much.
    pub quick: bool,
}

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Units of the case per second.
    pub rate: f64,
    /// Units of the case per second of CPU time, of the daemon and the front end together: the rate that one CPU gives
    /// when nothing else runs on it and nothing waits. Other programs disturb it less than they do the rate.
    pub per_cpu: f64,
    /// Median latency of an operation in microseconds.
    pub p50: f64,
    /// 99 of 100 operations took no longer, in microseconds.
    pub p99: f64,
    /// 999 of 1,000 operations took no longer, in microseconds.
    pub p999: f64,
    /// CPU time of all the daemon's processes for each operation (entry), in microseconds.
    pub cpu: f64,
    /// Context switches of all the daemon's processes for each operation (entry).
    pub switches: f64,
    /// The front end's CPU time as a share of the time that passed.
    pub front_end: f64,
    /// Private memory of all the daemon's processes after it, in KiB.
    pub private: f64,
    /// Proportional set size of all the daemon's processes after it, in KiB.
    pub pss: f64,
}

/// Reads one number of a sample.
pub type Field = fn(&Sample) -> f64;

/// A daemon that runs, and its front end. The connection ends before the daemon does.
pub struct Session {
    engine: Engine,
    client: Client,
    processes: Processes,
    daemon: Daemon,
    queues: usize,
    method: Method,
    /// From starting the process to the reply to INIT, which comes from confined processes only.
    pub start: Duration,
    /// Memory after INIT, before the first request.
    pub fresh: Resident,
}

impl Session {
    /// Starts a daemon on a directory, with slots for the largest depth.
    pub fn start(
        variant: &Variant,
        options: &[&str],
        root: &Path,
        queues: usize,
        (depth, room): (usize, usize),
        method: Method,
    ) -> Result<Self> {
        let config = SessionConfig {
            vmm: VmmConfig {
                memory: 64 << 20 | (depth * (room + 8192)).next_power_of_two(),
                request_queues: Some(queues),
                ..VmmConfig::default()
            },
            depth: 1,
            room: 128 << 10,
        };
        // A child inherits where its parent may run.
        unpin(0)?;
        let launch = variant.launch(queues)?.args(options).share(root);
        // A VMM has it before the daemon is there.
        let memory = Arc::new(Memory::new(config.vmm.memory)?);
        let mut daemon = method.launcher.prepare(launch).spawn()?;
        if method.launcher == Launcher::WaitsForLine {
            daemon = daemon.listening()?.map_err(|failure| {
                anyhow!(
                    "{} ended with {}:\n{}",
                    variant.name(),
                    failure.status,
                    failure.log.join("\n")
                )
            })?;
        }
        let client = connect(&daemon, memory, &config)
            .with_context(|| format!("{}'s log:\n{}", variant.name(), daemon.log().join("\n")))?;
        let start = daemon.begun().elapsed();
        let processes = Processes::below(daemon.supervisor().pid())?;
        let fresh = processes.memory()?;
        method.placement.pin_daemon(&processes)?;
        method.placement.pin_front_end()?;
        let engine = Engine::new(client.session().vmm(), depth, room, method.wait, method.placement)?;
        Ok(Self {
            engine,
            client,
            processes,
            daemon,
            queues,
            method,
            start,
            fresh,
        })
    }

    /// Measures a case with so many requests in flight.
    pub fn measure(&self, case: &Case, tree: &Tree, depth: usize) -> Result<Sample> {
        let setup = Setup {
            client: &self.client,
            tree,
            depth,
            quick: self.method.quick,
        };
        let time = (case.extent == Extent::Time).then_some(self.method.time);
        let actors = (case.actors)(&setup)?;
        let actors = match time {
            None => actors,
            Some(time) => {
                self.engine.run(actors, self.queues, Some(time / 5))?;
                (case.actors)(&setup)?
            }
        };
        self.run(actors, time, case.unit)
    }

    /// Measures actors.
    pub(super) fn run(&self, actors: Actors, time: Option<Duration>, unit: Unit) -> Result<Sample> {
        let before = self.processes.usage()?;
        let outcome = self.engine.run(actors, self.queues, time)?;
        let after = self.processes.usage()?;
        let memory = self.processes.memory()?;
        let cpu = after.cpu - before.cpu;
        let mut sample = sample(unit, outcome, cpu)?;
        sample.switches *= after.switches.saturating_sub(before.switches) as f64;
        sample.private = memory.private as f64;
        sample.pss = memory.pss as f64;
        Ok(sample)
    }

    /// The front end's client.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The daemon.
    pub(super) fn daemon(&self) -> &Daemon {
        &self.daemon
    }

    /// CPU time and context switches while nothing is asked, once the daemon has nothing left to do of its start.
    pub fn idle(&self, time: Duration) -> Result<(Duration, u64)> {
        let mut before = self.processes.usage()?;
        let patience = Instant::now() + SETTLES;
        while Instant::now() < patience {
            std::thread::sleep(SETTLES / 20);
            let now = self.processes.usage()?;
            if std::mem::replace(&mut before, now).cpu == now.cpu {
                break;
            }
        }
        std::thread::sleep(time);
        let after = self.processes.usage()?;
        Ok((
            after.cpu - before.cpu,
            after.switches.saturating_sub(before.switches),
        ))
    }
}

/// A client after INIT.
fn connect(daemon: &Daemon, memory: Arc<Memory>, config: &SessionConfig) -> Result<Client> {
    let stream = UnixStream::connect(daemon.socket()).context("connect")?;
    let vmm = Vmm::with_memory(stream, memory, &config.vmm)?;
    let client = Client::new(Arc::new(fuse::Session::new(vmm, config)?));
    client.init().context("INIT")?;
    Ok(client)
}

/// The same system calls on the host, by one thread on CPU 0, without a daemon. Its CPU time is that thread's.
pub fn measure_host(case: &Case, method: Method, make: impl FnOnce() -> Result<HostLoop>) -> Result<Sample> {
    Placement::Together.pin_front_end()?;
    let mut operation = make()?;
    let mut run = |time| -> Result<Outcome> {
        let mut outcome = Outcome::default();
        let cpu = thread_cpu()?;
        let begin = Instant::now();
        let mut last = begin;
        while last - begin < time {
            outcome.units += operation()?;
            outcome.operations += 1;
            let now = Instant::now();
            let nanos = (now - last).as_nanos();
            outcome.latencies.push(u32::try_from(nanos).unwrap_or(u32::MAX));
            last = now;
        }
        outcome.wall = last - begin;
        outcome.front_end = thread_cpu()? - cpu;
        Ok(outcome)
    };
    if case.extent == Extent::Time {
        run(method.time / 5)?;
    }
    let mut outcome = run(method.time)?;
    let cpu = std::mem::take(&mut outcome.front_end);
    let sample = sample(case.unit, outcome, cpu)?;
    Ok(Sample {
        switches: 0.0,
        ..sample
    })
}

/// Rates, latencies, and what the CPU time of the daemon came to. The number of switches is left as what to multiply with.
fn sample(unit: Unit, mut outcome: Outcome, cpu: Duration) -> Result<Sample> {
    anyhow::ensure!(outcome.operations > 0, "no operation ended in time");
    let wall = outcome.wall.as_secs_f64();
    outcome.latencies.sort_unstable();
    let quantile = |q: f64| {
        let last = outcome.latencies.len() - 1;
        f64::from(outcome.latencies[(last as f64 * q).round() as usize]) / 1e3
    };
    let count = match unit {
        Unit::Entry => outcome.units,
        Unit::Operation | Unit::Byte => outcome.operations,
    };
    let each = 1.0 / count.max(1) as f64;
    Ok(Sample {
        rate: outcome.units as f64 / wall,
        per_cpu: outcome.units as f64 / (cpu + outcome.front_end).as_secs_f64(),
        p50: quantile(0.5),
        p99: quantile(0.99),
        p999: quantile(0.999),
        cpu: cpu.as_secs_f64() * 1e6 * each,
        switches: each,
        front_end: outcome.front_end.as_secs_f64() / wall,
        ..Sample::default()
    })
}
