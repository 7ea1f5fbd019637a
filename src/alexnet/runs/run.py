"""The folder of a run. Nothing else knows the names of its files, but for the pages and plots of analysis/report.py."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np

from ..data.pack.reading import UNREADABLE, Pack
from ..data.source import SPLITS
from ..files import (
    NAMES,
    PART_SUFFIX,
    CsvWriter,
    atomic_write,
    check_regular_file,
    file_lock,
    is_locked,
    remove_abandoned,
    truncate_name,
)
from ..model.bundle import FILE as MODEL
from ..model.bundle import ModelBundle
from ..specs.names import from_csv_cell
from ..specs.reading import typed
from ..specs.settings import ResolvedSettings, option
from .history import History, check_row, read_rows, with_todays_keys

RECORD, SPLIT, SKIPPED = "run.json", "split.csv", "left_out.csv"
HISTORY, HISTORY_TABLE, LAYERS, TENSORBOARD = "metrics.jsonl", "metrics.csv", "layers.jsonl", "tensorboard"
LAST, BEST = "last.safetensors", "best.safetensors"
EARLIER = ("last-1.safetensors", "last-2.safetensors")
"""The checkpoints before LAST, newest first."""
SCHEMA = get_type_hints(ResolvedSettings) | {
    "weights": Literal["best.safetensors", "last.safetensors"],
    "results": Mapping[str, Any],
    **dict.fromkeys(("changed", "warnings"), tuple[str, ...]),
    **dict.fromkeys(("wandb_id", "mlflow_id"), str),
}
"""Types of what a run.json may say: a file of a stranger is read here and nowhere else."""
ENDING_S = 1.0
"""Seconds within which a process whose launcher was killed has ended."""
RUNS = Path("runs")
"""Where runs without an output folder of their own are, below the current folder."""


def is_run(folder: str | Path) -> bool:
    """Whether a folder is that of a run; its pictures are not part of a data set around it."""
    return all((Path(folder) / name).exists() for name in (RECORD, SPLIT))


class Run:
    """One training: what it was asked to do, how far it is, and how it ended."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._written: dict = {}

    def __str__(self) -> str:
        return str(self.folder)

    @classmethod
    def create(cls, output: Path | None, name: str) -> Run:
        """A new run in `output`, or in the next free runs/NAME-1, runs/NAME-2 …

        Raises:
            ValueError: `output` is a file, is not empty, or cannot be written to.
        """
        if output is not None:
            cls(output).check_free()
            output.mkdir(parents=True, exist_ok=True)
            if not os.access(output, os.W_OK):
                raise ValueError(f"{output} cannot be written to")
            return cls(output)
        name = truncate_name(name)
        numbered = (re.fullmatch(re.escape(name) + r"-(\d+)", path.name) for path in RUNS.glob("*"))
        first_free = 1 + max((int(match[1]) for match in numbered if match), default=0)
        for index in itertools.count(first_free):  # another run may take the same index at the same time
            with contextlib.suppress(FileExistsError):
                (RUNS / f"{name}-{index}").mkdir(parents=True)
                return cls(RUNS / f"{name}-{index}")

    @classmethod
    def interrupted(cls, output: Path | None, data: str, variant: str | None) -> Run:
        """The run to resume: that in `output`, or the newest in runs/ on this data (and of this variant, if given) that
        has no results yet and that no process is training.

        Raises:
            ValueError: there is none, or it is finished.
        """
        anew = f"without {option('resume', True)} a new one starts, and goes on with packing that was interrupted"
        if output is not None:
            run = cls(output)
            if not run.record():
                raise ValueError(f"{output} holds no run to resume ({RECORD} is missing); {anew}")
            if run.is_finished:
                remove_abandoned(output)
                further = f"to train further, start a new run with {option('pretrained', output)}"
                raise ValueError(f"{output} is finished; {further}")
            return run
        candidates = []
        for path in RUNS.glob(f"*/{RECORD}"):
            run, record = cls(path.parent), {}
            with contextlib.suppress(ValueError):  # a damaged one is not resumed
                record = run.record()
            fits = record.get("data") == data and variant in (None, record.get("variant")) and "results" not in record
            if fits and not is_locked(path):  # one that has weights lacks only its results
                candidates.append(("weights" not in record, path.stat().st_mtime_ns, path.parent))
        if not candidates:
            named = f"name its folder with {option('output')}, if it is elsewhere"
            raise ValueError(f"{RUNS}/ has no interrupted run on {data}; {named}; {anew}")
        return cls(max(candidates)[-1])

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in the folder at the same time.

        Raises:
            ValueError: one is, the folder cannot be written to, or a link in it leads out of it.
        """
        path = self.folder / RECORD
        for entry in self.folder.iterdir():
            if not entry.resolve().is_relative_to(self.folder.resolve()):
                raise ValueError(f"{entry} is a link out of the run, which would be written to; remove it")
            if not (entry.is_file() or entry.is_dir()):
                raise ValueError(f"{entry} is neither a file nor a folder; remove it")
        started = time.monotonic()
        try:
            while is_locked(path):
                if time.monotonic() - started > ENDING_S:
                    raise ValueError(f"another process is training in {self}")
                time.sleep(0.05)
        except OSError as error:
            raise ValueError(f"{self} cannot be written to: {error.strerror}") from error
        with file_lock(path):
            yield

    def record(self) -> dict:
        """What run.json says; empty if there is none, or it belongs to another program.

        Raises:
            ValueError: it is damaged.
        """
        path = self.folder / RECORD
        if not path.is_file():
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(record, dict) or not record.keys() >= {"data", "recipe", "architecture"}:
                return {}
            record = with_todays_keys(record)
            for name in SCHEMA.keys() & record.keys():
                typed(SCHEMA[name], record[name], name)
        except RecursionError:
            raise ValueError(f"{path} is damaged: it is nested too deeply") from None
        except (ValueError, TypeError, AttributeError, KeyError, ArithmeticError) as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        return record

    def update(self, changes: Mapping) -> None:
        """Write run.json with some of its values replaced."""
        record = self._written = (self.record() or self._written) | dict(changes)  # also if it was removed meanwhile
        with atomic_write(self.folder / RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @property
    def is_finished(self) -> bool:
        return "results" in self.record()

    def weights(self) -> Path | None:
        """The file of the trained weights: the chosen one, else the last; None if there is none yet.

        Raises:
            ValueError: the chosen one is gone.
        """
        chosen = self.record().get("weights")
        if chosen and not (self.folder / chosen).exists():
            raise ValueError(f"{self.folder / chosen}, the weights of this run, is missing; name another file")
        return next((self.folder / name for name in (chosen, LAST) if name and (self.folder / name).exists()), None)

    def choose_weights(self, keeps_best: bool) -> Path:
        """Record which weights are the result: the best by validation error, or the last."""
        chosen = BEST if keeps_best and (self.folder / BEST).exists() else LAST
        self.update({"weights": chosen})
        return self.folder / chosen

    def checkpoints(self) -> list[Path]:
        """Those that exist, newest first."""
        return [self.folder / name for name in (LAST, *EARLIER) if (self.folder / name).exists()]

    def discard_checkpoints(self) -> None:
        """Keep the chosen weights of a finished run, and delete what only resuming needs."""
        weights = self.weights()
        if weights.name == LAST:
            ModelBundle.load(weights).save(weights)
        for name in {LAST, BEST, *EARLIER} - {weights.name}:
            (self.folder / name).unlink(missing_ok=True)

    def history(self) -> History:
        """A row for every epoch so far; ValueError if one is damaged."""
        return History(read_rows(self.folder / HISTORY, check_row))

    def layer_rows(self, check: Callable[[object, str], None]) -> list[dict]:
        """The layer statistics so far, read by `read_rows`."""
        return read_rows(self.folder / LAYERS, check)

    def write_history(self, rows: Sequence[dict]) -> None:
        _write_rows(self.folder / HISTORY, rows)
        columns = list(dict.fromkeys(key for row in rows for key in row))
        self._write_table(HISTORY_TABLE, columns, ([row.get(key, "") for key in columns] for row in rows))

    def write_layer_rows(self, rows: Sequence[dict]) -> None:
        _write_rows(self.folder / LAYERS, rows)

    def write_splits(self, packed: Pack) -> None:
        """Write which image is in which split, and which were skipped and why."""
        rows = (
            (name, packed.classes[label], SPLITS[split] if split < len(SPLITS) else "unreadable")
            for name, label, split in zip(packed.names, packed.labels, packed.splits, strict=True)
        )
        self._write_table(SPLIT, ("image", "class", "split"), rows)
        if packed.unreadable:
            rows = ((packed.names[index], reason) for index, reason in packed.unreadable.items())
            self._write_table(SKIPPED, ("image", "why"), rows)

    def splits(self) -> dict[str, str]:
        """The split of each image, by name.

        Raises:
            ValueError: split.csv is damaged or missing.
        """
        path = self.folder / SPLIT
        try:
            check_regular_file(path)
            with path.open(newline="", **NAMES) as file:
                return {from_csv_cell(row["image"]): row["split"] for row in csv.DictReader(file)}
        except (OSError, KeyError, csv.Error) as error:
            raise ValueError(f"{path}, which lists the training images, cannot be read: {error}") from error

    def with_splits(self, packed: Pack, keep_new: bool = False) -> Pack:
        """The same images in the splits of this run, so that a training image stays one.

        Args:
            keep_new: whether images that the run does not know stay in their splits, or are left out.

        Raises:
            ValueError: split.csv is damaged or missing.
        """
        known, indices = self.splits(), {split: index for index, split in enumerate(SPLITS)}
        splits = [
            indices.get(known[name], UNREADABLE) if name in known else split if keep_new else UNREADABLE
            for name, split in zip(packed.names, packed.splits, strict=True)
        ]
        return replace(packed, splits=np.array(splits, np.uint8))

    def check_free(self) -> None:
        """Raise ValueError for a folder of a new run in which something would be overwritten."""
        output = self.folder
        if output.exists() and not output.is_dir():
            raise ValueError(f"output must be a new or an empty folder, got the file {output}")
        if self.is_finished:
            raise ValueError(f"{output} holds a finished run; choose another {option('output')}")
        if self.record():
            resume = f"resume it with {option('resume', True)}, or choose another {option('output')}"
            raise ValueError(f"{output} holds a run already; {resume}")
        names = sorted(path.name for path in output.glob("*") if path.suffix not in (".lock", PART_SUFFIX))
        if names:
            more = " and more" if names[1:] else ""
            raise ValueError(f"output must be a new or an empty folder, but {output} holds {names[0]}{more}")

    def _write_table(self, name: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        with atomic_write(self.folder / name) as temporary, temporary.open("w", newline="", **NAMES) as file:
            CsvWriter(file).writerows(itertools.chain([header], rows))


def weights_file(path: Path) -> Path:
    """The file of weights that a path stands for: a run, a saved classifier, or the file itself.

    Raises:
        ValueError: there is none.
    """
    if not path.is_dir():
        return path
    file = Run(path).weights() or path / MODEL
    if not file.exists():
        raise ValueError(f"{path} holds no trained network ({MODEL}, {BEST} or {LAST})")
    return file


def _write_rows(path: Path, rows: Sequence[dict]) -> None:
    """Write all rows anew, in one piece: a resumed run thus never has an epoch twice."""
    with atomic_write(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
