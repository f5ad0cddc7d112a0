{{- /* As a dependency with an alias, the chart has that name. */}}
{{- define "tailcut.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "tailcut.fullname" -}}
{{- $name := include "tailcut.name" . -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}{{ .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "tailcut.selector" -}}
app.kubernetes.io/name: {{ include "tailcut.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "tailcut.labels" -}}
{{ include "tailcut.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "tailcut.image" -}}
{{- if .Values.image.digest }}{{ printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}{{ printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "tailcut.serverName" -}}
{{- .Values.tls.serverName | default (printf "%s.%s.svc" (include "tailcut.fullname" .) .Release.Namespace) }}
{{- end }}

{{- /* As rates: what all pods of this release have together. */}}
{{- define "tailcut.rate" -}}
sum(rate({{ .metric }}{namespace="{{ .root.Release.Namespace }}",job="{{ include "tailcut.fullname" .root }}"}[30s])) / 1e6
{{- end }}

{{- define "tailcut.minReplicas" -}}
{{- $min := int .Values.autoscaling.minReplicas -}}
{{- $max := int .Values.autoscaling.maxReplicas -}}
{{- if gt $min $max }}
{{- fail (printf "autoscaling.minReplicas is %d, and autoscaling.maxReplicas is %d: it must be at least as many" $min $max) }}
{{- end }}
{{- $min }}
{{- end }}

{{- define "tailcut.grpcPort" -}}
{{- $port := int .Values.service.grpcPort -}}
{{- if eq $port (int .Values.service.httpPort) }}
{{- fail (printf "service.httpPort and service.grpcPort are both %d: they must differ" $port) }}
{{- end }}
{{- $port }}
{{- end }}

{{- define "tailcut.behavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - type: Percent
      value: 100
      periodSeconds: 15
scaleDown:
  stabilizationWindowSeconds: {{ .Values.autoscaling.scaleDownSeconds }}
  policies:
    - type: Pods
      value: 1
      periodSeconds: 60
{{- end }}
