"""Folders as on the Hugging Face Hub: `model.safetensors`, and `config.json` for people and other libraries."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from ..data.labels.class_names import readable_class_name
from ..files import atomic_write
from ..model.bundle import FILE, ModelBundle
from .weights_file import WeightsFile

CONFIG, PREPROCESSOR, CARD = "config.json", "preprocessor_config.json", "README.md"
NEEDED = "the Hub needs the package huggingface_hub: pip install 'alexnet[hub]'"

try:
    from huggingface_hub import ModelHubMixin as HubMixin
except ImportError:

    class HubMixin:
        """Replaces huggingface_hub's mixin if that is not installed: local folders only."""

        def save_pretrained(self, save_directory: str | Path) -> None:
            self._save_pretrained(Path(save_directory))

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings):
            if not Path(pretrained_model_name_or_path).is_dir():
                raise ImportError(f"{pretrained_model_name_or_path} is not a local folder, and {NEEDED}")
            return cls._from_pretrained(model_id=str(pretrained_model_name_or_path), **settings)

        def push_to_hub(self, repo_id: str, **settings) -> str:
            raise ImportError(NEEDED)


HUB_OPTIONS = {"revision", "cache_dir", "force_download", "local_files_only", "token", "proxies", "resume_download"}


def local_folder(model_id: str, **options) -> Path:
    """A local folder, or weights and config downloaded from the Hub."""
    if unknown := sorted(options.keys() - HUB_OPTIONS):
        raise ValueError(f"from_pretrained has no option {', '.join(unknown)}")
    return Path(model_id) if Path(model_id).is_dir() else download(model_id, **options)


def download(address: str, **options) -> Path:
    """Get OWNER/REPO[@REVISION][/FILE] of the Hub into its cache: that file, or a folder of weights and config.

    Raises:
        ValueError: it cannot be downloaded, or the repository has no weights under their usual name.
        ImportError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError:
        raise ImportError(NEEDED) from None
    owner, repo, *file = address.split("/", 2)
    repo, _, revision = repo.partition("@")
    options |= {"revision": revision} if revision else {}
    try:
        if file:
            return Path(hf_hub_download(f"{owner}/{repo}", file[0], **options))
        folder = Path(snapshot_download(f"{owner}/{repo}", allow_patterns=[FILE, CONFIG, PREPROCESSOR], **options))
    except Exception as error:  # of many kinds, also those of its HTTP library
        raise ValueError(f"hf://{address} cannot be downloaded: {error}") from error
    if not (folder / FILE).exists():
        raise ValueError(f"hf://{address} has no {FILE}; name one of its files, as in hf://{address}/FILE")
    return folder


def write(bundle: ModelBundle, folder: Path) -> None:
    """Write the bundle, the facts that other libraries look for as JSON, and a model card if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle.save(folder / FILE)
    config = {
        "library_name": "alexnet",
        "architecture": bundle.network.architecture.name,
        "num_classes": bundle.network.num_classes,
        "id2label": dict(enumerate(bundle.classes)),
        "image_size": bundle.network.input_size,
        "image_mean": (bundle.preprocessing.mean.mean((0, 1)) / 255).tolist(),
        "image_std": (bundle.preprocessing.std / 255).tolist(),
    }
    with atomic_write(folder / CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not (folder / CARD).exists():  # one that people wrote stays
        with atomic_write(folder / CARD) as temporary:
            temporary.write_text(_model_card(bundle), encoding="utf-8")


def _model_card(bundle: ModelBundle) -> str:
    """README.md as the Hub shows it: tags, what the network is, how to load it, its classes."""
    architecture, inputs = bundle.network.architecture, bundle.preprocessing
    mean, std = inputs.colors_in_words
    return f"""\
---
library_name: alexnet
pipeline_tag: image-classification
tags:
- alexnet
- image-classification
---

# AlexNet: {architecture.name}

{architecture.about} For {len(bundle.classes)} classes.

```python
import alexnet

classifier = alexnet.load("hf://OWNER/REPO")  # or a local copy of this folder
classifier.predict_n("image.jpg", 3)
```

Images: shorter side resized to {inputs.stored_size} pixels, central square, crops of {inputs.crop_size} × \
{inputs.crop_size}; RGB pixels of 0 … 255, minus the mean ({mean}), divided by the standard deviation ({std}).

Classes, in the order of the scores: {", ".join(map(readable_class_name, bundle.classes))}
"""


def with_config(file: WeightsFile, folder: Path) -> WeightsFile:
    """Add the class names, colors and sizes of JSON files next to the file.

    config.json may have transformers' `id2label` and `image_mean`, or timm's `label_names` and `pretrained_cfg` with
    `input_size` and `crop_pct`; preprocessor_config.json has transformers' `image_mean`, `rescale_factor`, `size` ….
    """
    facts: dict = {}
    names: list[str] = []
    for name, read in ((CONFIG, _config), (PREPROCESSOR, _preprocessor)):
        if not (folder / name).is_file():
            continue
        try:
            read_facts = read(json.loads((folder / name).read_text(encoding="utf-8")))
        except (ValueError, TypeError, AttributeError, RecursionError, ArithmeticError, LookupError) as error:
            raise ValueError(f"{name} next to it cannot be used: {error}") from error
        facts |= {key: value for key, value in read_facts.items() if value is not None}
        facts |= {"inputs_from": name} if read_facts.get("mean") is not None else {}
        names.append(name)
    return replace(file, format=f"{file.format}, with a {' and a '.join(names)}", **facts) if names else file


def _config(config: dict) -> dict:
    """Class names, colors and sizes of a config.json."""
    config = config | config.get("pretrained_cfg", {})
    labels = config.get("id2label", {})
    classes = [labels[index] for index in sorted(labels, key=int)] or config.get("label_names", [])
    if not isinstance(classes, list) or not all(isinstance(name, (str, int)) for name in classes):
        raise ValueError(f"class names must be a list of names, got {str(classes)[:80]}")
    size = config.get("image_size", config.get("input_size"))
    side = _side(size[-1] if isinstance(size, list) and len({*size[-2:]}) == 1 else size)
    part = config.get("crop_pct")
    if part is not None and not (isinstance(part, (int, float)) and 0.1 <= part <= 1):
        raise ValueError(f"crop_pct must be 0.1 to 1, got {str(part)[:80]}")
    return {
        "classes": tuple(map(str, classes)) or None,
        "mean": _color(config, "mean", 0.0, 255),
        "std": _color(config, "std", 1e-6, 255),
        "input_size": side,
        "stored_size": int(side / part) if side and part else None,
    }


def _preprocessor(config: dict) -> dict:
    """Colors and sizes of a preprocessor_config.json: (pixels × rescale_factor − image_mean) / image_std."""
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
    if not isinstance(factor, (int, float)) or not 1e-6 <= factor <= 1:
        raise ValueError(f"rescale_factor must be 1e-06 to 1, got {str(factor)[:80]}")
    if config.get("do_normalize", True):
        colors = {"mean": _color(config, "mean", 0.0, 1 / factor), "std": _color(config, "std", 1e-6, 1 / factor)}
    else:
        colors = {"mean": torch.zeros(3), "std": torch.full((3,), 1 / factor)}
    resized = _side(config.get("size")) if config.get("do_resize", True) else None
    cropped = _side(config.get("crop_size")) if config.get("do_center_crop", "crop_size" in config) else None
    return colors | {"input_size": cropped or resized, "stored_size": resized}


def _side(size: object) -> int | None:
    """A side from the forms in which sizes are written; None where there is none."""
    if isinstance(size, dict):
        size = size.get("shortest_edge", size.get("height") if size.get("height") == size.get("width") else size)
    if size is None or (isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= 4096):
        return size
    raise ValueError(f"sizes of images must be squares of 1 to 4096 pixels, got {str(size)[:80]}")


def _color(config: dict, name: str, least: float, unit: float) -> torch.Tensor | None:
    """`image_mean` or `mean`, three numbers of which 1 is `unit`, in pixel units."""
    values = config.get(f"image_{name}", config.get(name))
    if values is None:
        return None
    is_color = isinstance(values, list) and len(values) == 3 and all(isinstance(each, (int, float)) for each in values)
    most = max(1, 255 / unit)
    if not is_color or not all(least <= each <= most for each in values):
        raise ValueError(f"{name} must be three numbers of {least:g} to {most:g}, got {str(values)[:80]}")
    return unit * torch.tensor(values, dtype=torch.float32)
