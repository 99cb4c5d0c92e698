"""Builds the part in C (`iii_state/values/_native.c`) where there is a compiler; without one, the same is done in Python.

Hatchling calls this for a wheel and for an editable installation.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("iii_state/values/_native.c")
BUILT = SOURCE.with_name("_native.abi3.so")


class NativeBuild(BuildHookInterface[Any]):
    """The build hook."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and let the wheel say for what machine it is, if that worked."""
        if self.target_name != "wheel" or not build(Path(self.root)):
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"cp311-abi3-{platform}"
        build_data["artifacts"].append(f"/{BUILT.as_posix()}")


def build(root: Path) -> bool:
    """Build the module beside its source. False where that cannot be, with the reason on standard error."""
    if os.name != "posix" or os.environ.get("III_STATE_PURE") == "1":
        return False
    include = sysconfig.get_path("include")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    linking = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    unfinished = root / BUILT.with_suffix(f".{os.getpid()}")
    command = [*compiler, "-O3", "-shared", "-fPIC", f"-I{include}", *linking, str(root / SOURCE), "-o", str(unfinished)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        why = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        why = str(error)
    if why:
        print(f"iii-state: the part in C is not built, Python does the same more slowly: {why[:500]}", file=sys.stderr)
        unfinished.unlink(missing_ok=True)
        return False
    unfinished.replace(root / BUILT)
    return True
