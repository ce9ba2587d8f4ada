use std::time::Duration;

use super::client::CallError;

/// Decides whether to ask again, and when. Whoever asks goes on to the next node each time.
pub(crate) struct Patience {
    nodes: usize,
    pause: Duration,
    left: Duration,
    tries: usize,
    /// Nodes that have refused, one after the other.
    refusals: usize,
}

/// Long enough for a node to restart, and for a peer to see that a turn was left: its lease lasts 45 s.
const WHOLE: Duration = Duration::from_secs(180);

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const MAX_PAUSE: Duration = Duration::from_secs(5);

impl Patience {
    /// For something that any of `nodes` nodes can answer, and that none has been asked yet.
    pub(crate) fn new(nodes: usize) -> Self {
        Self { nodes, pause: FIRST_PAUSE, left: WHOLE, tries: 0, refusals: 0 }
    }

    /// The pause after `error`; `None` if that is the end. `met` says whether any node has ever answered: before that, waiting
    /// for one would only hide a mistake.
    pub(crate) fn after(&mut self, error: &CallError, met: bool) -> Option<Duration> {
        self.tries += 1;
        let wanted = match error.retry() {
            Some(wanted) => {
                self.refusals = 0;
                (met || self.tries < self.nodes).then_some(wanted)?
            }
            None => {
                // Another node may know more, but once all have refused, it is so.
                self.refusals += 1;
                (self.refusals < self.nodes).then_some(Duration::ZERO)?
            }
        };
        let pause = self.pause.max(wanted);
        self.left = self.left.checked_sub(pause)?;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> CallError {
        CallError::Lost { url: String::new(), why: String::new() }
    }

    fn refused(status: u16, retry_after: Option<u64>) -> CallError {
        let retry_after = retry_after.map(Duration::from_secs);
        CallError::Refused { status, message: String::new(), retry_after }
    }

    /// How many times in a row it waits.
    fn check(nodes: usize, met: bool, error: &CallError, expected: usize) {
        let mut patience = Patience::new(nodes);
        let waits = std::iter::from_fn(|| patience.after(error, met)).count();
        assert_eq!(waits, expected, "{nodes} nodes, met: {met}, {error:?}");
    }

    #[test]
    fn what_can_change_is_waited_for() {
        let mut patience = Patience::new(1);
        let pauses: Vec<Duration> = std::iter::from_fn(|| patience.after(&lost(), true)).collect();
        assert!(pauses.is_sorted() && pauses.last() == Some(&MAX_PAUSE));
        assert!(pauses.iter().sum::<Duration>() <= WHOLE && pauses.len() > 30);
        check(1, true, &refused(503, None), pauses.len());
        check(1, true, &refused(400, Some(20)), 9);
        check(1, true, &refused(429, Some(3600)), 0);
    }

    #[test]
    fn what_can_not_change_is_asked_of_each_node_once() {
        check(1, false, &lost(), 0);
        check(3, false, &lost(), 2);
        check(1, true, &refused(404, None), 0);
        check(2, true, &refused(404, None), 1);
        // A node that is back may know what the other does not.
        let mut patience = Patience::new(2);
        for _ in 0..5 {
            assert!(patience.after(&refused(404, None), true).is_some());
            assert!(patience.after(&lost(), true).is_some());
        }
    }
}
