{{/* What stands under `metadata` of each definition beside its name. */}}
{{- define "sipmcp-crds.metadata" -}}
labels:
  {{- $own := dict
    "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
    "app.kubernetes.io/name" "sipmcp-crds"
    "app.kubernetes.io/instance" .Release.Name
    "app.kubernetes.io/version" .Chart.AppVersion
    "app.kubernetes.io/part-of" "sipmcp"
    "app.kubernetes.io/managed-by" .Release.Service }}
  {{- merge $own .Values.labels | toYaml | nindent 2 }}
{{- $annotations := merge (ternary (dict "helm.sh/resource-policy" "keep") (dict) .Values.crds.keep) .Values.annotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
