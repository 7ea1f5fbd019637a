from typing import Literal

from tyro.conf import Positional

from ..specs.settings import LabelMaps
from .flags import check_size


def pack(
    data: Positional[str],
    /,
    size: int = 256,
    jpeg: int | None = None,
    aspect: Literal["crop", "squash", "pad"] = "crop",
    workers: int | None = None,
    strict: bool = False,
    verify: bool = False,
    *,
    maps: LabelMaps,
) -> None:
    """Decode, resize and crop all images once, into the one file that training reads; `train` does this by itself.

    Args:
        data: As for `alexnet train`.
        size: Side of the stored squares, pixels.
        jpeg: JPEG quality, 1 to 95, at which they are stored (default: raw pixels, about ten times as large as JPEG of
            quality 90, but not decoded in each epoch).
        aspect: What is stored of an image that is no square: its central square, all of it squashed, or all of it
            padded with black.
        workers: Number of processes that decode images (default: one per core).
        strict: Fail if any image cannot be read, instead of skipping up to five or 1%.
        verify: Verify the checksum of every stored image, instead of a thousand of them.
    """
    from ..console import console, print_text, progress_bar
    from ..data.check import checked_pack
    from ..data.pack.packing import PackOptions
    from ..data.pack.reading import damaged_images, describe_splits
    from ..data.pack.resizing import Squares
    from ..data.sources.detection import open_source
    from ..runs.run import is_run

    check_size(size)
    source = open_source(data, 0, progress_bar("reading"), is_run, maps)
    options = PackOptions(jpeg, workers, strict, Squares(aspect))
    packed = checked_pack(source, size, options, progress_bar("packing"), print_text)
    console.print(f"{describe_splits(packed)}; {len(packed.classes)} classes\n{packed.path}", soft_wrap=True)
    if verify and (damaged := list(damaged_images(packed, range(len(packed.labels))))):
        raise ValueError(
            f"{packed.path} is damaged: {len(damaged):,} images, the first at index {damaged[0]}; remove it and "
            f"pack again"
        )
