{{- define "orchestrator.name" -}}
{{ .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" }}
{{- end }}

{{- define "orchestrator.peers" -}}
{{ include "orchestrator.name" . }}-peers
{{- end }}

{{/* What comes behind a pod's name in the name at which others reach it. */}}
{{- define "orchestrator.domain" -}}
{{ include "orchestrator.peers" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "orchestrator.selector" -}}
app.kubernetes.io/name: orchestrator-cluster
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "orchestrator.labels" -}}
{{ include "orchestrator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "orchestrator.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* What a schema can't say well. */}}
{{- define "orchestrator.check" -}}
{{- if not .Values.clusterId }}{{ fail "clusterId must be set, to what no other cluster has: openssl rand -hex 16" }}{{ end }}
{{- if and (not .Values.tls.secretName) (not .Values.insecure) }}
{{- fail "tls.secretName must be set; or insecure=true, where everybody who reaches the nodes is trusted with everything" }}
{{- end }}
{{- if and .Values.tls.secretName .Values.insecure }}{{ fail "insecure=true and tls.secretName contradict each other" }}{{ end }}
{{- if and .Values.tls.secretName (not .Values.access.secretName) (not .Values.tls.clientsShowCertificates) }}
{{- fail "access.secretName (who may do what) or tls.clientsShowCertificates=true (who has a certificate may do everything) must be set" }}
{{- end }}
{{- with .Values.redis }}{{ if and (or .password .sentinelPassword .authority .certificate .key) (not .secretName) }}
{{- fail "redis.secretName must be set: the other values of redis name its files" }}
{{- end }}{{ end }}
{{- if and .Values.metrics.tls (not .Values.tls.secretName) }}{{ fail "metrics.tls=true needs tls.secretName" }}{{ end }}
{{- end }}
