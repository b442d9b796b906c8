"""`onnx-soda fetch`, with a web server and a hub of this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from .helpers import CLEAN_MODEL, complaint, invoke, soda

pytest.importorskip("aiohttp", reason="needs the extra [hub]")
pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")

MODEL = CLEAN_MODEL.read_bytes()
WEIGHTS = b"\x01\x02" * 300
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HIDDEN = "signature-that-nobody-may-see"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Site(BaseHTTPRequestHandler):
    """Files below /files/, and below /api/ and /acme/ a hub with one repository."""

    files: ClassVar[dict[str, bytes]] = {
        "/files/model.onnx": MODEL,
        "/files/page.onnx": b"<!DOCTYPE html><html>no such file</html>",
        "/files/labels.json": b'{"0": "zero"}',
        f"/acme/digits/resolve/{COMMIT}/model.onnx": MODEL,
        f"/acme/digits/resolve/{COMMIT}/model.onnx_data": WEIGHTS,
        f"/acme/digits/resolve/{COMMIT}/README.md": b"# digits",
    }
    listed = (("model.onnx", MODEL), ("model.onnx_data", WEIGHTS), ("README.md", b"# digits"))
    asked: ClassVar[list[str]] = []
    lied_digest: str | None = None

    def do_GET(self) -> None:
        self._answer(True)

    def do_HEAD(self) -> None:
        self._answer(False)

    def _answer(self, body: bool) -> None:
        path = urlsplit(self.path).path
        type(self).asked.append(path)
        content = self.files.get(path)
        if (
            path.startswith("/api/models/acme/digits/revision/")
            or path == "/api/models/acme/digits"
        ):
            content = json.dumps(self._repository()).encode()
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{digest(content)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _repository(self) -> dict[str, Any]:
        files = [
            {
                "rfilename": name, "size": len(content),
                "lfs": {"sha256": self.lied_digest or digest(content), "size": len(content),
                        "pointerSize": 1},
            }
            for name, content in self.listed
        ]  # fmt: skip
        return {"id": "acme/digits", "modelId": "acme/digits", "sha": COMMIT, "siblings": files,
                "private": False, "downloads": 0, "likes": 0, "tags": []}  # fmt: skip

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Site.asked.clear()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refused(*arguments: str | Path, words: str) -> None:
    done = invoke("fetch", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in complaint(done.stderr), done.stderr


# --- web servers


def test_a_file_is_fetched_and_nothing_else_is_written(site: str, tmp_path: Path) -> None:
    url, home = f"{site}/files/model.onnx?token={HIDDEN}", tmp_path / "home"
    home.mkdir()
    done = soda(
        "fetch", url, "-o", tmp_path / "got", "--sha256", digest(MODEL).upper(),
        HOME=str(home), TMPDIR=str(home),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "got" / "model.onnx").read_bytes() == MODEL
    assert everything(tmp_path) == {"home", "got", "got/model.onnx"}
    assert HIDDEN not in done.stdout
    assert digest(MODEL) in done.stdout
    assert f"{len(MODEL):,} bytes" in done.stdout
    scan = f"onnx-soda scan {tmp_path / 'got' / 'model.onnx'} --data CLEAN_SET"
    assert scan in done.stdout.splitlines()[-1]


def test_another_digest_than_the_one_asked_for_is_refused(site: str, tmp_path: Path) -> None:
    other = digest(b"another")
    words = f"model.onnx has the SHA-256 {digest(MODEL)}, not the one asked for: it was not kept"
    refused(f"{site}/files/model.onnx", "-o", tmp_path / "got", "--sha256", other, words=words)
    assert everything(tmp_path) == set()


def test_nothing_is_overwritten_and_nothing_is_asked_for_in_vain(site: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"mine")
    url = f"{site}/files/model.onnx"
    refused(url, "-o", tmp_path, "--sha256", digest(MODEL), words="is there already")
    assert (tmp_path / "model.onnx").read_bytes() == b"mine"
    assert Site.asked == []


def test_a_file_over_the_size_allowed_is_refused(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Site.files, "/files/large.onnx", bytes(2**20 + 1))
    url = f"{site}/files/large.onnx"
    refused(url, "-o", tmp_path, "--sha256", "0" * 64, "--max-size", "1", words="larger than 1 MiB")
    assert everything(tmp_path) == set()


def test_a_page_in_place_of_a_file_is_refused(site: str, tmp_path: Path) -> None:
    page = Site.files["/files/page.onnx"]
    refused(f"{site}/files/page.onnx", "-o", tmp_path, "--sha256", digest(page), words="a web page")
    labels = Site.files["/files/labels.json"]
    done = invoke("fetch", f"{site}/files/labels.json", "-o", tmp_path, "--sha256", digest(labels))
    assert done.exit_code == 0
    assert everything(tmp_path) == {"labels.json"}


def test_what_is_not_there_is_told_without_what_is_secret(site: str, tmp_path: Path) -> None:
    done = invoke(
        "fetch", f"{site}/files/none.onnx?token={HIDDEN}", "-o", tmp_path / "got", "--sha256",
        "0" * 64,
    )  # fmt: skip
    assert done.exit_code == 2
    assert "none.onnx cannot be fetched" in complaint(done.stderr)
    assert HIDDEN not in done.stderr
    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("file:///etc/hostname", "addresses of the kind file:// are not fetched"),
        ("memory://x/y.onnx", "addresses of the kind memory:// are not fetched"),
        ("zip://a.onnx::https://example.org/a.zip", "are not fetched"),
        ("simplecache::https://example.org/a.onnx", "are not fetched"),
        ("model.onnx", "model.onnx is no address"),
        ("http://example.org/model.onnx", "http:// is not encrypted"),
        ("https://example.org/", "names no file"),
        ("https://example.org/.bashrc", "names no file"),
        ("https://example.org/..%2f..%2fetc%2f..", "names no file"),
        ("https://example.org/a%1b.onnx", "names no file"),
    ],
)
def test_addresses_that_are_not_fetched(address: str, words: str, tmp_path: Path) -> None:
    refused(address, "-o", tmp_path / "got", words=words)
    assert everything(tmp_path) == set()


def test_a_store_that_needs_another_package_names_it(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    done = invoke("fetch", "s3://bucket/model.onnx", "-o", tmp_path)
    assert "s3fs, which is not installed" in complaint(done.stderr)
    assert "pip install s3fs" in done.stderr


def test_a_digest_that_is_none_is_wrong_usage(tmp_path: Path) -> None:
    done = invoke("fetch", "https://example.org/a.onnx", "-o", tmp_path, "--sha256", "12")
    assert done.exit_code == 2
    assert "64 hexadecimal digits" in done.stderr


# --- the hub


def hub(site: str, *arguments: str | Path, home: Path) -> Any:
    home.mkdir(exist_ok=True)
    return soda(
        "fetch", *arguments, HF_ENDPOINT=site, HOME=str(home), TMPDIR=str(home),
        HF_TOKEN=f"hf_{HIDDEN}",
    )  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "hf://acme/digits/model.onnx",
        "hf://acme/digits@main/model.onnx",
        "https://huggingface.co/acme/digits/blob/main/model.onnx",
    ],
)
def test_a_model_of_the_hub_comes_with_its_weights_and_is_pinned(
    address: str, site: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    done = hub(site, address, "-o", tmp_path / "got", home=home)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "got" / "model.onnx").read_bytes() == MODEL
    assert (tmp_path / "got" / "model.onnx_data").read_bytes() == WEIGHTS
    assert everything(tmp_path) == {"home", "got", "got/model.onnx", "got/model.onnx_data"}
    again = (
        f"The same again: onnx-soda fetch hf://acme/digits@{COMMIT}/model.onnx "
        f"--sha256 {digest(MODEL)} -o {tmp_path / 'got'}"
    )
    assert "".join(again.split()) in "".join(done.stdout.split())
    assert digest(WEIGHTS) in done.stdout
    assert HIDDEN not in done.stdout + done.stderr


def test_a_revision_may_be_named_by_option(site: str, tmp_path: Path) -> None:
    done = hub(
        site, "hf://acme/digits/README.md", "--revision", "v1.0", "-o", tmp_path / "got",
        home=tmp_path / "home",
    )  # fmt: skip
    assert done.returncode == 0
    assert "/api/models/acme/digits/revision/v1.0" in Site.asked
    assert f"hf://acme/digits@{COMMIT}/README.md" in done.stdout


def test_a_file_that_the_hub_has_another_digest_of_is_refused(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Site, "lied_digest", "0" * 64)
    done = hub(site, "hf://acme/digits/model.onnx", "-o", tmp_path / "got", home=tmp_path / "home")
    assert done.returncode == 2
    assert "it was not kept" in complaint(done.stderr)
    assert everything(tmp_path) == {"home"}


@pytest.mark.parametrize("file", ["", "/none.onnx"])
def test_a_repository_is_not_fetched_whole(file: str, site: str, tmp_path: Path) -> None:
    done = hub(site, f"hf://acme/digits{file}", "-o", tmp_path / "got", home=tmp_path / "home")
    assert done.returncode == 2
    assert "Name a file behind it; there is, for example: model.onnx." in done.stderr
    assert everything(tmp_path) == {"home"}


def test_a_repository_that_is_not_there(site: str, tmp_path: Path) -> None:
    done = hub(site, "hf://acme/none/m.onnx", "-o", tmp_path / "got", home=tmp_path / "home")
    assert done.returncode == 2
    assert "cannot be fetched" in complaint(done.stderr)
    assert HIDDEN not in done.stderr


def test_a_fleet_of_models_of_the_hub(site: str, tmp_path: Path) -> None:
    """A whole repository: its one model is scanned at the commit that it has now."""
    home, results = tmp_path / "home", tmp_path / "results"
    home.mkdir()
    done = soda(
        "fleet", "scan", "hf://acme/digits", "-o", results, "--method", "soda", "--quiet",
        HF_ENDPOINT=site, HOME=str(home), TMPDIR=str(home), HF_TOKEN=f"hf_{HIDDEN}",
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    (row,) = json.loads(soda("fleet", "status", results, "-f", "json").stdout)["rows"]
    assert row["place"] == f"hf://acme/digits@{COMMIT}/model.onnx"
    assert row["sha256"] == digest(MODEL)
    assert everything(home) == set()
