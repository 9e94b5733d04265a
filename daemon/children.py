"""How a process of the program's own is begun: the same interpreter, the same package, whatever the working folder."""

import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).parents[1])


def module(name: str, *arguments: object) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment of `python -m NAME`; no file of the working folder can stand in for ours."""
    paths = filter(None, [_ROOT, os.environ.get("PYTHONPATH")])
    return [sys.executable, "-P", "-m", name, *map(str, arguments)], os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
