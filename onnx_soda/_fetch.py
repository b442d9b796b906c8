"""Fetches files by address, and pins them. Nothing else in the package opens the network.

A file is fetched, and nothing of it is opened: the scan comes afterwards, without network. What is
fetched is pinned: the revision as a commit where the address is of the Hugging Face hub, and the
SHA-256 of the content everywhere. Nothing but the files is left behind.

`onnx-soda fetch` asks for it, and fleets whose models have addresses.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from onnx_soda._errors import MissingExtraError, OutputError, SodaError, first_line
from onnx_soda._options import Progress
from onnx_soda._preflight.file import HEAD_BYTES, describe_foreign_file, describe_text
from onnx_soda._sandbox.process import private_folder
from onnx_soda._system import held_back, missing_modules, require_modules
from onnx_soda._words import printable

# As large as the largest model file that a scan reads, with some room for images.
USUAL_BYTES = 4096 * 2**20
_MEBIBYTE = _CHUNK = 2**20
# Modules by scheme, beside fsspec: what its extra brings, and what has to be installed by name.
_OF_EXTRA = {"https": "aiohttp", "http": "aiohttp", "hf": "huggingface_hub"}
_OTHERS = {"s3": "s3fs", "gs": "gcsfs"}
SCHEMES = (*_OF_EXTRA, *_OTHERS)
# Addresses of files that this machine has itself: of use where a list has addresses for all.
_HERE = "file"
# What stores tell of a file that changes with its content, or nearly so: checksums, versions and
# times, by the names that fsspec's file systems use.
_MARKS = (
    "ETag", "Content-MD5", "Digest", "Last-Modified", "LastModified", "VersionId", "etag",
    "md5Hash", "crc32c", "generation", "mtime",
)  # fmt: skip
DIGEST = re.compile(r"[0-9a-f]{64}")
"""A SHA-256, in small letters."""
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
class Wanted:
    """What is to be fetched.

    Attributes:
        revision: Branch, tag or commit; None for the newest.
        sha256: What the content must have; None where any will do.
        limit: The most bytes.
        here: It may be a file of this machine.
    """

    revision: str | None = None
    sha256: str | None = None
    limit: int = USUAL_BYTES
    here: bool = False


@dataclass(frozen=True)
class Fetched:
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
class Hub:
    """A place on the Hugging Face hub."""

    kind: str
    repository: str
    revision: str | None
    file: str

    def address(self, commit: str) -> str:
        """Return the address of the file at a commit."""
        prefix = "datasets/" if self.kind == "dataset" else ""
        return f"hf://{prefix}{self.repository}@{commit}/{self.file}"


def shown(url: str) -> str:
    """Return an address without what may be secret in it: its user, and what stands behind ?."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def fetch(
    url: str, place: Hub | str, output: Path, wanted: Wanted, tell: Progress
) -> tuple[str, list[Fetched]]:
    """Fetch a file, and weights of the hub that lie beside it; overwrite nothing.

    Args:
        url: The address.
        place: What `place_of` says of it.
        output: The folder to put it into.
        wanted: What is to come.
        tell: Called as it comes.

    Returns:
        The address to fetch the same again by, and the files, the one asked for first.

    Raises:
        SodaError: It cannot be fetched, or is not what was asked for.
    """
    if isinstance(place, Hub):
        return _fetch_from_hub(place, output, wanted)
    return shown(url), [_fetch_file(url, place, output, wanted, tell)]


def pin(url: str, wanted: Wanted) -> tuple[str, str]:
    """Find out what lies at an address now, without fetching it.

    Returns:
        An address by which the same will be fetched, where there is one, and what tells that it is
        the same: digests, a version, the time of the last change.

    Raises:
        SodaError: It is not there, or nothing would tell that it has changed.
    """
    place = place_of(url, wanted)
    if isinstance(place, Hub):
        found = _repository(place)
        files = {
            name: _digest_of(one) or one.blob_id for name, one in _files_of(found, place).items()
        }
        return place.address(found.sha), repr(files)
    if wanted.sha256 is not None:
        return url, wanted.sha256
    with _explained(url):
        files, path = _store(url)
        info = files.info(path)
    marks = {name: str(info[name]) for name in _MARKS if info.get(name)}
    if not marks:
        raise SodaError(
            f"nothing tells whether {shown(url)} changes", "Say what to expect with `sha256`."
        )
    return url, repr((info.get("size"), marks))


def addresses_below(url: str, wanted: Wanted) -> list[str]:
    """Return the addresses of all files in a folder of a store, or in a repository of the hub.

    Raises:
        SodaError: It cannot be listed.
    """
    found = _HUB.match(url)
    if found is not None:
        kind, repository, revision, folder = found.groups()
        place = Hub("dataset" if kind else "model", repository, revision, folder or "")
        _require("hf")
        known = _repository(place)
        names = [one.rfilename for one in known.siblings]
        return [
            Hub(place.kind, repository, None, name).address(known.sha)
            for name in sorted(names)
            if not folder or name.startswith(folder.rstrip("/") + "/")
        ]
    if _is_web(url):
        raise SodaError(
            f"{shown(url)} is no model, and a web server has no list of files",
            "Give a manifest with the addresses of the models.",
        )
    place_of(url.rstrip("/"), wanted)  # its kind is known, and can be fetched
    with _explained(url):
        files, path = _store(url)
        return [str(files.unstrip_protocol(name)) for name in sorted(files.find(path))]


# --- where it is


def place_of(url: str, wanted: Wanted) -> Hub | str:
    """Return the place on the hub, or the file name that an address ends in; refuse others."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise SodaError(f"{printable(url)} is no address", "Give it as SCHEME://..., or its path.")
    if "::" in url or scheme not in (*SCHEMES, *[_HERE] * wanted.here):
        raise SodaError(
            f"addresses of the kind {scheme}:// are not fetched",
            f"Known are {', '.join(SCHEMES)}. What is on this machine has a path: give that.",
        )
    page = _HUB_PAGE.match(url)
    found = page or _HUB.match(url)
    if found is None and wanted.revision is not None:
        raise SodaError(f"{shown(url)} has no revisions", "Pin it with `sha256` instead.")
    if scheme == "http" and wanted.sha256 is None:
        raise SodaError(
            "http:// is not encrypted, so anybody on the way may change what comes",
            "Use https://, or say what to expect with `sha256`.",
        )
    _require("hf" if found else scheme)
    if found is None:
        return _name_of(urlsplit(url).path, url)
    kind, repository, named, file = found.groups()
    if named and wanted.revision and named != wanted.revision:
        raise SodaError("two revisions are named", "Name one, in the address or by `revision`.")
    revision = unquote(named) if named else wanted.revision
    return Hub("dataset" if kind else "model", repository, revision, unquote(file or ""))


def _require(scheme: str) -> None:
    what = f"fetching {scheme}:// needs"
    if scheme == _HERE:
        require_modules(what, ("fsspec",), "hub")
        return
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


def _is_web(url: str) -> bool:
    return url.startswith("http")


def _store(url: str) -> tuple[Any, str]:
    """Return the file system that has an address, and the path there."""
    fsspec: Any = import_module("fsspec.core")
    # Through the proxy that the environment names, as other programs do.
    options = {"client_kwargs": {"trust_env": True}} if _is_web(url) else {}
    files, path = fsspec.url_to_fs(url, **options)
    return files, str(path)


def _fetch_file(url: str, name: str, output: Path, wanted: Wanted, tell: Progress) -> Fetched:
    if (output / name).exists():
        raise _in_the_way(name)
    with private_folder(beside=output / name) as folder, _explained(url):
        files, path = _store(url)
        # Of a web server the file comes in one go; others read part by part by themselves.
        options = {"block_size": 0} if _is_web(url) else {}
        with files.open(path, "rb", **options) as source, (folder / name).open("wb") as target:
            _copy(source, target, getattr(source, "size", None), wanted.limit, tell)
        return _keep(folder / name, output / name, wanted.sha256)


def _copy(source: Any, target: Any, size: int | None, limit: int, tell: Progress) -> None:
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
            f"the file is larger than {limit // _MEBIBYTE:,} MiB",
            "`onnx-soda fetch` allows more with `max_size`.",
        )


def _keep(made: Path, place: Path, wanted: str | None) -> Fetched:
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
    return Fetched(place, place.stat().st_size, sha256, kind)


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


def _hub() -> Any:
    # Read when it is imported: no bars of its own, no cache of parts of files, no word about us.
    for name in ("PROGRESS_BARS", "XET", "TELEMETRY"):
        os.environ[f"HF_HUB_DISABLE_{name}"] = "1"
    return import_module("huggingface_hub")


def _repository(place: Hub) -> Any:
    with _explained(place.address(place.revision or "")):
        return (
            _hub()
            .HfApi()
            .repo_info(
                place.repository, revision=place.revision, repo_type=place.kind, files_metadata=True
            )
        )


def _files_of(found: Any, place: Hub) -> dict[str, Any]:
    """Return what the hub has of a file, and of weights that lie beside it, by name."""
    known = {one.rfilename: one for one in found.siblings}
    if place.file not in known:
        raise _which(place, list(known))
    names = [place.file, *(name for name in known if _is_weights(name, place.file))]
    return {name: known[name] for name in names}


def _fetch_from_hub(place: Hub, output: Path, wanted: Wanted) -> tuple[str, list[Fetched]]:
    hub, found = _hub(), _repository(place)
    known = _files_of(found, place)
    names = list(known)
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


def _which(place: Hub, names: list[str]) -> SodaError:
    """Return the error where no file is named, or one that is not there."""
    models = [name for name in names if name.endswith(".onnx")]
    few = ", ".join(models[:5] or names[:5]) or "no file"
    what = f"has no file {place.file}" if place.file else "is a whole repository"
    return SodaError(
        f"{place.repository} {what}", f"Name a file behind it; there is, for example: {few}."
    )
