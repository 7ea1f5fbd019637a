"""The command `alexnet`: a file per command, whose signature and docstring are its flags and help.

torch is imported inside the commands that need it: importing it takes seconds, and `--help` should not.
"""

import contextlib
import io
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator

import tyro

from .. import __version__
from ..console import print_error
from ..device import is_out_of_memory, set_environment
from ..specs.names import not_one_of
from ..specs.settings import named_as_flags
from .bench import bench
from .check import check
from .compare import compare
from .describe import describe
from .doctor import doctor
from .evaluate import evaluate
from .explain import explain
from .export import export
from .features import features
from .find_lr import find_lr
from .flags import FLAG_TYPES, as_command, with_todays_flags
from .import_weights import import_weights
from .pack import pack
from .patches import patches
from .predict import predict
from .processes import one_voice
from .search import search
from .shift import shift
from .show import show
from .train import train

COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "describe": describe,
    "find-lr": find_lr,
    "check": check,
    "pack": pack,
    "doctor": doctor,
    "show": show,
    "features": features,
    "patches": patches,
    "explain": explain,
    "search": search,
    "shift": shift,
    "compare": compare,
    "export": export,
    "import": import_weights,
    "bench": bench,
}


@named_as_flags()
def main(arguments: list[str] | None = None) -> None:
    """Run the command that the arguments ask for, by default those of the process."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a notebook's, or a test's
            stream.reconfigure(errors="backslashreplace")  # for consoles that cannot write every name
    if arguments is None:
        set_environment()
    arguments = with_todays_flags(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        return print(f"alexnet {__version__}")
    try:
        if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
            raise ValueError(not_one_of("the command", arguments[0], COMMANDS))
        with one_voice(), _wrapped_help() if {"-h", "--help"} & {*arguments} else contextlib.nullcontext():
            tyro.extras.subcommand_cli_from_dict(
                {name: as_command(command, arguments) for name, command in COMMANDS.items()},
                prog="alexnet",
                description="The whole of AlexNet: train, evaluate, predict, inspect. --version prints the version.",
                args=arguments,
                config=(tyro.conf.DisallowNone,),
                registry=FLAG_TYPES,
            )
    except BrokenPipeError:
        if arguments[0] != "train":  # but alexnet predict … | head
            raise SystemExit(0) from None
        print_error("alexnet: stopped, as standard output was closed")
        raise SystemExit(1) from None
    except (ValueError, OSError, ImportError) as error:
        print_error(f"alexnet: {error}")
        raise SystemExit(1) from None
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        print_error(f"alexnet: out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__})")
        raise SystemExit(1) from None
    except KeyboardInterrupt as stop:
        saved = ""
        if type(stop).__name__ == "Interrupted":
            command = shlex.join([each for each in arguments if each != "--resume"])
            saved = f"; progress is saved, to go on: alexnet {command} --resume"
        print_error(f"\nalexnet: interrupted{saved}")
        raise SystemExit(130) from None


@contextlib.contextmanager
def _wrapped_help() -> Iterator[None]:
    """Wrap those lines of the help that tyro prints in one: the usage and the description of a command."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8")
    printed.isatty = sys.stdout.isatty  # colors as on the terminal
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        width = shutil.get_terminal_size().columns
        printed.seek(0)
        for line in printed.read().splitlines():
            if len(line) > width and not any(frame in line for frame in "│╭╰"):
                line = textwrap.fill(line.replace(",", ", ").replace(",  ", ", "), width, subsequent_indent="  ")
            print(line)
