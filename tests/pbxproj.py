"""Xcode's project files: a parser of their old property lists, and a check that a project is whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = re.compile(
    r'\s+|//[^\n]*|/\*.*?\*/|(?P<mark>[{}()=;,])|"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[\w./$+-]+)', re.DOTALL
)
ID = re.compile(r"^[0-9A-F]{24}$")

REQUIRED = {
    "PBXProject": ("buildConfigurationList", "mainGroup", "targets", "packageReferences"),
    "PBXNativeTarget": ("buildConfigurationList", "buildPhases", "name", "productReference", "productType"),
    "PBXGroup": ("children", "sourceTree"),
    "PBXFileReference": ("path", "sourceTree"),
    "PBXTargetDependency": ("target", "targetProxy"),
    "PBXContainerItemProxy": ("containerPortal", "remoteGlobalIDString"),
    "XCConfigurationList": ("buildConfigurations", "defaultConfigurationName"),
    "XCBuildConfiguration": ("buildSettings", "name"),
    "XCLocalSwiftPackageReference": ("relativePath",),
    "XCSwiftPackageProductDependency": ("package", "productName"),
}


@dataclass
class Project:
    """Objects by id, and the root's id."""

    objects: dict[str, dict[str, Any]]
    root: str

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.objects[key]


def parsed(text: str) -> Project:
    """The objects of a project file. Raises ValueError: not a property list of that kind."""
    tokens = list(_tokens(text))
    value, end = _value(tokens, 0)
    if end != len(tokens):
        raise ValueError(f"expected the end, found {tokens[end]}")
    if not isinstance(value, dict) or "objects" not in value:
        raise ValueError("expected a dictionary with objects")
    return Project(value["objects"], value["rootObject"])


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"expected a word or a sign, found {text[at : at + 20]!r}")
        at = found.end()
        if found.lastgroup is not None:
            yield found.lastgroup, found[found.lastgroup]


def _value(tokens: list[tuple[str, str]], at: int) -> tuple[Any, int]:
    if at >= len(tokens):
        raise ValueError("the list ends too early")
    kind, text = tokens[at]
    if kind != "mark":
        return text, at + 1
    if text == "{":
        return _dictionary(tokens, at + 1)
    if text == "(":
        return _array(tokens, at + 1)
    raise ValueError(f"expected a value, found {text!r}")


def _dictionary(tokens: list[tuple[str, str]], at: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while at < len(tokens) and tokens[at] != ("mark", "}"):
        key = tokens[at][1]
        _expect(tokens, at + 1, "=")
        found[key], at = _value(tokens, at + 2)
        _expect(tokens, at, ";")
        at += 1
    _expect(tokens, at, "}")
    return found, at + 1


def _array(tokens: list[tuple[str, str]], at: int) -> tuple[list[Any], int]:
    found = []
    while at < len(tokens) and tokens[at] != ("mark", ")"):
        value, at = _value(tokens, at)
        found.append(value)
        if tokens[at : at + 1] != [("mark", ")")]:
            _expect(tokens, at, ",")
            at += 1
    _expect(tokens, at, ")")
    return found, at + 1


def _expect(tokens: list[tuple[str, str]], at: int, mark: str) -> None:
    if at >= len(tokens) or tokens[at] != ("mark", mark):
        raise ValueError(f"expected {mark!r}, found {tokens[at][1] if at < len(tokens) else 'the end'!r}")


def faults(project: Project, folder: Path) -> list[str]:
    """What is wrong with a project in ``folder``: dangling ids, missing keys, files and products that are not there."""
    found = []
    if project.objects.get(project.root, {}).get("isa") != "PBXProject":
        found.append("the root is no PBXProject")
    for one in project.objects.values():
        found += [f"{one['isa']} without {key}" for key in REQUIRED.get(one["isa"], ()) if key not in one]
        found += [f"{text}: no such object" for text in _texts(one) if ID.match(text) and text not in project.objects]
    unused = set(project.objects) - {text for one in project.objects.values() for text in _texts(one)} - {project.root}
    found += [f"{one}: used nowhere" for one in sorted(unused)]
    roots = [one["mainGroup"] for one in project.objects.values() if "mainGroup" in one]
    for root in roots:
        found += [f"{place}: no such file" for place in _places(project, root, Path()) if not (folder / place).exists()]
    return found + _missing_settings(project, folder) + _missing_products(project, folder)


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, keys of dictionaries too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _texts(inner)
    else:
        for inner in value:
            yield from _texts(inner)


def _places(project: Project, key: str, inside: Path) -> Iterator[str]:
    """Paths of the files of a group, as the groups nest."""
    one = project.objects.get(key, {})
    if one.get("sourceTree") != "<group>":
        return
    inside = inside / one.get("path", "")
    if one["isa"] == "PBXFileReference":
        yield inside.as_posix()
    for child in one.get("children", ()):
        yield from _places(project, child, inside)


def _missing_settings(project: Project, folder: Path) -> list[str]:
    settings = [one["buildSettings"] for one in project.objects.values() if "buildSettings" in one]
    return [
        f"{one['INFOPLIST_FILE']}: no such file"
        for one in settings
        if "INFOPLIST_FILE" in one and not (folder / one["INFOPLIST_FILE"]).is_file()
    ]


def _missing_products(project: Project, folder: Path) -> list[str]:
    found = []
    for one in project.objects.values():
        if one["isa"] != "XCSwiftPackageProductDependency":
            continue
        place = project.objects.get(one["package"], {}).get("relativePath", "?")
        manifest = folder / place / "Package.swift"
        if not manifest.is_file():
            found.append(f"{place}: no Package.swift")
        elif f'.library(name: "{one["productName"]}"' not in manifest.read_text(encoding="utf-8"):
            found.append(f"{one['productName']}: no product of the package")
    return found
