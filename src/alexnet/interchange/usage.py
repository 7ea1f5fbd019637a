"""A few lines of Python that use an exported file, for people who have just written one."""

from pathlib import Path
from string import Template

from ..model.bundle import ModelBundle
from .caffe import FILES as CAFFE_FILES
from .weights_file import classes_path

IMAGE = """\
image = ImageOps.exif_transpose(Image.open("image.jpg")).convert("RGB")
image = ImageOps.fit(image, ($stored, $stored), Image.Resampling.BICUBIC)"""
CROP = """\
pixels = np.float32(image.crop(($start, $start, $end, $end)))
pixels = (pixels - [$mean]) / [$std]
images = pixels.astype(np.float32).transpose(2, 0, 1)[None]"""
WHOLE = "images = np.array(image)[None]"
SHOW = """\
for index in np.argsort(-probabilities)[:5]:
    print(f"{probabilities[index]:.1%}  {classes[index]}")"""
SOFTMAX = "\nprobabilities = np.exp(scores - np.logaddexp.reduce(scores))"
READ_CLASSES = 'classes = Path($classes).read_text(encoding="utf-8").splitlines()'
RUN_TORCH = f"scores = network(torch.from_numpy(images))[0].detach().numpy(){SOFTMAX}"
CLASSIFY = {
    "onnx": (
        "import json",
        "import onnxruntime  # pip install onnxruntime",
        "session = onnxruntime.InferenceSession($file)\n"
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
        f'scores = session.run(["scores"], {{"images": images}})[0][0]{SOFTMAX}',
    ),
    "torch-export": (
        "import json",
        "import torch",
        'extra = {"classes.json": ""}\n'
        "network = torch.export.load($file, extra_files=extra).module()\n"
        'classes = json.loads(extra["classes.json"])',
        RUN_TORCH,
    ),
    "torchvision": (
        "from pathlib import Path",
        "import torch\nimport torchvision",
        "network = torchvision.models.alexnet(num_classes=$count).eval()\n"
        f"network.load_state_dict(torch.load($file, weights_only=True))\n{READ_CLASSES}",
        RUN_TORCH,
    ),
    "caffe": (
        "from pathlib import Path",
        'import cv2  # pip install "opencv-python<5"',
        f"network = cv2.dnn.readNetFromCaffe($prototxt, $weights)\n{READ_CLASSES}",
        "network.setInput(np.ascontiguousarray(images[:, ::-1]))  # BGR\nprobabilities = network.forward()[0]",
    ),
}
"""By format: modules of Python and packages to import, how to load the network and its classes, and how to run it."""
OTHERS = {
    "npy": "import numpy as np\n\nlayers = np.load($file, allow_pickle=True).item()\n"
    "for name, (weights, biases) in layers.items():\n    print(name, weights.shape, biases.shape)",
    "keras": "model.load_weights($file)  # of a Keras model with the same layers, channels last",
}
ALEXNET = 'import alexnet\n\nclassifier = alexnet.load($file)\nprint(classifier.predict_n("image.jpg", 5))'


def usage(bundle: ModelBundle, path: Path, format: str, preprocessing: bool) -> str:
    """Lines that classify image.jpg by its center crop, or show what a file holds.

    Where the file does not prepare the image itself, they subtract the mean color, even of a mean image.
    """
    lines = OTHERS.get(format, ALEXNET)
    if format in CLASSIFY:
        module, packages, load, run = CLASSIFY[format]
        if preprocessing and format == "onnx":
            run = 'probabilities = session.run(["probabilities"], {"images": images})[0][0]'
        imports = f"{module}\n\nimport numpy as np\n{packages}\nfrom PIL import Image, ImageOps\n"
        lines = "\n".join([imports, load, IMAGE, WHOLE if preprocessing else CROP, run, SHOW])
    inputs, weights = bundle.preprocessing, path / CAFFE_FILES[0] if format == "caffe" else path
    start, std = inputs.margin // 2, [1] if format == "caffe" else inputs.std.tolist()
    return Template(lines).substitute(
        file=repr(str(path)),
        weights=repr(str(weights)),
        prototxt=repr(str(path / CAFFE_FILES[1])),
        classes=repr(str(classes_path(weights))),
        count=len(bundle.classes),
        stored=inputs.stored_size,
        start=start,
        end=start + inputs.crop_size,
        mean=", ".join(f"{value:.6g}" for value in inputs.mean_color),
        std=", ".join(f"{value:.6g}" for value in std),
    )
