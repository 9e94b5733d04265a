"""How results look: texts that harm no terminal, times and counts that people read, and JSON for programs."""

import json
import math
import os
import re
import sys
import time
from datetime import datetime
from typing import Any, Final

from rich.console import Console, RenderableType

from daemon.domain import Run

ID_SHOWN: Final = 8
"""Characters of an id that tables show; every command takes such a beginning."""
_PIPE_WIDTH: Final = 100_000
"""Columns where no terminal and no COLUMNS say how many there are: a row is a line, for grep to find it whole."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def console(*, stderr: bool = False) -> Console:
    """A console that takes texts as they are: no markup, no emoji, no guessed colours."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or os.environ.get("COLUMNS") else _PIPE_WIDTH
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, width=width)


def say(text: str, *, style: str | None = None) -> None:
    """One sentence or line on standard output; only the terminal breaks it."""
    console().print(plain(text), style=style, soft_wrap=True)


def hint(text: str) -> None:
    """Something worth knowing on standard error, where it disturbs no program that reads the output."""
    console(stderr=True).print(plain(text), style="dim", soft_wrap=True)


def print_json(document: Any) -> None:
    """One JSON document on standard output."""
    print(json_text(document, indent=2))


def json_text(document: Any, indent: int | None = None) -> str:
    """A document as this terminal or file can take it."""
    readable = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, indent=indent, ensure_ascii=not readable)
    # Bytes that were no UTF-8 are lone surrogates by now, which only the escaped form can carry.
    return re.sub(r"[\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text) if readable else text


def show(*parts: RenderableType) -> None:
    """Tables and texts on standard output; no blanks at line ends where no terminal needs them."""
    out = console()
    if out.is_terminal:
        out.print(*parts, sep="\n", crop=False)
        return
    with out.capture() as captured:
        out.print(*parts, sep="\n", crop=False)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def plain(text: str) -> str:
    """A text that moves no cursor and changes no colour, whoever wrote it."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text).encode("utf-8", "replace").decode()


def cut(text: str | None, length: int = 60) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(plain(text or "").split())
    return line if len(line) <= length else line[: length - 1] + "…"


def besides(doing: str | None, state: str) -> str:
    """What a run does that its state does not say already."""
    return "" if doing is None or doing == state else plain(doing)


def short(identity: str) -> str:
    """The beginning of an id."""
    return identity[:ID_SHOWN]


def lasting(seconds: float) -> str:
    """A length of time that is to come, rounded up: "12 s", "5 min"."""
    return f"{math.ceil(seconds)} s" if seconds < 120 else f"{math.ceil(seconds / 60)} min"


def ago(seconds: float | None) -> str:
    """How long ago a moment was, seconds since the epoch."""
    from daemon.learning.triggers import span

    return f"{span(max(time.time() - seconds, 0.0))} ago" if seconds else ""


def moment(seconds: float | None) -> str:
    """A moment by the clock on the wall, and which clock that is."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if seconds else ""


def count(number: int, what: str) -> str:
    """So many of something: 1 row, 2 rows."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def run_document(run: Run, **more: Any) -> dict[str, Any]:
    """A run as JSON tells of it."""
    from daemon.store.rows import iso

    return {
        "id": run.id,
        "persona": run.key.persona,
        "trait": run.key.trait,
        "state": run.state,
        "version": run.version,
        "purpose": run.purpose,
        "planned_because": run.planned_because,
        "reason": run.reason,
        "attempt": run.attempt,
        "failures": run.failures,
        "created_at": iso(run.created),
        "finished_at": iso(run.finished) if run.finished else None,
        **more,
    }
