"""Registries of classes by name; each class registers itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any, TypeVar

from typing_extensions import Self

from regmean_lab.utils.errors import UserError
from regmean_lab.utils.names import did_you_mean
from regmean_lab.utils.plugins import PluginError, failed, package_of, plugins

Class = TypeVar("Class")
Registered = TypeVar("Registered", bound=type[Any])

log = logging.getLogger(__name__)


class UnknownNameError(UserError, KeyError):
    """A name under which nothing is registered; the message has the nearest ones."""

    __str__ = Exception.__str__  # a KeyError would show the message in quotation marks


class NameTakenError(UserError, ValueError):
    """A second class under one name; the message has both."""


class Registry(dict[str, type[Class]]):
    """Classes by the name that each is registered under, in the order of registration.

    Args:
        what: what messages call one of them.
        group: the group of entry points by which other packages add theirs; None where they cannot.
    """

    def __init__(self, what: str, group: str | None = None) -> None:
        super().__init__()
        self._what = what
        self._group = group
        self._complete = group is None

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Class decorator: put a class under a name, which becomes its attribute ``name``.

        Raises:
            NameTakenError: when another class has the name already.
        """

        def register(registered: Registered) -> Registered:
            known, new = (f"{one.__module__}.{one.__qualname__}" for one in (self.get(name, registered), registered))
            if known != new:
                raise NameTakenError(f"{self._what} {name!r}: both {known} and {new} are registered under this name")
            registered.name = name
            self[name] = registered
            return registered

        return register

    def with_plugins(self) -> Self:
        """The registry, once other packages have added theirs.

        A package that cannot be imported is left out, with a warning. Packages are not imported before somebody asks,
        so that each of them may import the module that holds the registry.

        Raises:
            PluginError: for a name that two classes have.
        """
        if not self._complete:
            assert self._group is not None
            self._complete = True  # at once: a package may ask, too, while it is imported
            try:
                for entry in plugins(self._group):
                    self._add(entry)
            except PluginError:
                self._complete = False  # told again to whoever asks again
                raise
        return self

    def _add(self, entry: EntryPoint) -> None:
        before = dict(self)
        try:
            entry.load()
        except Exception as error:
            self.clear()
            self.update(before)
            if isinstance(error, NameTakenError):
                raise PluginError(
                    f"{error}; the second is of {package_of(entry)}: give it another name, or uninstall that package"
                ) from None
            failed.add(entry)
            log.warning(
                "%s is left out: its %s (entry point %s = %s) cannot be imported: %s: %s; fix, update or uninstall it",
                package_of(entry),
                self._what,
                entry.name,
                entry.value,
                type(error).__name__,
                error,
            )
            return
        own = entry.module.partition(".")[0]
        if not any(kind.__module__.partition(".")[0] == own for kind in self.values()):
            log.warning(
                "%s: its entry point %s = %s registers no %s; is the decorator above the class missing?",
                package_of(entry),
                entry.name,
                entry.value,
                self._what,
            )

    def __missing__(self, name: str) -> type[Class]:
        raise UnknownNameError(f"there is no {self._what} {name!r}; {did_you_mean(name, self)}")


class ByKind(dict[str, type[Class]]):
    """Classes by the kinds that each is registered for."""

    def register(self, *kinds: str) -> Callable[[Registered], Registered]:
        """Class decorator: make a class the one for some kinds."""

        def register(registered: Registered) -> Registered:
            self.update(dict.fromkeys(kinds, registered))
            return registered

        return register
