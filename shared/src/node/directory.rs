//! The directory of schedules: reads it through the fold that this node caches, and lists schedules in it.

use std::convert::Infallible;

use super::Node;
use crate::{
    entry::Wake,
    log::{self, Decision, View},
    platform::{Platform, StoreError},
    session::schedule::{Directory, Listing, ScheduleId},
};

impl<P: Platform> Node<P> {
    /// What `look` sees in the newest state of the schedules' directory.
    pub(crate) async fn read_directory<T>(
        &self,
        look: impl FnOnce(&Directory) -> T,
    ) -> Result<T, StoreError> {
        let mut view = self.0.directory.take();
        let result = view.catch_up(self.platform().store(), Directory::log()).await;
        let seen = look(&view.fold);
        self.keep(view);
        result.map(|()| seen)
    }

    /// Lists a schedule in the directory, or takes it out.
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
        let done = log::commit(self.platform(), Directory::log(), self.origin(), &mut view, decide).await;
        self.keep(view);
        Ok(done.map(drop)?)
    }

    /// Whoever asked meanwhile may have read more.
    fn keep(&self, view: View<Directory>) {
        let mut kept = self.0.directory.borrow_mut();
        if kept.len() < view.len() {
            *kept = view;
        }
    }
}
