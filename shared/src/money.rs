//! Amounts of money, and the budgets that bound them. All amounts are integers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// An amount of money in billionths of a dollar.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct NanoUsd(pub u64);

impl NanoUsd {
    const PER_DOLLAR: u64 = 1_000_000_000;

    /// Reads dollars as a decimal number, such as `"5"` or `"0.25"`.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 9 {
            return None;
        }
        let nano: u64 = format!("{part:0<9}").parse().ok()?;
        whole.parse::<u64>().ok()?.checked_mul(Self::PER_DOLLAR)?.checked_add(nano).map(Self)
    }

    /// The sum, or the largest amount there is.
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left, or nothing.
    pub fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// In dollars, as the configuration writes them.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:09}", self.0 / Self::PER_DOLLAR, self.0 % Self::PER_DOLLAR);
        let short = text.trim_end_matches('0');
        // At least cents.
        let end = short.len().max(text.len() - 7);
        f.write_str(text.get(..end).unwrap_or(&text))
    }
}

/// How much may be spent in each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The most.
    pub limit: NanoUsd,
    /// How often it begins anew.
    pub per: Period,
}

/// How often a budget begins anew, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Period {
    /// At every full hour.
    Hour,
    /// At midnight.
    Day,
    /// On the first of the month.
    Month,
}

impl Period {
    /// The words that the configuration uses.
    pub const NAMES: [(&'static str, Self); 3] =
        [("hour", Self::Hour), ("day", Self::Day), ("month", Self::Month)];

    /// When the period that holds `at` begins and ends.
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
    fn dollars_are_read_and_written() {
        for (text, nano) in [("5", 5_000_000_000), ("0.25", 250_000_000), ("0.000000001", 1), ("0", 0)] {
            assert_eq!(NanoUsd::parse(text), Some(NanoUsd(nano)), "{text}");
        }
        for bad in ["", ".5", "5.", "-1", "1e3", "0.0000000001", "99999999999", "1,5"] {
            assert_eq!(NanoUsd::parse(bad), None, "{bad}");
        }
        let shown = [5_000_000_000, 250_000_000, 1, 1_234_500_000].map(|nano| NanoUsd(nano).to_string());
        assert_eq!(shown, ["5.00", "0.25", "0.000000001", "1.2345"]);
    }

    #[test]
    fn periods_begin_and_end_where_the_calendar_says() {
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
