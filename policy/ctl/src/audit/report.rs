//! The audit as text or JSON, and its exit code.

use std::fmt::Write as _;
use std::io::Write as _;

use serde::Serialize;

use super::Pair;
use super::points::{Outcome, Point};
use crate::line::AuditFormat;

/// The whole, as JSON.
#[derive(Serialize)]
struct Report<'a> {
    supervisor: i32,
    worker: i32,
    /// Every point is ok.
    holds: bool,
    points: Vec<Line<'a>>,
}

/// A point, as JSON.
#[derive(Serialize)]
struct Line<'a> {
    process: &'a str,
    point: &'a str,
    /// ok, weakened, failed, or unknown: it may not be seen.
    outcome: &'a str,
    /// What weakened it.
    #[serde(skip_serializing_if = "Option::is_none")]
    option: Option<&'a str>,
    found: &'a str,
}

/// 0: all holds; 1: options weakened it; 2: something failed or may not be seen.
pub(super) fn worst(points: &[Point]) -> u8 {
    let code = |point: &Point| match point.outcome {
        Outcome::Ok => 0,
        Outcome::Weakened(_) => 1,
        Outcome::Failed | Outcome::Unknown => super::FAILED,
    };
    points.iter().map(code).max().unwrap_or(super::FAILED)
}

/// Writes it to standard output.
pub(super) fn print(pair: &Pair, points: &[Point], format: AuditFormat) {
    let text = match format {
        AuditFormat::Text => text(pair, points),
        AuditFormat::Json => json(pair, points),
    };
    // Nobody to tell if stdout is closed.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn text(pair: &Pair, points: &[Point]) -> String {
    let mut out = String::new();
    for (process, _) in pair.both() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} {}", process.name, process.pid);
        for point in points.iter().filter(|point| point.process == process.name) {
            let outcome = match point.outcome {
                Outcome::Ok => "ok".to_owned(),
                Outcome::Weakened(option) => format!("WEAKENED by {option}"),
                Outcome::Failed => "FAILED".to_owned(),
                Outcome::Unknown => "UNKNOWN".to_owned(),
            };
            let _ = writeln!(out, "  {:<13} {outcome}: {}", point.subject, point.found);
        }
    }
    let _ = writeln!(
        out,
        "{}",
        match worst(points) {
            0 => "all holds",
            1 => "weaker than by default, as its options ask",
            _ if points
                .iter()
                .any(|point| matches!(point.outcome, Outcome::Failed)) =>
            {
                "NOT confined as it should be"
            }
            _ => "NOT known to be confined as it should be",
        }
    );
    out
}

fn json(pair: &Pair, points: &[Point]) -> String {
    let lines = points.iter().map(|point| Line {
        process: point.process,
        point: point.subject,
        outcome: match point.outcome {
            Outcome::Ok => "ok",
            Outcome::Weakened(_) => "weakened",
            Outcome::Failed => "failed",
            Outcome::Unknown => "unknown",
        },
        option: match point.outcome {
            Outcome::Weakened(option) => Some(option),
            Outcome::Ok | Outcome::Failed | Outcome::Unknown => None,
        },
        found: &point.found,
    });
    let report = Report {
        supervisor: pair.supervisor.pid,
        worker: pair.worker.pid,
        holds: worst(points) == 0,
        points: lines.collect(),
    };
    // Strings and numbers in structures and lists always have a form in JSON.
    serde_json::to_string_pretty(&report).unwrap_or_default() + "\n"
}
