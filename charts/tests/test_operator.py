"""The chart sipmcp: what its values do."""

import json
import re
import unittest
from concurrent.futures import ThreadPoolExecutor

import yaml

from render import CHARTS, NAMESPACE, ROOT, helm, render
from shared import kinds, only, within
from values import BAD, EVERYTHING, GOOD, NAMESPACED


class Operator(unittest.TestCase):
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
        self.assertEqual(found["--service-address"], "$(SIPMCP_OPERATOR_EDGES_SERVICE_HOST):8443")
        version = yaml.safe_load((CHARTS / "sipmcp/Chart.yaml").read_text())["appVersion"]
        self.assertEqual(found["--edge-image"], f"sipmcp.dev/sipmcp-edge:{version}")
        self.assertNotIn("--watch-namespaces", found)
        self.assertEqual(self.arguments(NAMESPACED)["--watch-namespaces"], "acme,sipmcp-system")
        fixed = self.arguments({"operator": {"service": {"clusterIP": "fd00::77"}}})
        self.assertEqual(fixed["--service-address"], "[fd00::77]:8443")
        self.assertEqual(self.arguments({"operator": {"address": "sip-op.example:443"}})["--service-address"], "sip-op.example:443")
        named = self.arguments({"fullnameOverride": "voice"}, "voice-operator")
        self.assertEqual(named["--service"], "voice-operator.sipmcp-system.svc")
        self.assertEqual(named["--service-address"], "$(VOICE_OPERATOR_EDGES_SERVICE_HOST):8443")

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

    def test_images_of_ones_own_machine_are_never_pulled(self):
        values = yaml.safe_load((CHARTS / "values-dev.yaml").read_text())
        things = render("sipmcp", {**values, "demo": {"enabled": True, **values["demo"]}})
        for deployment in (thing for thing in things if thing["kind"] == "Deployment"):
            for container in deployment["spec"]["template"]["spec"]["containers"]:
                self.assertEqual((container["image"].rsplit(":", 1)[1], container["imagePullPolicy"]), ("dev", "Never"))
        found = self.arguments(values)
        self.assertEqual((found["--edge-image"], found["--edge-image-pull-policy"]), ("sipmcp.dev/sipmcp-edge:dev", "Never"))

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
        people, edges = only(things, "Service", "sipmcp-operator")["spec"], only(things, "Service", "sipmcp-operator-edges")["spec"]
        self.assertEqual({port["name"]: port["port"] for port in people["ports"]}, {"admin": 9444})
        self.assertEqual({port["name"]: port["port"] for port in edges["ports"]}, {"edges": 8443})
        self.assertEqual(edges["selector"], people["selector"], "every replica serves both")
        for service in (people, edges):
            self.assertNotIn("clusterIP", service)
            self.assertNotIn("sessionAffinity", service)
        self.assertEqual(only(things, "Service", "sipmcp-operator-metrics")["spec"]["clusterIP"], "None")
        fixed = only(render("sipmcp", GOOD["a fixed address"]), "Service", "sipmcp-operator-edges")["spec"]
        self.assertEqual(fixed["clusterIP"], "10.96.0.77")
        other = render("sipmcp", {**GOOD["other ports"], "webhook": {"enabled": True}})
        ports = {port["name"]: port["port"] for name in ("", "-edges") for port in only(other, "Service", f"sipmcp-operator{name}")["spec"]["ports"]}
        self.assertEqual(ports, {"edges": 443, "webhook": 9000, "admin": 9001})

    def test_network_policies(self):
        policy = only(render("sipmcp"), "NetworkPolicy")["spec"]
        everybody = [rule["ports"][0]["port"] for rule in policy["ingress"] if "from" not in rule]
        self.assertEqual(everybody, [8443, 8080], "nobody but replicas of the operator reaches the Admin API")
        (replicas,) = [rule for rule in policy["ingress"] if "from" in rule]
        self.assertEqual([port["port"] for port in replicas["ports"]], [8443, 9444])
        self.assertEqual(replicas["from"], [{"podSelector": policy["podSelector"]}])
        policy = only(render("sipmcp", EVERYTHING), "NetworkPolicy", "sipmcp-operator")["spec"]
        self.assertIn({**replicas, "from": [{"podSelector": policy["podSelector"]}]}, policy["ingress"])
        ports = {rule["ports"][0]["port"]: rule.get("from") for rule in policy["ingress"] if len(rule["ports"]) == 1}
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
