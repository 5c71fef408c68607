"""Logging of long-running commands: one line an event on standard error, JSON unless a person watches."""

import logging
import sys

import structlog


def configure_logging(level: str = "info") -> None:
    """Send every log line to standard error from ``level`` on; standard output belongs to results."""
    watched = sys.stderr.isatty()
    renderer = structlog.dev.ConsoleRenderer() if watched else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
