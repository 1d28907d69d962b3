"""Where the packages of a wheel come from: the folders of a checkout, installed below `gqabench` (ADR 18)."""

from setuptools import find_packages, setup

FOLDERS = ("attention_impls", "conf", "harness", "reports", "results")

setup(
    packages=[
        "gqabench",
        *(
            f"gqabench.{name}"
            for name in find_packages(include=[*FOLDERS, *(f"{folder}.*" for folder in FOLDERS)])
        ),
    ],
    package_dir={"gqabench": "gqabench"} | {f"gqabench.{folder}": folder for folder in FOLDERS},
)
