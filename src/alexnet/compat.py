"""Names of version 0.1, which keep working for one release."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable


def renamed(**todays_names: str) -> Callable[[Callable], Callable]:
    """A decorator: arguments may be given by their former names, with a warning that has today's."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def with_todays_names(*args, **kwargs):
            for former in todays_names.keys() & kwargs.keys():
                warnings.warn(f"{former} is now called {todays_names[former]}", FutureWarning, stacklevel=2)
                kwargs[todays_names[former]] = kwargs.pop(former)
            return function(*args, **kwargs)

        return with_todays_names

    return decorate
