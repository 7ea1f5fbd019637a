"""Names of version 0.1, which keep working for one release."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

Called = TypeVar("Called", bound=Callable[..., Any])
Class = TypeVar("Class")


def renamed(**todays_names: str) -> Callable[[Called], Called]:
    """A decorator: arguments may be given by their former names, with a warning that has today's."""

    def decorate(function: Called) -> Called:
        @functools.wraps(function)
        def with_todays_names(*args, **kwargs):
            for former in todays_names.keys() & kwargs.keys():
                warnings.warn(f"{former} is now called {todays_names[former]}", FutureWarning, stacklevel=2)
                kwargs[todays_names[former]] = kwargs.pop(former)
            return function(*args, **kwargs)

        return with_todays_names

    return decorate


def renamed_fields(**todays_names: str) -> Callable[[type[Class]], type[Class]]:
    """A decorator of dataclasses: fields may be given and read by their former names, with a warning; files that hold
    the former names load (`specs.storage`)."""

    def decorate(cls: type[Class]) -> type[Class]:
        def __getattr__(self, name: str):
            if name not in todays_names:
                raise AttributeError(f"{cls.__name__!r} object has no attribute {name!r}")
            warnings.warn(f"{name} is now called {todays_names[name]}", FutureWarning, stacklevel=2)
            return getattr(self, todays_names[name])

        cls.__init__, cls.__getattr__ = renamed(**todays_names)(cls.__init__), __getattr__
        cls.former_names = todays_names
        return cls

    return decorate
