"""How torch's threads on a processor wait for one another.

Job: `wait_briefly`, for a process that is ours, called before torch is imported.
Non-job: how many there are (OMP_NUM_THREADS, torch's choice).

Each operator is shared out among threads, and ends when the last one has done its part. The others spin meanwhile, by
the default of GCC's OpenMP library (libgomp) for some milliseconds, and then sleep. On a machine where another program
runs, a browser for example, one of the threads has no core for some milliseconds, while its own core is held by one
that spins: a pass of fifty operators then takes fifty such waits. A thread that sleeps early gives its core to the one
that is waited for.
"""

import os
from collections.abc import MutableMapping
from typing import Final

_SPINS: Final = "1000"  # turns of a loop, some tens of nanoseconds each
_TAKEN: Final = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # by which a user says how threads wait


def wait_briefly(variables: MutableMapping[str, str] = os.environ) -> None:
    """Have the threads sleep early, unless the user has said how they wait. Read when torch is first imported."""
    if not any(name in variables for name in _TAKEN):
        variables[_TAKEN[0]] = _SPINS
