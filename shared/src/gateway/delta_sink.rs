//! Hands an answer's deltas to a caller inside the core. Knows nothing of wire formats.

use std::{cell::RefCell, rc::Rc};

use crate::{error::ProviderError, wire::Delta};

/// Receives an answer as deltas instead of bytes in a client's format. The answer's body yields an empty piece
/// whenever new deltas are here. Clones share the queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeltaSink(Rc<RefCell<DeltaQueue>>);

#[derive(Debug, Default)]
struct DeltaQueue {
    deltas: Vec<Delta<'static>>,
    /// How the answer ended; `None` while it goes on.
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

    /// Takes the deltas that arrived since the last call.
    pub(crate) fn take(&self) -> Vec<Delta<'static>> {
        std::mem::take(&mut self.0.borrow_mut().deltas)
    }

    /// How the answer ended; `None` while it goes on.
    pub(crate) fn ended(&self) -> Option<Result<(), ProviderError>> {
        self.0.borrow().end.clone()
    }
}
