use std::{pin::pin, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, LocalBoxFuture, select},
};

use crate::platform::Platform;

/// When all that is done for one caller must be over. One sleep of the platform serves every wait.
pub(super) struct Deadline<'a> {
    sleep: LocalBoxFuture<'a, ()>,
    over: bool,
}

/// The deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeadlineExceeded;

impl<'a> Deadline<'a> {
    pub(super) fn new<P: Platform>(platform: &'a P, time: Duration) -> Self {
        let mut sleep = platform.sleep(time).boxed_local();
        // A sleep begins when it is polled first, and that may be long after this.
        let over = (&mut sleep).now_or_never().is_some();
        Self { sleep, over }
    }

    /// Waits for `future`, but not beyond the deadline.
    pub(super) async fn within<T>(&mut self, future: impl Future<Output = T>) -> Result<T, DeadlineExceeded> {
        if self.over {
            return Err(DeadlineExceeded);
        }
        let mut future = pin!(future);
        // What is ready needs no clock.
        if let Some(value) = future.as_mut().now_or_never() {
            return Ok(value);
        }
        match select(future, &mut self.sleep).await {
            Either::Left((value, _)) => Ok(value),
            Either::Right(((), _)) => {
                self.over = true;
                Err(DeadlineExceeded)
            }
        }
    }
}
