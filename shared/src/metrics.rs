//! Counts what this instance does, and writes the counts in Prometheus' text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). The metrics' names are in `names.rs`.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use hashbrown::{Equivalent, HashMap};

/// Upper bounds of the buckets of durations, in milliseconds.
const DURATION_BOUNDS: [u64; 14] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000, 600_000];

/// Upper bounds of the buckets of small counts.
const COUNT_BOUNDS: [u64; 6] = [1, 2, 3, 5, 10, 20];

/// Most series of each type. Labels hold only names from the configuration, so this is a backstop: at the limit,
/// no new series is counted.
const MAX_SERIES: usize = 10_000;

/// The labels of a series: names and values.
pub(crate) type Labels<'a> = [(&'static str, &'a str)];

/// The counts since the instance started.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counters: HashMap<Series, u64>,
    durations: HashMap<Series, Histogram<{ DURATION_BOUNDS.len() }>>,
    counts: HashMap<Series, Histogram<{ COUNT_BOUNDS.len() }>>,
}

/// What a count belongs to: a metric and the values of its labels.
#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    name: &'static str,
    labels: Vec<(&'static str, String)>,
}

/// A series whose labels are borrowed: a series that exists is found without an allocation.
#[derive(Hash)]
struct SeriesRef<'a> {
    name: &'static str,
    labels: &'a Labels<'a>,
}

impl Equivalent<Series> for SeriesRef<'_> {
    fn equivalent(&self, series: &Series) -> bool {
        let own = self.labels.iter().copied();
        self.name == series.name && own.eq(series.labels.iter().map(|(name, value)| (*name, value.as_str())))
    }
}

/// The value of a series, which begins at zero; `None` if it is new and there are too many.
fn value<'m, T: Default>(
    map: &'m mut HashMap<Series, T>,
    name: &'static str,
    labels: &Labels<'_>,
) -> Option<&'m mut T> {
    let key = SeriesRef { name, labels };
    if !map.contains_key(&key) {
        if map.len() >= MAX_SERIES {
            return None;
        }
        let labels = labels.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        map.insert(Series { name, labels }, T::default());
    }
    map.get_mut(&key)
}

/// A histogram with cumulative buckets, as Prometheus expects them.
#[derive(Clone, Debug)]
struct Histogram<const N: usize> {
    buckets: [u64; N],
    count: u64,
    sum: u64,
}

impl<const N: usize> Histogram<N> {
    fn observe(&mut self, value: u64, bounds: &[u64; N]) {
        for (bucket, bound) in self.buckets.iter_mut().zip(bounds) {
            *bucket += u64::from(value <= *bound);
        }
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
    }
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], count: 0, sum: 0 }
    }
}

impl Metrics {
    /// Adds 1 to a counter.
    pub(crate) fn count(&mut self, name: &'static str, labels: &Labels<'_>) {
        self.add(name, labels, 1);
    }

    /// Adds `more` to a counter.
    pub(crate) fn add(&mut self, name: &'static str, labels: &Labels<'_>, more: u64) {
        if let Some(counter) = value(&mut self.counters, name, labels) {
            *counter += more;
        }
    }

    /// Adds a duration to a histogram.
    pub(crate) fn observe_duration(&mut self, name: &'static str, labels: &Labels<'_>, duration: Duration) {
        if let Some(histogram) = value(&mut self.durations, name, labels) {
            let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            histogram.observe(millis, &DURATION_BOUNDS);
        }
    }

    /// Adds a count to a histogram.
    pub(crate) fn observe(&mut self, name: &'static str, labels: &Labels<'_>, count: u64) {
        if let Some(histogram) = value(&mut self.counts, name, labels) {
            histogram.observe(count, &COUNT_BOUNDS);
        }
    }

    /// Writes all series to `page`, those of each metric one after the other.
    pub(crate) fn write(&self, page: &mut MetricsPage) {
        for (Series { name, labels }, value) in sorted(&self.counters) {
            page.sample(name, "counter", labels, value);
        }
        for (Series { name, labels }, histogram) in sorted(&self.durations) {
            page.histogram(
                name,
                labels,
                histogram,
                |index| seconds(DURATION_BOUNDS.get(index).copied().unwrap_or_default()),
                seconds(histogram.sum),
            );
        }
        for (Series { name, labels }, histogram) in sorted(&self.counts) {
            let bound = |index: usize| COUNT_BOUNDS.get(index).map(u64::to_string).unwrap_or_default();
            page.histogram(name, labels, histogram, bound, histogram.sum.to_string());
        }
    }
}

fn sorted<T>(series: &HashMap<Series, T>) -> BTreeMap<&Series, &T> {
    series.iter().collect()
}

/// Formats milliseconds as seconds.
fn seconds(millis: u64) -> String {
    format!("{}.{:03}", millis / 1000, millis % 1000)
}

/// The page that Prometheus scrapes, while it is written.
#[derive(Debug, Default)]
pub(crate) struct MetricsPage {
    text: String,
    /// The metric whose `TYPE` line was written last: each metric has one, before its first sample.
    current_metric: &'static str,
}

impl MetricsPage {
    /// Writes one sample. All samples of a metric must follow one another.
    pub(crate) fn sample(
        &mut self,
        name: &'static str,
        kind: &str,
        labels: &[(&'static str, String)],
        value: impl std::fmt::Display,
    ) {
        self.begin(name, kind);
        // Writing to a `String` can't fail, here and below.
        let _ = writeln!(self.text, "{name}{} {value}", label_set(labels, None));
    }

    fn histogram<const N: usize>(
        &mut self,
        name: &'static str,
        labels: &[(&'static str, String)],
        histogram: &Histogram<N>,
        bound: impl Fn(usize) -> String,
        sum: String,
    ) {
        self.begin(name, "histogram");
        for (index, count) in histogram.buckets.iter().enumerate() {
            let _ = writeln!(self.text, "{name}_bucket{} {count}", label_set(labels, Some(&bound(index))));
        }
        let count = histogram.count;
        let _ = writeln!(self.text, "{name}_bucket{} {count}", label_set(labels, Some("+Inf")));
        let _ = writeln!(self.text, "{name}_sum{} {sum}", label_set(labels, None));
        let _ = writeln!(self.text, "{name}_count{} {count}", label_set(labels, None));
    }

    fn begin(&mut self, name: &'static str, kind: &str) {
        if self.current_metric != name {
            self.current_metric = name;
            let _ = writeln!(self.text, "# TYPE {name} {kind}");
        }
    }

    /// Returns the finished text.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

/// Formats labels, escaped, with the bucket's upper bound as the label `le`.
fn label_set(labels: &[(&'static str, String)], bound: Option<&str>) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value)));
    let bound = bound.map(|bound| format!("le=\"{bound}\""));
    let all: Vec<String> = labels.chain(bound).collect();
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::metric;

    #[test]
    fn writes_counters_and_histograms_in_prometheus_format() {
        let mut metrics = Metrics::default();
        metrics.count(metric::REQUESTS, &[("model", "a")]);
        metrics.count(metric::REQUESTS, &[("model", "a")]);
        metrics.count(metric::REQUESTS, &[("model", "b\"\n")]);
        metrics.observe_duration(metric::DURATION, &[], Duration::from_millis(1_500));
        metrics.observe(metric::ATTEMPTS, &[], 2);
        let mut page = MetricsPage::default();
        metrics.write(&mut page);
        let text = page.into_text();
        for line in [
            "# TYPE outlive_requests_total counter",
            "outlive_requests_total{model=\"a\"} 2",
            "outlive_requests_total{model=\"b\\\"\\n\"} 1",
            "# TYPE gen_ai_client_operation_duration_seconds histogram",
            "gen_ai_client_operation_duration_seconds_bucket{le=\"1.000\"} 0",
            "gen_ai_client_operation_duration_seconds_bucket{le=\"2.500\"} 1",
            "gen_ai_client_operation_duration_seconds_bucket{le=\"+Inf\"} 1",
            "gen_ai_client_operation_duration_seconds_sum 1.500",
            "outlive_attempts_bucket{le=\"1\"} 0",
            "outlive_attempts_bucket{le=\"2\"} 1",
            "outlive_attempts_sum 2",
        ] {
            assert!(text.lines().any(|written| written == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE outlive_requests_total").count(), 1);
    }
}
