#!/usr/bin/env bash
# From nothing to finished jobs, with what this version has. Run it through `make quickstart`.
#
# The four networks are asked for specs and plans. Jobs run on the small network that the tests use, until the
# implementations of the four are part of the bank; `skillbank networks` tells which are.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
out="$root/quickstart"
step() { printf '\n== %s\n' "$*" >&2; }

rm -rf "$out"
mkdir -p "$out"
cd "$out"
export SKILLBANK_HOME="$out/home"

step "1/6 what this machine can do"
skillbank doctor -o table

step "2/6 networks, and a plan for one of them"
skillbank networks -o table
skillbank spec template mask2former train > mask2former.yaml
skillbank spec validate mask2former train mask2former.yaml -o table
tao mask2former create-job --kind experiment --name first --action train --workspace-id quickstart \
  --specs @mask2former.yaml --train-dataset-uri s3://bucket/coco --eval-dataset-uri s3://bucket/coco \
  --dataset-format coco_panoptic --dry-run --explain > plan.json
echo "the plan, with the origin of every value: $out/plan.json"

step "3/6 data for the small network"
export SKILLBANK_NETWORKS=toy_network PYTHONPATH="$root/tests/fixtures"
for split in train val; do
  mkdir -p "data/$split"
  awk -v seed="${#split}" 'BEGIN { srand(seed); for (i = 0; i < 200; i++) {
    x = 2 * rand() - 1; y = 2 * rand() - 1; print i, x, y, (y > x * x - 0.3) ? 1 : 0 } }' > "data/$split/points.txt"
done

step "4/6 three jobs, each with the one before as parent; they wait for each other"
create() {
  tao toy create-job --kind experiment --workspace-id quickstart --name "$1" --action "$1" "${@:2}" -o id
}
train=$(create train --specs '{"train": {"num_epochs": 5}}' --train-dataset-uri data/train --eval-dataset-uri data/val)
evaluate=$(create evaluate --specs '{}' --parent-job-id "$train" --eval-dataset-uri data/val)
inference=$(create inference --specs '{}' --parent-job-id "$train" --inference-dataset-uri data/val)
skillbank jobs watch "$train" > /dev/null

step "5/6 waiting for evaluate and inference"
skillbank jobs watch "$evaluate" > /dev/null
skillbank jobs watch "$inference" > /dev/null

step "6/6 what they left"
skillbank jobs list -o table
echo
skillbank jobs artifacts "$train" -o table
echo
cat "$SKILLBANK_HOME/jobs/$evaluate/results/evaluate/metrics.json"
echo
echo "jobs and results: $SKILLBANK_HOME/jobs"
echo "next: skills/tao-train-*/SKILL.md, or  skillbank --help"
