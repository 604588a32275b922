"""Measures conversions from and to S3 against the client's own ranged download and upload of the same bytes.

    python tools/bench_remote.py make --dir DIR       makes the checkpoint (needs torch; without DeepSpeed)
    python tools/bench_remote.py run --dir DIR        prints a table (needs the environment of tools/test_stores.sh)

A server on loopback, a process of its own, answers as S3 does, out of files, after 0, 20 or 100 ms. Each measurement
is a process of its own, and says its time, in which the client is imported, and its peak memory. In a round all ways
run in turn; quoted are medians.

- plain download: the byte ranges that the fp32 weights need, by botocore, in requests of 4 MiB, 32 at a time, written
  to a file and synced. With `--others` also by s3fs and obstore (both must be installed).
- convert from S3: the conversion of the same checkpoint to a disk, with all that belongs to it.
- plain upload: a file of as many bytes, in parts of 8 MiB, eight at a time, by botocore; `--others` as above.
- convert to S3: the conversion from a disk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
LATENCIES_MS = (0, 20, 100)
PIECE_BYTES, PIECES = 4 << 20, 32
PART_BYTES, PARTS = 8 << 20, 8


def make(folder: Path, megabytes: int) -> None:
    """A checkpoint of stage 3 on 4 ranks."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests/support")]
    from synthetic import shapes_of, values_of, write

    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    write(folder / "checkpoint", values_of(shapes_of(megabytes)), stage=3, ranks=4)


class Handler(BaseHTTPRequestHandler):
    """Enough of S3: listings, ranges of files, small objects in memory, and uploads whose bytes are counted."""

    protocol_version = "HTTP/1.1"
    folder: Path
    pause: float
    small: ClassVar[dict[str, bytes]] = {}
    sizes: ClassVar[dict[str, int]] = {}
    uploads: ClassVar[dict[str, dict[int, tuple[str, int]]]] = {}

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self.answer
        raise AttributeError(name)

    def answer(self) -> None:
        time.sleep(self.pause)
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        key = unquote(parts.path).removeprefix("/runs").strip("/")
        length = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT":
            data = self.rfile.read(length)
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            if "partNumber" in query:
                self.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = (etag, length)
            elif "x-amz-copy-source" in self.headers:
                source = unquote(self.headers["x-amz-copy-source"]).removeprefix("runs/")
                self.small[key] = self.small[source]
                self.send(200, b"<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
                return
            else:
                self.small[key] = data
            self.send(200, b"", ETag=f'"{etag}"')
        elif self.command == "POST":
            body = self.rfile.read(length).decode()
            self.post(key, query, body)
        elif self.command == "DELETE":
            self.send(204, b"")
        elif not key and "uploads" in query:
            self.send(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
        elif not key:
            self.listing(query)
        elif "uploadId" in query:
            parts_ = self.uploads.get(query["uploadId"][0], {})
            text = "".join(
                f'<Part><PartNumber>{number}</PartNumber><ETag>"{etag}"</ETag><Size>{size}</Size></Part>'
                for number, (etag, size) in sorted(parts_.items())
            )
            self.send(200, f"<ListPartsResult>{text}<IsTruncated>false</IsTruncated></ListPartsResult>".encode())
        else:
            self.object(key)

    def post(self, key: str, query: dict[str, list[str]], body: str) -> None:
        if "uploads" in query:
            upload = f"u{len(self.uploads)}"
            self.uploads[upload] = {}
            text = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
        elif "uploadId" in query:
            self.sizes[key] = sum(size for _, size in self.uploads[query["uploadId"][0]].values())
            text = "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        else:
            for name in re.findall("<Key>(.*?)</Key>", body):
                self.small.pop(name, None)
            text = "<DeleteResult></DeleteResult>"
        self.send(200, text.encode())

    def listing(self, query: dict[str, list[str]]) -> None:
        prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
        names = {str(path.relative_to(self.folder)): path.stat().st_size for path in self.folder.rglob("*.pt")}
        names |= {str(path.relative_to(self.folder)): path.stat().st_size for path in self.folder.rglob("latest")}
        names |= {name: len(data) for name, data in self.small.items()} | self.sizes
        found, folders = [], set()
        for name, size in names.items():
            rest = name.removeprefix(prefix)
            if name.startswith(prefix):
                if delimiter and delimiter in rest:
                    folders.add(prefix + rest.split(delimiter)[0] + delimiter)
                else:
                    found.append(
                        f'<Contents><Key>{name}</Key><Size>{size}</Size><ETag>"{size}"</ETag>'
                        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
                    )
        text = "".join(found) + "".join(f"<CommonPrefixes><Prefix>{each}</Prefix></CommonPrefixes>" for each in folders)
        self.send(
            200, f"<ListBucketResult><KeyCount>{len(found) + len(folders)}</KeyCount>{text}</ListBucketResult>".encode()
        )

    def object(self, key: str) -> None:
        path = self.folder / key
        size = len(self.small[key]) if key in self.small else self.sizes.get(key) or (
            path.stat().st_size if path.is_file() else None
        )  # fmt: skip
        if size is None:
            self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        first, last = 0, size - 1
        if self.headers.get("Range"):
            first, last = (int(n) for n in self.headers["Range"].removeprefix("bytes=").split("-"))
        self.send_response(206 if self.headers.get("Range") else 200)
        self.send_header("Content-Length", str(last - first + 1))
        if self.headers.get("Range"):
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("ETag", f'"{size}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if self.command == "HEAD":
            return
        if key in self.small:
            self.wfile.write(self.small[key][first : last + 1])
            return
        self.wfile.flush()
        with path.open("rb") as file:
            while first <= last:
                first += os.sendfile(self.connection.fileno(), file.fileno(), first, last - first + 1)

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def serve(folder: Path, latency_ms: int) -> None:
    """Serve until killed; prints the port."""
    Handler.folder, Handler.pause = folder, latency_ms / 1000
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.request_queue_size, server.daemon_threads = 256, True
    print(server.server_address[1], flush=True)
    server.serve_forever()


def needed(folder: Path) -> list[tuple[str, int, int]]:
    """The byte ranges of the checkpoint that its fp32 weights are."""
    import zeroconsolidate
    from zeroconsolidate.opening.open import open_catalog
    from zeroconsolidate.plan.sources import sources
    from zeroconsolidate.run.remote import put_together
    from zeroconsolidate.run.storage import extents

    assert zeroconsolidate.__file__.startswith(str(ROOT))
    by_file: dict[str, list[tuple[int, int]]] = {}
    for source in sources(open_catalog(str(folder / "checkpoint"), None)).values():
        for file, start, stop in extents(source.recipe.copies()):
            by_file.setdefault(str(Path(file).relative_to(folder)), []).append((start, stop))
    return [(file, start, stop) for file, found in by_file.items() for start, stop, _ in put_together(found)]


def once(way: str, folder: Path, out: Path) -> dict[str, float]:
    """One measurement, in this process."""
    sys.path.insert(0, str(ROOT))
    requests_bytes = 0
    if way in DOWNLOADS:
        ranges = [tuple(each) for each in json.loads((folder / "ranges.json").read_text())]
        size_bytes = sum(stop - start for _, start, stop in ranges)
        began = time.monotonic()
        DOWNLOADS[way](ranges, out / "plain")
    elif way in UPLOADS:
        size_bytes = (folder / "plain").stat().st_size
        began = time.monotonic()
        UPLOADS[way](folder / "plain")
    else:
        import zeroconsolidate
        from zeroconsolidate.integrations import s3_store

        read = s3_store.S3Store.read

        def counted(self: Any, url: str, start: int, stop: int, item: Any) -> bytes:
            nonlocal requests_bytes
            requests_bytes += stop - start
            return read(self, url, start, stop, item)

        s3_store.S3Store.read = counted
        source = "s3://runs/checkpoint" if way == "convert from S3" else str(folder / "checkpoint")
        target = str(out / "model") if way == "convert from S3" else "s3://runs/model"
        began = time.monotonic()
        size_bytes = zeroconsolidate.consolidate(source, target, check="none", overwrite=True).bytes_written
    seconds = time.monotonic() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return {"seconds": seconds, "memory": memory, "bytes": size_bytes, "requested": requests_bytes}


def cuts_of(ranges: list[tuple[str, int, int]]) -> list[tuple[str, int, int, int]]:
    """(file, start, stop, place in the output) of each request."""
    cuts, here = [], 0
    for name, start, stop in ranges:
        places = range(start, stop, PIECE_BYTES)
        cuts += [(name, at, min(at + PIECE_BYTES, stop), here + at - start) for at in places]
        here += stop - start
    return cuts


def download(ranges: list[tuple[str, int, int]], path: Path, get: Callable[[str, int, int], bytes]) -> None:
    """The ranges one after the other into a file: 32 requests at a time."""
    with path.open("wb") as file, ThreadPoolExecutor(PIECES) as pool:

        def fetch(cut: tuple[str, int, int, int]) -> None:
            name, start, stop, place = cut
            os.pwrite(file.fileno(), get(name, start, stop), place)

        list(pool.map(fetch, cuts_of(ranges)))
        os.fsync(file.fileno())


def botocore_client() -> Any:
    from botocore.config import Config
    from botocore.session import Session

    return Session().create_client("s3", config=Config(max_pool_connections=PIECES))


def download_botocore(ranges: list[tuple[str, int, int]], path: Path) -> None:
    client = botocore_client()

    def get(name: str, start: int, stop: int) -> bytes:
        return client.get_object(Bucket="runs", Key=name, Range=f"bytes={start}-{stop - 1}")["Body"].read()

    download(ranges, path, get)


def download_s3fs(ranges: list[tuple[str, int, int]], path: Path) -> None:
    import s3fs

    files = s3fs.S3FileSystem(config_kwargs={"max_pool_connections": PIECES})
    download(ranges, path, lambda name, start, stop: files.cat_file(f"runs/{name}", start=start, end=stop))


def download_obstore(ranges: list[tuple[str, int, int]], path: Path) -> None:
    import obstore

    store = obstore_store()
    download(ranges, path, lambda name, start, stop: obstore.get_range(store, name, start=start, end=stop))


def obstore_store() -> Any:
    from obstore.store import S3Store

    return S3Store("runs", endpoint=os.environ["AWS_ENDPOINT_URL"], client_options={"allow_http": True})


def upload_botocore(path: Path) -> None:
    """A file in parts, eight at a time."""
    client, size_bytes = botocore_client(), path.stat().st_size
    upload = client.create_multipart_upload(Bucket="runs", Key="plain")["UploadId"]
    with path.open("rb") as file, ThreadPoolExecutor(PARTS) as pool:

        def part(number: int) -> dict[str, Any]:
            data = os.pread(file.fileno(), PART_BYTES, (number - 1) * PART_BYTES)
            answer = client.upload_part(Bucket="runs", Key="plain", UploadId=upload, PartNumber=number, Body=data)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        parts = list(pool.map(part, range(1, 1 - -size_bytes // PART_BYTES)))
    client.complete_multipart_upload(Bucket="runs", Key="plain", UploadId=upload, MultipartUpload={"Parts": parts})


def upload_s3fs(path: Path) -> None:
    import s3fs

    s3fs.S3FileSystem().put_file(str(path), "runs/plain", chunksize=PART_BYTES, max_concurrency=PARTS)


def upload_obstore(path: Path) -> None:
    import obstore

    with path.open("rb") as file:
        obstore.put(obstore_store(), "plain", file, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS)


DOWNLOADS = {"plain download": download_botocore, "by s3fs": download_s3fs, "by obstore": download_obstore}
UPLOADS = {"plain upload": upload_botocore, "upload by s3fs": upload_s3fs, "upload by obstore": upload_obstore}


def run(folder: Path, rounds: int, latencies: Sequence[int], *, others: bool) -> None:
    """All ways at all latencies, as a table."""
    reading, writing = (list(ways) if others else list(ways)[:1] for ways in (DOWNLOADS, UPLOADS))
    ways = [*reading, "convert from S3", *writing, "convert to S3"]
    environment = os.environ | {
        "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    sys.path.insert(0, str(ROOT))
    ranges = needed(folder)
    (folder / "ranges.json").write_text(json.dumps(ranges))
    with (folder / "plain").open("wb") as file:
        for _ in range(sum(stop - start for _, start, stop in ranges) >> 20):
            file.write(os.urandom(1 << 20))
    print("| latency | way | time | ratio | memory | bytes requested |\n|--:|---|--:|--:|--:|--:|")
    for latency in latencies:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way in ways:
                server = subprocess.Popen(
                    [sys.executable, __file__, "serve", "--dir", folder, "--latency", str(latency)],
                    stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                try:
                    port = server.stdout.readline().strip() if server.stdout else ""
                    with tempfile.TemporaryDirectory(dir=folder) as out:
                        done = subprocess.run(
                            [sys.executable, __file__, "once", "--dir", folder, "--way", way, "--out", out],
                            env=environment | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"},
                            capture_output=True, text=True, check=False,
                        )  # fmt: skip
                    if done.returncode:
                        sys.exit(done.stderr)
                    found[way].append(json.loads(done.stdout.splitlines()[-1]))
                finally:
                    server.kill()
                    server.wait()
        for way in ways:
            base = "plain upload" if way in (*writing, "convert to S3") else "plain download"
            ratio = statistics.median(
                one["seconds"] / other["seconds"] for one, other in zip(found[way], found[base], strict=True)
            )
            seconds = statistics.median(one["seconds"] for one in found[way])
            memory = max(one["memory"] for one in found[way]) >> 20
            requested = found[way][0]["requested"] / found["plain download"][0]["bytes"]
            shown = f"{requested:.3f} x" if requested else ""
            print(f"| {latency} ms | {way} | {seconds:.2f} s | {ratio:.2f} | {memory} MiB | {shown} |", flush=True)


def main() -> None:
    """Make, run, or what run starts."""
    parser = argparse.ArgumentParser(description="Measure conversions from and to S3.")
    parser.add_argument("what", choices=("make", "run", "serve", "once"))
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--megabytes", type=int, default=900, help="of fp32 weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--others", action="store_true", help="measure other clients as well")
    parser.add_argument("--latencies", type=int, nargs="+", default=LATENCIES_MS, help="in milliseconds")
    parser.add_argument("--latency", type=int, default=0)
    parser.add_argument("--way")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.what == "make":
        make(given.dir, given.megabytes)
    elif given.what == "run":
        run(given.dir, given.rounds, given.latencies, others=given.others)
    elif given.what == "serve":
        serve(given.dir, given.latency)
    else:
        print(json.dumps(once(given.way, given.dir, given.out)))


if __name__ == "__main__":
    main()
