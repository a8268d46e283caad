# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Metadata of the package. Nothing is compiled."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

VERSION = re.findall(r'^__version__ = "(.+)"', (ROOT / "cmpf/__init__.py").read_text(encoding="utf-8"), re.M)[
    0
]

CORE = [
    "torch>=2.7",
    "torchvision>=0.22",
    "open_clip_torch>=3",
    "timm>=1.0.16",
    "segment-anything>=1.0",
    "pydantic>=2.10",
    "PyYAML>=6",
    "numpy>=1.26",
    "scipy>=1.11",
    "pillow>=10.1",
    "pycocotools>=2.0.7",
    "faster-coco-eval>=1.8",
    "safetensors>=0.4.3",
    "huggingface_hub>=0.23",
    "filelock>=3.12",
    "tqdm>=4.66",
    "tensorboard>=2.16",
]
DEV = [
    "pytest>=8",
    "pytest-cov>=5",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "ruff>=0.6",
    "mypy>=1.11",
    "types-tqdm",
    "types-PyYAML",
    "selenium>=4.30",
    "axe-core-python>=0.1",
    "nbclient>=0.10",
    "ipykernel>=6",
]

setup(
    name="cmpf",
    version=VERSION,
    description="Cross-Model Prior Fusion: open-vocabulary segmentation with frozen CLIP and SAM",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    # configs/ stands at the top of a checkout and travels inside the installed package.
    packages=[*find_packages(include=["cmpf", "cmpf.*"]), "cmpf.configs"],
    package_dir={"cmpf.configs": "configs"},
    package_data={
        "cmpf": ["assets/*", "assets/*/*", "py.typed"],
        "cmpf.configs": ["**/*.yaml", "lazy/*.py"],
    },
    install_requires=CORE,
    extras_require={
        "dev": DEV,
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.5", "mkdocstrings[python]>=0.29"],  # make docs
        # gradio caps pillow below 13; the page's examples are photographs of scikit-image, where pooch keeps them.
        "web": ["gradio>=6.31,<7", "scikit-image>=0.22", "pooch>=1.8"],
        "video": ["av>=14"],
        "label": ["pyarrow>=17", "fsspec>=2024.6"],  # cmpf label; s3fs, gcsfs and others for buckets
        "wandb": ["wandb>=0.17"],
        "supervision": ["supervision>=0.22"],
        "ray": ["ray[data]>=2.60", "pyarrow>=17", "fsspec>=2024.6"],  # cmpf label --ray
        "export": ["onnx>=1.23", "onnxscript>=0.7", "onnxruntime>=1.32"],
        "completion": ["shtab>=1.7"],  # cmpf --completion
        "cityscapes": ["cityscapesscripts>=2.2.4"],  # official mIoU and AP, preparation
    },
    entry_points={"console_scripts": ["cmpf = cmpf.cli:main"]},
)
