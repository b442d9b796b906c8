"""`onnx-soda fetch`: the only command that opens the network, and the only file that knows how.

A file is fetched, and nothing of it is opened: the scan comes afterwards, without network. What is
fetched is pinned: the revision as a commit where the address is of the Hugging Face hub, and the
SHA-256 of the content everywhere. Nothing but the files is left behind.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer
from rich.console import RenderableType

from onnx_soda._errors import MissingExtraError, OutputError, SodaError, first_line
from onnx_soda._preflight.file import HEAD_BYTES, describe_foreign_file, describe_text
from onnx_soda._report.tables import fact_table
from onnx_soda._sandbox.process import private_folder
from onnx_soda._system import folder_to_fill, held_back, missing_modules, require_modules
from onnx_soda._words import as_url, printable

from .options import MEBIBYTE, Debug, Quiet
from .output import CLEAN, ProgressBar, deliver, failing_cleanly

# As large as the largest model file that a scan reads, with some room for images.
_USUAL_MEBIBYTES, _MOST_MEBIBYTES = 4096, 2**24
_CHUNK = MEBIBYTE
# Modules by scheme, beside fsspec: what its extra brings, and what has to be installed by name.
_OF_EXTRA = {"https": "aiohttp", "http": "aiohttp", "hf": "huggingface_hub"}
_OTHERS = {"s3": "s3fs", "gs": "gcsfs"}
_SCHEMES = (*_OF_EXTRA, *_OTHERS)
_DIGEST = re.compile(r"[0-9a-f]{64}")
# hf://OWNER/NAME[@REVISION]/PATH, with datasets/ in front for data sets.
_HUB = re.compile(r"hf://(datasets/)?([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?$")
# The address of a file's page, and of the file, as browsers show them.
_HUB_PAGE = re.compile(
    r"https://huggingface\.co/(datasets/)?([^/]+/[^/]+)/(?:blob|resolve)/([^/]+)/([^?#]+)"
)
# Endings of files that may well begin like a page, or like what servers send with an error.
_TEXT_FILES = frozenset({".html", ".json", ".xml"})
# Names of weights that lie beside an ONNX file, behind its own name.
_WEIGHTS = re.compile(r"(_data|\.data)(_\d+)?")


@dataclass(frozen=True)
class _Wanted:
    """What is to be fetched.

    Attributes:
        revision: Branch, tag or commit; None for the newest.
        sha256: What the content must have; None where any will do.
        limit: The most bytes.
    """

    revision: str | None
    sha256: str | None
    limit: int


@dataclass(frozen=True)
class _Fetched:
    """A file that was fetched, where it lies by now.

    Attributes:
        path: Where.
        size: Bytes.
        sha256: Of the content.
        kind: What it begins like.
    """

    path: Path
    size: int
    sha256: str
    kind: str


@dataclass(frozen=True)
class _Hub:
    """A place on the Hugging Face hub."""

    kind: str
    repository: str
    revision: str | None
    file: str

    def address(self, commit: str) -> str:
        """Return the address of the file at a commit."""
        prefix = "datasets/" if self.kind == "dataset" else ""
        return f"hf://{prefix}{self.repository}@{commit}/{self.file}"


_Tell = Callable[[str, int, int], None]


def fetch_command(
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL", help=f"Address: {', '.join(f'{one}://' for one in _SCHEMES)}."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Put the file here.")
    ],
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="REV", help="Branch, tag or commit (hf://)."),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", help="Refuse the file if this is not its SHA-256."),
    ] = None,
    max_size: Annotated[
        int,
        typer.Option("--max-size", min=1, max=_MOST_MEBIBYTES, help="The most MiB to fetch."),
    ] = _USUAL_MEBIBYTES,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fetch a model or clean images, and pin them; no other command opens the network.

    Of the Hugging Face hub the revision is resolved to a commit first, and weights that lie beside
    an ONNX file come with it. No file is overwritten, and none is opened. It needs the extra [hub].

    Exit codes: 0 fetched; 2 could not fetch, not what was asked for, or wrong usage.
    """
    if sha256 is not None and not _DIGEST.fullmatch(sha256.lower()):
        raise typer.BadParameter("64 hexadecimal digits are needed", param_hint="--sha256")
    with failing_cleanly(debug):
        wanted = _Wanted(revision, sha256 and sha256.lower(), max_size * MEBIBYTE)
        place = _place_of(url, wanted)
        with folder_to_fill(output, Path(os.devnull)), ProgressBar(quiet) as progress:
            if isinstance(place, _Hub):
                address, files = _fetch_from_hub(place, output, wanted)
            else:
                address, files = shown(url), [_fetch_file(url, place, output, wanted, progress)]
        deliver(_told(address, files), None)
        # As text, not broken at the width of a page: they are copied.
        deliver(_next(address, files[0]), None)
    raise typer.Exit(CLEAN)


def shown(url: str) -> str:
    """Return an address without what may be secret in it."""
    return as_url(url) or url


# --- where it is


def _place_of(url: str, wanted: _Wanted) -> _Hub | str:
    """Return the place on the hub, or the file name that an address ends in; refuse others."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise SodaError(f"{printable(url)} is no address", "Give it as SCHEME://..., or its path.")
    if "::" in url or scheme not in _SCHEMES:
        raise SodaError(
            f"addresses of the kind {scheme}:// are not fetched",
            f"Known are {', '.join(_SCHEMES)}. What is on this machine has a path: give that.",
        )
    page = _HUB_PAGE.match(url)
    found = page or _HUB.match(url)
    if found is None and wanted.revision is not None:
        raise SodaError(f"{shown(url)} has no revisions", "Pin it with --sha256 instead.")
    if scheme == "http" and wanted.sha256 is None:
        raise SodaError(
            "http:// is not encrypted, so anybody on the way may change what comes",
            "Use https://, or say what to expect with --sha256.",
        )
    _require("hf" if found else scheme)
    if found is None:
        return _name_of(urlsplit(url).path, url)
    kind, repository, named, file = found.groups()
    if named and wanted.revision and named != wanted.revision:
        raise SodaError("two revisions are named", "Name one, in the address or by --revision.")
    revision = unquote(named) if named else wanted.revision
    return _Hub("dataset" if kind else "model", repository, revision, unquote(file or ""))


def _require(scheme: str) -> None:
    what = f"fetching {scheme}:// needs"
    if scheme in _OF_EXTRA:
        require_modules(what, ("fsspec", _OF_EXTRA[scheme]), "hub")
        return
    name = _OTHERS[scheme]
    require_modules(what, ("fsspec",), "hub")
    if missing_modules((name,)):
        raise MissingExtraError(f"{what} {name}, which is not installed", f"pip install {name}")


def _name_of(path: str, url: str) -> str:
    """Return the name that a file gets: the last part of an address, if it is an ordinary one."""
    name = PurePosixPath(unquote(path)).name
    if name.startswith(".") or name != printable(name) or not name or {"/", "\\"} & set(name):
        raise SodaError(f"{shown(url)} names no file", "Give the address of a single file.")
    return name


# --- by address


def _fetch_file(url: str, name: str, output: Path, wanted: _Wanted, tell: _Tell) -> _Fetched:
    if (output / name).exists():
        raise _in_the_way(name)
    fsspec: Any = import_module("fsspec.core")
    with private_folder(beside=output / name) as folder, _explained(url):
        web = url.startswith("http")
        # Through the proxy that the environment names, as other programs do.
        files, path = fsspec.url_to_fs(
            url, **({"client_kwargs": {"trust_env": True}} if web else {})
        )
        # Of a web server the file comes in one go; others read part by part by themselves.
        options = {"block_size": 0} if web else {}
        with files.open(path, "rb", **options) as source, (folder / name).open("wb") as target:
            _copy(source, target, getattr(source, "size", None), wanted.limit, tell)
        return _keep(folder / name, output / name, wanted.sha256)


def _copy(source: Any, target: Any, size: int | None, limit: int, tell: _Tell) -> None:
    """Copy to the end, or to the limit."""
    done, total = 0, -(-(size or 0) // _CHUNK)
    _check_size(size or 0, limit)
    while part := source.read(_CHUNK):
        done += len(part)
        _check_size(done, limit)
        target.write(part)
        tell("MiB fetched", done // _CHUNK, max(total, done // _CHUNK, 1))
    if size is not None and done != size:
        raise SodaError(f"{done:,} of {size:,} bytes came", "Try again.")


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise SodaError(
            f"the file is larger than {limit // MEBIBYTE:,} MiB", "Allow more with --max-size."
        )


def _keep(made: Path, place: Path, wanted: str | None) -> _Fetched:
    """Look at what came, and put it in place if it is what was asked for."""
    with made.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        head = stream.read(HEAD_BYTES)
    if wanted is not None and sha256 != wanted:
        raise SodaError(
            f"{place.name} has the SHA-256 {sha256}, not the one asked for: it was not kept",
            "Ask whoever gave you the digest; do not use this file.",
        )
    text = describe_text(head)
    if text is not None and place.suffix.lower() not in _TEXT_FILES:
        raise SodaError(f"what came in place of {place.name} is {text.what}", text.advice)
    foreign = describe_foreign_file(head)
    with held_back():
        if place.exists():
            raise _in_the_way(place.name)
        made.rename(place)
    kind = foreign.what if foreign else "ONNX, or something that is not known here"
    return _Fetched(place, place.stat().st_size, sha256, kind)


def _in_the_way(name: str) -> OutputError:
    return OutputError(f"{name} is there already", "Move it away, or choose another folder.")


@contextmanager
def _explained(address: str) -> Iterator[None]:
    """Turn what libraries and servers say into one line, without what may be secret in it."""
    try:
        yield
    except SodaError:
        raise
    except Exception as error:
        said = re.sub(r"\?[^\s'\"]*", "", first_line(error))
        raise SodaError(
            f"{shown(address)} cannot be fetched: {type(error).__name__}: {said}",
            "Check the address, the network, and whether you may read it.",
        ) from error


# --- of the hub


def _fetch_from_hub(place: _Hub, output: Path, wanted: _Wanted) -> tuple[str, list[_Fetched]]:
    # Read when it is imported: no bars of its own, no cache of parts of files, no word about us.
    for name in ("PROGRESS_BARS", "XET", "TELEMETRY"):
        os.environ[f"HF_HUB_DISABLE_{name}"] = "1"
    hub: Any = import_module("huggingface_hub")
    with _explained(place.address(place.revision or "")):
        found = hub.HfApi().repo_info(
            place.repository, revision=place.revision, repo_type=place.kind, files_metadata=True
        )
    known = {one.rfilename: one for one in found.siblings}
    if place.file not in known:
        raise _which(place, list(known))
    names = [place.file, *(name for name in known if _is_weights(name, place.file))]
    _check_size(sum(known[name].size or 0 for name in names), wanted.limit)
    files = []
    for name in names:
        short = _name_of(name, place.address(found.sha))
        if (output / short).exists():
            raise _in_the_way(short)
    for name in names:
        target = output / PurePosixPath(name).name
        with private_folder(beside=target) as folder, _explained(place.address(found.sha)):
            made = hub.hf_hub_download(
                place.repository, name, revision=found.sha, repo_type=place.kind, local_dir=folder
            )
            asked = wanted.sha256 if name == place.file else None
            files.append(_keep(Path(made), target, asked or _digest_of(known[name])))
    return place.address(found.sha), files


def _is_weights(name: str, model: str) -> bool:
    """Tell whether a file is weights of an ONNX file, by its name."""
    rest = name.removeprefix(model)
    return model.endswith(".onnx") and rest != name and bool(_WEIGHTS.fullmatch(rest))


def _digest_of(entry: Any) -> str | None:
    """Return the SHA-256 that the hub itself has of a file; it has those of large ones."""
    return entry.lfs.sha256 if entry.lfs else None


def _which(place: _Hub, names: list[str]) -> SodaError:
    """Return the error where no file is named, or one that is not there."""
    models = [name for name in names if name.endswith(".onnx")]
    few = ", ".join(models[:5] or names[:5]) or "no file"
    what = f"has no file {place.file}" if place.file else "is a whole repository"
    return SodaError(
        f"{place.repository} {what}", f"Name a file behind it; there is, for example: {few}."
    )


# --- what is told


def _told(address: str, files: list[_Fetched]) -> RenderableType:
    rows = [("from", address)]
    for one in files:
        rows += [
            ("file", f"{one.path}, {one.size:,} bytes"),
            ("begins like", one.kind),
            ("sha256", one.sha256),
        ]
    return fact_table(rows)


def _next(address: str, first: _Fetched) -> str:
    """Return the commands to go on with."""
    folder = shlex.quote(str(first.path.parent))
    again = f"onnx-soda fetch {shlex.quote(address)} --sha256 {first.sha256} -o {folder}"
    scan = f"onnx-soda scan {shlex.quote(str(first.path))} --data CLEAN_SET"
    lines = ("", f"The same again: {again}", f"Scan it: {scan}")
    return "".join(f"{printable(line)}\n" for line in lines)
