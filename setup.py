"""Builds the CPU kernels, `src/snello/ops/*/cpu.cpp`, into one library beside the package.

Everything else about the package stands in pyproject.toml. Without torch or a C++ compiler at hand
the package is built without kernels: it then runs on the plain references, and says so.
"""

import os
import shutil
from glob import glob
from warnings import warn

from setuptools import setup

FLAGS = ["-O3", "-g0", "-std=c++20", "-fopenmp", "-fno-math-errno", "-Wno-unknown-pragmas"]


def list_extensions():
    """The one library of kernels, or nothing where it cannot be built."""
    compiler = os.environ.get("CXX", "g++").split()[0]
    if shutil.which(compiler) is None:
        warn(f"no C++ compiler ({compiler}): building without kernels", stacklevel=1)
        return []
    try:
        from torch.utils.cpp_extension import CppExtension
    except ModuleNotFoundError:
        warn("no torch in this environment: building without kernels", stacklevel=1)
        return []
    return [
        CppExtension(
            "snello.ops._cpu",
            sorted(glob("src/snello/ops/*/cpu.cpp")),
            include_dirs=[os.path.abspath("src/snello/ops")],
            depends=sorted(
                path
                for end in ("h", "inc")
                for path in glob(f"src/snello/ops/**/*.{end}", recursive=True)
            ),
            extra_compile_args=FLAGS,
            extra_link_args=["-fopenmp"],
            optional=True,
        )
    ]


def choose_commands():
    """Build through torch where it is there: it knows its own headers and libraries."""
    try:
        from torch.utils.cpp_extension import BuildExtension
    except ModuleNotFoundError:
        return {}
    return {"build_ext": BuildExtension.with_options(use_ninja=False, no_python_abi_suffix=True)}


setup(ext_modules=list_extensions(), cmdclass=choose_commands())
