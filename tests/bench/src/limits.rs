//! What is no case: memory for each known inode, cost with the number of known inodes, no-ops through the ring.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::actor::{Actor, Reply, Request, Step};
use super::cases::{Actors, Unit};
use super::session::{Method, Session};
use super::sys;
use super::tree::small;
use super::variant::Variant;
use airlockfs_tests::daemon::bin_dir;
use airlockfs_tests::fuse::abi::{EntryOut, LOOKUP, ROOT};
use airlockfs_tests::placement::Placement;
use airlockfs_tests::procfs::Processes;
use airlockfs_tests::tempdir::TempDir;

/// Files in a directory.
const PER_DIR: usize = 1000;
/// Requests in flight.
const DEPTH: usize = 16;

/// What was found.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Inodes that were known in the end.
    pub known: usize,
    /// Private memory that the worker took for each, in bytes.
    pub bytes_per_inode: f64,
    /// LOOKUP of the same 1,000 names with 1,000 inodes known, then with all: CPU µs of the daemon.
    pub same_names: (f64, f64),
    /// LOOKUP of names all over the tree with all known: CPU µs of the daemon.
    pub all_names: f64,
    /// statx(2) on the host by one thread: of 1,000 names, then of names all over the tree, in µs.
    pub host: (f64, f64),
}

/// Measures with `known` files on a RAM file system.
pub fn measure(variant: &Variant, known: usize, method: Method) -> Result<Limits> {
    let tree = TempDir::in_memory()?;
    let dirs = known.div_ceil(PER_DIR);
    eprintln!("making {known} files");
    for d in 0..dirs {
        let dir = tree.join(format!("dir-{d}"));
        fs::create_dir(&dir)?;
        for i in 0..PER_DIR {
            File::create(dir.join(small(i)))?;
        }
    }
    let session = Session::start(variant, &[], &tree, 1, (DEPTH, 4096), method)?;
    let nodes = (0..dirs).map(|d| Ok(session.client().lookup(ROOT, format!("dir-{d}"))?.nodeid));
    let nodes: Arc<[u64]> = nodes.collect::<Result<_>>()?;
    let names: Arc<[String]> = (0..PER_DIR).map(small).collect();
    // Every name of the first `dirs` directories once, or names at random until the time is up.
    let names_of = |dirs: usize, once: bool| -> Actors {
        let next = Arc::new(AtomicUsize::new(0));
        let actor = |_| {
            Box::new(Names {
                nodes: Arc::clone(&nodes),
                names: Arc::clone(&names),
                next: Arc::clone(&next),
                last: dirs * PER_DIR,
                once,
                at: 0,
            }) as Box<dyn Actor>
        };
        (0..DEPTH).map(actor).collect()
    };
    let again = |dirs| {
        session.run(names_of(dirs, false), Some(method.time / 5), Unit::Operation)?;
        session.run(names_of(dirs, false), Some(method.time), Unit::Operation)
    };
    let worker = session.daemon().worker()?;
    let memory = || Processes::below(worker.pid())?.memory();
    session.run(names_of(1, true), None, Unit::Operation)?;
    let few = again(1)?;
    let before = memory()?;
    session.run(names_of(dirs, true), None, Unit::Operation)?;
    let after = memory()?;
    let many = again(1)?;
    let all = again(dirs)?;
    let kib = after.private.saturating_sub(before.private);
    Ok(Limits {
        known,
        bytes_per_inode: kib as f64 * 1024.0 / (known - PER_DIR) as f64,
        same_names: (few.cpu, many.cpu),
        all_names: all.cpu,
        host: (host(&tree, 1, method.time)?, host(&tree, dirs, method.time)?),
    })
}

/// The next of `last` names, in an order that jumps from directory to directory.
struct Names {
    nodes: Arc<[u64]>,
    names: Arc<[String]>,
    next: Arc<AtomicUsize>,
    last: usize,
    once: bool,
    at: usize,
}

/// Coprime to the number of names: its multiples are a permutation without runs.
const STRIDE: usize = 611_953;

impl Actor for Names {
    fn more(&mut self) -> bool {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.at = next.wrapping_mul(STRIDE) % self.last;
        !self.once || next < self.last
    }

    fn request(&mut self, _: usize, request: &mut Request) {
        let dir = self.nodes[self.at / PER_DIR];
        let name = self.names[self.at % PER_DIR].as_bytes();
        request.begin(LOOKUP, dir).name(name).reply(size_of::<EntryOut>());
    }

    fn reply(&mut self, _: usize, reply: &Reply<'_>, _: &mut Vec<u64>) -> Result<Step> {
        ensure!(reply.body::<EntryOut>(0)?.nodeid != 0, "no node");
        Ok(Step::Done(1))
    }
}

fn host(tree: &TempDir, dirs: usize, time: Duration) -> Result<f64> {
    Placement::Together.pin_front_end()?;
    let opened = (0..dirs).map(|d| File::open(tree.join(format!("dir-{d}"))));
    let opened: Vec<File> = opened.collect::<Result<_, _>>().context("directories")?;
    let names: Vec<_> = (0..PER_DIR)
        .map(|i| std::ffi::CString::new(small(i)))
        .collect::<Result<_, _>>()?;
    let (mut count, begin) = (0usize, Instant::now());
    while begin.elapsed() < time {
        for _ in 0..100 {
            let at = count.wrapping_mul(STRIDE) % (dirs * PER_DIR);
            sys::statx(opened[at / PER_DIR].as_fd(), &names[at % PER_DIR])?;
            count += 1;
        }
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / count as f64)
}

/// No-ops per second through the ring at a depth of 16, as `airlockfs-ring` measures them.
pub fn ring() -> Result<f64> {
    let dir = bin_dir()?;
    let output = std::process::Command::new(dir.join("airlockfs-ring"))
        .output()
        .context("airlockfs-ring")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "airlockfs-ring ended with {}",
        output.status
    );
    let line = text.lines().find_map(|line| line.strip_prefix("| 16 |"));
    let rate = line
        .and_then(|line| line.split('|').next())
        .context("a line for depth 16")?;
    Ok(rate.trim().parse()?)
}
