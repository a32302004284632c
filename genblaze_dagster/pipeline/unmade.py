"""Inputs that do not exist yet, for estimates: whoever looks at their facts is told so."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import PrivateAttr

from genblaze_dagster.core.enums import Modality
from genblaze_dagster.core.models import Asset
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.providers.protocol import InputMedia

_FACTS = frozenset(
    ("url", "size_bytes", "width", "height", "duration", "video", "audio", "tracks", "metadata")
)


@dataclass(slots=True)
class Looks:
    """Whether somebody wanted to know what nobody can know yet."""

    at_kind: bool = False
    at_facts: bool = False


class _UnmadeAsset(Asset):
    """The record of media that is still to be generated: of its kind, and nothing else."""

    _looks: Looks = PrivateAttr(default_factory=Looks)

    def __getattribute__(self, name: str) -> Any:
        if name in _FACTS:
            self._looks.at_facts = True
            raise ConfigError(f"{name} of an input is known when the input is made")
        if name == "media_type":
            self._looks.at_kind = True
        return super().__getattribute__(name)


def unmade_inputs(kinds: Sequence[Modality]) -> tuple[tuple[InputMedia, ...], Looks]:
    """Return one input of each kind, as if every input were one file, and what is looked at."""
    looks = Looks()
    return tuple(_unmade(kind, looks) for kind in kinds), looks


def _unmade(kind: Modality, looks: Looks) -> InputMedia:
    asset = _UnmadeAsset(url="about:blank", media_type=f"{kind.value}/unknown")
    asset._looks = looks  # pyright: ignore[reportPrivateUsage]

    async def read() -> bytes:
        looks.at_facts = True
        raise _no_bytes()

    async def stream() -> AsyncIterator[bytes]:
        looks.at_facts = True
        raise _no_bytes()
        yield b""

    def public_url() -> NoReturn:
        looks.at_facts = True
        raise _no_bytes()

    return InputMedia(asset=asset, read=read, stream=stream, public_url=public_url)


def _no_bytes() -> ConfigError:
    return ConfigError("an input is read when it is made; an estimate has its record only")
