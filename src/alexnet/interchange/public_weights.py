"""Pretrained weights by name, by URL or from the Hugging Face Hub: where they are, and a local copy of them."""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from ..data.progress import Track
from ..data.storage.download import SCHEMES, download
from ..files import atomic_write, cache_folder, siblings
from ..specs.names import did_you_mean
from . import huggingface

MAX_BYTES = 10_000_000_000
"""Size of a downloaded file of weights; those of AlexNet have 250 million bytes."""


@dataclass(frozen=True)
class PublicWeights:
    """A file at its publisher's address."""

    url: str
    algorithm: str
    """The hash that the publisher chose: sha1 or sha256."""
    checksum: str

    @property
    def by_hand(self) -> Path:
        """Where a copy that was fetched by other means is found."""
        return cache_folder() / "weights" / self.url.rpartition("/")[2]


PUBLIC = {
    "torchvision": PublicWeights(
        "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "sha256",
        "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
    ),
    # The SHA-1s stand in Caffe's models/*/readme.md.
    "caffe": PublicWeights(
        "http://dl.caffe.berkeleyvision.org/bvlc_alexnet.caffemodel", "sha1", "9116a64c0fbe4459d18f4bb6b56d647b63920377"
    ),
    "caffenet": PublicWeights(
        "http://dl.caffe.berkeleyvision.org/bvlc_reference_caffenet.caffemodel",
        "sha1",
        "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46",
    ),
}
"""Weights by the name of the variant that they belong to, trained on the 1,000 classes of ILSVRC-2012."""
KINDS = f"a run, a saved folder, a file, a URL, hf://OWNER/REPO[/FILE], or one of {', '.join(PUBLIC)}"


def local_weights(weights: str | Path, track: Track | None = None) -> Path:
    """The file or folder of weights; what is not on this machine is downloaded once, into the cache.

    Args:
        weights: a name of PUBLIC, an https URL, hf://OWNER/REPO[/FILE], or a path. A folder or file with the name of
            public weights is reached as ./NAME, or as a `Path`.
        track: shows how many bytes have arrived.

    Raises:
        ValueError: there is nothing of that name, it cannot be downloaded, or its checksum is wrong.
        ImportError: hf:// without the package huggingface_hub.
    """
    if isinstance(weights, str) and weights in PUBLIC:
        return _public(weights, track)
    scheme, separator, address = str(weights).partition("://")
    if separator and scheme == "hf":
        return huggingface.download(address)
    if separator and scheme in SCHEMES:
        return download(str(weights), cache_folder() / "weights", MAX_BYTES, track)
    path = Path(weights).expanduser()
    if not path.exists():
        near = did_you_mean(path.name, [*PUBLIC, *siblings(path)])
        raise ValueError(f"{weights} does not exist; weights must be {KINDS}{near}")
    return path


def _public(name: str, track: Track | None) -> Path:
    known = PUBLIC[name]
    file = known.by_hand
    if not file.exists():
        try:
            file = download(known.url, file.parent, MAX_BYTES, track)
        except ValueError as error:
            advice = f"without a connection, fetch it on another computer and put it at {known.by_hand}"
            raise ValueError(f"{error}; {advice}") from error
    if _is_marked(file, known):
        return file
    with file.open("rb") as content:
        actual = hashlib.file_digest(content, known.algorithm).hexdigest()
    if actual != known.checksum:
        if file != known.by_hand:
            file.unlink()  # the next attempt downloads it again
        algorithm = {"sha1": "SHA-1", "sha256": "SHA-256"}[known.algorithm]
        raise ValueError(f"the {algorithm} of {file} must be {known.checksum}, as that of {known.url}, got {actual}")
    mark, content = _mark(file, known)
    with contextlib.suppress(OSError), atomic_write(mark) as temporary:  # the cache may be read-only
        temporary.write_text(content, encoding="utf-8")
    return file


def are_public(file: Path) -> bool:
    """Whether a file has the name of public weights, or was verified to be them."""
    return any(file.name == known.by_hand.name or _is_marked(file, known) for known in PUBLIC.values())


def _mark(file: Path, known: PublicWeights) -> tuple[Path, str]:
    """What stands beside a file that has been verified, because reading it all takes a while, and its content."""
    facts = file.stat()
    return file.with_name(f"{file.name}.verified"), f"{known.checksum} {facts.st_size} {facts.st_mtime_ns}"


def _is_marked(file: Path, known: PublicWeights) -> bool:
    """Whether a file has been verified, and not written since."""
    mark, content = _mark(file, known)
    return mark.exists() and mark.read_text(encoding="utf-8", errors="replace") == content
