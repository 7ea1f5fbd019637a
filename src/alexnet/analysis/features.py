"""Activations of any layer for any number of images: a file per layer, in constant memory, resumed where it was killed.

features.json   what was computed, of what, with which weights; `rows_done` says how far it is
images.csv      what each row is
fc7.npy …       (images, …) of a layer; np.load(file, mmap_mode="r") opens it without reading it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..data.batches import read_batches
from ..data.pack.reading import Images, crc32_of
from ..evaluation.inference import BATCH_SIZE
from ..files import NAMES, CsvWriter, atomic_write, truncate_name
from ..model.bundle import ModelBundle
from ..model.network import AlexNet
from ..specs.names import counted, listed, not_one_of
from ..specs.operations import Dropout, Flatten

FACTS, TABLE, PARQUET = "features.json", "images.csv", "features.parquet"
ROWS_DONE = "rows_done"
SAVE_S = 10.0
"""Seconds between entries of how far it is."""
COPIED_VALUES = 2**22
"""Values of a layer that are copied to Parquet at a time."""


@dataclass(frozen=True)
class FeatureSettings:
    """Which features are computed, and how."""

    layers: tuple[str, ...]
    """Names of layers, as in the network or as in torchvision."""
    views: Literal["center", "ten"] = "center"
    """The center crop alone, or the mean over the ten views (section 4.1)."""
    pool: Literal["mean", "max"] | None = None
    """Keep the mean or the maximum of each feature map; vectors stay as they are."""
    dtype: Literal["float32", "float16"] = "float32"

    def __post_init__(self):
        for name, known in (("views", ("center", "ten")), ("pool", (None, "mean", "max")), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise ValueError(not_one_of(name, getattr(self, name), map(str, known)))
        if not self.layers:
            raise ValueError("layers must name at least one layer, got none")


DTYPES = {"float32": torch.float32, "float16": torch.float16}


def last_hidden(network: AlexNet) -> str:
    """The layer that the scores are computed from, such as relu7: what Figure 4 of the paper compares images by."""
    hidden = [step.name for step in network.placed[:-1] if not isinstance(step.operation, (Dropout, Flatten))]
    return hidden[-1]


@torch.inference_mode()
def activations(bundle: ModelBundle, images: Tensor, settings: FeatureSettings) -> dict[str, Tensor]:
    """Features by layer, (N, …), in the order of the network, computed in float32.

    Args:
        images: stored images, (N, stored_size, stored_size, 3), uint8, on the network's device.

    Raises:
        ValueError: there is no such layer, or a value is too large for the dtype.
    """
    inputs, dtype, features = bundle.preprocessing, DTYPES[settings.dtype], {}
    views = (inputs.all_views if settings.views == "ten" else inputs.center_crop)(images)
    with bundle.for_inference("fp32") as network:
        try:
            by_layer = network.features(views, settings.layers)
        except KeyError as error:
            raise ValueError(error.args[0]) from None
    for layer, values in by_layer.items():
        if settings.pool and values.dim() == 4:
            values = values.mean((2, 3)) if settings.pool == "mean" else values.amax((2, 3))
        if settings.views == "ten":
            values = values.unflatten(0, (len(images), -1)).mean(1)
        features[layer] = values.to(dtype)
        largest = values.abs().max().item() if len(values) else 0
        if largest > torch.finfo(dtype).max:
            raise ValueError(f"{layer} has values up to {largest:.3g}, more than {settings.dtype} holds; use float32")
    return features


class Extraction:
    """Features of images, as they are written to a folder.

    Raises:
        ValueError: the folder holds something else or features of something else, or there is no such layer.
    """

    def __init__(self, bundle: ModelBundle, images: Images, settings: FeatureSettings, folder: Path):
        self.bundle, self.images, self.settings, self.folder = bundle, images, settings, folder
        self.device = next(bundle.network.parameters()).device
        side = bundle.preprocessing.stored_size
        blank = activations(bundle, torch.zeros(1, side, side, 3, dtype=torch.uint8, device=self.device), settings)
        self.shapes = {layer: tuple(values.shape[1:]) for layer, values in blank.items()}
        """Shape of a row, by layer."""
        self.facts = json.loads(json.dumps(self._facts()))
        known = self._known_facts()
        self.rows_done = known.pop(ROWS_DONE, 0)
        if changed := [name for name in known if known[name] != self.facts.get(name)]:
            raise ValueError(f"{folder} holds features with another {listed(changed, 3)}; choose another folder")

    @classmethod
    def kept(cls, bundle: ModelBundle, images: Images, settings: FeatureSettings, folder: Path) -> Extraction:
        """In a folder of its own, named after what decides the values, so that it is found again."""
        new = cls(bundle, images, settings, folder / "new")
        digest = hashlib.sha256(json.dumps(new.facts, sort_keys=True).encode()).hexdigest()
        return cls(bundle, images, settings, folder / f"{truncate_name(images.packed.name)}-{digest[:16]}")

    @property
    def row_bytes(self) -> dict[str, int]:
        """Bytes of a row, by layer."""
        value = np.dtype(self.settings.dtype).itemsize
        return {layer: value * prod(shape) for layer, shape in self.shapes.items()}

    def in_words(self) -> str:
        """How large it becomes: "fc7 4,096 values, 10.5 GB"."""
        count, free = len(self.images), shutil.disk_usage(_existing(self.folder)).free
        files = [
            f"{layer} {prod(self.shapes[layer]):,} values, {each * count / 1e9:,.3g} GB"
            for layer, each in self.row_bytes.items()
        ]
        return f"{counted(count, 'image')}: {'; '.join(files)}; {free / 1e9:,.3g} GB are free"

    def run(self, progress: Callable | None = None) -> dict[str, np.ndarray]:
        """Compute what is missing; the features by layer, (images, …), mapped into memory.

        Args:
            progress: wraps the iterable of batches; called with it and the number of images.

        Raises:
            ValueError: the disk has too little room, or a file of an earlier call is damaged.
        """
        if not self.rows_done:
            self._begin()
        count, paths = len(self.images), {layer: self.folder / f"{layer}.npy" for layer in self.shapes}
        starts = {layer: path.stat().st_size - count * self.row_bytes[layer] for layer, path in paths.items()}
        if damaged := [paths[layer] for layer, start in starts.items() if not 0 < start < 1000]:
            raise ValueError(f"{damaged[0]} is damaged; remove {self.folder}")
        batch_size = BATCH_SIZE if self.settings.views == "ten" else 4 * BATCH_SIZE
        order = self.images.indices if self.rows_done < count else self.images.indices[:0]
        batches = read_batches(self.images.packed, order, batch_size, self.device, self.rows_done // batch_size)
        saved = time.monotonic()
        with ExitStack() as stack:  # not mapped, because written pages of a mapped file count as memory
            files = {layer: stack.enter_context(path.open("r+b")) for layer, path in paths.items()}
            for batch in progress(batches, count - self.rows_done) if progress else batches:
                for layer, values in activations(self.bundle, batch.images, self.settings).items():
                    files[layer].seek(starts[layer] + batch.first * self.row_bytes[layer])
                    files[layer].write(np.ascontiguousarray(values.cpu().numpy()).data)
                self.rows_done = batch.first + len(batch.indices)
                if time.monotonic() > saved + SAVE_S or self.rows_done == count:
                    for file in files.values():
                        file.flush()
                        os.fsync(file.fileno())
                    self._save()
                    saved = time.monotonic()
        return load_features(self.folder)

    def write_parquet(self) -> Path:
        """Everything in one table: row, path, label, split, and a column of vectors for each layer."""
        pyarrow = import_pyarrow()
        features = {layer: values.reshape(len(values), -1) for layer, values in load_features(self.folder).items()}
        kind = pyarrow.from_numpy_dtype(self.settings.dtype)
        about = {"row": pyarrow.int64(), "path": pyarrow.string(), "label": pyarrow.string(), "split": pyarrow.string()}
        vectors = {layer: pyarrow.list_(kind, values.shape[1]) for layer, values in features.items()}
        schema, rows = pyarrow.schema(about | vectors), self._rows()
        step = max(1, COPIED_VALUES // max(values.shape[1] for values in features.values()))
        with (
            atomic_write(self.folder / PARQUET) as temporary,
            pyarrow.parquet.ParquetWriter(temporary, schema) as writer,
        ):
            while part := [row[: len(about)] for row in islice(rows, step)]:
                columns = list(map(pyarrow.array, zip(*part, strict=True), about.values()))
                for layer, values in features.items():
                    flat = pyarrow.array(values[part[0][0] : part[-1][0] + 1].reshape(-1))
                    columns.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=vectors[layer]))
                writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema))
        return self.folder / PARQUET

    def _begin(self) -> None:
        """Write what is known before, and make files of the final size."""
        needed, free = sum(self.row_bytes.values()) * len(self.images), shutil.disk_usage(_existing(self.folder)).free
        if needed > free:
            raise ValueError(f"{self.folder} needs {needed / 1e9:,.3g} GB, but {free / 1e9:,.3g} GB are free")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._save()
        with atomic_write(self.folder / TABLE) as temporary, temporary.open("w", newline="", **NAMES) as file:
            writer = CsvWriter(file)
            writer.writerow(("row", "path", "label", "split", "size", "checksum"))
            writer.writerows(self._rows())
        for layer, shape in self.shapes.items():
            with (self.folder / f"{layer}.npy").open("wb") as file:
                about = {"descr": np.dtype(self.settings.dtype).str, "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, about | {"shape": (len(self.images), *shape)})
                file.truncate(file.tell() + len(self.images) * self.row_bytes[layer])

    def _rows(self) -> Iterator[tuple[int, str, str, str, int | str, str]]:
        images = self.images
        for row, index in enumerate(images.indices.tolist()):
            size = "" if images.sizes is None else int(images.sizes[index])
            checksum = f"{images.packed.image_checksums[index]:08x}"
            yield row, images.path(index), images.label(index), images.split(index), size, checksum

    def _save(self) -> None:
        with atomic_write(self.folder / FACTS) as temporary:
            content = json.dumps(self.facts | {ROWS_DONE: self.rows_done}, indent=2)
            temporary.write_text(f"{content}\n", encoding="utf-8")

    def _known_facts(self) -> dict:
        """What the folder says of an earlier call; ValueError if it holds something else."""
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return {}
        try:
            return json.loads((self.folder / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            must_be = "output must be a new or an empty folder, or one of features"
            raise ValueError(f"{must_be}, got {self.folder}") from None

    def _facts(self) -> dict:
        """Everything that decides the values, and no time of day."""
        bundle, packed = self.bundle, self.images.packed
        inputs = {name: getattr(bundle.preprocessing, name) for name in ("stored_size", "crop_size", "flip")}
        mean, std = bundle.preprocessing.mean_color, bundle.preprocessing.std.tolist()
        return {
            "network": bundle.network.architecture.name,
            "weights_sha256": weights_hash(bundle),
            "preprocessing": inputs | {"aspect": bundle.preprocessing.squares.aspect, "mean": mean, "std": std},
            "data": self.images.location or packed.name,
            "images": len(self.images),
            "images_crc32": crc32_of([packed.image_checksums[self.images.indices]]),
            "layers": {layer: {"file": f"{layer}.npy", "shape": shape} for layer, shape in self.shapes.items()},
            **{name: value for name, value in asdict(self.settings).items() if name != "layers"},
            "device": str(self.device),
            "versions": {"torch": torch.__version__, "numpy": np.__version__},
        }


def import_pyarrow():
    """The package that writes Parquet; ImportError, with what to install, if it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("Parquet needs the package pyarrow: pip install 'alexnet[parquet]'") from error
    return pyarrow


def load_features(folder: Path) -> dict[str, np.ndarray]:
    """Features by layer, mapped into memory; ValueError if they are not complete."""
    facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if facts[ROWS_DONE] < facts["images"]:
        raise ValueError(f"{folder} has features of {facts[ROWS_DONE]:,} of {facts['images']:,} images; run it again")
    return {layer: np.load(folder / about["file"], mmap_mode="r") for layer, about in facts["layers"].items()}


def weights_hash(bundle: ModelBundle) -> str:
    """SHA-256 of the weights and the preprocessing: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(bundle.tensors().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _existing(path: Path) -> Path:
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.exists())
