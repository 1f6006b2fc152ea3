"""Errors carry their parts, pickle, and can be caught by kind."""

from __future__ import annotations

import pytest

from trimtab.errors import DataError, Fault, ModelError, SelfCheckError, TrimtabError, UsageError


def test_parts_are_kept() -> None:
    error = UsageError("x", allowed="y", todo="z")
    assert (error.given, error.allowed, error.todo, error.exit_code) == ("x", "y", "z", 2)


def test_a_data_error_keeps_what_was_given_before_its_faults() -> None:
    error = DataError("one fault", allowed="y", todo="z", faults=[Fault(file="a.csv", line=7, reason="no header")])
    assert error.given == "one fault\n  a.csv:7: no header"
    assert "more" not in str(error)
    assert DataError("none", allowed="y", todo="z").faults == ()


def test_kinds_can_be_caught_together() -> None:
    with pytest.raises(ModelError):
        raise SelfCheckError("hook", allowed="a hook that moves something", todo="see the report")
    assert issubclass(ModelError, TrimtabError)
    assert not issubclass(ModelError, UsageError)
