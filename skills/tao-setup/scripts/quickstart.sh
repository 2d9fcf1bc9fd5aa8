#!/usr/bin/env bash
# From nothing to rooms one can turn in a browser: makes furnished rooms, trains both stages of a small NVPanoptix3D on
# them, measures it on rooms it has not seen, reconstructs photos of others, exports. Run it through `make quickstart`.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out="$(cd "$here/../../.." && pwd)/quickstart"
step() { printf '\n== %s\n' "$*" >&2; }

rm -rf "$out"
mkdir -p "$out"
cd "$out"
export SKILLBANK_HOME="$out/home"

step "1/6 what this machine can do"
skillbank doctor -o table

step "2/6 furnished rooms with exact annotations (about two minutes on two cores)"
skillbank data make nvpanoptix3d --format front3d --scenes 80 --seed 1 --to rooms

step "3/6 five jobs: each waits for the one it builds on"
create() { # name action arguments...
  tao nvpanoptix3d create-job --kind experiment --workspace-id quickstart --name "$1" --action "$2" \
    --specs "@$here/quickstart.yaml" "${@:3}" -o id
}
rooms=(--train-dataset-uri rooms --eval-dataset-uri rooms "dataset.cache_dir=$out/cache")
stage2=(dataset.enable_3d=true train.num_epochs=6 train.optim.max_steps=192 train.optim.lr=0.002 dataset.train.batch_size=2)
first=$(create stage1 train "${rooms[@]}")
second=$(create stage2 train "${rooms[@]}" "${stage2[@]}" --parent-job-id "$first")
measure=$(create measure evaluate --eval-dataset-uri rooms dataset.enable_3d=true --parent-job-id "$second")
rebuild=$(create rebuild inference --inference-dataset-uri rooms dataset.enable_3d=true --parent-job-id "$second")
export=$(create export export --parent-job-id "$second")

step "4/6 stage 1: depth and 2D panoptic segments, from random weights (about three minutes)"
skillbank jobs watch "$first" > /dev/null
step "5/6 stage 2: geometry and 3D panoptic segments (about two minutes), then measuring, rebuilding, exporting"
for job in "$second" "$measure" "$rebuild" "$export"; do skillbank jobs watch "$job" > /dev/null; done

step "6/6 what they left"
skillbank jobs list -o table
echo
cat "$SKILLBANK_HOME/jobs/$measure/results/evaluate/metrics.txt"
echo
echo "jobs and results: $SKILLBANK_HOME/jobs"
echo "graph:            $SKILLBANK_HOME/jobs/$export/results/export"
echo "rooms to turn:    file://$SKILLBANK_HOME/jobs/$rebuild/results/inference/index.html"
echo "next: skills/tao-train-*/SKILL.md, or  skillbank --help"
