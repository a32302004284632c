"""Splices: what they make of a file, and that what undoes them is recognised."""

import hashlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genblaze_dagster.media.edit import (
    Edit,
    EditedSource,
    Range,
    Splice,
    chunks,
    composed,
    edited,
    pieces,
    sha256_edited,
    total,
    undoes,
    write_pieces,
)
from genblaze_dagster.media.source import Source


def by_hand(data: bytes, edit: Edit) -> bytes:
    """Apply splices from the back, which needs no arithmetic."""
    for splice in reversed(edit):
        data = data[: splice.offset] + splice.data + data[splice.offset + splice.length :]
    return data


@st.composite
def edits(draw: st.DrawFn, size: int) -> Edit:
    """Ascending splices that do not overlap."""
    count = draw(st.integers(0, 4))
    edges = sorted(draw(st.lists(st.integers(0, size), min_size=2 * count, max_size=2 * count)))
    return tuple(
        Splice(start, end - start, draw(st.binary(max_size=8)))
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    )


@given(st.data(), st.binary(max_size=60))
def test_an_edited_file_is_what_its_splices_say(data: st.DataObject, content: bytes) -> None:
    """Pieces, chunks, hash and random access all agree with splicing by hand."""
    edit = data.draw(edits(len(content)))
    expected = by_hand(content, edit)
    with Source.open(content) as source:
        made = pieces(source.size, edit)
        assert total(made) == len(expected)
        assert b"".join(chunks(source, made)) == expected
        assert sha256_edited(source, edit) == hashlib.sha256(expected).hexdigest()
        view = EditedSource(source, edit)
        assert view.size == len(expected)
        start, length = data.draw(st.integers(-1, 70)), data.draw(st.integers(-1, 70))
        with Source.open(expected) as plain:
            assert view.at(start, length) == plain.at(start, length)


@given(st.data(), st.binary(max_size=60))
def test_two_edits_compose_to_one(data: st.DataObject, content: bytes) -> None:
    """The composed edit does what the two do after each other."""
    first = data.draw(edits(len(content)))
    middle = by_hand(content, first)
    second = data.draw(edits(len(middle)))
    both = composed(len(content), first, second)
    assert by_hand(content, both) == by_hand(middle, second)


@given(st.data(), st.binary(max_size=60))
def test_only_what_restores_every_byte_undoes(data: st.DataObject, content: bytes) -> None:
    """`undoes` says yes for the reverse of an edit, and only when the bytes come out equal."""
    edit = data.draw(edits(len(content)))
    reverse: list[Splice] = []
    shift = 0
    for splice in edit:
        old = content[splice.offset : splice.offset + splice.length]
        reverse.append(Splice(splice.offset + shift, len(splice.data), old))
        shift += len(splice.data) - splice.length
    with Source.open(content) as source:
        assert undoes(source, edit, tuple(reverse))
        other = data.draw(edits(len(by_hand(content, edit))))
        if undoes(source, edit, other):
            assert by_hand(by_hand(content, edit), other) == content


def test_a_range_restored_from_elsewhere_does_not_count() -> None:
    """Equal length is not enough: each kept range must be where it was."""
    with Source.open(b"abcdef") as source:
        assert not undoes(source, (), (Splice(0, 2, b""),))
        assert not undoes(source, (), (Splice(0, 1, b"x"),))
        assert undoes(source, (), (Splice(0, 1, b"a"),))
        assert not undoes(source, (), (Splice(0, 99, b""),))


@pytest.mark.parametrize(
    "edit",
    [
        (Splice(2, 2, b""), Splice(3, 1, b"")),
        (Splice(3, 0, b"x"), Splice(1, 0, b"y")),
        (Splice(5, 2, b""),),
        (Splice(-1, 2, b""),),
        (Splice(2, -1, b""),),
    ],
    ids=["overlap", "order", "outside", "before", "negative"],
)
def test_impossible_splices_are_refused(edit: Edit) -> None:
    """Splices that overlap, come in the wrong order or reach outside the file are a ValueError."""
    with pytest.raises(ValueError, match="overlap"):
        pieces(6, edit)
    with pytest.raises(ValueError, match="overlap"):
        edited((Range(0, 6),), edit)


def test_pieces_are_written_to_a_file(tmp_path: Path) -> None:
    """The kernel's copy gives the same bytes as reading them, over several mebibytes."""
    content = random.Random(0).randbytes(3_160_320)  # noqa: S311 - repeatable, not secret
    (tmp_path / "old").write_bytes(content)
    edit = (
        Splice(9000, 3, b"new"),
        Splice(1_500_000, 0, b"middle"),
        Splice(2_000_000, 4096 + 6, b""),
        Splice(len(content), 0, b"."),
    )
    write_pieces(tmp_path / "old", pieces(len(content), edit), tmp_path / "new")
    assert (tmp_path / "new").read_bytes() == by_hand(content, edit)


def test_a_file_that_shrinks_is_an_error(tmp_path: Path) -> None:
    """Bytes that are gone when they are copied are never taken for the end of the file."""
    (tmp_path / "old").write_bytes(b"abc")
    with pytest.raises(OSError, match="shorter"):
        write_pieces(tmp_path / "old", (Range(0, 10),), tmp_path / "new")
    with Source.open(b"abc") as source, pytest.raises(OSError, match="shorter"):
        list(chunks(source, (Range(0, 3), Range(3, 9))))
