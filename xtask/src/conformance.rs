//! `cargo xtask conformance`: programs that know what a file system has to do run on a plain directory of the host and
//! on shares of one. What passes on the directory has to pass on airlockfs's share.
//!
//! `suites` says what there is to run, `place` where and how, `results` reads what it printed, `compare` tells
//! the differences and knows the excused ones.

mod compare;
mod grounds;
mod guest;
mod mounted;
mod place;
mod results;
mod script;
mod suites;
mod tools;

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::accel::{self, Accel};
use crate::kernel::{self, Release};
use crate::{binaries, peer, provision};
use compare::{Excuses, Row};
use place::Place;
use suites::{SUITES, Suite};

/// What the command line says.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Only the part that fits in a few minutes, with a debug build
    #[arg(long)]
    quick: bool,
    /// Only these suites
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    suite: Vec<String>,
    /// Only these places; the host directory always runs, as the reference. virtiofsd runs where it is asked
    /// for, which installs it, or $AIRLOCKFS_PEER names one
    #[arg(long = "where", value_name = "PLACE", value_delimiter = ',')]
    places: Vec<Place>,
    /// Operations of fsx per mode; its variants do a tenth, an emulated guest a hundredth [default: 1000000, quick: 10000]
    #[arg(long, value_name = "N")]
    operations: Option<u64>,
    /// The kernel of guests, fetched where it is not there [default: $AIRLOCKFS_GUEST_KERNEL, or this Debian's]
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<Release>,
    /// The directory of xfstests' sources, without which that suite does not run. $XFSTESTS_TESTS
    /// names tests in place of the generic quick group
    #[arg(long, value_name = "DIR")]
    xfstests_source: Option<PathBuf>,
    /// List the suites and what each takes, and run nothing
    #[arg(long)]
    list: bool,
}

/// The suite that `cargo xtask test` runs in a guest as well: a short one.
const IN_QUICK_GUEST: &str = "overlay";

/// What every run of a suite needs to know.
#[derive(Debug)]
struct Setup {
    quick: bool,
    operations: u64,
    /// Holds airlockfsd, its worker and the bridge.
    binaries: PathBuf,
    /// Holds our own programs that scripts run.
    tools: PathBuf,
    /// A library of ours that opens files with O_DIRECT for who can't.
    preload: PathBuf,
    /// xfstests' sources.
    source: Option<PathBuf>,
    /// The virtiofsd to compare with.
    peer: Option<PathBuf>,
}

impl Setup {
    fn level(&self) -> &'static str {
        if self.quick { "quick" } else { "full" }
    }

    /// KVM would do the full level, but what an emulated guest does in an hour, the bridge does in minutes.
    fn guest_level(&self) -> &'static str {
        match accel::choose() {
            Accel::Kvm => self.level(),
            Accel::Tcg => "quick",
        }
    }
}

/// Tests at the places that count.
#[derive(Debug, Default)]
pub struct Count {
    /// Those that pass there.
    pub passed: u64,
    /// Those that pass on the host directory only, and excuses that excuse nothing.
    pub failed: u64,
}

/// Runs the suites; an error says how many tests differ.
pub fn run(options: &Options) -> Result<()> {
    if options.list {
        for suite in selected(options)? {
            println!("{}", suite.describe());
        }
        return Ok(());
    }
    if let Some(release) = options.kernel {
        kernel::choose(release);
    }
    match compare(options)?.failed {
        0 => Ok(()),
        failed => bail!("{failed} differences that nothing excuses, or excuses that nothing needs"),
    }
}

/// The part that fits in a few minutes: what is quick on the bridge, and one suite in guests.
pub fn quick() -> Result<Count> {
    let bridge = compare(&Options {
        quick: true,
        places: vec![Place::Bridge],
        ..Options::default()
    })?;
    let guest = compare(&Options {
        quick: true,
        places: vec![Place::Guest],
        suite: vec![IN_QUICK_GUEST.to_owned()],
        ..Options::default()
    })?;
    Ok(Count {
        passed: bridge.passed + guest.passed,
        failed: bridge.failed + guest.failed,
    })
}

/// This thread and its children get a mount namespace of their own. Otherwise the namespaces that scripts
/// run in would keep alive the mounts of every other run.
fn own_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot have a mount namespace")?;
    let (none, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE);
    mount(none, "/", none, flags, none).context("cannot keep mounts to itself")
}

/// Runs the suites, prints the differences and the table.
fn compare(options: &Options) -> Result<Count> {
    let suites = selected(options)?;
    if !geteuid().is_root() {
        bail!("mounting a share and changing users takes root");
    }
    own_mounts()?;
    let places = places(options);
    let mut needs: Vec<_> = suites.iter().map(|suite| suite.packages).collect();
    if places.contains(&Place::Guest) {
        needs.push(provision::GUEST);
    }
    provision::install(&needs)?;
    tools::install(&suites)?;
    let setup = Setup {
        quick: options.quick,
        operations: options
            .operations
            .unwrap_or(if options.quick { 10_000 } else { 1_000_000 }),
        binaries: match options.quick {
            true => binaries::debug()?,
            false => binaries::release(&["airlockfsd", "airlockfs-worker", "airlockfs-tests"])?,
        },
        tools: binaries::tools(&["lock-tool", "file-tool"])?,
        preload: binaries::library("direct-io")?,
        source: options
            .xfstests_source
            .as_deref()
            .map(fs::canonicalize)
            .transpose()?,
        peer: match places.contains(&Place::Peer) {
            true => Some(peer::get()?),
            false => None,
        },
    };

    let mut excuses = Excuses::read()?;
    let mut rows = Vec::new();
    for suite in suites {
        let mut row = Row::new(suite.name);
        for place in &places {
            let start = Instant::now();
            let results = place
                .run(suite, &setup)
                .with_context(|| format!("{} on {place}", suite.name))?;
            let Some(results) = results else { continue };
            println!(
                "== {} on {place}: {}, {:.0} s",
                suite.name,
                results.summary(),
                start.elapsed().as_secs_f32()
            );
            row.add(*place, results);
        }
        row.tell(&mut excuses);
        rows.push(row);
    }
    println!();
    print!("{}", compare::table(&places, &rows));
    let stale = excuses.stale(&rows);
    for line in &stale {
        println!("not needed in tests/conformance/excuses: {line}");
    }
    Ok(Count {
        passed: rows.iter().map(Row::passed).sum(),
        failed: rows.iter().map(|row| row.unexcused).sum::<u64>() + u64::try_from(stale.len())?,
    })
}

/// The suites to run, in the table's order.
fn selected(options: &Options) -> Result<Vec<&'static Suite>> {
    for name in &options.suite {
        if SUITES.iter().all(|suite| suite.name != name) {
            let names: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
            bail!("there is no suite {name}; there are {}", names.join(", "));
        }
    }
    let chosen = SUITES.iter().filter(|suite| match options.suite.as_slice() {
        [] => suite.quick || !options.quick,
        names => names.iter().any(|name| name == suite.name),
    });
    // To be listed it takes nothing.
    let possible = |suite: &&Suite| options.list || !suite.from_source || options.xfstests_source.is_some();
    let chosen: Vec<&Suite> = chosen.filter(possible).collect();
    if chosen.is_empty() {
        bail!("--suite xfstests takes --xfstests-source DIR");
    }
    Ok(chosen)
}

/// The places to run at, the host directory first.
fn places(options: &Options) -> Vec<Place> {
    let chosen = |place: Place| match options.places.as_slice() {
        [] => place != Place::Peer || peer::named().is_some(),
        places => place == Place::Host || places.contains(&place),
    };
    Place::ALL.into_iter().filter(|place| chosen(*place)).collect()
}
