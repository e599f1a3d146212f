#!/usr/bin/env python3
"""Shows every rendering to a real API server, which judges it and keeps nothing (dry run). KUBECONFIG names the cluster.

What the API server has to know before, it gets and loses again at the end: our definitions, by their chart; those of the Prometheus operator, out of
its Go module; the namespaces. A cluster that has one of them already is not touched: the run ends with an error."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from render import CHARTS, MONITORS, NAMESPACE, RELEASE, name_of, render, run
from values import GOOD, NAMESPACED

# Kinds whose definitions are not brought.
UNKNOWN = {"Certificate", "Issuer"}
NAMESPACES = sorted({NAMESPACE, *NAMESPACED["watchNamespaces"]})


def kubectl(*arguments, given=None, check=True):
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True, timeout=120)
    if check and done.returncode != 0:
        sys.exit(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done


def definitions():
    """The definitions of ServiceMonitor, PodMonitor and PrometheusRule."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["go", "mod", "download", "-json", MONITORS], cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"go mod download {MONITORS}: {done.stdout}{done.stderr}")
    folder = pathlib.Path(json.loads(done.stdout)["Dir"]) / "example/prometheus-operator-crd"
    return [str(folder / f"monitoring.coreos.com_{name}.yaml") for name in ("servicemonitors", "podmonitors", "prometheusrules")]


def begin(files):
    there = kubectl("get", "customresourcedefinitions", "-o", "name").stdout
    for group in ("sipmcp.dev", "monitoring.coreos.com"):
        if f".{group}" in there:
            sys.exit(f"this cluster has definitions of {group} already; take a fresh one (make cluster)")
    for namespace in NAMESPACES:
        kubectl("create", "namespace", namespace)
    for file in files:
        # Too large for the annotation of a client-side apply.
        kubectl("create", "-f", file)
    done = run("install", f"{RELEASE}-crds", CHARTS / "sipmcp-crds", "--namespace", NAMESPACE, "--set", "crds.keep=false")
    if done.returncode != 0:
        sys.exit(f"helm install sipmcp-crds: {done.stderr}")
    kubectl("wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all")


def end(files):
    run("uninstall", f"{RELEASE}-crds", "--namespace", NAMESPACE)
    for file in files:
        kubectl("delete", "--ignore-not-found", "-f", file, check=False)
    kubectl("delete", "--ignore-not-found", "--wait=false", "namespace", *NAMESPACES, check=False)


def main():
    if not os.environ.get("KUBECONFIG"):
        sys.exit("KUBECONFIG names no cluster")
    files, passed, failed = definitions(), 0, 0
    try:
        begin(files)
        for name, values in GOOD.items():
            if name.startswith("a fixed address"):
                continue  # its addresses are of another cluster
            things = [thing for thing in render("sipmcp", values) if thing["kind"] not in UNKNOWN]
            done = kubectl("apply", "--dry-run=server", "-f", "-", given=yaml.safe_dump_all(things), check=False)
            taken = len(done.stdout.splitlines())
            # A warning of the API server is a mistake of ours, too.
            if done.returncode == 0 and taken == len(things) and not done.stderr.strip():
                passed += 1
                continue
            failed += 1
            print(f"FAILED {name}: {taken} of {len(things)} objects were taken: {[name_of(thing) for thing in things]}\n{done.stderr.strip()}")
    finally:
        end(files)
    print(f"count: {passed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
