"""How long the search for a mistake may take, and what it says meanwhile."""

import time
from collections.abc import Callable

from gpt2np.errors import InputError, short

SECONDS = 10.0  # that `compare` looks for a mistake, where nobody says otherwise
_TELL_EVERY = 0.25


class SearchLimit:
    """The time that a search has; `over()` is asked before each form of a mistake that is tried.

    `seconds` is 0 for no limit. `tell` is called now and then with how many forms have been tried, and after
    how many seconds. `ended` says whether the search was given up because its time was over.
    """

    def __init__(
        self, seconds: float, tell: Callable[[int, float], object] | None = None, name: str = "search"
    ) -> None:
        """Nothing is begun yet; `name` is what the seconds are called.

        Raises:
            InputError: the seconds are no number of at least 0.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
            raise InputError(f"{name}={short(seconds)}: must be a number of seconds, 0 for no limit")
        self.seconds, self.ended, self.tried = float(seconds), False, 0
        self._tell, self._start, self._told = tell, 0.0, 0.0

    def begin(self) -> None:
        """The time begins, unless it has begun."""
        self._start = self._start or time.monotonic()

    def over(self) -> bool:
        """Whether the time is over; counts one more form that is tried."""
        self.begin()
        spent = time.monotonic() - self._start
        self.ended = self.ended or 0 < self.seconds < spent
        self.tried += not self.ended
        if self._tell is not None and spent > self._told + _TELL_EVERY:
            self._told = spent
            self._tell(self.tried, spent)
        return self.ended
