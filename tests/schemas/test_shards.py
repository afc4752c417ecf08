"""Parts of the work: every task of a job array gets another part, and together they do everything once."""

import pytest

from spam.schemas.shards import part_of, shard_fault


def set_task(monkeypatch: pytest.MonkeyPatch, **values: int) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))


@pytest.mark.parametrize(("first", "last", "step"), [(0, 6, 1), (1, 7, 1), (3, 21, 3), (5, 5, 1)])
def test_tasks_of_a_slurm_array_are_the_parts_in_order(monkeypatch, first, last, step):
    tasks = range(first, last + 1, step)  # sbatch --array=first-last:step
    found = []
    for task in tasks:
        set_task(monkeypatch, ID=task, COUNT=len(tasks), MIN=first, MAX=last, STEP=step)
        found.append(part_of("slurm"))
    assert found == [(number, len(tasks)) for number in range(len(tasks))]


def test_parts_come_from_the_option_before_the_environment(monkeypatch):
    assert part_of(None) == (0, 1)
    set_task(monkeypatch, ID=2, COUNT=3)  # an array for something else, e.g. one donor a task
    assert part_of(None) == (0, 1)
    assert part_of("2/8") == (1, 8)
    assert part_of("slurm") == (2, 3)
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert part_of(None) == (1, 2)
    assert part_of("2/8") == (1, 8)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "SLURM_ARRAY_TASK_ID"),
        ({"ID": 3}, "SLURM_ARRAY_TASK_COUNT"),
        ({"ID": 7, "COUNT": 3, "MIN": 0}, "task 7 .* 3 evenly spaced"),  # sbatch --array=0,3,7
        ({"ID": 6, "COUNT": 3, "MIN": 1, "STEP": 2}, "task 6 .* 3 evenly spaced"),
        ({"ID": 1, "COUNT": 3, "MIN": 2}, "task 1 .* 3 evenly spaced"),
    ],
)
def test_what_is_no_part_is_refused(monkeypatch, values, words):
    for name in ("ID", "COUNT", "MIN", "STEP"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    set_task(monkeypatch, **values)
    with pytest.raises(ValueError, match=f"--shard slurm.*{words}"):
        part_of("slurm")
    assert shard_fault("slurm", is_overwrite=False) is not None


def test_overwriting_is_for_one_process():
    assert shard_fault("1/1", is_overwrite=True) is None
    assert shard_fault("1/2", is_overwrite=False) is None
    assert "--overwrite" in str(shard_fault("1/2", is_overwrite=True))
