"""Outputs as files in a folder of the user's, each with its manifest inside or beside it."""

import asyncio
import tempfile
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from genblaze_dagster.core.manifest import Manifest
from genblaze_dagster.core.policy import EmbedMode, EmbedPolicy
from genblaze_dagster.errors import ConfigError, EmbeddingError
from genblaze_dagster.media.edit import sha256_edited
from genblaze_dagster.media.embedding import EmbedMethod, EmbedResult, embed, embed_payload
from genblaze_dagster.media.sidecar import remove_sidecar, write_sidecar
from genblaze_dagster.media.source import Source
from genblaze_dagster.media.stripping import find_original
from genblaze_dagster.storage.media import Media

_NOT_EMBEDDED = EmbedPolicy(embed_mode=EmbedMode.NONE)


@dataclass(frozen=True, slots=True)
class Saving:
    """How outputs are saved.

    Attributes:
        manifests: of every output of the run, by its sha256.
        inside: whether the manifest goes into the file; else beside it.
        policy: what the manifest shows, and whether there is one at all.
        overwrite: whether a file of other content is replaced.
    """

    manifests: Mapping[str, Manifest]
    inside: bool
    policy: EmbedPolicy
    overwrite: bool

    async def save(self, media: Media, path: Path) -> EmbedResult:
        """Write an output to a file, which is there whole or not at all, with its manifest.

        A file that is an output of the run already stays, and gets the manifest of that output.

        Raises:
            ConfigError: `path` is a directory, or a file of other content.
            EmbeddingError: the file cannot be read or written.
            IntegrityError: the store holds other bytes than were stored.
            StorageError: the output cannot be read.
        """
        with _explained(path):
            present = await asyncio.to_thread(self._present, path)
            if present is not None:
                return await asyncio.to_thread(self._place, path, path, present, media.media_type)
            path.parent.mkdir(parents=True, exist_ok=True)
            # Beside the target, where a copy may cost nothing and there must be room anyway.
            with tempfile.TemporaryDirectory(prefix=".genblaze-", dir=path.parent) as folder:
                part = Path(folder) / "output"
                await media.adownload(part)
                manifest = self.manifests[media.sha256]
                return await asyncio.to_thread(self._place, part, path, manifest, media.media_type)

    def _present(self, path: Path) -> Manifest | None:
        """Return the manifest of the output that a file is already; None when it is to be written.

        Raises:
            ConfigError: it is something else, which is not to be replaced.
        """
        if path.is_dir():
            raise ConfigError(
                f"{path} is a directory; give the name of a file, or fill it with save_all()"
            )
        if not path.exists():
            return None
        sha256 = _output_in(path, self.manifests.keys())
        if sha256 is not None:
            return self.manifests[sha256]
        if not self.overwrite:
            raise ConfigError(
                f"{path} exists and is no output of this run; choose another name, or replace it "
                "with overwrite=True"
            )
        return None

    def _place(self, source: Path, path: Path, manifest: Manifest, media_type: str) -> EmbedResult:
        if self.inside and self.policy.embed_mode is not EmbedMode.NONE:
            return embed(source, manifest, path, policy=self.policy, mime_type=media_type)
        unembedded = embed(source, manifest, path, policy=_NOT_EMBEDDED)
        if self.policy.embed_mode is EmbedMode.NONE:
            # One that is there is about what was there.
            remove_sidecar(path)
            return unembedded
        pointer = self.policy.embed_mode is EmbedMode.POINTER
        return EmbedResult(
            path=path,
            sidecar_path=write_sidecar(path, embed_payload(manifest, self.policy)),
            manifest_uri=manifest.manifest_uri,
            method=EmbedMethod.POINTER if pointer else EmbedMethod.SIDECAR,
        )


def _output_in(path: Path, sha256s: Collection[str]) -> str | None:
    """Return which of the outputs a file is, as it is or without its first manifest."""
    with Source.open(path) as source:
        own = sha256_edited(source, ())
        if own in sha256s:
            return own
        try:
            found = find_original(source, sha256s)
        except EmbeddingError:
            # A broken manifest: nothing of ours.
            return None
        return found.sha256 if found.matches else None


@contextmanager
def _explained(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as exc:
        raise EmbeddingError(f"{exc.filename or path}: {exc.strerror or exc}") from exc
