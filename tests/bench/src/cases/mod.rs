//! What is measured, one file per family.

mod attr;
mod create;
mod dir;
mod io;
mod mixed;
mod names;
mod open;

use std::sync::Arc;

use anyhow::{Context, Result};

use super::actor::{Actor, Reply, Request, Step};
use super::tree::{self, Medium, Tree};
use airlockfs_tests::fuse::Client;
use airlockfs_tests::fuse::abi::ROOT;

/// A case: an operation that actors repeat.
pub struct Case {
    /// As on the command line.
    pub name: &'static str,
    /// What one operation is.
    pub about: &'static str,
    /// What is counted.
    pub unit: Unit,
    /// Options that the daemons need for it.
    pub options: &'static [&'static str],
    /// Bytes of data of a request.
    pub room: usize,
    /// Depths at which it makes sense; empty: all.
    pub depths: &'static [usize],
    /// File systems on which it makes sense.
    pub media: &'static [Medium],
    /// How it ends.
    pub extent: Extent,
    /// Makes one actor for each request in flight.
    pub actors: fn(&Setup<'_>) -> Result<Actors>,
    /// The same system calls made directly on the host, by one thread: an operation per call, returning its units.
    pub host: Option<fn(&Tree) -> Result<HostLoop>>,
    /// Instead, where the buffers count: with those of so many requests in turn, in memory like the guest's.
    pub host_at: Option<fn(&Tree, usize) -> Result<HostLoop>>,
}

/// One for each request in flight.
pub type Actors = Vec<Box<dyn Actor>>;
/// One operation on the host.
pub type HostLoop = Box<dyn FnMut() -> Result<u64>>;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Operations.
    Operation,
    /// Directory entries.
    Entry,
    /// Bytes; CPU time is for each operation still.
    Byte,
}

/// How a measurement ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// After a time, and after a warm-up.
    Time,
    /// When the actors are done; without a warm-up, which would change what is measured.
    Work,
}

/// What actors are made of.
pub struct Setup<'a> {
    /// A client of the daemon, to look up and open.
    pub client: &'a Client,
    /// What is shared.
    pub tree: &'a Tree,
    /// How many actors.
    pub depth: usize,
    /// Whether less will do.
    pub quick: bool,
}

const BOTH: &[Medium] = &[Medium::Tmpfs, Medium::Disk];
const DISK: &[Medium] = &[Medium::Disk];
/// Room for the largest reply without data.
const SMALL: usize = 4096;

/// What most cases have in common.
const PLAIN: Case = Case {
    name: "",
    about: "",
    unit: Unit::Operation,
    options: &[],
    room: SMALL,
    depths: &[],
    media: BOTH,
    extent: Extent::Time,
    actors: |_| Ok(Vec::new()),
    host: None,
    host_at: None,
};

/// All cases, in the order of the report.
pub fn all() -> Vec<Case> {
    [
        names::cases(),
        attr::cases(),
        open::cases(),
        create::cases(),
        dir::cases(),
        io::cases(),
        mixed::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Setup<'_> {
    /// One actor for each request in flight, made from its number.
    fn each<A: Actor + 'static>(&self, mut make: impl FnMut(usize) -> Result<A>) -> Result<Actors> {
        (0..self.depth)
            .map(|slot| Ok(Box::new(make(slot)?) as Box<dyn Actor>))
            .collect()
    }

    /// The node of a path, looked up name by name.
    fn node(&self, path: &str) -> Result<u64> {
        path.split('/').try_fold(ROOT, |parent, name| {
            let entry = self.client.lookup(parent, name);
            Ok(entry.with_context(|| format!("look up {path}"))?.nodeid)
        })
    }

    /// The directory of small files, and their nodes.
    fn small_files(&self) -> Result<(u64, Arc<[u64]>)> {
        let dir = self.node("small")?;
        let nodes = (0..tree::SMALL_FILES)
            .map(|i| Ok(self.client.lookup(dir, tree::small(i))?.nodeid))
            .collect::<Result<_>>()?;
        Ok((dir, nodes))
    }
}

/// An operation of one request, whose reply needs no more than a look.
struct Single<F, G> {
    fill: F,
    take: G,
}

impl<F, G> Actor for Single<F, G>
where
    F: FnMut(&mut Request) + Send,
    G: Fn(&Reply<'_>) -> Result<u64> + Send,
{
    fn request(&mut self, _: usize, request: &mut Request) {
        (self.fill)(request);
    }

    fn reply(&mut self, _: usize, reply: &Reply<'_>, _: &mut Vec<u64>) -> Result<Step> {
        (self.take)(reply).map(Step::Done)
    }
}

/// Goes around a list of `len`, each actor from a place of its own.
fn around(slot: usize, len: usize) -> impl FnMut() -> usize + Send {
    let mut at = slot * 37 % len;
    move || {
        at = (at + 1) % len;
        at
    }
}

/// Pseudo-random numbers (xorshift), the same in every run.
fn random(seed: usize) -> impl FnMut() -> u64 + Send {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}
