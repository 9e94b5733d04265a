"""The log: one JSON object a line, whoever speaks."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import pytest

SPEAK = """
import logging, structlog
from daemon.config.sections import Log
from daemon.service.logs import configure_logs
early = structlog.get_logger()
configure_logs(Log(level="{level}", format="{format}"))
log = structlog.get_logger().bind(persona="ada", run="r1")
early.info("run.planned", trait="rust")
log.debug("run.detail", eta_s=12.3456789, learnt=None, needs=["a", "b"], runs=[{"step": 1}])
log.warning("run.rejected", reason="zwei\\nZeilen \\udcff é")
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("careful %s", "now")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("daemon.died")
"""


def said(level: str = "info", form: str = "json") -> str:
    script = SPEAK.replace("{level}", level).replace("{format}", form)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("form", ["json", "auto"])
def test_every_line_is_one_object_with_its_time_its_level_and_its_event(form: str) -> None:
    heard = lines(said(form=form))
    assert [(line["level"], line["event"]) for line in heard] == [
        ("info", "run.planned"), ("warning", "run.rejected"), ("warning", "careful now"), ("error", "daemon.died"),
    ]  # fmt: skip
    for line in heard:
        assert line["timestamp"].endswith("Z")
        assert abs((datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])).total_seconds()) < 60
    assert heard[0]["trait"] == "rust" and heard[1]["persona"] == "ada" and heard[1]["run"] == "r1"
    assert "ZeroDivisionError" in heard[3]["exception"]


def test_the_level_is_the_configs() -> None:
    assert [line["event"] for line in lines(said("debug"))][1] == "run.detail"
    assert [line["event"] for line in lines(said("error"))][-1] == "daemon.died"
    assert "run.planned" not in said("error")


def test_what_was_asked_for_is_told_at_every_level() -> None:
    script = """
from daemon.config.sections import Log
from daemon.service.logs import always, configure_logs
configure_logs(Log(level="error", format="json"))
always("daemon.status", traits=[])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    (line,) = lines(done.stderr)
    assert (line["level"], line["event"], line["traits"]) == ("info", "daemon.status", [])


def test_people_get_a_readable_form() -> None:
    text = said(form="pretty")
    assert "run.rejected" in text and not text.startswith("{")
    (detail,) = [line for line in said("debug", "pretty").splitlines() if "run.detail" in line]
    assert "eta_s=12.35" in detail and "learnt" not in detail, detail
    assert "needs='a, b'" in detail and "runs='[{\"step\": 1}]'" in detail, detail
