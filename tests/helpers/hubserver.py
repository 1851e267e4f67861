"""A stand-in for the Hugging Face Hub on this machine, which serves one folder as one commit of a repository."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789" * 4
NAME = f"someone/some-model@{COMMIT}"


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def describe(path: str, content: bytes) -> dict[str, Any]:
    """Return what the Hub lists of a file."""
    large = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return {
        "rfilename": path,
        "size": len(content),
        "blobId": git_name(content),
        **({"lfs": large} if path.endswith(".safetensors") else {}),
    }


@contextlib.contextmanager
def serve(
    folder: Path, changes: dict[str, dict[str, Any]] | None = None, listing: tuple[int, bytes] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Yield the endpoint and the list that its requests are added to.

    Args:
        changes: file → what the listing says of it instead of the truth.
        listing: status and content instead of the listing.
    """
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    repo, _, commit = NAME.partition("@")
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, content: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            requests.append(f"{self.command} {path}")
            prefix = f"/{repo}/resolve/{commit}/"
            if path == f"/api/models/{repo}/revision/{commit}":
                listed = [
                    {**describe(name, file.read_bytes()), **(changes or {}).get(name, {})}
                    for name, file in files.items()
                ]
                true = (200, json.dumps({"id": repo, "sha": commit, "siblings": listed}).encode())
                self.answer(*(listing or true))
            elif (file := files.get(path.removeprefix(prefix))) and path.startswith(prefix):
                content = file.read_bytes()
                self.answer(200, content, ETag=f'"{git_name(content)}"', X_Repo_Commit=commit)
            else:
                known = path.startswith((f"/{repo}/", f"/api/models/{repo}/"))
                self.answer(404, X_Error_Code="RevisionNotFound" if known else "RepoNotFound")

        do_HEAD = do_GET

        def log_message(self, *arguments: Any) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
