"""What `pip install .` installs: the package with its configs, and the command."""

import importlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import refinedet_tf

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built in a copy of the folders that go into it."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("refinedet_tf", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, *build, str(source)], check=True)
    (file,) = folder.glob("*.whl")
    return file


def test_every_module_and_config_is_in_the_wheel(wheel):
    files = {file.relative_to(ROOT).as_posix() for file in (ROOT / "refinedet_tf").rglob("*.py")}
    configs = [file.relative_to(ROOT).as_posix() for file in (ROOT / "configs").rglob("*.*")]
    assert "configs/voc2007_test_photos/train.txt" in configs
    files |= {f"refinedet_tf/{name}" for name in configs}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("refinedet_tf/")}
        (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert (
            "refinedet = refinedet_tf.commands.main:run_from_terminal" in archive.read(entry_points).decode()
        )
    files |= {
        f"refinedet_tf/pretrained/{name}" for name in ("MODEL_CARD.md", "config.json", "final.weights.h5")
    }
    assert packed == files | {"refinedet_tf/py.typed", "refinedet_tf/reports/page.html"}


def test_configs_are_found_by_name_from_another_folder(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import refinedet_tf as rd; config = rd.load_config('coco512_resnet101.json');"
        "print(rd.__file__, config.model.backbone, config.num_classes)"
    )
    # Without the site packages' own copy: the extracted one comes first.
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
    )
    file, backbone, classes = result.stdout.split()
    assert Path(file).is_relative_to(tmp_path)
    assert (backbone, classes) == ("resnet101", "80")


def test_other_systems_are_refused_in_one_line(wheel, monkeypatch):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        assert "on Linux and macOS" in archive.read(metadata).decode().partition("\n\n")[0]
    assert "## Install (Linux or macOS," in (ROOT / "README.md").read_text(encoding="utf-8")
    monkeypatch.setattr(os, "name", "nt")
    try:
        with pytest.raises(ImportError, match="^refinedet_tf runs on Linux and macOS; on Windows"):
            importlib.reload(refinedet_tf)
    finally:
        monkeypatch.undo()
