//! Knows the prices and limits of models from a table that is compiled in, and computes costs in integers. Bounds no
//! spending: `ledger/budget.rs` does.

use crate::{money::NanoUsd, time::Timestamp, usage::Usage};

mod table;

/// Nano-dollars per thousand tokens of each kind: in this unit every vendor's price is an integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Uncached input.
    pub input: u64,
    /// Input read from the vendor's cache.
    pub cache_read: u64,
    /// Input written to the cache for 5 minutes.
    pub cache_write: u64,
    /// Input written to the cache for an hour.
    pub cache_write_1h: u64,
    /// Output, including thoughts.
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

    /// The higher of both rates for each kind.
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

/// The price of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// The standard rates, which hold at peak hours.
    pub rates: Rates,
    /// The rates of requests with more input tokens than the bound.
    pub long: Option<(u64, Rates)>,
    /// The rates outside peak hours.
    pub off_peak: Option<Rates>,
}

impl Price {
    const FREE: Self = Self { rates: Rates::FREE, long: None, off_peak: None };

    /// The cost of an answer that started at `at`.
    pub fn cost(&self, usage: &Usage, at: Timestamp) -> NanoUsd {
        self.rates_at(usage.total_input(), at).cost(usage)
    }

    /// The most that a request can cost: all input at the highest rate, and all of its output.
    ///
    /// Assumes peak hours, since vendors do not say which moment counts at their edge.
    pub fn max_cost(&self, input: u64, output: u64) -> NanoUsd {
        let rates = match self.long {
            // The input is an estimate and may be below the bound after all.
            Some((bound, long)) if input > bound => self.rates.max(long),
            _ => self.rates,
        };
        let dearest = rates.input.max(rates.cache_write).max(rates.cache_write_1h);
        Rates { input: dearest, ..rates }.cost(&Usage { input, output, ..Usage::default() })
    }

    /// The highest rates, whatever the time and the length of the request.
    pub(crate) fn highest(&self) -> Rates {
        self.long.map_or(self.rates, |(_, long)| self.rates.max(long))
    }

    /// The output tokens that `money` pays for after `input` tokens of input; `None` if it does not pay for the input.
    pub fn affordable_output(&self, money: NanoUsd, input: u64) -> Option<u64> {
        let left = money.0.checked_sub(self.max_cost(input, 0).0)?;
        let rate = self.max_cost(input, 1000).0.saturating_sub(self.max_cost(input, 0).0);
        Some(u64::try_from(u128::from(left) * 1000 / u128::from(rate.max(1))).unwrap_or(u64::MAX))
    }

    fn rates_at(&self, input: u64, at: Timestamp) -> Rates {
        match (self.long, self.off_peak) {
            (Some((bound, long)), _) if input > bound => long,
            (_, Some(off_peak)) if !is_peak(at) => off_peak,
            _ => self.rates,
        }
    }
}

/// Whether `at` is in DeepSeek's peak hours: 01–04 and 06–10 UTC on weekdays
/// (<https://api-docs.deepseek.com/quick_start/pricing>).
fn is_peak(at: Timestamp) -> bool {
    const DAY: u64 = 24 * 60 * 60;
    let (days, second) = (at.unix_seconds() / DAY, at.unix_seconds() % DAY);
    // 1970 began on a Thursday.
    let weekday = (days + 3) % 7;
    weekday < 5 && matches!(second / 3600, 1..4 | 6..10)
}

/// The price, limits and abilities of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its price, if known.
    pub price: Option<Price>,
    /// The most input tokens, if known.
    pub context_tokens: Option<u64>,
    /// The most output tokens, if known.
    pub output_tokens: Option<u64>,
    /// Whether it can call functions.
    pub tools: bool,
    /// Whether it accepts images.
    pub images: bool,
    /// Whether it may think before it answers, also if the request does not mention it.
    pub thinks: bool,
}

impl Facts {
    /// An unknown model, which is assumed to have all abilities and not to think.
    pub const UNKNOWN: Self = Self {
        price: None,
        context_tokens: None,
        output_tokens: None,
        tools: true,
        images: true,
        thinks: false,
    };

    /// A model without cost.
    pub const FREE: Self = Self { price: Some(Price::FREE), ..Self::UNKNOWN };
}

/// The price list of a vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PriceList {
    /// Anthropic's.
    Anthropic,
    /// DeepSeek's.
    DeepSeek,
    /// OpenAI's, which also holds for Azure.
    OpenAi,
}

/// A row of the table: list, name, rates, bound of input tokens with the rates above it, off-peak rates, most input
/// tokens, most output tokens, tools, images, thinks. A limit of 0 is unknown.
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
    bool,
);

/// Looks up a model in the table; `None` if it is not there.
///
/// A name with a date also matches the row without it. An Azure deployment is found if it has its model's name.
pub fn facts(list: PriceList, model: &str) -> Option<Facts> {
    let find = |name: &str| {
        let at = table::ROWS.binary_search_by(|row| (row.0, row.1).cmp(&(list, name))).ok()?;
        table::ROWS.get(at)
    };
    let row = find(model).or_else(|| find(undated(model)))?;
    // In the order of the table's columns.
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
        thinks: row.9,
    })
}

/// Whether any vendor's model of this name thinks, for servers that resell models: `openai/gpt-5` counts as `gpt-5`.
pub fn thinks(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or_default();
    let lists = [PriceList::Anthropic, PriceList::DeepSeek, PriceList::OpenAi];
    // Some write the version with a point: `claude-opus-4.8`.
    let [as_it_is, with_hyphens] = [name.to_owned(), name.replace('.', "-")];
    lists.into_iter().any(|list| {
        facts(list, &as_it_is).or_else(|| facts(list, &with_hyphens)).is_some_and(|facts| facts.thinks)
    })
}

/// The names of all models in the table.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    table::ROWS.iter().map(|row| row.1)
}

/// The name without its date: `gpt-5-mini-2025-08-07` and `claude-haiku-4-5-20251001` lose theirs.
fn undated(model: &str) -> &str {
    let is_digits = |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    let split_end = |count: usize| model.len().checked_sub(count).and_then(|at| model.split_at_checked(at));
    if let Some((name, date)) = split_end(9)
        && let Some(date) = date.strip_prefix('-')
        && is_digits(date, 8)
    {
        return name;
    }
    if let Some((name, date)) = split_end(11)
        && let [year, month, day] =
            date.strip_prefix('-').unwrap_or_default().split('-').collect::<Vec<_>>()[..]
        && is_digits(year, 4)
        && is_digits(month, 2)
        && is_digits(day, 2)
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
            cost: None,
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
        assert_eq!(price.max_cost(1000, 1000), NanoUsd(500_000 + 2_000_000));
    }

    #[test]
    fn long_requests_and_peak_hours_have_their_rates() {
        let double = Rates { input: 500_000, ..RATES };
        let half = Rates { input: 125_000, ..RATES };
        let usage = |input| Usage { input, ..Usage::default() };
        let long = Price { rates: RATES, long: Some((1000, double)), off_peak: None };
        assert_eq!(long.cost(&usage(1000), Timestamp(0)), NanoUsd(250_000));
        assert_eq!(long.cost(&usage(1001), Timestamp(0)), NanoUsd(500_500));
        let with_off_peak = Price { rates: RATES, long: None, off_peak: Some(half) };
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
            let cost = with_off_peak.cost(&usage(1000), at(day, hour));
            assert_eq!(cost == NanoUsd(250_000), peak, "day {day}, {hour} h");
        }
    }

    #[test]
    fn affordable_output_never_costs_more_than_the_money() {
        let price = Price { rates: RATES, long: Some((100, RATES)), off_peak: None };
        for money in [0, 1, 499, 500, 2500, 1_000_000, 77_777_777] {
            for input in [0, 1, 99, 1000] {
                if let Some(output) = price.affordable_output(NanoUsd(money), input) {
                    assert!(price.max_cost(input, output).0 <= money, "{money} for {input} and {output}");
                }
            }
        }
        assert_eq!(price.affordable_output(NanoUsd(1), 1000), None);
    }

    #[test]
    fn the_table_is_sorted_and_matches_names_with_dates() {
        assert!(table::ROWS.windows(2).all(|pair| (pair[0].0, pair[0].1) < (pair[1].0, pair[1].1)));
        let mini = facts(PriceList::OpenAi, "gpt-5-mini-2025-08-07").unwrap();
        assert_eq!(mini.price.unwrap().rates.output, 2_000_000);
        assert_eq!(facts(PriceList::OpenAi, "gpt-5-mini"), Some(mini));
        let haiku = facts(PriceList::Anthropic, "claude-haiku-4-5-20251001").unwrap();
        assert_eq!((haiku.output_tokens, haiku.images), (Some(64_000), true));
        assert!(facts(PriceList::DeepSeek, "deepseek-flash").unwrap().price.unwrap().off_peak.is_some());
        assert_eq!(facts(PriceList::Anthropic, "gpt-5-mini"), None);
        assert_eq!(facts(PriceList::OpenAi, "gpt-5-mini-x"), None);
        let thinks =
            ["gpt-5-mini", "openai/gpt-5-mini", "anthropic/claude-opus-4.8", "o3", "gpt-4o", "gpt-5.1"]
                .map(super::thinks);
        assert_eq!(thinks, [true, true, true, true, false, false]);
        assert!(!haiku.thinks, "only if the request says so");
    }
}
