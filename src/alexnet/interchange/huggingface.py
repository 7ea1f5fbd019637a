"""Folders as on the Hugging Face Hub: `model.safetensors`, and `config.json` for people and other libraries."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from ..data.labels.class_names import readable_class_name
from ..files import atomic_write
from ..model.bundle import FILE, ModelBundle
from .weights_file import WeightsFile

CONFIG, CARD = "config.json", "README.md"
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
        folder = Path(snapshot_download(f"{owner}/{repo}", allow_patterns=[FILE, CONFIG], **options))
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
    """Add the class names and colors of a config.json next to the file, if there is one.

    It may have transformers' `id2label` and `image_mean`, or timm's `label_names` and `pretrained_cfg`.
    """
    path = folder / CONFIG
    if not path.exists():
        return file
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= config.get("pretrained_cfg", {})
        labels = config.get("id2label", {})
        classes = [labels[index] for index in sorted(labels, key=int)] or config.get("label_names", [])
        if not isinstance(classes, list) or not all(isinstance(name, (str, int)) for name in classes):
            raise ValueError(f"class names must be a list of names, got {str(classes)[:80]}")
        mean, std = _color(config, "mean", 0.0), _color(config, "std", 1e-6)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{CONFIG} next to it cannot be used: {error}") from error
    classes = tuple(map(str, classes)) or None
    return replace(file, format=f"{file.format}, with a {CONFIG}", classes=classes, mean=mean, std=std)


def _color(config: dict, name: str, least: float) -> torch.Tensor | None:
    """`image_mean` or `mean`, three numbers of 0 to 1, in pixel units."""
    values = config.get(f"image_{name}", config.get(name))
    if values is None:
        return None
    is_color = isinstance(values, list) and len(values) == 3 and all(isinstance(each, (int, float)) for each in values)
    if not is_color or not all(least <= each <= 1 for each in values):
        raise ValueError(f"{name} must be three numbers of {least:g} to 1, got {str(values)[:80]}")
    return 255 * torch.tensor(values, dtype=torch.float32)
