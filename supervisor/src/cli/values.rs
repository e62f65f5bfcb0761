//! How values on the command line are written.

use std::time::Duration;

pub(super) fn tag(text: &str) -> Result<String, String> {
    match text.len() {
        1..=36 if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err("a tag has 1 to 36 bytes".to_owned()),
    }
}

/// Longest look that `auto` adapts up to.
const POLL_AUTO: Duration = Duration::from_micros(50);

pub(super) fn poll_time(text: &str) -> Result<Duration, String> {
    match text {
        "auto" => Ok(POLL_AUTO),
        number => match number.parse() {
            Ok(micros @ 0..=10_000) => Ok(Duration::from_micros(micros)),
            _ => Err("auto, or 0 to 10000 microseconds".to_owned()),
        },
    }
}

pub(super) fn log_level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse()
        .map_err(|_| "error, warn, info, debug, trace or off".to_owned())
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .filter(|time| *time <= Duration::from_secs(u64::from(u32::MAX)))
        .ok_or_else(|| "seconds, such as 0, 1.5 or 86400".to_owned())
}
