"""From the recorded inputs of steps back to the edges between them."""

from collections.abc import Mapping, Sequence
from typing import cast

from genblaze_dagster.core.models import Asset, Step, is_valid_sha256
from genblaze_dagster.pipeline.declaration import INPUT_FROM
from genblaze_dagster.pipeline.external import ExternalInput, Source, StepOutput

Identity = tuple[str, str]
"""What an asset is recognised by, as kind and value."""

# Thousands of steps with thousands of inputs need fewer; a manifest made to take hours needs more:
# it then gets single outputs where a whole step would do.
_MOST_COMPARISONS = 1_000_000


class Wiring:
    """Matches inputs with outputs: by SHA-256, and by asset id or URL where there is none.

    Where all outputs of a step are inputs one after the other, the step is the input; else each of
    its outputs is. Two steps may have put out equal bytes. Then the one genblaze noted goes first,
    then the one of the same asset id, then the latest. Takes the steps in their order.

    Args:
        names: what each step is called; None for one that is not run again, so that its outputs
            are external media.
    """

    def __init__(self, names: Sequence[str | None]) -> None:
        self._names = names
        self._outputs: list[Sequence[Asset]] = []
        # What can be known of an output → the latest step that has it first; and that has it at
        # all, with its position there.
        self._first: dict[Identity, int] = {}
        self._any: dict[Identity, StepOutput] = {}
        self._comparisons_left = _MOST_COMPARISONS

    def next(self, step: Step) -> tuple[Source, ...]:
        """Return the inputs of the next step, and take up its outputs."""
        hints = self._hints(step)
        sources: list[Source] = []
        at = 0
        while at < len(step.inputs):
            maker = self._maker(step.inputs, at, hints)
            if maker is None:
                sources.append(self._single(step.inputs[at]))
                at += 1
            else:
                sources.append(self._names[maker] or "")
                at += len(self._outputs[maker])
        self._take_up(step)
        return tuple(sources)

    def _single(self, asset: Asset) -> Source:
        made = (self._any[known] for known in _identities(asset) if known in self._any)
        return next(made, None) or ExternalInput(asset=asset)

    def _take_up(self, step: Step) -> None:
        position = len(self._outputs)
        self._outputs.append(step.assets)
        name = self._names[position]
        if name is None or not step.assets:
            return
        for identity in _identities(step.assets[0]):
            self._first[identity] = position
        for index, asset in enumerate(step.assets):
            for identity in _identities(asset):
                self._any[identity] = StepOutput(name, index)

    def _hints(self, step: Step) -> Mapping[Identity, int]:
        """Return the first outputs of the steps that genblaze noted as inputs."""
        noted: object = step.metadata.get(INPUT_FROM)
        positions = cast(list[object], noted) if isinstance(noted, list) else [noted]
        found: dict[Identity, int] = {}
        for position in positions:
            if type(position) is not int or not 0 <= position < len(self._outputs):
                continue
            outputs = self._outputs[position]
            if outputs and self._names[position] is not None:
                for identity in _identities(outputs[0]):
                    found.setdefault(identity, position)
        return found

    def _maker(self, inputs: Sequence[Asset], at: int, hints: Mapping[Identity, int]) -> int | None:
        """Return the step all of whose outputs are the inputs from this one on."""
        for known in (hints, self._first):
            for identity in _identities(inputs[at]):
                maker = known.get(identity)
                if maker is not None and self._follow(inputs, at, self._outputs[maker]):
                    return maker
        return None

    def _follow(self, inputs: Sequence[Asset], at: int, outputs: Sequence[Asset]) -> bool:
        if len(outputs) > min(len(inputs) - at, self._comparisons_left):
            return False
        for position, output in enumerate(outputs):
            self._comparisons_left -= 1
            if not _is_same(inputs[at + position], output):
                return False
        return True


def _identities(asset: Asset) -> tuple[Identity, ...]:
    """Return what an asset is recognised by, the most telling first."""
    sha256 = asset.sha256
    if sha256 is not None and is_valid_sha256(sha256):
        return (("sha256 and id", sha256 + asset.asset_id), ("sha256", sha256))
    return (("id", asset.asset_id), ("url", asset.url))


def _is_same(one: Asset, other: Asset) -> bool:
    if is_valid_sha256(one.sha256) or is_valid_sha256(other.sha256):
        return one.sha256 == other.sha256
    return one.asset_id == other.asset_id or one.url == other.url
