"""A capture that is killed, interrupted, out of disk or damaged ends with the bytes of one that was not."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store_world import SETTINGS, SITES, contents, llama, make_rows
from trimtab.errors import StorageError
from trimtab.lens.store.layout import seal_file, shard_file
from trimtab.lens.store.read import Store
from trimtab.lens.store.write import Part, capture_store
from trimtab.model.base import LanguageModel
from trimtab.records.lens import Selected
from trimtab.records.site import Site

TESTS = Path(__file__).parents[2]

KILLING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
root = Path(sys.argv[2])
from store_world import SETTINGS, SITES, contents, llama, make_rows
from trimtab.lens.store.write import capture_store

lm, rows = llama(), make_rows(9)

def in_a_process(folder, *, kill_at=None, rank=None, world=1):
    pid = os.fork()
    if pid:
        return pid
    steps = 0
    def counted(call):
        def step(*arguments):
            nonlocal steps
            steps += 1
            if steps == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)
        return step
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    if rank is not None:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world))
    try:
        done = capture_store(lm, rows, SITES, folder, SETTINGS)
        (folder.parent / f"{folder.name}.{rank}.steps").write_text(f"{steps} {done.kept} {done.written}")
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert ended(in_a_process(root / "whole")) == 0
whole = contents(root / "whole")
steps = int((root / "whole.None.steps").read_text().split()[0])
assert steps == 2 * len(whole)
for kill_at in range(1, steps + 1):
    folder = root / f"killed-{kill_at}"
    assert ended(in_a_process(folder, kill_at=kill_at)) == -signal.SIGKILL
    assert contents(folder) != whole, kill_at
    assert ended(in_a_process(folder)) == 0
    assert contents(folder) == whole, kill_at
    kept, written = map(int, (root / f"killed-{kill_at}.None.steps").read_text().split()[1:])
    assert kept == max(0, (kill_at - 3) // 4), (kill_at, kept)
    assert kept + written == (len(whole) - 1) // 2
pair = [in_a_process(root / "pair", rank=rank, world=2) for rank in (0, 1)]
assert [ended(pid) for pid in pair] == [0, 0]
assert contents(root / "pair") == whole
shares = [int((root / f"pair.{rank}.steps").read_text().split()[2]) for rank in (0, 1)]
assert sum(shares) == (len(whole) - 1) // 2 and min(shares) >= 1, shares
print("all as if nothing had happened", steps)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_capture_killed_at_any_step_and_one_in_two_processes_end_with_the_same_bytes(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", KILLING, str(TESTS), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("all as if nothing had happened")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return llama()


@pytest.fixture(scope="module")
def rows() -> list[Selected]:
    return make_rows()


@pytest.fixture(scope="module")
def whole(lm: LanguageModel, rows: list[Selected], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    capture_store(lm, rows, SITES, folder, SETTINGS, part=Part())
    return contents(folder)


def truncate(folder: Path) -> None:
    shard_file(folder, 1).write_bytes(shard_file(folder, 1).read_bytes()[:-10])


def flip(folder: Path) -> None:
    data = bytearray(shard_file(folder, 1).read_bytes())
    data[len(data) // 2] ^= 1
    shard_file(folder, 1).write_bytes(data)


def lose(folder: Path) -> None:
    shard_file(folder, 1).unlink()


def swap(folder: Path) -> None:
    shard_file(folder, 1).write_bytes(shard_file(folder, 0).read_bytes())
    seal_file(folder, 1).write_bytes(seal_file(folder, 0).read_bytes())


def garble(folder: Path) -> None:
    seal_file(folder, 1).write_text('{"sha256": ')


@pytest.mark.parametrize("damage", [truncate, flip, lose, swap, garble])
def test_a_torn_shard_is_found_and_only_it_is_done_again(
    lm: LanguageModel,
    rows: list[Selected],
    whole: dict[str, bytes],
    tmp_path: Path,
    damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    capture_store(lm, rows, SITES, tmp_path, SETTINGS, part=Part())
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    damage(tmp_path)
    assert contents(tmp_path) != whole
    done = capture_store(lm, rows, SITES, tmp_path, SETTINGS, part=Part())
    assert (done.redone, done.written, done.complete) == ((1,), 1, True)
    assert contents(tmp_path) == whole
    assert "shard-00001.safetensors is damaged and done again" in caplog.text
    changed = {path.name for path in tmp_path.iterdir() if before.get(path.name) != path.stat().st_mtime_ns}
    assert changed <= {shard_file(tmp_path, 1).name, seal_file(tmp_path, 1).name}


def test_a_whole_store_is_left_as_it_is(
    lm: LanguageModel, rows: list[Selected], whole: dict[str, bytes], tmp_path: Path
) -> None:
    capture_store(lm, rows, SITES, tmp_path, SETTINGS, part=Part())
    again = capture_store(lm, rows, SITES, tmp_path, SETTINGS, part=Part())
    assert (again.written, again.kept, again.redone, again.size) == (0, (len(whole) - 1) // 2, (), 0)


def test_a_full_disk_is_a_clear_error_and_finished_shards_stay(
    lm: LanguageModel, rows: list[Selected], whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, left = os.fsync, 6  # the card, two shards and their seals, then no more

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device") as caught:
        capture_store(lm, rows, SITES, tmp_path, SETTINGS, part=Part())
    assert "it resumes" in caught.value.todo
    monkeypatch.undo()
    kept = contents(tmp_path)
    assert {name: whole[name] for name in kept} == kept
    assert len([name for name in kept if name.endswith(".safetensors")]) >= 2
    done = capture_store(lm, rows, SITES, tmp_path, SETTINGS, part=Part())
    assert done.kept == 2
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("world", [2, 3, 50])
def test_any_number_of_processes_writes_the_same_store(
    lm: LanguageModel, rows: list[Selected], whole: dict[str, bytes], tmp_path: Path, world: int
) -> None:
    for rank in reversed(range(world)):
        done = capture_store(lm, rows, SITES, tmp_path, SETTINGS, part=Part(rank=rank, world=world))
        assert done.complete == (rank == 0)
    assert contents(tmp_path) == whole
    assert Store.open(tmp_path, lm).spans(Site(0)).values.isfinite().all()
