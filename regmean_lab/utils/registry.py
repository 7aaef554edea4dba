"""Registries of classes by name; each class registers itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from regmean_lab.utils.errors import UserError
from regmean_lab.utils.names import did_you_mean

Class = TypeVar("Class")
Registered = TypeVar("Registered", bound=type[Any])


class UnknownNameError(UserError, KeyError):
    """A name under which nothing is registered; the message has the nearest ones."""

    __str__ = Exception.__str__  # a KeyError would show the message in quotation marks


class Registry(dict[str, type[Class]]):
    """Classes by the name that each is registered under, in the order of registration.

    Args:
        what: what messages call one of them.
    """

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Class decorator: put a class under a name, which becomes its attribute ``name``.

        Raises:
            ValueError: when another class has the name already.
        """

        def register(registered: Registered) -> Registered:
            known, new = (f"{one.__module__}.{one.__qualname__}" for one in (self.get(name, registered), registered))
            if known != new:
                raise ValueError(f"{self._what} {name!r}: both {known} and {new} are registered under this name")
            registered.name = name
            self[name] = registered
            return registered

        return register

    def __missing__(self, name: str) -> type[Class]:
        raise UnknownNameError(f"there is no {self._what} {name!r}; {did_you_mean(name, self)}")
