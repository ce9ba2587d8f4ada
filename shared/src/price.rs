//! What models cost and how much they take, from a table that is compiled in. All amounts are integers.

use crate::{money::NanoUsd, time::Timestamp, usage::Usage};

mod table;

/// Nano-dollars for a thousand tokens of each kind: every price that vendors ask is a whole number of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Input that no cache had.
    pub input: u64,
    /// Input read from the vendor's cache.
    pub cache_read: u64,
    /// Input written to it for 5 minutes.
    pub cache_write: u64,
    /// Input written to it for an hour.
    pub cache_write_1h: u64,
    /// Output, thoughts included.
    pub output: u64,
}

impl Rates {
    const FREE: Self = Self { input: 0, cache_read: 0, cache_write: 0, cache_write_1h: 0, output: 0 };

    /// The cost, rounded up.
    fn cost(&self, usage: &Usage) -> NanoUsd {
        let parts = [
            (self.input, usage.input),
            (self.cache_read, usage.cache_read),
            (self.cache_write, usage.cache_write),
            (self.cache_write_1h, usage.cache_write_1h),
            (self.output, usage.output),
        ];
        let sum: u128 = parts.iter().map(|(rate, tokens)| u128::from(*rate) * u128::from(*tokens)).sum();
        NanoUsd(u64::try_from(sum.div_ceil(1000)).unwrap_or(u64::MAX))
    }

    /// The dearer of both, in each kind.
    fn max(self, other: Self) -> Self {
        Self {
            input: self.input.max(other.input),
            cache_read: self.cache_read.max(other.cache_read),
            cache_write: self.cache_write.max(other.cache_write),
            cache_write_1h: self.cache_write_1h.max(other.cache_write_1h),
            output: self.output.max(other.output),
        }
    }
}

/// What a model costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// As a rule, and at peak hours.
    pub rates: Rates,
    /// Above so many tokens of input.
    pub long: Option<(u64, Rates)>,
    /// Outside peak hours.
    pub off_peak: Option<Rates>,
}

impl Price {
    /// Nothing.
    const FREE: Self = Self { rates: Rates::FREE, long: None, off_peak: None };

    /// What an answer costs that began at `at`.
    pub fn cost(&self, usage: &Usage, at: Timestamp) -> NanoUsd {
        self.of(usage.total_input(), at).cost(usage)
    }

    /// The most that a request can cost: all of its input is dear, and it uses all of its output.
    ///
    /// Which moment decides at the edge of peak hours is the vendor's to say, so the peak's price is taken.
    pub fn at_most(&self, input: u64, output: u64) -> NanoUsd {
        let rates = match self.long {
            Some((bound, long)) if input > bound => self.rates.max(long),
            _ => self.rates,
        };
        let dearest = rates.input.max(rates.cache_write).max(rates.cache_write_1h);
        Rates { input: dearest, ..rates }.cost(&Usage { input, output, ..Usage::default() })
    }

    /// How many tokens of output `money` pays for, after `input`; `None` if it does not even pay the input.
    pub fn affords(&self, money: NanoUsd, input: u64) -> Option<u64> {
        let left = money.0.checked_sub(self.at_most(input, 0).0)?;
        let rate = self.at_most(input, 1000).0.saturating_sub(self.at_most(input, 0).0);
        Some(u64::try_from(u128::from(left) * 1000 / u128::from(rate.max(1))).unwrap_or(u64::MAX))
    }

    fn of(&self, input: u64, at: Timestamp) -> Rates {
        match (self.long, self.off_peak) {
            (Some((bound, long)), _) if input > bound => long,
            (_, Some(off_peak)) if !is_peak(at) => off_peak,
            _ => self.rates,
        }
    }
}

/// DeepSeek's dear hours: 01–04 and 06–10 UTC on weekdays (<https://api-docs.deepseek.com/quick_start/pricing>).
fn is_peak(at: Timestamp) -> bool {
    const DAY: u64 = 24 * 60 * 60;
    let (days, second) = (at.unix_seconds() / DAY, at.unix_seconds() % DAY);
    // 1970 began on a Thursday.
    let weekday = (days + 3) % 7;
    weekday < 5 && matches!(second / 3600, 1..4 | 6..10)
}

/// What is known of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What it costs, if that is known.
    pub price: Option<Price>,
    /// Most tokens of input.
    pub context_tokens: Option<u64>,
    /// Most tokens of output.
    pub output_tokens: Option<u64>,
    /// Whether it calls functions.
    pub tools: bool,
    /// Whether it looks at images.
    pub images: bool,
}

impl Facts {
    /// A model that nothing is known of may be able to do everything.
    pub const UNKNOWN: Self =
        Self { price: None, context_tokens: None, output_tokens: None, tools: true, images: true };

    /// A model that costs nothing.
    pub const FREE: Self = Self { price: Some(Price::FREE), ..Self::UNKNOWN };
}

/// Whose list of prices a model is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PriceList {
    /// Anthropic's.
    Anthropic,
    /// DeepSeek's.
    DeepSeek,
    /// OpenAI's, which Azure shares.
    OpenAi,
}

/// A line of the table: list, name, rates, above a bound of input, off peak, most input, most output, tools, images.
struct PriceRow(
    PriceList,
    &'static str,
    [u32; 5],
    Option<(u32, [u32; 5])>,
    Option<[u32; 5]>,
    u32,
    u32,
    bool,
    bool,
);

/// What the table knows of a model.
///
/// A name with a date stands for the one without. Azure's deployments are known if they are named for their model.
pub fn facts(list: PriceList, model: &str) -> Option<Facts> {
    let find = |name: &str| {
        let at = table::ROWS.binary_search_by(|row| (row.0, row.1).cmp(&(list, name))).ok()?;
        table::ROWS.get(at)
    };
    let row = find(model).or_else(|| find(undated(model)))?;
    let rates = |[input, cache_read, cache_write, cache_write_1h, output]: [u32; 5]| {
        let [input, cache_read, cache_write] = [input, cache_read, cache_write].map(u64::from);
        Rates { input, cache_read, cache_write, cache_write_1h: cache_write_1h.into(), output: output.into() }
    };
    Some(Facts {
        price: Some(Price {
            rates: rates(row.2),
            long: row.3.map(|(bound, long)| (bound.into(), rates(long))),
            off_peak: row.4.map(rates),
        }),
        context_tokens: (row.5 > 0).then_some(row.5.into()),
        output_tokens: (row.6 > 0).then_some(row.6.into()),
        tools: row.7,
        images: row.8,
    })
}

/// `gpt-5-mini-2025-08-07` and `claude-haiku-4-5-20251001` without their dates.
fn undated(model: &str) -> &str {
    let digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let cut = |count: usize| model.len().checked_sub(count).and_then(|at| model.split_at_checked(at));
    if let Some((name, date)) = cut(9)
        && let Some(date) = date.strip_prefix('-')
        && digits(date, 8)
    {
        return name;
    }
    if let Some((name, date)) = cut(11)
        && let [year, month, day] =
            date.strip_prefix('-').unwrap_or_default().split('-').collect::<Vec<_>>()[..]
        && digits(year, 4)
        && digits(month, 2)
        && digits(day, 2)
    {
        return name;
    }
    model
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates {
        input: 250_000,
        cache_read: 25_000,
        cache_write: 312_500,
        cache_write_1h: 500_000,
        output: 2_000_000,
    };

    fn at(day: u64, hour: u64) -> Timestamp {
        Timestamp((day * 24 + hour) * 3_600_000)
    }

    #[test]
    fn every_kind_of_token_has_its_price() {
        let price = Price { rates: RATES, long: None, off_peak: None };
        let usage = Usage {
            input: 1000,
            cache_read: 1000,
            cache_write: 1000,
            cache_write_1h: 1000,
            output: 1000,
            reasoning: 900,
        };
        assert_eq!(
            price.cost(&usage, Timestamp(0)),
            NanoUsd(250_000 + 25_000 + 312_500 + 500_000 + 2_000_000)
        );
        let one = Usage { cache_read: 1, ..Usage::default() };
        assert_eq!(
            Price { rates: Rates { cache_read: 1, ..RATES }, ..price }.cost(&one, Timestamp(0)),
            NanoUsd(1)
        );
        assert_eq!(price.at_most(1000, 1000), NanoUsd(500_000 + 2_000_000));
    }

    #[test]
    fn long_requests_and_dear_hours() {
        let double = Rates { input: 500_000, ..RATES };
        let half = Rates { input: 125_000, ..RATES };
        let usage = |input| Usage { input, ..Usage::default() };
        let long = Price { rates: RATES, long: Some((1000, double)), off_peak: None };
        assert_eq!(long.cost(&usage(1000), Timestamp(0)), NanoUsd(250_000));
        assert_eq!(long.cost(&usage(1001), Timestamp(0)), NanoUsd(500_500));
        let clocked = Price { rates: RATES, long: None, off_peak: Some(half) };
        // Day 4 is Monday, 5 January 1970; day 2 is a Saturday.
        for (day, hour, peak) in [
            (4, 0, false),
            (4, 1, true),
            (4, 3, true),
            (4, 4, false),
            (4, 6, true),
            (4, 10, false),
            (2, 7, false),
            (8, 7, true),
        ] {
            let cost = clocked.cost(&usage(1000), at(day, hour));
            assert_eq!(cost == NanoUsd(250_000), peak, "day {day}, {hour} h");
        }
    }

    #[test]
    fn what_money_affords_is_never_more_than_it_pays() {
        let price = Price { rates: RATES, long: Some((100, RATES)), off_peak: None };
        for money in [0, 1, 499, 500, 2500, 1_000_000, 77_777_777] {
            for input in [0, 1, 99, 1000] {
                if let Some(output) = price.affords(NanoUsd(money), input) {
                    assert!(price.at_most(input, output).0 <= money, "{money} for {input} and {output}");
                }
            }
        }
        assert_eq!(price.affords(NanoUsd(1), 1000), None);
    }

    #[test]
    fn the_table_is_sorted_and_knows_names_with_dates() {
        assert!(table::ROWS.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
        let mini = facts(PriceList::OpenAi, "gpt-5-mini-2025-08-07").unwrap();
        assert_eq!(mini.price.unwrap().rates.output, 2_000_000);
        assert_eq!(facts(PriceList::OpenAi, "gpt-5-mini"), Some(mini));
        let haiku = facts(PriceList::Anthropic, "claude-haiku-4-5-20251001").unwrap();
        assert_eq!((haiku.output_tokens, haiku.images), (Some(64_000), true));
        assert!(facts(PriceList::DeepSeek, "deepseek-flash").unwrap().price.unwrap().off_peak.is_some());
        assert_eq!(facts(PriceList::Anthropic, "gpt-5-mini"), None);
        assert_eq!(facts(PriceList::OpenAi, "gpt-5-mini-x"), None);
    }
}
