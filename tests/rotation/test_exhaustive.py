"""Every schedule there is, for small numbers."""

import pytest

from .schedules import Chase, Jar, survey_chase, survey_jar

# Request, response and skew take exactly the grace period: the most that the proof allows.
JARS = [
    Jar(grace=1, request=1, response=0, in_flight=3, ticks=8),
    Jar(grace=1, request=0, response=1, in_flight=3, ticks=7),
    Jar(grace=2, request=1, response=1, in_flight=3, ticks=7),
    Jar(grace=2, request=1, response=1, in_flight=2, ticks=10),
    Jar(grace=2, request=1, response=0, skew=1, ticks=9),
    Jar(grace=2, request=0, response=1, skew=1, ticks=8),
    Jar(grace=3, request=2, response=1, ticks=8),
    Jar(grace=3, request=1, response=2, ticks=8),
    Jar(grace=3, request=1, response=1, skew=1, ticks=8),
]
STEPPED = [
    Jar(grace=2, request=1, response=1, ticks=8, step=-5),
    Jar(grace=2, request=1, response=0, skew=1, ticks=8, step=-5),
]
# A restore takes longer than clocks differ, so there is no skew here.
RESTORED = [
    Jar(grace=1, request=1, response=0, ticks=7, restore=True),
    Jar(grace=2, request=1, response=1, ticks=6, restore=True),
]
CHASES = [Chase(grace=1, pause=3, ticks=9), Chase(grace=2, pause=6, ticks=9)]


@pytest.mark.parametrize("bounds", JARS, ids=str)
def test_no_schedule_of_one_jar_ends_the_login_or_repeats_a_token(bounds: Jar) -> None:
    survey = survey_jar(bounds)
    assert survey.counterexample == ()
    assert survey.schedules > 10**9


@pytest.mark.parametrize("bounds", STEPPED, ids=str)
def test_no_schedule_does_when_all_clocks_are_set_back(bounds: Jar) -> None:
    assert survey_jar(bounds).counterexample == ()


@pytest.mark.parametrize("bounds", RESTORED, ids=str)
def test_no_schedule_does_when_a_backup_is_put_back(bounds: Jar) -> None:
    assert survey_jar(bounds).counterexample == ()


@pytest.mark.parametrize("bounds", CHASES, ids=str)
def test_no_schedule_of_a_thief_survives_the_victims_pause(bounds: Chase) -> None:
    survey = survey_chase(bounds)
    assert survey.counterexample == ()
    assert survey.schedules > 10**6
