//! Medians over rounds, and ratios of what ran side by side.

use std::collections::BTreeMap;

use super::session::{Field, Sample};
use super::tree::Medium;
use airlockfs_tests::placement::Placement;

/// What is compared: everything but the daemon.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The file system.
    pub medium: Medium,
    /// Where things ran.
    pub placement: Placement,
    /// Position of the case in the list of cases.
    pub case: usize,
    /// Request queues.
    pub queues: usize,
    /// Requests in flight.
    pub depth: usize,
}

/// Measurements of one thing: rounds by variant. A round is `None` where the measurement failed.
pub type Rounds = BTreeMap<String, Vec<Option<Sample>>>;

/// The middle of some numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Middle {
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// The median with its spread, if there is a number.
pub fn middle(values: impl IntoIterator<Item = f64>) -> Option<Middle> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let half = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[half]
    } else {
        (values[half - 1] + values[half]) / 2.0
    };
    Some(Middle { median, min, max })
}

/// One number of a variant's samples.
pub fn of(rounds: &Rounds, variant: &str, field: Field) -> Option<Middle> {
    middle(rounds.get(variant)?.iter().flatten().map(field))
}

/// The ratio of two variants' numbers, round by round.
pub fn ratio(rounds: &Rounds, over: &str, under: &str, field: Field) -> Option<Middle> {
    let pairs = rounds.get(over)?.iter().zip(rounds.get(under)?);
    middle(pairs.filter_map(|(a, b)| Some(field(a.as_ref()?) / field(b.as_ref()?))))
}

/// The variant, of those whose name begins so, with the best median: the largest, or the smallest.
pub fn best<'a>(rounds: &'a Rounds, prefix: &str, field: Field, largest: bool) -> Option<&'a str> {
    let names = rounds.keys().filter(|name| name.starts_with(prefix));
    let medians = names.filter_map(|name| Some((of(rounds, name, field)?.median, name.as_str())));
    let order = |a: &(f64, &str), b: &(f64, &str)| a.0.total_cmp(&b.0);
    let found = if largest {
        medians.max_by(order)
    } else {
        medians.min_by(order)
    };
    found.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds() -> Rounds {
        let rates = |values: &[Option<f64>]| {
            let sample = |rate| Sample {
                rate,
                ..Sample::default()
            };
            values.iter().map(|value| value.map(sample)).collect()
        };
        Rounds::from([
            ("a".to_owned(), rates(&[Some(10.0), Some(30.0), None])),
            ("b".to_owned(), rates(&[Some(5.0), Some(10.0), Some(1.0)])),
            ("b:x".to_owned(), rates(&[Some(1.0), Some(90.0), Some(20.0)])),
        ])
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        let odd = middle([3.0, 1.0, 2.0]).expect("numbers");
        assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
        assert_eq!(middle([1.0, 2.0]).map(|m| m.median), Some(1.5));
        assert_eq!(middle([]), None);
    }

    #[test]
    fn ratios_pair_what_ran_in_the_same_round() {
        let ratio = ratio(&rounds(), "a", "b", |s| s.rate).expect("pairs");
        assert_eq!((ratio.median, ratio.min, ratio.max), (2.5, 2.0, 3.0));
    }

    #[test]
    fn the_best_variant_has_the_best_median() {
        assert_eq!(best(&rounds(), "b", |s| s.rate, true), Some("b:x"));
        assert_eq!(best(&rounds(), "b", |s| s.rate, false), Some("b"));
        assert_eq!(best(&rounds(), "c", |s| s.rate, true), None);
    }
}
