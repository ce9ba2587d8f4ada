//! The minute clock of a host that has none at home: on Workers and Lambda the platform sends it.

use crate::serve::http;
use std::thread;
use std::time::{Duration, Instant};

/// The period of the platforms' schedules: `* * * * *` and `rate(1 minute)`.
const PERIOD: Duration = Duration::from_secs(60);

/// Sends a scheduled trigger at once and then each minute.
pub(crate) struct Clock {
    trigger: http::Request,
    next: Instant,
}

impl Clock {
    /// A clock whose trigger is the request that makes the host fire its schedule.
    pub(crate) fn new(trigger: http::Request) -> Self {
        Self { trigger, next: Instant::now() }
    }

    /// Sends the trigger if it is due. Does not wait for the answer.
    pub(crate) fn beat(&mut self) {
        let now = Instant::now();
        if now < self.next {
            return;
        }
        self.next = now + PERIOD;
        let trigger = self.trigger.clone();
        thread::spawn(move || match trigger.send(PERIOD) {
            Ok(answer) if answer.status == 200 => (),
            Ok(answer) => eprintln!("xtask: the scheduled trigger got {}: {}", answer.status, answer.body),
            Err(error) => eprintln!("xtask: the scheduled trigger got no answer: {error:#}"),
        });
    }
}
