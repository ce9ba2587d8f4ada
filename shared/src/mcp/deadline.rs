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
pub(super) struct Late;

impl<'a> Deadline<'a> {
    pub(super) fn new<P: Platform>(platform: &'a P, time: Duration) -> Self {
        Self { sleep: platform.sleep(time).boxed_local(), over: false }
    }

    /// Waits for `future`, but not beyond the deadline. The clock is looked at first, so that a server which always has
    /// something to say does not go on for ever.
    pub(super) async fn within<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Late> {
        if self.over {
            return Err(Late);
        }
        match select(&mut self.sleep, pin!(future)).await {
            Either::Left(((), _)) => {
                self.over = true;
                Err(Late)
            }
            Either::Right((value, _)) => Ok(value),
        }
    }
}
