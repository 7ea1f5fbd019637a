"""The messages of `caffe.proto` that describe networks like AlexNet, for Google's `protobuf` (`alexnet[caffe]`).

Repeated messages are declared as bytes, which have the same encoding and are parsed one by one: otherwise a small file
of very many empty messages would fill the memory. So are arrays, which then become numpy's without a Python number for
each value.
"""

import re
from functools import cache

import numpy as np

SCHEMA = """
message BlobShape { repeated int64 dim = 1; }
message BlobProto {
  int64 num = 1; int64 channels = 2; int64 height = 3; int64 width = 4; BlobShape shape = 7;
  repeated bytes data = 5; repeated bytes double_data = 8;
}
message ConvolutionParameter {
  uint32 num_output = 1; bool bias_term = 2; repeated uint32 pad = 3; repeated uint32 kernel_size = 4;
  uint32 group = 5 [default = 1]; repeated uint32 stride = 6; bytes weight_filler = 7; bytes bias_filler = 8;
  int32 engine = 15;
}
message DataParameter { uint32 crop_size = 5; }
message DropoutParameter { float dropout_ratio = 1 [default = 0.5]; }
message InnerProductParameter {
  uint32 num_output = 1; bool bias_term = 2; bytes weight_filler = 3; bytes bias_filler = 4;
}
message InputParameter { BlobShape shape = 1; }
message LRNParameter {
  uint32 local_size = 1 [default = 5]; float alpha = 2 [default = 1]; float beta = 3 [default = 0.75];
  int32 norm_region = 4; float k = 5 [default = 1]; int32 engine = 6;
}
message PoolingParameter {
  int32 pool = 1; uint32 kernel_size = 2; uint32 stride = 3 [default = 1]; uint32 pad = 4; int32 engine = 11;
}
message ReLUParameter { int32 engine = 2; }
message TransformationParameter { uint32 crop_size = 3; }
message LayerParameter {
  string name = 1; string type = 2; repeated string bottom = 3; repeated string top = 4; repeated bytes blobs = 7;
  TransformationParameter transform_param = 100; ConvolutionParameter convolution_param = 106;
  DataParameter data_param = 107; DropoutParameter dropout_param = 108;
  InnerProductParameter inner_product_param = 117; LRNParameter lrn_param = 118;
  PoolingParameter pooling_param = 121; ReLUParameter relu_param = 123; InputParameter input_param = 143;
}
message V1LayerParameter {
  bytes layer = 1; string name = 4; int32 type = 5; repeated bytes blobs = 6;
  ConvolutionParameter convolution_param = 10; DataParameter data_param = 11; DropoutParameter dropout_param = 12;
  InnerProductParameter inner_product_param = 17; LRNParameter lrn_param = 18; PoolingParameter pooling_param = 19;
  ReLUParameter relu_param = 30; TransformationParameter transform_param = 36;
}
message NetParameter {
  string name = 1; repeated bytes layers = 2; repeated int64 input_dim = 4; BlobShape input_shape = 8;
  repeated bytes layer = 100;
}
"""
V1_TYPES = {
    **{1: "Accuracy", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten", 9: "HDF5Data", 12: "ImageData"},
    **{14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax", 21: "SoftmaxWithLoss", 22: "Split"},
    **{23: "TanH", 24: "WindowData", 29: "MemoryData", 32: "DummyData", 36: "Silence"},
}
"""Types of layers before 2015, which were numbers."""


@cache
def message_classes() -> dict[str, type]:
    """The class of each message, by name."""
    try:
        from google.protobuf import descriptor_pb2, message_factory
    except ImportError:
        raise ImportError("Caffe files need the package protobuf: pip install 'alexnet[caffe]'") from None
    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
    field_pattern = r"(repeated )?(\w+) (\w+) = (\d+)(?: \[default = (.+?)\])?;"
    for name, fields in re.findall(r"message (\w+) {(.*?)}", SCHEMA, re.DOTALL):
        message = file.message_type.add(name=name)
        for repeated, declared, field, number, default in re.findall(field_pattern, fields):
            label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            added = message.field.add(name=field, number=int(number), label=label, default_value=default or None)
            if declared[0].isupper():
                added.type, added.type_name = types.TYPE_MESSAGE, f".caffe.{declared}"
            else:
                added.type = getattr(types, f"TYPE_{declared.upper()}")
    classes = message_factory.GetMessages([file])
    return {message.name: classes[f"caffe.{message.name}"] for message in file.message_type}


def parse(name: str, content: bytes):
    message = message_classes()[name]
    from google.protobuf.message import DecodeError

    try:
        return message.FromString(content)
    except DecodeError as error:
        raise ValueError(f"Caffe's {name} in it is damaged: {error}") from error


def parse_array(blob: bytes) -> np.ndarray:
    """Parse a BlobProto, whose shape is four sides before 2015 and any number later."""
    message = parse("BlobProto", blob)
    sides = (message.num, message.channels, message.height, message.width)
    shape = tuple(message.shape.dim) if message.HasField("shape") else tuple(side or 1 for side in sides)
    chunks, dtype = (message.data, np.dtype("<f4")) if message.data else (message.double_data, np.dtype("<f8"))
    content = b"".join(chunks)
    if np.prod(shape, dtype=object) * dtype.itemsize != len(content):
        raise ValueError(f"a blob of shape {shape} has {len(content):,} bytes of {dtype}")
    return np.frombuffer(content, dtype).reshape(shape)


def array_message(array: np.ndarray) -> bytes:
    blob = message_classes()["BlobProto"]
    return blob(shape={"dim": array.shape}, data=[np.ascontiguousarray(array, "<f4").tobytes()]).SerializeToString()
