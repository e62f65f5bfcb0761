//! The plot: throughput and CPU time beside virtiofsd's best, a bar each.

use std::fmt::Write;

use super::Report;
use super::markdown::{OURS, PEER};
use crate::session::Field;
use crate::stats;
use crate::tree::Medium;
use airlockfs_tests::placement::Placement;

/// Requests in flight that the plot shows; a case that has not got it shows its own largest.
const DEPTH: usize = 16;
const WIDTH: f64 = 720.0;
/// Where the bars begin.
const LEFT: f64 = 170.0;
const ROW: f64 = 26.0;
const TOP: f64 = 46.0;
/// Ends of the logarithmic scale.
const SCALE: (f64, f64) = (0.25, 8.0);

/// The plot, of what ran on one CPU: metadata on a RAM file system, cold reads and fsync on a disk.
pub fn svg(report: &Report<'_>) -> String {
    let mut rows: Vec<(&str, f64, f64)> = Vec::new();
    for (index, case) in report.cases.iter().enumerate() {
        let medium = if case.media.contains(&Medium::Tmpfs) {
            Medium::Tmpfs
        } else {
            Medium::Disk
        };
        let places = report.results.samples.iter().filter(|(key, _)| {
            (key.case, key.medium, key.placement, key.queues) == (index, medium, Placement::Together, 1)
                && key.depth > 0
        });
        let places: Vec<_> = places.collect();
        let usual = places.iter().find(|(key, _)| key.depth == DEPTH);
        let Some((_, rounds)) = usual.or(places.last()) else {
            continue;
        };
        let ratio = |field: Field, largest| {
            let peer = stats::best(rounds, PEER, field, largest)?;
            Some(stats::ratio(rounds, OURS, peer, field)?.median)
        };
        if let (Some(rate), Some(cpu)) = (ratio(|s| s.rate, true), ratio(|s| s.cpu, false)) {
            rows.push((case.name, rate, cpu));
        }
    }
    draw(&rows)
}

fn x(value: f64) -> f64 {
    let (low, high) = SCALE;
    let share = (value.clamp(low, high) / low).ln() / (high / low).ln();
    LEFT + share * (WIDTH - LEFT - 50.0)
}

fn draw(rows: &[(&str, f64, f64)]) -> String {
    let height = TOP + rows.len() as f64 * ROW + 10.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>\n\
         <text x=\"10\" y=\"16\"><tspan fill=\"#1f6f8b\">■</tspan> throughput <tspan fill=\"#d98e04\">■</tspan> CPU \
         time per operation, relative to virtiofsd's best setting, depth {DEPTH}, one CPU</text>\n"
    );
    for tick in [0.25, 0.5, 1.0, 2.0, 4.0, 8.0] {
        let at = x(tick);
        let stroke = if tick == 1.0 { "#333" } else { "#ddd" };
        let _ = writeln!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{height}\" stroke=\"{stroke}\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#555\">{tick}×</text>",
            TOP - 8.0
        );
    }
    for (at, (name, rate, cpu)) in rows.iter().enumerate() {
        let y = TOP + at as f64 * ROW;
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            LEFT - 8.0,
            y + 16.0
        );
        for (value, top, color) in [(*rate, y + 3.0, "#1f6f8b"), (*cpu, y + 13.0, "#d98e04")] {
            let (from, to) = (x(1.0).min(x(value)), x(1.0).max(x(value)));
            let _ = writeln!(
                out,
                "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"9\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"9\" fill=\"#333\">{value:.2}</text>",
                to - from,
                to + 3.0,
                top + 8.0
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_begin_at_one_and_stay_inside() {
        assert_eq!(x(0.01), LEFT);
        assert!(x(100.0) <= WIDTH - 50.0 && x(1.0) > x(0.5));
        let text = draw(&[("lookup", 2.0, 0.5)]);
        assert!(text.starts_with("<svg") && text.ends_with("</svg>\n"));
        assert_eq!(text.matches("<rect").count(), 3);
    }
}
