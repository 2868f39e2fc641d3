# SPDX-License-Identifier: Apache-2.0
"""The program's own OpenAPI document, as a source of requests: valid ones, and such as break one rule at one place."""
import copy
import random
import string
import subprocess

import yaml

from vmm import PROGRAM

WRONG_TYPES = {
    "integer": ["7", 1.5, True, [1], {"a": 1}],
    "string": [7, True, ["a"], {"a": "b"}],
    "boolean": [0, 1, "true", [True]],
    "array": [{}, 7, "a", True],
    "object": [[], 7, "a", True],
}


class Document:
    def __init__(self):
        text = subprocess.run([PROGRAM, "document", "openapi"], capture_output=True, check=True).stdout
        # The loader in C, where there is one: the other takes a minute in the emulated host.
        self.yaml = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        self.components = self.yaml["components"]["schemas"]
        self.routes = [Route(self, path[1:], method.upper(), how)
                       for path, methods in self.yaml["paths"].items() for method, how in methods.items()]

    def schema(self, node):
        """Behind references."""
        while True:
            if "$ref" in node:
                node = self.components[node["$ref"].rsplit("/", 1)[1]]
            elif "allOf" in node:
                node = node["allOf"][0]
            else:
                return node

    def fields(self, node, seen, path=()):
        """(path, schema) of every member below an object; a list's element is the path's word 0. Depth first. Objects that
        occur in several places are gone through in the first: `seen` remembers them."""
        for name, inner in node.get("properties", {}).items():
            inner = self.schema(inner)
            yield (*path, name), inner
            below, here = inner, (*path, name)
            if inner["type"] == "array":
                below, here = self.schema(inner["items"]), (*path, name, 0)
                yield here, below
            if below["type"] == "object" and id(below) not in seen:
                seen.add(id(below))
                yield from self.fields(below, seen, here)

    def least(self, node):
        """The least that is valid by its schema."""
        kind = node["type"]
        if kind == "object":
            return {name: self.least(self.schema(node["properties"][name])) for name in node.get("required", [])}
        if kind == "integer":
            return node.get("minimum", 0)
        if kind == "array":
            return []
        return {"string": "a" * node.get("minLength", 1), "boolean": False}[kind] if "enum" not in node else node["enum"][0]

    def body_with(self, node, path, value, base=None):
        """An object that holds `value` at `path`, and around it the least that is needed."""
        body = copy.deepcopy(self.least(node) if base is None else base)
        at, schema = body, node
        for step, following in zip(path, (*path[1:], None)):
            schema = self.schema(schema["items"] if step == 0 else schema["properties"][step])
            if following is None and step == 0:
                at.append(value)
            elif following is None:
                at[step] = value
            elif step == 0:
                at.append(self.least(schema))
                at = at[0]
            else:
                at = at.setdefault(step, self.least(schema))
        return body

    def broken(self, node, seen):
        """(what, path, value): values of a member that its schema forbids."""
        for n, (path, schema) in enumerate(self.fields(node, seen)):
            wrong = WRONG_TYPES[schema["type"]]
            value = wrong[n % len(wrong)]  # one of them for each member: all of them over all members
            yield f"{type(value).__name__} for {schema['type']}", path, value
            if schema["type"] == "integer":
                yield "too small", path, schema["minimum"] - 1
                yield "too large", path, schema.get("maximum", (1 << 64) - 1) + 1
            if "enum" in schema:
                yield "unknown name", path, "Nonsense"
                yield "wrong case", path, schema["enum"][0].swapcase()
            if "maxLength" in schema:
                yield "too long", path, "a" * (schema["maxLength"] + 1)
            if schema.get("minLength"):
                yield "too short", path, "a" * (schema["minLength"] - 1)
            if "pattern" in schema or "format" in schema and schema["type"] == "string":
                yield "another pattern", path, "zz:zz"
            if schema["type"] == "array":
                yield "wrong element", path, [None]
                if schema.get("maxItems", 1 << 20) <= 4096:
                    yield "too many", path, [self.least(self.schema(schema["items"]))] * (schema["maxItems"] + 1)

    def random_value(self, node, r, depth=0):
        """Mostly valid."""
        if r.random() < 0.02:
            return r.choice([None, -1, 1 << 63, 0.5, "", "x" * 5000, [], {}, [[[]]], True])
        kind = node["type"]
        if kind == "object":
            some = r.random() ** 2
            return {name: self.random_value(self.schema(inner), r, depth + 1)
                    for name, inner in node.get("properties", {}).items()
                    if name in node.get("required", []) and r.random() < 0.98 or r.random() < some}
        if kind == "array":
            element = self.schema(node["items"])
            return [self.random_value(element, r, depth + 1) for _ in range(r.choice([0, 1, 1, 2, 3]))]
        if kind == "integer":
            least, most = node.get("minimum", 0), node.get("maximum", (1 << 63) - 1)
            return r.choice([least, most, min(least + 1, most), r.randint(least, most), min(least + r.randint(0, 300), most)])
        if kind == "boolean":
            return r.random() < 0.5
        if "enum" in node:
            return r.choice(node["enum"])
        return "".join(r.choice(string.ascii_letters + "/._-é\"\\\n") for _ in range(r.randint(0, 12)))


class Route:
    def __init__(self, document, name, method, how):
        self.name, self.method = name, method
        self.is_supported = not how.get("x-not-supported-yet", False)
        self.statuses = {int(status) for status in how["responses"]}
        self.answers = {int(status): response["content"]["application/json"]["schema"]
                        for status, response in how["responses"].items() if "content" in response}
        self.body = None
        if "requestBody" in how:
            self.body = document.schema(how["requestBody"]["content"]["application/json"]["schema"])


def is_valid(document, node, value):
    """Whether a value keeps its schema; unknown members are fine where the schema says nothing about them."""
    node = document.schema(node)
    kind = node["type"]
    if value is None:
        return node.get("nullable", False)
    if kind == "object":
        others = node.get("additionalProperties", True)
        known = node.get("properties", {})
        return isinstance(value, dict) and all(name in value for name in node.get("required", [])) and all(
            is_valid(document, known[name], inner) if name in known
            else is_valid(document, others, inner) if isinstance(others, dict) else others
            for name, inner in value.items())
    if kind == "array":
        return isinstance(value, list) and all(is_valid(document, node["items"], inner) for inner in value)
    if kind == "integer":
        return type(value) is int and node.get("minimum", value) <= value <= node.get("maximum", value)
    if kind == "boolean":
        return isinstance(value, bool)
    return isinstance(value, str) and value in node.get("enum", [value])


def seeded(number):
    return random.Random(number)
