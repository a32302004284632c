"""A real PostgreSQL server of the tests' own: temporary data, a free loopback port, one password."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from tests.support.s3 import free_port

USER = "genblaze"
PASSWORD = "p@ss/word:1"
_QUOTED_PASSWORD = "p%40ss%2Fword%3A1"
_TEMPLATE = "template1"


def find_programs() -> Path | None:
    """Return the folder of `initdb` and `postgres`: that in PATH, else the newest installed."""
    named = shutil.which("postgres")
    found = [Path(named).resolve().parent] if named else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((each for each in found if (each / "initdb").is_file()), None)


@dataclass
class PostgresServer:
    """A server process; it can be stopped and started again, with its data."""

    programs: Path
    data: Path
    port: int = field(default_factory=free_port)
    fsync: bool = False
    _process: "subprocess.Popen[bytes] | None" = None

    def create(self) -> None:
        """Make the files of an empty server."""
        password = self.data.parent / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        command = [self.programs / "initdb", "-D", self.data, "-U", USER, f"--pwfile={password}"]
        command += ["-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.data.parent, **_unprivileged()
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start the server and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on" if self.fsync else "off",
            "max_connections": "200",
            "shared_buffers": "16MB",
        }
        command = [self.programs / "postgres", "-D", self.data]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.data.parent, **_unprivileged()
            )
        deadline = time.monotonic() + 120
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                gone = self._process.poll() is not None
                if gone or time.monotonic() > deadline:
                    raise RuntimeError((self.data.parent / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server; SIGINT ends sessions as a restart does, SIGQUIT is a crash."""
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=20)
        self._process = None

    def url(self, database: str) -> str:
        """Return the ledger URL of a database."""
        return f"postgresql://{USER}:{_QUOTED_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def execute(self, query: str, *, database: str = _TEMPLATE) -> list[Any]:
        """Run a statement as an administrator, on a connection of its own."""
        with psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=USER,
            password=PASSWORD,
            dbname=database,
            connect_timeout=30,
            autocommit=True,
        ) as connection:
            cursor = connection.execute(sql.SQL(query))  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the URL of a new, empty database; it is dropped at the end."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0", database="postgres")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)", database="postgres")


@contextmanager
def running_server(programs: Path, *, fsync: bool = False) -> Iterator[PostgresServer]:
    """Run a server until the end of the context."""
    # Below the system's own folder for such: the server's user must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="genblaze-postgres-") as folder:
        home = Path(folder)
        if os.geteuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(home, account.pw_uid, account.pw_gid)
        server = PostgresServer(programs, home / "data", fsync=fsync)
        server.create()
        try:
            server.start()
            yield server
        finally:
            server.stop()


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam("nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
