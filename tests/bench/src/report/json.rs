//! All numbers of all rounds as JSON.

use std::fmt::Write;

use super::Report;
use crate::session::Field;

/// Fields of a sample, by name.
const FIELDS: &[(&str, Field)] = &[
    ("units_per_second", |s| s.rate),
    ("units_per_cpu_second", |s| s.per_cpu),
    ("p50_us", |s| s.p50),
    ("p99_us", |s| s.p99),
    ("p999_us", |s| s.p999),
    ("cpu_us", |s| s.cpu),
    ("context_switches", |s| s.switches),
    ("front_end_share", |s| s.front_end),
    ("private_kib", |s| s.private),
    ("pss_kib", |s| s.pss),
];

/// The report as one JSON object.
pub fn json(report: &Report<'_>) -> String {
    let mut out = String::from("{\n");
    let lines = report.about.iter().map(|line| text(line));
    let _ = writeln!(out, "  \"about\": [{}],", list(lines));
    let samples = report.results.samples.iter().flat_map(|(key, rounds)| {
        let case = report.cases[key.case].name;
        rounds.iter().flat_map(move |(variant, samples)| {
            samples.iter().enumerate().filter_map(move |(round, sample)| {
                let sample = sample.as_ref()?;
                let numbers = FIELDS
                    .iter()
                    .map(|(name, field)| format!("{}: {}", text(name), number(field(sample))));
                Some(format!(
                    "{{\"medium\": {}, \"placement\": {}, \"case\": {}, \"queues\": {}, \"depth\": {}, \
                     \"variant\": {}, \"round\": {round}, {}}}",
                    text(key.medium.name()),
                    text(key.placement.name()),
                    text(case),
                    key.queues,
                    key.depth,
                    text(variant),
                    list(numbers)
                ))
            })
        })
    });
    let _ = writeln!(out, "  \"samples\": [{}],", lines_of(samples));
    let traces = report.results.traces.iter().flat_map(|((medium, placement, index), rounds)| {
        let trace = report.traces[*index].name;
        rounds.iter().flat_map(move |(variant, samples)| {
            samples.iter().enumerate().filter_map(move |(round, sample)| {
                let sample = sample.as_ref()?;
                Some(format!(
                    "{{\"medium\": {}, \"placement\": {}, \"trace\": {}, \"variant\": {}, \"round\": {round}, \"wall_ms\": {}, \"cpu_ms\": {}, \
                     \"context_switches\": {}}}",
                    text(medium.name()),
                    text(placement.name()),
                    text(trace),
                    text(variant),
                    number(1e3 / sample.rate),
                    number(sample.cpu / 1e3),
                    number(sample.switches)
                ))
            })
        })
    });
    let _ = writeln!(out, "  \"traces\": [{}],", lines_of(traces));
    let limits = report.results.limits.iter().map(|limits| {
        format!(
            "{{\"known\": {}, \"bytes_per_inode\": {}, \"lookup_cpu_us\": [{}, {}, {}], \"host_statx_us\": [{}, {}]}}",
            limits.known,
            number(limits.bytes_per_inode),
            number(limits.same_names.0),
            number(limits.same_names.1),
            number(limits.all_names),
            number(limits.host.0),
            number(limits.host.1)
        )
    });
    let _ = writeln!(out, "  \"known_inodes\": [{}],", lines_of(limits));
    let ring = report.results.ring.iter().map(|rate| number(*rate));
    let _ = writeln!(out, "  \"ring_noops_per_second\": [{}],", list(ring));
    let starts = report.results.starts.iter().flat_map(|((variant, launcher), starts)| {
        starts.iter().map(|start| {
            format!(
                "{{\"variant\": {}, \"launcher\": {}, \"start_ms\": {}, \"private_kib\": {}, \"pss_kib\": {}}}",
                text(variant),
                text(launcher.name()),
                number(start.time.as_secs_f64() * 1e3),
                start.memory.private,
                start.memory.pss
            )
        })
    });
    let _ = writeln!(out, "  \"starts\": [{}],", lines_of(starts));
    let idle = report.results.idle.iter().flat_map(|(variant, all)| {
        all.iter().map(|(cpu, switches)| {
            format!(
                "{{\"variant\": {}, \"cpu_us\": {}, \"context_switches\": {switches}}}",
                text(variant),
                number(cpu.as_secs_f64() * 1e6)
            )
        })
    });
    let _ = writeln!(out, "  \"idle\": [{}],", lines_of(idle));
    let failures = report.results.failures.iter().map(|failure| text(&failure.what));
    let _ = writeln!(out, "  \"failures\": [{}]", lines_of(failures));
    out.push_str("}\n");
    out
}

fn list(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

fn lines_of(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.map(|item| format!("\n    {item}")).collect();
    items.join(",")
}

/// A JSON number; what is none becomes null.
fn number(value: f64) -> String {
    if value.is_finite() {
        format!("{value:.4}")
    } else {
        "null".to_owned()
    }
}

/// A JSON string.
fn text(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_escaped() {
        assert_eq!(text("a \"b\"\n\\"), r#""a \"b\"\u000a\\""#);
        assert_eq!(number(f64::NAN), "null");
        assert_eq!(number(1.5), "1.5000");
    }
}
