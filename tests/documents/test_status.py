"""The table of outcomes is complete and consistent, and follows the conventions of AiiDA."""

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


def test_no_two_kinds_of_outcome_share_a_value():
    """The keys of the table are strings, so equal values would share one entry."""
    assert len({outcome.value for outcome in OUTCOMES}) == len(OUTCOMES) == len(EXITS)


def test_exit_numbers_and_labels_correspond_one_to_one():
    pairs = {(one.number, one.label) for one in EXITS.values() if one.number}
    assert len({number for number, _ in pairs}) == len({label for _, label in pairs}) == len(pairs)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=str)
def test_an_exit_follows_the_conventions_of_aiida(outcome):
    """300-399: no outputs; 400 and above: outputs; 0: neither label nor message."""
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
def test_a_failure_is_never_cached(failure):
    """A full disk or a killed job does not depend on the input; refusing an input is cheap."""
    assert not EXITS[failure].cachable


@pytest.mark.parametrize("status", Status, ids=str)
def test_an_unfinished_task_is_not_cached(status):
    """The result of an unfinished task must not replace that of the finished one."""
    assert EXITS[status].cachable is not status.is_unfinished
    assert not (status.is_minimum and status.is_unfinished)


def test_the_exit_status_of_the_command_distinguishes_failures():
    """The exit status identifies the cause for scripts: input, memory, disk or engine."""
    statuses = [EXITS[failure].command for failure in (
        Failure.INTERNAL, Failure.INVALID_INPUT, Failure.OUT_OF_MEMORY, Failure.DISK_FULL,
        Failure.OTHER_ENGINE)]
    assert len(set(statuses)) == len(statuses)
    assert not set(statuses) & {EXITS[status].command for status in Status}


@pytest.mark.parametrize("task", Task, ids=str)
def test_every_task_has_a_summary_class(task):
    kind = SUMMARIES[task]
    assert kind.model_fields["task"].default is task
