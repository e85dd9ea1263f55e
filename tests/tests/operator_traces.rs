//! What the operator does about an object is a trace.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use tests::jaeger::{Jaeger, Trace};
use tests::operated::Operated;

fn about_the_domain(trace: &Trace, part: &str) -> bool {
    let looks = trace.named("reconcile");
    let [look] = looks.as_slice() else { return false };
    let of_look = |name: &str| {
        let spans = trace.named(name);
        !spans.is_empty() && spans.iter().all(|span| span.parent.as_deref() == Some(&look.id))
    };
    look.parent.is_none()
        && look.attribute("k8s.object.kind") == "SendingDomain"
        && look.attribute("k8s.namespace.name") == "shop"
        && look.attribute("k8s.object.name") == "example"
        && of_look(part)
}

#[test]
fn a_look_at_an_object_is_a_trace_with_what_it_took() {
    let site = Operated::start();
    let jaeger = Jaeger::start(&site.lab);
    let mut arguments = site.arguments();
    arguments.push(format!("--otlp-endpoint={}", jaeger.endpoint()));
    let _operator = site.cluster.operator("one", &arguments);
    site.apply_domain();
    site.checked_domain(2);
    for part in ["dkim.generate", "dns.check"] {
        jaeger
            .wait_for(part, |traces| traces.iter().any(|trace| about_the_domain(trace, part)).then_some(()));
    }
}
