import numpy as np
import pytest
from PIL import Image

from alexnet.data.pack.resizing import resize
from alexnet.kernels import library


def resize_center(image, side):
    return resize(image, side, *(min(image.size),) * 2)


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [
        *((500, 375, 256), (375, 500, 256), (333, 251, 64), (40, 36, 131), (7, 300, 9), (256, 256, 256)),
        *((301, 256, 256), (1, 1, 5), (1000, 17, 16), (64, 65, 1), (72, 72, 64), (3000, 2001, 256)),
    ],
)
def test_the_kernel_gives_pillows_pixels(width, height, side):
    """Larger and smaller, squares between two pixels, images of noise, which overshoots on both ends."""
    if library() is None:
        pytest.skip("the kernels were not compiled: there was no C compiler when the package was installed")
    noise = np.random.default_rng(width).choice([0, 30, 128, 255], (height, width, 3)).astype(np.uint8)
    image = Image.fromarray(noise)
    expected = pillows(image, side)
    np.testing.assert_array_equal(resize_center(image, side), expected)


def test_many_sizes_give_pillows_pixels(each_way):
    generator = np.random.default_rng(0)
    for _ in range(200):
        width, height, side = generator.integers(1, 90, 3).tolist()
        image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
        expected = pillows(image, side)
        np.testing.assert_array_equal(resize_center(image, side), expected, f"{width} × {height} to {side}")


def test_a_wide_image_is_what_one_call_of_pillow_gives(each_way):
    """Every version of Pillow resizes these along the rows first."""
    noise = np.random.default_rng(1).integers(0, 256, (375, 500, 3), dtype=np.uint8)
    expected = Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC, (62.5, 0, 437.5, 375))
    np.testing.assert_array_equal(resize_center(Image.fromarray(noise), 256), np.asarray(expected))


def pillows(image, side):
    """By Pillow, one way at a time, in the order in which we do it."""
    shorter, bicubic = min(image.size), Image.Resampling.BICUBIC
    left, top = (image.width - shorter) / 2, (image.height - shorter) / 2
    rows = image.resize((side, image.height), bicubic, (left, 0, left + shorter, image.height))
    return np.asarray(rows.resize((side, side), bicubic, (0, top, side, top + shorter)))
