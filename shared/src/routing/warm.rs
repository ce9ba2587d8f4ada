//! Remembers which candidate holds a session's prompt in its cache, so that the session stays there while others are no
//! better. Whether they are is decided in `routing.rs`.

use std::{collections::BTreeMap, time::Duration};

use crate::{model::Candidate, time::Timestamp};

/// Identifies a session's prompt cache: a digest of what the session's requests have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CacheKey(pub u64);

/// The candidate that answered each session last. Held in memory only: a cold cache costs little.
#[derive(Debug, Default)]
pub struct WarmCaches {
    caches: BTreeMap<CacheKey, WarmCache>,
    /// The keys by the number of their last use.
    uses: BTreeMap<u64, CacheKey>,
    next_use: u64,
}

#[derive(Debug)]
struct WarmCache {
    candidate: Candidate,
    used_at: Timestamp,
    used: u64,
}

/// How long a cache stays warm after its last use: vendors keep a prompt for 5 minutes to an hour.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Most sessions that are remembered, 200 bytes each: more than an instance serves in an hour with requests in flight
/// all the time.
const MAX_SESSIONS: usize = 4096;

impl WarmCaches {
    /// The candidate whose cache is warm for the session.
    pub fn candidate(&self, key: CacheKey, now: Timestamp) -> Option<&Candidate> {
        let cache = self.caches.get(&key)?;
        (now.since(cache.used_at) < LIFETIME).then_some(&cache.candidate)
    }

    /// Records that the candidate answers the session. The session that was not used for the longest time is forgotten
    /// if there are too many.
    pub fn record(&mut self, key: CacheKey, candidate: &Candidate, now: Timestamp) {
        self.next_use += 1;
        let cache = WarmCache { candidate: candidate.clone(), used_at: now, used: self.next_use };
        if let Some(last) = self.caches.insert(key, cache) {
            self.uses.remove(&last.used);
        }
        self.uses.insert(self.next_use, key);
        while self.caches.len() > MAX_SESSIONS
            && let Some((_, oldest)) = self.uses.pop_first()
        {
            self.caches.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_warm_for_an_hour_and_few_are_remembered() {
        let candidate = |name: &str| Candidate { provider: name.into(), model: "m".into() };
        let minutes = |minutes: u64| Timestamp(minutes * 60_000);
        let mut warm = WarmCaches::default();
        let holder = |warm: &WarmCaches, key, at| {
            warm.candidate(CacheKey(key), minutes(at)).map(|candidate| candidate.provider.clone())
        };
        warm.record(CacheKey(1), &candidate("a"), minutes(0));
        assert_eq!(holder(&warm, 1, 59), Some("a".into()));
        assert_eq!((holder(&warm, 1, 60), holder(&warm, 2, 0)), (None, None));
        warm.record(CacheKey(1), &candidate("b"), minutes(59));
        assert_eq!(holder(&warm, 1, 100), Some("b".into()));
        for key in 2..=MAX_SESSIONS as u64 {
            warm.record(CacheKey(key), &candidate("a"), minutes(60));
        }
        warm.record(CacheKey(1), &candidate("a"), minutes(61));
        warm.record(CacheKey(0), &candidate("a"), minutes(61));
        assert_eq!((warm.caches.len(), warm.uses.len()), (MAX_SESSIONS, MAX_SESSIONS));
        assert_eq!((holder(&warm, 2, 61), holder(&warm, 1, 61)), (None, Some("a".into())));
    }
}
