use std::collections::{BTreeSet, VecDeque};

use super::{
    super::ApiError,
    MAX_MESSAGE_BYTES,
    message::{CreateEvent, Lane, LaneError},
};

/// Names of lanes that a connection may use, as at OpenAI.
const MAX_LANES: usize = 32;

/// Responses that wait for those before them.
const MAX_WAITING: usize = 64;

/// What was asked for and has not begun, in the order it came. Of a lane one response is made at a time.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<CreateEvent>,
    /// Of the messages that wait.
    bytes: usize,
    lanes: BTreeSet<String>,
    busy: BTreeSet<Lane>,
}

impl Queue {
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
        // Together they may be as large as one of them.
        if self.bytes + create.bytes > MAX_MESSAGE_BYTES {
            return refuse(ApiError::queue_full(&format!("{MAX_MESSAGE_BYTES} bytes")));
        }
        self.bytes += create.bytes;
        self.waiting.push_back(create);
        Ok(())
    }

    /// The first that need not wait any more. Its lane is busy until it is [`Self::free`]d.
    pub(super) fn next(&mut self) -> Option<CreateEvent> {
        let at = self.waiting.iter().position(|create| !self.busy.contains(&create.lane))?;
        let create = self.waiting.remove(at)?;
        self.bytes -= create.bytes;
        self.busy.insert(create.lane.clone());
        Some(create)
    }

    pub(super) fn free(&mut self, lane: &Lane) {
        self.busy.remove(lane);
    }

    /// Gives up what waits: the lane of each.
    pub(super) fn clear(&mut self) -> Vec<Lane> {
        self.bytes = 0;
        self.waiting.drain(..).map(|create| create.lane).collect()
    }
}
