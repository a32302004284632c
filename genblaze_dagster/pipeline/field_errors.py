"""What pydantic found wrong, as one line that names fields and never their values."""

from pydantic import ValidationError

_SHOWN_ERRORS = 3
_LONGEST_NAME = 40


def field_errors(error: ValidationError) -> str:
    """Return `field.path: what is wrong` for the first fields, joined with semicolons."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{_path(one['loc'])}: {one['msg']}" for one in found[:_SHOWN_ERRORS]]
    more = len(found) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def _path(location: tuple[int | str, ...]) -> str:
    parts = (str(part)[:_LONGEST_NAME].encode("ascii", "backslashreplace") for part in location)
    return ".".join(part.decode() for part in parts) or "all of it"
