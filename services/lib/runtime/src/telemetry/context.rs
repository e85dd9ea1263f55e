//! Where a span stands: in which trace, after whom, linked to whom. The context of a trace travels as W3C `traceparent`, in
//! the metadata of calls and in the record of a message.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{SpanContext, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing::field::Empty;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::TRACE;

/// The header field, also in the metadata of calls.
pub(crate) const TRACEPARENT: &str = "traceparent";

/// A trace's id, as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceId(opentelemetry::TraceId);

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The current span's trace, if it is kept: for log lines.
pub fn trace_id() -> Option<TraceId> {
    let context = standing(&Span::current())?;
    context.is_sampled().then(|| TraceId(context.trace_id()))
}

/// The current span as W3C `traceparent`, also when its trace isn't kept: who goes on with it is to know that. None without
/// tracing.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    let mut carrier = Carrier(None);
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.0
}

/// Makes `span`, which must be new, a child of what a `traceparent` names; a malformed one changes nothing.
pub fn continue_from(span: &Span, traceparent: &str) {
    if let Some(SpanMark(context)) = SpanMark::of_traceparent(traceparent) {
        // Without tracing there is no span that could have a parent.
        let _ = span.set_parent(Context::new().with_remote_span_context(context));
    }
}

/// Links `span` to another. A link to what a `traceparent` names also decides whether a new root is kept; it must be made before
/// anything happens in the span.
pub fn link(span: &Span, to: &SpanMark) {
    span.add_link(to.0.clone());
}

/// A span that others can be linked to, even when it has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanMark(SpanContext);

impl SpanMark {
    /// This span; none without tracing.
    pub fn of(span: &Span) -> Option<Self> {
        standing(span).map(Self)
    }

    /// What a W3C `traceparent` names; none when it is malformed.
    pub fn of_traceparent(traceparent: &str) -> Option<Self> {
        let carrier = Carrier(Some(traceparent.to_owned()));
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        let context = context.span().span_context().clone();
        context.is_valid().then_some(Self(context))
    }
}

/// What a span was for failed, and how, in a word.
pub fn failed(span: &Span, error_type: &str) {
    span.record("error.type", error_type);
    span.record("otel.status_code", "ERROR");
}

/// The span of a gRPC call that is served, as a child of the caller's; none when the caller has none. `path` is
/// `/package.Service/Method`.
pub fn server_span(path: &str, traceparent: Option<&str>) -> Span {
    let Some(traceparent) = traceparent else { return Span::none() };
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    let span = tracing::info_span!(
        target: TRACE,
        parent: None,
        "rpc",
        otel.name = format_args!("{service}/{method}"),
        otel.kind = "server",
        rpc.system = "grpc",
        rpc.service = service,
        rpc.method = method,
        error.type = Empty,
        otel.status_code = Empty,
    );
    continue_from(&span, traceparent);
    span
}

fn standing(span: &Span) -> Option<SpanContext> {
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// A `traceparent` by itself.
struct Carrier(Option<String>);

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = Some(value);
        }
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.as_deref().filter(|_| key == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

    use super::*;
    use crate::telemetry::{export, is_of_trace};

    const REMOTE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The spans that `work` leaves.
    fn traced(work: impl FnOnce()) -> Vec<SpanData> {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = export::layer(&provider).with_filter(filter_fn(is_of_trace));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), work);
        exporter.get_finished_spans().unwrap()
    }

    #[test]
    fn a_call_goes_on_with_the_callers_trace() {
        let mut told = None;
        let spans = traced(|| {
            let caller = tracing::info_span!(target: TRACE, "caller");
            let served = caller.in_scope(|| {
                told = trace_id();
                server_span("/stagepost.accounts.v1.Directory/Authorize", current_traceparent().as_deref())
            });
            drop(served);
        });
        let [served, caller] = &spans[..] else { panic!("{spans:#?}") };
        assert_eq!(served.name, "stagepost.accounts.v1.Directory/Authorize");
        assert_eq!(served.parent_span_id, caller.span_context.span_id());
        assert!(served.parent_span_is_remote);
        assert_eq!(served.span_context.trace_id(), caller.span_context.trace_id());
        assert_eq!(told.unwrap().to_string(), caller.span_context.trace_id().to_string());
    }

    #[test]
    fn what_a_record_names_can_be_continued_or_linked() {
        let spans = traced(|| {
            let first = tracing::info_span!(target: TRACE, parent: None, "first");
            continue_from(&first, REMOTE);
            drop(first);
            let later = tracing::info_span!(target: TRACE, parent: None, "later");
            link(&later, &SpanMark::of_traceparent(REMOTE).unwrap());
        });
        let [first, later] = &spans[..] else { panic!("{spans:#?}") };
        assert_eq!(first.span_context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(first.parent_span_id.to_string(), "b7ad6b7169203331");
        assert_ne!(later.span_context.trace_id(), first.span_context.trace_id());
        let linked = &later.links.links[0].span_context;
        assert_eq!(
            (linked.trace_id(), linked.span_id()),
            (first.span_context.trace_id(), first.parent_span_id)
        );
    }

    #[test]
    fn without_tracing_nothing_is_told_and_with_it_no_log_line() {
        assert_eq!((current_traceparent(), trace_id()), (None, None));
        assert_eq!(SpanMark::of(&server_span("/a/b", Some(REMOTE))), None);
        assert_eq!(SpanMark::of(&Span::current()), None);
        for malformed in ["", "00-0-0-01", "nonsense"] {
            assert_eq!(SpanMark::of_traceparent(malformed), None);
        }
        // A log line within a span is no part of the trace.
        let spans = traced(|| {
            tracing::info_span!(target: TRACE, "work").in_scope(|| {
                tracing::warn!(address = "somebody@d1.test", "a log line");
                tracing::info!(target: TRACE, code = 250, "RCPT");
            });
        });
        let events: Vec<&str> = spans[0].events.iter().map(|event| &*event.name).collect();
        assert_eq!(events, ["RCPT"]);
    }
}
