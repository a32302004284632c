import time

import pytest

from genblaze_dagster.core.models import Asset, Step
from genblaze_dagster.pipeline.external import ExternalInput, Source, StepOutput
from genblaze_dagster.pipeline.wiring import Wiring


def asset(number: int | None, *, id: str = "", url: str = "u") -> Asset:
    sha256 = None if number is None else f"{number:064x}"
    return Asset(asset_id=id or f"id-{number}", url=url, media_type="image/png", sha256=sha256)


def step(inputs: list[Asset], outputs: list[Asset], **metadata: object) -> Step:
    return Step(provider="p", model="m", inputs=inputs, assets=outputs, metadata=metadata)


def wired(steps: list[Step], names: list[str | None] | None = None) -> list[tuple[Source, ...]]:
    wiring = Wiring(names or [f"s{index}" for index in range(len(steps))])
    return [wiring.next(one) for one in steps]


def test_all_outputs_of_a_step_are_an_edge() -> None:
    """In any order of steps, and as often as they are used."""
    a, b, c = asset(1), asset(2), asset(3)
    steps = [step([], [a, b]), step([], [c]), step([c, a, b, c], [])]
    assert wired(steps)[2] == ("s1", "s0", "s1")


def test_a_part_of_the_outputs_is_named_by_its_position() -> None:
    """One of several outputs, or another order of them, is exactly that again."""
    a, b = asset(1), asset(2)
    steps = [step([], [a, b]), step([b], []), step([b, a], [])]
    assert wired(steps)[1] == (StepOutput("s0", 1),)
    assert wired(steps)[2] == (StepOutput("s0", 1), StepOutput("s0", 0))


def test_what_no_step_made_is_external() -> None:
    """With its whole record; so are outputs of steps that only brought media in."""
    a, b = asset(1), asset(2)
    steps = [step([], [a]), step([b, a], [])]
    assert wired(steps, [None, "edit"])[1] == (ExternalInput(asset=b), ExternalInput(asset=a))


def test_a_hash_is_stronger_than_an_id() -> None:
    """The same id with other bytes is another input, the same bytes under another id are not."""
    made = asset(1, id="one")
    steps = [step([], [made]), step([asset(2, id="one")], []), step([asset(1, id="two")], [])]
    found = wired(steps)
    assert isinstance(found[1][0], ExternalInput)
    assert found[2] == ("s0",)


def test_without_a_hash_id_or_address_decide() -> None:
    """Older manifests have inputs that are known by nothing else."""
    made = asset(None, id="one", url="https://a/1")
    steps = [
        step([], [made]),
        step([asset(None, id="one", url="https://b/2")], []),
        step([asset(None, id="two", url="https://a/1")], []),
        step([asset(1, id="one", url="https://a/1")], []),
    ]
    found = wired(steps)
    assert found[1] == found[2] == ("s0",)
    assert isinstance(found[3][0], ExternalInput)


@pytest.mark.parametrize(
    ("used", "metadata", "maker"),
    [
        (asset(1, id="first"), {}, "s0"),
        (asset(1, id="unknown"), {}, "s1"),
        (asset(1, id="unknown"), {"_input_from": 0}, "s0"),
        (asset(1, id="unknown"), {"_input_from": [7, "x", True, -1, None]}, "s1"),
        (asset(1, id="unknown"), {"_input_from": {"a": 1}}, "s1"),
    ],
    ids=["same id", "latest", "noted by genblaze", "nonsense noted", "other nonsense"],
)
def test_equal_bytes_of_two_steps(used: Asset, metadata: dict[str, object], maker: str) -> None:
    """The id tells them apart, else genblaze's note, else the latest is taken."""
    steps = [
        step([], [asset(1, id="first")]),
        step([], [asset(1, id="second")]),
        step([used], [], **metadata),
    ]
    assert wired(steps)[2] == (maker,)


def test_a_hostile_run_is_wired_in_time() -> None:
    """Thousands of equal outputs and inputs that almost match do not multiply."""
    same = [asset(1, id="x")] * 4000
    steps = [step([], [*same, asset(2)]) for _ in range(5)]
    steps += [step([*same, asset(3)], []) for _ in range(20)]
    started = time.thread_time()
    found = wired(steps)
    # Comparing each with each would take minutes.
    assert time.thread_time() - started < 15
    assert all(len(sources) == 4001 for sources in found[5:])
