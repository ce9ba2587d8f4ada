//! Sends the scheduled trigger each minute to a host whose platform would send it: the Worker and the Lambda
//! function. The native node needs none.

use crate::serve::http;
use std::thread;
use std::time::{Duration, Instant};

/// The period of the platforms' schedules: `* * * * *` and `rate(1 minute)`.
const PERIOD: Duration = Duration::from_secs(60);

/// Sends a scheduled trigger at once and then each minute.
pub(crate) struct Clock {
    trigger: http::Request,
    next_at: Instant,
}

impl Clock {
    /// Makes a clock that is due at once. `trigger` is the request that makes the host run its schedule.
    pub(crate) fn new(trigger: http::Request) -> Self {
        Self { trigger, next_at: Instant::now() }
    }

    /// Sends the trigger if it is due, without waiting for the response.
    pub(crate) fn send_if_due(&mut self) {
        let now = Instant::now();
        if now < self.next_at {
            return;
        }
        self.next_at = now + PERIOD;
        let trigger = self.trigger.clone();
        thread::spawn(move || match trigger.send(PERIOD) {
            Ok(response) if response.status == 200 => (),
            Ok(response) => {
                eprintln!("xtask: scheduled trigger: status {}: {}", response.status, response.body)
            }
            Err(error) => eprintln!("xtask: scheduled trigger: no response: {error:#}"),
        });
    }
}
