"""Azurite, which is Microsoft's emulator of Azure Blob Storage, behind a proxy that fails. It keeps all in memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from failing_proxy import Fault, Proxied, in_front_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from azure.storage.blob import ContainerClient

PROGRAM = Path(__file__).parents[2] / ".venv/azurite/node_modules/azurite/dist/src/blob/main.js"
CONTAINER = "runs"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of all emulators everywhere: it is in Microsoft's documentation, and no secret."""

SERVER_ERROR = Fault(500, "InternalError")
SERVER_BUSY = Fault(503, "ServerBusy")
DENIED = Fault(403, "AuthorizationFailure")
MD5_MISMATCH = Fault(400, "Md5Mismatch")


def connection_string(endpoint: str, key: str = KEY) -> str:
    """What clients find the server by."""
    return f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={key};BlobEndpoint={endpoint}/{ACCOUNT};"


class Azurite(Proxied):
    """The server, as tests see it: what is asked here goes past the proxy."""

    container: ContainerClient

    def url(self, key: str = "") -> str:
        return f"az://{CONTAINER}/{key}".rstrip("/")

    def put(self, folder: Path, key: str) -> str:
        """A copy of a directory in the container; returns its URL."""
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.write(f"{key}/{file.relative_to(folder)}", file.read_bytes())
        return self.url(key)

    def write(self, key: str, data: bytes, metadata: dict[str, str] | None = None) -> None:
        self.container.upload_blob(key, data, overwrite=True, metadata=metadata)

    def get(self, key: str) -> bytes:
        return self.container.download_blob(key).readall()

    def objects(self, key: str = "") -> list[str]:
        """The names of all blobs that begin so."""
        return [*self.container.list_blob_names(name_starts_with=key)]

    def uploads(self) -> list[str]:
        """The names of all blobs that have blocks and nothing else."""
        return sorted(
            {each.name for each in self.container.list_blobs(include=["uncommittedblobs"])} - {*self.objects()}
        )

    def empty(self) -> None:
        """Remove all blobs and all blocks."""
        for name in [*self.objects(), *self.uploads()]:
            blob = self.container.get_blob_client(name)
            blob.commit_block_list([])
            blob.delete_blob()


@contextmanager
def azurite_server() -> Iterator[Azurite]:
    """A server with one empty container, behind the proxy."""
    from azure.storage.blob import BlobServiceClient

    folder = tempfile.mkdtemp(prefix="azurite-")
    # The client may speak a version of the protocol that is newer than the server; what is asked for here is older.
    command = ["node", str(PROGRAM), "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"]
    process = subprocess.Popen(
        [*command, "--disableTelemetry", "--silent"], stdout=subprocess.PIPE, cwd=folder, text=True
    )
    try:
        for line in process.stdout or ():
            listening = re.search(r"listens on http://127\.0\.0\.1:(\d+)", line)
            if listening:
                break
        else:
            raise RuntimeError("azurite has not started")
        store = Azurite("", ("127.0.0.1", int(listening[1])), f"/{ACCOUNT}/{CONTAINER}")
        direct = BlobServiceClient.from_connection_string(connection_string(f"http://127.0.0.1:{listening[1]}"))
        store.container = direct.create_container(CONTAINER)
        with in_front_of(store), direct:
            yield store
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
