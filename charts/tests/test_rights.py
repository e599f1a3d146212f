"""What the operator and people may do."""

import unittest

from render import NAMESPACE
from shared import kinds, objects, only
from values import NAMESPACED


class Rights(unittest.TestCase):
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
        things = objects("namespaced")
        cluster = self.rules(things, "ClusterRole", "sipmcp-operator-sipmcp-system")
        resources = {resource for rule in cluster for resource in rule["resources"]}
        self.assertEqual(
            resources,
            {"sipdomains", "sipdomains/status", "nodes", "tokenreviews", "subjectaccessreviews", "events"},
        )
        for namespace in NAMESPACED["watchNamespaces"]:
            role = self.rules(things, "Role", "sipmcp-operator-sipmcp-system", namespace)
            self.assertTrue(self.may(role, "statefulsets", "create"))
        everywhere = self.rules(objects("defaults"), "ClusterRole", "sipmcp-operator-sipmcp-system")
        self.assertTrue(self.may(everywhere, "statefulsets", "create"))
        self.assertEqual([thing for thing in objects("defaults") if thing["kind"] == "Role" and thing["metadata"]["namespace"] != NAMESPACE], [])

    def test_what_exists_is_not_changed_but_what_is_ours(self):
        for values in ("defaults", "namespaced"):
            for role in (thing for thing in objects(values) if thing["kind"] in ("Role", "ClusterRole") and "operator" in thing["metadata"]["name"]):
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
        own = self.rules(objects("defaults"), "Role", "sipmcp-operator", NAMESPACE)
        self.assertTrue(self.may(own, "leases", "update", "sipmcp-operator-write"))
        self.assertFalse(self.may(own, "leases", "update", "other"))
        self.assertTrue(self.may(own, "pods", "get"), "where the holder of the Lease is")

    def test_people_get_more_with_each_step(self):
        things = objects("defaults")
        names = ("view", "edit", "admin", "platform")
        view, edit, admin, platform = (self.rules(things, "ClusterRole", f"sipmcp-{role}") for role in names)
        self.assertEqual({verb for rule in view for verb in rule["verbs"]}, {"get", "list", "watch"})
        self.assertTrue(self.may(edit, "mcpagents", "create") and self.may(edit, "sipedges", "get"))
        self.assertFalse(self.may(edit, "sipedges", "create") or self.may(edit, "sipdomains/sessions", "get"))
        self.assertTrue(self.may(admin, "sipedges/drain", "create") and self.may(admin, "sipdomains/sessions", "delete"))
        # Who makes a SipEdge is given the Secrets of everybody whom it serves.
        for resource in ("sipedges", "sipdomains", "sessionstores", "sipedges/scale"):
            for verb in ("create", "update", "patch", "delete"):
                self.assertFalse(self.may(admin, resource, verb), f"{resource} {verb}")
            self.assertTrue(self.may(platform, resource, "patch"), resource)
        self.assertTrue(self.may(platform, "sipedges", "create") and self.may(platform, "mcpagents", "delete"))
        self.assertNotIn("aggregate", str(only(things, "ClusterRole", "sipmcp-platform")["metadata"]["labels"]))
        self.assertTrue(self.may(admin, "mcpagents", "delete") and self.may(admin, "sipedges/drain", "create"))
        for role in ("view", "edit", "admin"):
            labels = only(things, "ClusterRole", f"sipmcp-{role}")["metadata"]["labels"]
            self.assertEqual(labels[f"rbac.authorization.k8s.io/aggregate-to-{role}"], "true")
        self.assertEqual([thing for thing in objects("roles of people elsewhere") if thing["metadata"]["name"] == "sipmcp-view"], [])
        for kind in ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"):
            self.assertNotIn(kind, kinds(objects("no roles")))
