# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers.detectron2_host import needs

ROOT = Path(__file__).resolve().parent.parent.parent


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_without_detectron2_the_package_says_where_to_get_it() -> None:
    # None in sys.modules is how Python marks a module that must not be imported.
    done = python("import sys; sys.modules['detectron2'] = None; import cmpf.detectron2")
    assert done.returncode == 1
    assert "ImportError: cmpf.detectron2 needs Detectron2, which cannot be imported here" in done.stderr
    assert "INSTALL.md says how to build it from its repository" in done.stderr


def test_importing_the_package_enters_model_and_datasets_and_reads_no_dataset() -> None:
    needs("cmpf.detectron2")
    done = python(
        "import os; os.environ['DETECTRON2_DATASETS'] = '/nowhere'\n"
        "import cmpf.detectron2\n"
        "from cmpf.data import dataset_names\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "print(META_ARCH_REGISTRY.get('CMPF') is cmpf.detectron2.CMPF)\n"
        "print(set(dataset_names()) <= set(DatasetCatalog.list()) & set(MetadataCatalog.list()))\n"
    )
    assert done.stdout.split() == ["True", "True"], done.stderr
