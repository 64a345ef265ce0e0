"""TLS to a Milvus server: the files that prove who both sides are, and what is wrong when they do not."""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass, fields
from pathlib import Path
from urllib.parse import urlsplit

from connector.errors import InvalidInputError

_SECONDS = 5.0


@dataclass(frozen=True)
class TLS:
    """Files in PEM format, and the name of the server; what is empty is not used.

    The server is trusted when `server_pem_path` or `ca_pem_path` vouches for it; without both, when the
    authorities that gRPC brings do. With certificate and key of the client, the server is shown who connects
    (mTLS).

    Attributes:
        server_pem_path: certificate of the server, when it signed it itself.
        ca_pem_path: certificate of the authority that signed the server's.
        client_pem_path: certificate of this client.
        client_key_path: key of this client, without a passphrase.
        server_name: name in the server's certificate, when it is not the host of the address.
    """

    server_pem_path: str = ""
    ca_pem_path: str = ""
    client_pem_path: str = ""
    client_key_path: str = ""
    server_name: str = ""

    @classmethod
    def from_environment(cls) -> TLS:
        """From MILVUS_SERVER_PEM, MILVUS_CA_PEM, MILVUS_CLIENT_PEM, MILVUS_CLIENT_KEY, MILVUS_SERVER_NAME."""
        names = {field.name: field.name.removesuffix("_path").upper() for field in fields(cls)}
        return cls(**{name: os.environ.get(f"MILVUS_{variable}", "") for name, variable in names.items()})

    def options(self) -> dict[str, object]:
        """The arguments of MilvusClient.

        Raises:
            InvalidInputError: a file cannot be read or is not what it should be, or one of a pair is missing.
        """
        self._context()
        authority = self.server_pem_path or self.ca_pem_path
        options: dict[str, object] = {"secure": True, "server_name": self.server_name}
        if self.client_pem_path:
            if not authority:
                raise InvalidInputError(
                    f"with client_pem_path {self.client_pem_path!r}, the server must be vouched for: "
                    "give ca_pem_path or server_pem_path"
                )
            return options | {
                "ca_pem_path": authority,
                "client_pem_path": self.client_pem_path,
                "client_key_path": self.client_key_path,
            }
        return options | ({"server_pem_path": authority} if authority else {})

    def complaint(self, uri: str) -> str:
        """Shake hands with the server of an https:// address, and say what fails; empty when nothing does.

        gRPC says no more of a failed handshake than that nobody answers.
        """
        address = urlsplit(uri)
        host = address.hostname or "localhost"
        try:
            with (
                socket.create_connection((host, address.port or 443), _SECONDS) as plain,
                self._context().wrap_socket(plain, server_hostname=self.server_name or host) as shaken,
            ):
                shaken.recv(1)  # a server that misses the client's certificate says so only now
        except ssl.SSLCertVerificationError as error:
            return (
                f"its certificate is not trusted: {error.verify_message}; check ca_pem_path or "
                "server_pem_path, the dates, and the name in the certificate (server_name)"
            )
        except ssl.SSLError as error:
            if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
                return "it does not speak TLS: write http://, or turn TLS on there"
            reason = (error.reason or "no reason given").lower().replace("_", " ")
            return (
                f"it broke the TLS handshake off ({reason}): "
                "it may want a client_pem_path and client_key_path that its authority signed"
            )
        except OSError:
            pass  # what nobody answers has nothing to do with TLS
        return ""

    def _context(self) -> ssl.SSLContext:
        for name in ("server_pem_path", "ca_pem_path", "client_pem_path", "client_key_path"):
            path = getattr(self, name)
            try:
                if path:
                    Path(path).open("rb").close()
            except OSError as error:
                raise InvalidInputError(f"{name} {path!r} cannot be read: {error.strerror}") from None
        if bool(self.client_pem_path) != bool(self.client_key_path):
            raise InvalidInputError("client_pem_path and client_key_path belong together: give both or none")
        authority = self.server_pem_path or self.ca_pem_path
        try:
            context = ssl.create_default_context(cafile=authority or None)
        except ssl.SSLError:
            raise InvalidInputError(f"{authority!r} holds no certificate in PEM format") from None
        context.set_alpn_protocols(["h2"])
        if self.client_pem_path:
            try:
                context.load_cert_chain(self.client_pem_path, self.client_key_path, password="")
            except (ssl.SSLError, ValueError):
                raise InvalidInputError(
                    f"{self.client_pem_path!r} and {self.client_key_path!r} are not a certificate and its "
                    "key in PEM format, the key without a passphrase"
                ) from None
        return context


def speaks(uri: str) -> bool:
    """Whether somebody answers to TLS at an address."""
    address = urlsplit(uri)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said, nothing believed
    try:
        with (
            socket.create_connection(
                (address.hostname or "localhost", address.port or 80), _SECONDS
            ) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except OSError:
        return False
