#!/bin/sh
# Rebuilds what ships in src/nec/assets: the model eurosat-tiny and the store eurosat. `make model` runs it.
# EUROSAT: path of EuroSAT_RGB.zip; RUNS: folder for what is made. An interrupted training goes on where it stopped.
set -eu
data="eurosat:${EUROSAT:?path of EuroSAT_RGB.zip}"
runs="${RUNS:-runs}"
here="$(dirname "$0")"
mkdir -p "$runs"

resume=""
[ ! -f "$runs/eurosat-mae.run/last.ckpt" ] || resume="--resume"
[ -d "$runs/eurosat-mae" ] || nec pretrain "$data" --out "$runs/eurosat-mae" --config "$here/eurosat-tiny.json" \
    --batch-size 192 --epochs 17.2698 --warmup-epochs 1.0159 --blr 0.00266667 --weight-decay 0.05 --optimizer muon \
    --crop-scale 0.6 1 --turns --decoded-share 0.5 --seed 0 $resume

[ -d "$runs/eurosat-tiny" ] || nec fit "$runs/eurosat-mae" "$data" --out "$runs/eurosat-tiny" --split train --seed 0
[ -d "$runs/eurosat.zarr" ] || nec encode "$data" --model "$runs/eurosat-tiny" --out "$runs/eurosat.zarr" --target-bytes 235
nec verify "$runs/eurosat.zarr"
nec classify "$runs/eurosat.zarr" --json
( cd "$runs" && sha256sum eurosat-mae/model.safetensors eurosat-tiny/codec.json ) | tee "$runs/SHA256SUMS"
