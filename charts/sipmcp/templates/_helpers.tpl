{{/* Names are cut so that the longest one made of them is a label of DNS. */}}
{{- define "sipmcp.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "sipmcp.operator" -}}
{{ include "sipmcp.fullname" . }}-operator
{{- end }}

{{/* Objects without a namespace: another release may have the same name elsewhere. */}}
{{- define "sipmcp.clusterWide" -}}
{{ include "sipmcp.operator" . }}-{{ .Release.Namespace | trunc 63 }}
{{- end }}

{{- define "sipmcp.serviceAccount" -}}
{{- default (include "sipmcp.operator" .) .Values.operator.serviceAccount.name }}
{{- end }}

{{/* Labels by which a part's pods are selected: they never change. Arguments: root, part. */}}
{{- define "sipmcp.selector" -}}
app.kubernetes.io/name: sipmcp
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{/* Labels of an object. Arguments: root, part, and more (a map) where there are more. */}}
{{- define "sipmcp.labels" -}}
{{- $own := include "sipmcp.selector" . | fromYaml }}
{{- $own = merge $own (dict
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/part-of" "sipmcp"
  "app.kubernetes.io/managed-by" .root.Release.Service) }}
{{- merge $own (.more | default dict) .root.Values.commonLabels | toYaml }}
{{- end }}

{{/* An image's reference. Arguments: root, image. */}}
{{- define "sipmcp.image" -}}
{{- $name := .image.repository }}
{{- with .image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end }}
{{- if .image.digest }}
{{- printf "%s@%s" $name .image.digest }}
{{- else }}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) }}
{{- end }}
{{- end }}

{{/* IP:port where edges reach the operator: that of the Service <operator>-edges. The kubelet gives every container the ClusterIPs of its namespace's Services. */}}
{{- define "sipmcp.address" -}}
{{- $ip := .Values.operator.service.clusterIP }}
{{- if .Values.operator.address }}
{{- .Values.operator.address }}
{{- else if $ip }}
{{- printf (ternary "[%s]:%v" "%s:%v" (contains ":" $ip)) $ip .Values.operator.ports.edges }}
{{- else }}
{{- printf "$(%s_EDGES_SERVICE_HOST):%v" (include "sipmcp.operator" . | upper | replace "-" "_") .Values.operator.ports.edges }}
{{- end }}
{{- end }}

{{/* A rule of a NetworkPolicy. Arguments: port, from (a list of peers; empty: everybody). */}}
{{- define "sipmcp.ingress" -}}
- ports:
    - port: {{ .port }}
      protocol: TCP
  {{- with .from }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* A hardened container's and pod's settings, for the parts that have none in the values. */}}
{{- define "sipmcp.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "sipmcp.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
