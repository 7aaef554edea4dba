"""Classes by name: what is registered, and what messages say of names."""

from __future__ import annotations

import pytest

from regmean_lab.merging import method_types
from regmean_lab.suites import suite_types
from regmean_lab.utils.errors import UserError
from regmean_lab.utils.registry import Registry


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError) as caught:
        method_types()["regmaen"]
    assert str(caught.value).startswith("there is no merge method 'regmaen'; did you mean regmean")
    with pytest.raises(KeyError, match="there is no suite 'x'; there are: "):
        suite_types()["x"]
    assert "regmaen" not in method_types() and method_types().get("regmaen") is None


def test_no_two_classes_take_one_name() -> None:
    registry: Registry[object] = Registry("thing")

    @registry.register("one")
    class First:
        name: str

    assert (First.name, dict(registry)) == ("one", {"one": First})
    with pytest.raises(ValueError, match=r"thing 'one': both .*First and .*Second are registered"):

        @registry.register("one")
        class Second:
            name: str

    registry.register("one")(First)  # a file that is read again
