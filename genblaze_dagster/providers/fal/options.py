"""How fal is asked to treat a job: the headers of its submit, and what they may say."""

import json
from collections.abc import Mapping

from genblaze_dagster.errors import ConfigError


def submit_headers(
    *,
    priority: str | None,
    start_timeout: float | None,
    runner_hint: str | None,
    output_lifetime: int | None,
    store_io: bool,
    vendor_retries: bool,
) -> Mapping[str, str]:
    """Return the headers of a submit; see `FalProvider`. Seconds are seconds."""
    lifecycle = {"expiration_duration_seconds": output_lifetime}
    headers = {
        "x-fal-runner-hint": runner_hint,
        "x-fal-queue-priority": priority,
        "x-fal-request-timeout": None if start_timeout is None else str(float(start_timeout)),
        "x-fal-object-lifecycle-preference": output_lifetime and json.dumps(lifecycle),
        "x-fal-no-retry": None if vendor_retries else "1",
        "x-fal-store-io": None if store_io else "0",
    }
    return {name: str(value) for name, value in headers.items() if value}


def check_options(
    priority: str | None,
    start_timeout: float | None,
    webhook_url: str | None,
    output_lifetime: int | None,
    sync: bool,
) -> None:
    """Refuse options that fal would not take.

    Raises:
        ConfigError: names the option.
    """
    if priority not in (None, "normal", "low"):
        raise ConfigError(f"fal: priority is {priority!r}; give normal or low")
    if start_timeout is not None and start_timeout <= 0:
        raise ConfigError(f"fal: start_timeout is {start_timeout}; give seconds above 0")
    if output_lifetime is not None and output_lifetime <= 0:
        raise ConfigError(f"fal: output_lifetime is {output_lifetime}; give seconds above 0")
    if webhook_url is not None and (sync or not webhook_url.startswith("https://")):
        raise ConfigError("fal: webhook_url must be an https address, and sync has no webhooks")
