{{/* Restricted Pod Security, for pods. */}}
{{- define "stagepost.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* The same, for containers. */}}
{{- define "stagepost.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* A pod's head: labels and annotations. Takes root, component, values, and config when it reads the settings file. */}}
{{- define "stagepost.podMetadata" -}}
labels:
  {{- include "stagepost.labels" . | nindent 2 }}
  {{- if eq .component "delivery" }}
  stagepost.dev/pool: {{ (default dict .pool).name | default "default" }}
  {{- end }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- if or .config .values.podAnnotations }}
annotations:
  {{- with .config }}
  checksum/config: {{ sha256sum . }}
  {{- end }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where a pod runs, and as whom. Takes root, component, values, account (a service account's name, if any). */}}
{{- define "stagepost.scheduling" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "stagepost.podSecurity" . | nindent 2 }}
# With links, a Service called stagepost-delivery would set STAGEPOST_DELIVERY_PORT, which is a setting.
enableServiceLinks: false
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector | default .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations | default .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.spread }}
topologySpreadConstraints:
  {{- range $key, $unsatisfiable := dict "kubernetes.io/hostname" . "topology.kubernetes.io/zone" "ScheduleAnyway" }}
  - maxSkew: 1
    topologyKey: {{ $key }}
    whenUnsatisfiable: {{ $unsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "stagepost.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Probes of the program. Liveness asks nobody else; readiness asks NATS and accounts. Takes admin, the port, and startSeconds. */}}
{{- define "stagepost.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: {{ div .startSeconds 5 }}
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* Variables of our own processes. Takes root, component, values, members (how many of the role there are) and ports. */}}
{{- define "stagepost.env" -}}
{{- $root := .root -}}
{{- if .members }}
{{- if $root.Values.redis.enabled }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ include "stagepost.redisPasswordSecret" $root }}
      key: {{ $root.Values.redis.password.key }}
- name: STAGEPOST_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "stagepost.host" (dict "root" $root "component" "redis") }}:6379
{{- else if $root.Values.redis.external.existingSecret }}
- name: STAGEPOST_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $root.Values.redis.external.existingSecret }}
      key: {{ $root.Values.redis.external.keys.url }}
{{- else }}
- name: STAGEPOST_REDIS_URL
  value: {{ $root.Values.redis.external.url | quote }}
{{- end }}
- name: STAGEPOST_REDIS_PODS
  value: {{ .members | quote }}
{{- end }}
{{- if ne .component "ingress" }}
# For commands: kubectl exec deploy/{{ include "stagepost.fullname" $root }}-{{ .component }} -- /stagepost ...
{{- $server := printf "%s://localhost:%d" (include "stagepost.scheme" $root) (int .grpcPort) }}
{{- if eq .component "operator" }}
{{- $server = printf "%s://%s:8081" (include "stagepost.scheme" $root) (include "stagepost.host" (dict "root" $root "component" "accounts")) }}
{{- end }}
{{- include "stagepost.commandEnv" (dict "root" $root "server" $server) }}
{{- end }}
{{- with .values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Variables by which commands find a server. Takes root and server. */}}
{{- define "stagepost.commandEnv" }}
- name: STAGEPOST_SERVER
  value: {{ .server }}
- name: STAGEPOST_TOKEN_FILE
  value: /etc/stagepost/token/token
{{- if .root.Values.grpc.tls.enabled }}
- name: STAGEPOST_CA
  value: /etc/stagepost/grpc/ca.crt
- name: STAGEPOST_CERTIFICATE
  value: /etc/stagepost/grpc/tls.crt
- name: STAGEPOST_KEY
  value: /etc/stagepost/grpc/tls.key
{{- end }}
{{- end -}}

{{/* What a process mounts, as a list of volumes. Takes root, component and needs: config, token, grpc, tls, sealing, nats, redis. */}}
{{- define "stagepost.volumes" -}}
{{- $root := .root -}}
{{- $needs := .needs -}}
{{- $full := include "stagepost.fullname" $root -}}
{{- if has "config" $needs }}
- name: config
  configMap: {name: {{ $full }}-config}
{{- end }}
- name: token
  secret:
    secretName: {{ include "stagepost.tokenSecret" $root }}
    defaultMode: 0440
    items: [{key: {{ $root.Values.grpc.token.key | quote }}, path: token}]
{{- with include "stagepost.grpcSecret" $root }}
- name: grpc
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- if has "tls" $needs }}
- name: tls
  secret: {secretName: {{ include "stagepost.tlsSecret" $root }}, defaultMode: 0440}
{{- end }}
{{- if has "sealing" $needs }}
- name: sealing
  secret:
    secretName: {{ include "stagepost.sealingSecret" $root }}
    defaultMode: 0440
    items: [{key: {{ $root.Values.accounts.sealingKey.key | quote }}, path: sealing.key}]
{{- end }}
{{- if has "nats" $needs }}
{{- if $root.Values.nats.enabled }}
- name: nats
  secret:
    secretName: {{ include "stagepost.natsPasswordSecret" $root }}
    defaultMode: 0440
    items: [{key: {{ $root.Values.nats.password.key | quote }}, path: password}]
{{- else if $root.Values.nats.external.existingSecret }}
- name: nats
  secret:
    secretName: {{ $root.Values.nats.external.existingSecret }}
    defaultMode: 0440
    items:
      {{- range $what, $path := dict "password" "password" "credentials" "credentials" "ca" "ca.crt" "certificate" "tls.crt" "key" "tls.key" }}
      {{- with get $root.Values.nats.external.keys $what }}
      - {key: {{ . | quote }}, path: {{ $path }}}
      {{- end }}
      {{- end }}
{{- end }}
{{- end }}
{{- if has "redis" $needs }}
{{- if and (not $root.Values.redis.enabled) $root.Values.redis.external.keys.ca }}
- name: redis
  secret:
    secretName: {{ $root.Values.redis.external.existingSecret }}
    defaultMode: 0440
    items: [{key: {{ $root.Values.redis.external.keys.ca | quote }}, path: ca.crt}]
{{- end }}
{{- end }}
{{- if has "sandbox" $needs }}
- name: sandbox
  {{- with $root.Values.delivery.sandbox.existingClaim }}
  persistentVolumeClaim: {claimName: {{ . }}}
  {{- else }}
  emptyDir: {sizeLimit: 256Mi}
  {{- end }}
{{- end }}
{{- end -}}

{{/* A Deployment of one of our roles. Takes root, component, values, and
     replicas (none when something else sets it), members, needs, startSeconds, graceSeconds, ports (name to number);
     of a pool in the nodes' network also pool. */}}
{{- define "stagepost.deployment" -}}
{{- $root := .root -}}
{{- $pool := .pool -}}
{{- $toml := include "stagepost.toml" $root -}}
{{- $volumes := include "stagepost.volumes" . | fromYamlArray -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "stagepost.metadata" (merge (dict "suffix" (ternary (printf "%s-%s" .component (default dict $pool).name) .component (not (empty $pool)))) .) | nindent 2 }}
spec:
  {{- if kindIs "int" .replicas }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  minReadySeconds: 5
  strategy:
    type: RollingUpdate
    {{- if $pool }}
    # Two of them can't listen on one node.
    rollingUpdate: {maxSurge: 0, maxUnavailable: 1}
    {{- else }}
    rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
    {{- end }}
  selector:
    matchLabels:
      {{- include "stagepost.selector" . | nindent 6 }}
      {{- if .component | eq "delivery" }}
      stagepost.dev/pool: {{ (default dict $pool).name | default "default" }}
      {{- end }}
  template:
    metadata:
      {{- include "stagepost.podMetadata" (merge (dict "config" $toml) .) | nindent 6 }}
    spec:
      {{- include "stagepost.scheduling" . | nindent 6 }}
      serviceAccountName: {{ include "stagepost.fullname" $root }}-{{ .component }}
      automountServiceAccountToken: {{ eq .component "operator" }}
      terminationGracePeriodSeconds: {{ .graceSeconds }}
      {{- if $pool }}
      hostNetwork: true
      dnsPolicy: ClusterFirstWithHostNet
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "stagepost.image" $root }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          args: [{{ .component }}, --config, /etc/stagepost/config/stagepost.toml]
          securityContext:
            {{- include "stagepost.containerSecurity" . | nindent 12 }}
          env:
            {{- include "stagepost.env" (merge (dict "grpcPort" (get .ports "grpc" | default 8081)) .) | trim | nindent 12 }}
            {{- if $pool }}
            - name: STAGEPOST_HOST_NAME
              value: {{ $pool.hostName }}
            - name: STAGEPOST_ADMIN_LISTEN
              value: {{ printf "%s:%d" $root.Values.listenAddress (int (get .ports "admin")) | quote }}
            - name: STAGEPOST_GRPC_LISTEN
              value: {{ printf "%s:%d" $root.Values.listenAddress (int (get .ports "grpc")) | quote }}
            {{- end }}
          ports:
            {{- range $name, $port := .ports }}
            - {name: {{ $name }}, containerPort: {{ $port }}}
            {{- end }}
          {{- include "stagepost.probes" . | nindent 10 }}
          {{- with .values.preStopSeconds }}
          lifecycle:
            preStop: {sleep: {seconds: {{ . }}}}
          {{- end }}
          resources:
            {{- toYaml .values.resources | nindent 12 }}
          volumeMounts:
            {{- range $volumes }}
            {{- if eq .name "sandbox" }}
            - {name: sandbox, mountPath: /var/lib/stagepost/sandbox}
            {{- else }}
            - {name: {{ .name }}, mountPath: /etc/stagepost/{{ .name }}, readOnly: true}
            {{- end }}
            {{- end }}
      volumes:
        {{- toYaml $volumes | nindent 8 }}
{{- end -}}
