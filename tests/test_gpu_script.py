"""benchmarks/gpu.sh runs to its end, on the CPU with small sizes: GPU time is short, and must not show its faults first."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PARTS = ["Tests marked `gpu`", "Embedding", "Training and prediction", "Feature graph"]


def sections_of(page: Path) -> dict[str, str]:
    _, *sections = page.read_text(encoding="utf-8").split("\n## ")
    return dict(section.split("\n\n", 1) for section in sections)


@pytest.mark.slow
def test_every_part_runs_on_the_cpu(tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    done = subprocess.run(
        ["bash", BENCHMARKS / "gpu.sh", "--out", page],
        env={**os.environ, "PYTHON": sys.executable, "SPAM_GPU_SMOKE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    sections = sections_of(page)
    assert list(sections) == PARTS
    assert "not run" not in page.read_text(encoding="utf-8")
    assert re.search(r"\d (passed|skipped)", sections[PARTS[0]])
    cells = sections["Embedding"].strip().splitlines()[-1].split("|")
    # 12 blocks of width 192 on 197 tokens (12 d² and 2 n d products of each), and the patches: two operations for each.
    linear, attention, patches = 12 * 12 * 192**2 * 197, 12 * 2 * 197**2 * 192, 196 * 768 * 192
    assert float(cells[2]) == pytest.approx(2e-9 * (linear + attention + patches), abs=0.1)
    assert all(float(re.sub(r"[^\d.]", "", cell)) > 0 for cell in cells[3:-2])
    assert [
        line.split("|")[1].split(",")[0].strip() for line in sections[PARTS[2]].splitlines() if "GB" in line
    ] == [
        "pretrain",
        "finetune",
        "predict",
    ]
    assert "| faiss-" in sections["Feature graph"]


@pytest.mark.slow
def test_without_a_gpu_nothing_is_claimed(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    page = tmp_path / "gpu.md"
    command = [sys.executable, BENCHMARKS / "gpu_report.py", "--out", page]
    subprocess.run(command, check=True)
    told = [text.strip() for text in sections_of(page).values()]
    assert told == ["not run", *["not run: no GPU was at hand"] * (len(PARTS) - 1)]
