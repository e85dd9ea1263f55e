//! Values that make no sense are refused before anything is installed, and it is said what to do.

use tests::helm::try_template;

/// Values (YAML), and what must be said against them.
const REFUSED: &[(&str, &str)] = &[
    ("{ hostname: mail.example.com }", "hostname"),
    ("{ hostName: mail }", "hostName"),
    ("{ ingress: { replicas: 0 } }", "replicas"),
    ("{ ingress: { replicas: two } }", "replicas"),
    ("{ ingress: { service: { ports: { smtp: 70000 } } } }", "smtp"),
    (
        "{ ingress: { service: { ports: { smtp: 0, submission: 0, submissions: 0, alternative: 0 } } } }",
        "at least one port",
    ),
    ("{ ingress: { autoscaling: { minReplicas: 9 } } }", "minReplicas (9) is more than maxReplicas (6)"),
    ("{ config: { ingress: { linger: 3 } } }", "linger"),
    ("{ config: { nats: { url: 'nats://a:4222' } } }", "url"),
    ("{ config: { ingress: { drain_secs: soon } } }", "drain_secs"),
    ("{ nats: { replicas: 2 } }", "replicas"),
    ("{ nats: { persistence: { size: 1Gi } } }", "nats.persistence.size is too small"),
    ("{ nats: { persistence: { size: big } } }", "size"),
    ("{ nats: { enabled: false } }", "nats.enabled=false needs nats.external.url"),
    ("{ nats: { external: { url: 'nats://a:4222' } } }", "set nats.enabled=false"),
    ("{ nats: { enabled: false, external: { url: 'nats://me:word@a:4222' } } }", "url"),
    (
        "{ nats: { enabled: false, external: { url: 'nats://a:4222', user: me } } }",
        "nats.external.keys.password",
    ),
    (
        "{ nats: { enabled: false, external: { url: 'nats://a:4222', keys: { credentials: creds } } } }",
        "nats.external.existingSecret",
    ),
    ("{ redis: { enabled: false } }", "redis.enabled=false needs"),
    ("{ redis: { external: { url: 'redis://a:6379' } } }", "set redis.enabled=false"),
    ("{ redis: { enabled: false, external: { url: 'redis://:word@a:6379' } } }", "url"),
    ("{ tls: { selfSigned: false } }", "passwords are taken under TLS only"),
    ("{ tls: { certManager: { enabled: true } } }", "tls.certManager.issuerRef.name"),
    ("{ tls: { certManager: { enabled: true, issuerRef: { name: a } } } }", "hostName"),
    ("{ tls: { existingSecret: a, certManager: { enabled: true } } }", "exclude each other"),
    ("{ grpc: { tls: { enabled: true, certManager: { enabled: true } } } }", "issuerRef.name"),
    ("{ jaeger: { enabled: true }, tracing: { endpoint: 'http://a:4317' } }", "tracing.endpoint"),
    ("{ delivery: { replicas: 0 } }", "nobody would deliver"),
    ("{ delivery: { autoscaling: { enabled: true } } }", "prometheusAddress"),
    ("{ delivery: { hostNetworkPools: [{ name: a }] } }", "hostNetworkPools"),
    (
        "{ delivery: { replicas: 0, hostNetworkPools: \
         [{ name: a, hostName: a.example.com, address: 192.0.2.1, nodeSelector: { a: b } }] } }",
        "networkPolicy.hostNetworkCidrs",
    ),
    (
        "{ networkPolicy: { hostNetworkCidrs: [192.0.2.0/24] }, delivery: { hostNetworkPools: \
         [{ name: a, hostName: a.example.com, address: 192.0.2.1, nodeSelector: { a: b } }] } }",
        "config.operator.spf",
    ),
    ("{ gateway: { enabled: true } }", "gateway.parentRefs"),
    ("{ image: { digest: abc } }", "digest"),
];

#[test]
fn values_that_make_no_sense_are_refused_with_what_to_do() {
    for (values, wanted) in REFUSED {
        match try_template("helm", values) {
            Ok(_) => panic!("{values} is taken"),
            Err(said) => assert!(said.contains(wanted), "{values}: {said}"),
        }
    }
}

#[test]
fn a_value_is_no_more_strictly_read_than_it_must_be() {
    for values in ["{ global: { imageRegistry: a } }", "{ ingress: { resources: { limits: { cpu: 2 } } } }"] {
        try_template("helm", values).unwrap();
    }
}
