"""The wheel holds what users need (types, weights, licence), nothing of the workshop, and is small."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMIT = 12 * 2**20
NOT_SHIPPED = ("tests/", "science/", "bench/", "runs/", "recipes/")
CACHES = ("__pycache__", ".pyc", ".ipynb_checkpoints")


def sources() -> dict[str, int]:
    """Size in bytes of every file of the package in this tree."""
    return {
        str(path.relative_to(ROOT / "src")): path.stat().st_size
        for path in sorted((ROOT / "src" / "trimtab").rglob("*"))
        if path.is_file() and not any(mark in str(path) for mark in CACHES)
    }


def faults(names: Mapping[str, int], wheel_bytes: int, wanted: Mapping[str, int]) -> list[str]:
    """What is wrong with a wheel: file sizes inside it, its own size, and the files that it must hold."""
    found = [f"{name} is missing" for name in wanted if name not in names]
    found += [f"{name} is cut" for name, size in wanted.items() if names.get(name, size) != size]
    found += [f"{name} does not belong" for name in names if name.startswith(NOT_SHIPPED) or "/tests/" in name]
    found += [f"{name} is a cache" for name in names if any(mark in name for mark in CACHES)]
    found += [] if "trimtab/py.typed" in names else ["no py.typed"]
    found += [] if any(name.endswith(".dist-info/licenses/LICENSE") for name in names) else ["no licence"]
    found += [f"{wheel_bytes} bytes, at most {LIMIT}"] if wheel_bytes > LIMIT else []
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (made,) = folder.glob("*.whl")
    return made


def test_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {info.filename: info.file_size for info in archive.infolist()}
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "trimtab = trimtab.cli.main:main" in archive.read(entry_points).decode()
    assert faults(names, wheel.stat().st_size, sources()) == []


def test_the_lab_weights_are_among_what_must_be_shipped() -> None:
    folder = ROOT / "src" / "trimtab" / "lab" / "weights"
    shipped = [name for name in sources() if name.startswith("trimtab/lab/weights/")]
    assert bool(shipped) == folder.is_dir()
    if shipped:
        assert any(name.endswith(".safetensors") for name in shipped)


@pytest.mark.parametrize(
    ("change", "size", "said"),
    [
        ({"trimtab/lab/weights/model.safetensors": None}, 1, "trimtab/lab/weights/model.safetensors is missing"),
        ({"trimtab/lab/weights/model.safetensors": 3}, 1, "trimtab/lab/weights/model.safetensors is cut"),
        ({"tests/test_x.py": 1}, 1, "tests/test_x.py does not belong"),
        ({"trimtab/a.pyc": 1}, 1, "trimtab/a.pyc is a cache"),
        ({"trimtab-1.dist-info/licenses/LICENSE": None}, 1, "no licence"),
        ({}, LIMIT + 1, f"{LIMIT + 1} bytes, at most {LIMIT}"),
    ],
)
def test_a_bad_wheel_is_found(change: dict[str, int | None], size: int, said: str) -> None:
    good: dict[str, int | None] = {
        "trimtab/py.typed": 0,
        "trimtab/lab/weights/model.safetensors": 9,
        "trimtab-1.dist-info/licenses/LICENSE": 1,
    }
    names = {name: bytes_ for name, bytes_ in (good | change).items() if bytes_ is not None}
    wanted = {"trimtab/py.typed": 0, "trimtab/lab/weights/model.safetensors": 9}
    assert faults(names, size, wanted) == [said]
