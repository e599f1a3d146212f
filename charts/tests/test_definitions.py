"""The chart sipmcp-crds."""

import unittest

import yaml

from render import ROOT, helm, render


class Definitions(unittest.TestCase):
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
