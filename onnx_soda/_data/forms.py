"""The forms that a clean set may have, and which one a file or folder has, by its content.

A new form is one file with a reader, and one line in `FORMS`; in another package, a
`CleanSetForm` and an entry point of the group "onnx_soda.clean_sets". Nothing here imports a
reader: the parent process asks which files belong to a clean set, and reads none of it but its
first bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_soda._errors import DatasetFileError
from onnx_soda._preflight.file import describe_text
from onnx_soda._registry import Registry
from onnx_soda._words import as_url, not_fetched

if TYPE_CHECKING:
    from onnx_soda._data.splits import SplitData

GZIP_MAGIC = b"\x1f\x8b"
"""First bytes of a gzip file."""
IDX_MAGIC = b"\0\0\x08"
"""First bytes of an IDX file of unsigned bytes."""
# More than the longest of all first bytes that tell a form, or that it is a text.
_HEAD = 64


def _nothing(path: Path) -> Iterator[Path]:
    del path
    return iter(())


@dataclass(frozen=True)
class CleanSetForm:
    """A form that a clean set may have.

    Attributes:
        name: What people call it.
        reader: Where its reader is, as "module:function"; the function takes a path and the part
            wanted, and returns a `SplitData`.
        magics: First bytes of its files.
        suffixes: Endings of its files, in lower case. A file that begins otherwise than its name
            promises goes to this reader all the same, which then says what is wrong with it.
        claims_folder: Tells by the paths in a folder whether the folder has this form.
        beside: Yields further files that belong to a file of this form, there or not.
    """

    name: str
    reader: str
    magics: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    claims_folder: Callable[[list[Path]], bool] | None = None
    beside: Callable[[Path], Iterator[Path]] = _nothing

    def read(self, path: Path, split: str) -> SplitData:
        """Read labels, and what finds the images.

        Args:
            path: File or folder.
            split: See `load_dataset`.

        Raises:
            DataError: See `load_dataset`.
        """
        module, _, function = self.reader.partition(":")
        found: SplitData = getattr(import_module(module), function)(path, split)
        return found


def find_image_files(files: Iterable[Path]) -> list[Path]:
    """Return those that IDX images are in, by name (``train-images-idx3-ubyte.gz``)."""
    return sorted(file for file in files if "images" in file.name and "idx" in file.name)


def label_files(images: Path) -> Iterator[Path]:
    """Yield the files beside one of IDX images that its labels may be in, the likeliest first.

    The names are those of http://yann.lecun.com/exdb/mnist/.
    """
    wanted = images.name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    stem = wanted.removesuffix(".gz")
    for candidate in dict.fromkeys((wanted, stem, f"{stem}.gz")):
        if candidate != images.name:
            yield images.with_name(candidate)


_FOLDER = CleanSetForm("a folder of class folders", "onnx_soda._data.folder:load_folder")
FORMS = (
    CleanSetForm(
        "HDF5",
        "onnx_soda._data.hdf5:load_hdf5",
        (b"\x89HDF\r\n\x1a\n",),
        (".h5", ".hdf5"),
    ),
    CleanSetForm("npz", "onnx_soda._data.npz:load_npz", (b"PK\x03\x04",), (".npz",)),
    _FOLDER,
    CleanSetForm(
        "IDX",
        "onnx_soda._data.idx:load_idx",
        (IDX_MAGIC, GZIP_MAGIC),
        claims_folder=lambda paths: bool(find_image_files(paths)),
        beside=label_files,
    ),
    CleanSetForm("Parquet", "onnx_soda._data.parquet:load_parquet", (b"PAR1",), (".parquet",)),
)
FORM_NAMES = ", ".join(form.name for form in FORMS)
"""For help texts and messages."""
_OTHERS: Registry[CleanSetForm] = Registry("clean-set form", "onnx_soda.clean_sets", {})


def form_of(path: Path, name: str) -> CleanSetForm:
    """Tell the form of a file or folder by its content, and by its ending where that says nothing.

    Args:
        path: The file or folder.
        name: What to call it in an error.

    Raises:
        DatasetFileError: Not there, empty, or of no form known.
        OSError: It cannot be read.
    """
    if path.is_dir():
        return _form_of_folder(list(path.iterdir()))
    if not path.exists():
        if url := as_url(path):
            raise DatasetFileError(*not_fetched(url))
        raise DatasetFileError(f"{name} is not there", "Check the path of the clean set.")
    if not path.is_file():
        raise DatasetFileError(f"{name} is neither a file nor a folder", f"Give {FORM_NAMES}.")
    if path.stat().st_size == 0:
        raise DatasetFileError(f"{name} is empty", "Fetch or write the file again.")
    with path.open("rb") as stream:
        head = stream.read(_HEAD)
    text = describe_text(head)
    if text is not None:
        raise DatasetFileError(f"{name} is {text.what}", text.advice)
    found = _matching(FORMS, head, path) or _matching(_OTHERS.others(), head, path)
    if found is None:
        raise DatasetFileError(f"{name} is of no format known here", f"Give {FORM_NAMES}.")
    return found


def _form_of_folder(paths: list[Path]) -> CleanSetForm:
    for form in (*FORMS, *_OTHERS.others()):
        if form.claims_folder and form.claims_folder(paths):
            return form
    return _FOLDER


def _matching(forms: Iterable[CleanSetForm], head: bytes, path: Path) -> CleanSetForm | None:
    known = tuple(forms)
    by_content = (form for form in known if form.magics and head.startswith(form.magics))
    by_name = (form for form in known if path.suffix.lower() in form.suffixes)
    return next(by_content, None) or next(by_name, None)


def files_beside(path: Path) -> Iterator[Path]:
    """Yield the further files of a clean set that are there; none where it has no form known."""
    try:
        form = form_of(path, path.name)
    except (DatasetFileError, OSError):
        return
    yield from filter(Path.is_file, form.beside(path))
