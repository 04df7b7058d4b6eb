"""The one part of the build that pyproject.toml cannot say: the compiled coder, left out where no compiler works."""

from __future__ import annotations

import os
import sys

from setuptools import Extension, setup

gcc = ["-O3", "-g0", "-ffp-contract=off"]  # no fused products: values must not depend on how the package was built
kernel = Extension(
    "nec.codec._kernel",
    ["src/nec/codec/_kernel.c"],
    depends=["src/nec/codec/_contexts.h", "src/nec/codec/_values.h"],
    extra_compile_args=["/O2"] if sys.platform == "win32" else gcc + os.environ.get("NEC_CFLAGS", "").split(),
    extra_link_args=os.environ.get("NEC_LDFLAGS", "").split(),
    py_limited_api=True,
    optional=not os.environ.get("NEC_NEED_KERNEL"),
)
setup(ext_modules=[kernel], options={"bdist_wheel": {"py_limited_api": "cp311"}})
