//! A real pair of processes that serves a guest, with the attacker in both.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};
use std::sync::OnceLock;

use airlockfs_breach::{Answer, Argument, Order, SUPERVISOR, TRAPPED, WORKER};
use airlockfs_ipc::channel::{self, Channel};
use airlockfs_tests::daemon::{Daemon, Launch, bin_dir};
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::ROOT;
use airlockfs_tests::procfs::Process;

use crate::policy::{Policy, Verdict, shown};
use crate::tally::{self, How};

/// An ordinary user without any rights.
pub(crate) const USER: u32 = 4242;

/// Which of the two the attacker is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Supervisor,
    Worker,
}

pub(crate) const BOTH: [Who; 2] = [Who::Supervisor, Who::Worker];

/// `--seccomp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// As in production.
    Kill,
    /// The same filter, but the attacker lives on: for long series.
    Trap,
    /// No filter: what stands behind it.
    None,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Returned(i64),
    Trapped,
    Killed,
}

/// The pair.
pub(crate) struct Pair {
    daemon: RefCell<Daemon>,
    channels: [Channel; 2],
    policies: [Policy; 2],
    workers: Process,
    pub(crate) filter: Filter,
    /// The guest, which has a file open.
    pub(crate) guest: Client,
}

/// Builds the two programs from the sources of this suite; the shipped ones stay as they are.
fn build() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The whole workspace, so that dependencies have the features they were built with already.
        cargo.args(["build", "--quiet", "--workspace", "--features"]);
        cargo.arg("airlockfsd/breach,airlockfs-worker/breach");
        cargo.args(["--bin", "airlockfsd-breach", "--bin", "airlockfs-worker-breach"]);
        let status = cargo.status().expect("cargo");
        assert!(status.success(), "the breached programs do not build: {status}");
    });
}

impl Pair {
    /// As root, with these options.
    pub(crate) fn new(filter: Filter, options: &[&str]) -> Self {
        Self::started(filter, options, None)
    }

    /// As root, or as an ordinary user.
    pub(crate) fn started(filter: Filter, options: &[&str], user: Option<u32>) -> Self {
        Self::launched(filter, options, user, None)
    }

    /// As root, with this stderr in place of one that is read here, and this /dev if there is one.
    pub(crate) fn with_stderr(
        filter: Filter,
        options: &[&str],
        stderr: OwnedFd,
        dev: Option<&std::path::Path>,
    ) -> Self {
        Self::launched(filter, options, None, Some((stderr, dev)))
    }

    fn launched(
        filter: Filter,
        options: &[&str],
        user: Option<u32>,
        elsewhere: Option<(OwnedFd, Option<&std::path::Path>)>,
    ) -> Self {
        build();
        let read_here = elsewhere.is_none();
        let mut options = options.to_vec();
        // As many descriptors on every machine.
        options.push("--num-request-queues=2");
        options.extend(match filter {
            Filter::Kill => None,
            Filter::Trap => Some("--seccomp=trap"),
            Filter::None => Some("--seccomp=none"),
        });
        let program = bin_dir().expect("a place for binaries").join("airlockfsd-breach");
        let mut launch = Launch::program(&program).args(["--tag=breach"]).args(&options);
        // Then the shares are among the options.
        let named = options.iter().find_map(|option| option.strip_prefix("--share="));
        if named.is_some() {
            launch = launch.by_name();
        }
        let channels = [SUPERVISOR, WORKER].map(|variable| {
            let (ours, theirs) = channel::pair().expect("a channel");
            (
                ours,
                theirs.as_fd().try_clone_to_owned().expect("a descriptor"),
                variable,
            )
        });
        let channels = channels.map(|(ours, theirs, variable)| {
            launch = std::mem::replace(&mut launch, Launch::program(&program))
                .env(variable, theirs.as_raw_fd().to_string())
                .inherit(theirs);
            ours
        });
        let launch = match user {
            Some(uid) => launch.user(uid),
            None => launch,
        };
        let daemon = match elsewhere {
            // It listens already, and hears its guest when it is confined.
            Some((stderr, dev)) => {
                let launch = launch.by_fd().stderr(stderr);
                let launch = match dev {
                    Some(dev) => launch.dev(dev),
                    None => launch,
                };
                launch.spawn().expect("a daemon")
            }
            None => launch.start(),
        };
        for process in ["airlockfsd", "airlockfs-worker"] {
            assert!(
                !read_here || daemon.wait_for_log(&format!("{process}: BREACHED: ")),
                "it is silent"
            );
        }
        let policies = shown(&options, user);
        for policy in &policies {
            assert!(
                !read_here || daemon.wait_for_log(&policy.digest),
                "it runs under another profile, or airlockfsd is of older sources (cargo build -p airlockfsd)"
            );
        }
        let guest = daemon.client();
        let workers = daemon.worker().expect("a worker");
        if !options.contains(&"--readonly") {
            let directory = named
                .and_then(|named| named.split('=').next())
                .map_or(ROOT, |name| guest.lookup(ROOT, name).expect("a share").nodeid);
            let (_, file) = guest
                .create(directory, "open", libc::O_RDWR, 0o755)
                .expect("CREATE");
            // What is said once takes the ring; then the file comes over.
            for _ in 0..2 {
                guest.write(file, 0, b"#!/bin/sh\n").expect("WRITE");
            }
            let held = daemon.supervisor().descriptors().expect("its descriptors");
            let held = held.iter().any(|(_, target)| target.ends_with("open"));
            assert!(
                held || options.contains(&"--no-donate"),
                "the supervisor has no file"
            );
        }
        Self {
            daemon: RefCell::new(daemon),
            channels,
            policies,
            workers,
            filter,
            guest,
        }
    }

    pub(crate) fn policy(&self, who: Who) -> &Policy {
        &self.policies[who as usize]
    }

    /// A process of the pair, seen from outside.
    pub(crate) fn process(&self, who: Who) -> Process {
        match who {
            Who::Supervisor => Process::open(self.daemon.borrow().supervisor().pid()).expect("it runs"),
            Who::Worker => Process::open(self.workers.pid()).expect("it runs"),
        }
    }

    /// The numbers of its descriptors.
    pub(crate) fn held(&self, who: Who) -> Vec<i32> {
        let held = self.process(who).descriptors().expect("its descriptors");
        held.into_iter().map(|(number, _)| number).collect()
    }

    /// A path of the share on the host.
    pub(crate) fn host(&self, path: &str) -> std::path::PathBuf {
        self.daemon.borrow().host(path)
    }

    /// Waits for a line of the pair's log.
    pub(crate) fn told(&self, text: &str) -> bool {
        self.daemon.borrow().wait_for_log(text)
    }

    /// The Landlock ABI in force, as the pair says.
    pub(crate) fn landlock_abi(&self) -> u32 {
        let log = self.daemon.borrow().log().join("\n");
        let (_, after) = log.split_once("Landlock ABI ").expect("a line about confinement");
        let digits = after.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse().ok()).expect("a number")
    }

    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.daemon.borrow().socket().to_owned()
    }

    /// Gives an order; how the process ended if it does not answer.
    pub(crate) fn order(&self, who: Who, order: &Order) -> Result<Answer, Outcome> {
        let channel = &self.channels[who as usize];
        channel.send(order, &[]).expect("a process that takes orders");
        match channel.receive(0) {
            Ok(Some((answer, _))) => Ok(answer),
            _ => Err(self.ended(who)),
        }
    }

    /// Passes a descriptor in; its number there.
    pub(crate) fn pass_in(&self, who: Who, descriptor: impl AsFd) -> i32 {
        let channel = &self.channels[who as usize];
        channel
            .send(&Order::Keep, &[descriptor.as_fd()])
            .expect("a process that takes orders");
        let answer = channel
            .receive::<Answer>(0)
            .expect("an answer")
            .expect("an answer");
        answer.0.0 as i32
    }

    /// Places bytes in its memory; their address.
    pub(crate) fn place(&self, who: Who, bytes: &[u8]) -> u64 {
        let placed = self.order(who, &Order::Place(bytes.to_vec()));
        placed.expect("an answer").0.cast_unsigned()
    }

    /// Has many calls made, each of which comes back.
    pub(crate) fn calls(&self, who: Who, calls: &[(i64, [u64; 6])]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(calls.len());
        // A datagram holds 64 KiB.
        for some in calls.chunks(500) {
            let (_, results) = self.order(who, &Order::Calls(some.to_vec())).expect("it lives");
            let results = results
                .chunks_exact(8)
                .map(|bytes| i64::from_ne_bytes(bytes.try_into().expect("eight bytes")));
            outcomes.extend(results.map(Outcome::of));
        }
        assert_eq!(outcomes.len(), calls.len());
        for ((number, registers), outcome) in calls.iter().zip(&outcomes) {
            self.as_the_policy_says(who, (*number, registers), *outcome);
        }
        outcomes
    }

    /// Has a call made, and holds its end against the profile.
    pub(crate) fn call(&self, who: Who, number: i64, arguments: &[Argument]) -> Outcome {
        self.call_by(who, number, arguments, Order::Call)
    }

    /// The same on a thread that is made for it.
    pub(crate) fn call_on_a_thread(&self, who: Who, number: i64, arguments: &[Argument]) -> Outcome {
        self.call_by(who, number, arguments, Order::CallOnThread)
    }

    fn call_by(
        &self,
        who: Who,
        number: i64,
        arguments: &[Argument],
        order: fn(i64, Vec<Argument>) -> Order,
    ) -> Outcome {
        let mut registers = [0; 6];
        for (register, argument) in registers.iter_mut().zip(arguments) {
            *register = match argument {
                Argument::Number(number) => *number,
                // Wherever it will lie: no pin is on a pointer.
                _ => 0x7fff_0000_0000,
            };
        }
        let outcome = match self.order(who, &order(number, arguments.to_vec())) {
            Ok((result, _)) => Outcome::of(result),
            Err(outcome) => outcome,
        };
        self.as_the_policy_says(who, (number, &registers), outcome);
        outcome
    }

    fn as_the_policy_says(&self, who: Who, (number, registers): (i64, &[u64; 6]), outcome: Outcome) {
        let verdict = self.policy(who).verdict(number, registers);
        let as_it_says = match (verdict, self.filter) {
            (Verdict::Answered(errno), Filter::Kill | Filter::Trap) => outcome == Outcome::Returned(-errno),
            (Verdict::Forbidden, Filter::Kill) => outcome == Outcome::Killed,
            (Verdict::Forbidden, Filter::Trap) => outcome == Outcome::Trapped,
            (Verdict::Passes, _) | (_, Filter::None) => matches!(outcome, Outcome::Returned(_)),
        };
        assert!(
            as_it_says,
            "{who:?}: call {number:#x} {registers:x?} ended with {outcome:?}, the policy says {verdict:?}"
        );
    }

    /// Has a process end itself, which its filter allows.
    pub(crate) fn exits(&self, who: Who) {
        let channel = &self.channels[who as usize];
        let order = Order::Call(libc::SYS_exit_group, vec![0.into()]);
        channel.send(&order, &[]).expect("a process that takes orders");
        let answer = channel.receive::<Answer>(0);
        assert!(matches!(answer, Ok(None)), "{answer:?}");
        if who == Who::Worker {
            self.vmm_goes();
        }
        let status = self.daemon.borrow_mut().wait();
        assert_eq!(status.signal(), None, "{status}");
        assert!(self.workers.ended_within(10_000), "the worker lives on");
    }

    /// Has the supervisor return from a signal handler that was never called, which its filter allows: there is nothing to
    /// go back to.
    pub(crate) fn returns_from_no_handler(&self) {
        let channel = &self.channels[Who::Supervisor as usize];
        let order = Order::Call(libc::SYS_rt_sigreturn, vec![0.into(); 6]);
        channel.send(&order, &[]).expect("a process that takes orders");
        let answer = channel.receive::<Answer>(0);
        assert!(matches!(answer, Ok(None)), "{answer:?}");
        let status = self.daemon.borrow_mut().wait();
        assert_eq!(status.signal(), Some(libc::SIGSEGV), "{status}");
    }

    /// Has a thread of the supervisor panic; how the process ended.
    pub(crate) fn panics(&self) -> ExitStatus {
        let channel = &self.channels[Who::Supervisor as usize];
        // No order has a text with a NUL byte.
        let order = Order::Call(libc::SYS_close, vec!["\0".into()]);
        channel.send(&order, &[]).expect("a process that takes orders");
        let answer = channel.receive::<Answer>(0);
        assert!(matches!(answer, Ok(None)), "{answer:?}");
        self.daemon.borrow_mut().wait()
    }

    /// How a process ended, by the system's word for the supervisor and the supervisor's word for the worker.
    fn ended(&self, who: Who) -> Outcome {
        let mut daemon = self.daemon.borrow_mut();
        match who {
            Who::Supervisor => {
                let status = daemon.wait();
                assert_eq!(status.signal(), Some(libc::SIGSYS), "the supervisor {status}");
            }
            Who::Worker => {
                let told = daemon.wait_for_log("made a system call that its filter forbids (SIGSYS)");
                assert!(told, "the worker ended otherwise: {:?}", daemon.log());
                // Until then the supervisor answers.
                self.vmm_goes();
                assert!(!daemon.wait().success());
            }
        }
        // Neither goes on without the other.
        assert!(self.workers.ended_within(10_000), "the worker lives on");
        Outcome::Killed
    }

    /// The guest's VMM ends.
    fn vmm_goes(&self) {
        let socket = self.guest.session().vmm().socket();
        socket.shutdown(std::net::Shutdown::Both).expect("shutdown");
    }

    /// Counts an attempt that ended so, if that is a denial.
    pub(crate) fn denied(&self, who: Who, outcome: Outcome) {
        tally::count(
            who,
            match outcome {
                Outcome::Killed => How::Killed,
                Outcome::Trapped => How::Trapped,
                Outcome::Returned(_) => How::Refused,
            },
        );
    }
}

impl Outcome {
    fn of(result: i64) -> Self {
        match result {
            TRAPPED => Self::Trapped,
            result => Self::Returned(result),
        }
    }
}
