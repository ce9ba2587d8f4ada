//! Computes when a schedule is due: by a cron expression, at an interval, or once. Pure: time is an argument, and
//! nothing is fired here.
//!
//! The dialect of cron expressions is the same on every platform, whatever its own trigger understands:
//!
//! ```text
//! ┌─ minute        0-59
//! │ ┌─ hour        0-23
//! │ │ ┌─ day       1-31, L (the last), 15W (the weekday nearest to the 15th), LW (the last weekday)
//! │ │ │ ┌─ month   1-12, JAN-DEC
//! │ │ │ │ ┌─ weekday  0-7 (0 and 7 are Sunday), SUN-SAT, MON#2 (the second), 5L (the last Friday)
//! 0 7 * * MON-FRI
//! ```
//! `*` is every value, `a-b` a range, `a,b` a list, `*/n` and `a-b/n` each n-th. If both day and weekday are set, a
//! date that matches either is due. There are no seconds and no names such as `@daily`.
//!
//! The expression is read on the wall clock of a time zone. If its hour and its minute are one number each, it is due
//! once a day through every clock change: a time that daylight saving skips is due at the first moment after the gap,
//! and a time that occurs twice is due at its first occurrence. Any other expression follows the clock: skipped times
//! are not due, and an hour that occurs twice is due twice.

use std::{fmt, time::Duration};

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// A rule by which a schedule is due.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// At the times of a cron expression.
    Cron(String),
    /// Once, at this time in milliseconds since the Unix epoch.
    At(u64),
    /// Every so many milliseconds, counted from the time at which the schedule was set.
    Every(u64),
}

/// Why a rule is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for '{field}': {why}")]
pub struct RuleError {
    /// The field with the mistake.
    pub field: &'static str,
    /// Its value, and what is allowed.
    pub why: String,
}

impl RuleError {
    /// Names the field, its value and what is allowed.
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }
}

/// The shortest interval: the hosts' triggers come once a minute.
pub const MIN_INTERVAL: Duration = Duration::from_secs(60);

/// The longest interval: a year.
pub const MAX_INTERVAL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Longest expression: lists of all values of all fields are shorter.
const MAX_EXPRESSION_BYTES: usize = 512;

/// The times at which a parsed rule is due, in its time zone.
pub struct Times(TimesKind);

enum TimesKind {
    Cron(Box<Cron>, TimeZone),
    At(Timestamp),
    Every(u64, Timestamp),
}

impl Rule {
    /// Parses the rule. `since` is when the schedule was set: intervals are counted from there.
    pub fn times(&self, zone: &str, since: Timestamp) -> Result<Times, RuleError> {
        let zone = time_zone(zone)?;
        Ok(Times(match self {
            Self::Cron(text) => TimesKind::Cron(Box::new(cron(text)?), zone),
            Self::At(at) => TimesKind::At(Timestamp(*at)),
            Self::Every(millis) => TimesKind::Every(every(*millis)?, since),
        }))
    }

    /// Fails if the rule cannot be parsed or is never due.
    pub fn check(&self, zone: &str) -> Result<(), RuleError> {
        let times = self.times(zone, Timestamp::default())?;
        if let Self::At(at) = self
            && *at > MAX_AT_MILLIS
        {
            let why = format!("{} s; allowed: until the end of the year 9999", at / 1000);
            return Err(RuleError::new("at", why));
        }
        // The calendar repeats, so an expression without a time after one moment is never due.
        if let (Self::Cron(text), None) = (self, times.next(Timestamp(CHECK_FROM_MILLIS))) {
            let why = format!(
                "{text:?} is never due: it names a date that does not exist; allowed: a date that exists"
            );
            return Err(RuleError::new("cron", why));
        }
        Ok(())
    }

    /// Reads a moment: RFC 3339 with an offset, or without one as a wall-clock time in `zone`.
    pub fn at(text: &str, zone: &str) -> Result<Self, RuleError> {
        let zone = time_zone(zone)?;
        let moment = text.parse::<jiff::Timestamp>().or_else(|_| {
            let local: jiff::civil::DateTime = text.parse()?;
            Ok::<_, jiff::Error>(local.to_zoned(zone)?.timestamp())
        });
        let millis = moment.ok().and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
        millis.map(Self::At).ok_or_else(|| {
            let text: String = text.chars().take(100).collect();
            let why = format!("{text:?}; allowed: a moment such as \"2027-01-31T07:00:00+01:00\"");
            RuleError::new("at", why)
        })
    }

    /// Reads an interval such as `"90s"`, and checks its bounds.
    pub fn every(text: &str) -> Result<Self, RuleError> {
        let millis = duration(text).map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        let millis = millis.ok_or_else(|| not_an_interval(text))?;
        every(millis).map(Self::Every)
    }
}

/// The last moment that RFC 3339 can write, in milliseconds: hosts' timers refuse much later ones.
const MAX_AT_MILLIS: u64 = 253_402_300_799_999;

/// 1 January 2000, in milliseconds: any fixed moment would do.
const CHECK_FROM_MILLIS: u64 = 946_684_800_000;

impl Times {
    /// The first due time strictly after `after`; `None` if there is no further one.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            TimesKind::Cron(cron, zone) => {
                let after = jiff::Timestamp::from_millisecond(i64::try_from(after.0).ok()?).ok()?;
                // Cron times are whole seconds; the parser carries the fraction of `after` over, and it is dropped.
                let next = cron.find_next_occurrence(&after.to_zoned(zone.clone()), false).ok()?;
                u64::try_from(next.timestamp().as_second()).ok()?.checked_mul(1000).map(Timestamp)
            }
            TimesKind::At(at) => Some(*at).filter(|at| *at > after),
            TimesKind::Every(millis, since) => {
                let elapsed = after.0.saturating_sub(since.0) / millis;
                since.0.checked_add(elapsed.checked_add(1)?.checked_mul(*millis)?).map(Timestamp)
            }
        }
    }
}

/// Reads a duration such as `"90s"`, `"15m"`, `"2h"` or `"1d"`.
pub fn duration(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let (_, seconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(*seconds).map(Duration::from_secs)
}

/// Writes a duration as [`duration`] reads it, in the largest unit that divides it.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let whole = |(_, unit): &&(&str, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().rev().find(whole).unwrap_or(&("s", 1));
    format!("{}{name}", seconds / unit)
}

const UNITS: [(&str, u64); 4] = [("s", 1), ("m", 60), ("h", 60 * 60), ("d", 24 * 60 * 60)];

fn every(millis: u64) -> Result<u64, RuleError> {
    let duration = Duration::from_millis(millis);
    let fits = (MIN_INTERVAL..=MAX_INTERVAL).contains(&duration);
    if fits { Ok(millis) } else { Err(not_an_interval(&duration_text(duration))) }
}

fn not_an_interval(text: &str) -> RuleError {
    let text: String = text.chars().take(100).collect();
    RuleError::new("every", format!("{text:?}; allowed: \"60s\" to \"366d\" in s, m, h or d"))
}

/// The IANA time zones: the name and the TZif of each, since 2025 (`build.rs`).
static ZONES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/zones.rs"));

fn time_zone(name: &str) -> Result<TimeZone, RuleError> {
    let zone = ZONES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    zone.and_then(|(name, tzif)| TimeZone::tzif(name, tzif).ok()).ok_or_else(|| {
        let name: String = name.chars().take(100).collect();
        RuleError::new(
            "time_zone",
            format!("{name:?}; allowed: an IANA name such as \"Europe/Berlin\", or \"UTC\""),
        )
    })
}

/// The name of each field, and its allowed values.
const FIELDS: [(&str, &str); 5] = [
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day", "1-31, L, 15W, LW"),
    ("month", "1-12, JAN-DEC"),
    ("weekday", "0-7 (0 and 7 are Sunday), SUN-SAT, MON#2, 5L"),
];

fn cron(text: &str) -> Result<Cron, RuleError> {
    let shown: String = text.chars().take(100).collect();
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != FIELDS.len() || text.len() > MAX_EXPRESSION_BYTES {
        let why =
            format!("{shown:?} has {} fields; allowed: five: minute hour day month weekday", fields.len());
        return Err(RuleError::new("cron", why));
    }
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    for ((at, field), (name, allowed)) in fields.iter().enumerate().zip(FIELDS) {
        // Each field is parsed among wildcards, so that a mistake names its field.
        let alone: Vec<&str> =
            (0..FIELDS.len()).map(|other| if other == at { *field } else { "*" }).collect();
        // The parser's own extensions are refused: `+` makes a weekday restrict the day, `@` names expressions.
        let extended = field.contains(['+', '@']);
        if extended || parser.parse(&alone.join(" ")).is_err() {
            let why =
                format!("{field:?} is not a valid {name} in {shown:?}; allowed: {allowed}, with * , - /");
            return Err(RuleError::new("cron", why));
        }
    }
    parser.parse(text).map_err(|error| RuleError::new("cron", format!("{shown:?}: {error}")))
}

impl fmt::Debug for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            TimesKind::Cron(cron, zone) => write!(f, "{} in {zone:?}", cron.pattern),
            TimesKind::At(at) => write!(f, "at {at}"),
            TimesKind::Every(millis, since) => write!(f, "every {millis} ms since {since}"),
        }
    }
}

#[cfg(test)]
mod tests;
