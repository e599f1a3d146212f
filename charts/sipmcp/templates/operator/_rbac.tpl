{{/*
What the operator may do with objects of a namespace. It writes by server-side apply, which is `patch`, and `create` where nothing is there yet.
*/}}
{{- define "sipmcp.rules.namespaced" -}}
- apiGroups: [sipmcp.dev]
  resources: [mcpagents, mcpcapabilitypolicies, sessionstores, sipedges]
  verbs: [get, list, watch]
# Finalizers; the first replicas of a SipEdge with an autoscaler.
- apiGroups: [sipmcp.dev]
  resources: [mcpagents, sessionstores, sipedges]
  verbs: [patch]
- apiGroups: [sipmcp.dev]
  resources: [mcpagents/status, mcpcapabilitypolicies/status, sessionstores/status, sipedges/status]
  verbs: [patch]
# Where OwnerReferencesPermissionEnforcement is on, an owner that blocks its deletion needs it.
- apiGroups: [sipmcp.dev]
  resources: [sipedges/finalizers]
  verbs: [update]
# What runs for a SipEdge.
- apiGroups: [apps]
  resources: [statefulsets, daemonsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
# The next pod of a rollout, after its drain.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# Backends.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
# Those that specs name, one by one: never a list of all. RBAC cannot say which names. `create` is for the Secret <edge>-keys.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [sipmcp-operator-ca]
  verbs: [patch]
{{- end }}

{{/* What belongs to no namespace. */}}
{{- define "sipmcp.rules.cluster" -}}
- apiGroups: [sipmcp.dev]
  resources: [sipdomains]
  verbs: [get, list, watch, patch]
- apiGroups: [sipmcp.dev]
  resources: [sipdomains/status]
  verbs: [patch]
# Labels of namespaces; addresses of nodes.
- apiGroups: [""]
  resources: [namespaces, nodes]
  verbs: [get, list, watch]
# Who enrols, and who asks the Admin API.
- apiGroups: [authentication.k8s.io]
  resources: [tokenreviews]
  verbs: [create]
- apiGroups: [authorization.k8s.io]
  resources: [subjectaccessreviews]
  verbs: [create]
# In the namespace of their object; those of a SipDomain in `default`.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- if and .Values.webhook.enabled (not .Values.webhook.certManager) (not .Values.webhook.caBundle) }}
- apiGroups: [admissionregistration.k8s.io]
  resources: [validatingwebhookconfigurations]
  resourceNames: [{{ include "sipmcp.clusterWide" . }}]
  verbs: [get, patch]
{{- end }}
{{- end }}

{{/* What the operator keeps in its own namespace. */}}
{{- define "sipmcp.rules.own" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [sipmcp-operator-write]
  verbs: [get, list, watch, patch, update]
# Its authority.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sipmcp-operator-ca]
  verbs: [get, list, watch, patch]
# The numbers of the tenants.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [sipmcp-tenants]
  verbs: [get, list, watch, patch]
{{- end }}

{{/* Arguments: root, kind, name. */}}
{{- define "sipmcp.binding" -}}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ .kind }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "sipmcp.serviceAccount" .root }}
    namespace: {{ .root.Release.Namespace }}
{{- end }}
