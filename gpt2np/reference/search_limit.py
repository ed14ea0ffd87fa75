"""How long the search for a mistake may take, and what it says meanwhile."""

import time
from collections.abc import Callable

import numpy as np

from gpt2np.errors import InputError, short

SECONDS = 10.0  # of computing, in which `compare` looks for a mistake, where nobody says otherwise
_TELL_EVERY = 0.25


class SearchLimit:
    """The time that a search has; `over()` is asked before each form of a mistake that is tried.

    `seconds` are those in which this thread computes, so that other programs take nothing away from the
    search, and `forms` how many forms it may try, which is the same number on every machine; each is 0 for no
    limit. `tell` is called now and then with how many forms have been tried, and after how many seconds.
    `ended` says whether the search was given up because its time was over.
    """

    def __init__(
        self,
        seconds: float,
        tell: Callable[[int, float], object] | None = None,
        name: str = "search",
        forms: int = 0,
    ) -> None:
        """Nothing is begun yet; `name` is what the seconds are called.

        Raises:
            InputError: the seconds are no number of at least 0, or the forms no such integer.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e9:
            raise InputError(f"{name}={short(seconds)}: must be a number of seconds, 0 for no limit")
        if isinstance(forms, bool) or not isinstance(forms, int | np.integer) or forms < 0:
            raise InputError(f"forms={short(forms)}: must be an integer of at least 0, 0 for no limit")
        self.seconds, self.forms, self.ended, self.tried = float(seconds), int(forms), False, 0
        self._tell, self._told = tell, 0.0
        self._start: float | None = None
        self._spent = 0.0

    def begin(self) -> None:
        """The time begins, unless it has begun."""
        self._begun()

    def _begun(self) -> float:
        if self._start is None:
            self._start = time.thread_time()
        return self._start

    @property
    def ended_after(self) -> float | None:
        """After how many seconds the search was given up; None if it was not."""
        return (self.seconds or round(self._spent, 1)) if self.ended else None

    def over(self) -> bool:
        """Whether the time is over; counts one more form that is tried."""
        spent = self._spent = time.thread_time() - self._begun()
        self.ended = self.ended or 0 < self.seconds < spent or 0 < self.forms <= self.tried
        self.tried += not self.ended
        if self._tell is not None and spent > self._told + _TELL_EVERY:
            self._told = spent
            self._tell(self.tried, spent)
        return self.ended
