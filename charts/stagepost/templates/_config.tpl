{{/* A value as TOML has it. */}}
{{- define "stagepost.tomlValue" -}}
{{- if kindIs "string" . -}}
{{ toRawJson . }}
{{- else if kindIs "bool" . -}}
{{ . }}
{{- else if kindIs "slice" . -}}
{{- $items := list -}}
{{- range . }}{{ $items = append $items (include "stagepost.tomlValue" .) }}{{ end -}}
[{{ join ", " $items }}]
{{- else if kindIs "map" . -}}
{{- $items := list -}}
{{- range $key, $value := . }}{{ $items = append $items (printf "%s = %s" (toRawJson $key) (include "stagepost.tomlValue" $value)) }}{{ end -}}
{ {{ join ", " $items }} }
{{- else if eq (float64 (int64 .)) (float64 .) -}}
{{ int64 . }}
{{- else -}}
{{ . }}
{{- end -}}
{{- end -}}

{{/* What the chart sets itself, by table. */}}
{{- define "stagepost.settings" -}}
host_name: {{ include "stagepost.hostName" . | quote }}
admin_listen: {{ printf "%s:8080" .Values.listenAddress | quote }}
{{- with include "stagepost.otlp" . }}
otlp_endpoint: {{ . | quote }}
{{- end }}
{{- if include "stagepost.tlsSecret" . }}
tls_certificate: /etc/stagepost/tls/tls.crt
tls_key: /etc/stagepost/tls/tls.key
{{- end }}
accounts:
  server: {{ include "stagepost.scheme" . }}://{{ include "stagepost.host" (dict "root" . "component" "accounts") }}:8081
  sealing_key: /etc/stagepost/sealing/sealing.key
grpc:
  listen: {{ printf "%s:8081" .Values.listenAddress | quote }}
  token_file: /etc/stagepost/token/token
  {{- if .Values.grpc.tls.enabled }}
  certificate: /etc/stagepost/grpc/tls.crt
  key: /etc/stagepost/grpc/tls.key
  ca: /etc/stagepost/grpc/ca.crt
  client_ca: /etc/stagepost/grpc/ca.crt
  {{- end }}
ingress:
  listen: {{ list (printf "%s:2525" .Values.listenAddress) (printf "%s:2587" .Values.listenAddress) | toJson }}
  listen_tls: {{ ternary (list (printf "%s:2465" .Values.listenAddress)) list (not (empty (include "stagepost.tlsSecret" .))) | toJson }}
nats:
  url: {{ include "stagepost.natsUrl" . | quote }}
  replicas: {{ include "stagepost.natsReplicas" . }}
  partitions: {{ include "stagepost.natsReplicas" . | eq "1" | ternary 8 2 }}
  {{- if .Values.nats.enabled }}
  user: stagepost
  password_file: /etc/stagepost/nats/password
  {{- else }}
  {{- with .Values.nats.external }}
  {{- with .monitor }}
  monitor: {{ toJson . }}
  {{- end }}
  {{- if .keys.password }}
  user: {{ .user | quote }}
  password_file: /etc/stagepost/nats/password
  {{- end }}
  {{- if .keys.credentials }}
  credentials: /etc/stagepost/nats/credentials
  {{- end }}
  {{- if .keys.ca }}
  ca: /etc/stagepost/nats/ca.crt
  {{- end }}
  {{- if .keys.certificate }}
  certificate: /etc/stagepost/nats/tls.crt
  key: /etc/stagepost/nats/tls.key
  {{- end }}
  {{- end }}
  {{- end }}
{{- if and (not .Values.redis.enabled) .Values.redis.external.keys.ca }}
redis:
  ca: /etc/stagepost/redis/ca.crt
{{- end }}
operator:
  smtp_host: {{ .Values.operator.smtpHost | default (include "stagepost.hostName" .) | quote }}
  smtp_port: {{ .Values.operator.smtpPort }}
  {{- with .Values.operator.watchNamespace }}
  namespace: {{ . | quote }}
  {{- end }}
  {{- $senders := list }}
  {{- range .Values.delivery.hostNetworkPools }}
  {{- $senders = append $senders (printf "%s=%s" .address .hostName) }}
  {{- end }}
  senders: {{ toJson $senders }}
  {{- if ne (len (dig "operator" "senders" "" .Values.config | default $senders)) 1 }}
  spf: {{ printf "a:%s" (include "stagepost.hostName" .) | quote }}
  {{- end }}
{{- if include "stagepost.sandbox" . }}
delivery:
  sandbox: /var/lib/stagepost/sandbox
{{- end }}
{{- end -}}

{{/* Whether mail may go into the sandbox. */}}
{{- define "stagepost.sandbox" -}}
{{- if or (eq (dig "delivery" "mode" "" .Values.config) "sandbox") (eq (dig "ingress" "unready" "" .Values.config) "sandbox") -}}
true
{{- end -}}
{{- end -}}

{{/* The settings file, which all pods share: what the user says wins where both may. */}}
{{- define "stagepost.toml" -}}
{{- $all := mergeOverwrite (include "stagepost.settings" . | fromYaml) (deepCopy .Values.config) -}}
{{- range $key, $value := $all }}
{{- if not (kindIs "map" $value) }}
{{ $key }} = {{ include "stagepost.tomlValue" $value }}
{{- end }}
{{- end }}
{{- range $table, $settings := $all }}
{{- if and (kindIs "map" $settings) $settings }}

[{{ $table }}]
{{- range $key, $value := $settings }}
{{ $key }} = {{ include "stagepost.tomlValue" $value }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}
