#!/usr/bin/env python3
"""All tests of the charts, or those that are named (test_demo, test_every.EveryRendering …). Needs helm and PyYAML; scripts/charts.sh brings both.

The last line says how many passed: "count: P passed, F failed, S skipped"."""

import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))


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


def main():
    loader = unittest.defaultTestLoader
    tests = loader.loadTestsFromNames(sys.argv[1:]) if sys.argv[1:] else loader.discover(str(HERE))
    outcome = unittest.TextTestRunner(resultclass=Counted, stream=sys.stdout).run(tests)
    skipped, failed = len(outcome.skipped), len(outcome.broken)
    for name in sorted(outcome.broken):
        print(f"FAILED {name}")
    print(f"count: {outcome.testsRun - skipped - failed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not outcome.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
