"""A network as a program for other runtimes: an ONNX file, or a file of torch.export.

Both are made from a sequence of the network's layers in their declared order. Normalizations become standard operations
(`normalization/exported.py`), so that neither this package nor its kernels are needed to run the file. Both carry the
class names and the preprocessing, as JSON. An ONNX file can be read back as the same network.
"""

import base64
import io
import json
import logging
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from ..files import atomic_write
from ..model.bundle import ModelBundle
from .protobuf import parse

OPSET, IR_VERSION = 18, 8
"""The oldest that `torch.onnx.export` writes without conversion, and the file version that goes with it."""
ONNX_START = b"\x08"
"""First byte of an ONNX file, whose first field is its version."""
SCHEMA = """
message ModelProto { bytes graph = 7; repeated bytes metadata_props = 14; }
message StringStringEntryProto { string key = 1; string value = 2; }
message GraphProto { repeated bytes initializer = 5; }
message TensorProto { repeated int64 dims = 1; string name = 8; bytes raw_data = 9; }
"""
"""The messages of onnx.proto that hold constants and metadata."""
_parse = partial(parse, "ONNX", SCHEMA)
FREE_BATCH = {0: torch.export.Dim("N")}


def write_onnx(bundle: ModelBundle, path: Path, preprocessing: bool = False) -> None:
    """Write a network that maps `images`, (N, channels, side, side), float32, to `scores`, (N, classes).

    N is free. Images are in the network's units, as its preprocessing returns them. Inside, the output of each layer
    has the layer's name: conv1, relu1, pool1 …. The metadata are those of `metadata`.

    Args:
        preprocessing: whether to put center crop and normalization before the network, whose `images` then are stored
            images, (N, stored_size, stored_size, 3), uint8, and a softmax behind it, with the output `probabilities`.

    Raises:
        ImportError: the package onnxscript is not installed.
    """
    try:
        from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    except ImportError:
        raise ImportError("writing ONNX files needs the package onnxscript: pip install 'alexnet[export]'") from None
    layers, example = _export_form(bundle, preprocessing)
    outputs = ["scores"]
    if preprocessing:
        layers["probabilities"] = nn.Softmax(1)
        outputs.append("probabilities")
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision, which is not needed, is not installed
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about torch's own code
            program = torch.onnx.export(
                _AllActivations(layers).eval(),
                (example,),
                input_names=["images"],
                output_names=[*list(layers)[: -len(outputs)], *outputs],
                dynamic_shapes=(FREE_BATCH,),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    model = program.model
    others = slice(-len(outputs))  # they were outputs so that each would have its layer's name
    model.graph.outputs[others] = []
    ClearMetadataAndDocStringPass()(model)  # among them the paths of this machine
    model.ir_version, model.graph.name = IR_VERSION, bundle.network.architecture.name
    model.metadata_props.update(metadata(bundle, preprocessing))
    if not bundle.network.alteration():  # or reading it back would give another network
        model.metadata_props["alexnet"] = _facts(bundle, model.graph.initializers)
    with atomic_write(path) as temporary:
        program.save(temporary)


def write_program(bundle: ModelBundle, path: Path, preprocessing: bool = False) -> None:
    """Write a file for `torch.export.load(path).module()`, which maps the same images to the same scores."""
    layers, example = _export_form(bundle, preprocessing)
    with torch.no_grad():
        program = torch.export.export(nn.Sequential(layers).eval(), (example,), dynamic_shapes=(FREE_BATCH,))
    content, extra_files = (
        io.BytesIO(),
        {f"{name}.json": text for name, text in metadata(bundle, preprocessing).items()},
    )
    torch.export.save(program, content, extra_files=extra_files)  # to a full disk, it would end the process
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_onnx(path: Path) -> ModelBundle:
    """Read back the network of a file that `write_onnx` wrote.

    Raises:
        ValueError: the file is damaged, or was written by another program.
        ImportError: the package protobuf is not installed.
    """
    model = _parse("ModelProto", path.read_bytes())
    contents, properties = _parse("GraphProto", model.graph).initializer, model.metadata_props
    if max(len(contents), len(properties)) > 1000:
        raise ValueError("an ONNX file of more than 1,000 constants or metadata")
    metadata = {each.key: each.value for each in (_parse("StringStringEntryProto", content) for content in properties)}
    if "alexnet" not in metadata:
        raise ValueError("an ONNX file that alexnet did not write; import the file that it was made from")
    constants = {each.name: each for each in (_parse("TensorProto", content) for content in contents)}
    try:
        facts = json.loads(metadata["alexnet"])
        tensors = load_tensors(base64.b64decode(facts["tensors"]))
        for name in facts["constants"]:
            array = np.frombuffer(constants[name].raw_data, "<f4").reshape(constants[name].dims)
            tensors[name] = torch.from_numpy(array.copy())
        return ModelBundle.of(facts, tensors)
    except (KeyError, TypeError, ValueError, SafetensorError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"an ONNX file that cannot be read back: {error!r}") from error


def metadata(bundle: ModelBundle, preprocessing: bool) -> dict[str, str]:
    """What a file says about its network, for people and programs: variant and version, and as JSON `classes` and
    `preprocessing`: shorter side resized to `stored_size`, central square, center crop, (pixels − `mean`) / `std`."""
    inputs = bundle.preprocessing
    steps = {
        "included": preprocessing,
        "stored_size": inputs.stored_size,
        "crop_size": inputs.crop_size,
        "colors": "RGB, 0 to 255",
        "mean": inputs.mean_color,
        "std": inputs.std.tolist(),
    }
    return {
        "classes": json.dumps(bundle.classes, ensure_ascii=False),
        "preprocessing": json.dumps(steps),
        "variant": bundle.network.architecture.name,
        "alexnet_version": import_module("alexnet").__version__,
    }


def _facts(bundle: ModelBundle, constants: Mapping) -> str:
    """What `read_onnx` needs besides the constants of the graph, where the exporter omits zeros and repetitions."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in bundle.tensors().items()}
    values = {name: tensors[name].numpy() for name in bundle.network.state_dict() if name in constants}
    held = [name for name, value in values.items() if np.array_equal(constants[name].const_value.numpy(), value)]
    others = save_tensors({name: tensor for name, tensor in tensors.items() if name not in held})
    return json.dumps(bundle.facts() | {"constants": held, "tensors": base64.b64encode(others).decode()})


def _export_form(bundle: ModelBundle, preprocessing: bool) -> tuple[OrderedDict[str, nn.Module], Tensor]:
    """Layers by name, in evaluation mode on the CPU, and an example of the images that the first one takes."""
    network = deepcopy(bundle.network).cpu().eval().to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, network.in_channels, network.input_size, network.input_size)
    layers = OrderedDict((name, module) for name, module in network._modules.items() if module is not None)
    if preprocessing:
        side = bundle.preprocessing.stored_size
        example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
        layers = OrderedDict(preprocessing=bundle.preprocessing.to("cpu").center_crop) | layers
    return layers, example


class _AllActivations(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        activations = [x]
        for layer in self:
            activations.append(layer(activations[-1]))
        return tuple(activations[1:])
