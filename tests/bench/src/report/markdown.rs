//! The table for people: medians over the rounds, ratios of neighbours with their spread.

use std::fmt::Write;

use super::Report;
use crate::cases::Unit;
use crate::launcher::Launcher;
use crate::plan::HOST;
use crate::session::Field;
use crate::stats::{self, Key, Middle, Rounds};

/// Prefixes of the variants' names.
pub(super) const OURS: &str = "airlockfs";
pub(super) const PEER: &str = "virtiofsd";

/// The report in Markdown.
pub fn markdown(report: &Report<'_>) -> String {
    let mut out = String::from("# airlockfs beside virtiofsd\n\n");
    for line in report.about {
        let _ = writeln!(out, "- {line}");
    }
    out.push_str(
        "\nMedians over the rounds. A ratio is airlockfs to virtiofsd, of the measurements of the same round: median \
         (smallest–largest). Rates are compared with virtiofsd's variant of the highest rate in that row, CPU time with \
         its variant of the lowest. CPU time and context switches are of all the daemon's processes, for each operation \
         (for listings: each entry). *By CPU time* is the ratio of operations per \
         second of CPU time, the front end's included: what the rates come to on one CPU that nothing else uses. *Front end* is the share of the time in which the load generator itself computed.\n",
    );
    let mut place = None;
    for (key, rounds) in &report.results.samples {
        if key.depth == 0 {
            continue;
        }
        if place != Some((key.medium, key.placement)) {
            place = Some((key.medium, key.placement));
            let _ = writeln!(out, "\n## {}, {}\n", key.medium.name(), key.placement.name());
            out.push_str(
                "| case | queues | depth | airlockfs | virtiofsd | ratio | by CPU time | CPU µs | virtiofsd | ratio | \
                 p50 / p99 / p99.9 µs | virtiofsd | switches | virtiofsd | front end | host, 1 thread |\n\
                 |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
            );
        }
        row(&mut out, report, key, rounds);
    }
    traces(&mut out, report);
    starts(&mut out, report);
    if !report.results.failures.is_empty() {
        out.push_str("\n## Failed\n\n");
        for failure in &report.results.failures {
            let _ = writeln!(out, "- {}", failure.what.replace('\n', " · "));
        }
    }
    out
}

fn row(out: &mut String, report: &Report<'_>, key: &Key, rounds: &Rounds) {
    let case = &report.cases[key.case];
    // Two columns are compared; other variants of ours are in the JSON.
    let ours = rounds
        .keys()
        .find(|name| name.starts_with(OURS))
        .map_or(OURS, String::as_str);
    let fastest = stats::best(rounds, PEER, |s| s.rate, true).unwrap_or(PEER);
    let cheapest = stats::best(rounds, PEER, |s| s.cpu, false).unwrap_or(PEER);
    let leanest = stats::best(rounds, PEER, |s| s.per_cpu, true).unwrap_or(PEER);
    let rate_of = |variant| stats::of(rounds, variant, |s| s.rate).map(|m| rate(m.median, case.unit));
    let cpu_of = |variant| stats::of(rounds, variant, |s| s.cpu).map(|m| format!("{:.2}", m.median));
    let front = [ours, fastest].map(|variant| stats::of(rounds, variant, |s| s.front_end));
    let front = front
        .iter()
        .flatten()
        .map(|m| format!("{:.0} %", m.median * 100.0));
    let host_key = Key {
        queues: 1,
        depth: 0,
        ..key.clone()
    };
    let host = report.results.samples.iter().find(|(other, _)| {
        (other.medium, other.case, other.depth) == (host_key.medium, host_key.case, host_key.depth)
    });
    let host = host.map_or(rounds, |(_, rounds)| rounds);
    let host = stats::of(host, HOST, |s| s.rate);
    let cells = [
        Some(case.name.to_owned()),
        Some(key.queues.to_string()),
        Some(key.depth.to_string()),
        rate_of(ours),
        rate_of(fastest).map(|text| text + &label(fastest)),
        stats::ratio(rounds, ours, fastest, |s| s.rate).map(spread),
        stats::ratio(rounds, ours, leanest, |s| s.per_cpu).map(spread),
        cpu_of(ours),
        cpu_of(cheapest).map(|text| text + &label(cheapest)),
        stats::ratio(rounds, ours, cheapest, |s| s.cpu).map(spread),
        latencies(rounds, ours),
        latencies(rounds, fastest),
        stats::of(rounds, ours, |s| s.switches).map(|m| format!("{:.2}", m.median)),
        stats::of(rounds, fastest, |s| s.switches).map(|m| format!("{:.2}", m.median)),
        Some(front.collect::<Vec<_>>().join(", ")),
        host.map(|m| rate(m.median, case.unit)),
    ];
    let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn traces(out: &mut String, report: &Report<'_>) {
    if report.results.traces.is_empty() {
        return;
    }
    out.push_str(
        "\n## Traces\n\nReal programs through /dev/fuse, new caches; CPU time and context switches are the \
         daemon's for a run.\n\n\
         | trace | | | airlockfs, ms | virtiofsd | ratio of runs | CPU ms | virtiofsd | ratio | switches | virtiofsd |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for ((medium, placement, index), rounds) in &report.results.traces {
        let fastest = stats::best(rounds, PEER, |s| s.rate, true).unwrap_or(PEER);
        let cheapest = stats::best(rounds, PEER, |s| s.cpu, false).unwrap_or(PEER);
        let number = |variant, field: Field| stats::of(rounds, variant, field).map(|m| short(m.median));
        let cells = [
            Some(report.traces[*index].name.to_owned()),
            Some(medium.name().to_owned()),
            Some(placement.name().to_owned()),
            number(OURS, |s| 1e3 / s.rate),
            number(fastest, |s| 1e3 / s.rate).map(|text| text + &label(fastest)),
            stats::ratio(rounds, OURS, fastest, |s| s.rate).map(spread),
            number(OURS, |s| s.cpu / 1e3),
            number(cheapest, |s| s.cpu / 1e3).map(|text| text + &label(cheapest)),
            stats::ratio(rounds, OURS, cheapest, |s| s.cpu).map(spread),
            number(OURS, |s| s.switches),
            number(fastest, |s| s.switches),
        ];
        let cells = cells.map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
}

fn starts(out: &mut String, report: &Report<'_>) {
    out.push_str(
        "\n## Start, memory, idle\n\n\
         Until INIT's reply, from just before the process is started, in the two ways that launchers have: the daemon makes the \
         socket and the VMM connects once the daemon says that it listens, or it inherits the socket and the VMM connects at \
         once. The ratio is of medians, to virtiofsd's command line with the lowest.\n\n\
         | daemon | launcher | start to INIT's reply, ms | ratio | private memory before the first request, MiB | PSS, MiB | idle: CPU µs per second | switches per second |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let seconds = report.idle_seconds;
    for ((variant, launcher), all) in &report.results.starts {
        let times = start_times(report, variant, *launcher);
        let fastest = fastest_start(report, *launcher).filter(|_| variant.starts_with(OURS));
        let ratio = times
            .zip(fastest)
            .map(|(ours, fastest)| format!("{:.2}", ours.median / fastest));
        let private = stats::middle(all.iter().map(|start| start.memory.private as f64 / 1024.0));
        let pss = stats::middle(all.iter().map(|start| start.memory.pss as f64 / 1024.0));
        let idle = report.results.idle.get(variant);
        let cpu =
            idle.and_then(|all| stats::middle(all.iter().map(|(cpu, _)| cpu.as_secs_f64() * 1e6 / seconds)));
        let switches = idle.and_then(|all| stats::middle(all.iter().map(|(_, n)| *n as f64 / seconds)));
        let [times, rest @ ..] =
            [times, private, pss, cpu, switches].map(|m| m.map_or_else(|| "–".to_owned(), spread));
        let ratio = ratio.unwrap_or_else(|| "–".to_owned());
        let _ = writeln!(
            out,
            "| {variant} | {} | {times} | {ratio} | {} |",
            launcher.name(),
            rest.join(" | ")
        );
    }
}

/// A variant's starts by this launcher, in ms.
pub(super) fn start_times(report: &Report<'_>, variant: &str, launcher: Launcher) -> Option<Middle> {
    let all = report.results.starts.get(&(variant.to_owned(), launcher))?;
    stats::middle(all.iter().map(|start| start.time.as_secs_f64() * 1e3))
}

/// The lowest median of virtiofsd's starts by this launcher, in ms.
pub(super) fn fastest_start(report: &Report<'_>, launcher: Launcher) -> Option<f64> {
    let variants = report.results.starts.keys().map(|(variant, _)| variant);
    variants
        .filter(|variant| variant.starts_with(PEER))
        .filter_map(|variant| start_times(report, variant, launcher))
        .map(|middle| middle.median)
        .reduce(f64::min)
}

fn latencies(rounds: &Rounds, variant: &str) -> Option<String> {
    let fields: [Field; 3] = [|s| s.p50, |s| s.p99, |s| s.p999];
    let texts = fields.map(|field| Some(short(stats::of(rounds, variant, field)?.median)));
    let [a, b, c] = texts;
    Some(format!("{} / {} / {}", a?, b?, c?))
}

/// The variant's label in brackets, if it has one.
fn label(variant: &str) -> String {
    variant
        .split_once(':')
        .map_or_else(String::new, |(_, label)| format!(" ({label})"))
}

fn spread(middle: Middle) -> String {
    let Middle { median, min, max } = middle;
    format!("{median:.2} ({min:.2}–{max:.2})")
}

fn rate(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Byte => format!("{:.2} GiB/s", value / f64::from(1 << 30)),
        Unit::Operation | Unit::Entry if value >= 1e6 => format!("{:.2}M/s", value / 1e6),
        Unit::Operation | Unit::Entry => format!("{:.1}k/s", value / 1e3),
    }
}

fn short(micros: f64) -> String {
    match micros {
        m if m >= 100.0 => format!("{m:.0}"),
        m => format!("{m:.1}"),
    }
}
