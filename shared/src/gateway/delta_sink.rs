use std::{cell::RefCell, rc::Rc};

use crate::{error::ProviderError, wire::Delta};

/// Where an answer goes that nobody's wire format is wanted of: its body yields an empty piece whenever there is something
/// new in here. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeltaSink(Rc<RefCell<DeltaQueue>>);

#[derive(Debug, Default)]
struct DeltaQueue {
    deltas: Vec<Delta<'static>>,
    end: Option<Result<(), ProviderError>>,
}

impl DeltaSink {
    pub(super) fn push(&self, delta: &Delta<'_>) {
        self.0.borrow_mut().deltas.push(delta.clone().into_owned());
    }

    pub(super) fn end(&self, end: Result<(), ProviderError>) {
        self.0.borrow_mut().end = Some(end);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().deltas.is_empty()
    }

    /// What has come since the last call.
    pub(crate) fn take(&self) -> Vec<Delta<'static>> {
        std::mem::take(&mut self.0.borrow_mut().deltas)
    }

    /// How the answer ended; `None` while it goes on.
    pub(crate) fn ended(&self) -> Option<Result<(), ProviderError>> {
        self.0.borrow().end.clone()
    }
}
