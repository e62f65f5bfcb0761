//! Roads: named attempts of one or more calls, each tried in three ways. With the production
//! filter, the first forbidden call ends the process. With `--seccomp trap`, the call is refused.
//! Without a filter, the barriers behind it must hold, unless the road says that there are none and
//! why that is enough.

use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use airlockfs_breach::{Answer, Argument, Order};
use airlockfs_ipc::channel::{self, Channel};

use crate::pair::{Filter, Outcome, Pair, USER, Who};

/// A road's end: a value that the attacker gained, or how he was stopped.
pub(crate) type Tried = Result<i64, Outcome>;

/// An attempt.
pub(crate) struct Road {
    pub(crate) name: &'static str,
    pub(crate) go: fn(&Scene<'_>) -> Tried,
    pub(crate) behind: Behind,
}

/// What stands behind the filter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Behind {
    /// Barriers that answer one of these error numbers.
    Errno(&'static [i32]),
    /// None; why the filter is enough here.
    Nothing(&'static str),
}

/// Where an attempt takes place.
pub(crate) struct Scene<'a> {
    pub(crate) pair: &'a Pair,
    pub(crate) who: Who,
    road: &'a Road,
    /// Who makes the calls instead, to see that they are ones that lead somewhere.
    unconfined: Option<&'a Unconfined>,
    /// A process of the supervisor's user that is confined by nothing.
    pub(crate) neighbour: i32,
}

/// Memory of this process, which plays the VMM, that nobody else may read or change.
pub(crate) static CANARY: [u8; 32] = *b"memory of the VMM, not of others";

/// Numbers, texts and bytes as the arguments of a call.
macro_rules! args {
    ($($argument:expr),* $(,)?) => { &[$(airlockfs_breach::Argument::from($argument)),*] };
}
pub(crate) use args;

impl Scene<'_> {
    /// Makes a call; an error ends the road.
    pub(crate) fn call(&self, number: i64, arguments: &[Argument]) -> Tried {
        let outcome = match self.unconfined {
            Some(process) => Outcome::Returned(process.order(Order::Call(number, arguments.to_vec()))),
            None => self.pair.call(self.who, number, arguments),
        };
        match outcome {
            Outcome::Returned(value) if value >= 0 => Ok(value),
            outcome => Err(outcome),
        }
    }

    pub(crate) fn place(&self, bytes: &[u8]) -> u64 {
        match self.unconfined {
            Some(process) => process.order(Order::Place(bytes.to_vec())).cast_unsigned(),
            None => self.pair.place(self.who, bytes),
        }
    }

    /// A `struct iovec` of one place.
    pub(crate) fn iovec(&self, address: u64, length: u64) -> u64 {
        self.place(&[address.to_ne_bytes(), length.to_ne_bytes()].concat())
    }

    /// The VMM: this process.
    pub(crate) fn vmm(&self) -> i32 {
        std::process::id().cast_signed()
    }

    /// The other process of the pair.
    pub(crate) fn other(&self) -> i32 {
        let other = match self.who {
            Who::Supervisor => Who::Worker,
            Who::Worker => Who::Supervisor,
        };
        self.pair.process(other).pid()
    }

    /// Every other process an attacker would go for.
    pub(crate) fn others(&self) -> [i32; 3] {
        [self.other(), self.vmm(), self.neighbour]
    }

    /// Tries each of these, an attempt of its own, until one leads somewhere or kills; how the last one ended.
    pub(crate) fn each<T>(
        &self,
        of: impl IntoIterator<Item = T>,
        mut attempt: impl FnMut(T) -> Tried,
    ) -> Tried {
        let mut last = Err(Outcome::Returned(0));
        for (nth, one) in of.into_iter().enumerate() {
            if let (1.., Err(outcome), None) = (nth, last, self.unconfined) {
                self.denied(outcome);
            }
            last = attempt(one);
            if matches!(last, Ok(_) | Err(Outcome::Killed)) {
                break;
            }
        }
        last
    }

    /// Counts an attempt that was denied as the road says it must be.
    fn denied(&self, outcome: Outcome) {
        if let Outcome::Returned(result) = outcome {
            let held = match self.road.behind {
                Behind::Errno(errnos) => errnos.iter().any(|errno| result == -i64::from(*errno)),
                Behind::Nothing(_) => false,
            };
            let error = std::io::Error::from_raw_os_error(i32::try_from(-result).unwrap_or(0));
            let (who, filter, name) = (self.who, self.pair.filter, self.road.name);
            assert!(held, "{who:?}, {filter:?}: '{name}' ended with {error}");
        }
        self.pair.denied(self.who, outcome);
    }
}

/// What the filter alone stands before, and why that is enough.
pub(crate) fn filter_alone(roads: &[Road]) -> String {
    let alone = roads.iter().filter_map(|road| match road.behind {
        Behind::Nothing(reason) => Some(format!("\n  {}: {reason}", road.name)),
        Behind::Errno(_) => None,
    });
    format!("the filter alone stands before:{}", alone.collect::<String>())
}

/// Another process of a user.
struct Neighbour(Child);

impl Neighbour {
    /// Of the user that the supervisor is.
    fn beside(pair: &Pair) -> Self {
        let ids = pair.process(Who::Supervisor).status("Uid").expect("its ids");
        let uid = ids.split_whitespace().next().and_then(|id| id.parse().ok());
        let uid: u32 = uid.expect("an id");
        let mut command = Command::new("sleep");
        let child = command.arg("600").uid(uid).gid(uid).spawn();
        Self(child.expect("sleep"))
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        let living = matches!(self.0.try_wait(), Ok(None));
        let _ = self.0.kill();
        let _ = self.0.wait();
        assert!(living || std::thread::panicking(), "the neighbour was ended");
    }
}

/// Every road in production's way: a pair for each, as most end it.
pub(crate) fn in_production(who: Who, roads: &[Road]) {
    for road in roads {
        let pair = Pair::new(Filter::Kill, &[]);
        let neighbour = Neighbour::beside(&pair);
        go(road, &pair, who, &neighbour);
    }
}

/// Every road past a filter that traps, then without any, as started by root and by an ordinary user.
pub(crate) fn behind_the_filter(who: Who, roads: &[Road]) {
    for (filter, user) in [
        (Filter::Trap, None),
        (Filter::None, None),
        (Filter::None, Some(USER)),
    ] {
        let pair = Pair::started(filter, &[], user);
        let neighbour = Neighbour::beside(&pair);
        for road in roads {
            if filter == Filter::None && matches!(road.behind, Behind::Nothing(_)) {
                continue;
            }
            go(road, &pair, who, &neighbour);
        }
        assert_eq!(&CANARY, b"memory of the VMM, not of others");
    }
}

fn go(road: &Road, pair: &Pair, who: Who, neighbour: &Neighbour) {
    let scene = Scene {
        pair,
        who,
        road,
        unconfined: None,
        neighbour: neighbour.0.id().cast_signed(),
    };
    match (road.go)(&scene) {
        Ok(value) => panic!("{who:?}, {:?}: '{}' led to {value}", pair.filter, road.name),
        Err(outcome) => scene.denied(outcome),
    }
}

/// A process that takes orders and is confined by nothing but namespaces of its own for what it breaks.
struct Unconfined {
    channel: Channel,
    child: Child,
}

/// The argument that makes this program one.
pub(crate) const UNCONFINED: &str = "--unconfined";

impl Unconfined {
    fn start() -> Self {
        let (channel, theirs) = channel::pair().expect("a channel");
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(UNCONFINED)
            .stdin(theirs.as_fd().try_clone_to_owned().expect("a descriptor"));
        let child = command.spawn().expect("this program");
        Self { channel, child }
    }

    fn order(&self, order: Order) -> i64 {
        self.channel
            .send(&order, &[])
            .expect("a process that takes orders");
        let answer = self.channel.receive::<Answer>(0).expect("an answer");
        answer.expect("an answer").0.0
    }
}

impl Drop for Unconfined {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What [`UNCONFINED`] does.
pub(crate) fn unconfined() -> std::process::ExitCode {
    use nix::sched::{CloneFlags, unshare};
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).expect("namespaces");
    let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("private mounts");
    let channel = std::io::stdin().as_fd().try_clone_to_owned().expect("a channel");
    airlockfs_breach::serve(&Channel::from(channel)).expect("a channel");
    std::process::ExitCode::SUCCESS
}

/// Each of these roads, walked by a process that nothing confines, leads somewhere: so what stops the others is not a
/// mistake of the road's.
pub(crate) fn lead_somewhere_unconfined(roads: &[Road], names: &[&str]) {
    let pair = Pair::new(Filter::Kill, &[]);
    let neighbour = Neighbour::beside(&pair);
    for name in names {
        let process = Unconfined::start();
        let scene = Scene {
            pair: &pair,
            who: Who::Supervisor,
            road: roads.iter().find(|road| road.name == *name).expect("a road"),
            unconfined: Some(&process),
            neighbour: neighbour.0.id().cast_signed(),
        };
        let end = (scene.road.go)(&scene);
        assert!(end.is_ok(), "'{name}' leads nowhere: {end:?}");
    }
}
