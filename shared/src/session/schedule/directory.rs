//! Folds the directory of schedules, a log of its own that lists the schedules of all logs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{ScheduleId, ScheduleSource, read};
use crate::{
    entry::{Draft, Entry, Kind, LogId, Place},
    hex::{hex, unhex},
    log::{Fold, FoldError},
    session::to_json,
};

/// All schedules with their newest listings. Schedules are spread over the logs of their sessions; without a directory
/// a node would have to read every log to find them. A schedule that was taken out stays as `None`.
#[derive(Clone, Debug, Default)]
pub struct Directory(BTreeMap<ScheduleId, (Place, Option<Listing>)>);

/// The directory's entry for a schedule.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The caller that it belongs to.
    pub owner: String,
    /// What set it.
    pub source: ScheduleSource,
    /// The digest of its terms when it was listed.
    pub digest: String,
}

/// The body of a [`Kind::SCHEDULE_LISTED`] or [`Kind::SCHEDULE_DELISTED`] entry.
#[derive(Deserialize, Serialize)]
struct ScheduleListed {
    log: String,
    schedule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    listing: Option<Listing>,
}

impl Directory {
    /// The directory's log.
    pub fn log() -> LogId {
        LogId::derive("schedules", &[])
    }

    /// The listing of a schedule; `None` if it is not listed.
    pub fn find(&self, id: &ScheduleId) -> Option<&Listing> {
        self.0.get(id).and_then(|(_, listing)| listing.as_ref())
    }

    /// All listed schedules, in the order of their listings.
    pub fn all(&self) -> Vec<(ScheduleId, &Listing)> {
        let listed = self.0.iter().filter_map(|(id, (place, listing))| Some((place, *id, listing.as_ref()?)));
        let mut all: Vec<_> = listed.collect();
        all.sort_by_key(|(place, ..)| *place);
        all.into_iter().map(|(_, id, listing)| (id, listing)).collect()
    }

    /// The entry that lists a schedule, or delists it if `listing` is `None`.
    pub fn draft(id: ScheduleId, listing: Option<Listing>) -> Draft {
        let kind = if listing.is_some() { Kind::SCHEDULE_LISTED } else { Kind::SCHEDULE_DELISTED };
        let body = ScheduleListed { log: id.log.to_string(), schedule: hex(&id.schedule), listing };
        Draft { kind, cause: id.schedule, body: to_json(&body) }
    }
}

impl Fold for Directory {
    fn apply(&mut self, entry: &Entry) -> Result<(), FoldError> {
        let header = entry.header();
        if !matches!(header.kind, Kind::SCHEDULE_LISTED | Kind::SCHEDULE_DELISTED) {
            return Ok(());
        }
        let body: ScheduleListed = read(entry)?;
        let schedule = unhex(&body.schedule).and_then(|id| id.try_into().ok());
        let Some((log, schedule)) = LogId::parse(&body.log).zip(schedule) else { return Ok(()) };
        let place = entry.place();
        let listed = self.0.entry(ScheduleId { log, schedule }).or_insert_with(|| (place.clone(), None));
        if listed.0 <= place {
            *listed = (place, body.listing);
        }
        Ok(())
    }
}
