//! Spans on their way to a collector, by OTLP over gRPC.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use opentelemetry::trace::{Link, SpanKind, TraceContextExt as _, TraceId, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkError;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingResult, SdkTracer, SdkTracerProvider,
    ShouldSample,
};
use tonic::transport::Endpoint;
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::registry::LookupSpan;

/// The name of what makes the spans, whichever service it is in.
const SCOPE: &str = "stagepost";
/// Spans that wait to be sent; those that come when so many wait are left out.
const WAITING_MAX: usize = 16_384;
const SEND_EVERY: Duration = Duration::from_secs(1);
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// Where traces go, and how many of them.
#[derive(Clone, Debug)]
pub struct Traces {
    /// The collector.
    pub endpoint: OtlpEndpoint,
    /// How many traces are kept.
    pub ratio: TraceRatio,
    /// The name of the service that spans come from: `service.name` of OpenTelemetry's resource conventions.
    pub service: &'static str,
    /// The program's version, as spans tell it.
    pub version: &'static str,
}

/// A collector that takes OTLP over gRPC: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtlpEndpoint(String);

/// The text names no collector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no collector: expected http://host:port")]
pub struct ParseOtlpEndpointError(String);

impl FromStr for OtlpEndpoint {
    type Err = ParseOtlpEndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let endpoint = Endpoint::from_shared(text.to_owned()).ok();
        let usable = endpoint.is_some_and(|endpoint| {
            let uri = endpoint.uri();
            uri.scheme_str() == Some("http") && uri.port().is_some() && matches!(uri.path(), "" | "/")
        });
        if usable { Ok(Self(text.to_owned())) } else { Err(ParseOtlpEndpointError(text.to_owned())) }
    }
}

impl fmt::Display for OtlpEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which part of all traces is kept, from 0 (none) to 1 (all).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceRatio(f64);

/// The text is no such number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a number from 0 to 1")]
pub struct ParseTraceRatioError;

impl TraceRatio {
    /// No trace is kept.
    pub fn is_zero(self) -> bool {
        self.0 == 0.0
    }
}

impl FromStr for TraceRatio {
    type Err = ParseTraceRatioError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
        ratio.map(Self).ok_or(ParseTraceRatioError)
    }
}

impl fmt::Display for TraceRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why tracing can't be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The collector's client can't be made.
    #[error("can't send traces to {endpoint} (--otlp-endpoint): {source}")]
    Exporter {
        /// The collector.
        endpoint: OtlpEndpoint,
        /// Why.
        source: ExporterBuildError,
    },
}

/// Sends in the background. Outside a tokio runtime the client would be made too, and send nothing.
pub(super) fn provider(traces: &Traces) -> Result<SdkTracerProvider, StartError> {
    let Traces { endpoint, ratio, service, version } = traces;
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint.0.as_str())
        .with_timeout(SEND_WITHIN)
        .build()
        .map_err(|source| StartError::Exporter { endpoint: endpoint.clone(), source })?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(WAITING_MAX)
        .with_scheduled_delay(SEND_EVERY)
        .build();
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let resource = Resource::builder()
        .with_service_name(*service)
        .with_attribute(KeyValue::new("service.version", *version))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_sampler(Sampling { roots: Sampler::TraceIdRatioBased(ratio.0) })
        .with_resource(resource)
        .build())
}

/// What turns spans of `tracing` into those that are sent. It tells neither where in the code they are nor on which thread: that
/// says nothing of a message.
pub(super) fn layer<S>(provider: &SdkTracerProvider) -> OpenTelemetryLayer<S, SdkTracer>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer(SCOPE))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
}

/// Sends what is left.
pub(super) fn end(provider: SdkTracerProvider) -> Result<(), OTelSdkError> {
    provider.shutdown_with_timeout(SEND_WITHIN)
}

/// A span is kept with its parent, and a root that goes on with what another process or an earlier attempt began, to which it
/// is linked, with that; of all other roots, a part is kept.
#[derive(Clone, Debug)]
struct Sampling {
    roots: Sampler,
}

impl ShouldSample for Sampling {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let parent_sampled = parent.and_then(|parent| {
            let context = parent.span().span_context().clone();
            context.is_valid().then(|| context.is_sampled())
        });
        let continued = || {
            let link = links.iter().find(|link| link.span_context.is_remote());
            link.map(|link| link.span_context.is_sampled())
        };
        let sampler = match parent_sampled.or_else(continued) {
            Some(true) => &Sampler::AlwaysOn,
            Some(false) => &Sampler::AlwaysOff,
            None => &self.roots,
        };
        sampler.should_sample(parent, trace_id, name, kind, attributes, links)
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
    use opentelemetry_sdk::trace::SamplingDecision;

    use super::*;

    #[test]
    fn a_collector_is_named_by_host_and_port() {
        for text in ["http://127.0.0.1:4317", "http://jaeger-collector.tracing:4317", "http://[::1]:4317/"] {
            assert_eq!(text.parse::<OtlpEndpoint>().unwrap().to_string(), text);
        }
        for text in
            ["", "jaeger:4317", "http://jaeger", "https://jaeger:4317", "http://jaeger:4318/v1/traces"]
        {
            assert!(text.parse::<OtlpEndpoint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_ratio_is_a_number_from_0_to_1() {
        for text in ["0", "1", "0.25"] {
            assert_eq!(text.parse::<TraceRatio>().unwrap().to_string(), text);
        }
        assert!("0.0".parse::<TraceRatio>().unwrap().is_zero());
        for text in ["", "-0.1", "1.5", "NaN", "all"] {
            assert!(text.parse::<TraceRatio>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_span_is_kept_with_its_parent_a_continued_root_with_what_it_continues() {
        let context = |sampled: bool, remote: bool| {
            let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
            SpanContext::new(TraceId::from(1), SpanId::from(1), flags, remote, TraceState::default())
        };
        let kept = |ratio: f64, parent: Option<SpanContext>, link: Option<SpanContext>| {
            let sampling = Sampling { roots: Sampler::TraceIdRatioBased(ratio) };
            let parent = parent.map(|parent| Context::new().with_remote_span_context(parent));
            let links: Vec<Link> = link.map(Link::with_context).into_iter().collect();
            let id = TraceId::from(u128::MAX / 2);
            let result = sampling.should_sample(parent.as_ref(), id, "", &SpanKind::Internal, &[], &links);
            result.decision == SamplingDecision::RecordAndSample
        };
        assert!(kept(1.0, None, None));
        assert!(!kept(0.0, None, None));
        assert!(kept(0.0, Some(context(true, true)), None));
        assert!(!kept(1.0, Some(context(false, false)), Some(context(true, true))));
        assert!(kept(0.0, None, Some(context(true, true))));
        assert!(!kept(1.0, None, Some(context(false, true))));
        // A session that isn't kept says nothing of its transactions.
        assert!(kept(1.0, None, Some(context(false, false))));
    }
}
