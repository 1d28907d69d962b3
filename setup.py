"""Where packages come from: in a wheel, the folders of a checkout are installed below `gqabench` (ADR 18).

An editable install puts a folder of links on the search path instead, in which a checkout looks as it does
once installed: nothing but `gqabench` can be imported from it, and type checkers and editors follow it.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

FOLDERS = ("attention_impls", "conf", "harness", "reports", "results")
LINKS = ".types"

if "editable_wheel" in sys.argv and Path(LINKS, "gqabench", "__init__.py").is_symlink():
    setup(packages=["gqabench"], package_dir={"": LINKS})
else:
    found = find_packages(include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)])
    setup(
        packages=["gqabench", *(f"gqabench.{name}" for name in found)],
        package_dir={"gqabench": "gqabench"} | {f"gqabench.{folder}": folder for folder in FOLDERS},
    )
