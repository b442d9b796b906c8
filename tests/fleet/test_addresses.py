"""Fleets whose models have addresses: fetched where they are scanned, and gone afterwards."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fixtures.lookalikes import LOOKALIKES
from fixtures.sketches import build_sketch
from fixtures.trojans import TROJANS
from tests.cli.helpers import complaint, soda

pytest.importorskip("fsspec", reason="needs the extra [hub]")
pytest.importorskip("aiohttp", reason="needs the extra [hub]")

TROJAN = build_sketch(next(iter(TROJANS.values()))).SerializeToString()
HONEST = build_sketch(next(iter(LOOKALIKES.values()))).SerializeToString()
USUAL = ("--method", "soda", "--threads", 1, "--quiet")
HIDDEN = "signature-that-nobody-may-see"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A folder as a store: two models, one in a folder of its own, and something else."""
    folder = tmp_path / "store"
    (folder / "other models").mkdir(parents=True)
    (folder / "trojan.onnx").write_bytes(TROJAN)
    (folder / "other models" / "honest.onnx").write_bytes(HONEST)
    (folder / "readme.txt").write_text("no model")
    return folder


@pytest.fixture
def site(store: Path) -> Iterator[str]:
    handler = partial(QuietHandler, directory=str(store))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def scan(source: object, results: Path, temporary: Path) -> Any:
    temporary.mkdir(exist_ok=True)
    done = soda("fleet", "scan", str(source), "-o", results, *USUAL, TMPDIR=str(temporary))
    assert list(temporary.iterdir()) == []  # what was fetched is gone
    return done


def rows(results: Path) -> dict[str, Any]:
    told = json.loads(soda("fleet", "status", results, "-f", "json").stdout)
    return {row["place"].rpartition("/")[2]: row for row in told["rows"]}


def test_all_models_below_an_address_are_scanned_and_changes_noticed(
    store: Path, tmp_path: Path
) -> None:
    results, temporary = tmp_path / "results", tmp_path / "temporary"
    first = scan(store.as_uri(), results, temporary)
    assert first.returncode == 1, first.stderr
    found = rows(results)
    assert {name: row["verdict"] for name, row in found.items()} == {
        "trojan.onnx": "backdoor",
        "honest.onnx": "inconclusive",
    }
    assert found["trojan.onnx"]["sha256"] == digest(TROJAN)
    assert "Scanned now: 0; known before: 2" in scan(store.as_uri(), results, temporary).stdout
    shutil.copy(store / "other models" / "honest.onnx", store / "trojan.onnx")
    again = scan(store.as_uri(), results, temporary)
    assert "Scanned now: 1; known before: 1" in again.stdout
    assert rows(results)["trojan.onnx"]["verdict"] == "inconclusive"


def test_what_is_not_the_file_asked_for_costs_itself_alone(site: str, tmp_path: Path) -> None:
    """One has its digest, one another one, and one is not there."""
    table = tmp_path / "fleet.csv"
    table.write_text(
        "model,sha256\n"
        f"{site}/trojan.onnx?{HIDDEN},{digest(TROJAN)}\n"
        f"{site}/other%20models/honest.onnx,{digest(TROJAN)}\n"
        f"{site}/none.onnx,{digest(TROJAN)}\n"
    )
    results = tmp_path / "results"
    done = scan(table, results, tmp_path / "temporary")
    assert done.returncode == 1, done.stderr
    found = rows(results)
    assert [found[name]["verdict"] for name in ("trojan.onnx", "honest.onnx", "none.onnx")] == [
        "backdoor",
        "failed",
        "failed",
    ]
    assert "not the one asked for" in found["honest.onnx"]["rule"]
    assert "cannot be fetched" in found["none.onnx"]["rule"]
    assert HIDDEN not in done.stdout + done.stderr
    kept = b"".join(path.read_bytes() for path in results.iterdir())
    assert HIDDEN.encode() not in kept


def test_a_retry_fetches_again_and_needs_the_manifest_for_a_secret_address(
    site: str, store: Path, tmp_path: Path
) -> None:
    (store / "trojan.onnx").rename(store / "hidden.onnx")
    table, results = tmp_path / "fleet.csv", tmp_path / "results"
    table.write_text(f"model,sha256\n{site}/trojan.onnx,{digest(TROJAN)}\n")
    assert scan(table, results, tmp_path / "temporary").returncode == 2
    (store / "hidden.onnx").rename(store / "trojan.onnx")
    again = soda("fleet", "retry", results, "--failed", "--quiet")
    assert again.returncode == 1, again.stderr
    with sqlite3.connect(results / "fleet.sqlite") as base:
        base.execute("UPDATE models SET request=''")
        base.execute("DELETE FROM results")
    refused = soda("fleet", "retry", results, "--quiet")
    assert refused.returncode == 2
    assert "its address was secret" in complaint(refused.stderr)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("ftp://127.0.0.1/models", "addresses of the kind ftp:// are not fetched"),
        ("https://127.0.0.1/models/", "a web server has no list of files"),
        ("http://127.0.0.1/a.onnx", "http:// is not encrypted"),
        ("simplecache::https://127.0.0.1/a.onnx", "addresses of the kind"),
    ],
)
def test_addresses_that_are_not_fetched(source: str, told: str, tmp_path: Path) -> None:
    done = scan(source, tmp_path / "results", tmp_path / "temporary")
    assert done.returncode == 2
    assert told in complaint(done.stderr)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("https://x/a.onnx,https://x/clean.h5,", "only models are fetched"),
        ("https://x/a.onnx,,123", "sha256 is not 64 hexadecimal digits"),
        (f"a.onnx,,{'0' * 64}", "sha256 is for models at addresses"),
        ("http://x/a.onnx,,", "row 1 of fleet.csv: http:// is not encrypted"),
        ("https://x/,,", "row 1 of fleet.csv: https://x/ names no file"),
    ],
)
def test_what_is_wrong_in_a_row_with_an_address_is_told(
    row: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "fleet.csv").write_text(f"model,data,sha256\n{row}\n", encoding="utf-8")
    done = scan(tmp_path / "fleet.csv", tmp_path / "results", tmp_path / "temporary")
    assert done.returncode == 2
    assert told in complaint(done.stderr)
