"""What a file may have been before a manifest went into it."""

from dataclasses import dataclass

from genblaze_dagster.media.edit import Edit


@dataclass(frozen=True, slots=True)
class Original:
    """One way to take the first manifest out of a file again.

    Attributes:
        undo: the edit that gives the original.
        certain: no other original is possible. Bytes that do not match then prove a change, while
            those of an uncertain original prove nothing.
        removed: what is taken out, in words: `its iTXt chunk`, `the whole ID3 tag`.
    """

    undo: Edit
    certain: bool
    removed: str
