//! Writes results down: tables for people, JSON for programs, a plot.

mod json;
mod markdown;
mod svg;
mod targets;

use super::cases::Case;
use super::plan::Results;
use super::traces::Trace;

pub use json::json;
pub use markdown::markdown;
pub use svg::svg;
pub use targets::targets;

/// What a report is made of.
pub struct Report<'a> {
    /// The cases that ran.
    pub cases: &'a [Case],
    /// The traces that ran.
    pub traces: &'a [Trace],
    /// What came of them.
    pub results: &'a Results,
    /// What was run and where, a line each.
    pub about: &'a [String],
    /// How long idle daemons were looked at.
    pub idle_seconds: f64,
}
