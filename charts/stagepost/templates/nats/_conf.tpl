{{/* The server's settings. The password comes from the environment. */}}
{{- define "stagepost.natsConf" -}}
{{- $full := include "stagepost.fullname" . -}}
{{- $host := ternary "" "host: \"::\"" (eq .Values.listenAddress "0.0.0.0") -}}
server_name: $SERVER_NAME
{{- with $host }}
{{ . }}
{{- end }}
port: 4222
http_port: 8222
pid_file: /run/nats/nats.pid
max_payload: 2MB
lame_duck_grace_period: 5s
lame_duck_duration: 30s
authorization {
  user: stagepost
  password: $NATS_PASSWORD
}
jetstream {
  store_dir: /data
  # What is acknowledged is on disk: without it a power failure loses mail that was accepted.
  sync_interval: always
  # A quarter of the volume stays free: a stream whose disk is full stands still until the server is started anew.
  max_file_store: {{ div (mul (int64 (include "stagepost.octets" .Values.nats.persistence.size)) 3) 4 }}
  max_memory_store: 16MB
}
{{- if gt (int .Values.nats.replicas) 1 }}
cluster {
  name: {{ $full }}
  {{- with $host }}
  {{ . }}
  {{- end }}
  port: 6222
  authorization {
    user: cluster
    password: $NATS_PASSWORD
    timeout: 5
  }
  # With the password in each, which a variable within a text would not be replaced by.
  routes: $NATS_ROUTES
}
{{- end }}
{{- end -}}
