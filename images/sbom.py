#!/usr/bin/env python3
"""sbom.py PACKAGE PROGRAM: what is linked into a program of this workspace, as CycloneDX 1.5 JSON on standard output.

Which crates: `cargo tree`, for the features that the image is built with and both platforms (build scripts and procedural macros are not in the
program). Their licences and checksums: `cargo metadata` and Cargo.lock. The same sources give the same bytes: there is no time and no random
number in it.
"""
import json
import re
import subprocess
import sys
import tomllib
import uuid

TARGETS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"]


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def linked(package):
    """(name, version) of each crate in the program -> the same of those it uses, out of the lines of `cargo tree`: depth, name, version."""
    graph = {}
    for target in TARGETS:
        path = []
        for line in cargo("tree", "--locked", "-p", package, "--target", target, "-e", "normal,no-proc-macro", "--prefix", "depth").splitlines():
            match = re.match(r"(\d+)(\S+) v(\S+)", line)
            if not match:
                continue
            depth, crate = int(match[1]), (match[2], match[3])
            del path[depth:]
            if path:
                graph[path[-1]].add(crate)
            path.append(crate)
            graph.setdefault(crate, set())
    return graph


def main():
    package, program = sys.argv[1:]
    metadata = json.loads(cargo("metadata", "--locked", "--format-version", "1"))
    crates = {(p["name"], p["version"]): p for p in metadata["packages"]}
    with open("Cargo.lock", "rb") as lock:
        sums = {(p["name"], p["version"]): p.get("checksum") for p in tomllib.load(lock)["package"]}
    graph = linked(package)
    version = next(v for name, v in graph if name == package)

    def purl(crate):
        return f"pkg:cargo/{crate[0]}@{crate[1]}"

    def component(crate):
        found = crates[crate]
        entry = {"type": "library", "bom-ref": purl(crate), "name": crate[0], "version": crate[1], "purl": purl(crate), "scope": "required"}
        if found.get("license"):
            # Cargo's old form "MIT/Apache-2.0" means OR.
            entry["licenses"] = [{"expression": found["license"].replace("/", " OR ")}]
        if sums.get(crate):
            entry["hashes"] = [{"alg": "SHA-256", "content": sums[crate]}]
        if found.get("repository"):
            entry["externalReferences"] = [{"type": "vcs", "url": found["repository"]}]
        return entry

    root = (package, version)
    others = sorted(crate for crate in graph if crate != root)
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "bom-ref": purl(root), "name": program, "version": version, "purl": purl(root)},
            "properties": [{"name": "sipmcp:targets", "value": " ".join(TARGETS)}],
        },
        "components": [component(crate) for crate in others],
        "dependencies": [{"ref": purl(crate), "dependsOn": sorted(map(purl, graph[crate]))} for crate in [root, *others]],
    }
    bom["serialNumber"] = "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True)))
    json.dump(bom, sys.stdout, indent=1)
    print()


main()
