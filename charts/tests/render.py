"""Rendering charts with helm, and judging an object by a schema (OpenAPI 2 and 3, as far as Kubernetes uses them)."""

import base64
import functools
import json
import os
import pathlib
import re
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHARTS = ROOT / "charts"
RELEASE, NAMESPACE = "sipmcp", "sipmcp-system"


def run(*command):
    return subprocess.run(["helm", *map(str, command)], capture_output=True, text=True, timeout=120)


def helm(what, chart, values, *more):
    """`helm WHAT` on a chart with these values."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        name = [RELEASE] if what == "template" else []
        return run(what, *name, CHARTS / chart, "--namespace", NAMESPACE, "--values", file.name, *more)


class Unrendered(Exception):
    """What helm said instead of objects."""


def render(chart, values=None, *more):
    """The objects that a chart makes of these values."""
    done = helm("template", chart, values or {}, *more)
    if done.returncode != 0:
        raise Unrendered(done.stderr)
    return [found for found in yaml.load_all(done.stdout, Loader=Strict) if found is not None]


class Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """YAML without keys that stand twice, of which a reader would drop one."""


def _mapping(loader, node, deep=False):
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"keys that stand twice: {', '.join(twice)}", node.start_mark)
    return yaml.constructor.SafeConstructor.construct_mapping(loader, node, deep)


def _construct(loader, node):
    data = {}
    yield data
    data.update(_mapping(loader, node, deep=True))


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct)


def name_of(thing):
    meta = thing.get("metadata", {})
    return "/".join(filter(None, (thing.get("kind"), meta.get("namespace"), meta.get("name"))))


def pods_of(things):
    """Every pod template: the object that has it, and the template."""
    return [(thing, thing["spec"]["template"]) for thing in things if "template" in (thing.get("spec") or {})]


# --- schemas

TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def problems(schema, value, path, definitions):
    """What of a value a schema does not allow, as sentences that begin with the field's path."""
    if "$ref" in schema:
        return problems(definitions[schema["$ref"].rsplit("/", 1)[-1]], value, path, definitions)
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return [] if isinstance(value, (int, str)) and not isinstance(value, bool) else [f"{path}: neither a number nor a string"]
    found = []
    for part in schema.get("allOf", []):
        found += problems(part, value, path, definitions)
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return found + [f"{path}: {kind} wanted, not {json.dumps(value)[:60]}"]
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: {value!r} is none of {schema['enum']}")
    if isinstance(value, dict):
        found += _object(schema, value, path, definitions)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            found.append(f"{path}: {len(value)} items")
        for index, item in enumerate(value):
            found += problems(schema.get("items", {}), item, f"{path}[{index}]", definitions)
    elif isinstance(value, str):
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            found.append(f"{path}: {len(value)} characters")
        if "pattern" in schema and not re.search(schema["pattern"], value):
            found.append(f"{path}: {value!r} does not match {schema['pattern']}")
        if schema.get("format") == "byte":
            try:
                base64.b64decode(value, validate=True)
            except ValueError:
                found.append(f"{path}: no base64")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            found.append(f"{path}: {value} is out of range")
    return found


def _object(schema, value, path, definitions):
    found = []
    properties, rest = schema.get("properties", {}), schema.get("additionalProperties")
    # A schema without properties takes everything: free forms of the API.
    closed = bool(properties) and rest is None and not schema.get("x-kubernetes-preserve-unknown-fields")
    for name in schema.get("required", []):
        if name not in value:
            found.append(f"{path}: {name} is missing")
    for name, inner in value.items():
        if name in properties:
            found += problems(properties[name], inner, f"{path}.{name}", definitions)
        elif isinstance(rest, dict):
            found += problems(rest, inner, f"{path}.{name}", definitions)
        elif closed:
            found.append(f"{path}: there is no field {name}")
    return found


# The definitions of ServiceMonitor, PodMonitor and PrometheusRule are in this Go module.
MONITORS = "github.com/prometheus-operator/prometheus-operator@v0.85.0"


def module(name):
    """Where a Go module lies in the cache of this machine; it may not be there."""
    cache = os.environ.get("GOMODCACHE")
    if not cache:
        try:
            cache = subprocess.run(["go", "env", "GOMODCACHE"], capture_output=True, text=True, timeout=30).stdout.strip()
        except OSError:
            cache = ""
    return pathlib.Path(cache or "/nowhere") / name


@functools.cache
def kubernetes():
    """The schemas of Kubernetes' own kinds, by (apiVersion, kind), and all definitions: out of its Go module, where the cluster of the tests was
    built. None where it was not."""
    version = re.search(r"^\s*(?:require\s+)?k8s\.io/kubernetes (v\S+)", (ROOT / "e2e/cluster/go.mod").read_text(), re.M).group(1)
    file = module(f"k8s.io/kubernetes@{version}") / "api/openapi-spec/swagger.json"
    if not file.is_file():
        return None
    definitions = json.loads(file.read_text())["definitions"]
    kinds = {}
    for schema in definitions.values():
        for one in schema.get("x-kubernetes-group-version-kind", []):
            kinds["/".join(filter(None, (one["group"], one["version"]))), one["kind"]] = schema
    return kinds, definitions


def defined(files):
    """The schemas of definitions in files, by (apiVersion, kind)."""
    kinds = {}
    for file in sorted(files):
        spec = yaml.load(file.read_text(), Loader=Strict)["spec"]
        for version in spec["versions"]:
            schema = dict(version["schema"]["openAPIV3Schema"])
            plain = {name: {} for name in ("apiVersion", "kind", "metadata")}
            schema["properties"] = {**schema["properties"], **plain}
            kinds[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = schema
    return kinds


@functools.cache
def monitors():
    """Those of the Prometheus operator; empty where its module is not in the cache."""
    folder = module(MONITORS) / "example/prometheus-operator-crd"
    return defined(folder.glob("*_servicemonitors.yaml")) | defined(folder.glob("*_podmonitors.yaml")) | defined(folder.glob("*_prometheusrules.yaml"))


@functools.cache
def ours():
    """Those of our kinds, as crdgen wrote them."""
    return defined((ROOT / "crds/generated").glob("*.yaml"))
