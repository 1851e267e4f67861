#!/usr/bin/env bash
# Measure a CUDA device in ten minutes; results/gpu then holds gpu.json and a page for docs/results/gpu (benchmarks/_gpu.py).
#   bash benchmarks/gpu.sh           # with .venv if there is one
#   bash benchmarks/gpu.sh --dry     # every part on tiny input on a CPU, in a minute
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -d .venv ]; then
  PATH=$PWD/.venv/bin:$PATH
fi
PYTHONPATH=workflow/src PYTHONUTF8=1 exec "$(command -v python || command -v python3)" -u benchmarks/_gpu.py "$@"
