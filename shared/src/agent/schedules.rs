//! Makes, shows, pauses and removes schedules, for callers, for the agent itself and for the configuration.

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
            AGENT, Directory, FireStatus, Listing, MAX_IN_LOG, ScheduleDefinition, ScheduleId,
            ScheduleSource, Terms, draft_removed,
        },
    },
    time::Timestamp,
};

pub(crate) use object::{fire_id, fire_object, object};

/// A schedule, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct ScheduleView {
    pub(crate) id: ScheduleId,
    pub(crate) definition: ScheduleDefinition,
    pub(crate) created_at: Timestamp,
    /// When its next fire is to begin.
    pub(crate) next_fire_at: Option<Timestamp>,
    /// The newest fires, the newest first.
    pub(crate) fires: Vec<FireView>,
}

/// A fire, and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct FireView {
    pub(crate) id: Cause,
    pub(crate) nominal: Timestamp,
    pub(crate) at: Timestamp,
    pub(crate) status: FireStatus,
    pub(crate) reason: Option<String>,
    pub(crate) ended_at: Option<Timestamp>,
}

/// Schedules of one caller: the directory of all is read whole wherever one is listed.
const MAX_OF_OWNER: usize = 1_000;

/// Fires that are shown of a schedule.
const SHOWN: usize = 100;

/// Why a schedule is not made or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScheduleError {
    /// It can't be kept to.
    #[error(transparent)]
    Terms(#[from] RuleError),
    /// There is none.
    #[error("there is no such schedule")]
    Unknown,
    /// There is no such conversation, or it is somebody else's.
    #[error("there is no such conversation")]
    UnknownConversation,
    /// The conversation has a turn that goes on.
    #[error("the conversation is busy")]
    Busy,
    /// The configuration says what it is.
    #[error("it stands in the configuration")]
    Configured,
    /// The same id was used for other terms.
    #[error("there is another one of this id")]
    Other,
    /// What the same request made before was deleted.
    #[error("it was deleted")]
    Deleted,
    /// The log or its caller has as many as it can have.
    #[error("there are {0} schedules already")]
    TooMany(usize),
    /// The store does not answer, or is damaged.
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

/// Who makes a schedule, and where.
pub(crate) struct NewSchedule<'a> {
    pub(crate) owner: &'a str,
    pub(crate) source: ScheduleSource,
    /// The conversation that it is to run in must be there; else it gets one of its own.
    pub(crate) joins: bool,
}

/// Makes the schedule `id`, or finds that it was made before.
pub(crate) async fn create<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
    maker: &NewSchedule<'_>,
    terms: &Terms,
) -> Result<ScheduleView, ScheduleError> {
    node.config().check_terms(terms)?;
    let now = node.platform().now();
    let decide = |fold: &Session| {
        // Whatever is written to a session that was deleted is read by nobody, and erased by nobody.
        if fold.is_deleted() {
            return Err(if maker.joins {
                ScheduleError::UnknownConversation
            } else {
                ScheduleError::Deleted
            });
        }
        let own = fold.created().is_some_and(|created| created.owner == maker.owner);
        if !own && (maker.joins || fold.created().is_some()) {
            return Err(ScheduleError::UnknownConversation);
        }
        if let Some(known) = fold.schedules().find(&id.schedule) {
            let same = known.definition().ok_or(ScheduleError::Unknown)?.terms == *terms;
            return if same { Ok(Decision::Done(())) } else { Err(ScheduleError::Other) };
        }
        if fold.schedules().live().count() >= MAX_IN_LOG {
            return Err(ScheduleError::TooMany(MAX_IN_LOG));
        }
        let (owner, source) = (maker.owner.to_owned(), maker.source);
        let definition =
            ScheduleDefinition { owner, source, paused: false, since: now.0, terms: terms.clone() };
        let due = definition.due_after(&id.schedule, now);
        if due.is_none() {
            let why = "it is over; allowed: a moment that comes";
            return Err(RuleError::new("at", why).into());
        }
        let mut drafts = Vec::new();
        if !own {
            drafts.push(draft_created(id.schedule, maker.owner, Default::default()));
        }
        drafts.push(definition.draft(id.schedule));
        Ok(Decision::Append(drafts, after_reschedule(fold, &id.schedule, due), ()))
    };
    // What is wrong is told before it is listed; what is listed and never made is shown to nobody.
    node.read_session(id.log, |fold| decide(fold).map(drop)).await??;
    let full = |directory: &Directory| {
        let own = || directory.all().into_iter().filter(|(_, listing)| listing.owner == maker.owner).count();
        directory.find(&id).is_none() && own() >= MAX_OF_OWNER
    };
    if node.read_directory(full).await? {
        return Err(ScheduleError::TooMany(MAX_OF_OWNER));
    }
    let listing =
        Listing { owner: maker.owner.to_owned(), source: maker.source, digest: terms.digest().to_string() };
    node.list_schedule(id, Some(listing)).await?;
    let ((), _, seen) = node.commit_session(id.log, decide, |fold| view(id, fold)).await?;
    seen.ok_or(ScheduleError::Unknown)
}

/// The schedule of this id.
pub(crate) async fn find<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
) -> Result<Option<ScheduleView>, StoreError> {
    let enough = |fold: &Session| {
        let shown = fold.schedules().find(&id.schedule).into_iter().flat_map(|s| s.fires().take(SHOWN));
        shown.into_iter().all(|fire| fire.skipped.is_some() || fold.turns().find(&fire.id).is_some())
    };
    node.read_session_until(id.log, enough, |fold| view(id, fold)).await
}

/// The schedules of these ids, as far as they are there: one may have been removed since it was listed, or never made, and
/// one whose log can't be read must not hide the others.
pub(crate) async fn find_all<P: Platform>(
    node: &Node<P>,
    ids: impl IntoIterator<Item = ScheduleId>,
) -> Result<Vec<ScheduleView>, StoreError> {
    let mut found = Vec::new();
    for id in ids {
        match find(node, id).await {
            Ok(seen) => found.extend(seen),
            Err(StoreError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// All schedules that the directory has, in the order in which they were made, with their owners.
pub(crate) async fn list_all<P: Platform>(node: &Node<P>) -> Result<Vec<(ScheduleId, String)>, StoreError> {
    let all = |directory: &Directory| {
        directory.all().into_iter().map(|(id, listing)| (id, listing.owner.clone())).collect()
    };
    node.read_directory(all).await
}

/// Lets a schedule rest, or go on from now.
pub(crate) async fn pause<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
    paused: bool,
) -> Result<ScheduleView, ScheduleError> {
    let now = node.platform().now();
    let decide = |fold: &Session| {
        let known = fold.schedules().find(&id.schedule).and_then(|schedule| schedule.definition());
        let known = known.ok_or(ScheduleError::Unknown)?;
        if known.paused == paused {
            return Ok(Decision::Done(()));
        }
        // What it was due for while it rested is not made up for.
        let since = if paused { known.since } else { now.0 };
        let definition = ScheduleDefinition { paused, since, ..known.clone() };
        let due = definition.due_after(&id.schedule, now);
        let wake = after_reschedule(fold, &id.schedule, due);
        Ok(Decision::Append(vec![definition.draft(id.schedule)], wake, ()))
    };
    let ((), _, seen) = node.commit_session(id.log, decide, |fold| view(id, fold)).await?;
    seen.ok_or(ScheduleError::Unknown)
}

/// Removes a schedule that a caller or the agent made. Its conversation stays, and so does a turn that goes on.
pub(crate) async fn remove<P: Platform>(node: &Node<P>, id: ScheduleId) -> Result<(), ScheduleError> {
    let decide = |fold: &Session| {
        let schedule = fold.schedules().find(&id.schedule).ok_or(ScheduleError::Unknown)?;
        let Some(definition) = schedule.definition() else { return Ok(Decision::Done(())) };
        if definition.source == ScheduleSource::Config {
            return Err(ScheduleError::Configured);
        }
        let wake = after_reschedule(fold, &id.schedule, None);
        Ok(Decision::Append(vec![draft_removed(id.schedule)], wake, ()))
    };
    node.commit_session(id.log, decide, |_| ()).await?;
    Ok(node.list_schedule(id, None).await?)
}

/// Runs a schedule now, whether it is due or not. The same `fire` runs once.
pub(crate) async fn run<P: Platform>(
    node: &Node<P>,
    id: ScheduleId,
    fire: Cause,
) -> Result<Option<FireView>, ScheduleError> {
    let now = node.platform().now();
    let decide = |fold: &Session| {
        let schedule = fold.schedules().find(&id.schedule).ok_or(ScheduleError::Unknown)?;
        if schedule.fires().any(|known| known.id == fire) {
            return Ok(Decision::Done(()));
        }
        if is_busy(fold) {
            return Err(ScheduleError::Busy);
        }
        let (drafts, wake) =
            fires::manual_fire(node.config(), fold, id, fire, now).ok_or(ScheduleError::Unknown)?;
        Ok(Decision::Append(drafts, wake, ()))
    };
    let look = |fold: &Session| view(id, fold)?.fires.into_iter().find(|known| known.id == fire);
    let ((), _, seen) = node.commit_session(id.log, decide, look).await?;
    wake_soon(node, id.log).await;
    Ok(seen)
}

/// Sees that what the configuration schedules is written down, and what it does not any more is not. The tick calls it;
/// each log is set where it is kept.
pub(crate) async fn sync<P: Platform>(node: &Node<P>) -> Result<(), StoreError> {
    let wanted = &node.config().schedules;
    let differ = |directory: &Directory| {
        let new = wanted.iter().filter_map(|terms| {
            let id = ScheduleId::of_config(&terms.name);
            let known =
                directory.find(&id).is_some_and(|listing| listing.digest == terms.digest().to_string());
            (!known).then_some(id)
        });
        let old = directory.all().into_iter().filter_map(|(id, listing)| {
            let is_wanted = wanted.iter().any(|terms| ScheduleId::of_config(&terms.name) == id);
            (listing.source == ScheduleSource::Config && !is_wanted).then_some(id)
        });
        new.chain(old).map(|id| id.log).collect::<Vec<_>>()
    };
    for log in node.read_directory(differ).await? {
        wake_soon(node, log).await;
    }
    Ok(())
}

/// Sees that the schedule that the configuration has in `log` is as it says, if there is or was one.
pub(super) async fn apply_configured<P: Platform>(node: &Node<P>, log: LogId) -> Result<(), StoreError> {
    let wanted = node.config().schedules.iter().map(|terms| (ScheduleId::of_config(&terms.name), terms));
    let wanted = wanted.into_iter().find(|(id, _)| id.log == log);
    let known = |fold: &Session| {
        // It stands there alone: nobody else may write to a conversation of the agent.
        fold.schedules().configured().map(|schedule| ScheduleId { log, schedule: *schedule.id() })
    };
    match (wanted, node.read_session(log, known).await?) {
        (Some((id, terms)), _) => set(node, id, terms).await,
        (None, Some(id)) => unset(node, id).await,
        (None, None) => Ok(()),
    }
}

async fn set<P: Platform>(node: &Node<P>, id: ScheduleId, terms: &Terms) -> Result<(), StoreError> {
    let now = node.platform().now();
    let decide = |fold: &Session| {
        let known = fold.schedules().find(&id.schedule).and_then(|schedule| schedule.definition());
        if fold.is_deleted() || known.is_some_and(|known| known.terms == *terms) {
            return Ok::<_, Infallible>(Decision::Done(()));
        }
        let (paused, since) = (known.is_some_and(|known| known.paused), now.0);
        let (owner, source) = (AGENT.to_owned(), ScheduleSource::Config);
        let definition = ScheduleDefinition { owner, source, paused, since, terms: terms.clone() };
        let mut drafts = Vec::new();
        if fold.created().is_none() {
            drafts.push(draft_created(id.schedule, AGENT, Default::default()));
        }
        drafts.push(definition.draft(id.schedule));
        let due = definition.due_after(&id.schedule, now);
        Ok(Decision::Append(drafts, after_reschedule(fold, &id.schedule, due), ()))
    };
    node.commit_session(id.log, decide, |_| ()).await?;
    // Listed afterwards: what is not listed is set again.
    let digest = terms.digest().to_string();
    node.list_schedule(id, Some(Listing { owner: AGENT.into(), source: ScheduleSource::Config, digest }))
        .await
}

async fn unset<P: Platform>(node: &Node<P>, id: ScheduleId) -> Result<(), StoreError> {
    let decide = |fold: &Session| {
        let known = fold.schedules().find(&id.schedule).and_then(|schedule| schedule.definition());
        if known.is_none() {
            return Ok::<_, Infallible>(Decision::Done(()));
        }
        let wake = after_reschedule(fold, &id.schedule, None);
        Ok(Decision::Append(vec![draft_removed(id.schedule)], wake, ()))
    };
    node.commit_session(id.log, decide, |_| ()).await?;
    node.list_schedule(id, None).await
}

/// Schedules' logs that are looked at in one tick by [`watch`].
const WATCHED: u64 = 32;

/// Looks at some of the logs that schedules are in, others each minute, for hosts where each log must wake itself: an
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
    let start = usize::try_from(minute.wrapping_mul(WATCHED) % count.max(1)).unwrap_or_default();
    for log in logs.iter().cycle().skip(start).take(WATCHED.min(count) as usize) {
        wake_soon(node, *log).await;
    }
    Ok(())
}

fn view(id: ScheduleId, fold: &Session) -> Option<ScheduleView> {
    let schedule = fold.schedules().find(&id.schedule)?;
    let fires = schedule.fires().take(SHOWN).map(|fire| {
        let (status, ended_at) = fire.status(fold.turns());
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
