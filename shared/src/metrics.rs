//! What the node counts, as Prometheus reads it
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>, text format 0.0.4).

use std::{collections::BTreeMap, fmt::Write, time::Duration};

/// Upper bounds of times, in milliseconds.
const TIMES: [u64; 14] = [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000, 600_000];

/// Upper bounds of small counts.
const COUNTS: [u64; 6] = [1, 2, 3, 5, 10, 20];

/// Series are kept for the operator's own names only, so their number is bounded; beyond this none are added.
const MAX_SERIES: usize = 10_000;

/// Values of labels, in the order of their names.
type Labels = Vec<(&'static str, String)>;

/// What was counted since the instance began.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    counters: BTreeMap<(&'static str, Labels), u64>,
    times: BTreeMap<(&'static str, Labels), Histogram<{ TIMES.len() }>>,
    counts: BTreeMap<(&'static str, Labels), Histogram<{ COUNTS.len() }>>,
}

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
    /// One more.
    pub(crate) fn count(&mut self, name: &'static str, labels: Labels) {
        self.add(name, labels, 1);
    }

    /// So many more.
    pub(crate) fn add(&mut self, name: &'static str, labels: Labels, more: u64) {
        if self.counters.len() < MAX_SERIES {
            *self.counters.entry((name, labels)).or_default() += more;
        }
    }

    /// Something took so long.
    pub(crate) fn observe_duration(&mut self, name: &'static str, labels: Labels, time: Duration) {
        if self.times.len() < MAX_SERIES {
            let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            self.times.entry((name, labels)).or_default().observe(millis, &TIMES);
        }
    }

    /// Something was so many.
    pub(crate) fn observe(&mut self, name: &'static str, labels: Labels, value: u64) {
        if self.counts.len() < MAX_SERIES {
            self.counts.entry((name, labels)).or_default().observe(value, &COUNTS);
        }
    }

    /// All of it as text.
    pub(crate) fn write(&self, page: &mut MetricsPage) {
        for ((name, labels), value) in &self.counters {
            page.sample(name, "counter", labels, value);
        }
        for ((name, labels), histogram) in &self.times {
            page.histogram(
                name,
                labels,
                histogram,
                |bound| millis(TIMES.get(bound).copied()),
                millis(Some(histogram.sum)),
            );
        }
        for ((name, labels), histogram) in &self.counts {
            let bound = |at: usize| COUNTS.get(at).map(u64::to_string).unwrap_or_default();
            page.histogram(name, labels, histogram, bound, histogram.sum.to_string());
        }
    }
}

/// Milliseconds as seconds.
fn millis(value: Option<u64>) -> String {
    let value = value.unwrap_or_default();
    format!("{}.{:03}", value / 1000, value % 1000)
}

/// The text that Prometheus reads.
#[derive(Debug, Default)]
pub(crate) struct MetricsPage {
    text: String,
    last: &'static str,
}

impl MetricsPage {
    /// One value.
    pub(crate) fn sample(
        &mut self,
        name: &'static str,
        kind: &str,
        labels: &[(&'static str, String)],
        value: impl std::fmt::Display,
    ) {
        self.begin(name, kind);
        // Writing to a string can't fail.
        let _ = writeln!(self.text, "{name}{} {value}", braces(labels, None));
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
        for (at, count) in histogram.buckets.iter().enumerate() {
            let _ = writeln!(self.text, "{name}_bucket{} {count}", braces(labels, Some(&bound(at))));
        }
        let count = histogram.count;
        let _ = writeln!(self.text, "{name}_bucket{} {count}", braces(labels, Some("+Inf")));
        let _ = writeln!(self.text, "{name}_sum{} {sum}", braces(labels, None));
        let _ = writeln!(self.text, "{name}_count{} {count}", braces(labels, None));
    }

    fn begin(&mut self, name: &'static str, kind: &str) {
        if self.last != name {
            self.last = name;
            let _ = writeln!(self.text, "# TYPE {name} {kind}");
        }
    }

    /// The page.
    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

fn braces(labels: &[(&'static str, String)], bound: Option<&str>) -> String {
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
    fn what_was_counted_is_written_as_prometheus_reads_it() {
        let mut metrics = Metrics::default();
        let model = |name: &str| vec![("model", name.to_owned())];
        metrics.count(metric::REQUESTS, model("a"));
        metrics.count(metric::REQUESTS, model("a"));
        metrics.count(metric::REQUESTS, model("b\"\n"));
        metrics.observe_duration(metric::DURATION, vec![], Duration::from_millis(1_500));
        metrics.observe(metric::ATTEMPTS, vec![], 2);
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
            assert!(text.lines().any(|seen| seen == line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("# TYPE outlive_requests_total").count(), 1);
    }
}
