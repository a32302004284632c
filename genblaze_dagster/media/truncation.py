"""Is a file cut off? Found out while its bytes go by."""

from genblaze_dagster.media.endings import Find, Skip, Take, Walk, walk
from genblaze_dagster.media.sniff import sniff_media_type

MAX_STEPS = 500_000
"""More parts than that are not media but an attack on who counts them; nothing is said of it."""

_SNIFFED_BYTES = 64


class TruncationCheck:
    """Says of a file that went by whether it is cut off.

    That is said only where the container proves it: a file that is whole is never called cut off,
    but one that is cut off may be called whole. It keeps a few bytes, whatever the size of the
    file.
    """

    def __init__(self) -> None:
        self._kept = b""
        self._walk: Walk | None = None
        self._wanted: Take | Skip | Find = Skip(0)
        self._is_begun = False
        self._steps = 0
        self.media_type: str | None = None

    def feed(self, chunk: bytes) -> None:
        """Look at the next bytes of the file."""
        if self._is_begun and self._walk is None:
            return
        self._kept += chunk
        if self._is_begun:
            self._go_on()
        elif len(self._kept) >= _SNIFFED_BYTES:
            self._begin()

    def is_cut_off(self) -> bool:
        """Whether something is missing behind the bytes that were fed, which are all there are."""
        if not self._is_begun:
            self._begin()
        may_end = isinstance(self._wanted, Take) and self._wanted.may_end
        return self._walk is not None and not may_end

    def _begin(self) -> None:
        self._is_begun = True
        self.media_type = sniff_media_type(self._kept)
        self._walk = walk(self.media_type or "")
        if self._walk is None:
            self._kept = b""
            return
        self._wanted = next(self._walk)
        self._go_on()

    def _go_on(self) -> None:
        at = 0
        while self._walk is not None:
            at, answer = self._answer(at)
            if answer is None:
                break
            self._steps += 1
            try:
                self._wanted = self._walk.send(answer)
            except StopIteration:
                self._walk = None
            if self._steps == MAX_STEPS:
                self._walk = None
        self._kept = self._kept[at:] if self._walk is not None else b""

    def _answer(self, at: int) -> tuple[int, bytes | None]:
        """Return what is wanted of the bytes kept, and where it ends; None when there are more."""
        wanted, end = self._wanted, len(self._kept)
        if isinstance(wanted, Skip):
            gone = min(wanted.size, end - at)
            self._wanted = Skip(wanted.size - gone)
            return at + gone, b"" if gone == wanted.size else None
        if isinstance(wanted, Take):
            if end - at < wanted.size:
                return at, None
            return at + wanted.size, self._kept[at : at + wanted.size]
        found = wanted.pattern.search(self._kept, at)
        if found is None:
            # It may begin with the last byte.
            return max(end - 1, at), None
        return found.end(), found.group()
