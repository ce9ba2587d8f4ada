//! Queues the requests of one connection: one at a time for each lane, in the order they arrived. Starts none itself.

use std::collections::{BTreeSet, VecDeque};

use super::{
    super::ApiError,
    MAX_MESSAGE_BYTES,
    message::{CreateEvent, Lane, LaneError},
};

/// Most names of lanes that a connection may use, as at OpenAI.
const MAX_LANES: usize = 32;

/// Most responses that wait for those before them.
const MAX_WAITING: usize = 64;

/// The requests that have not started, and the lanes that a started one occupies.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<CreateEvent>,
    /// Size of the messages that wait.
    bytes: usize,
    /// Every name that the client has used.
    lanes: BTreeSet<String>,
    /// The lanes with a response that has started and not ended.
    busy: BTreeSet<Lane>,
}

impl Queue {
    /// Appends a request, or refuses it if a bound is reached.
    pub(super) fn add(&mut self, create: CreateEvent) -> Result<(), LaneError> {
        let refuse = |error: ApiError| Err(LaneError { lane: create.lane.clone(), error });
        if let Some(name) = &create.lane
            && !self.lanes.contains(name)
        {
            if self.lanes.len() >= MAX_LANES {
                return refuse(ApiError::stream_limit(MAX_LANES));
            }
            self.lanes.insert(name.clone());
        }
        if self.waiting.len() >= MAX_WAITING {
            return refuse(ApiError::queue_full(&format!("{MAX_WAITING} responses")));
        }
        // All that wait may be as large as the largest single message.
        if self.bytes + create.bytes > MAX_MESSAGE_BYTES {
            return refuse(ApiError::queue_full(&format!("{MAX_MESSAGE_BYTES} bytes")));
        }
        self.bytes += create.bytes;
        self.waiting.push_back(create);
        Ok(())
    }

    /// Takes the first request whose lane is free. The lane is busy until [`Self::free`].
    pub(super) fn next(&mut self) -> Option<CreateEvent> {
        let at = self.waiting.iter().position(|create| !self.busy.contains(&create.lane))?;
        let create = self.waiting.remove(at)?;
        self.bytes -= create.bytes;
        self.busy.insert(create.lane.clone());
        Some(create)
    }

    /// Marks the response of a lane as ended.
    pub(super) fn free(&mut self, lane: &Lane) {
        self.busy.remove(lane);
    }

    /// Drops the requests that wait, and returns the lane of each.
    pub(super) fn clear(&mut self) -> Vec<Lane> {
        self.bytes = 0;
        self.waiting.drain(..).map(|create| create.lane).collect()
    }
}
