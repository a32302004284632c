"""Keep credentials out of what httpx and httpcore log.

httpx logs every URL with its query at INFO, httpcore response headers at DEBUG; signed URLs
appear in both.
"""

import logging
import re

from genblaze_dagster.net.redact import redact

_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.proxy")
_QUERY = re.compile(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*")


class RedactingFilter(logging.Filter):
    """Rewrites a record's message without URL queries and secrets."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; every record passes."""
        record.msg = redact(_QUERY.sub(r"\1?" + "...", record.getMessage()))
        record.args = ()
        return True


def install() -> None:
    """Attach the filter to the loggers of httpx and httpcore, once."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(present, RedactingFilter) for present in logger.filters):
            logger.addFilter(RedactingFilter())
