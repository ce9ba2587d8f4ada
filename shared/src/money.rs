//! Defines amounts of money in integers, and budgets with their periods. Counts no spending: `ledger.rs` does.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// An amount of money in billionths of a dollar.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NanoUsd(pub u64);

impl NanoUsd {
    const PER_DOLLAR: u64 = 1_000_000_000;

    /// Parses dollars as a decimal number such as `"5"` or `"0.25"`. `None` for any other text, for more than 9
    /// decimals and for amounts that do not fit.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 9 {
            return None;
        }
        let nano: u64 = format!("{part:0<9}").parse().ok()?;
        whole.parse::<u64>().ok()?.checked_mul(Self::PER_DOLLAR)?.checked_add(nano).map(Self)
    }

    /// The amount that is nearest to `dollars`; `None` if that is negative, infinite or not a number.
    pub(crate) fn from_dollars(dollars: f64) -> Option<Self> {
        let nano = dollars * 1e9;
        // The conversion ends at the largest amount.
        (nano.is_finite() && nano >= 0.0).then(|| Self(nano.round() as u64))
    }

    /// The sum, at most the largest amount.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// Writes dollars as in the configuration, with at least two decimals.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / Self::PER_DOLLAR, self.0 % Self::PER_DOLLAR);
        let short = text.trim_end_matches('0');
        let end = short.len().max(text.len() - 7);
        f.write_str(text.get(..end).unwrap_or(&text))
    }
}

/// The most that may be spent in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The most per period.
    pub limit: NanoUsd,
    /// The period after which spending counts from zero.
    pub per: Period,
}

/// A period of a budget, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// A calendar month.
    Month,
}

impl Period {
    /// The names in the configuration.
    pub const NAMES: [(&'static str, Self); 3] =
        [(Self::Hour.name(), Self::Hour), (Self::Day.name(), Self::Day), (Self::Month.name(), Self::Month)];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// The start and the end of the period around `at`; the end is exclusive.
    pub fn around(self, at: Timestamp) -> (Timestamp, Timestamp) {
        const HOUR: u64 = 60 * 60 * 1000;
        let every = |length: u64| (Timestamp(at.0 - at.0 % length), Timestamp(at.0 - at.0 % length + length));
        match self {
            Self::Hour => every(HOUR),
            Self::Day => every(24 * HOUR),
            Self::Month => at.month(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_parsed_and_written() {
        for (text, nano) in [("5", 5_000_000_000), ("0.25", 250_000_000), ("0.000000001", 1), ("0", 0)] {
            assert_eq!(NanoUsd::parse(text), Some(NanoUsd(nano)), "{text}");
        }
        for bad in ["", ".5", "5.", "-1", "1e3", "0.0000000001", "99999999999", "1,5"] {
            assert_eq!(NanoUsd::parse(bad), None, "{bad}");
        }
        let written = [5_000_000_000, 250_000_000, 1, 1_234_500_000].map(|nano| NanoUsd(nano).to_string());
        assert_eq!(written, ["5.00", "0.25", "0.000000001", "1.2345"]);
    }

    #[test]
    fn periods_follow_the_calendar() {
        const DAY: u64 = 86_400_000;
        let check = |period: Period, at: u64, start, end| {
            assert_eq!(period.around(Timestamp(at)), (Timestamp(start), Timestamp(end)));
        };
        check(Period::Hour, DAY + 1, DAY, DAY + 3_600_000);
        check(Period::Day, 2 * DAY - 1, DAY, 2 * DAY);
        check(Period::Month, 0, 0, 31 * DAY);
        check(Period::Month, 58 * DAY, 31 * DAY, 59 * DAY);
        // 29 February 2024 and 31 December 2026.
        check(Period::Month, 19_782 * DAY, 19_754 * DAY, 19_783 * DAY);
        check(Period::Month, 20_818 * DAY, 20_788 * DAY, 20_819 * DAY);
    }
}
