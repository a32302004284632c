"""An ASGI application that is served while a test needs it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn


@contextmanager
def serving(app: Any, folder: Path) -> Iterator[str]:
    """Serve an ASGI application on a free port and yield its origin.

    Its port is put into the file `port` of the folder, for other processes.
    """
    config = uvicorn.Config(app, port=0, http="h11", log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline = time.monotonic() + 120
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline, "the server did not start within 120 s"
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        (folder / "port").write_text(str(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()
