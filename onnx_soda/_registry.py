"""Things by name: those of this package, and those that other packages register.

A registry is a table from a name to where the thing is, so nothing is imported before it is asked
for. Other packages register theirs as entry points of the registry's group
(https://packaging.python.org/specifications/entry-points/); these are looked for only where a
name is not one of this package, since that takes a tenth of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from onnx_soda._errors import OptionError

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Registry(Generic[Thing]):
    """Things by name.

    Attributes:
        kind: What they are, for people: "detector".
        group: Group of the entry points of other packages.
        own: Where each of this package is, as "module:name".
    """

    kind: str
    group: str
    own: Mapping[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of those of this package."""
        return tuple(self.own)

    def load(self, name: str) -> Thing:
        """Import the thing of a name.

        Raises:
            OptionError: There is none, or it cannot be imported.
        """
        entry = self.find(name)
        if entry is not None:
            return self._loaded(entry)
        module, _, attribute = self.own[name].partition(":")
        thing: Thing = getattr(import_module(module), attribute)
        return thing

    def find(self, name: str) -> EntryPoint | None:
        """Make sure that there is a thing of a name; import nothing.

        Returns:
            Where another package registers it; None where it is one of this package.

        Raises:
            OptionError: There is none.
        """
        if name in self.own:
            return None
        for entry in self._others():
            if entry.name == name:
                return entry
        known = (*self.own, *(entry.name for entry in self._others()))
        near = get_close_matches(name, known, 1)
        raise OptionError(
            f"the {self.kind} {name!r} is none of {', '.join(known)}",
            f"Do you mean {near[0]!r}?" if near else "",
        )

    def others(self) -> Iterator[Thing]:
        """Import and yield the things of other packages."""
        for entry in self._others():
            yield self._loaded(entry)

    def _others(self) -> tuple[EntryPoint, ...]:
        return tuple(entry_points(group=self.group))

    def _loaded(self, entry: EntryPoint) -> Thing:
        try:
            thing: Thing = entry.load()
        except Exception as error:  # another package's module may raise anything
            raise OptionError(
                f"the {self.kind} {entry.name!r} of {entry.value} cannot be imported: {error}",
                "Mend or remove the package that registers it.",
            ) from error
        return thing
