#!/usr/bin/env bash
# Does it learn? A small network from random weights, on nothing but one real 3D-Front image, both stages, measured on
# this image in a grid of 128: PRQ must pass 60.
#
#   learn_one_room.sh SAMPLE [RESULTS]
#
# SAMPLE holds data/sample/*_0007.* and meta/frustum_mask.npz, as in the sample of "Panoptic 3D Scene Reconstruction
# from a Single RGB Image" (Dahnert et al. 2021).
set -euo pipefail
sample=${1:?"usage: learn_one_room.sh SAMPLE [RESULTS]"}
results=${2:-learn_one_room}
spec="$(cd "$(dirname "$0")" && pwd)/learn_one_room.yaml"

mkdir -p "$results"
split="$results/split.json"
echo '[{"scene_id": "sample", "image_id": "0007", "height": 240, "width": 320}]' > "$split"
data=("dataset.frustum_mask_path=$sample/meta/frustum_mask.npz")
for name in train val test; do
  data+=("dataset.$name.base_dir=$sample" "dataset.$name.json_path=$split")
done
run() { tao nvpanoptix3d "$1" -e "$spec" "results_dir=$results/$2" "${data[@]}" "${@:3}" > /dev/null; }

run train stage1 dataset.cache_dir="$results/cache" train.num_epochs=15 train.optim.max_steps=300
run train stage2 dataset.enable_3d=true dataset.cache_dir="$results/cache" train.num_epochs=10 \
  train.optim.max_steps=200 train.optim.lr=0.002 \
  "train.checkpoint_2d=$results/stage1/train/panoptic_recon_3d_model_latest.pth"
found="$results/stage2/train/nvpanoptix3d_model_latest.pth"
run evaluate stage2 dataset.enable_3d=true "evaluate.checkpoint=$found"
mkdir -p "$results/images"
cp "$sample/data/sample/rgb_0007.png" "$results/images"
run inference stage2 dataset.enable_3d=true "inference.checkpoint=$found" "inference.images_dir=$results/images" \
  inference.intrinsics=dataset
cat "$results/stage2/evaluate/metrics.txt"
echo "page: $results/stage2/inference/index.html"
python3 -c '
import json, sys
quality = json.load(open(sys.argv[1]))["metrics"]["PRQ"]
print(f"PRQ {quality:.1f} on the image it was trained on; wanted is 60")
sys.exit(quality < 60)' "$results/stage2/evaluate/metrics.json"
