"""Hypothesis' stateful machines, as often as the budget says."""

from __future__ import annotations

import inspect

import hypothesis
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.stress.budget import Budget

DEFAULT_ROUNDS = 1


def run_in_any_order(
    machine: type[RuleBasedStateMachine], budget: Budget, *, examples: int, steps: int
) -> None:
    """Runs a machine; a failure also says how to have it again.

    Args:
        examples: of a round.
        steps: of an example, at most.
    """
    how = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    for seed in budget.seeds(DEFAULT_ROUNDS):
        try:
            run_state_machine_as_test(hypothesis.seed(seed)(machine), settings=how)
        except Exception as error:
            error.add_note(f"again: pytest {inspect.getfile(machine)} --worlds 1 --seed {seed}")
            raise
