//! Writes results down: a table for people, JSON for programs.

mod json;
mod markdown;

use super::cases::Case;
use super::plan::Results;

pub use json::json;
pub use markdown::markdown;

/// What a report is made of.
pub struct Report<'a> {
    /// The cases that ran.
    pub cases: &'a [Case],
    /// What came of them.
    pub results: &'a Results,
    /// What was run and where, a line each.
    pub about: &'a [String],
    /// How long idle daemons were looked at.
    pub idle_seconds: f64,
}
