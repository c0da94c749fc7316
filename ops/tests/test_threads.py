"""Parts of an operation side by side."""

from __future__ import annotations

import pytest

from zoo_ops.cpu.threads import each, set_threads


@pytest.fixture(params=(1, 2))
def number(request):
    set_threads(request.param)
    yield request.param
    set_threads(None)


@pytest.mark.parametrize("parts", (0, 1, 5))
def test_every_part_is_done_once(number, parts):
    done: list[int] = []
    each(parts, done.append)
    assert sorted(done) == list(range(parts))


def test_the_error_of_a_part_is_raised(number):
    def fail(part: int) -> None:
        if part == 3:
            raise ValueError("part 3")

    with pytest.raises(ValueError, match="part 3"):
        each(5, fail)
