"""demo.enabled: sip:echo@demo.example."""

import unittest

from render import NAMESPACE
from shared import kinds, objects, only, within


class Demo(unittest.TestCase):
    def test_its_objects_name_each_other(self):
        things = objects("demo")
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
        things = objects("demo over TLS only")
        edge, domain = only(things, "SipEdge")["spec"], only(things, "SipDomain")["spec"]
        self.assertEqual([listener["protocol"] for listener in edge["listeners"]], ["TLS"])
        self.assertIs(edge["insecure"], False)
        self.assertNotIn("transport", domain)

    def test_without_it_nothing_of_it_is_there(self):
        self.assertFalse({"SipEdge", "SipDomain", "McpAgent", "McpCapabilityPolicy", "SessionStore", "Secret"} & kinds(objects("defaults")))
