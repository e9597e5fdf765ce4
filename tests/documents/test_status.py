"""The table of outcomes: complete, one label for a number, the numbers free of AiiDA's own."""

from __future__ import annotations

import re

import pytest

from aiida_dse.documents.results import SUMMARIES
from aiida_dse.documents.status import EXITS, JOB_FAILURES, Failure, PartsFailed, Status, Task

#: exit codes of AiiDA's BaseRestartWorkChain
RESERVED = {301, 302, 401, 402}
OUTCOMES = [*Status, *Failure, *PartsFailed]


def test_every_outcome_has_an_exit():
    assert set(EXITS) == set(OUTCOMES)
    assert set(JOB_FAILURES) == set(Failure)


def test_no_two_kinds_of_outcome_share_a_word():
    """The table's keys are strings: equal words would be one entry."""
    assert len({outcome.value for outcome in OUTCOMES}) == len(OUTCOMES) == len(EXITS)


def test_numbers_and_labels_are_one_to_one():
    pairs = {(one.number, one.label) for one in EXITS.values() if one.number}
    assert len({number for number, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_an_exit_keeps_the_conventions_of_aiida(outcome):
    """300-399: nothing came of it; from 400 on: there are outputs; 0 neither label nor message."""
    one = EXITS[outcome]
    assert one.number not in RESERVED
    if one.number == 0:
        assert isinstance(outcome, Status) and (one.label, one.message, one.command) == ("", "", 0)
        return
    assert re.fullmatch(r"ERROR(_[A-Z]+)+", one.label)
    assert set(re.findall(r"{(\w*)}", one.message)) <= {"detail"}
    assert one.message.format(detail="").endswith((".", ": "))
    assert (300 <= one.number < 400) is isinstance(outcome, Failure)
    assert one.command != 0


@pytest.mark.parametrize("failure", Failure, ids=str)
def test_a_failure_is_never_answered_from_the_cache(failure):
    """A full disk or a killed job says nothing about the input; bad input is cheap to refuse."""
    assert not EXITS[failure].cachable


@pytest.mark.parametrize("status", Status, ids=str)
def test_what_can_go_on_is_computed_again(status):
    """An unfinished task may be continued: its result must not stand in for the finished one."""
    assert EXITS[status].cachable is not status.is_unfinished
    assert not (status.is_minimum and status.is_unfinished)


def test_a_command_distinguishes_failures():
    """A script sees by the exit status what to do: the input, the memory, the disk, the engine."""
    statuses = [EXITS[failure].command for failure in (
        Failure.INTERNAL, Failure.INVALID_INPUT, Failure.OUT_OF_MEMORY, Failure.DISK_FULL,
        Failure.OTHER_ENGINE)]
    assert len(set(statuses)) == len(statuses)
    assert not set(statuses) & {EXITS[status].command for status in Status}


@pytest.mark.parametrize("task", Task, ids=str)
def test_every_task_has_its_summary(task):
    kind = SUMMARIES[task]
    assert kind.model_fields["task"].default is task
