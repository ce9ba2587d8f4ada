//! Summarises the slices of load as medians over rounds: a table for people, JSON for comparison. Measures nothing
//! itself.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::{WorkerFigures, lambda, load::Slice, subject::Subject, upstream};

/// One kind of load, with the slices of each subject.
pub(crate) struct Case {
    /// Name in the table.
    pub(crate) name: &'static str,
    /// Concurrent requests, each over its own connection.
    pub(crate) connections: usize,
    /// Whether the response is streamed.
    pub(crate) streamed: bool,
    /// Whether load, upstream and subject share one core.
    pub(crate) one_core: bool,
    /// The slices of each subject, in the order of the subjects.
    pub(crate) slices: Vec<Vec<Slice>>,
}

/// Reads one figure from a slice.
pub(crate) type Figure = fn(&Slice) -> f64;

/// All results for calls. The first subject is the upstream alone, the third is the node.
pub(crate) struct Report {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) cases: Cases,
    /// Memory of each subject, in their order.
    pub(crate) memory: Vec<Memory>,
    pub(crate) lambda: Option<lambda::LambdaFigures>,
    pub(crate) worker: WorkerFigures,
}

/// Resident memory of a subject, in MiB.
#[derive(Clone, Copy, Default)]
pub(crate) struct Memory {
    /// With open streams; `None` if not all of them opened.
    pub(crate) streams: Option<f64>,
    /// After requests with large bodies; `None` if it was not measured.
    pub(crate) large_bodies: Option<f64>,
}

/// The kinds of load.
pub(crate) struct Cases {
    pub(crate) json: Case,
    pub(crate) json_two_cores: Case,
    pub(crate) json_16: Case,
    pub(crate) sse: Case,
    pub(crate) sse_two_cores: Case,
    pub(crate) sse_16: Case,
}

impl Cases {
    pub(crate) fn new(subjects: usize) -> Self {
        let case = |name, connections, streamed, one_core| Case {
            name,
            connections,
            streamed,
            one_core,
            slices: (0..subjects).map(|_| Vec::new()).collect(),
        };
        Self {
            json: case("json c=1, one core", 1, false, true),
            json_two_cores: case("json c=1, two cores", 1, false, false),
            json_16: case("json c=16, two cores", 16, false, false),
            sse: case("sse c=1, one core", 1, true, true),
            sse_two_cores: case("sse c=1, two cores", 1, true, false),
            sse_16: case("sse c=16, two cores", 16, true, false),
        }
    }

    pub(crate) fn all(&self) -> [&Case; 6] {
        [&self.json, &self.json_two_cores, &self.json_16, &self.sse, &self.sse_two_cores, &self.sse_16]
    }

    pub(crate) fn all_mut(&mut self) -> [&mut Case; 6] {
        [
            &mut self.json,
            &mut self.json_two_cores,
            &mut self.json_16,
            &mut self.sse,
            &mut self.sse_two_cores,
            &mut self.sse_16,
        ]
    }
}

impl Case {
    /// A subject's median over the rounds.
    fn median_of(&self, subject: usize, value: Figure) -> f64 {
        median(self.slices.get(subject).into_iter().flatten().map(value).collect())
    }

    /// A subject's median less the upstream's.
    fn added(&self, subject: usize, value: Figure) -> f64 {
        self.median_of(subject, value) - self.median_of(UPSTREAM, value)
    }

    /// The median over the rounds of a ratio of two subjects' figures in one round.
    fn ratio(&self, ratio: impl Fn(&[&Slice; 3]) -> f64) -> f64 {
        let [upstream, relay, node] =
            [UPSTREAM, RELAY, NODE].map(|subject| self.slices.get(subject).into_iter().flatten());
        median(
            upstream
                .zip(relay)
                .zip(node)
                .map(|((upstream, relay), node)| ratio(&[upstream, relay, node]))
                .collect(),
        )
    }

    /// The node's responses per second as a share of the relay's.
    fn relay_share(&self) -> f64 {
        self.ratio(|[_, relay, node]| node.responses_per_s / relay.responses_per_s)
    }

    /// What the node adds to the median time of a response, over what the relay adds.
    fn added_over_relay(&self) -> f64 {
        self.ratio(|[upstream, relay, node]| (p50(node) - p50(upstream)) / (p50(relay) - p50(upstream)))
    }

    /// The least and the most that a subject added within one round.
    fn added_range(&self, subject: usize, value: Figure) -> (f64, f64) {
        let slices = |subject| self.slices.get(subject).into_iter().flatten().map(value);
        let added = slices(subject).zip(slices(UPSTREAM)).map(|(with, without)| with - without);
        added.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one), high.max(one)))
    }
}

/// Positions of three subjects in [`Report::subjects`].
const UPSTREAM: usize = 0;
const RELAY: usize = 1;
const NODE: usize = 2;

impl Report {
    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from("| load | figure |");
        for subject in &self.subjects {
            let _ = write!(out, " {} |", subject.name);
        }
        let _ = writeln!(out, " added by the node (min to max) |");
        let _ = writeln!(out, "|---|---|{}---:|", "---:|".repeat(self.subjects.len()));
        for case in self.cases.all() {
            // Without streaming the first byte arrives with the last.
            let first_byte = case.streamed.then_some(("first byte p50, µs", first_byte_p50 as Figure));
            let figures = [("p50, µs", p50 as Figure), ("p99, µs", p99)];
            for (figure, value) in figures.into_iter().chain(first_byte) {
                let (low, high) = case.added_range(NODE, value);
                let added = format!("{:.0} ({low:.0} to {high:.0})", case.added(NODE, value));
                let value = |subject| Some(case.median_of(subject, value));
                self.write_row(&mut out, case.name, figure, value, &added);
            }
            let rate = |subject| Some(case.median_of(subject, responses_per_s));
            self.write_row(&mut out, case.name, "requests/s", rate, "");
        }
        let memory = |figure: fn(&Memory) -> Option<f64>| {
            move |subject: usize| self.memory.get(subject).and_then(figure).filter(|_| subject != UPSTREAM)
        };
        self.write_row(&mut out, "1,000 open streams", "memory, MiB", memory(|memory| memory.streams), "");
        let large = memory(|memory| memory.large_bodies);
        self.write_row(&mut out, "after large bodies", "memory, MiB", large, "");
        for (name, value) in self.relay_shares() {
            let _ = writeln!(out, "\n{name}: {value:.2}");
        }
        if let Some(lambda) = &self.lambda {
            let _ = writeln!(
                out,
                "\nLambda: ready after {:.1} ms, {:.1} MiB after 50 requests",
                lambda.ready_ms, lambda.rss_mib
            );
        }
        if let WorkerFigures { gzip_kib: Some(size), start_ms: Some(start), start_added_ms: Some(added) } =
            self.worker
        {
            let _ = writeln!(
                out,
                "\nWorker: {size:.1} KiB gzip; first answer after {start:.0} ms, {added:.0} ms more than an empty Worker"
            );
        }
        out
    }

    fn write_row(
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

    /// The figures for comparison: the node's, then those of every other subject under its name.
    pub(crate) fn figures(&self) -> Map<String, Value> {
        let mut figures = self.figures_of(NODE);
        figures.extend(self.relay_shares().map(|(name, value)| (name.to_owned(), json!(value))));
        // The floor of the bench itself.
        figures.insert("upstream_p50_us".into(), json!(self.cases.json.median_of(UPSTREAM, p50)));
        figures.insert(
            "upstream_rps_c16".into(),
            json!(self.cases.json_16.median_of(UPSTREAM, responses_per_s)),
        );
        let WorkerFigures { gzip_kib, start_ms, start_added_ms } = self.worker;
        let of_worker = [
            ("worker_gzip_kib", gzip_kib),
            ("worker_start_ms", start_ms),
            ("worker_start_added_ms", start_added_ms),
        ];
        for (name, figure) in of_worker {
            figures.extend(figure.map(|figure| (name.to_owned(), json!(figure))));
        }
        if let Some(lambda) = &self.lambda {
            figures.insert("lambda_ready_ms".into(), json!(lambda.ready_ms));
            figures.insert("lambda_rss_mib".into(), json!(lambda.rss_mib));
        }
        let others = self.subjects.iter().enumerate().filter(|(index, _)| ![UPSTREAM, NODE].contains(index));
        for (index, subject) in others {
            figures.insert(subject.name.into(), Value::Object(self.figures_of(index)));
        }
        figures
    }

    /// How near the node is to the relay.
    fn relay_shares(&self) -> [(&'static str, f64); 3] {
        [
            ("relay_share_json_c16", self.cases.json_16.relay_share()),
            ("relay_share_sse_c16", self.cases.sse_16.relay_share()),
            ("added_p50_over_relay", self.cases.json.added_over_relay()),
        ]
    }

    fn figures_of(&self, subject: usize) -> Map<String, Value> {
        let Cases { json, json_two_cores, json_16, sse, sse_two_cores, sse_16 } = &self.cases;
        let (total, first_byte) = (sse.added(subject, p50), sse.added(subject, first_byte_p50));
        let memory = self.memory.get(subject).copied().unwrap_or_default();
        let figures = [
            ("added_p50_us", json.added(subject, p50)),
            ("added_p99_us", json.added(subject, p99)),
            ("added_p50_two_cores_us", json_two_cores.added(subject, p50)),
            ("added_p99_two_cores_us", json_two_cores.added(subject, p99)),
            ("rps_c16", json_16.median_of(subject, responses_per_s)),
            ("sse_added_p50_us", total),
            ("sse_added_p99_us", sse.added(subject, p99)),
            ("sse_added_p50_two_cores_us", sse_two_cores.added(subject, p50)),
            ("sse_rps_c16", sse_16.median_of(subject, responses_per_s)),
            ("first_byte_added_us", first_byte),
            // The first chunk is in the time to the first byte.
            ("chunk_us", (total - first_byte) / (upstream::CHUNKS - 1) as f64),
            ("rss_mib_1000_streams", memory.streams.unwrap_or(f64::NAN)),
            ("rss_mib_after_large_bodies", memory.large_bodies.unwrap_or(f64::NAN)),
        ];
        figures.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect()
    }
}

/// The median time to the end of a response, in microseconds.
pub(crate) fn p50(slice: &Slice) -> f64 {
    quantile(&slice.total_us, 0.5)
}

/// The 99th percentile of the time to the end of a response, in microseconds.
pub(crate) fn p99(slice: &Slice) -> f64 {
    quantile(&slice.total_us, 0.99)
}

/// The median time to the first byte, in microseconds.
fn first_byte_p50(slice: &Slice) -> f64 {
    quantile(&slice.first_byte_us, 0.5)
}

pub(crate) fn responses_per_s(slice: &Slice) -> f64 {
    slice.responses_per_s
}

/// The median of some values; NaN if there are none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    quantile(&values, 0.5)
}

/// The value at `share` of a sorted list; NaN if the list is empty.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}
