"""Ctrl-C that waits for the end of a step, so that what is saved is never half a step."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

MESSAGE = b"\nstopping when this step is done; Ctrl-C again stops at once\n"


class Interrupted(KeyboardInterrupt):
    """Training stopped where it was asked to, and what it had learned is saved."""


class CtrlC:
    """While entered, the first Ctrl-C only sets `pressed`; a second one interrupts at once, as always."""

    def __init__(self):
        self.pressed = False

    def __enter__(self) -> CtrlC:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
        os.write(2, MESSAGE)  # print may be in use by what was interrupted
