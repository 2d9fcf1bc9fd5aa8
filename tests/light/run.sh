#!/usr/bin/env bash
# Builds the wheel, installs it without torch in a fresh environment outside the checkout, starts every light command.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=$(cd "$root" && realpath -s "${PYTHON:-python3}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$root"
"$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --wheel-dir "$work/dist" .
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check install --quiet -c constraints.txt "$work"/dist/*.whl
cd "$work"
export PATH="$work/venv/bin:$PATH" SKILLBANK_HOME="$work/home"
python "$root/tests/light/commands.py"
