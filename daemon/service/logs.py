"""The log: one JSON object a line on standard error, or pretty on a terminal."""

import json
import logging
import sys
from typing import Any

import structlog
from structlog.typing import EventDict, Processor

from daemon.config.sections import Log


def configure_logs(log: Log) -> None:
    """Send every event of the program, and of the libraries it stands on, the same way."""
    terminal = sys.stderr.isatty()
    pretty = log.format == "pretty" or (log.format == "auto" and terminal)
    level = logging.getLevelNamesMapping()[log.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper("%H:%M:%S", utc=False) if pretty else structlog.processors.TimeStamper("iso"),
    ]
    # A traceback is text by then, for the pretty renderer to take as it is.
    traceback = structlog.dev.plain_traceback
    people = structlog.dev.ConsoleRenderer(colors=terminal, exception_formatter=traceback)
    rendering: list[Processor] = [_for_people, people] if pretty else [structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    # Libraries speak through the standard module: only what is wrong, in the same form.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                *rendering,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


def always(event: str, **fields: Any) -> None:
    """Log what somebody asked to be told, however little the log is to say of itself."""
    everything = structlog.make_filtering_bound_logger(logging.INFO)
    structlog.wrap_logger(None, wrapper_class=everything).info(event, **fields)


def _for_people(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Fields as people write them: nothing of what is not there, short numbers, lists in words."""
    return {name: _readable(value) for name, value in event.items() if value is not None and value != []}


def _readable(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, default=str) if isinstance(value, list | dict) else value
