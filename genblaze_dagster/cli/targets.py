"""Targets as commands take them: a kind of URL that nobody reads is a usage error."""

from typing import TYPE_CHECKING

import click

from genblaze_dagster.trust import targets

if TYPE_CHECKING:
    from genblaze_dagster.storage.store import MediaStore


async def locate(target: str, *, endpoint_url: str | None = None) -> targets.Target:
    """Find out what a path or URL names.

    Raises:
        UsageError: no such kind of URL.
        NotFoundError: nothing is there.
        StorageError: the store cannot be reached or read.
        ConfigError: credentials or settings are missing.
    """
    _check(target)
    return await targets.locate(target, endpoint_url=endpoint_url)


async def reachable_store(url: str, *, endpoint_url: str | None = None) -> "MediaStore":
    """Open a store that will be searched, and find out first whether it can be.

    Raises:
        UsageError: no such kind of URL.
        StorageError: it is not there, cannot be reached or may not be read.
        ConfigError: credentials or settings are missing.
    """
    _check(url)
    return await targets.reachable_store(url, endpoint_url=endpoint_url)


def _check(target: str) -> None:
    problem = targets.url_problem(target)
    if problem is not None:
        raise click.UsageError(problem)
