"""The network the workers of the harness live in.

Outputs are fetched through the guard of `genblaze_dagster.net`, which takes public https addresses
only. Here `media.vendor.example` resolves to such an address, and a connection to it ends at the
vendor simulator: the code under test is the real one, down to TLS.
"""

import os
import socket
from typing import Any

from tests.faults.vendor import MEDIA_HOST

# Public by the guard's rules, and nobody's: the connection is redirected before it leaves.
_ADDRESS = ("93.184.216.34", 443)


def install(tls_port: int, certificate: str) -> None:
    """Lead this process, and what it starts, to the simulator for the vendor's media.

    Call it before the first client is made: the certificate is read with the others.
    """
    os.environ["SSL_CERT_FILE"] = certificate
    resolve, connect = socket.getaddrinfo, socket.socket.connect

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name == MEDIA_HOST:
            return resolve(_ADDRESS[0], port, *args, **options)
        return resolve(host, port, *args, **options)

    def redirected(self: socket.socket, address: Any) -> None:
        connect(self, ("127.0.0.1", tls_port) if address == _ADDRESS else address)

    socket.getaddrinfo = getaddrinfo
    socket.socket.connect = redirected  # type: ignore[method-assign]
