import os
import pty
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from tests.cli.conftest import PROGRAM


def _on_a_terminal(*arguments: object, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Run the program with stdout and stderr on two terminals, and return what each showed."""
    (out, its_out), (err, its_err) = pty.openpty(), pty.openpty()
    process = subprocess.Popen(
        [PROGRAM, *map(str, arguments)],
        stdout=its_out,
        stderr=its_err,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "60", **(env or {})},
    )
    os.close(its_out)
    os.close(its_err)
    with ThreadPoolExecutor(2) as readers:
        stdout, stderr = readers.map(_read_all, (out, err))
    process.wait(timeout=60)
    return stdout, stderr


def _read_all(terminal: int) -> str:
    shown = b""
    # The end of a terminal's other side is an error, not an empty read.
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as file:
        while data := file.read(4096):
            shown += data
    return shown.decode()


def test_colour_and_progress_are_for_terminals(shelf, launch) -> None:
    """A terminal gets colour on stdout and a bar on stderr, a pipe gets neither."""
    shelf.add("p")
    stdout, stderr = _on_a_terminal("verify", shelf.store.url)
    assert "\x1b[1;32mverified-unsigned" in stdout
    assert "references in" in stderr
    piped = launch("verify", shelf.store.url)
    assert "\x1b" not in piped.stdout
    assert piped.stderr == ""


def test_no_color_is_respected_on_a_terminal(shelf) -> None:
    """NO_COLOR takes the colour out of results."""
    shelf.add("p")
    stdout, _ = _on_a_terminal("verify", shelf.store.url, env={"NO_COLOR": "1"})
    assert "verified-unsigned" in stdout
    assert "32m" not in stdout


def test_json_on_a_terminal_is_still_plain(shelf) -> None:
    """--json is the same bytes wherever it goes."""
    shelf.add("p")
    stdout, _ = _on_a_terminal("verify", "--json", shelf.store.url)
    assert "\x1b" not in stdout


def test_a_file_name_that_is_not_utf_8_survives(tmp_path: Path, launch) -> None:
    """Names are bytes on Unix; both forms of output show such a name and do not break."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.json")
    Path(path).write_bytes(b"{}")
    ended = launch("verify", "--json", path)
    assert ended.status == 1
    assert ended.document["targets"][0]["target"] == path
    assert "\\udcff.json" in launch("verify", path).stderr


def test_an_ascii_terminal_breaks_nothing(with_sidecar, tmp_path: Path, launch) -> None:
    """What stdout cannot encode is escaped."""
    folder = tmp_path / "größe"
    folder.mkdir()
    path = with_sidecar().rename(folder / "beach.png")
    (tmp_path / "beach.png.genblaze.json").rename(folder / "beach.png.genblaze.json")
    ended = launch("verify", path, env={"PYTHONIOENCODING": "ascii"})
    assert ended.status == 0
    assert "gr\\xf6\\xdfe" in ended.stdout
