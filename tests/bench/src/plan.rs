//! Runs everything: in rounds, the daemons in turn, each measurement of a case on a fresh daemon.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::cases::{Case, HostLoop};
use super::launcher::Launcher;
use super::limits::{self, Limits};
use super::session::{Method, Sample, Session, measure_host};
use super::stats::{Key, Rounds};
use super::traces::Trace;
use super::tree::{Medium, Tree};
use super::variant::{Program, Variant};
use super::wait::Wait;
use airlockfs_tests::placement::{Placement, unpin};
use airlockfs_tests::procfs::Resident;

/// The name under which the host's own system calls stand beside the daemons.
pub const HOST: &str = "host";
/// Requests in flight, unless the command line says otherwise.
pub const USUAL_DEPTHS: [usize; 4] = [1, 4, 16, 64];

/// Between two starts.
const PAUSE: Duration = Duration::from_millis(50);

/// What to run.
pub struct Plan {
    /// The cases.
    pub cases: Vec<Case>,
    /// Requests in flight.
    pub depths: Vec<usize>,
    /// Request queues.
    pub queues: Vec<usize>,
    /// How often.
    pub rounds: usize,
    /// Time of a measurement.
    pub time: Duration,
    /// How often to start each daemon for nothing but its start; none leaves that out.
    pub starts: usize,
    /// How long to look at an idle daemon.
    pub idle: Duration,
    /// Where things run.
    pub placements: Vec<Placement>,
    /// File systems.
    pub media: Vec<Medium>,
    /// The directory for trees on a disk.
    pub disk: PathBuf,
    /// The daemons.
    pub variants: Vec<Variant>,
    /// How the front end waits.
    pub wait: Wait,
    /// Less work where the case says how much.
    pub quick: bool,
    /// What of all this to measure.
    pub wanted: Wanted,
    /// Work of real programs.
    pub traces: Vec<Trace>,
    /// Files for [`limits`]; none leaves them out.
    pub known: Option<usize>,
}

/// Whether to measure a case in a place on a program.
pub type Wanted = fn(&Case, &Key, Program) -> bool;

/// What came of it.
#[derive(Default)]
pub struct Results {
    /// Measurements.
    pub samples: BTreeMap<Key, Rounds>,
    /// Traces, by where they ran and their position: runs per second, and the daemon's CPU time for a run.
    pub traces: BTreeMap<(Medium, Placement, usize), Rounds>,
    /// What is no case, a round each.
    pub limits: Vec<Limits>,
    /// No-ops per second through the ring, a round each.
    pub ring: Vec<f64>,
    /// Starts, by variant and launcher.
    pub starts: BTreeMap<(String, Launcher), Vec<Start>>,
    /// Idle daemons, by variant: CPU time and context switches.
    pub idle: BTreeMap<String, Vec<(Duration, u64)>>,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

/// A measurement that failed.
#[derive(Debug)]
pub struct Failure {
    /// Whose daemon it was.
    pub program: Program,
    /// Case, variant and reason.
    pub what: String,
}

/// One start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// From starting the process to the reply to INIT.
    pub time: Duration,
    /// Memory before the first request.
    pub memory: Resident,
}

impl Plan {
    /// Runs it all. What fails is listed and does not keep the rest from running.
    pub fn run(&self) -> Result<Results> {
        let mut results = Results::default();
        for medium in &self.media {
            eprintln!("making the tree on {}", medium.name());
            let tree = Tree::new(*medium, &self.disk)?;
            if *medium == self.media[0] {
                self.starts(&tree, &mut results);
            }
            for trace in &self.traces {
                trace.prepare(&tree)?;
            }
            for round in 0..self.rounds {
                for placement in &self.placements {
                    self.round(&tree, *placement, round, &mut results)?;
                    self.traces(&tree, *placement, round, &mut results)?;
                }
            }
        }
        self.limits(&mut results);
        Ok(results)
    }

    /// Starts only, one after another: beside other measurements, what those leave to do would count.
    fn starts(&self, tree: &Tree, results: &mut Results) {
        let places =
            Launcher::ALL.map(|launcher| self.variants.iter().map(move |variant| (launcher, variant)));
        let places: Vec<_> = places.into_iter().flatten().collect();
        for (launcher, variant) in (0..self.starts).flat_map(|_| &places) {
            let method = Method {
                launcher: *launcher,
                ..self.method(Placement::Free)
            };
            // The kernel takes apart the namespaces of the daemon before, in its own time.
            std::thread::sleep(PAUSE);
            match Session::start(variant, &[], tree.root(), 1, (1, 4096), method) {
                Ok(session) => {
                    let start = Start {
                        time: session.start,
                        memory: session.fresh,
                    };
                    let all = results.starts.entry((variant.name(), *launcher));
                    all.or_default().push(start);
                }
                Err(error) => results.fail(variant, format!("start of {}: {error:#}", variant.name())),
            }
        }
    }

    fn traces(&self, tree: &Tree, placement: Placement, round: usize, results: &mut Results) -> Result<()> {
        for (index, trace) in self.traces.iter().enumerate() {
            let count = self.variants.len();
            for variant in (0..count).map(|at| &self.variants[(at + round) % count]) {
                tree.clean()?;
                let run = || trace.measure(variant, tree, placement);
                let outcome = catch_unwind(AssertUnwindSafe(run));
                match outcome.unwrap_or_else(|_| Err(anyhow!("it panicked"))) {
                    Ok(sample) => {
                        eprintln!(
                            "{:5} {:8} {:20} {:18} {:8.1} ms, {:8.1} ms CPU",
                            tree.medium().name(),
                            placement.name(),
                            trace.name,
                            variant.name(),
                            1e3 / sample.rate,
                            sample.cpu / 1e3
                        );
                        let all = results.traces.entry((tree.medium(), placement, index));
                        let all = all.or_default();
                        put(all, &variant.name(), round, sample);
                    }
                    Err(error) => {
                        results.fail(
                            variant,
                            format!("{} of {}: {error:#}", trace.name, variant.name()),
                        );
                    }
                }
            }
        }
        tree.clean()
    }

    fn limits(&self, results: &mut Results) {
        let ours = self
            .variants
            .iter()
            .find(|variant| variant.program == Program::Airlockfs);
        let (Some(known), Some(ours)) = (self.known, ours) else {
            return;
        };
        match limits::measure(ours, known, self.method(Placement::Together)) {
            Ok(limits) => results.limits.push(limits),
            Err(error) => results.fail(ours, format!("known inodes: {error:#}")),
        }
        for _ in 0..self.rounds {
            // On both processors, as it is meant to run.
            match unpin(0).and_then(|()| limits::ring()) {
                Ok(rate) => results.ring.push(rate),
                Err(error) => results.fail(ours, format!("the ring: {error:#}")),
            }
        }
    }

    fn method(&self, placement: Placement) -> Method {
        Method {
            placement,
            launcher: Launcher::WaitsForLine,
            // On one processor, looking all the time would keep the daemon from it.
            wait: if placement == Placement::Together {
                Wait::Sleep
            } else {
                self.wait
            },
            time: self.time,
            quick: self.quick,
        }
    }

    fn round(&self, tree: &Tree, placement: Placement, round: usize, results: &mut Results) -> Result<()> {
        let method = self.method(placement);
        for (index, case) in self.cases.iter().enumerate() {
            if !case.media.contains(&tree.medium()) {
                continue;
            }
            for queues in &self.queues {
                let key = |depth| Key {
                    medium: tree.medium(),
                    placement,
                    case: index,
                    queues: *queues,
                    depth,
                };
                // Who goes first changes from round to round, for what the one before leaves behind.
                let count = self.variants.len();
                for variant in (0..count).map(|at| &self.variants[(at + round) % count]) {
                    if !variant.has_queues(*queues) {
                        continue;
                    }
                    tree.clean()?;
                    let wanted = |depth| (self.wanted)(case, &key(depth), variant.program);
                    let depths: Vec<usize> = self.depths_of(case).filter(|depth| wanted(*depth)).collect();
                    if depths.is_empty() {
                        continue;
                    }
                    let place = (tree, *queues, method);
                    let run = || self.on_fresh_daemon(variant, case, &depths, place);
                    // The harness panics where a guest would see its file system fail.
                    let outcome = catch_unwind(AssertUnwindSafe(run));
                    let samples = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked")));
                    let samples = samples.unwrap_or_else(|error| {
                        results.fail(variant, format!("{} of {}: {error:#}", case.name, variant.name()));
                        Vec::new()
                    });
                    for (depth, sample) in samples {
                        let all = results.samples.entry(key(depth)).or_default();
                        put(all, &variant.name(), round, sample);
                    }
                }
                let alone =
                    self.placements.first() == Some(&placement) && self.queues.first() == Some(queues);
                let mut host = |depth, make: &dyn Fn() -> Result<HostLoop>| {
                    let sample = measure_host(case, method, make)?;
                    put(
                        results.samples.entry(key(depth)).or_default(),
                        HOST,
                        round,
                        sample,
                    );
                    Ok::<_, anyhow::Error>(())
                };
                if alone && let Some(make) = case.host {
                    host(0, &|| make(tree))?;
                }
                if alone && let Some(make) = case.host_at {
                    for depth in self.depths_of(case) {
                        host(depth, &|| make(tree, depth))?;
                    }
                }
            }
        }
        if tree.medium() == self.media[0] && placement == self.placements[0] {
            self.idle(tree, method, results)?;
        }
        Ok(())
    }

    /// A depth that is a case's own runs always, the usual ones when asked for.
    fn depths_of(&self, case: &Case) -> impl Iterator<Item = usize> {
        let own = !case.depths.is_empty();
        let all = if own {
            case.depths.to_vec()
        } else {
            self.depths.clone()
        };
        let wanted =
            move |depth: &usize| !own || self.depths.contains(depth) || !USUAL_DEPTHS.contains(depth);
        all.into_iter().filter(wanted)
    }

    fn on_fresh_daemon(
        &self,
        variant: &Variant,
        case: &Case,
        depths: &[usize],
        (tree, queues, method): (&Tree, usize, Method),
    ) -> Result<Vec<(usize, Sample)>> {
        let most = depths.iter().copied().max().unwrap_or(1);
        let session = Session::start(
            variant,
            case.options,
            tree.root(),
            queues,
            (most, case.room),
            method,
        )?;
        let mut samples = Vec::new();
        for depth in depths.iter().copied().filter(|depth| *depth >= queues) {
            let sample = session.measure(case, tree, depth)?;
            eprintln!(
                "{:5} {:8} {:20} q{queues} d{depth:<2} {:18} {:12.0}/s {:8.2} µs CPU, front end {:3.0} %",
                tree.medium().name(),
                method.placement.name(),
                case.name,
                variant.name(),
                sample.rate,
                sample.cpu,
                sample.front_end * 100.0
            );
            samples.push((depth, sample));
        }
        Ok(samples)
    }

    fn idle(&self, tree: &Tree, method: Method, results: &mut Results) -> Result<()> {
        for variant in &self.variants {
            let session = Session::start(variant, &[], tree.root(), 1, (1, 4096), method);
            match session.and_then(|session| session.idle(self.idle)) {
                Ok(idle) => results.idle.entry(variant.name()).or_default().push(idle),
                Err(error) => results.fail(variant, format!("idle {}: {error:#}", variant.name())),
            }
        }
        Ok(())
    }
}

impl Results {
    /// Notes a failure, once.
    fn fail(&mut self, variant: &Variant, what: String) {
        eprintln!("failed: {what}");
        if self.failures.iter().all(|failure| failure.what != what) {
            self.failures.push(Failure {
                program: variant.program,
                what,
            });
        }
    }
}

fn put(all: &mut Rounds, variant: &str, round: usize, sample: Sample) {
    let rounds = all.entry(variant.to_owned()).or_default();
    rounds.resize(rounds.len().max(round + 1), None);
    rounds[round] = Some(sample);
}
