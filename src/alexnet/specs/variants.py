"""Every network by name; most are another one with one thing replaced.

Sources: the paper (NIPS 2012); `layers/layers-145.cfg` and its siblings in the code of 2012, released as
computerhistory/AlexNet-Source-Code, which "the 2012 code" means throughout this package; BVLC/caffe; "One weird trick"
(Krizhevsky 2014) with `layers-imagenet-1gpu.cfg` of akrizhevsky/cuda-convnet2; pytorch/vision; Zeiler and Fergus
(2013); the CIFAR-10 layer files of cuda-convnet.
"""

from dataclasses import replace

from .architecture import Architecture
from .names import did_you_mean
from .operations import AdaptivePool, BatchNorm, Conv, Dropout, Linear, Local, Norm, Pool, SpatialNorm


def _each(*layers: str, **fields: float | str) -> dict[str, dict]:
    return dict.fromkeys(layers, fields)


PAPER = Architecture(
    name="paper",
    about="As printed in 2012, sections 3 and 5: ReLU, LRN, then pooling; weights start with standard deviation 0.01.",
    layers=(
        Conv("conv1", 96, kernel=11, stride=4, then=("relu", "norm", "pool")),
        Conv("conv2", 256, kernel=5, pad=2, groups=2, bias=1, then=("relu", "norm", "pool")),
        Conv("conv3", 384, kernel=3, pad=1),
        Conv("conv4", 384, kernel=3, pad=1, groups=2, bias=1),
        Conv("conv5", 256, kernel=3, pad=1, groups=2, bias=1, then=("relu", "pool")),
        Linear("fc6", 4096, bias=1, then=("relu", "dropout")),
        Linear("fc7", 4096, bias=1, then=("relu", "dropout")),
        Linear("fc8", None),
    ),
    input_size=227,  # the printed 224 does not give the printed 55 × 55; docs/networks.md compares three readings
    norm=Norm(divided=False),
    recipe="paper",
)

ORIGINAL = replace(
    PAPER.with_layers(
        conv1={"round_up": True, "then": ("norm", "pool", "relu")},
        conv2={"then": ("relu", "norm", "spatial_norm", "pool")},
        **_each("conv3", "conv4", std=0.03),
        conv5={"std": 0.03, "then": ("pool", "relu")},
    ),
    name="original",
    about="As run in 2012: configuration 145 of the released code, with ILSVRC-2010 test errors of 37.5% and 17.0%.",
    input_size=224,
    norm=Norm(groups=2),
    spatial_norm=SpatialNorm(),
    recipe="original",
)

HALF = replace(
    ORIGINAL.with_layers(
        conv1={"channels": 48},
        conv2={"channels": 128, "groups": 1},
        conv3={"channels": 192},
        conv4={"channels": 192, "groups": 1},
        conv5={"groups": 1},  # not halved, nor are fc6 and fc7: footnote of section 3.2
    ),
    name="half",
    about="original in one column, the control of section 3.2: configuration 145-half of the released code.",
    norm=Norm(),
)

CONV6 = replace(
    ORIGINAL.insert_after("conv5", Conv("conv6", 256, kernel=3, pad=1, std=0.03, bias=1, suffix="_conv6")),
    name="conv6",
    about="original with a sixth convolution after the last pooling (section 6.1): configuration 146 of its code.",
)

DENSE = replace(
    PAPER.with_layers(conv2={"groups": 1}, conv4={"groups": 1}, conv5={"groups": 1}),
    name="dense",
    about="The paper's widths without the two towers (groups), as in most notebooks on the web.",
)

CAFFE = replace(
    PAPER.with_layers(
        **_each("conv2", "conv4", "conv5", bias=0.1),
        **_each("fc6", "fc7", bias=0.1, std=0.005),
    ),
    name="caffe",
    about="BVLC's bvlc_alexnet: biases start at 0.1, k = 1, LRN across the groups.",
    norm=Norm(k=1),
    dropout=Dropout(rescale=True),
    recipe="caffe",
)

CAFFENET = replace(
    CAFFE.with_layers(
        conv1={"then": ("relu", "pool", "norm")},
        conv2={"then": ("relu", "pool", "norm"), "bias": 1},
        **_each("conv4", "conv5", "fc6", "fc7", bias=1),
    ),
    name="caffenet",
    about="BVLC's bvlc_reference_caffenet: pooling before LRN, biases start at 1.",
    recipe="caffenet",
)

ONE_TOWER = replace(
    ORIGINAL.with_layers(
        conv1={"channels": 64},
        conv2={"channels": 192, "groups": 1, "then": ("relu", "norm", "pool")},
        conv4={"channels": 256, "groups": 1},
        conv5={"groups": 1},
        fc8={"bias": -7},
    ),
    name="one-tower",
    about='The single column of "One weird trick" (Krizhevsky 2014), with LRN.',
    norm=Norm(),
    spatial_norm=None,
    recipe="one-tower",
)

TORCHVISION = replace(
    ONE_TOWER.with_layers(
        conv1={"pad": 2, "round_up": False, "then": ("relu", "pool"), "std": "torch"},
        conv2={"then": ("relu", "pool"), "std": "torch"},
        conv5={"then": ("relu", "pool", AdaptivePool(6), "dropout"), "std": "torch"},
        fc7={"then": ("relu",), "std": "torch"},
        **_each("conv3", "conv4", "fc6", "fc8", std="torch"),
    ),
    name="torchvision",
    about="torchvision's alexnet: the widths of one-tower, padded on all sides, without LRN.",
    norm=None,
    pool=Pool(round_up=False),
    dropout=Dropout(rescale=True),
    recipe="torchvision",
)

ZFNET = replace(
    DENSE.with_layers(
        conv1={"kernel": 7, "stride": 2, "pad": 1, "then": ("relu", "pool", "norm")},
        conv2={"stride": 2, "pad": 0, "bias": 0, "then": ("relu", "pool", "norm")},
        **_each("conv4", "conv5", "fc6", "fc7", bias=0),
    ),
    name="zfnet",
    about="Zeiler and Fergus (2013): kernels 7 × 7 with stride 2 first, biases start at 0. LRN's constants are ours.",
    input_size=224,
    norm=Norm(),
    recipe="zfnet",
)

CIFAR_18 = Architecture(
    name="cifar-18",
    about='cuda-convnet\'s "18%" network for CIFAR-10: three convolutions, spatial normalization, average pooling.',
    layers=(
        Conv("conv1", 32, kernel=5, pad=2, std=1e-4, then=("pool", "relu", "spatial_norm")),
        Conv("conv2", 32, kernel=5, pad=2, then=("relu", Pool("mean"), "spatial_norm")),
        Conv("conv3", 64, kernel=5, pad=2, then=("relu", Pool("mean"))),
        Linear("fc8", None),
    ),
    input_size=32,
    stored_size=32,
    spatial_norm=SpatialNorm(size=3, alpha=5e-5),
    dropout=None,
    classes=10,
    recipe="cifar-18",
)

CIFAR_13 = Architecture(
    name="cifar-13",
    about='cuda-convnet\'s "13%" network for CIFAR-10: two convolutions, two unshared (locally connected) layers.',
    layers=(
        Conv("conv1", 64, kernel=5, pad=2, std=1e-4, then=("relu", "pool")),
        Conv("conv2", 64, kernel=5, pad=2, then=("relu", "pool")),
        Local("local3", 32, kernel=3, pad=1, std=0.04),
        Local("local4", 32, kernel=3, pad=1, std=0.04),
        Linear("fc8", None),
    ),
    input_size=32,
    stored_size=32,
    dropout=None,
    classes=10,
    recipe="cifar-13",
)

CIFAR_11 = replace(
    CIFAR_13.with_layers(
        conv1={"then": ("relu", "pool", "norm")},
        conv2={"then": ("relu", "norm", "pool")},
        local3={"channels": 64},
    ),
    name="cifar-11",
    about='cuda-convnet\'s "11%" network for CIFAR-10: cifar-13 with LRN across 9 channels and a wider local3.',
    norm=Norm(size=9, alpha=1e-3, k=1),
    recipe="cifar-11",
)

CIFAR_KERAS = replace(
    CIFAR_11.without("local3", "local4")
    .insert_after("conv2", Conv("conv3", 64, kernel=3, pad=1, std=0.04))
    .insert_after("conv3", Conv("conv4", 32, kernel=3, pad=1, std=0.04)),
    name="cifar-keras",
    about="cifar-11 with ordinary convolutions as layers 3 and 4 (64-64-64-32), which Keras can express.",
    recipe="cifar-keras",
)

SMALL = Architecture(
    name="small",
    about="Our own for images of 64 × 64: AlexNet's eight layers, smaller; a quick start without a GPU.",
    layers=(
        Conv("conv1", 48, kernel=5, stride=2, pad=2, std=0.05),
        Conv("conv2", 64, kernel=3, pad=1, std="he", then=("relu", "pool")),
        Conv("conv3", 128, kernel=3, pad=1, std="he"),
        Conv("conv4", 128, kernel=3, pad=1, std="he"),
        Conv("conv5", 96, kernel=3, pad=1, std="he", then=("relu", "pool")),
        Linear("fc6", 512, std="he", then=("relu", "dropout")),
        Linear("fc7", 512, std="he", then=("relu", "dropout")),
        Linear("fc8", None, std="he"),
    ),
    input_size=56,
    stored_size=64,
    dropout=Dropout(rescale=True),
    classes=13,
    recipe="small",
)

SMALL_TOWERS = replace(
    SMALL.with_layers(conv2={"groups": 2}, conv4={"groups": 2}, conv5={"groups": 2}),
    name="small-towers",
    about="small with the two towers of section 3.2, which exchange feature maps only before conv3.",
)

BATCH_NORM = replace(
    ORIGINAL,
    name="batch-norm",
    about="original with batch normalization (2015) instead of its three normalizations: for accuracy, not history.",
    norm=BatchNorm(),
    spatial_norm=None,
    recipe="modern",
)

ABLATIONS = (
    replace(ORIGINAL, name="tanh", about="original with tanh instead of ReLU (section 3.1).", activation="tanh"),
    replace(
        ORIGINAL,
        name="no-norm",
        about="original without its three normalizations (section 3.3): configuration 148.",
        norm=None,
        spatial_norm=None,
    ),
    replace(
        ORIGINAL.with_layers(conv2={"pad": 1}, conv5={"pad": 0}),  # sizes kept: 28, 13, 6
        name="no-overlap",
        about="original with 2 × 2 pooling that does not overlap (section 3.4): configuration 147.",
        pool=Pool(window=2, stride=2),
    ),
    replace(ORIGINAL, name="no-dropout", about="original without dropout (section 4.2).", dropout=None),
    replace(ORIGINAL.without("conv3"), name="no-conv3", about="original without its third convolution (section 7)."),
    replace(ORIGINAL.without("conv4"), name="no-conv4", about="original without its fourth convolution (section 7)."),
    replace(CIFAR_18, name="cifar-18-tanh", about="cifar-18 with tanh: the comparison of Figure 1.", activation="tanh"),
    replace(
        CIFAR_18, name="cifar-18-no-norm", about="cifar-18 without normalization (section 3.3).", spatial_norm=None
    ),
    replace(CIFAR_11, name="cifar-11-no-norm", about="cifar-11 without normalization (section 3.3).", norm=None),
    replace(
        CIFAR_11,
        name="cifar-11-no-overlap",
        about="cifar-11 with 2 × 2 pooling (section 3.4).",
        pool=Pool(window=2, stride=2),
    ),
)

_DECLARED = [each for each in list(globals().values()) if isinstance(each, Architecture)]
VARIANTS = {each.name: each for each in (*_DECLARED, *ABLATIONS)}
"""Every network by name."""
NAMED_ELSEWHERE = {"alexnet": "original", "bvlc_alexnet": "caffe", "bvlc_reference_caffenet": "caffenet"}
"""Names in other libraries, and the network that is meant."""


def variant(name: str | Architecture) -> Architecture:
    """The network declared under this name; an architecture of a user's own as it is.

    Raises:
        ValueError: no network has that name.
    """
    if isinstance(name, Architecture):
        return name
    if name not in VARIANTS:
        meant = NAMED_ELSEWHERE.get(str(name).lower(), name)
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}, got {name!r}{did_you_mean(meant, VARIANTS)}")
    return VARIANTS[name]
