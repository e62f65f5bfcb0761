//! Compares a suite's results with the host directory's, and holds the excuses against the differences.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};

use super::place::Place;
use super::results::{Outcome, Results};
use crate::paths;

/// One suite at every place.
#[derive(Debug)]
pub(super) struct Row {
    suite: &'static str,
    results: Vec<(Place, Results)>,
    /// Differences of airlockfs that nothing excuses.
    pub(super) unexcused: u64,
}

/// A test that does on a share what it does not on the host directory.
#[derive(Debug, PartialEq, Eq)]
struct Difference<'a> {
    test: &'a str,
    why: String,
}

impl Row {
    pub(super) fn new(suite: &'static str) -> Self {
        Self {
            suite,
            results: Vec::new(),
            unexcused: 0,
        }
    }

    pub(super) fn add(&mut self, place: Place, results: Results) {
        self.results.push((place, results));
    }

    /// How many tests pass where it counts.
    pub(super) fn passed(&self) -> u64 {
        let counting = self.results.iter().filter(|(place, _)| place.counts());
        counting.map(|(_, results)| results.passed()).sum()
    }

    fn at(&self, wanted: Place) -> Option<&Results> {
        let (_, results) = self.results.iter().find(|(place, _)| *place == wanted)?;
        Some(results)
    }

    /// Prints the differences and counts those of airlockfs that are not excused.
    pub(super) fn tell(&mut self, excuses: &mut Excuses) {
        let Some(host) = self.at(Place::Host) else { return };
        let mut unexcused = 0;
        for (place, results) in &self.results {
            for difference in differences(host, results) {
                let excuse = excuses.reason(*place, self.suite, difference.test);
                let note = match excuse {
                    Some(reason) => format!(" (excused: {reason})"),
                    None => String::new(),
                };
                println!("  {place}: {}: {}{note}", difference.test, difference.why);
                if place.counts() && excuse.is_none() {
                    unexcused += 1;
                }
            }
        }
        self.unexcused = unexcused;
    }
}

/// What fails on the share and not on the host, and what passes on the host and was not tried on the share.
fn differences<'a>(host: &'a Results, share: &'a Results) -> Vec<Difference<'a>> {
    let tests: BTreeSet<&String> = host.tests.keys().chain(share.tests.keys()).collect();
    tests
        .into_iter()
        .filter_map(|test| {
            let why = match (host.tests.get(test), share.tests.get(test)) {
                (Some(Outcome::Fail(_)), _) | (_, Some(Outcome::Pass)) => return None,
                (_, Some(Outcome::Fail(why))) => why.clone(),
                (Some(Outcome::Pass), Some(Outcome::Skip(why))) => format!("skipped: {why}"),
                (Some(Outcome::Pass), None) => "did not run".to_owned(),
                _ => return None,
            };
            Some(Difference { test, why })
        })
        .collect()
}

/// The tests that may fail on airlockfs's share: tests/conformance/excuses.
#[derive(Debug)]
pub(super) struct Excuses(Vec<Excuse>);

#[derive(Debug)]
struct Excuse {
    /// As the file says it.
    word: String,
    places: Vec<Place>,
    suite: String,
    test: String,
    reason: String,
    used: bool,
}

impl Excuses {
    pub(super) fn read() -> Result<Self> {
        let file = paths::workspace().join("tests/conformance/excuses");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text)
    }

    /// Lines of `PLACE SUITE TEST REASON`; `#` begins a comment. The place `share` is every one of ours.
    fn parse(text: &str) -> Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let excuses = lines.map(|line| {
            let mut words = line.splitn(4, ' ');
            let [Some(word), Some(suite), Some(test), Some(reason)] = std::array::from_fn(|_| words.next())
            else {
                bail!("an excuse is PLACE SUITE TEST REASON, not: {line}");
            };
            let named = |place: &Place| place.word() == word || (word == "share" && place.counts());
            let places: Vec<Place> = Place::ALL.into_iter().filter(named).collect();
            if places.is_empty() {
                bail!("there is no place {word}: {line}");
            }
            Ok(Excuse {
                word: word.to_owned(),
                places,
                suite: suite.to_owned(),
                test: test.to_owned(),
                reason: reason.trim().to_owned(),
                used: false,
            })
        });
        Ok(Self(excuses.collect::<Result<_>>()?))
    }

    /// The reason that excuses a test, if there is one.
    fn reason(&mut self, place: Place, suite: &str, test: &str) -> Option<&str> {
        let excuse = self
            .0
            .iter_mut()
            .find(|excuse| excuse.places.contains(&place) && excuse.suite == suite && excuse.test == test)?;
        excuse.used = true;
        Some(&excuse.reason)
    }

    /// The excuses of tests that needed none. Where the host directory's own file system does not do what is tested,
    /// nothing is known of the share.
    pub(super) fn stale(&self, rows: &[Row]) -> Vec<String> {
        let ran = |excuse: &Excuse| {
            let row = rows.iter().find(|row| row.suite == excuse.suite);
            let at = |place| row?.at(place)?.tests.get(&excuse.test);
            at(Place::Host) == Some(&Outcome::Pass) && excuse.places.iter().any(|place| at(*place).is_some())
        };
        self.0
            .iter()
            .filter(|excuse| !excuse.used && ran(excuse))
            .map(|excuse| format!("{} {} {}", excuse.word, excuse.suite, excuse.test))
            .collect()
    }
}

/// The suites by row, the places by column.
pub(super) fn table(places: &[Place], rows: &[Row]) -> String {
    let head = std::iter::once("suite".to_owned()).chain(places.iter().map(Place::to_string));
    let mut lines: Vec<Vec<String>> = vec![head.collect()];
    for row in rows {
        let cells = places.iter().map(|place| match row.at(*place) {
            Some(results) => results.summary(),
            None => "-".to_owned(),
        });
        lines.push(std::iter::once(row.suite.to_owned()).chain(cells).collect());
    }
    let columns = places.len() + 1;
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            lines
                .iter()
                .filter_map(|line| line.get(column))
                .map(String::len)
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for line in lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(lines: &[&str]) -> Results {
        let mut results = Results::default();
        lines.iter().for_each(|line| results.line(line));
        results
    }

    #[test]
    fn only_what_the_host_directory_does_better_is_a_difference() {
        let host = results(&[
            "PASS both",
            "FAIL host: x",
            "SKIP untried: x",
            "PASS share",
            "PASS gone",
            "SKIP new: x",
        ]);
        let share = results(&[
            "PASS both",
            "FAIL host: y",
            "FAIL untried: y",
            "FAIL share: EIO",
            "PASS new",
        ]);
        let found: Vec<_> = differences(&host, &share)
            .into_iter()
            .map(|difference| format!("{}: {}", difference.test, difference.why))
            .collect();
        assert_eq!(found, ["gone: did not run", "share: EIO", "untried: y"]);
    }

    #[test]
    fn an_excuse_counts_for_its_own_test_and_is_stale_when_not_needed() {
        let text =
            "# head\nshare suite one the kernel's own\nbridge suite two another\npeer suite one elsewhere\n";
        let mut excuses = Excuses::parse(text).expect("three excuses");
        assert_eq!(
            excuses.reason(Place::Bridge, "suite", "one"),
            Some("the kernel's own")
        );
        assert_eq!(excuses.reason(Place::Bridge, "suite", "three"), None);
        assert!(excuses.reason(Place::Guest, "suite", "one").is_some());
        assert!(excuses.reason(Place::Guest, "suite", "two").is_none());
        let row = |host: &str| {
            let mut row = Row::new("suite");
            row.add(Place::Host, results(&["PASS one", host]));
            row.add(Place::Bridge, results(&["FAIL one: x", "PASS two"]));
            row
        };
        assert_eq!(excuses.stale(&[row("PASS two")]), ["bridge suite two"]);
        assert!(excuses.stale(&[row("SKIP two: not on this host")]).is_empty());
        assert!(Excuses::parse("bridge suite test\n").is_err(), "no reason");
    }
}
