"""The forms that a clean set may have, and which one a file or folder has, by its content.

A new form is one file with a reader, and one line in `FORMS`; in another package, a
`CleanSetForm` and an entry point of the group "onnx_soda.clean_sets". Nothing here imports a
reader: the parent process asks which files belong to a clean set, and reads none of it but its
first bytes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from onnx_soda._errors import DatasetFileError
from onnx_soda._options import DataOptions
from onnx_soda._preflight.file import HEAD_BYTES, describe_text
from onnx_soda._registry import Registry
from onnx_soda._words import as_url, not_fetched

if TYPE_CHECKING:
    from onnx_soda._data.splits import SplitData

GZIP_MAGIC = b"\x1f\x8b"
"""First bytes of a gzip file."""
IDX_MAGIC = b"\0\0\x08"
"""First bytes of an IDX file of unsigned bytes."""
NPY_MAGIC = b"\x93NUMPY"
"""First bytes of an array of NumPy's."""
ZIP_MAGIC = b"PK\x03\x04"
"""First bytes of a zip archive."""
# Of a zip's first member: where the length of its name is, and where the name begins.
_ZIP_LENGTH, _ZIP_NAME = slice(26, 28), 30
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257
_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "t10k": "test",  # MNIST's own name for its ten thousand test images
    "val": "val",
    "valid": "val",
    "validation": "val",
}
"""What names of folders and files say of a split."""
# Names of arrays of images, as `onnx_soda._data.splits.find_pairs` knows them.
_IMAGE_ARRAY = re.compile(r"x|images?|x_(train|val|test)|(train|val|test)_images", re.IGNORECASE)
LIST_FILES = ("labels.csv", "metadata.jsonl", "metadata.csv")
"""Files beside images that say which class each image is of; the last two are Hugging Face's."""


def is_coco(name: str) -> bool:
    """Tell by its name whether a file has COCO annotations."""
    usual = ("coco" in name, name.startswith(("instances", "annotations")))
    return name.lower().endswith(".json") and any(usual)


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
        beside: Yields further files and folders that belong to a file of this form, there or not.
        claims_file: Tells by the first 512 bytes of a file, and by its name, whether the file has
            this form; for forms that share their first bytes with another.
        takes_options: The reader takes a `DataOptions`, too, as its third argument.
    """

    name: str
    reader: str
    magics: tuple[bytes, ...] = ()
    suffixes: tuple[str, ...] = ()
    claims_folder: Callable[[list[Path]], bool] | None = None
    beside: Callable[[Path], Iterator[Path]] = _nothing
    claims_file: Callable[[bytes, str], bool] | None = None
    takes_options: bool = False

    def claims(self, head: bytes, name: str) -> bool:
        """Tell whether a file has this form, by its first bytes."""
        if self.claims_file is not None:
            return self.claims_file(head, name)
        return bool(self.magics) and head.startswith(self.magics)

    def read(self, path: Path, split: str, options: DataOptions | None = None) -> SplitData:
        """Read labels, and what finds the images.

        Args:
            path: File or folder.
            split: See `load_dataset`.
            options: The same.

        Raises:
            DataError: See `load_dataset`.
        """
        module, _, function = self.reader.partition(":")
        more = (options or DataOptions(),) if self.takes_options else ()
        found: SplitData = getattr(import_module(module), function)(path, split, *more)
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


def _in_folders(paths: list[Path], known: Callable[[str], bool]) -> bool:
    """Tell whether one of some files lies in a folder, or in one of its parts ("train")."""
    parts = [path for path in paths if path.name.lower() in SPLIT_WORDS and path.is_dir()]
    below = (entry for part in parts for entry in part.iterdir())
    return any(known(path.name) for path in (*paths, *below))


def _is_coco_folder(paths: list[Path]) -> bool:
    kept = [path for path in paths if path.name == "annotations" and path.is_dir()]
    return _in_folders([*paths, *(entry for path in kept for entry in path.iterdir())], is_coco)


def _has_arrays(paths: list[Path]) -> bool:
    """Tell whether there is an array that is called images; others may lie beside class folders."""
    return any(path.suffix == ".npy" and _IMAGE_ARRAY.fullmatch(path.stem) for path in paths)


def _folder_of(path: Path) -> Iterator[Path]:
    """Yield the folder that a list of images is about: its own, or the one around it."""
    yield path.parent.parent if path.parent.name == "annotations" else path.parent


def _arrays_beside(path: Path) -> Iterator[Path]:
    yield from path.parent.glob("*.npy")


def _is_npz(head: bytes, name: str) -> bool:
    first = head[_ZIP_NAME : _ZIP_NAME + int.from_bytes(head[_ZIP_LENGTH], "little")]
    arrays = first.endswith(b".npy") or name.endswith(".npz")
    return head.startswith(ZIP_MAGIC) and arrays


def _is_archive(head: bytes, name: str) -> bool:
    if head.startswith(GZIP_MAGIC):
        head = _unpacked(head)
        if not head:
            return name.endswith(_TAR_SUFFIXES)
    return head.startswith(ZIP_MAGIC) or head[_TAR_OFFSET:].startswith(_TAR_MAGIC)


def _unpacked(head: bytes) -> bytes:
    """Return at most as many bytes of a gzip file's content as were read of the file."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


_JSON = (".json", ".jsonl")
_FOLDER = CleanSetForm(
    "a folder of class folders", "onnx_soda._data.folder:load_folder", takes_options=True
)
_LISTED = CleanSetForm(
    "images with labels.csv or Hugging Face's metadata",
    "onnx_soda._data.lists:load_listed",
    suffixes=(".csv", ".jsonl"),
    claims_folder=lambda paths: _in_folders(paths, lambda name: name in LIST_FILES),
    beside=_folder_of,
    takes_options=True,
)
_COCO = CleanSetForm(
    "COCO",
    "onnx_soda._data.coco:load_coco",
    suffixes=(".json",),
    claims_folder=_is_coco_folder,
    beside=_folder_of,
    takes_options=True,
)
_NPY = CleanSetForm(
    "npy",
    "onnx_soda._data.npz:load_npy",
    (NPY_MAGIC,),
    suffixes=(".npy",),
    claims_folder=_has_arrays,
    beside=_arrays_beside,
    takes_options=True,
)
FORMS = (
    CleanSetForm(
        "HDF5",
        "onnx_soda._data.hdf5:load_hdf5",
        (b"\x89HDF\r\n\x1a\n",),
        suffixes=(".h5", ".hdf5"),
    ),
    CleanSetForm("npz", "onnx_soda._data.npz:load_npz", claims_file=_is_npz, suffixes=(".npz",)),
    _NPY,
    _FOLDER,
    _LISTED,
    _COCO,
    CleanSetForm(
        "a zip or tar archive of such a folder",
        "onnx_soda._data.archive:load_archive",
        claims_file=_is_archive,
        suffixes=(".zip", *_TAR_SUFFIXES),
        takes_options=True,
    ),
    CleanSetForm(
        "IDX",
        "onnx_soda._data.idx:load_idx",
        (IDX_MAGIC, GZIP_MAGIC),
        claims_folder=lambda paths: bool(find_image_files(paths)),
        beside=label_files,
    ),
    CleanSetForm(
        "Parquet",
        "onnx_soda._data.parquet:load_parquet",
        (b"PAR1",),
        suffixes=(".parquet",),
    ),
)
FORM_NAMES = ", ".join(form.name for form in FORMS)
"""For help texts and messages."""
_OTHERS: Registry[CleanSetForm] = Registry("clean-set form", "onnx_soda.clean_sets", {})


def form_of(path: Path, name: str, labels: str | None = None) -> CleanSetForm:
    """Tell the form of a file or folder by its content, and by its ending where that says nothing.

    Args:
        path: The file or folder.
        name: What to call it in an error.
        labels: File with the labels, where it is named.

    Raises:
        DatasetFileError: Not there, empty, or of no form known.
        OSError: It cannot be read.
    """
    if labels is not None:
        check_file(Path(labels), Path(labels).name)
    if path.is_dir():
        return _form_of_folder(list(path.iterdir()), name, labels)
    check_file(path, name)
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    text = describe_text(head)
    if text is not None and not (head[:1] in b"{[" and path.suffix.lower() in _JSON):
        raise DatasetFileError(f"{name} is {text.what}", text.advice)
    found = _matching(FORMS, head, path) or _matching(_OTHERS.others(), head, path)
    if found is None:
        raise DatasetFileError(f"{name} is of no format known here", f"Give {FORM_NAMES}.")
    if labels is not None and (not found.takes_options or found in (_LISTED, _COCO)):
        raise DatasetFileError(f"{name} has its labels itself", "Leave `labels` out.")
    return found


def check_clean_set(path: str | Path, options: DataOptions) -> None:
    """Make sure of what is plain to see of a clean set, before a child is started for it.

    Raises:
        DatasetFileError: Not there, empty, not readable, or of no form known.
    """
    # "." and ".." have no name of their own.
    name = Path(path).name.strip(".") or Path(path).resolve().name
    try:
        form_of(Path(path), name, options.labels)
        root = options.data_root
        if root is not None and not Path(root).is_dir():
            raise DatasetFileError(
                f"{Path(root).name} is no folder", "Give a folder as `data_root`."
            )
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatasetFileError(
            f"{name} cannot be read: {reason}", "Check the path and the permissions."
        ) from error


def check_file(path: Path, name: str) -> None:
    """Make sure that there is a file with something in it.

    Raises:
        DatasetFileError: There is not.
    """
    if not path.exists():
        if url := as_url(path):
            raise DatasetFileError(*not_fetched(url))
        raise DatasetFileError(f"{name} is not there", "Check the path of the clean set.")
    if not path.is_file():
        raise DatasetFileError(f"{name} is neither a file nor a folder", f"Give {FORM_NAMES}.")
    if path.stat().st_size == 0:
        raise DatasetFileError(f"{name} is empty", "Fetch or write the file again.")


def _form_of_folder(paths: list[Path], name: str, labels: str | None) -> CleanSetForm:
    if labels is not None:
        suffix = Path(labels).suffix.lower()
        return next((form for form in (_COCO, _NPY) if suffix in form.suffixes), _LISTED)
    for form in (*FORMS, *_OTHERS.others()):
        if form.claims_folder and form.claims_folder(paths):
            return form
    if not any(path.is_dir() for path in paths if not path.name.startswith(".")):
        raise DatasetFileError(
            f"{name} holds no class folders",
            "Give each class a folder with its images, or put a labels.csv beside the images.",
        )
    return _FOLDER


def _matching(forms: Iterable[CleanSetForm], head: bytes, path: Path) -> CleanSetForm | None:
    known, name = tuple(forms), path.name.lower()
    by_content = (form for form in known if form.claims(head, name))
    by_name = (form for form in known if form.suffixes and name.endswith(form.suffixes))
    return next(by_content, None) or next(by_name, None)


def files_beside(path: Path) -> Iterator[Path]:
    """Yield the further files and folders of a clean set; none where it has no form known."""
    try:
        form = form_of(path, path.name)
    except (DatasetFileError, OSError):
        return
    yield from filter(Path.exists, form.beside(path))
