"""What the tests have in common: every good set of values rendered once, and ways to look into it."""

import functools
from concurrent.futures import ThreadPoolExecutor

import yaml

from render import Unrendered, render
from values import GOOD

DEFINITIONS = "definitions"


@functools.cache
def rendered():
    """By the name of the values: the objects, or why there are none."""
    with ThreadPoolExecutor() as pool:
        found = dict(zip(GOOD, pool.map(lambda values: attempt("sipmcp", values), GOOD.values())))
    return {**found, DEFINITIONS: attempt("sipmcp-crds", {})}


def attempt(chart, values):
    try:
        return render(chart, values)
    except (Unrendered, yaml.YAMLError) as error:
        return error


def objects(values):
    """Those of one set of values, by its name."""
    things = rendered()[values]
    if isinstance(things, Exception):
        raise things
    return things


def every(look):
    """A test of each rendering on its own; the others are looked at, too, when one fails."""

    @functools.wraps(look)
    def test(self):
        for values in rendered():
            with self.subTest(values=values):
                look(self, values, objects(values))

    return test


def named(things, kind, name=None):
    return [thing for thing in things if thing["kind"] == kind and name in (None, thing["metadata"]["name"])]


def only(things, kind, name=None):
    found = named(things, kind, name)
    if len(found) != 1:
        there = [(thing["kind"], thing["metadata"]["name"]) for thing in things]
        raise AssertionError(f"{len(found)} objects of kind {kind} named {name or 'anything'} among {there}")
    return found[0]


def kinds(things):
    return {thing["kind"] for thing in things}


def within(labels, selector):
    return all(labels.get(key) == value for key, value in selector.items())
