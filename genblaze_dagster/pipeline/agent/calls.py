"""What users write, sync or async: calling it from the event loop, and telling versions apart."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import CodeType
from typing import TypeVar, cast

T = TypeVar("T")


async def called(function: Callable[..., T | Awaitable[T]], *arguments: object) -> T:
    """Call a function and return what it gives, awaited when that is needed.

    It runs on a thread: it may read media, or ask a model with a blocking client.
    """
    returned = await asyncio.to_thread(function, *arguments)
    if inspect.isawaitable(returned):
        return await cast(Awaitable[T], returned)
    return returned


def written(function: object) -> object:
    """Return the function inside of a `functools.partial`, anything else as it is."""
    while isinstance(function, partial):
        function = cast("partial[object]", function).func
    return function


def source_of(given: object) -> str:
    """Return the source of a function or class; of another object, that of its class."""
    thing = written(given)
    described = thing if inspect.isroutine(thing) or inspect.isclass(thing) else type(thing)
    try:
        return inspect.getsource(described)
    except (OSError, TypeError):
        # No file (a notebook cell that is gone, exec): the byte code or the name has to do.
        code = getattr(described, "__code__", None)
        if isinstance(code, CodeType):
            return code.co_code.hex() + repr(code.co_consts)
        return described.__qualname__
