{{- define "stagepost.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "stagepost.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "stagepost.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "stagepost.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels by which pods are selected. Takes root and component. */}}
{{- define "stagepost.selector" -}}
app.kubernetes.io/name: {{ include "stagepost.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object. Takes root and component. */}}
{{- define "stagepost.labels" -}}
{{ include "stagepost.selector" . }}
app.kubernetes.io/part-of: stagepost
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Name and namespace of a component's object. Takes root, component and, for more than one, suffix. */}}
{{- define "stagepost.metadata" -}}
name: {{ include "stagepost.fullname" .root }}-{{ .suffix | default .component }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "stagepost.labels" . | nindent 2 }}
{{- end -}}

{{/* A Service's name in the cluster's DNS. Takes root and component. */}}
{{- define "stagepost.host" -}}
{{ include "stagepost.fullname" .root }}-{{ .component }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}

{{/* The name that the world is told, or the Service's. */}}
{{- define "stagepost.hostName" -}}
{{ .Values.hostName | default (include "stagepost.host" (dict "root" . "component" "ingress")) }}
{{- end -}}

{{- define "stagepost.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end -}}

{{/* http or https, for calls between services. */}}
{{- define "stagepost.scheme" -}}
{{ ternary "https" "http" .Values.grpc.tls.enabled }}
{{- end -}}

{{/* Names of Secrets: those that are there already, or those that the chart makes. */}}
{{- define "stagepost.tokenSecret" -}}
{{ .Values.grpc.token.existingSecret | default (printf "%s-token" (include "stagepost.fullname" .)) }}
{{- end -}}
{{- define "stagepost.sealingSecret" -}}
{{ .Values.accounts.sealingKey.existingSecret | default (printf "%s-sealing-key" (include "stagepost.fullname" .)) }}
{{- end -}}
{{- define "stagepost.tlsSecret" -}}
{{- if .Values.tls.existingSecret -}}
{{ .Values.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "stagepost.fullname" . }}-tls
{{- else if .Values.tls.selfSigned -}}
{{ include "stagepost.fullname" . }}-self-signed
{{- end -}}
{{- end -}}
{{- define "stagepost.grpcSecret" -}}
{{- if .Values.grpc.tls.enabled -}}
{{ .Values.grpc.tls.existingSecret | default (printf "%s-grpc-tls" (include "stagepost.fullname" .)) }}
{{- end -}}
{{- end -}}
{{- define "stagepost.natsPasswordSecret" -}}
{{ .Values.nats.password.existingSecret | default (printf "%s-nats" (include "stagepost.fullname" .)) }}
{{- end -}}
{{- define "stagepost.redisPasswordSecret" -}}
{{ .Values.redis.password.existingSecret | default (printf "%s-redis" (include "stagepost.fullname" .)) }}
{{- end -}}

{{/* A secret text that is made once and kept. Takes root, secret, key and fresh. */}}
{{- define "stagepost.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $data := (default dict $found).data | default dict -}}
{{- get $data .key | default (b64enc .fresh) -}}
{{- end -}}

{{/* How many octets a quantity such as 10Gi is. */}}
{{- define "stagepost.octets" -}}
{{- $units := dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 -}}
{{- $number := regexFind "^[0-9]+" . -}}
{{- $unit := trimPrefix $number . -}}
{{- mul (int64 $number) (get $units $unit | default 1) -}}
{{- end -}}

{{/* Where traces go, if anywhere. */}}
{{- define "stagepost.otlp" -}}
{{- if .Values.jaeger.enabled -}}
http://{{ include "stagepost.host" (dict "root" . "component" "jaeger") }}:4317
{{- else -}}
{{ .Values.tracing.endpoint }}
{{- end -}}
{{- end -}}

{{/* Copies that NATS keeps. */}}
{{- define "stagepost.natsReplicas" -}}
{{ ternary .Values.nats.replicas .Values.nats.external.replicas .Values.nats.enabled | int }}
{{- end -}}

{{/* The servers of NATS. */}}
{{- define "stagepost.natsUrl" -}}
{{- if .Values.nats.enabled -}}
{{- $urls := list -}}
{{- $headless := include "stagepost.host" (dict "root" . "component" "nats") -}}
{{- range $place := until (int .Values.nats.replicas) -}}
{{- $urls = append $urls (printf "nats://%s-nats-%d.%s:4222" (include "stagepost.fullname" $) $place $headless) -}}
{{- end -}}
{{ join "," $urls }}
{{- else -}}
{{ .Values.nats.external.url }}
{{- end -}}
{{- end -}}

{{/* The setting of a table of the program's configuration, or its default. Takes root, table, key and default. */}}
{{- define "stagepost.setting" -}}
{{- $table := get .root.Values.config .table | default dict -}}
{{- if hasKey $table .key }}{{ get $table .key | int64 }}{{ else }}{{ .default }}{{ end -}}
{{- end -}}
