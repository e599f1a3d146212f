//! Logs on standard error, and spans to an OTLP collector where one is named.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use edge_core::audit::{self, Span};
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter as OtlpExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanExporter, SpanLinks};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use crate::args::LogFormat;

/// Spans that wait for the exporter; one more is dropped and counted.
const QUEUE: usize = 8192;
const BATCH: usize = 512;
const INTERVAL: Duration = Duration::from_secs(1);
const EXPORT_TIME: Duration = Duration::from_secs(5);

/// Sets the process's log up. Structured, without payloads: nobody hands one to it.
///
/// # Errors
/// When the filter cannot be read.
pub fn init_log(format: LogFormat, level: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|error| format!("--log-level {level}: {error}"))?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    let set = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| format!("the log cannot be set up: {error}"))
}

/// Where finished spans go. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    queue: Option<mpsc::Sender<Span>>,
}

impl Spans {
    /// Hands a span over; never waits. False: the queue is full.
    #[must_use]
    pub fn send(&self, span: Span) -> bool {
        self.queue.as_ref().is_none_or(|queue| queue.try_send(span).is_ok())
    }
}

/// The exporter's task and the way to it.
pub struct Exporter {
    pub spans: Spans,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Sends what waits, and ends.
    pub async fn finish(self) {
        // An exporter that ended by itself has nothing left to stop.
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(EXPORT_TIME, self.task).await;
    }
}

/// Starts the exporter; to be called inside the runtime that it shall run on.
///
/// # Errors
/// When the endpoint is no `http://` URL.
pub fn export_to(endpoint: &str, edge: &str) -> Result<Exporter, String> {
    if !endpoint.starts_with("http://") {
        return Err(format!(
            "--otlp-endpoint {endpoint}: only http:// is spoken; send to a collector on this machine or in this cluster"
        ));
    }
    let built = OtlpExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(EXPORT_TIME).build();
    let mut exporter = built.map_err(|error: ExporterBuildError| format!("--otlp-endpoint {endpoint}: {error}"))?;
    let resource = Resource::builder()
        .with_service_name("sipmcp-edge")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("sipmcp.edge", edge.to_owned()))
        .build();
    exporter.set_resource(&resource);
    let (queue, spans) = mpsc::channel(QUEUE);
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(export(exporter, spans, stopped));
    Ok(Exporter { spans: Spans { queue: Some(queue) }, stop, task })
}

async fn export(exporter: OtlpExporter, mut spans: mpsc::Receiver<Span>, mut stopped: oneshot::Receiver<()>) {
    let scope = InstrumentationScope::builder("sipmcp").with_version(env!("CARGO_PKG_VERSION")).build();
    let mut batch = Vec::with_capacity(BATCH);
    let mut failing = false;
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            count = spans.recv_many(&mut batch, BATCH) => if count == 0 { return },
            _ = &mut stopped, if !stopping => {
                // What was sent before is still taken out, then nothing more comes in.
                stopping = true;
                spans.close();
                continue;
            }
        }
        let data = batch.drain(..).map(|span| span_data(span, &scope)).collect();
        match tokio::time::timeout(EXPORT_TIME, exporter.export(data)).await {
            Ok(Ok(())) => failing = false,
            Ok(Err(error)) if !failing => {
                tracing::warn!(%error, "spans could not be exported; more of these are not told");
                failing = true;
            }
            Err(_) if !failing => {
                tracing::warn!("spans could not be exported in time; more of these are not told");
                failing = true;
            }
            Ok(Err(_)) | Err(_) => {}
        }
        if !stopping && spans.len() < BATCH {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                _ = &mut stopped => {
                    stopping = true;
                    spans.close();
                }
            }
        }
    }
}

fn span_data(span: Span, scope: &InstrumentationScope) -> SpanData {
    let at = |at: sip_proto::time::UnixMillis| -> SystemTime { UNIX_EPOCH + Duration::from_millis(at.0) };
    let context = SpanContext::new(
        TraceId::from_bytes(span.trace_id),
        SpanId::from_bytes(span.span_id),
        TraceFlags::SAMPLED,
        false,
        TraceState::default(),
    );
    SpanData {
        span_context: context,
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from_bytes),
        // The parent of what a caller asked is the caller's own span.
        parent_span_is_remote: span.parent.is_some() && span.kind == audit::SpanKind::Server,
        span_kind: match span.kind {
            audit::SpanKind::Server => SpanKind::Server,
            audit::SpanKind::Client => SpanKind::Client,
        },
        name: span.name.into(),
        start_time: at(span.start),
        end_time: at(span.end),
        attributes: span.attributes.into_iter().map(|(name, value)| KeyValue::new(name, value)).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: if span.error { Status::error("") } else { Status::Unset },
        instrumentation_scope: scope.clone(),
    }
}
