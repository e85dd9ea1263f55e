{{/* Values that don't fit together are refused, with what to do about it. */}}
{{- define "stagepost.checks" -}}
{{- $values := .Values -}}
{{- if not (include "stagepost.tlsSecret" .) -}}
{{- fail "nobody could log in: passwords are taken under TLS only. Set tls.existingSecret, tls.certManager.enabled or, for trying out, tls.selfSigned" -}}
{{- end -}}
{{- if and $values.tls.existingSecret $values.tls.certManager.enabled -}}
{{- fail "tls.existingSecret and tls.certManager.enabled exclude each other: which certificate is it?" -}}
{{- end -}}
{{- if $values.tls.certManager.enabled -}}
{{- if not $values.tls.certManager.issuerRef.name -}}
{{- fail "tls.certManager.enabled needs tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if not (or $values.hostName $values.tls.certManager.dnsNames) -}}
{{- fail "tls.certManager.enabled needs a name for the certificate: hostName or tls.certManager.dnsNames" -}}
{{- end -}}
{{- end -}}
{{- with $values.grpc.tls -}}
{{- if and .enabled .certManager.enabled (not .certManager.issuerRef.name) -}}
{{- fail "grpc.tls.certManager.enabled needs grpc.tls.certManager.issuerRef.name" -}}
{{- end -}}
{{- if and .existingSecret .certManager.enabled -}}
{{- fail "grpc.tls.existingSecret and grpc.tls.certManager.enabled exclude each other" -}}
{{- end -}}
{{- end -}}
{{- with $values.nats -}}
{{- if .enabled -}}
{{- if .external.url -}}
{{- fail "nats.external.url is set, but nats.enabled runs NATS in the cluster: set nats.enabled=false to use the other" -}}
{{- end -}}
{{- $found := lookup "apps/v1" "StatefulSet" $.Release.Namespace (printf "%s-nats" (include "stagepost.fullname" $)) -}}
{{- if and $found (ne (int $found.spec.replicas) (int .replicas)) -}}
{{- fail (printf "nats.replicas can't be changed from %d to %d: a server that was alone doesn't take its mail into a cluster. Let the queue run dry and install anew" (int $found.spec.replicas) (int .replicas)) -}}
{{- end -}}
{{- if lt (int64 (include "stagepost.octets" .persistence.size)) 4294967296 -}}
{{- fail "nats.persistence.size is too small: a quarter stays free and a gigabyte is set aside for events, so give it 4Gi or more" -}}
{{- end -}}
{{- else -}}
{{- if not .external.url -}}
{{- fail "nats.enabled=false needs nats.external.url: mail is kept in NATS" -}}
{{- end -}}
{{- if and .external.keys.password (not .external.user) -}}
{{- fail "nats.external.keys.password needs nats.external.user" -}}
{{- end -}}
{{- if and .external.user (not .external.keys.password) -}}
{{- fail "nats.external.user needs its password: nats.external.existingSecret and nats.external.keys.password" -}}
{{- end -}}
{{- if ne (empty .external.keys.certificate) (empty .external.keys.key) -}}
{{- fail "nats.external.keys.certificate and nats.external.keys.key go together" -}}
{{- end -}}
{{- with .external -}}
{{- if and (or .keys.password .keys.credentials .keys.ca .keys.certificate) (not .existingSecret) -}}
{{- fail "nats.external.keys names keys of a Secret: say which in nats.external.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $values.redis -}}
{{- if .enabled -}}
{{- if or .external.url .external.existingSecret -}}
{{- fail "redis.external is set, but redis.enabled runs Valkey in the cluster: set redis.enabled=false to use the other" -}}
{{- end -}}
{{- else if not (or .external.url .external.existingSecret) -}}
{{- fail "redis.enabled=false needs redis.external.url or redis.external.existingSecret: limits are shared in Redis" -}}
{{- else if and .external.keys.ca (not .external.existingSecret) -}}
{{- fail "redis.external.keys.ca names a key of a Secret: say which in redis.external.existingSecret" -}}
{{- end -}}
{{- end -}}
{{- if and $values.jaeger.enabled $values.tracing.endpoint -}}
{{- fail "tracing.endpoint is set, but jaeger.enabled runs Jaeger in the cluster: traces go to one of them" -}}
{{- end -}}
{{- with $values.delivery -}}
{{- if and (eq (int .replicas) 0) (not .autoscaling.enabled) (not .hostNetworkPools) -}}
{{- fail "delivery.replicas=0: nobody would deliver. Give it pods, or delivery.hostNetworkPools" -}}
{{- end -}}
{{- if and .autoscaling.enabled (not .autoscaling.prometheusAddress) -}}
{{- fail "delivery.autoscaling.enabled needs delivery.autoscaling.prometheusAddress: KEDA asks Prometheus for the jobs that are ready" -}}
{{- end -}}
{{- if and .hostNetworkPools $values.networkPolicy.enabled (not $values.networkPolicy.hostNetworkCidrs) -}}
{{- fail "delivery.hostNetworkPools come with their nodes' addresses: name the nodes' networks in networkPolicy.hostNetworkCidrs, or NATS won't let them in" -}}
{{- end -}}
{{- if and .hostNetworkPools (gt (add (int .replicas) (ternary 1 0 .autoscaling.enabled)) 0) (not (dig "operator" "spf" "" $values.config)) -}}
{{- fail "delivery.replicas beside delivery.hostNetworkPools: mail leaves from the nodes' usual addresses too, which SPF must permit. Say by which term in config.operator.spf, or set delivery.replicas=0" -}}
{{- end -}}
{{- end -}}
{{- range list $values.ingress.autoscaling $values.delivery.autoscaling -}}
{{- if gt (int .minReplicas) (int .maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas (%d) is more than maxReplicas (%d)" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- with $values.ingress.service -}}
{{- if not (or .ports.smtp .ports.submission .ports.submissions .ports.alternative) -}}
{{- fail "ingress.service.ports: at least one port must be open" -}}
{{- end -}}
{{- end -}}
{{- if and $values.gateway.enabled (not $values.gateway.parentRefs) -}}
{{- fail "gateway.enabled needs gateway.parentRefs: which gateway?" -}}
{{- end -}}
{{- end -}}
