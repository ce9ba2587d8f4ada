//! Creates, shows, pauses and removes schedules, for callers, for the agent and for the configuration. What happens
//! when a schedule is due is in `fires`.

mod object;

use std::convert::Infallible;

use super::{
    fires,
    next_wake::{after_reschedule, is_busy},
    wake_soon,
};
use crate::{
    cron::RuleError,
    entry::{Cause, LogId},
    log::{CommitError, Decision},
    node::Node,
    platform::{Platform, StoreError},
    session::{
        Session, draft_created,
        schedule::{
            AGENT, Directory, FireStatus, Listing, MAX_SCHEDULES_PER_LOG, ScheduleDefinition, ScheduleId,
            ScheduleSource, Terms, draft_removed,
        },
    },
    time::Timestamp,
};

pub(crate) use object::{fire_id, fire_object, schedule_object};

/// A schedule and its newest fires.
#[derive(Clone, Debug)]
pub(crate) struct ScheduleView {
    pub(crate) id: ScheduleId,
    pub(crate) definition: ScheduleDefinition,
    pub(crate) created_at: Timestamp,
    /// When its next fire is due, jitter included; `None` if it is paused or over.
    pub(crate) next_fire_at: Option<Timestamp>,
    /// At most a hundred fires, newest first.
    pub(crate) fires: Vec<FireView>,
}

/// A fire and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct FireView {
    pub(crate) id: Cause,
    /// When it was due.
    pub(crate) nominal: Timestamp,
    /// When it was claimed or skipped.
    pub(crate) at: Timestamp,
    pub(crate) status: FireStatus,
    /// Why it was skipped; `None` if it has a turn.
    pub(crate) reason: Option<String>,
    /// When its turn ended.
    pub(crate) ended_at: Option<Timestamp>,
}

/// Schedules of one caller. The directory of all schedules is read as a whole for each change of it.
const MAX_OF_OWNER: usize = 1_000;

/// Fires in a [`ScheduleView`].
const SHOWN: usize = 100;

/// Why a schedule was not created, changed or run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScheduleError {
    /// The terms are invalid.
    #[error(transparent)]
    Terms(#[from] RuleError),
    /// No schedule has this id.
    #[error("there is no such schedule")]
    Unknown,
    /// There is no such conversation, or it belongs to another caller.
    #[error("there is no such conversation")]
    UnknownConversation,
    /// The conversation has an open turn.
    #[error("the conversation is busy")]
    Busy,
    /// The schedule is one of the configuration.
    #[error("the schedule is set by the configuration and can only be removed there")]
    Configured,
    /// The id is that of a schedule with other terms.
    #[error("a schedule with this id and other terms exists")]
    Conflict,
    /// The same request created the schedule before, and its session was deleted since.
    #[error("the schedule was created before and deleted")]
    Deleted,
    /// The log or its caller has as many schedules as it may have.
    #[error("there are {0} schedules already")]
    TooMany(usize),
    /// The store is unavailable or damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError<Self>> for ScheduleError {
    fn from(error: CommitError<Self>) -> Self {
        match error {
            CommitError::Refused(error) => error,
            CommitError::Unavailable(why) | CommitError::TooLarge(why) => {
                Self::Store(StoreError::Unavailable(why))
            }
            CommitError::Corrupt(why) => Self::Store(StoreError::Corrupt(why)),
        }
    }
}

/// Who creates a schedule, and where it runs.
pub(crate) struct NewSchedule<'a> {
    pub(crate) owner: &'a str,
    pub(crate) source: ScheduleSource,
    /// Whether it runs in a conversation that exists. Otherwise it gets one of its own.
    pub(crate) joins: bool,
}

/// Creates the schedule `id` and lists it in the directory. A repeated call with the same terms changes nothing.
pub(crate) async fn create<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
    new: &NewSchedule<'_>,
    terms: &Terms,
) -> Result<ScheduleView, ScheduleError> {
    node.config().check_terms(terms)?;
    let now = node.platform().now();
    let decide = |session: &Session| {
        // Entries after a session's deletion are neither read nor erased, so none may be written.
        if session.is_deleted() {
            return Err(if new.joins { ScheduleError::UnknownConversation } else { ScheduleError::Deleted });
        }
        let own = session.created().is_some_and(|created| created.owner == new.owner);
        if !own && (new.joins || session.created().is_some()) {
            return Err(ScheduleError::UnknownConversation);
        }
        if let Some(known) = session.schedules().find(&id.schedule) {
            let equal = known.definition().ok_or(ScheduleError::Unknown)?.terms == *terms;
            return if equal { Ok(Decision::Done(())) } else { Err(ScheduleError::Conflict) };
        }
        if session.schedules().live().count() >= MAX_SCHEDULES_PER_LOG {
            return Err(ScheduleError::TooMany(MAX_SCHEDULES_PER_LOG));
        }
        let (owner, source) = (new.owner.to_owned(), new.source);
        let definition =
            ScheduleDefinition { owner, source, paused: false, since: now.0, terms: terms.clone() };
        let due = definition.due_after(&id.schedule, now);
        if due.is_none() {
            let why = "the moment has passed; allowed: a moment in the future";
            return Err(RuleError::new("at", why).into());
        }
        let mut drafts = Vec::new();
        if !own {
            drafts.push(draft_created(id.schedule, new.owner, Default::default()));
        }
        drafts.push(definition.draft(id.schedule));
        Ok(Decision::Append(drafts, after_reschedule(session, &id.schedule, due), ()))
    };
    // Checked once before the schedule is listed, so that a refused one is not. It is listed before it is written: one
    // that is listed and never written is not shown, while one that is written and not listed
    // would be missing from every list.
    node.read_session(id.log, |session| decide(session).map(drop)).await??;
    let full = |directory: &Directory| {
        let own = || directory.all().into_iter().filter(|(_, listing)| listing.owner == new.owner).count();
        directory.find(&id).is_none() && own() >= MAX_OF_OWNER
    };
    if node.read_directory(full).await? {
        return Err(ScheduleError::TooMany(MAX_OF_OWNER));
    }
    let listing =
        Listing { owner: new.owner.to_owned(), source: new.source, digest: terms.digest().to_string() };
    node.list_schedule(id, Some(listing)).await?;
    let ((), _, found) = node.commit_session(id.log, decide, |session| view(id, session)).await?;
    found.ok_or(ScheduleError::Unknown)
}

/// The schedule `id`, if it exists.
pub(crate) async fn find<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
) -> Result<Option<ScheduleView>, StoreError> {
    // The turns of the fires that are shown must be known, too.
    let enough = |session: &Session| {
        let shown = session.schedules().find(&id.schedule).into_iter().flat_map(|s| s.fires().take(SHOWN));
        shown.into_iter().all(|fire| fire.skipped.is_some() || session.turns().find(&fire.id).is_some())
    };
    node.read_session_until(id.log, enough, |session| view(id, session)).await
}

/// Those of the schedules `ids` that exist: a listed one may have been removed, or never written. One whose log is
/// damaged is left out, so that it does not hide the others.
pub(crate) async fn find_all<P: Platform>(
    node: &Node<P>,
    ids: impl IntoIterator<Item = ScheduleId>,
) -> Result<Vec<ScheduleView>, StoreError> {
    let mut found = Vec::new();
    for id in ids {
        match find(node, id).await {
            Ok(view) => found.extend(view),
            Err(StoreError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The ids and owners of all schedules in the directory, in the order of their creation.
pub(crate) async fn list_all<P: Platform>(node: &Node<P>) -> Result<Vec<(ScheduleId, String)>, StoreError> {
    let all = |directory: &Directory| {
        directory.all().into_iter().map(|(id, listing)| (id, listing.owner.clone())).collect()
    };
    node.read_directory(all).await
}

/// Pauses or resumes a schedule.
pub(crate) async fn pause<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
    paused: bool,
) -> Result<ScheduleView, ScheduleError> {
    let now = node.platform().now();
    let decide = |session: &Session| {
        let known = session.schedules().find(&id.schedule).and_then(|schedule| schedule.definition());
        let known = known.ok_or(ScheduleError::Unknown)?;
        if known.paused == paused {
            return Ok(Decision::Done(()));
        }
        // Fires that were due during the pause are not made up for.
        let since = if paused { known.since } else { now.0 };
        let definition = ScheduleDefinition { paused, since, ..known.clone() };
        let due = definition.due_after(&id.schedule, now);
        let wake = after_reschedule(session, &id.schedule, due);
        Ok(Decision::Append(vec![definition.draft(id.schedule)], wake, ()))
    };
    let ((), _, found) = node.commit_session(id.log, decide, |session| view(id, session)).await?;
    found.ok_or(ScheduleError::Unknown)
}

/// Removes a schedule that a caller or the agent created. Its conversation stays, and an open turn runs to its end.
pub(crate) async fn remove<P: Platform>(node: &Node<P>, id: ScheduleId) -> Result<(), ScheduleError> {
    let decide = |session: &Session| {
        let schedule = session.schedules().find(&id.schedule).ok_or(ScheduleError::Unknown)?;
        let Some(definition) = schedule.definition() else { return Ok(Decision::Done(())) };
        if definition.source == ScheduleSource::Config {
            return Err(ScheduleError::Configured);
        }
        let wake = after_reschedule(session, &id.schedule, None);
        Ok(Decision::Append(vec![draft_removed(id.schedule)], wake, ()))
    };
    node.commit_session(id.log, decide, |_| ()).await?;
    Ok(node.list_schedule(id, None).await?)
}

/// Fires a schedule now, whether it is due or not. A second call with the same `fire` changes nothing.
pub(crate) async fn run<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
    fire: Cause,
) -> Result<Option<FireView>, ScheduleError> {
    let now = node.platform().now();
    let decide = |session: &Session| {
        let schedule = session.schedules().find(&id.schedule).ok_or(ScheduleError::Unknown)?;
        if schedule.fires().any(|known| known.id == fire) {
            return Ok(Decision::Done(()));
        }
        if is_busy(session) {
            return Err(ScheduleError::Busy);
        }
        let (drafts, wake) =
            fires::manual_fire(node.config(), session, id, fire, now).ok_or(ScheduleError::Unknown)?;
        Ok(Decision::Append(drafts, wake, ()))
    };
    let look = |session: &Session| view(id, session)?.fires.into_iter().find(|known| known.id == fire);
    let ((), _, view) = node.commit_session(id.log, decide, look).await?;
    wake_soon(node, id.log).await;
    Ok(view)
}

/// Wakes the logs of schedules that the configuration added, changed or dropped since they were listed. The wake
/// applies the change, in the process that owns the log. The tick calls this.
pub(crate) async fn sync<P: Platform>(node: &Node<P>) -> Result<(), StoreError> {
    let configured = &node.config().schedules;
    let changed = |directory: &Directory| {
        let new = configured.iter().filter_map(|terms| {
            let id = ScheduleId::of_config(&terms.name);
            let is_current =
                directory.find(&id).is_some_and(|listing| listing.digest == terms.digest().to_string());
            (!is_current).then_some(id)
        });
        let old = directory.all().into_iter().filter_map(|(id, listing)| {
            let is_configured = configured.iter().any(|terms| ScheduleId::of_config(&terms.name) == id);
            (listing.source == ScheduleSource::Config && !is_configured).then_some(id)
        });
        new.chain(old).map(|id| id.log).collect::<Vec<_>>()
    };
    for log in node.read_directory(changed).await? {
        wake_soon(node, log).await;
    }
    Ok(())
}

/// Writes the schedule that the configuration has for `log`, if it is new or changed; removes it if the configuration
/// has none any more.
pub(super) async fn apply_configured<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    let configured = node.config().schedules.iter().map(|terms| (ScheduleId::of_config(&terms.name), terms));
    let configured = configured.into_iter().find(|(id, _)| id.log == log);
    let written = |session: &Session| {
        // At most one: callers can't add schedules to a conversation of the agent.
        session.schedules().configured().map(|schedule| ScheduleId { log, schedule: *schedule.id() })
    };
    match (configured, node.read_session(log, written).await?) {
        (Some((id, terms)), _) => set(node, id, terms).await,
        (None, Some(id)) => unset(node, id).await,
        (None, None) => Ok(()),
    }
}

/// Writes the schedule `id` of the configuration, unless it has these terms already. A pause stays.
async fn set<P: Platform>(node: &Node<P>, id: ScheduleId, terms: &Terms) -> Result<(), StoreError> {
    let now = node.platform().now();
    let decide = |session: &Session| {
        let known = session.schedules().find(&id.schedule).and_then(|schedule| schedule.definition());
        if session.is_deleted() || known.is_some_and(|known| known.terms == *terms) {
            return Ok::<_, Infallible>(Decision::Done(()));
        }
        let (paused, since) = (known.is_some_and(|known| known.paused), now.0);
        let (owner, source) = (AGENT.to_owned(), ScheduleSource::Config);
        let definition = ScheduleDefinition { owner, source, paused, since, terms: terms.clone() };
        let mut drafts = Vec::new();
        if session.created().is_none() {
            drafts.push(draft_created(id.schedule, AGENT, Default::default()));
        }
        drafts.push(definition.draft(id.schedule));
        let due = definition.due_after(&id.schedule, now);
        Ok(Decision::Append(drafts, after_reschedule(session, &id.schedule, due), ()))
    };
    node.commit_session(id.log, decide, |_| ()).await?;
    // Listed last: the next tick sets a schedule again that is not listed as it is.
    let digest = terms.digest().to_string();
    node.list_schedule(id, Some(Listing { owner: AGENT.into(), source: ScheduleSource::Config, digest }))
        .await
}

/// Removes a schedule that the configuration does not have any more.
async fn unset<P: Platform>(node: &Node<P>, id: ScheduleId) -> Result<(), StoreError> {
    let decide = |session: &Session| {
        let known = session.schedules().find(&id.schedule).and_then(|schedule| schedule.definition());
        if known.is_none() {
            return Ok::<_, Infallible>(Decision::Done(()));
        }
        let wake = after_reschedule(session, &id.schedule, None);
        Ok(Decision::Append(vec![draft_removed(id.schedule)], wake, ()))
    };
    node.commit_session(id.log, decide, |_| ()).await?;
    node.list_schedule(id, None).await
}

/// Logs that one call of [`watch`] wakes.
const MAX_WATCHED: u64 = 32;

/// Wakes some of the logs that have schedules, other ones each minute: where each log wakes itself by an alarm, an
/// alarm may be lost.
pub(crate) async fn watch<P: Platform>(node: &Node<P>) -> Result<(), StoreError> {
    let minute = node.platform().now().unix_seconds() / 60;
    let logs = |directory: &Directory| {
        let mut logs: Vec<LogId> = directory.all().into_iter().map(|(id, _)| id.log).collect();
        logs.sort_unstable();
        logs.dedup();
        logs
    };
    let logs = node.read_directory(logs).await?;
    let count = logs.len() as u64;
    let start = usize::try_from(minute.wrapping_mul(MAX_WATCHED) % count.max(1)).unwrap_or_default();
    for log in logs.iter().cycle().skip(start).take(MAX_WATCHED.min(count) as usize) {
        wake_soon(node, *log).await;
    }
    Ok(())
}

/// The schedule `id` as `session` has it.
fn view(id: ScheduleId, session: &Session) -> Option<ScheduleView> {
    let schedule = session.schedules().find(&id.schedule)?;
    let fires = schedule.fires().take(SHOWN).map(|fire| {
        let (status, ended_at) = fire.status(session.turns());
        let (nominal, at, reason) = (fire.nominal, fire.at, fire.skipped.clone());
        FireView { id: fire.id, nominal, at, status, reason, ended_at }
    });
    Some(ScheduleView {
        id,
        definition: schedule.definition()?.clone(),
        created_at: schedule.created_at(),
        next_fire_at: schedule.due_at(),
        fires: fires.collect(),
    })
}
