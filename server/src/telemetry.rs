//! Exports finished requests as OpenTelemetry spans: one for each request, with a child for each call of a provider.
//! Metrics are not exported but served by the core at `/metrics`.
//!
//! OpenTelemetry's own environment variables configure it
//! (<https://opentelemetry.io/docs/specs/otel/protocol/exporter/>). Without an endpoint nothing is exported. The
//! protocol is OTLP over HTTP with binary Protobuf.

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
    platform::Http,
    record::{AttemptRecord, Record},
    time::Timestamp,
};
use outlive_machine::HttpClient;
use tokio::sync::{mpsc, oneshot};

/// The variables that name the collector. Either of them turns the export on.
const ENDPOINT_VARIABLES: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Longest wait for the collector to take a batch: the specification's default.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for the last batch when the node shuts down: a collector that is gone must not delay that.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// Most bytes of a collector's answer that are read: it holds a count of rejected spans and a message.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Sends spans to a collector. Clones share one queue.
///
/// Spans wait in a queue of 2,048 for a thread that sends them. When the queue is full, new spans are dropped, so that
/// a slow collector does not delay requests.
#[derive(Clone, Debug)]
pub struct Exporter {
    processor: Arc<BatchSpanProcessor>,
    scope: InstrumentationScope,
}

impl Exporter {
    /// The exporter that the environment configures; `None` without an endpoint. Must be called within a `LocalSet`.
    ///
    /// # Errors
    ///
    /// The endpoint is not a URL.
    pub fn from_environment(env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let Some(name) =
            ENDPOINT_VARIABLES.into_iter().find(|name| env(name).is_some_and(|value| !value.is_empty()))
        else {
            return Ok(None);
        };
        Self::new(SpanExporter::builder().with_http()).map(Some).map_err(|reason| format!("{name}: {reason}"))
    }

    fn new(
        builder: opentelemetry_otlp::SpanExporterBuilder<opentelemetry_otlp::HttpExporterBuilderSet>,
    ) -> Result<Self, String> {
        let exporter =
            builder.with_http_client(ExportClient::new()).build().map_err(|error| error.to_string())?;
        let mut processor = BatchSpanProcessor::builder(exporter).build();
        // The SDK's default name is `unknown_service`.
        let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some();
        let resource = Resource::builder();
        let resource = if is_named { resource } else { resource.with_service_name("outlive") };
        processor.set_resource(&resource.build());
        let scope = InstrumentationScope::builder("outlive").with_version(env!("CARGO_PKG_VERSION")).build();
        Ok(Self { processor: Arc::new(processor), scope })
    }

    /// Puts the spans of a request into the queue, unless the client's trace is not sampled.
    pub fn export(&self, record: &Record) {
        let is_sampled = record.trace.as_ref().is_none_or(|trace| trace.is_sampled());
        if !is_sampled {
            return;
        }
        // A request that belongs to no trace starts one; its id serves as the trace's.
        let trace = record.trace.as_ref().map_or(record.id.as_str(), |trace| trace.id.as_str());
        let Ok(trace) = TraceId::from_hex(trace) else { return };
        let span = |id: &str| SpanId::from_hex(id).unwrap_or(SpanId::INVALID);
        let parent = record.trace.as_ref().map_or(SpanId::INVALID, |trace| span(&trace.parent));
        let request = span(&record.span);
        for call in record.calls.iter().filter(|call| call.was_sent) {
            let name = format!("{} {}", record.format, call.candidate.model);
            let times = (call.started_at, call.duration);
            let span = self.span(trace, span(&call.span), request, SpanKind::Client, name, times);
            self.processor.on_end(SpanData {
                attributes: call_attributes(record, call),
                status: span_status(call.outcome),
                ..span
            });
        }
        let name = format!("{} {}", record.format, record.model);
        let span =
            self.span(trace, request, parent, SpanKind::Server, name, (record.started_at, record.duration));
        self.processor.on_end(SpanData {
            attributes: request_attributes(record),
            status: span_status(record.outcome),
            parent_span_is_remote: record.trace.is_some(),
            ..span
        });
    }

    /// Sends the spans in the queue. Later spans are dropped.
    pub async fn shut_down(self) {
        let shut_down = move || self.processor.shutdown_with_timeout(SHUTDOWN_TIMEOUT);
        // On another thread: it blocks until the requests are sent, and those are sent by this thread.
        if let Ok(Err(error)) = tokio::task::spawn_blocking(shut_down).await {
            crate::log::say(format_args!("outlive: the last spans are not exported: {error}"));
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

fn request_attributes(record: &Record) -> Vec<KeyValue> {
    let usage = record.usage();
    let mut attributes = vec![
        KeyValue::new(attribute::OPERATION, record.format),
        KeyValue::new(attribute::MODEL, record.model.clone()),
        KeyValue::new(attribute::INPUT_TOKENS, attribute_value(usage.total_input())),
        KeyValue::new(attribute::OUTPUT_TOKENS, attribute_value(usage.output)),
        KeyValue::new(attribute::REQUEST, record.id.clone()),
        KeyValue::new(attribute::KEY, record.caller.clone()),
        KeyValue::new(attribute::OUTCOME, record.outcome),
        KeyValue::new(attribute::RESCUES, attribute_value(record.rescues)),
        KeyValue::new(attribute::COST, record.cost().to_string()),
    ];
    attributes.extend(
        record.time_to_first_content.map(|first| KeyValue::new(attribute::FIRST_CHUNK, first.as_secs_f64())),
    );
    attributes
}

fn call_attributes(record: &Record, call: &AttemptRecord) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new(attribute::OPERATION, record.format),
        KeyValue::new(attribute::PROVIDER, call.candidate.provider.clone()),
        KeyValue::new(attribute::MODEL, call.candidate.model.clone()),
        KeyValue::new(attribute::INPUT_TOKENS, attribute_value(call.usage.total_input())),
        KeyValue::new(attribute::OUTPUT_TOKENS, attribute_value(call.usage.output)),
        KeyValue::new(attribute::COST, call.cost.to_string()),
    ];
    if call.outcome != "ok" {
        attributes.push(KeyValue::new(attribute::ERROR, call.outcome));
    }
    attributes.extend(call.status.map(|status| KeyValue::new(attribute::STATUS, i64::from(status))));
    attributes
}

fn span_status(outcome: &'static str) -> Status {
    match outcome {
        "ok" | "answered" | "cancelled" => Status::Unset,
        _ => Status::error(outcome),
    }
}

fn attribute_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The HTTP client of the SDK's export thread. It passes requests to the node's thread, where [`HttpClient`] must run.
#[derive(Debug)]
struct ExportClient(mpsc::UnboundedSender<ExportRequest>);

/// A request to the collector, and where its response goes.
type ExportRequest = (Request<Bytes>, oneshot::Sender<Result<Response<Bytes>, HttpError>>);

impl ExportClient {
    fn new() -> Self {
        // Unbounded, but never longer than one: the SDK sends one batch at a time.
        let (sender, mut requests) = mpsc::unbounded_channel::<ExportRequest>();
        tokio::task::spawn_local(async move {
            let client = HttpClient::default();
            while let Some((request, reply)) = requests.recv().await {
                let response = tokio::time::timeout(EXPORT_TIMEOUT, send(&client, request)).await;
                let response = response.unwrap_or_else(|_| Err("the collector took too long".into()));
                // Send errors are ignored: the export has timed out.
                let _ = reply.send(response);
            }
        });
        Self(sender)
    }
}

async fn send(client: &HttpClient, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
    let (head, body) = client.send(request.map(Body::from), EXPORT_TIMEOUT).await?.into_parts();
    let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
    Ok(Response::from_parts(head, body))
}

impl opentelemetry_http::HttpClient for ExportClient {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
    {
        Box::pin(async {
            let (reply, response) = oneshot::channel();
            self.0.send((request, reply)).map_err(|_| "the node has stopped")?;
            response.await?
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
    use outlive::{
        model::Candidate,
        money::NanoUsd,
        trace::Trace,
        usage::{Usage, UsageSource},
    };
    use prost::Message;
    use tokio::net::TcpListener;

    use super::*;
    use crate::listen::block_on;

    fn record(trace: Option<&str>) -> Record {
        let headers =
            trace.map(|trace| (http::HeaderName::from_static("traceparent"), trace.parse().unwrap()));
        let call = |span: &str, outcome, status, made| AttemptRecord {
            candidate: Candidate { provider: "p".into(), model: "m".into() },
            span: span.into(),
            was_sent: made,
            outcome,
            status,
            cause: None,
            text: None,
            started_at: Timestamp(1_000),
            duration: Duration::from_millis(20),
            usage: Usage { input: 3, output: 2, ..Usage::default() },
            usage_source: UsageSource::Provider,
            dropped: Vec::new(),
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
            started_at: Timestamp(990),
            duration: Duration::from_millis(40),
            time_to_first_content: Some(Duration::from_millis(15)),
            rescues: 0,
            calls: vec![
                call("2222222222222222", "overloaded", Some(529), true),
                call("3333333333333333", "ok", None, true),
                call("4444444444444444", "budget", None, false),
            ],
            content: None,
        }
    }

    /// The spans that a collector receives for `records`.
    fn exported(records: &[Record]) -> Vec<Span> {
        let received = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&received);
        block_on(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = format!("http://{}/v1/traces", listener.local_addr().unwrap());
            tokio::task::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let service = service_fn(move |request: Request<Incoming>| {
                    let sink = Rc::clone(&sink);
                    async move {
                        assert_eq!(request.uri().path(), "/v1/traces");
                        assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        sink.borrow_mut().push(ExportTraceServiceRequest::decode(body).unwrap());
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                    }
                });
                drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
            let exporter =
                Exporter::new(SpanExporter::builder().with_http().with_endpoint(endpoint)).unwrap();
            records.iter().for_each(|record| exporter.export(record));
            exporter.shut_down().await;
        })
        .unwrap();
        let received = received.take().into_iter().flat_map(|request| request.resource_spans);
        received.flat_map(|spans| spans.scope_spans).flat_map(|spans| spans.spans).collect()
    }

    #[test]
    fn a_request_is_the_parent_span_of_its_calls() {
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
        // The sum over all calls of the record, also the one that was not made.
        assert_eq!(value(request, attribute::OUTPUT_TOKENS), Some(Value::IntValue(6)));
        assert_eq!(value(request, attribute::COST), Some(Value::StringValue("0.0000045".into())));
    }

    #[test]
    fn a_request_without_a_trace_starts_one_and_an_unsampled_trace_is_not_exported() {
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
    fn nothing_is_exported_without_an_endpoint() {
        assert!(Exporter::from_environment(|_| None).unwrap().is_none());
        assert!(Exporter::from_environment(|_| Some(String::new())).unwrap().is_none());
    }
}
