//! What a suite's script printed, test by test.

use std::collections::BTreeMap;

/// The test that stands for the script as a whole: it ended by itself, with status 0 and in time.
pub(super) const SCRIPT: &str = "script";

/// How a test went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Pass,
    /// And why.
    Fail(String),
    /// Could not be tried, and why.
    Skip(String),
}

/// A suite's run at one place.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// Every test by name.
    pub(super) tests: BTreeMap<String, Outcome>,
}

impl Results {
    /// Takes one line of the script's output; what is no test's result is left alone.
    pub(super) fn line(&mut self, line: &str) {
        let Some((verdict, rest)) = line.split_once(' ') else {
            return;
        };
        let (name, why) = rest.split_once(": ").unwrap_or((rest, ""));
        let outcome = match verdict {
            "PASS" => Outcome::Pass,
            "FAIL" => Outcome::Fail(why.to_owned()),
            "SKIP" => Outcome::Skip(why.to_owned()),
            _ => return,
        };
        // A name that comes twice has failed if it failed once.
        match self.tests.get(name) {
            Some(Outcome::Fail(_)) => {}
            _ => {
                self.tests.insert(name.to_owned(), outcome);
            }
        }
    }

    /// How many tests passed.
    pub(super) fn passed(&self) -> u64 {
        self.tests
            .values()
            .map(|outcome| u64::from(*outcome == Outcome::Pass))
            .sum()
    }

    /// How many tests went which way.
    pub(super) fn summary(&self) -> String {
        let count =
            |wanted: fn(&Outcome) -> bool| self.tests.values().filter(|outcome| wanted(outcome)).count();
        let mut text = format!("{} passed", count(|outcome| *outcome == Outcome::Pass));
        for (number, word) in [
            (count(|outcome| matches!(outcome, Outcome::Fail(_))), "failed"),
            (count(|outcome| matches!(outcome, Outcome::Skip(_))), "skipped"),
        ] {
            if number > 0 {
                text.push_str(&format!(", {number} {word}"));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_told_from_the_log() {
        let mut results = Results::default();
        for line in [
            "PASS one",
            "FAIL two::three: EPERM: wanted EACCES",
            "SKIP four: no such thing here",
            "PASS two::three",
            "PASSing by",
            "    FAIL quoted: in a log",
        ] {
            results.line(line);
        }
        let wanted = [
            ("four", Outcome::Skip("no such thing here".to_owned())),
            ("one", Outcome::Pass),
            ("two::three", Outcome::Fail("EPERM: wanted EACCES".to_owned())),
        ];
        assert!(
            results
                .tests
                .iter()
                .map(|(name, outcome)| (name.as_str(), outcome.clone()))
                .eq(wanted)
        );
        assert_eq!(results.summary(), "1 passed, 1 failed, 1 skipped");
    }
}
