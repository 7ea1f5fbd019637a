"""A folder as the Hugging Face Hub keeps one: `model.safetensors`, and `config.json` for readers and libraries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from ..files import atomic_write
from ..model.bundle import FILE, ModelBundle
from .layout import Found

CONFIG = "config.json"
NEEDED = "the Hub needs the package huggingface_hub: pip install 'alexnet[hub]'"

try:
    from huggingface_hub import ModelHubMixin as HubMixin
except ImportError:

    class HubMixin:
        """What huggingface_hub's mixin gives, without it: local folders alone."""

        def save_pretrained(self, save_directory: str | Path) -> None:
            self._save_pretrained(Path(save_directory))

        @classmethod
        def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **settings):
            if not Path(pretrained_model_name_or_path).is_dir():
                raise ImportError(f"{pretrained_model_name_or_path} is no folder here, and {NEEDED}")
            return cls._from_pretrained(model_id=str(pretrained_model_name_or_path), **settings)

        def push_to_hub(self, repo_id: str, **settings) -> str:
            raise ImportError(NEEDED)


HOW = {"revision", "cache_dir", "force_download", "local_files_only", "token", "proxies", "resume_download"}
"""What a fetch from the Hub may be told."""


def local_folder(model_id: str, **how) -> Path:
    """A folder as it is, or one that is fetched from the Hub: weights and config, nothing else.

    Raises:
        ValueError: `how` has what is not in HOW.
    """
    if unknown := sorted(how.keys() - HOW):
        raise ValueError(f"{', '.join(unknown)} is no setting of from_pretrained")
    if Path(model_id).is_dir():
        return Path(model_id)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(model_id, allow_patterns=[FILE, CONFIG], **how))


def write(bundle: ModelBundle, folder: Path) -> None:
    """Weights with all that they need, and the same facts as JSON."""
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


def with_config(found: Found, folder: Path) -> Found:
    """What was found in a file of safetensors, and what a config.json beside it says of classes and colors.

    Understood are transformers' `id2label` and `image_mean`, and timm's `label_names` and `pretrained_cfg`.

    Raises:
        ValueError: the config is no JSON, or says something else than names and numbers.
    """
    path = folder / CONFIG
    if not path.exists():
        return found
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config |= config.get("pretrained_cfg", {})
        named = config.get("id2label", {})
        classes = [named[number] for number in sorted(named, key=int)] or config.get("label_names", [])
        if not isinstance(classes, list) or not all(isinstance(name, (str, int)) for name in classes):
            raise ValueError(f"its class names are {str(classes)[:80]}; they may be a list of names")
        mean, std = _color(config, "mean", 0.0), _color(config, "std", 1e-6)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{CONFIG} beside it is not understood: {error}") from error
    return replace(
        found,
        format=f"{found.format}, with a {CONFIG}",
        classes=tuple(map(str, classes)) or None,
        mean=mean if mean is None else mean.view(1, 1, 3),
        std=std,
    )


def _color(config: dict, name: str, least: float) -> torch.Tensor | None:
    """Three numbers of 0 … 1 under `image_mean` or `mean`, in pixel units."""
    given = config.get(f"image_{name}", config.get(name))
    if given is None:
        return None
    fits = isinstance(given, list) and len(given) == 3 and all(isinstance(each, (int, float)) for each in given)
    if not fits or not all(least <= each <= 1 for each in given):
        raise ValueError(f"its {name} is {str(given)[:80]}; it may be three numbers of {least:g} to 1")
    return 255 * torch.tensor([float(each) for each in given])
