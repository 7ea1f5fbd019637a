"""The kernels in C. They are optional: where they cannot be compiled, the package does without them."""

from pathlib import Path

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "alexnet._kernels",
            [
                "src/alexnet/kernels/threads.c",
                "src/alexnet/data/pack/kernels.c",
                "src/alexnet/model/kernels.c",
                "src/alexnet/normalization/kernels.c",
                "src/alexnet/preprocessing/kernels.c",
                "src/alexnet/training/kernels.c",
            ],
            depends=[str(header) for header in Path("src").rglob("*.h")],
            extra_compile_args=["-O3", "-fno-math-errno"],
            py_limited_api=True,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
