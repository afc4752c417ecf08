#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes: the tests marked `gpu`, then benchmarks/gpu_report.py.
#
#   benchmarks/gpu.sh                                    writes benchmarks/results/gpu.md
#   SPAM_GPU_SMOKE=1 benchmarks/gpu.sh --out FILE        the same on the CPU with small sizes, so that it cannot rot
#
# Without a GPU and without SPAM_GPU_SMOKE the report lists everything as not run. PYTHON names another interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
log=$(mktemp)
trap 'rm -f "$log"' EXIT

tests=(tests benchmarks) small=()
[ -z "${SPAM_GPU_SMOKE:-}" ] || tests=(tests/training/test_gpu.py) small=(--small --device cpu)
status=0
# -P: without it, `spam` is the folder here, which lacks the rooms `cli` and `schemas` of an installed package.
timeout 240 "$python" -P -m pytest -m gpu -n 0 -q -p no:cacheprovider "${tests[@]}" >"$log" 2>&1 || status=$?
tail -n 3 "$log"
said=$(grep -E '(passed|failed|skipped|error)' "$log" | tail -n 1 | tr -d '=' | xargs)
[ "$status" = 0 ] || said="exit code $status: $said"
exec timeout 340 "$python" benchmarks/gpu_report.py --tests "$said" "${small[@]}" "$@"
