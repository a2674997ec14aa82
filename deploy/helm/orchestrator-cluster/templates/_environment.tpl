{{/* Of both containers: who the node is, how it is reached, and its settings. */}}
{{- define "orchestrator.environment" -}}
- name: ORCHESTRATOR_NODE
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: ORCHESTRATOR_PEER_ADVERTISE
  value: $(ORCHESTRATOR_NODE).{{ include "orchestrator.domain" . }}:7500
- name: ORCHESTRATOR_GRPC_ADVERTISE
  value: $(ORCHESTRATOR_NODE).{{ include "orchestrator.domain" . }}:7400
- name: ORCHESTRATOR_METRICS_TLS
  value: {{ ternary "on" "off" .Values.metrics.tls | quote }}
{{- if .Values.insecure }}
- name: ORCHESTRATOR_INSECURE
  value: "true"
{{- end }}
{{- with .Values.tls }}{{ if .secretName }}
{{- range $port := list "PEER" "GRPC" }}
- name: ORCHESTRATOR_{{ $port }}_TLS_CERTIFICATE
  value: /etc/orchestrator/tls/{{ $.Values.tls.certificate }}
- name: ORCHESTRATOR_{{ $port }}_TLS_KEY
  value: /etc/orchestrator/tls/{{ $.Values.tls.key }}
- name: ORCHESTRATOR_{{ $port }}_TLS_AUTHORITY
  value: /etc/orchestrator/tls/{{ $.Values.tls.authority }}
{{- end }}
{{- if .clientsShowCertificates }}
- name: ORCHESTRATOR_GRPC_TLS_CLIENT_AUTHORITY
  value: /etc/orchestrator/tls/{{ .authority }}
{{- end }}
{{- end }}{{ end }}
{{- with .Values.access }}{{ if .secretName }}
- name: ORCHESTRATOR_ACCESS_FILE
  value: /etc/orchestrator/access/{{ .file }}
- name: ORCHESTRATOR_NODE_SECRET_FILE
  value: /etc/orchestrator/access/{{ .nodeSecret }}
{{- end }}{{ end }}
{{- with .Values.secretKeys }}{{ if .secretName }}
- name: ORCHESTRATOR_SECRET_KEYS_FILE
  value: /etc/orchestrator/keys/{{ .file }}
{{- end }}{{ end }}
{{- with .Values.redis }}{{ if .secretName }}
{{- range $setting, $file := dict "PASSWORD" .password "SENTINEL_PASSWORD" .sentinelPassword "TLS_CA" .authority "TLS_CERT" .certificate "TLS_KEY" .key }}
{{- if $file }}
- name: ORCHESTRATOR_REDIS_{{ $setting }}_FILE
  value: /etc/orchestrator/redis/{{ $file }}
{{- end }}
{{- end }}
{{- end }}{{ end }}
{{- range $name, $value := .Values.settings }}
- name: ORCHESTRATOR_{{ upper $name }}
  value: {{ if kindIs "float64" $value }}{{ int64 $value | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- /* For `kubectl exec`: the command line calls this node, which knows who leads. */}}
- name: ORCHESTRATOR_ENDPOINTS
  value: $(ORCHESTRATOR_GRPC_ADVERTISE)
{{- if .Values.tls.secretName }}
- name: ORCHESTRATOR_TLS_AUTHORITY
  value: /etc/orchestrator/tls/{{ .Values.tls.authority }}
- name: ORCHESTRATOR_TLS_CERTIFICATE
  value: /etc/orchestrator/tls/{{ .Values.tls.certificate }}
- name: ORCHESTRATOR_TLS_KEY
  value: /etc/orchestrator/tls/{{ .Values.tls.key }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "orchestrator.mounts" -}}
- {name: data, mountPath: /data}
- {name: tmp, mountPath: /tmp}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /etc/orchestrator/tls, readOnly: true}
{{- end }}
{{- if .Values.access.secretName }}
- {name: access, mountPath: /etc/orchestrator/access, readOnly: true}
{{- end }}
{{- if .Values.secretKeys.secretName }}
- {name: keys, mountPath: /etc/orchestrator/keys, readOnly: true}
{{- end }}
{{- if .Values.redis.secretName }}
- {name: redis, mountPath: /etc/orchestrator/redis, readOnly: true}
{{- end }}
{{- end }}
