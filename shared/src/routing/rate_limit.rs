//! Reads the rate limits that a provider reports in the headers of an answer. Reads no errors; the vendors' files do.
//!
//! OpenAI, Azure and compatible providers send `x-ratelimit-*`, Anthropic sends `anthropic-ratelimit-*`. The time of a
//! reset is a Go duration, a number of seconds or an RFC 3339 timestamp.

use std::time::Duration;

use http::HeaderMap;

use crate::time::Timestamp;

/// What is left of an account's limits for one model. `None` if the provider does not report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests left.
    pub requests: Option<u64>,
    /// Tokens left: the least of all token limits.
    pub tokens: Option<u64>,
    /// Time until the limits that are used up reset; `None` if none is used up.
    pub wait: Option<Duration>,
}

/// The headers of each limit: what is left, when it resets, and whether it counts requests (otherwise tokens).
const KINDS: [(&str, &str, bool); 6] = [
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", true),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", false),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset", true),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", false),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset", false),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset", false),
];

impl RateLimit {
    /// Reads the headers of an answer that arrived at `now`.
    pub fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        let mut limit = Self::default();
        // Many servers report none, and each lookup takes as long as this look at all names.
        if !headers.keys().any(|name| name.as_str().contains("ratelimit-")) {
            return limit;
        }
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        for (remaining, reset, is_requests) in KINDS {
            // Azure sends a negative number if the limit is unknown.
            let Some(left) = text(remaining).and_then(|text| text.parse::<u64>().ok()) else { continue };
            let slot = if is_requests { &mut limit.requests } else { &mut limit.tokens };
            *slot = Some(slot.map_or(left, |least| least.min(left)));
            if left == 0 {
                limit.wait = limit.wait.max(text(reset).and_then(|text| duration(text, now)));
            }
        }
        limit
    }
}

/// Reads the time until a reset: `12ms`, `6m0s`, `1h2m3s`, `17` (seconds) or `2026-11-24T09:00:00Z`.
fn duration(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    if text.contains('T') {
        return Timestamp::parse_rfc3339(text).map(|at| at.since(now));
    }
    let (mut total_seconds, mut rest) = (0.0, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|end| *end > 0)?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit)?;
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            _ => return None,
        };
        total_seconds += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(total_seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_every_dialect() {
        let now = Timestamp::parse_rfc3339("2026-11-24T08:00:00Z").unwrap();
        assert_eq!(now.unix_seconds(), 1_795_507_200);
        let check = |headers: &[(&'static str, &str)], requests, tokens, wait: Option<f64>| {
            let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            let expected = RateLimit { requests, tokens, wait: wait.map(Duration::from_secs_f64) };
            assert_eq!(RateLimit::read(&headers.collect(), now), expected);
        };
        check(&[], None, None, None);
        check(
            &[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "6m0s")],
            Some(0),
            None,
            Some(360.0),
        );
        check(
            &[
                ("x-ratelimit-remaining-requests", "9"),
                ("x-ratelimit-remaining-tokens", "0"),
                ("x-ratelimit-reset-tokens", "1h2m3.5s"),
            ],
            Some(9),
            Some(0),
            Some(3723.5),
        );
        check(
            &[("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "17")],
            None,
            Some(0),
            Some(17.0),
        );
        check(&[("x-ratelimit-remaining-tokens", "-1"), ("x-ratelimit-reset-tokens", "0")], None, None, None);
        check(
            &[
                ("anthropic-ratelimit-requests-remaining", "5"),
                ("anthropic-ratelimit-input-tokens-remaining", "0"),
                ("anthropic-ratelimit-input-tokens-reset", "2026-11-24T08:01:30Z"),
                ("anthropic-ratelimit-tokens-remaining", "70"),
            ],
            Some(5),
            Some(0),
            Some(90.0),
        );
        check(
            &[("x-ratelimit-remaining-requests", "0"), ("x-ratelimit-reset-requests", "soon")],
            Some(0),
            None,
            None,
        );
    }
}
