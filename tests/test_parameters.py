from __future__ import annotations

from typing import ClassVar

import pytest
from pydantic import Field, ValidationError

from benchmark.errors import UserError
from benchmark.parameters import Configured


class Blur(Configured):
    """Blurs."""

    name: ClassVar[str] = "blur"
    radius: float = Field(1.0, gt=0, le=9, description="radius in pixels")
    mode: str = Field("box", description="shape of the kernel")


def test_parameters_include_defaults() -> None:
    assert Blur(radius=2).parameters() == {"radius": 2.0, "mode": "box"}


def test_a_spec_leaves_defaults_out() -> None:
    assert Blur(radius=2).spec() == "blur:radius=2.0"
    assert Blur().spec() == "blur"


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"blur has no parameter 'radus' .*did you mean 'radius'"):
        Blur.configured({"radus": 1})


@pytest.mark.parametrize("value", [0, 10, "wide", float("nan"), float("inf")])
def test_a_value_out_of_bounds_or_type_is_refused_by_name(value: object) -> None:
    with pytest.raises(UserError, match="blur: parameter radius="):
        Blur.configured({"radius": value})


def test_instances_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Blur().radius = 3  # type: ignore[misc]
