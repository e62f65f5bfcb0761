//! Calls that have not returned for long, told in the log.

use std::time::{Duration, Instant};

use airlockfs_ipc::{
    message::Request,
    ring::{MessageBuffer, SLOTS, WorkerLane},
};

use crate::sys::say;

/// A call that takes longer is told of.
const LONG: Duration = Duration::from_secs(1);
/// From one line to the next.
const LINES: Duration = Duration::from_secs(10);

/// A request that was not answered at the last look: lane and number in it.
#[derive(Clone, Copy)]
struct Call {
    lane: usize,
    number: u32,
    since: Instant,
}

/// All of them.
pub(crate) struct Stalled {
    calls: Vec<Call>,
    /// Those of the look before.
    last: Vec<Call>,
    looked: Option<Instant>,
    said: Option<Instant>,
    /// How many the last line told of.
    told: usize,
    /// Requests that were refused because all threads hang, and not told of.
    pub(crate) refused: u64,
}

impl Stalled {
    /// None yet, in so many lanes. Takes no more memory later: whether a look meets a request is a matter of time.
    pub(crate) fn new(lanes: usize) -> Self {
        let calls = || Vec::with_capacity(lanes.saturating_mul(SLOTS));
        Self {
            calls: calls(),
            last: calls(),
            looked: None,
            said: None,
            told: 0,
            refused: 0,
        }
    }

    /// Looks if the last look is long ago.
    pub(crate) fn look_now_and_then(
        &mut self,
        now: Instant,
        lanes: &[WorkerLane],
        buffer: &mut MessageBuffer,
    ) {
        if self
            .looked
            .is_none_or(|looked| now.duration_since(looked) >= LONG)
        {
            self.look(lanes, buffer);
        }
    }

    /// Looks for requests that were not answered, and says how many are old. When to look again, if there are any.
    pub(crate) fn look(&mut self, lanes: &[WorkerLane], buffer: &mut MessageBuffer) -> Option<Duration> {
        let now = Instant::now();
        self.looked = Some(now);
        std::mem::swap(&mut self.calls, &mut self.last);
        let Self { calls, last, .. } = self;
        calls.clear();
        let mut oldest: Option<(Instant, String)> = None;
        for (lane, ring) in lanes.iter().enumerate() {
            ring.each_begun(buffer, |number, request| {
                if matches!(request, Some(Request::SetLock { wait: Some(_), .. })) {
                    // A lock may never be had, and no call waits for it.
                    return;
                }
                let known = last
                    .iter()
                    .find(|call| (call.lane, call.number) == (lane, number));
                let since = known.map_or(now, |call| call.since);
                calls.push(Call { lane, number, since });
                if now.duration_since(since) >= LONG
                    && oldest.as_ref().is_none_or(|(oldest, _)| since < *oldest)
                {
                    oldest = Some((since, name(request)));
                }
            });
        }
        let old = calls
            .iter()
            .filter(|call| now.duration_since(call.since) >= LONG)
            .count();
        let may_say = self.said.is_none_or(|said| now.duration_since(said) >= LINES);
        if let Some((since, name)) = oldest
            && may_say
            && (old > self.told || self.refused > 0)
        {
            let age = now.duration_since(since).as_secs();
            let refused = std::mem::take(&mut self.refused);
            let tail = match refused {
                0 => String::new(),
                _ => format!("; {refused} requests that no thread was left for were answered EIO"),
            };
            say(format_args!(
                "WARN: {old} calls on the shared directory have not returned for a second or more, the oldest is {name} for {age} s{tail}"
            ));
            (self.said, self.told) = (Some(now), old);
        }
        if old == 0 && self.told > 0 {
            say(format_args!(
                "INFO: all calls on the shared directory have returned"
            ));
            self.told = 0;
        }
        (!calls.is_empty()).then_some(LONG)
    }
}

/// As FUSE calls it.
fn name(request: Option<&Request<'_>>) -> String {
    let text = format!("{request:?}");
    let word = text
        .trim_start_matches("Some(")
        .split(|letter: char| !letter.is_alphanumeric());
    word.into_iter().next().unwrap_or_default().to_uppercase()
}
