"""The C helper and libpagecheck; everything else about the package is in setup.cfg.

Facts: a limited-API extension runs on every Python from 3.11 on. Free-threaded builds have no such
API before 3.15, and setuptools refuses to build one there. From 3.15 on extensions are named by
platform, a name that earlier versions do not look for. Decision: the limited API everywhere but on
free-threaded builds, under the name that every version looks for.
"""

import os
import re
import sysconfig
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LIBRARY = "pagecheck/lib/libpagecheck.so.1"
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")


class BuildWithLibrary(build_ext):
    """Builds the extension, and the shared library for callers in C++, Rust, Go."""

    def get_ext_filename(self, fullname: str) -> str:
        """The extension's file, `.abi3.so` where it uses the limited API."""
        return re.sub(r"\.abi3\b[^./]*\.so$", ".abi3.so", super().get_ext_filename(fullname))

    def run(self) -> None:
        """Puts the library where the extension goes: beside the sources, or into the wheel."""
        super().run()
        target = os.path.join(self.build_lib, LIBRARY)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        objects = self.compiler.compile(
            ["pagecheck/include/libpagecheck.c"],
            output_dir=self.build_temp,
            macros=[("_GNU_SOURCE", "1")],
            extra_postargs=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            depends=glob("pagecheck/include/*.h"),
        )
        soname = f"-Wl,-soname,{os.path.basename(LIBRARY)}"
        self.compiler.link_shared_object(objects, target, extra_postargs=[soname])
        if self.inplace:
            os.makedirs(os.path.dirname(LIBRARY), exist_ok=True)
            self.copy_file(target, LIBRARY)

    def get_outputs(self) -> list[str]:
        """Also the library."""
        return [*super().get_outputs(), os.path.join(self.build_lib, LIBRARY)]


setup(
    cmdclass={"build_ext": BuildWithLibrary},
    ext_modules=[
        Extension(
            "pagecheck.native._native",
            sources=sorted(glob("pagecheck/native/*/*.c")),
            depends=sorted(glob("pagecheck/native/*/*.h") + glob("pagecheck/include/*.h")),
            define_macros=[("_GNU_SOURCE", "1")],
            extra_compile_args=["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
            libraries=["rt", "pthread"],
            py_limited_api=LIMITED,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
)
