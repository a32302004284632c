"""Manifests into media files: this package and genblaze-core, the same files side by side.

    python bench/embed.py
    python bench/embed.py --rounds 3 --folder /mnt/disk

Both sides embed into a new file (`output=`), in alternating rounds in one process; the table shows
medians of the time on the clock. Before anything is timed, each side's file is read back by the
other one, and ours is stripped and compared with the original. Files of 3 GiB are sparse. Memory
is the peak of a process that embeds, above that of one that only imports.
"""

import argparse
import importlib
import io
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1_000_000
GIB = 1 << 30
MANIFEST_PROMPT = "a lighthouse at dusk, volumetric fog, 35mm film, wide angle"
MEMORY_GOAL = 4.0
IN_PLACE_GOAL = 5.0
EXTRACT_GOAL = 1.0


@dataclass(frozen=True, slots=True)
class Case:
    """A file, and how many times faster than genblaze it is to be embedded into."""

    name: str
    make: Callable[[Path], None]
    goal: float | None = None


def make_mp4(path: Path, size: int = 100 * MB, *, sparse: bool = False) -> None:
    """Write an MP4 with the movie behind the media, as cameras and encoders do."""
    with path.open("wb") as file:
        file.write(struct.pack(">I4s4sI8s", 24, b"ftyp", b"isom", 512, b"isommp42"))
        file.write(struct.pack(">I4sQ", 1, b"mdat", size + 16))
        if sparse:
            file.seek(size, io.SEEK_CUR)
        else:
            write_noise(file, size)
        file.write(struct.pack(">I4s", 8 + 108, b"moov"))
        file.write(struct.pack(">I4s", 108, b"mvhd") + bytes(100))


def write_noise(file: Any, size: int) -> None:
    """Write `size` bytes that look like media to the disk."""
    block = bytes(range(256)) * 4096
    for start in range(0, size, len(block)):
        file.write(block[: size - start])


def make_wav(path: Path) -> None:
    """Write 50 MB of 16-bit stereo sound."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(48_000)
        file.writeframes(b"".join((bytes(range(256)) * 4096,)) * 48)


def picture(width: int, height: int) -> Any:
    """Return a picture that compresses about as a photograph does."""
    from PIL import Image, ImageFilter

    noise = [Image.effect_noise((width, height), 60) for _ in range(3)]
    return Image.merge("RGB", noise).filter(ImageFilter.GaussianBlur(1))


def make_jpeg(path: Path) -> None:
    """Write a photo-like JPEG of 12 megapixels."""
    picture(4000, 3000).save(path, "JPEG", quality=90)


def make_small_jpeg(path: Path) -> None:
    """Write a photo-like JPEG of 2 megapixels."""
    picture(1920, 1080).save(path, "JPEG", quality=90)


def make_png(path: Path) -> None:
    """Write a photo-like PNG of 2 megapixels."""
    picture(1920, 1080).save(path, "PNG", compress_level=1)


def make_webp(path: Path) -> None:
    """Write a photo-like, lossy WebP of 2 megapixels."""
    picture(1920, 1080).save(path, "WEBP", quality=80, method=0)


def make_sound(path: Path) -> None:
    """Write two minutes of noise in the format of the extension."""
    import numpy as np

    from genblaze_dagster.providers.local.audio import encode

    noise = np.random.default_rng(1).integers(-8000, 8000, (120 * 44_100, 2), dtype=np.int16)
    path.write_bytes(encode(noise, 44_100, path.suffix[1:]))


CASES = (
    Case("copy.mp4", make_mp4, 8),
    Case("sound.wav", make_wav, 15),
    Case("large.jpg", make_jpeg, 30),
    Case("photo.jpg", make_small_jpeg),
    Case("photo.webp", make_webp),
    Case("photo.png", make_png),
    Case("sound.mp3", make_sound),
    Case("sound.flac", make_sound),
)


def our_embed() -> Callable[[Path, Path], object]:
    """Return this package's way to embed one file into another."""
    from genblaze_dagster.core.manifest import Manifest
    from genblaze_dagster.core.models import Run, Step
    from genblaze_dagster.media.embedding import embed

    step = Step(provider="acme", model="m", prompt=MANIFEST_PROMPT)
    manifest = Manifest.from_run(Run(steps=[step]))
    return lambda path, output: embed(path, manifest, output)


def their_embed() -> Callable[[Path, Path], object]:
    """Return genblaze's way to embed one file into another."""
    from genblaze_core.media import SmartEmbedder
    from genblaze_core.models import Manifest, Run, Step

    step = Step(provider="acme", model="m", prompt=MANIFEST_PROMPT)
    manifest = Manifest.from_run(Run(steps=[step]))
    embedder = SmartEmbedder()
    return lambda path, output: embedder.embed(path, manifest, output)


SIDES = {"ours": our_embed, "genblaze": their_embed}
LATE_IMPORTS = {
    "ours": (),
    "genblaze": (
        *(f"genblaze_core.media.{name}" for name in ("wav", "flac", "mp3", "aac")),
        *("mutagen.flac", "mutagen.id3", "mutagen.mp4"),
        *("PIL.JpegImagePlugin", "PIL.WebPImagePlugin", "PIL.PngImagePlugin"),
    ),
}
"""What a side imports only when a format needs it; that is not what embedding costs."""


def milliseconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def alternating(
    calls: dict[str, Callable[[], object]], rounds: int, *, outputs: Iterable[Path] = ()
) -> dict[str, float]:
    """Return the median milliseconds of each call, each after one that is not timed."""
    taken: dict[str, list[float]] = {side: [] for side in calls}
    for _ in range(rounds):
        for side, call in calls.items():
            for timed in (False, True):
                for output in outputs:
                    # To free the pages of an old file takes longer than to write a new one.
                    output.unlink(missing_ok=True)
                duration = milliseconds(call)
                if timed:
                    taken[side].append(duration)
    return {side: statistics.median(times) for side, times in taken.items()}


def check(path: Path, ours: Path, theirs: Path) -> None:
    """Refuse to time files that are not what they should be."""
    from genblaze_cli.manifest_io import extract_manifest

    from genblaze_dagster.media import extract, strip

    extract_manifest(ours)
    extract(theirs)
    if strip(ours) != path.read_bytes():
        raise SystemExit(f"{path.name}: ours cannot be undone")


def measure_case(case: Case, folder: Path, rounds: int) -> bool:
    """Print the row of a case; return whether it meets its goal."""
    path = folder / case.name
    case.make(path)
    outputs = {side: folder / f"{side}-{case.name}" for side in SIDES}
    embeds = {side: make() for side, make in SIDES.items()}
    calls = {side: lambda s=side: embeds[s](path, outputs[s]) for side in SIDES}
    for call in calls.values():
        call()
    check(path, outputs["ours"], outputs["genblaze"])
    taken = alternating(calls, rounds, outputs=outputs.values())
    memory = {side: added_memory(side, path, outputs[side]) for side in SIDES}
    ratio = taken["genblaze"] / taken["ours"]
    met = (case.goal is None or ratio >= case.goal) and memory["ours"] <= MEMORY_GOAL
    goal = f"{case.goal:g}x" if case.goal else ""
    print(
        f"{case.name:<11}{path.stat().st_size / MB:>7.1f}{taken['ours']:>10.2f}"
        f"{taken['genblaze']:>12.2f}{ratio:>9.1f}x{goal:>7}"
        f"{memory['ours']:>9.1f}{memory['genblaze']:>10.1f}  {'' if met else 'MISSED'}"
    )
    for output in outputs.values():
        output.unlink()
    return met


def measure_extract(folder: Path, rounds: int) -> bool:
    """Print how long it takes to read the manifest of the 50 MB WAV."""
    from genblaze_core.media.wav import WavHandler

    from genblaze_dagster.media import extract

    path = folder / "embedded.wav"
    our_embed()(folder / "sound.wav", path)
    taken = alternating(
        {"ours": lambda: extract(path), "genblaze": lambda: WavHandler().extract(path)}, rounds
    )
    met = taken["ours"] <= EXTRACT_GOAL
    print(
        f"extract from the WAV: {taken['ours']:.2f} ms, genblaze {taken['genblaze']:.2f} ms "
        f"(goal {EXTRACT_GOAL:g} ms) {'' if met else 'MISSED'}"
    )
    return met


def measure_in_place(folder: Path, rounds: int) -> bool:
    """Print how long it takes to embed into an MP4 of 3 GiB where it is."""
    path = folder / "huge.mp4"
    make_mp4(path, 3 * GIB, sparse=True)
    size = path.stat().st_size
    embed = our_embed()
    times: list[float] = []
    for _ in range(max(rounds, 9)):
        times.append(milliseconds(lambda: embed(path, path)))
        if path.stat().st_size == size:
            raise SystemExit("nothing was embedded into the MP4 of 3 GiB")
        with path.open("r+b") as file:
            file.truncate(size)
    median = statistics.median(times)
    memory = added_memory("ours", path, path)
    met = median <= IN_PLACE_GOAL and memory <= MEMORY_GOAL
    print(
        f"MP4 of 3 GiB in place: {median:.2f} ms, +{memory:.1f} MB (goal {IN_PLACE_GOAL:g} ms; "
        f"genblaze refuses files above 2 GiB) {'' if met else 'MISSED'}"
    )
    return met


def added_memory(side: str, path: Path, output: Path) -> float:
    """Return the MB that one embed adds to the peak of a process that imports the same."""
    with tempfile.TemporaryDirectory(dir=path.parent) as empty:
        small = Path(empty) / f"small{path.suffix}"
        peaks = [peak_of(side, file, to) for file, to in ((small, small), (path, output))]
    return max(0.0, (peaks[1] - peaks[0]) / MB)


def peak_of(side: str, path: Path, output: Path) -> int:
    """Return the peak memory in bytes of a process that embeds, if the file is there."""
    command = [sys.executable, __file__, "--peak", side, str(path), str(output)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout)


def print_peak(side: str, path: Path, output: Path) -> None:
    """Embed in this process and print its peak resident memory, from when it was started."""
    embed = SIDES[side]()
    for module in LATE_IMPORTS[side]:
        importlib.import_module(module)
    if path.exists():
        embed(path, output)
    # Unlike ru_maxrss, this is not the peak of the parent when that was higher.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024)


def main() -> int:
    """Print the tables; return 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="where the files go; the default is temporary")
    parser.add_argument("--peak", nargs=3, metavar=("SIDE", "FILE", "OUTPUT"), help="internal")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.peak:
        side, path, output = arguments.peak
        print_peak(side, Path(path), Path(output))
        return 0
    with tempfile.TemporaryDirectory(prefix="genblaze-bench-", dir=arguments.folder) as name:
        print(
            "file            MB   ours ms genblaze ms     ratio   goal  ours MB genblaze MB added"
        )
        results = [measure_case(case, Path(name), arguments.rounds) for case in CASES]
        results.append(measure_extract(Path(name), arguments.rounds))
        results.append(measure_in_place(Path(name), arguments.rounds))
    return int(not all(results))


if __name__ == "__main__":
    raise SystemExit(main())
