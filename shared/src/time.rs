//! Timestamps of the wall clock, and the UTC calendar that budgets and texts need. Reads no clock; time zones are in
//! [`cron`](crate::cron).

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// A moment of the wall clock, in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Whole seconds since the Unix epoch, the unit of OpenAI's `created` fields.
    pub fn unix_seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The time that passed since `earlier`; zero if the clock was set back in between.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Seconds in a day.
const DAY_SECONDS: u64 = 24 * 60 * 60;

impl Timestamp {
    /// Writes RFC 3339 in UTC, to the second.
    pub fn to_rfc3339(self) -> String {
        let (year, month, day) = date(self.unix_seconds() / DAY_SECONDS);
        let of_day = self.unix_seconds() % DAY_SECONDS;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }

    /// Reads RFC 3339 in UTC; drops fractions of a second. `None` for other offsets and years outside 1970 to 2999.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (date, time) = text.strip_suffix('Z').or(text.strip_suffix("+00:00"))?.split_once('T')?;
        let numbers =
            |text: &str, by: char| text.split(by).map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>();
        let [year, month, day] = numbers(date, '-')?[..] else { return None };
        let [hour, minute, second] = numbers(time.split('.').next()?, ':')?[..] else { return None };
        let in_range = (1970..3000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
        if !in_range || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        Some(Self((days(year, month, day) * DAY_SECONDS + (hour * 60 + minute) * 60 + second) * 1000))
    }

    /// Reads a date of HTTP, such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110). `None` for the obsolete forms.
    pub fn parse_http_date(text: &str) -> Option<Self> {
        let date = jiff::fmt::rfc2822::parse(text).ok()?;
        date.timestamp().as_millisecond().try_into().ok().map(Self)
    }

    /// The start of the UTC month that contains this moment, and the start of the next one.
    pub fn month(self) -> (Self, Self) {
        let (year, month, _) = date(self.unix_seconds() / DAY_SECONDS);
        let next = if month == 12 { days(year + 1, 1, 1) } else { days(year, month + 1, 1) };
        (Self(days(year, month, 1) * DAY_SECONDS * 1000), Self(next * DAY_SECONDS * 1000))
    }
}

/// Days from 1 March of year 0 to 1970: the algorithms below count years from March, so that the leap day is a year's
/// last (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
const EPOCH_DAYS: u64 = 719_468;

/// Days since 1970 of a date.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, shifted) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH_DAYS
}

/// Year, month and day of a number of days since 1970.
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + EPOCH_DAYS;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Option<Timestamp> {
        Timestamp::parse_rfc3339(text)
    }

    #[test]
    fn rfc3339_round_trips() {
        for text in
            ["1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z", "2026-11-24T08:00:01Z", "2100-03-01T00:00:00Z"]
        {
            assert_eq!(moment(text).unwrap().to_rfc3339(), text);
        }
    }

    #[test]
    fn days_are_numbered_across_years_and_leap_days() {
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
