"""What holds for every object, whatever the values."""

import unittest

from render import NAMESPACE, RELEASE, kubernetes, monitors, name_of, ours, pods_of, problems, render
from shared import every, named, only, within
from values import EVERYTHING, GOOD

WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
CLUSTER_WIDE = {
    "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "SipDomain", "ValidatingWebhookConfiguration",
}
# Kinds of others, whose definitions are not here.
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate", "Issuer"}


class EveryRendering(unittest.TestCase):
    @every
    def test_it_is_yaml_and_no_object_is_there_twice(self, _, things):
        self.assertTrue(things)
        names = [name_of(thing) for thing in things]
        self.assertEqual(sorted(names), sorted(set(names)))

    @every
    def test_every_object_has_its_namespace_and_our_labels(self, values, things):
        for thing in things:
            wide = thing["kind"] in CLUSTER_WIDE
            self.assertEqual("namespace" not in thing["metadata"], wide, name_of(thing))
            labels = thing["metadata"].get("labels", {})
            chart = "sipmcp-crds" if thing["kind"] == "CustomResourceDefinition" else "sipmcp"
            self.assertEqual(labels.get("app.kubernetes.io/name"), chart, name_of(thing))
            self.assertEqual(labels.get("app.kubernetes.io/instance"), RELEASE, name_of(thing))
            self.assertEqual(labels.get("app.kubernetes.io/part-of"), "sipmcp", name_of(thing))
            self.assertEqual(labels.get("app.kubernetes.io/managed-by"), "Helm", name_of(thing))
            self.assertRegex(labels.get("helm.sh/chart", ""), rf"^{chart}-\d", name_of(thing))
            for key, value in (GOOD.get(values) or {}).get("commonLabels", {}).items():
                self.assertEqual(labels.get(key), value, name_of(thing))

    @every
    def test_every_pod_is_hardened(self, _, things):
        for thing, template in pods_of(things):
            self.assertIn(thing["kind"], WORKLOADS)
            pod, name = template["spec"], name_of(thing)
            security = pod["securityContext"]
            self.assertIs(security["runAsNonRoot"], True, name)
            self.assertGreater(security["runAsUser"], 0, name)
            self.assertEqual(security["seccompProfile"]["type"], "RuntimeDefault", name)
            for forbidden in ("hostNetwork", "hostPID", "hostIPC", "volumes"):
                self.assertNotIn(forbidden, pod, name)
            # Only the operator speaks with the API server.
            token = pod.get("automountServiceAccountToken", True)
            self.assertEqual(token, thing["metadata"]["labels"]["app.kubernetes.io/component"] == "operator", name)
            for container in pod["containers"] + pod.get("initContainers", []):
                security = container["securityContext"]
                self.assertIs(security["allowPrivilegeEscalation"], False, name)
                self.assertIs(security["readOnlyRootFilesystem"], True, name)
                self.assertEqual(security["capabilities"], {"drop": ["ALL"]}, name)

    @every
    def test_every_selector_finds_pods_and_nothing_else(self, _, things):
        pods = [(name_of(thing), template["metadata"]["labels"]) for thing, template in pods_of(things)]
        for thing, template in pods_of(things):
            self.assertTrue(within(template["metadata"]["labels"], thing["spec"]["selector"]["matchLabels"]), name_of(thing))
        for thing in things:
            spec = thing.get("spec") or {}
            selector = {
                "Service": lambda: spec["selector"],
                "PodDisruptionBudget": lambda: spec["selector"]["matchLabels"],
                "NetworkPolicy": lambda: spec["podSelector"]["matchLabels"],
                "Deployment": lambda: spec["selector"]["matchLabels"],
            }.get(thing["kind"])
            if selector:
                found = [name for name, labels in pods if within(labels, selector())]
                self.assertEqual(len(found), 1, f"{name_of(thing)} selects {found}")

    @every
    def test_the_ports_of_services_and_probes_are_ports_of_containers(self, _, things):
        for service in (thing for thing in things if thing["kind"] == "Service"):
            (template,) = [
                template for _, template in pods_of(things)
                if within(template["metadata"]["labels"], service["spec"]["selector"])
            ]
            ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
            self.assertLessEqual({port["targetPort"] for port in service["spec"]["ports"]}, ports, name_of(service))
        for thing, template in pods_of(things):
            for container in template["spec"]["containers"]:
                for probe in (container.get(f"{which}Probe", {}) for which in ("readiness", "liveness", "startup")):
                    for action in ("httpGet", "tcpSocket"):
                        if action in probe:
                            self.assertIn(probe[action]["port"], {port["name"] for port in container["ports"]}, name_of(thing))

    @every
    def test_no_role_has_a_wildcard_or_a_right_that_gives_rights(self, _, things):
        for role in (thing for thing in things if thing["kind"] in ("Role", "ClusterRole")):
            for rule in role["rules"]:
                self.assertNotIn("nonResourceURLs", rule)
                for key in ("apiGroups", "resources", "verbs"):
                    self.assertTrue(rule[key], name_of(role))
                    self.assertFalse([word for word in rule[key] if "*" in word], name_of(role))
                self.assertFalse({"escalate", "bind", "impersonate"} & set(rule["verbs"]), name_of(role))
                for never in ("roles", "clusterroles", "rolebindings", "clusterrolebindings", "pods/exec", "serviceaccounts/token"):
                    self.assertNotIn(never, rule["resources"], name_of(role))

    @every
    def test_every_binding_gives_a_role_of_ours_to_the_operator(self, _, things):
        roles = {(role["kind"], role["metadata"].get("namespace"), role["metadata"]["name"]) for role in things}
        for binding in (thing for thing in things if thing["kind"] in ("RoleBinding", "ClusterRoleBinding")):
            reference = binding["roleRef"]
            namespace = binding["metadata"].get("namespace") if reference["kind"] == "Role" else None
            self.assertIn((reference["kind"], namespace, reference["name"]), roles)
            (subject,) = binding["subjects"]
            operator = only(things, "Deployment", "voice-operator" if named(things, "Deployment", "voice-operator") else "sipmcp-operator")
            self.assertEqual(subject["name"], operator["spec"]["template"]["spec"]["serviceAccountName"])
            self.assertEqual(subject["namespace"], NAMESPACE)

    @unittest.skipUnless(kubernetes(), "the Go module k8s.io/kubernetes is not in the cache; scripts/cluster.sh up brings it")
    @every
    def test_objects_have_the_fields_that_kubernetes_knows(self, _, things):
        by_kind, definitions = kubernetes()
        for thing in things:
            schema = by_kind.get((thing["apiVersion"], thing["kind"]))
            if schema is None:
                self.assertTrue(thing["kind"] in FOREIGN or thing["apiVersion"].startswith("sipmcp.dev/"), name_of(thing))
                continue
            self.assertEqual(problems(schema, thing, name_of(thing), definitions), [])

    @unittest.skipUnless(monitors(), "the Go module of the Prometheus operator is not in the cache; scripts/charts.sh server brings it")
    @every
    def test_monitors_and_rules_keep_the_schema_of_the_prometheus_operator(self, _, things):
        for thing in things:
            schema = monitors().get((thing["apiVersion"], thing["kind"]))
            if schema:
                self.assertEqual(problems(schema, thing, name_of(thing), {}), [])

    @every
    def test_objects_of_our_kinds_keep_the_schema_of_crdgen(self, values, things):
        found = [thing for thing in things if thing["apiVersion"].startswith("sipmcp.dev/")]
        for thing in found:
            self.assertEqual(problems(ours()[thing["apiVersion"], thing["kind"]], thing, name_of(thing), {}), [])
        if values == "demo":
            self.assertEqual({(thing["apiVersion"], thing["kind"]) for thing in found}, set(ours()), "one of each kind")

    def test_two_renderings_are_alike(self):
        for values in ({}, {key: value for key, value in EVERYTHING.items() if key != "demo"}):
            self.assertEqual(render("sipmcp", values), render("sipmcp", values), "else every upgrade would restart pods")
