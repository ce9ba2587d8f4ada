//! Exports what became of requests as OpenTelemetry spans: one for each request, and one below it for each call of a
//! provider. Metrics are at `/metrics`.
//!
//! The variables are OpenTelemetry's own (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>), and without an
//! endpoint nothing is exported. The protocol is OTLP over HTTP with binary Protobuf.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Limited};
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_http::HttpError;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor},
};
use outlive::{
    body::Body,
    names::attribute,
    platform::{Http, Timestamp},
    record::{Call, Record},
};
use outlive_machine::HttpClient;
use tokio::sync::{mpsc, oneshot};

/// Either of them turns the export on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// How long a collector may take for a batch: the specification's default.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the last batch may take when the node stops.
const FAREWELL: Duration = Duration::from_secs(3);

/// Most of a collector's answer that is read; it says little.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Sends spans to a collector. Cloning gives another handle to the same one.
///
/// Spans wait in a queue of 2,048 for a thread that sends them; what does not fit is dropped, so that a collector that is
/// slow or gone costs requests nothing.
#[derive(Clone, Debug)]
pub struct Exporter {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

impl Exporter {
    /// The exporter that the environment asks for, if it does. Must be called where tasks can be spawned on this thread.
    ///
    /// # Errors
    ///
    /// The endpoint can't be one.
    pub fn of_environment(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let Some(name) = ENDPOINTS.into_iter().find(|name| env(name).is_some_and(|value| !value.is_empty()))
        else {
            return Ok(None);
        };
        Self::new(SpanExporter::builder().with_http()).map(Some).map_err(|why| format!("{name}: {why}"))
    }

    fn new(
        builder: opentelemetry_otlp::SpanExporterBuilder<opentelemetry_otlp::HttpExporterBuilderSet>,
    ) -> Result<Self, String> {
        let exporter = builder.with_http_client(Sender::new()).build().map_err(|error| error.to_string())?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        // Without a name in the environment a collector would see `unknown_service`.
        let named = std::env::var_os("OTEL_SERVICE_NAME").is_some();
        let resource = Resource::builder();
        let resource = if named { resource } else { resource.with_service_name("outlive") };
        processor.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("outlive").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor: Arc::new(processor), scope })
    }

    /// Puts the spans of a request into the queue.
    pub fn export(&self, record: &Record) {
        let sampled = record.trace.as_ref().is_none_or(|trace| trace.is_sampled());
        if !sampled {
            return;
        }
        // A request without a trace begins one, under its own id.
        let trace = record.trace.as_ref().map_or(record.id.as_str(), |trace| trace.id.as_str());
        let Ok(trace) = TraceId::from_hex(trace) else { return };
        let span = |id: &str| SpanId::from_hex(id).unwrap_or(SpanId::INVALID);
        let parent = record.trace.as_ref().map_or(SpanId::INVALID, |trace| span(&trace.parent));
        let request = span(&record.span);
        for call in record.calls.iter().filter(|call| call.made) {
            let name = format!("{} {}", record.format, call.candidate.model);
            let times = (call.began, call.took);
            let span = self.span(trace, span(&call.span), request, SpanKind::Client, name, times);
            self.processor.on_end(SpanData {
                attributes: of_call(record, call),
                status: status(call.outcome),
                ..span
            });
        }
        let name = format!("{} {}", record.format, record.model);
        let span = self.span(trace, request, parent, SpanKind::Server, name, (record.began, record.took));
        self.processor.on_end(SpanData {
            attributes: of_request(record),
            status: status(record.outcome),
            parent_span_is_remote: record.trace.is_some(),
            ..span
        });
    }

    /// Sends what is in the queue. Nothing is exported afterwards.
    pub async fn finish(self) {
        let finish = move || self.processor.shutdown_with_timeout(FAREWELL);
        // It blocks, and what it waits for runs on this thread.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(finish).await {
            eprintln!("outlive: the last spans are not exported: {error}");
        }
    }

    fn span(
        &self,
        trace: TraceId,
        id: SpanId,
        parent_span_id: SpanId,
        span_kind: SpanKind,
        name: String,
        (began, took): (Timestamp, Duration),
    ) -> SpanData {
        let start_time: SystemTime = UNIX_EPOCH + Duration::from_millis(began.0);
        SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::default()),
            parent_span_id,
            parent_span_is_remote: false,
            span_kind,
            name: name.into(),
            start_time,
            end_time: start_time + took,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: self.scope.clone(),
        }
    }
}

fn of_request(record: &Record) -> Vec<KeyValue> {
    let usage = record.usage();
    let mut attributes = vec![
        KeyValue::new(attribute::OPERATION, record.format),
        KeyValue::new(attribute::MODEL, record.model.clone()),
        KeyValue::new(attribute::INPUT_TOKENS, number(usage.total_input())),
        KeyValue::new(attribute::OUTPUT_TOKENS, number(usage.output)),
        KeyValue::new(attribute::REQUEST, record.id.clone()),
        KeyValue::new(attribute::KEY, record.caller.clone()),
        KeyValue::new(attribute::OUTCOME, record.outcome),
        KeyValue::new(attribute::RESCUES, number(record.rescues)),
        KeyValue::new(attribute::COST, record.cost().to_string()),
    ];
    attributes.extend(record.first.map(|first| KeyValue::new(attribute::FIRST_CHUNK, first.as_secs_f64())));
    attributes
}

fn of_call(record: &Record, call: &Call) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new(attribute::OPERATION, record.format),
        KeyValue::new(attribute::PROVIDER, call.candidate.provider.clone()),
        KeyValue::new(attribute::MODEL, call.candidate.model.clone()),
        KeyValue::new(attribute::INPUT_TOKENS, number(call.usage.total_input())),
        KeyValue::new(attribute::OUTPUT_TOKENS, number(call.usage.output)),
        KeyValue::new(attribute::COST, call.cost.to_string()),
    ];
    if call.outcome != "ok" {
        attributes.push(KeyValue::new(attribute::ERROR, call.outcome));
    }
    attributes.extend(call.status.map(|status| KeyValue::new(attribute::STATUS, i64::from(status))));
    attributes
}

fn status(outcome: &'static str) -> Status {
    match outcome {
        "ok" | "answered" | "cancelled" => Status::Unset,
        _ => Status::error(outcome),
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Hands requests to the thread that has the node's HTTP client.
#[derive(Debug)]
struct Sender(mpsc::UnboundedSender<Errand>);

type Errand = (Request<Bytes>, oneshot::Sender<Result<Response<Bytes>, HttpError>>);

impl Sender {
    fn new() -> Self {
        // It holds one request at a time, since batches are sent one after the other.
        let (sender, mut errands) = mpsc::unbounded_channel::<Errand>();
        tokio::task::spawn_local(async move {
            let client = HttpClient::default();
            while let Some((request, reply)) = errands.recv().await {
                let answer = tokio::time::timeout(PATIENCE, send(&client, request)).await;
                let answer = answer.unwrap_or_else(|_| Err("the collector took too long".into()));
                // Whoever asked has given up.
                let _ = reply.send(answer);
            }
        });
        Self(sender)
    }
}

async fn send(client: &HttpClient, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (head, body) = client.send(request.map(Body::from), PATIENCE).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

impl opentelemetry_http::HttpClient for Sender {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
    {
        Box::pin(async {
            let (reply, answer) = oneshot::channel();
            self.0.send((request, reply)).map_err(|_| "the node has stopped")?;
            answer.await?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, convert::Infallible, rc::Rc};

    use http_body_util::Full;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use opentelemetry_otlp::WithExportConfig;
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
    };
    use outlive::{config::Candidate, provider::usage::Usage, record::Trace, routing::price::NanoUsd};
    use prost::Message;
    use tokio::net::TcpListener;

    use super::*;
    use crate::listen::block_on;

    fn record(trace: Option<&str>) -> Record {
        let headers =
            trace.map(|trace| (http::HeaderName::from_static("traceparent"), trace.parse().unwrap()));
        let call = |span: &str, outcome, status, made| Call {
            candidate: Candidate { provider: "p".into(), model: "m".into() },
            span: span.into(),
            made,
            outcome,
            status,
            began: Timestamp(1_000),
            took: Duration::from_millis(20),
            usage: Usage { input: 3, output: 2, ..Usage::default() },
            cost: NanoUsd(1_500),
        };
        Record {
            id: "0123456789abcdef0123456789abcdef".into(),
            trace: Trace::of(&headers.into_iter().collect()),
            span: "1111111111111111".into(),
            format: "chat",
            model: "default".into(),
            caller: "me".into(),
            stream: true,
            outcome: "answered",
            began: Timestamp(990),
            took: Duration::from_millis(40),
            first: Some(Duration::from_millis(15)),
            rescues: 0,
            calls: vec![
                call("2222222222222222", "overloaded", Some(529), true),
                call("3333333333333333", "ok", None, true),
                call("4444444444444444", "budget", None, false),
            ],
            content: None,
        }
    }

    /// What a collector gets when these requests have ended.
    fn exported(records: &[Record]) -> Vec<Span> {
        let got = Rc::new(RefCell::new(Vec::new()));
        let seen = Rc::clone(&got);
        block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
            tokio::task::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = Rc::clone(&seen);
                    async move {
                        assert_eq!(request.uri().path(), "/v1/traces");
                        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        seen.borrow_mut().push(ExportTraceServiceRequest::decode(body).unwrap());
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                    }
                });
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
            let exporter =
                Exporter::new(SpanExporter::builder().with_http().with_endpoint(endpoint)).unwrap();
            records.iter().for_each(|record| exporter.export(record));
            exporter.finish().await;
        })
        .unwrap();
        let got = got.take().into_iter().flat_map(|request| request.resource_spans);
        got.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans).collect()
    }

    #[test]
    fn a_request_is_a_span_above_its_calls() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
        let spans = exported(&[record(Some(trace))]);
        let [failed, answered, request] = spans.as_slice() else { panic!("{} spans", spans.len()) };
        for span in &spans {
            assert_eq!(
                TraceId::from_bytes(span.trace_id.clone().try_into().unwrap()).to_string(),
                &trace[3..35]
            );
        }
        assert_eq!(request.parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
        assert_eq!((request.span_id.as_slice(), request.name.as_str()), (&[0x11; 8][..], "chat default"));
        assert_eq!((request.start_time_unix_nano, request.end_time_unix_nano), (990_000_000, 1_030_000_000));
        assert_eq!(
            (failed.parent_span_id.as_slice(), failed.span_id.as_slice()),
            (&[0x11; 8][..], &[0x22; 8][..])
        );
        assert_eq!(
            (failed.status.as_ref().unwrap().code, answered.status.as_ref().map(|s| s.code)),
            (2, Some(0))
        );
        let value = |span: &Span, key: &str| {
            let found = span.attributes.iter().find(|attribute| attribute.key == key);
            found.and_then(|attribute| attribute.value.clone()?.value)
        };
        assert_eq!(value(failed, attribute::ERROR), Some(Value::StringValue("overloaded".into())));
        assert_eq!(value(failed, attribute::STATUS), Some(Value::IntValue(529)));
        assert_eq!(value(answered, attribute::ERROR), None);
        // What was not sent used nothing, but the record says what its calls say.
        assert_eq!(value(request, attribute::OUTPUT_TOKENS), Some(Value::IntValue(6)));
        assert_eq!(value(request, attribute::COST), Some(Value::StringValue("0.0000045".into())));
    }

    #[test]
    fn a_request_without_a_trace_begins_one_and_one_that_is_not_kept_is_left_out() {
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-00";
        let spans = exported(&[record(None), record(Some(unsampled))]);
        assert_eq!(spans.len(), 3);
        assert!(
            spans
                .iter()
                .all(|span| span.trace_id == 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes())
        );
        assert!(spans.last().unwrap().parent_span_id.is_empty());
    }

    #[test]
    fn nothing_is_exported_unless_the_environment_says_where() {
        assert!(Exporter::of_environment(|_| None).unwrap().is_none());
        assert!(Exporter::of_environment(|_| Some(String::new())).unwrap().is_none());
    }
}
