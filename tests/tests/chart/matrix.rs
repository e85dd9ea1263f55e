//! Values that the chart is rendered with. Secrets and claims that users bring are called `own-...`.

/// Name and values (YAML).
pub(crate) const MATRIX: &[(&str, &str)] = &[
    ("default", "{}"),
    (
        "named",
        "{ fullnameOverride: post, commonLabels: { team: mail }, hostName: mail.example.com, clusterDomain: c.example }",
    ),
    ("open", "{ networkPolicy: { enabled: false } }"),
    ("six", "{ listenAddress: '[::]', ingress: { service: { ipFamilyPolicy: RequireDualStack } } }"),
    (
        "trying out",
        "{ nats: { persistence: { enabled: false } }, redis: { persistence: { enabled: false } }, \
           config: { delivery: { mode: sandbox } }, jaeger: { enabled: true }, \
           ingress: { replicas: 1, service: { type: NodePort, nodePorts: { submission: 30587 } } } }",
    ),
    (
        "large",
        "hostName: mail.example.com\n\
         nats: { replicas: 3, spread: DoNotSchedule, persistence: { storageClass: fast, size: 500Gi } }\n\
         grpc: { tls: { enabled: true } }\n\
         tls: { certManager: { enabled: true, issuerRef: { name: letsencrypt, kind: ClusterIssuer } } }\n\
         operator: { replicas: 2 }\n\
         ingress: { autoscaling: { enabled: true } }\n\
         delivery: { autoscaling: { enabled: true, prometheusAddress: 'http://prometheus.monitoring:9090' } }\n\
         monitoring: { podMonitor: { enabled: true }, rules: { enabled: true, disabled: [StagepostLoginsGuessed] }, dashboards: { enabled: true } }\n\
         tracing: { endpoint: 'http://collector.tracing:4317' }\n\
         config:\n\
         \x20 trace_ratio: 0.01\n\
         \x20 nats: { events_bytes_max: 10737418240, events_hours_max: 720 }\n\
         \x20 ingress: { connections_max: 5000, drain_secs: 300 }\n\
         \x20 delivery:\n\
         \x20   drain_secs: 600\n\
         \x20   site_limits: { google: '0:1:40', 'mx1.example.com+mx2.example.com': '2.5:10:4' }\n\
         \x20   retry_waits_secs: [60, 300, 900]\n\
         \x20 operator: { senders: ['192.0.2.1=mail.example.com'], report_hosts: [mail.example.com], spf: 'include:_spf.example.net' }\n",
    ),
    (
        "brought along",
        "hostName: mail.example.com\n\
         tls: { existingSecret: own-tls }\n\
         grpc: { token: { existingSecret: own-token, key: t }, tls: { enabled: true, existingSecret: own-grpc } }\n\
         accounts: { sealingKey: { existingSecret: own-sealing, key: k } }\n\
         nats:\n\
         \x20 enabled: false\n\
         \x20 external:\n\
         \x20   url: 'tls://nats-1.example.com:4222,tls://nats-2.example.com:4222'\n\
         \x20   monitor: ['http://nats-1.example.com:8222']\n\
         \x20   user: stagepost\n\
         \x20   existingSecret: own-nats\n\
         \x20   keys: { password: password, ca: ca.crt, certificate: tls.crt, key: tls.key }\n\
         redis: { enabled: false, external: { existingSecret: own-redis, keys: { ca: ca.crt } } }\n\
         crds: { enabled: false }\n\
         operator: { watchNamespace: shop }\n\
         image: { digest: 'sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', pullSecrets: [{ name: own-registry }] }\n",
    ),
    (
        "passwords brought along",
        "nats: { password: { existingSecret: own-nats, key: p } }\n\
         redis: { password: { existingSecret: own-redis, key: p } }\n\
         crds: { keep: false }\n\
         test: { enabled: false }\n\
         operator: { enabled: true }\n",
    ),
    (
        "addresses that stay",
        "hostName: mail.example.com\n\
         delivery:\n\
         \x20 replicas: 0\n\
         \x20 hostNetworkPools:\n\
         \x20   - { name: out-a, hostName: out-a.example.com, address: 192.0.2.1, nodeSelector: { stagepost.dev/egress: a } }\n\
         networkPolicy: { hostNetworkCidrs: [198.51.100.0/24] }\n",
    ),
    (
        "behind a gateway",
        "hostName: mail.example.com\n\
         ingress: { service: { type: ClusterIP, ports: { smtp: 0, alternative: 0 } } }\n\
         gateway: { enabled: true, parentRefs: [{ name: public, namespace: gateways }] }\n\
         redis: { enabled: false, external: { url: 'rediss://redis.example.com:6379' } }\n\
         grpc: { tls: { enabled: true, certManager: { enabled: true, issuerRef: { name: services } } } }\n",
    ),
];
