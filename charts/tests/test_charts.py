#!/usr/bin/env python3
"""What the charts make of many values, and what they refuse. Needs helm and PyYAML; scripts/charts.sh brings both.

The last line says how many passed: "count: P passed, F failed, S skipped"."""

import functools
import json
import pathlib
import re
import sys
import unittest
from concurrent.futures import ThreadPoolExecutor

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from render import CHARTS, NAMESPACE, RELEASE, ROOT, Unrendered, helm, kubernetes, monitors, name_of, ours, pods_of, problems, render, run
from values import BAD, EVERYTHING, GOOD, NAMESPACED

RENDERED = {}
WORKLOADS = {"Deployment", "StatefulSet", "DaemonSet", "Job"}
CLUSTER_WIDE = {
    "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "SipDomain", "ValidatingWebhookConfiguration",
}
# Kinds of others, whose definitions are not here.
FOREIGN = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "Certificate", "Issuer"}


def setUpModule():
    """Every good set of values once: helm takes its time."""
    with ThreadPoolExecutor() as pool:
        for name, things in zip(GOOD, pool.map(lambda values: attempt("sipmcp", values), GOOD.values())):
            RENDERED[name] = things
    RENDERED["definitions"] = attempt("sipmcp-crds", {})


def attempt(chart, values):
    try:
        return render(chart, values)
    except (Unrendered, yaml.YAMLError) as error:
        return error


def only(things, kind, name=None):
    found = [thing for thing in things if thing["kind"] == kind and name in (None, thing["metadata"]["name"])]
    if len(found) != 1:
        raise AssertionError(f"{len(found)} objects of kind {kind} named {name or 'anything'}: {[name_of(thing) for thing in things]}")
    return found[0]


def kinds(things):
    return {thing["kind"] for thing in things}


def within(labels, selector):
    return all(labels.get(key) == value for key, value in selector.items())


def every(look):
    """A test of each rendering on its own; the others are looked at, too, when one fails."""

    @functools.wraps(look)
    def test(self):
        for values, things in RENDERED.items():
            with self.subTest(values=values):
                if isinstance(things, Exception):
                    self.fail(f"does not render: {things}")
                look(self, values, things)

    return test


class EveryRendering(unittest.TestCase):
    """What holds for all objects, whatever the values."""

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
            operator = only(things, "Deployment", "voice-operator" if only_name(things, "voice-operator") else "sipmcp-operator")
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


def only_name(things, name):
    return [thing for thing in things if thing["metadata"]["name"] == name]


class Definitions(unittest.TestCase):
    """The chart sipmcp-crds."""

    def definitions(self, values=None):
        return {thing["metadata"]["name"]: thing for thing in render("sipmcp-crds", values)}

    def test_they_are_what_crdgen_wrote(self):
        found = self.definitions()
        files = sorted((ROOT / "crds/generated").glob("*.yaml"))
        self.assertEqual(len(found), len(files))
        for file in files:
            wanted = yaml.safe_load(file.read_text())
            thing = found[wanted["metadata"]["name"]]
            self.assertEqual(thing["metadata"].pop("annotations"), {"helm.sh/resource-policy": "keep"})
            thing["metadata"].pop("labels")
            self.assertEqual(thing, wanted, f"{file.name}: run cargo run -p crds --bin crdgen")

    def test_install_and_keep_have_their_effect(self):
        self.assertEqual(render("sipmcp-crds", {"crds": {"install": False}}), [])
        for thing in self.definitions({"crds": {"keep": False}}).values():
            self.assertNotIn("annotations", thing["metadata"])
        marked = self.definitions({"labels": {"team": "voice"}, "annotations": {"note": "text"}})
        for thing in marked.values():
            self.assertEqual(thing["metadata"]["labels"]["team"], "voice")
            self.assertEqual(thing["metadata"]["annotations"], {"helm.sh/resource-policy": "keep", "note": "text"})

    def test_unknown_values_are_refused(self):
        done = helm("template", "sipmcp-crds", {"crds": {"instal": True}})
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("instal", done.stderr)


class Operator(unittest.TestCase):
    """The chart sipmcp: what its values do."""

    def pod(self, values=None, name="sipmcp-operator"):
        deployment = only(render("sipmcp", values), "Deployment", name)
        return deployment, deployment["spec"]["template"]["spec"]

    def arguments(self, values=None, name="sipmcp-operator"):
        return dict(argument.split("=", 1) for argument in self.pod(values, name)[1]["containers"][0]["args"])

    def test_the_arguments(self):
        found = self.arguments()
        self.assertEqual(found["--listen-edges"], "0.0.0.0:8443")
        self.assertEqual(found["--listen-health"], "0.0.0.0:8080")
        self.assertEqual(found["--service"], "sipmcp-operator.sipmcp-system.svc")
        self.assertEqual(found["--service-address"], "$(SIPMCP_OPERATOR_SERVICE_HOST):8443")
        version = yaml.safe_load((CHARTS / "sipmcp/Chart.yaml").read_text())["appVersion"]
        self.assertEqual(found["--edge-image"], f"sipmcp.dev/sipmcp-edge:{version}")
        self.assertNotIn("--watch-namespaces", found)
        self.assertEqual(self.arguments(NAMESPACED)["--watch-namespaces"], "acme,sipmcp-system")
        fixed = self.arguments({"operator": {"service": {"clusterIP": "fd00::77"}}})
        self.assertEqual(fixed["--service-address"], "[fd00::77]:8443")
        self.assertEqual(self.arguments({"operator": {"address": "sip-op.example:443"}})["--service-address"], "sip-op.example:443")
        named = self.arguments({"fullnameOverride": "voice"}, "voice-operator")
        self.assertEqual(named["--service"], "voice-operator.sipmcp-system.svc")
        self.assertEqual(named["--service-address"], "$(VOICE_OPERATOR_SERVICE_HOST):8443")

    def test_every_argument_is_a_flag_of_the_program(self):
        source = ROOT / "operator/src/config.rs"
        if not source.is_file():
            self.skipTest("operator/src/config.rs is not there yet")
        fields = set(re.findall(r"^\s*pub (\w+):", source.read_text(), re.M))
        for flag in self.arguments(EVERYTHING):
            self.assertIn(flag.removeprefix("--").replace("-", "_"), fields)

    def test_images(self):
        _, pod = self.pod(EVERYTHING)
        self.assertEqual(pod["containers"][0]["image"], "registry.example:5000/mirror/sipmcp-operator:1.2.3")
        self.assertEqual(pod["imagePullSecrets"], [{"name": "pull"}])
        found = self.arguments(EVERYTHING)
        self.assertEqual(found["--edge-image"], "sipmcp.dev/sipmcp-edge@sha256:" + "a" * 64)
        self.assertEqual(found["--edge-image-pull-policy"], "Always")

    def test_where_pods_run(self):
        deployment, pod = self.pod(EVERYTHING)
        self.assertEqual(pod["priorityClassName"], "system-cluster-critical")
        self.assertEqual(pod["nodeSelector"], {"kubernetes.io/os": "linux"})
        self.assertEqual(pod["tolerations"], EVERYTHING["operator"]["tolerations"])
        self.assertEqual(pod["affinity"], EVERYTHING["operator"]["affinity"])
        (spread,) = pod["topologySpreadConstraints"]
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        self.assertTrue(within(labels, spread["labelSelector"]["matchLabels"]))
        self.assertEqual((labels["zone"], labels["team"]), ("inner", "voice"))
        self.assertEqual(deployment["spec"]["template"]["metadata"]["annotations"]["note"], "text")
        environment = {variable["name"] for variable in pod["containers"][0]["env"]}
        self.assertLessEqual({"POD_NAME", "POD_NAMESPACE", "RUST_BACKTRACE"}, environment)

    def test_an_autoscaler_owns_the_replicas(self):
        self.assertEqual(self.pod()[0]["spec"]["replicas"], 2)
        things = render("sipmcp", EVERYTHING)
        self.assertNotIn("replicas", only(things, "Deployment", "sipmcp-operator")["spec"])
        scaler = only(things, "HorizontalPodAutoscaler")["spec"]
        self.assertEqual((scaler["minReplicas"], scaler["maxReplicas"]), (2, 5))
        self.assertEqual(scaler["scaleTargetRef"]["name"], "sipmcp-operator")

    def test_the_budget(self):
        self.assertEqual(only(render("sipmcp"), "PodDisruptionBudget")["spec"]["maxUnavailable"], 1)
        self.assertNotIn("PodDisruptionBudget", kinds(render("sipmcp", GOOD["no budget, one pod"])))
        below = only(render("sipmcp", GOOD["a budget from below"]), "PodDisruptionBudget")["spec"]
        self.assertEqual((below["minAvailable"], "maxUnavailable" in below), (1, False))

    def test_the_services(self):
        things = render("sipmcp")
        service = only(things, "Service", "sipmcp-operator")["spec"]
        self.assertEqual({port["name"]: port["port"] for port in service["ports"]}, {"edges": 8443, "admin": 9444})
        self.assertNotIn("clusterIP", service)
        self.assertNotIn("sessionAffinity", service)
        self.assertEqual(only(things, "Service", "sipmcp-operator-metrics")["spec"]["clusterIP"], "None")
        fixed = only(render("sipmcp", GOOD["a fixed address"]), "Service", "sipmcp-operator")["spec"]
        self.assertEqual(fixed["clusterIP"], "10.96.0.77")
        other = only(render("sipmcp", {**GOOD["other ports"], "webhook": {"enabled": True}}), "Service", "sipmcp-operator")["spec"]
        self.assertEqual({port["name"]: port["port"] for port in other["ports"]}, {"edges": 443, "webhook": 9000, "admin": 9001})

    def test_network_policies(self):
        policy = only(render("sipmcp"), "NetworkPolicy")["spec"]
        self.assertEqual([rule["ports"][0]["port"] for rule in policy["ingress"]], [8443, 8080], "nobody reaches the Admin API")
        policy = only(render("sipmcp", EVERYTHING), "NetworkPolicy", "sipmcp-operator")["spec"]
        ports = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["ingress"]}
        self.assertEqual(set(ports), {8443, 9443, 9444, 8080})
        self.assertEqual(ports[9444], EVERYTHING["networkPolicy"]["from"]["admin"])
        self.assertEqual(ports[8080], EVERYTHING["networkPolicy"]["from"]["metrics"])
        echo = only(render("sipmcp", GOOD["demo"]), "NetworkPolicy", "sipmcp-demo-echo")["spec"]
        self.assertEqual((echo["egress"], len(echo["ingress"])), ([], 1))
        self.assertNotIn("NetworkPolicy", kinds(render("sipmcp", GOOD["no network policies"])))

    def test_a_webhook_gets_its_authority_in_one_of_three_ways(self):
        self.assertNotIn("ValidatingWebhookConfiguration", kinds(render("sipmcp")))

        def looked_at(name):
            things = render("sipmcp", GOOD[name])
            hook = only(things, "ValidatingWebhookConfiguration")
            environment = {
                variable["name"]: variable.get("value")
                for variable in only(things, "Deployment")["spec"]["template"]["spec"]["containers"][0]["env"]
            }
            rights = [
                rule for role in things if role["kind"] == "ClusterRole"
                for rule in role["rules"] if "validatingwebhookconfigurations" in rule["resources"]
            ]
            return things, hook, environment.get("SIPMCP_WEBHOOK_CONFIGURATION"), rights

        _, hook, told, (right,) = looked_at("webhook")
        self.assertEqual((told, right["resourceNames"]), (hook["metadata"]["name"], [hook["metadata"]["name"]]))
        policies = {one["name"]: one["failurePolicy"] for one in hook["webhooks"]}
        self.assertEqual(policies, {"policies.sipmcp.dev": "Fail", "objects.sipmcp.dev": "Ignore"})
        asked = {resource for one in hook["webhooks"] for rule in one["rules"] for resource in rule["resources"]}
        self.assertEqual(asked, {file.stem for file in (ROOT / "crds/generated").glob("*.yaml")})
        self.assertEqual({one["clientConfig"]["service"]["name"] for one in hook["webhooks"]}, {"sipmcp-operator"})

        things, hook, told, rights = looked_at("webhook with cert-manager")
        self.assertEqual((told, rights), (None, []))
        certificate = only(things, "Certificate")
        self.assertEqual(certificate["spec"]["secretName"], "sipmcp-operator-ca", "the Secret that the operator reads")
        self.assertIs(certificate["spec"]["isCA"], True)
        source = hook["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
        self.assertEqual(source, f"{NAMESPACE}/{certificate['metadata']['name']}")
        self.assertEqual(certificate["spec"]["issuerRef"]["name"], only(things, "Issuer")["metadata"]["name"])

        _, hook, told, rights = looked_at("webhook with an authority of one's own")
        self.assertEqual((told, rights), (None, []))
        self.assertEqual({one["clientConfig"]["caBundle"] for one in hook["webhooks"]}, {"LS0tLS1CRUdJTg=="})

        _, hook, _, _ = looked_at("webhook in some namespaces")
        for one in hook["webhooks"]:
            self.assertEqual(one["namespaceSelector"]["matchExpressions"][0]["values"], ["acme"])

    def test_the_schema_and_the_chart_refuse_what_makes_no_sense_and_say_where(self):
        with ThreadPoolExecutor() as pool:
            results = pool.map(lambda case: helm("template", "sipmcp", case[0]), BAD.values())
            for (name, (_, words)), done in zip(BAD.items(), results):
                with self.subTest(values=name):
                    self.assertNotEqual(done.returncode, 0)
                    # Older helms write the path with dots.
                    said = done.stderr.replace("/", ".").replace("'", "")
                    for word in words:
                        self.assertIn(word.strip("/").replace("/", "."), said)

    def test_every_value_is_in_the_schema_and_in_the_readme(self):
        for chart in ("sipmcp", "sipmcp-crds"):
            values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
            schema = json.loads((CHARTS / chart / "values.schema.json").read_text())
            readme = (CHARTS / chart / "README.md").read_text()

            def resolved(schema):
                return definitions[schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema

            def walk(schema, value, path):
                if not isinstance(value, dict) or "properties" not in schema:
                    return
                self.assertIs(schema.get("additionalProperties"), False, path)
                for name, inner in value.items():
                    self.assertIn(name, schema["properties"], path)
                    walk(resolved(schema["properties"][name]), inner, f"{path}.{name}")

            definitions = schema.get("definitions", {})
            walk(schema, values, chart)
            for name in values:
                self.assertIn(f"`{name}", readme, f"{chart}: README.md says nothing of {name}")

    def test_extra_objects_are_templates(self):
        extra = [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-map"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Namespace }}-text\n",
        ]
        names = {thing["metadata"]["name"] for thing in render("sipmcp", {"extraObjects": extra})}
        self.assertLessEqual({"sipmcp-map", "sipmcp-system-text"}, names)

    def test_image_discovery_names_what_others_start(self):
        things = render("sipmcp", EVERYTHING)
        deployment = only(things, "Deployment", "sipmcp-images")["spec"]
        self.assertEqual(deployment["replicas"], 0)
        images = {container["image"] for container in deployment["template"]["spec"]["containers"]}
        self.assertIn(self.arguments(EVERYTHING)["--edge-image"], images)

    def test_the_versions_are_the_workspaces(self):
        version = re.search(r'^\[workspace\.package\]\nversion = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)
        for chart in ("sipmcp", "sipmcp-crds"):
            found = yaml.safe_load((CHARTS / chart / "Chart.yaml").read_text())
            self.assertEqual((found["version"], found["appVersion"]), (version, version), chart)


class Rights(unittest.TestCase):
    """What the operator and people may do."""

    def rules(self, things, kind, name, namespace=None):
        found = [
            thing for thing in things
            if (thing["kind"], thing["metadata"]["name"], thing["metadata"].get("namespace")) == (kind, name, namespace)
        ]
        self.assertEqual(len(found), 1, f"{kind} {namespace}/{name}")
        return found[0]["rules"]

    def may(self, rules, resource, verb, name=None):
        return any(
            resource in rule["resources"] and verb in rule["verbs"] and ("resourceNames" not in rule or name in rule["resourceNames"])
            for rule in rules
        )

    def test_in_some_namespaces_the_cluster_is_closed(self):
        things = RENDERED["namespaced"]
        cluster = self.rules(things, "ClusterRole", "sipmcp-operator-sipmcp-system")
        resources = {resource for rule in cluster for resource in rule["resources"]}
        self.assertEqual(
            resources,
            {"sipdomains", "sipdomains/status", "nodes", "tokenreviews", "subjectaccessreviews", "events"},
        )
        for namespace in NAMESPACED["watchNamespaces"]:
            role = self.rules(things, "Role", "sipmcp-operator-sipmcp-system", namespace)
            self.assertTrue(self.may(role, "statefulsets", "create"))
        everywhere = self.rules(RENDERED["defaults"], "ClusterRole", "sipmcp-operator-sipmcp-system")
        self.assertTrue(self.may(everywhere, "statefulsets", "create"))
        self.assertEqual([thing for thing in RENDERED["defaults"] if thing["kind"] == "Role" and thing["metadata"]["namespace"] != NAMESPACE], [])

    def test_what_exists_is_not_changed_but_what_is_ours(self):
        for values in ("defaults", "namespaced"):
            for role in (thing for thing in RENDERED[values] if thing["kind"] in ("Role", "ClusterRole") and "operator" in thing["metadata"]["name"]):
                rules = role["rules"]
                for verb in ("delete", "deletecollection", "update", "patch"):
                    self.assertFalse(self.may(rules, "secrets", verb, "any"), f"secrets {verb}")
                    self.assertFalse(self.may(rules, "configmaps", verb, "any"), f"configmaps {verb}")
                    self.assertFalse(self.may(rules, "nodes", verb), f"nodes {verb}")
                    self.assertFalse(self.may(rules, "namespaces", verb), f"namespaces {verb}")
                for resource in ("mcpagents", "mcpcapabilitypolicies", "sessionstores", "sipdomains", "sipedges"):
                    for verb in ("create", "delete", "update", "deletecollection"):
                        self.assertFalse(self.may(rules, resource, verb), f"{resource} {verb}")
                for verb in ("create", "update", "patch"):
                    self.assertFalse(self.may(rules, "pods", verb), f"pods {verb}")
        own = self.rules(RENDERED["defaults"], "Role", "sipmcp-operator", NAMESPACE)
        self.assertTrue(self.may(own, "leases", "update", "sipmcp-operator-write"))
        self.assertFalse(self.may(own, "leases", "update", "other"))

    def test_people_get_more_with_each_step(self):
        things = RENDERED["defaults"]
        view, edit, admin = (self.rules(things, "ClusterRole", f"sipmcp-{role}") for role in ("view", "edit", "admin"))
        self.assertEqual({verb for rule in view for verb in rule["verbs"]}, {"get", "list", "watch"})
        self.assertTrue(self.may(edit, "mcpagents", "create") and self.may(edit, "sipedges", "get"))
        self.assertFalse(self.may(edit, "sipedges", "create") or self.may(edit, "sipdomains/sessions", "get"))
        self.assertTrue(self.may(admin, "sipdomains", "create") and self.may(admin, "sipdomains/sessions", "delete"))
        self.assertTrue(self.may(admin, "mcpagents", "delete") and self.may(admin, "sipedges/drain", "create"))
        for role in ("view", "edit", "admin"):
            labels = only(things, "ClusterRole", f"sipmcp-{role}")["metadata"]["labels"]
            self.assertEqual(labels[f"rbac.authorization.k8s.io/aggregate-to-{role}"], "true")
        self.assertEqual([thing for thing in RENDERED["roles of people elsewhere"] if thing["metadata"]["name"] == "sipmcp-view"], [])
        for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            self.assertNotIn(kind, kinds(RENDERED["no roles"]))


class Demo(unittest.TestCase):
    """demo.enabled: sip:echo@demo.example."""

    def test_its_objects_name_each_other(self):
        things = RENDERED["demo"]
        edge, agent = only(things, "SipEdge"), only(things, "McpAgent")
        store, domain, policy = only(things, "SessionStore"), only(things, "SipDomain"), only(things, "McpCapabilityPolicy")
        self.assertEqual(agent["spec"]["address"], {"user": "echo", "domainRef": {"name": domain["metadata"]["name"]}})
        (parent,) = agent["spec"]["parentRefs"]
        self.assertEqual((parent["name"], parent["namespace"]), (edge["metadata"]["name"], edge["metadata"]["namespace"]))
        self.assertEqual(edge["spec"]["sessionStoreRef"]["name"], store["metadata"]["name"])
        self.assertEqual(policy["spec"]["targetRefs"], [{"kind": "McpAgent", "name": agent["metadata"]["name"]}])
        reference = agent["spec"]["backend"]["mcpHttp"]["serviceRef"]
        service = only(things, "Service", reference["name"])
        self.assertEqual([port["port"] for port in service["spec"]["ports"]], [reference["port"]])
        for listener in edge["spec"]["listeners"]:
            self.assertTrue(within(domain["metadata"]["labels"], listener["allowedDomains"]["selector"]["matchLabels"]))
            for secret in listener.get("tls", {}).get("certificateRefs", []):
                only(things, "Secret", secret["name"])
        self.assertEqual(domain["spec"]["allowedNamespaces"]["selector"]["matchLabels"], {"kubernetes.io/metadata.name": NAMESPACE})

    def test_over_tls_only_nothing_is_plain(self):
        things = RENDERED["demo over TLS only"]
        edge, domain = only(things, "SipEdge")["spec"], only(things, "SipDomain")["spec"]
        self.assertEqual([listener["protocol"] for listener in edge["listeners"]], ["TLS"])
        self.assertIs(edge["insecure"], False)
        self.assertNotIn("transport", domain)

    def test_without_it_nothing_of_it_is_there(self):
        self.assertFalse({"SipEdge", "SipDomain", "McpAgent", "McpCapabilityPolicy", "SessionStore", "Secret"} & kinds(RENDERED["defaults"]))


class Monitoring(unittest.TestCase):
    """Alerts and dashboards speak of metrics that there are."""

    def names(self):
        """Names of the metrics, as Prometheus shows them, out of the programs' source; None where a program is not there."""
        edge = (ROOT / "edge/src/metrics.rs").read_text()
        found = set()
        for name in re.findall(r'registry\.register\("(\w+)"', edge):
            counter = not name.endswith("_seconds")
            found |= {f"sipmcp_edge_{name}_total"} if counter else {f"sipmcp_edge_{name}_{part}" for part in ("bucket", "count", "sum")}
        found |= {f"sipmcp_edge_{name}" for name in re.findall(r'gauge\("(\w+)"', edge)}
        found |= {f"sipmcp_edge_{name}_total" for name in re.findall(r'counters\(\s*"(\w+)"', edge)}
        found |= {f"sipmcp_store_{name}_total" for name in re.findall(r'store\.register\("(\w+)"', edge)}
        operator = ROOT / "operator/src/metrics.rs"
        if operator.is_file():
            text = operator.read_text()
            fields = dict(re.findall(r"^\s*(\w+): (Gauge|Counter|Family<Labels, \w+>),", text, re.M))
            for name, field in re.findall(r'register\("(\w+)",[^;]*?metrics\.(\w+)\.clone', text, re.S):
                kind = fields[field]
                ends = ["_total"] if "Counter" in kind else ["_bucket", "_count", "_sum"] if "Histogram" in kind else [""]
                found |= {f"sipmcp_operator_{name}{end}" for end in ends}
        return found, operator.is_file()

    def check(self, expression, known, operator):
        used = set(re.findall(r"\bsipmcp_(?:edge|store|operator)_\w+", expression))
        if not operator:
            used = {name for name in used if not name.startswith("sipmcp_operator_")}
        self.assertLessEqual(used, known, expression)
        for opening, closing in ("()", "{}", "[]"):
            self.assertEqual(expression.count(opening), expression.count(closing), expression)

    def test_the_source_has_the_names_that_we_look_for(self):
        known, _ = self.names()
        self.assertLessEqual(
            {"sipmcp_edge_ready", "sipmcp_edge_tool_calls_total", "sipmcp_edge_store_seconds_bucket", "sipmcp_store_errors_total", "sipmcp_edge_queue_dropped_total"},
            known,
        )

    def test_alerts(self):
        things = RENDERED["everything"]
        known, operator = self.names()
        groups = only(things, "PrometheusRule")["spec"]["groups"]
        self.assertEqual(yaml.safe_load(only(things, "ConfigMap", "sipmcp-alerts")["data"]["sipmcp.yaml"])["groups"], groups)
        rules = [rule for group in groups for rule in group["rules"]]
        names = [rule["alert"] for rule in rules]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(len(groups), len({group["name"] for group in groups}))
        self.assertLessEqual({"SipmcpOperatorDown", "SipmcpEdgeDown", "SipmcpStoreUnreachable", "SipmcpNobodyWrites"}, set(names))
        for rule in rules:
            self.assertRegex(rule["alert"], "^Sipmcp[A-Z]")
            self.assertIn(rule["labels"]["severity"], ("info", "warning", "critical"))
            self.assertTrue(rule["annotations"]["summary"] and rule["annotations"]["description"], rule["alert"])
            self.check(rule["expr"], known, operator)
        self.assertNotIn("SipmcpOperatorDown", json.dumps(RENDERED["alerts as a file"]), "its job is not known")

    def test_dashboards(self):
        known, operator = self.names()
        maps = [thing for thing in RENDERED["everything"] if thing["kind"] == "ConfigMap" and "dashboard" in thing["metadata"]["name"]]
        self.assertEqual(len(maps), len(list((CHARTS / "sipmcp/dashboards").glob("*.json"))))
        uids = set()
        for thing in maps:
            self.assertEqual(thing["metadata"]["labels"]["grafana_dashboard"], "1")
            (text,) = thing["data"].values()
            board = json.loads(text)
            uids.add(board["uid"])
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(ids), len(set(ids)))
            for panel in board["panels"]:
                for target in panel.get("targets", []):
                    self.check(target["expr"].replace("$__rate_interval", "1m"), known, operator)
            for variable in board["templating"]["list"]:
                self.check(variable.get("definition", ""), known, operator)
        self.assertEqual(len(uids), len(maps))

    def test_monitors_find_what_they_look_for(self):
        things = RENDERED["everything"]
        monitor = only(things, "ServiceMonitor")["spec"]
        services = [thing for thing in things if thing["kind"] == "Service" and within(thing["metadata"]["labels"], monitor["selector"]["matchLabels"])]
        self.assertEqual([service["metadata"]["name"] for service in services], ["sipmcp-operator-metrics"])
        self.assertIn(monitor["endpoints"][0]["port"], {port["name"] for port in services[0]["spec"]["ports"]})
        self.assertEqual(only(things, "ServiceMonitor")["metadata"]["labels"]["release"], "prometheus")
        edges = only(things, "PodMonitor")["spec"]
        self.assertEqual(edges["namespaceSelector"], {"any": True})
        some = only(RENDERED["namespaced with everything"], "PodMonitor")["spec"]
        self.assertEqual(some["namespaceSelector"], {"matchNames": NAMESPACED["watchNamespaces"]})
        workload = ROOT / "operator/src/plan/workload.rs"
        if workload.is_file():
            text = workload.read_text()
            for value in edges["selector"]["matchLabels"].values():
                self.assertIn(f'"{value}"', text, "a label that the operator gives to edges")
            self.assertIn(f'"name": "{edges["podMetricsEndpoints"][0]["port"]}"', text, "a named port of the edges' pods")


class Lint(unittest.TestCase):
    def test_helm_lint(self):
        for chart, values in (("sipmcp-crds", {}), ("sipmcp", {}), ("sipmcp", EVERYTHING), ("sipmcp", NAMESPACED)):
            with self.subTest(chart=chart):
                done = helm("lint", chart, values, "--strict")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_helm_packs_them(self):
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            for chart in ("sipmcp-crds", "sipmcp"):
                done = run("package", CHARTS / chart, "--destination", folder)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertEqual(len(list(pathlib.Path(folder).glob(f"{chart}-[0-9]*.tgz"))), 1)


class Counted(unittest.TextTestResult):
    """Counts tests as the other parts do, and names what failed on a line of its own."""

    broken = ()

    def addSubTest(self, test, subtest, error):
        super().addSubTest(test, subtest, error)
        if error:
            self.broken = {*self.broken, test.id()}

    def addFailure(self, test, error):
        super().addFailure(test, error)
        self.broken = {*self.broken, test.id()}

    def addError(self, test, error):
        super().addError(test, error)
        self.broken = {*self.broken, test.id()}


if __name__ == "__main__":
    outcome = unittest.main(exit=False, testRunner=unittest.TextTestRunner(resultclass=Counted, stream=sys.stdout)).result
    skipped, failed = len(outcome.skipped), len(outcome.broken)
    for name in sorted(outcome.broken):
        print(f"FAILED {name}")
    print(f"count: {outcome.testsRun - skipped - failed} passed, {failed} failed, {skipped} skipped")
    sys.exit(0 if failed == 0 else 1)
