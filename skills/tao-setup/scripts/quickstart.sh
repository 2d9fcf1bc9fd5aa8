#!/usr/bin/env bash
# From nothing to pictures: made-up images, a small Mask2Former trained on them, measured, run, exported. Run it
# through `make quickstart`. What needs other networks is shown as a plan; `skillbank networks` tells which run.
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

step "2/6 networks, and a plan for one of them"
skillbank networks -o table
skillbank spec template nvpanoptix3d train > nvpanoptix3d.yaml
skillbank spec validate nvpanoptix3d train nvpanoptix3d.yaml -o table
tao nvpanoptix3d create-job --kind experiment --name first --action train --workspace-id quickstart \
  --specs @nvpanoptix3d.yaml --train-dataset-uri s3://bucket/rooms --eval-dataset-uri s3://bucket/rooms \
  --dry-run --explain > plan.json
echo "the plan, with the origin of every value: $out/plan.json"

step "3/6 made-up images with exact annotations"
skillbank data make mask2former --format coco_panoptic --images 240 --size 128x160 --seed 1 --to data/train
skillbank data make mask2former --format coco_panoptic --images 24 --size 128x160 --seed 2 --to data/val

step "4/6 four jobs, the later ones with the training as parent; they wait for it (about three minutes on two cores)"
create() {
  tao mask2former create-job --kind experiment --workspace-id quickstart --name "$1" --action "$1" \
    --specs "@$here/quickstart.yaml" --train-dataset-uri data/train --eval-dataset-uri data/val "${@:2}" -o id
}
train=$(create train)
evaluate=$(create evaluate --parent-job-id "$train")
inference=$(create inference --parent-job-id "$train")
jobs=("$evaluate" "$inference")
if python3 -c 'import onnx, onnxruntime, onnxscript' 2> /dev/null; then
  jobs+=("$(create export --parent-job-id "$train")")
fi
skillbank jobs watch "$train" > /dev/null

step "5/6 waiting for the others"
for job in "${jobs[@]}"; do skillbank jobs watch "$job" > /dev/null; done

step "6/6 what they left"
skillbank jobs list -o table
echo
skillbank jobs artifacts "$train" -o table
echo
cat "$SKILLBANK_HOME/jobs/$evaluate/results/evaluate/metrics.txt"
echo
echo "pictures: $SKILLBANK_HOME/jobs/$inference/results/inference/overlays"
echo "jobs and results: $SKILLBANK_HOME/jobs"
echo "next: skills/tao-train-*/SKILL.md, or  skillbank --help"
