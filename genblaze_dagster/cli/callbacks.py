"""`genblaze-dagster callbacks`: serve the addresses that vendors call when a job is over."""

import logging
import socket
import sys
from typing import Final

import click

from genblaze_dagster.cli.ledger_options import ledger_option
from genblaze_dagster.cli.output import json_option, print_json
from genblaze_dagster.errors import ConfigError
from genblaze_dagster.net.callbacks import SECRET_VARIABLE, URL_VARIABLE, CallbackEndpoint

_MOST_CONNECTIONS: Final = 256
_BACKLOG: Final = 128
_STOP_SECONDS: Final = 10


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8787,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on; 0 for any that is free.",
)
@ledger_option
@json_option
def callbacks(host: str, port: int, ledger_url: str | None, as_json: bool) -> None:
    """Receive vendors' calls about jobs, so that a submit whose answer was lost is found again.

    GENBLAZE_CALLBACK_URL is where vendors reach it, through a proxy that speaks TLS, and
    GENBLAZE_CALLBACK_SECRET makes the addresses; runs that generate need the same two. It stops on
    an interrupt. Several may run on one ledger.
    """
    if not host.strip():
        # An empty one, of a variable that is not set, would be every address of the machine.
        raise click.UsageError("--host is empty; give an address to listen on, 0.0.0.0 for all")
    endpoint = CallbackEndpoint.from_environment()
    if endpoint is None:
        raise ConfigError(
            f"{URL_VARIABLE} and {SECRET_VARIABLE} are not set; give the public address of this "
            "receiver and a secret of 16 bytes or more, here and where runs generate"
        )
    _serve(endpoint, ledger_url, host, port, as_json=as_json)


def _serve(
    endpoint: CallbackEndpoint, ledger_url: str | None, host: str, port: int, *, as_json: bool
) -> None:
    import uvicorn

    from genblaze_dagster.ledger.ledger import Ledger
    from genblaze_dagster.pipeline.callbacks import (
        LEDGER_SECONDS,
        callback_app,
        callback_providers,
    )
    from genblaze_dagster.pipeline.environment import default_ledger_url

    providers = callback_providers()
    with (
        _listening(host, port) as listener,
        Ledger(ledger_url or default_ledger_url(), busy_timeout=LEDGER_SECONDS) as ledger,
    ):
        where = f"http://{_shown(host)}:{listener.getsockname()[1]}"
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
        )
        # A line whenever a vendor is asked for its keys is too many.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        _announce(where, endpoint, sorted(providers), as_json=as_json)
        config = uvicorn.Config(
            callback_app(ledger, endpoint, providers=providers),
            # The other parser takes headers of any length.
            http="h11",
            ws="none",
            lifespan="on",
            # Its lines would hold the addresses, which are secrets.
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        raise ConfigError(
            f"callbacks: cannot listen on {_shown(host)}:{port} ({exc.strerror or exc}); choose "
            "another with --host and --port"
        ) from exc


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _announce(where: str, endpoint: CallbackEndpoint, vendors: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"listening": where, "public": endpoint.url, "vendors": vendors})
        sys.stdout.flush()
        return
    click.echo(f"receiving calls of {', '.join(vendors)}", err=True)
    click.echo(f"listening on {where}, known to vendors as {endpoint.url}", err=True)
