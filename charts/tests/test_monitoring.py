"""Alerts and dashboards speak of metrics that there are."""

import json
import re
import unittest

import yaml

from render import CHARTS, ROOT
from shared import objects, only, within
from values import NAMESPACED


class Monitoring(unittest.TestCase):
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
        things = objects("everything")
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
        self.assertNotIn("SipmcpOperatorDown", json.dumps(objects("alerts as a file")), "its job is not known")

    def test_dashboards(self):
        known, operator = self.names()
        maps = [thing for thing in objects("everything") if thing["kind"] == "ConfigMap" and "dashboard" in thing["metadata"]["name"]]
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
        things = objects("everything")
        monitor = only(things, "ServiceMonitor")["spec"]
        services = [thing for thing in things if thing["kind"] == "Service" and within(thing["metadata"]["labels"], monitor["selector"]["matchLabels"])]
        self.assertEqual([service["metadata"]["name"] for service in services], ["sipmcp-operator-metrics"])
        self.assertIn(monitor["endpoints"][0]["port"], {port["name"] for port in services[0]["spec"]["ports"]})
        self.assertEqual(only(things, "ServiceMonitor")["metadata"]["labels"]["release"], "prometheus")
        edges = only(things, "PodMonitor")["spec"]
        self.assertEqual(edges["namespaceSelector"], {"any": True})
        some = only(objects("namespaced with everything"), "PodMonitor")["spec"]
        self.assertEqual(some["namespaceSelector"], {"matchNames": NAMESPACED["watchNamespaces"]})
        workload = ROOT / "operator/src/plan/workload.rs"
        if workload.is_file():
            text = workload.read_text()
            for value in edges["selector"]["matchLabels"].values():
                self.assertIn(f'"{value}"', text, "a label that the operator gives to edges")
            (endpoint,) = edges["podMetricsEndpoints"]
            (container,) = re.findall(r'"name": "(\w+)", "image": installation', text)
            (port,) = re.findall(r"HEALTH_PORT: u16 = (\d+);", text)
            kept = [one["regex"] for one in endpoint["relabelings"] if one.get("action") == "keep"]
            places = {one["replacement"] for one in endpoint["relabelings"] if one.get("targetLabel") == "__address__"}
            self.assertEqual((kept, places), ([container], {f"$1:{port}", f"[$1]:{port}"}))
