"""What the fuzzer begins with, and whatever has ever broken a target, in every run of the tests."""

import pytest

from torture.fuzzing.targets import TARGETS, seeds

NOTHING = [b"", b"\0", b"\n", b"\xff\xfe", b"; =,\n" * 100, b"\0" * 6]


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_of_the_fuzzer_holds_for_what_it_begins_with(name: str) -> None:
    for data in [*seeds(name), *NOTHING]:
        TARGETS[name](data)
