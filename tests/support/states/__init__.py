"""The states that private memory of a process can be in, each made in a target, with the truth.

`STATES` has them by name. A state that this machine cannot make skips the test with the reason.
"""

from tests.support.states import backed, memory, userfault
from tests.support.states.registry import PAGES, STATES, State, anonymous

__all__ = ["PAGES", "STATES", "State", "anonymous", "backed", "memory", "userfault"]
