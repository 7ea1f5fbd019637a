"""Protobuf messages by Google's package, with no more of their schema than is needed.

Schemas declare repeated messages as bytes, which have the same encoding and are parsed one by one: otherwise a small
file of very many empty messages would fill the memory. So are arrays, which then become numpy's without a Python number
for each value.
"""

import re
from functools import cache


@cache
def message_classes(program: str, schema: str) -> dict[str, type]:
    """The class of each message, by name."""
    try:
        from google.protobuf import descriptor_pb2, message_factory
    except ImportError:
        raise ImportError(f"{program} files need the package protobuf: pip install protobuf") from None
    types, package = descriptor_pb2.FieldDescriptorProto, program.lower()
    file = descriptor_pb2.FileDescriptorProto(name=f"alexnet/{package}.proto", package=f"alexnet.{package}")
    field_pattern = r"(repeated )?(\w+) (\w+) = (\d+)(?: \[default = (.+?)\])?;"
    for name, fields in re.findall(r"message (\w+) {(.*?)}", schema, re.DOTALL):
        message = file.message_type.add(name=name)
        for repeated, declared, field, number, default in re.findall(field_pattern, fields):
            label = types.LABEL_REPEATED if repeated else types.LABEL_OPTIONAL
            added = message.field.add(name=field, number=int(number), label=label, default_value=default or None)
            if declared[0].isupper():
                added.type, added.type_name = types.TYPE_MESSAGE, f".{file.package}.{declared}"
            else:
                added.type = getattr(types, f"TYPE_{declared.upper()}")
    classes = message_factory.GetMessages([file])
    return {message.name: classes[f"{file.package}.{message.name}"] for message in file.message_type}


def parse(program: str, schema: str, name: str, content: bytes):
    """Parse a message; ValueError if it is damaged."""
    message = message_classes(program, schema)[name]
    from google.protobuf.message import DecodeError

    try:
        parsed = message.FromString(content)
    except DecodeError as error:
        raise ValueError(f"{program}'s {name} in it is damaged: {error}") from error
    if not _is_text(parsed):
        raise ValueError(f"{program}'s {name} in it is damaged: it has text that is not UTF-8")
    return parsed


def _is_text(message) -> bool:
    """Whether all strings of a message are UTF-8; others are bytes."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE and not _is_text(value):
            return False
        if field.type == field.TYPE_STRING and bytes in map(type, [value] if isinstance(value, bytes) else value):
            return False
    return True
