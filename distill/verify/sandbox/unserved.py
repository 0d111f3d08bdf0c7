"""What test code may use that a program behind a link cannot serve, and whether test code decides anything at all.

A program that fails tests of the first kind may be right: what failed may be the stand-in. So they are an error, with
the reason, where they are not passed. Standard library only: this runs in the sandbox's processes.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill.verify.sandbox.traceless import Nodes
else:
    Nodes = dict

_MODULES = {
    "asyncio": "an event loop",
    "inspect": "a look at the program's source",
    "tempfile": "files",
    "pathlib": "files",
    "contextlib": "what the program prints",
    "io": "what the program prints",
    "mock": "a change of what the program calls",
}
_NAMES = {
    "vars": "a look inside the program's objects",
    "redirect_stdout": "what the program prints",
    "redirect_stderr": "what the program prints",
    "StringIO": "what the program prints",
    "patch": "a change of what the program calls",
    "open": "files",
    "input": "what the program reads",
    "globals": "the program's own names",
}
_ATTRIBUTES = {name: _NAMES[name] for name in ("redirect_stdout", "redirect_stderr", "StringIO", "patch")} | {
    "stdout": "what the program prints",
    "stdin": "what the program reads",
    "seed": "the program's random numbers",
    **dict.fromkeys(
        ("__dict__", "__class__", "__doc__", "__name__", "__annotations__", "__code__", "__wrapped__"),
        "a look inside the program's objects",
    ),
}


def unserved(nodes: Nodes) -> str:
    """What of the test code a program elsewhere cannot serve; "" where nothing is known."""
    if not nodes.keys().isdisjoint((ast.AsyncFunctionDef, ast.Await, ast.AsyncWith, ast.AsyncFor)):
        return _MODULES["asyncio"]
    imported = [one.name for one in nodes.get(ast.alias, ())]
    imported += [node.module or "" for node in nodes.get(ast.ImportFrom, ())]
    found = [_MODULES[part] for name in imported for part in name.split(".") if part in _MODULES]
    found += [_NAMES[node.id] for node in nodes.get(ast.Name, ()) if node.id in _NAMES]
    found += [_ATTRIBUTES[node.attr] for node in nodes.get(ast.Attribute, ()) if node.attr in _ATTRIBUTES]
    return found[0] if found else ""


def decides(nodes: Nodes) -> bool:
    """Whether the test code could find anything wrong but a program that raises: it asserts, raises or ends."""
    if ast.Assert in nodes or ast.Raise in nodes:
        return True
    words = [node.attr for node in nodes.get(ast.Attribute, ())] + [
        node.id for node in nodes.get(ast.Name, ())
    ]
    return any("assert" in word.lower() or word in ("exit", "fail", "check", "testmod") for word in words)
