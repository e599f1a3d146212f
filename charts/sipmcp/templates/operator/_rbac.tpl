{{/*
What the operator may do with objects of a namespace. It writes by server-side apply: `patch`, and `create` where nothing is there yet.
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
# Of all of them only the metadata are watched, and what a spec names is read; RBAC can say neither. `create` is for the Secret <edge>-keys and for
# the ConfigMap with the certificate of the authority.
- apiGroups: [""]
  resources: [secrets, configmaps]
  verbs: [get, list, watch, create]
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
# Addresses of nodes.
- apiGroups: [""]
  resources: [nodes]
  verbs: [get, list, watch]
{{- if eq .Values.rbac.scope "cluster" }}
# Their labels, which a SipDomain may ask for. Without them a namespace is known by its name.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch]
{{- end }}
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
  verbs: [get, update]
# Its authority, which is made once and never replaced.
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sipmcp-operator-ca]
  verbs: [get]
# The certificate of its authority, for kubectl sipmcp.
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [sipmcp-operator-ca]
  verbs: [get, patch]
# Where the replica is that holds the Lease: the others tell it what edges say to them.
- apiGroups: [""]
  resources: [pods]
  verbs: [get]
# The numbers of the tenants.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [create]
- apiGroups: [""]
  resources: [configmaps]
  resourceNames: [sipmcp-tenants]
  verbs: [get, list, watch, update]
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
