"""Commands on several processes, of which the first one speaks for all."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

from ..parallel import is_launched


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Under torchrun, the processes belong together, and only the first one prints."""
    if not is_launched():
        yield
        return
    from ..parallel.group import joined

    with contextlib.ExitStack() as stack:
        if not stack.enter_context(joined()).is_first:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        yield


def run_on_processes(processes: int, command: Callable[..., None], *arguments, **named) -> None:
    """Call a command on so many new processes of this machine, and wait for their end."""
    from ..parallel.launch import launch

    with contextlib.closing(launch(_command_here, (command, arguments, named), processes)) as results:
        for _ in results:
            pass


def _command_here(stop: Callable[[], bool], command: Callable[..., None], arguments: tuple, named: dict) -> Iterator:
    """What each of the launched processes does; nothing comes of it but what it prints."""
    from ..device import set_threads

    def end_when_asked() -> None:
        while not stop():
            time.sleep(0.2)
        os._exit(1)

    set_threads()
    threading.Thread(target=end_when_asked, daemon=True).start()
    with one_voice():
        command(*arguments, **named)
    yield from ()
