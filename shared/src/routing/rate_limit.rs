//! What a provider says about its limits, before it refuses.
//!
//! OpenAI, Azure and everybody compatible send `x-ratelimit-*`, Anthropic sends `anthropic-ratelimit-*`. The moment at
//! which a limit is full again is a Go duration, a number of seconds or RFC 3339.

use std::time::Duration;

use http::HeaderMap;

use crate::platform::Timestamp;

/// What is left of the limits of an account for one model. `None`: not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests that are left.
    pub requests: Option<u64>,
    /// Tokens that are left.
    pub tokens: Option<u64>,
    /// How long until what is used up is back, if anything is.
    pub wait: Option<Duration>,
}

/// The limits by name: how much is left, and when it is all back.
const KINDS: [(&str, &str, bool); 6] = [
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", true),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens", false),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset", true),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset", false),
    ("anthropic-ratelimit-input-tokens-remaining", "anthropic-ratelimit-input-tokens-reset", false),
    ("anthropic-ratelimit-output-tokens-remaining", "anthropic-ratelimit-output-tokens-reset", false),
];

impl RateLimit {
    /// Reads an answer's headers.
    pub fn read(headers: &HeaderMap, now: Timestamp) -> Self {
        let mut limit = Self::default();
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
        for (remaining, reset, is_requests) in KINDS {
            // A negative number is Azure's word for unknown.
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

/// `12ms`, `6m0s`, `1h2m3s`, `17`, `2026-11-24T09:00:00Z`.
fn duration(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    if text.contains('T') {
        return moment(text).map(|at| at.since(now));
    }
    let (mut sum, mut rest) = (0.0, text);
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
        sum += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(sum).ok()
}

/// RFC 3339 in UTC, to the second.
fn moment(text: &str) -> Option<Timestamp> {
    let (date, time) = text.strip_suffix('Z').or(text.strip_suffix("+00:00"))?.split_once('T')?;
    let numbers = |text: &str, by: char| {
        text.split(by).map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<_>>>()
    };
    let [year, month, day] = numbers(date, '-')?[..] else { return None };
    let [hour, minute, second] = numbers(time.split('.').next()?, ':')?[..] else { return None };
    let in_range = (1970..3000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !in_range || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970 by the civil calendar, with years that begin in March (Hinnant, "chrono-Compatible Low-Level
    // Date Algorithms").
    let (year, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(Timestamp((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_in_every_dialect() {
        let now = moment("2026-11-24T08:00:00Z").unwrap();
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

    #[test]
    fn moments_are_written_as_they_are_read() {
        for text in
            ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z", "2026-11-24T08:00:01Z", "2100-03-01T00:00:00Z"]
        {
            assert_eq!(moment(text).unwrap().to_rfc3339(), text);
        }
    }

    #[test]
    fn every_day_has_its_number() {
        let mut last = moment("1999-12-31T00:00:00Z").unwrap().unix_seconds();
        for date in ["2000-01-01", "2000-01-02"] {
            let next = moment(&format!("{date}T00:00:00Z")).unwrap().unix_seconds();
            assert_eq!(next - last, 86_400, "{date}");
            last = next;
        }
        let february = |year| {
            let at = |date: &str| moment(&format!("{year}-{date}T00:00:00Z")).unwrap().unix_seconds();
            (at("03-01") - at("02-28")) / 86_400
        };
        assert_eq!([february(2000), february(2023), february(2024), february(2100)], [2, 1, 2, 1]);
    }
}
