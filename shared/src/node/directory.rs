//! Reads and writes the directory of schedules through the fold that this node caches.

use std::convert::Infallible;

use super::Node;
use crate::{
    entry::Wake,
    log::{self, Decision, View},
    platform::{Platform, StoreError},
    session::schedule::{Directory, Listing, ScheduleId},
};

impl<P: Platform> Node<P> {
    /// Applies `look` to the newest state of the directory of schedules.
    pub(crate) async fn read_directory<T>(
        &self,
        look: impl FnOnce(&Directory) -> T,
    ) -> Result<T, StoreError> {
        let mut view = self.0.directory.take();
        let result = view.catch_up(self.platform().store(), Directory::log()).await;
        let value = look(&view.fold);
        self.cache_directory(view);
        result.map(|()| value)
    }

    /// Lists a schedule in the directory, or delists it if `listing` is `None`. Writes nothing if the directory has it
    /// so.
    pub(crate) async fn list_schedule(
        &self,
        id: ScheduleId,
        listing: Option<Listing>,
    ) -> Result<(), StoreError> {
        let mut view = self.0.directory.take();
        let decide = |directory: &Directory| {
            Ok::<_, Infallible>(if directory.find(&id) == listing.as_ref() {
                Decision::Done(())
            } else {
                Decision::Append(vec![Directory::draft(id, listing.clone())], Wake::Keep, ())
            })
        };
        let result = log::commit(self.platform(), Directory::log(), self.origin(), &mut view, decide).await;
        self.cache_directory(view);
        Ok(result.map(drop)?)
    }

    /// Caches `view`, unless a concurrent request has cached a newer one.
    fn cache_directory(&self, view: View<Directory>) {
        let mut cached = self.0.directory.borrow_mut();
        if cached.len() < view.len() {
            *cached = view;
        }
    }
}
