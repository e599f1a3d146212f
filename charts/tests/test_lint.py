"""helm's own view of the charts."""

import pathlib
import tempfile
import unittest

from render import CHARTS, helm, run
from values import EVERYTHING, NAMESPACED


class Lint(unittest.TestCase):
    def test_helm_lint(self):
        for chart, values in (("sipmcp-crds", {}), ("sipmcp", {}), ("sipmcp", EVERYTHING), ("sipmcp", NAMESPACED)):
            with self.subTest(chart=chart):
                done = helm("lint", chart, values, "--strict")
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_helm_packs_them(self):
        with tempfile.TemporaryDirectory() as folder:
            for chart in ("sipmcp-crds", "sipmcp"):
                done = run("package", CHARTS / chart, "--destination", folder)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertEqual(len(list(pathlib.Path(folder).glob(f"{chart}-[0-9]*.tgz"))), 1)
