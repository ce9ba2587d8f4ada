//! Decides whether a failed request of a command is retried, and after which delay. Sends and sleeps nothing itself.

use std::time::Duration;

use super::client::RequestError;

/// The retries of one request. The caller moves on to the next node before each retry.
pub(crate) struct RetryPolicy {
    node_count: usize,
    next_delay: Duration,
    delay_left: Duration,
    attempts: usize,
    /// Permanent errors since the last transient one.
    consecutive_permanent_errors: usize,
}

/// Sum of all delays: enough for a node to restart, and for the 45 s lease of an abandoned turn to run out.
const MAX_TOTAL_DELAY: Duration = Duration::from_secs(180);

const FIRST_DELAY: Duration = Duration::from_millis(200);
const MAX_DELAY: Duration = Duration::from_secs(5);

impl RetryPolicy {
    /// A policy for a request that any of `node_count` nodes can answer.
    pub(crate) fn new(node_count: usize) -> Self {
        Self {
            node_count,
            next_delay: FIRST_DELAY,
            delay_left: MAX_TOTAL_DELAY,
            attempts: 0,
            consecutive_permanent_errors: 0,
        }
    }

    /// The delay before the retry that follows `error`; `None` if the request has failed for good. Unless a node has
    /// `ever_answered`, each gets one attempt only: the URL is probably wrong, and waiting would hide that.
    pub(crate) fn delay_after(&mut self, error: &RequestError, ever_answered: bool) -> Option<Duration> {
        self.attempts += 1;
        let min_delay = match error.retry_delay() {
            Some(min_delay) => {
                self.consecutive_permanent_errors = 0;
                (ever_answered || self.attempts < self.node_count).then_some(min_delay)?
            }
            None => {
                // Another node may have newer entries. Once all nodes agree, the error is final.
                self.consecutive_permanent_errors += 1;
                (self.consecutive_permanent_errors < self.node_count).then_some(Duration::ZERO)?
            }
        };
        let delay = self.next_delay.max(min_delay);
        self.delay_left = self.delay_left.checked_sub(delay)?;
        self.next_delay = (self.next_delay * 2).min(MAX_DELAY);
        Some(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection_error() -> RequestError {
        RequestError::Connection { url: String::new(), reason: String::new() }
    }

    fn error_response(status: u16, retry_after: Option<u64>) -> RequestError {
        let retry_after = retry_after.map(Duration::from_secs);
        RequestError::Response { status, message: String::new(), retry_after }
    }

    /// Counts the retries of a request that fails with `error` each time.
    fn check(node_count: usize, ever_answered: bool, error: &RequestError, expected: usize) {
        let mut policy = RetryPolicy::new(node_count);
        let retries = std::iter::from_fn(|| policy.delay_after(error, ever_answered)).count();
        assert_eq!(retries, expected, "{node_count} nodes, ever answered: {ever_answered}, {error:?}");
    }

    #[test]
    fn transient_errors_are_retried_until_the_delay_is_used_up() {
        let mut policy = RetryPolicy::new(1);
        let delays: Vec<Duration> =
            std::iter::from_fn(|| policy.delay_after(&connection_error(), true)).collect();
        assert!(delays.is_sorted() && delays.last() == Some(&MAX_DELAY));
        assert!(delays.iter().sum::<Duration>() <= MAX_TOTAL_DELAY && delays.len() > 30);
        check(1, true, &error_response(503, None), delays.len());
        check(1, true, &error_response(400, Some(20)), 9);
        check(1, true, &error_response(429, Some(3600)), 0);
    }

    #[test]
    fn permanent_errors_get_one_attempt_on_each_node() {
        check(1, false, &connection_error(), 0);
        check(3, false, &connection_error(), 2);
        check(1, true, &error_response(404, None), 0);
        check(2, true, &error_response(404, None), 1);
        // A node that has restarted may have entries that the other lacks.
        let mut policy = RetryPolicy::new(2);
        for _ in 0..5 {
            assert!(policy.delay_after(&error_response(404, None), true).is_some());
            assert!(policy.delay_after(&connection_error(), true).is_some());
        }
    }
}
