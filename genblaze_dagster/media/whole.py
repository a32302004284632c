"""Files that are there whole or not at all."""

import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, like: Path | None = None) -> Generator[Path]:
    """Yield the name of a new file that takes the place of `path` when the block ends well.

    The block creates it. The old file stays until then, and for good when the block fails. A
    symbolic link keeps pointing where it does. Folders are created. This survives a kill at any
    moment, which leaves at most a hidden `.part` file behind, but not a power cut.

    Args:
        path: what to replace.
        like: file whose permissions the new one gets; `path` itself when left out.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    target = path.resolve() if path.is_symlink() else path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        model = like or target
        if model.exists():
            shutil.copymode(model, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
