//! The figures: medians over rounds, as a table for people and as JSON for comparison.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::{lambda, load::Slice, subject::Subject, upstream};

/// One kind of load, and its slices for each subject.
pub(crate) struct Case {
    /// Its name in the table.
    pub(crate) name: &'static str,
    /// Requests at once, each over its own connection.
    pub(crate) connections: usize,
    /// Whether the answer comes in pieces.
    pub(crate) streamed: bool,
    /// Whether everything runs on one core.
    pub(crate) together: bool,
    /// The slices, in the order of the subjects.
    pub(crate) slices: Vec<Vec<Slice>>,
}

/// Reads a figure off a slice.
type Figure = fn(&Slice) -> f64;

/// Everything that was measured. The first subject is the upstream alone, the third is the node.
pub(crate) struct Report {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) cases: Cases,
    /// Memory with open streams in MiB, in the order of the subjects; `None` where they did not all begin.
    pub(crate) resident: Vec<Option<f64>>,
    pub(crate) lambda: Option<lambda::Figures>,
    pub(crate) worker_gzip_kib: Option<f64>,
}

/// The kinds of load.
pub(crate) struct Cases {
    pub(crate) json: Case,
    pub(crate) json_apart: Case,
    pub(crate) json_16: Case,
    pub(crate) sse: Case,
    pub(crate) sse_apart: Case,
    pub(crate) sse_16: Case,
}

impl Cases {
    pub(crate) fn new(subjects: usize) -> Self {
        let case = |name, connections, streamed, together| Case {
            name,
            connections,
            streamed,
            together,
            slices: (0..subjects).map(|_| Vec::new()).collect(),
        };
        Self {
            json: case("json c=1, one core", 1, false, true),
            json_apart: case("json c=1, two cores", 1, false, false),
            json_16: case("json c=16, two cores", 16, false, false),
            sse: case("sse c=1, one core", 1, true, true),
            sse_apart: case("sse c=1, two cores", 1, true, false),
            sse_16: case("sse c=16, two cores", 16, true, false),
        }
    }

    pub(crate) fn all(&self) -> [&Case; 6] {
        [&self.json, &self.json_apart, &self.json_16, &self.sse, &self.sse_apart, &self.sse_16]
    }

    pub(crate) fn all_mut(&mut self) -> [&mut Case; 6] {
        [
            &mut self.json,
            &mut self.json_apart,
            &mut self.json_16,
            &mut self.sse,
            &mut self.sse_apart,
            &mut self.sse_16,
        ]
    }
}

impl Case {
    /// The median of a subject over the rounds.
    fn of(&self, subject: usize, value: Figure) -> f64 {
        median(self.slices.get(subject).into_iter().flatten().map(value).collect())
    }

    /// The median with a subject less the median of the upstream alone.
    fn added(&self, subject: usize, value: Figure) -> f64 {
        self.of(subject, value) - self.of(UPSTREAM, value)
    }

    /// The least and the most that a subject added within one round.
    fn range(&self, subject: usize, value: Figure) -> (f64, f64) {
        let slices = |subject| self.slices.get(subject).into_iter().flatten().map(value);
        let added = slices(subject).zip(slices(UPSTREAM)).map(|(with, without)| with - without);
        added.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)))
    }
}

/// The places of two subjects.
const UPSTREAM: usize = 0;
const NODE: usize = 2;

impl Report {
    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from("| load | figure |");
        for subject in &self.subjects {
            let _ = write!(out, " {} |", subject.name);
        }
        let _ = writeln!(out, " added by the node (min to max) |");
        let _ = writeln!(out, "|---|---|{}---:|", "---:|".repeat(self.subjects.len()));
        for case in self.cases.all() {
            let first = case.streamed.then_some(("first byte p50, µs", first as Figure));
            for (figure, value) in [("p50, µs", p50 as Figure), ("p99, µs", p99)].into_iter().chain(first) {
                let (low, high) = case.range(NODE, value);
                let added = format!("{:.0} ({low:.0} to {high:.0})", case.added(NODE, value));
                self.row(&mut out, case.name, figure, |subject| Some(case.of(subject, value)), &added);
            }
            self.row(&mut out, case.name, "requests/s", |subject| Some(case.of(subject, rate)), "");
        }
        let resident =
            |subject: usize| self.resident.get(subject).copied().flatten().filter(|_| subject >= NODE);
        self.row(&mut out, "1,000 open streams", "memory, MiB", resident, "");
        if let Some(lambda) = &self.lambda {
            let _ = writeln!(
                out,
                "\nLambda: ready after {:.1} ms, {:.1} MiB after 50 requests",
                lambda.ready_ms, lambda.rss_mib
            );
        }
        if let Some(size) = self.worker_gzip_kib {
            let _ = writeln!(out, "\nWorker: {size:.1} KiB gzip");
        }
        out
    }

    fn row(
        &self,
        out: &mut String,
        load: &str,
        figure: &str,
        value: impl Fn(usize) -> Option<f64>,
        added: &str,
    ) {
        let _ = write!(out, "| {load} | {figure} |");
        for subject in 0..self.subjects.len() {
            let _ = match value(subject) {
                Some(value) => write!(out, " {value:.0} |"),
                None => write!(out, " – |"),
            };
        }
        let _ = writeln!(out, " {added} |");
    }

    /// The figures: the node's, and those of the others under their names.
    pub(crate) fn figures(&self) -> Map<String, Value> {
        let mut figures = self.of(NODE);
        figures.insert("upstream_rps_c16".into(), json!(self.cases.json_16.of(UPSTREAM, rate)));
        if let Some(size) = self.worker_gzip_kib {
            figures.insert("worker_gzip_kib".into(), json!(size));
        }
        if let Some(lambda) = &self.lambda {
            figures.insert("lambda_ready_ms".into(), json!(lambda.ready_ms));
            figures.insert("lambda_rss_mib".into(), json!(lambda.rss_mib));
        }
        for (place, subject) in
            self.subjects.iter().enumerate().filter(|(place, _)| ![UPSTREAM, NODE].contains(place))
        {
            figures.insert(subject.name.into(), Value::Object(self.of(place)));
        }
        figures
    }

    fn of(&self, subject: usize) -> Map<String, Value> {
        let Cases { json, json_apart, json_16, sse, sse_apart, sse_16 } = &self.cases;
        let (whole, first_byte) = (sse.added(subject, p50), sse.added(subject, first));
        let figures = [
            ("added_p50_us", json.added(subject, p50)),
            ("added_p99_us", json.added(subject, p99)),
            ("added_p50_two_cores_us", json_apart.added(subject, p50)),
            ("added_p99_two_cores_us", json_apart.added(subject, p99)),
            ("rps_c16", json_16.of(subject, rate)),
            ("sse_added_p50_us", whole),
            ("sse_added_p99_us", sse.added(subject, p99)),
            ("sse_added_p50_two_cores_us", sse_apart.added(subject, p50)),
            ("sse_rps_c16", sse_16.of(subject, rate)),
            ("first_byte_added_us", first_byte),
            // The first chunk is counted by the first byte.
            ("chunk_us", (whole - first_byte) / (upstream::CHUNKS - 1) as f64),
            ("rss_mib_1000_streams", self.resident.get(subject).copied().flatten().unwrap_or(f64::NAN)),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
    }
}

pub(crate) fn p50(slice: &Slice) -> f64 {
    quantile(&slice.whole, 0.5)
}

pub(crate) fn p99(slice: &Slice) -> f64 {
    quantile(&slice.whole, 0.99)
}

fn first(slice: &Slice) -> f64 {
    quantile(&slice.first, 0.5)
}

pub(crate) fn rate(slice: &Slice) -> f64 {
    slice.rate
}

/// The middle of some values; not a number when there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// The value at `share` of a sorted list; not a number when the list is empty.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
