"""What is installed beside this package."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from onnx_soda.errors import MissingExtraError

__all__ = ["installed_versions", "missing_modules", "require_modules"]


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of those packages that are installed, by name, in the order given."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def missing_modules(modules: Iterable[str]) -> tuple[str, ...]:
    """Return the modules that cannot be found; none is imported."""
    return tuple(name for name in modules if find_spec(name) is None)


def require_modules(what: str, modules: Iterable[str], extra: str) -> None:
    """Make sure that modules are installed.

    Args:
        what: What needs them, as in "repair needs".
        modules: Their names.
        extra: The extra of this package that brings them.

    Raises:
        MissingExtraError: Some are not.
    """
    missing = missing_modules(modules)
    if missing:
        raise MissingExtraError(
            f"{what} {', '.join(missing)}, which is not installed",
            f'pip install "onnx-soda[{extra}]"',
        )
