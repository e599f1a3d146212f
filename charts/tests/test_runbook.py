"""docs/runbook.md speaks of what there is: alerts, values, commands."""

import re
import unittest

import yaml

from render import CHARTS, ROOT, ours
from shared import objects, only

RUNBOOK = ROOT / "docs/runbook.md"


class Runbook(unittest.TestCase):
    text = RUNBOOK.read_text()

    def commands(self):
        """Every line of a code block, and every span of code that begins with a program."""
        blocks = re.findall(r"^```\n(.*?)^```$", self.text, re.S | re.M)
        lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
        return [*lines, *re.findall(r"`((?:kubectl|helm|sipmcp) [^`]+)`", self.text)]

    def test_every_alert_has_its_section_and_every_section_its_alert(self):
        groups = only(objects("everything"), "PrometheusRule")["spec"]["groups"]
        alerts = {rule["alert"] for group in groups for rule in group["rules"]}
        sections = re.findall(r"^### (Sipmcp\w+)$", self.text, re.M)
        self.assertEqual(len(sections), len(set(sections)))
        self.assertEqual(alerts ^ set(sections), set())
        for name in re.findall(r"\bSipmcp[A-Z]\w+", self.text):
            self.assertIn(name, alerts)

    def test_every_value_is_one_of_the_chart(self):
        values = {chart: yaml.safe_load((CHARTS / chart / "values.yaml").read_text()) for chart in ("sipmcp", "sipmcp-crds")}
        told = [path for command in self.commands() for path in re.findall(r"--set ([\w.]+)=", command)]
        told += re.findall(r"`((?:operator|webhook|rbac|monitoring|demo|crds)\.\w[\w.]*)`", self.text)
        self.assertGreater(len(told), 5)
        for path in told:
            found = values["sipmcp-crds" if path.startswith("crds.") else "sipmcp"]
            for step in path.split("."):
                self.assertIn(step, found, path)
                found = found[step]

    def test_kinds_conditions_and_fields_are_those_of_the_definitions(self):
        names = {"sipmcp"}
        for file in (ROOT / "crds/generated").glob("*.yaml"):
            names |= set(yaml.safe_load(file.read_text())["spec"]["names"]["shortNames"])
        others = {"pod", "pods", "node", "lease", "secret", "configmap", "deployment", "endpointslices"}
        for command in self.commands():
            for word in re.findall(r"^kubectl (?:get|describe|delete|patch|scale|annotate|replace|wait(?: --\S+)*) ([a-z][\w,]*)\b", command):
                for kind in word.split(","):
                    self.assertIn(kind, names | others, command)
            for condition in re.findall(r"--for=condition=(\w+)", command):
                self.assertIn(condition, ("Accepted", "ResolvedRefs", "Programmed", "Registered", "Ready", "Reachable"), command)
        kinds = {kind: schema for (_, kind), schema in ours().items()}
        for kind, path in re.findall(r"`(SipDomain|SipEdge|SessionStore|McpAgent)\.(spec[\w.]+)`", self.text):
            schema = kinds[kind]
            for step in path.split("."):
                self.assertIn(step, schema["properties"], f"{kind}.{path}")
                schema = schema["properties"][step]

    def test_every_subcommand_and_flag_of_ours_is_there(self):
        cluster, own = ROOT / "cli/src/cluster/args.rs", ROOT / "cli/src/args.rs"
        if not cluster.is_file():
            self.skipTest("cli/src/cluster/args.rs is not there yet")
        source = {True: cluster.read_text() + own.read_text(), False: own.read_text()}
        found = 0
        for command in self.commands():
            match = re.match(r"(kubectl )?sipmcp (\w+)", command)
            if not match:
                continue
            found += 1
            text = source[bool(match.group(1))]
            self.assertTrue(f"    {match.group(2).capitalize()}(" in text, command)
            for flag in re.findall(r" --([a-z-]+)", command.split(" > ")[0]):
                self.assertTrue(f'long = "{flag}"' in text or f"pub {flag.replace('-', '_')}:" in text, command)
        self.assertGreater(found, 10)
