"""The C helper; everything else about the package is in setup.cfg."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "pagecheck.native._native",
            sources=sorted(glob("pagecheck/native/*/*.c")),
            depends=sorted(glob("pagecheck/native/*/*.h")),
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            libraries=["rt", "pthread"],
            py_limited_api=True,
        )
    ]
)
