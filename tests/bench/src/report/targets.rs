//! The project's targets beside what was measured.

use std::fmt::Write;

use super::Report;
use super::markdown::{OURS, PEER, fastest_start, start_times};
use crate::launcher::Launcher;
use crate::plan::HOST;
use crate::session::{Field, Sample};
use crate::stats::{self, Key, Middle, Rounds};
use crate::tree::Medium;
use airlockfs_tests::placement::Placement;

/// A line of the table.
struct Target {
    what: String,
    target: &'static str,
    measured: String,
    /// None: not measured.
    met: Option<bool>,
}

/// A ratio of a case in a place.
struct Ratio {
    place: String,
    case: &'static str,
    depth: usize,
    middle: Middle,
}

/// How many of those that miss a target are named.
const NAMED: usize = 12;

/// The table in Markdown; nothing for what was not measured but a dash.
pub fn targets(report: &Report<'_>) -> String {
    let mut out = String::from("# Targets\n\n| what | target | measured | met |\n|---|---|---|---|\n");
    for target in all(report) {
        let met = match target.met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "not measured",
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {met} |",
            target.what, target.target, target.measured
        );
    }
    let _ = writeln!(
        out,
        "\nMedians of ratios of the same round, against virtiofsd's variant that is best in that row (default, \
         `--inode-file-handles=never`, that with a pool of 4); a case counts \
         as met when its median is. Together: all on one CPU; apart: the front end on another."
    );
    out
}

fn all(report: &Report<'_>) -> Vec<Target> {
    let rates = ratios(report, |s| s.rate, true);
    let costs = ratios(report, |s| s.cpu, false);
    let fast = |names: &'static [&'static str]| {
        let found = rates
            .iter()
            .filter(|r| r.depth == 16 && r.place.ends_with("together"));
        found.filter(move |r| names.contains(&r.case)).collect::<Vec<_>>()
    };
    let deep = costs.iter().filter(|r| r.depth >= 4).collect();
    let mut list = vec![
        least(
            "every case, every depth: throughput",
            "≥ 1.0×",
            1.0,
            rates.iter().collect(),
        ),
        most(
            "every case: CPU time per operation at depth ≥ 4",
            "≤ 1.0×",
            1.0,
            deep,
        ),
        least(
            "lookup, getattr, open–release, create–unlink, readdirplus at depth 16, together",
            "≥ 2.0×",
            2.0,
            fast(&[
                "lookup",
                "getattr",
                "open-release",
                "create-unlink",
                "readdirplus",
            ]),
        ),
        least(
            "small-file open–read–release at depth 16, together",
            "≥ 2.0×",
            2.0,
            fast(&["open-read-release"]),
        ),
    ];
    list.extend(cold(report));
    list.push(large(report));
    list.push(beside_fsync(report));
    list.push(queues(report));
    list.extend(idle(report));
    list.extend(limits(report));
    let traces = report
        .results
        .traces
        .iter()
        .flat_map(|((medium, placement, index), rounds)| {
            let name = report.traces[*index].name;
            let fields: [(Field, bool, &str); 2] =
                [(|s| s.rate, true, "runs"), (|s| s.cpu, false, "CPU time")];
            fields.into_iter().filter_map(move |(field, largest, what)| {
                let peer = stats::best(rounds, PEER, field, largest)?;
                let ratio = stats::ratio(rounds, OURS, peer, field)?;
                Some(format!(
                    "{name} on {} {}: {what} {}",
                    medium.name(),
                    placement.name(),
                    spread(ratio)
                ))
            })
        });
    let traces: Vec<String> = traces.collect();
    list.push(Target {
        what: "traces".to_owned(),
        target: "(none of their own)",
        met: None,
        measured: if traces.is_empty() {
            "–".to_owned()
        } else {
            traces.join("; ")
        },
    });
    list
}

/// Ours to virtiofsd's best, for all cases on one queue.
fn ratios(report: &Report<'_>, field: Field, largest: bool) -> Vec<Ratio> {
    let of = |(key, rounds): (&Key, &Rounds)| {
        if key.depth == 0 || key.queues != 1 {
            return None;
        }
        let peer = stats::best(rounds, PEER, field, largest)?;
        Some(Ratio {
            place: format!("{} {}", key.medium.name(), key.placement.name()),
            case: report.cases[key.case].name,
            depth: key.depth,
            middle: stats::ratio(rounds, OURS, peer, field)?,
        })
    };
    report.results.samples.iter().filter_map(of).collect()
}

fn least(what: &str, target: &'static str, limit: f64, found: Vec<&Ratio>) -> Target {
    judge(what, target, found, |median| median >= limit)
}

fn most(what: &str, target: &'static str, limit: f64, found: Vec<&Ratio>) -> Target {
    judge(what, target, found, |median| median <= limit)
}

fn judge(what: &str, target: &'static str, found: Vec<&Ratio>, met: impl Fn(f64) -> bool) -> Target {
    let show = |r: &&Ratio| format!("{} d{} {} {}", r.case, r.depth, r.place, spread(r.middle));
    let total = found.len();
    let few = total <= 6;
    let (good, mut bad): (Vec<&Ratio>, Vec<&Ratio>) = found.into_iter().partition(|r| met(r.middle.median));
    // The furthest from the target first, on whichever side of 1 it lies.
    bad.sort_by(|a, b| b.middle.median.ln().abs().total_cmp(&a.middle.median.ln().abs()));
    let named: Vec<String> = if few {
        bad.iter().chain(&good).map(show).collect()
    } else {
        bad.iter().take(NAMED).map(show).collect()
    };
    let more = if few { 0 } else { bad.len().saturating_sub(NAMED) };
    let mut measured = format!("{} of {total}", good.len());
    if !named.is_empty() {
        let _ = write!(
            measured,
            "{} {}",
            if few { ":" } else { "; not:" },
            named.join("; ")
        );
    }
    if more > 0 {
        let _ = write!(measured, "; and {more} more");
    }
    Target {
        what: what.to_owned(),
        target,
        measured,
        met: (total > 0).then_some(bad.is_empty()),
    }
}

/// One number against a limit.
fn number(what: &str, target: &'static str, value: Option<Middle>, met: impl Fn(f64) -> bool) -> Target {
    Target {
        what: what.to_owned(),
        target,
        measured: value.map_or_else(|| "–".to_owned(), spread),
        met: value.map(|middle| met(middle.median)),
    }
}

fn rounds<'a>(report: &'a Report<'_>, case: &str, medium: Medium, depth: usize) -> Option<&'a Rounds> {
    let found = |key: &Key| {
        let place = key.placement == Placement::Together || depth == 0;
        report.cases[key.case].name == case
            && (key.medium, key.depth, key.queues, place) == (medium, depth, 1, true)
    };
    let mut all = report.results.samples.iter();
    all.find(|(key, _)| found(key)).map(|(_, rounds)| rounds)
}

fn cold(report: &Report<'_>) -> [Target; 3] {
    let found = rounds(report, "read-cold", Medium::Disk, 32);
    let to = |peer| stats::ratio(found?, OURS, peer, |s| s.rate);
    let names = rounds(report, "lookup-cold", Medium::Disk, 32);
    let names = names.and_then(|found| stats::ratio(found, OURS, "virtiofsd:pool", |s| s.rate));
    [
        number(
            "cold 4 KiB reads at depth 32 to virtiofsd's default",
            "≥ 3×",
            to("virtiofsd"),
            |m| m >= 3.0,
        ),
        number("… to its pool of 4", "≥ 1.2×", to("virtiofsd:pool"), |m| {
            m >= 1.2
        }),
        number(
            "names on a cold disk at depth 32 to its pool of 4",
            "≥ 1.0×",
            names,
            |m| m >= 1.0,
        ),
    ]
}

fn large(report: &Report<'_>) -> Target {
    let mut found = Vec::new();
    for medium in [Medium::Tmpfs, Medium::Disk] {
        for case in ["read-1m", "write-1m"] {
            for depth in [1, 4, 16] {
                let rounds = rounds(report, case, medium, depth);
                let pair = rounds.and_then(|all| Some((all.get(OURS)?, all.get(HOST)?)));
                let Some((ours, host)) = pair else {
                    continue;
                };
                let each = ours
                    .iter()
                    .zip(host)
                    .filter_map(|(a, b)| Some(a.as_ref()?.rate / b.as_ref()?.rate));
                if let Some(middle) = stats::middle(each) {
                    let place = format!("{} together", medium.name());
                    let case = if case == "read-1m" { "read-1m" } else { "write-1m" };
                    found.push(Ratio {
                        place,
                        case,
                        depth,
                        middle,
                    });
                }
            }
        }
    }
    least(
        "1 MiB reads and writes to preadv and pwritev by one thread on the host",
        "≥ 0.95×",
        0.95,
        found.iter().collect(),
    )
}

fn beside_fsync(report: &Report<'_>) -> Target {
    let samples = |case, depth| rounds(report, case, Medium::Disk, depth)?.get(OURS);
    let depth = 16;
    let pairs = samples("lookup-beside-fsync", depth).zip(samples("lookup", depth));
    let each = pairs.map(|(with, without)| {
        let p99 = |sample: &Option<Sample>| sample.as_ref().map(|s| s.p99);
        with.iter()
            .zip(without)
            .filter_map(move |(a, b)| Some(p99(a)? / p99(b)?))
    });
    let ratio = each.and_then(stats::middle);
    number(
        "lookups beside a stream of fsync at depth 16: p99 to that without",
        "≤ 2×",
        ratio,
        |m| m <= 2.0,
    )
}

fn queues(report: &Report<'_>) -> Target {
    let mut found = Vec::new();
    for (key, four) in &report.results.samples {
        if key.queues != 4 || key.placement != Placement::Free {
            continue;
        }
        let one = report.results.samples.get(&Key {
            queues: 1,
            ..key.clone()
        });
        let pairs = one.and_then(|one| Some(four.get(OURS)?.iter().zip(one.get(OURS)?)));
        let Some(pairs) = pairs else { continue };
        let each = pairs.filter_map(|(a, b)| Some(a.as_ref()?.rate / b.as_ref()?.rate));
        if let Some(middle) = stats::middle(each) {
            found.push(Ratio {
                place: format!("{} free", key.medium.name()),
                case: report.cases[key.case].name,
                depth: key.depth,
                middle,
            });
        }
    }
    least(
        "4 queues over 1 on two cores, which the front end shares: metadata",
        "≥ 1.5×",
        1.5,
        found.iter().collect(),
    )
}

fn idle(report: &Report<'_>) -> Vec<Target> {
    let results = report.results;
    let idle = results
        .idle
        .get(OURS)
        .and_then(|all| stats::middle(all.iter().map(|(cpu, _)| cpu.as_secs_f64() * 1e6)));
    let ours = results.starts.iter().filter(|((variant, _), _)| variant == OURS);
    let ours = ours.flat_map(|(_, all)| all);
    let private = stats::middle(ours.map(|start| start.memory.private as f64 / 1024.0));
    let seconds = report.idle_seconds;
    let mut idle = number("idle: CPU time in µs", "0 over 10 s", idle, |m| m == 0.0);
    let _ = write!(idle.measured, " over {seconds} s");
    let mut list = vec![
        idle,
        number(
            "private memory of both processes before the first request, MiB",
            "≤ 6",
            private,
            |m| m <= 6.0,
        ),
    ];
    list.extend(Launcher::ALL.map(|launcher| start(report, launcher)));
    list
}

fn start(report: &Report<'_>, launcher: Launcher) -> Target {
    let times = start_times(report, OURS, launcher).zip(fastest_start(report, launcher));
    let ratio = times.map(|(ours, peer)| Middle {
        median: ours.median / peer,
        min: ours.min / peer,
        max: ours.max / peer,
    });
    number(
        &format!(
            "start to INIT reply, confinement included, to virtiofsd's median ({})",
            launcher.name()
        ),
        "≤ 1.0×",
        ratio,
        |m| m <= 1.0,
    )
}

fn limits(report: &Report<'_>) -> [Target; 3] {
    let all = &report.results.limits;
    let known = all.first().map_or(0, |limits| limits.known);
    let bytes = stats::middle(all.iter().map(|limits| limits.bytes_per_inode));
    let same = stats::middle(all.iter().map(|limits| limits.same_names.1 / limits.same_names.0));
    let ring = stats::middle(report.results.ring.iter().map(|rate| rate / 1e6));
    let mut size = number(
        &format!(
            "CPU time of a lookup of the same 1,000 names with {known} inodes known, to that with 1,000"
        ),
        "≤ 1.3×",
        same,
        |m| m <= 1.3,
    );
    if let Some(limits) = all.first() {
        let _ = write!(
            size.measured,
            "; of names all over the tree {:.2}, where the host's own statx takes {:.2}",
            limits.all_names / limits.same_names.0,
            limits.host.1 / limits.host.0
        );
    }
    [
        number(
            "memory for each known inode in the worker, bytes",
            "≤ 160",
            bytes,
            |m| m <= 160.0,
        ),
        size,
        number(
            "no-ops through the ring at depth 16, millions per second",
            "≥ 1",
            ring,
            |m| m >= 1.0,
        ),
    ]
}

fn spread(middle: Middle) -> String {
    let Middle { median, min, max } = middle;
    format!("{median:.2} ({min:.2}–{max:.2})")
}
