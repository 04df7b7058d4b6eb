#!/bin/sh
# Rebuilds what ships in src/nec/assets: the models eurosat-tiny and eurosat-symmetric and the store eurosat. `make model` runs it.
# EUROSAT: path of EuroSAT_RGB.zip; RUNS: folder for what is made. An interrupted training goes on where it stopped.
set -eu
data="eurosat:${EUROSAT:?path of EuroSAT_RGB.zip}"
runs="${RUNS:-runs}"
here="$(dirname "$0")"
mkdir -p "$runs"

pretrain() { # NAME, then the rest of the arguments
    name="$1"; shift
    [ ! -d "$runs/$name" ] || return 0
    resume=""
    [ ! -f "$runs/$name.run/last.safetensors" ] || resume="--resume"
    nec pretrain "$data" --out "$runs/$name" --batch-size 192 --weight-decay 0.05 --optimizer muon \
        --crop-scale 0.6 1 --turns --decoded-share 0.5 --seed 0 "$@" $resume
}

# A masked autoencoder of six blocks, 1,700 steps.
pretrain eurosat-mae --config "$here/eurosat-tiny.json" --epochs 17.2698 --warmup-epochs 1.0159 --blr 0.00266667
# Its first four blocks, whose tokens code better, with a decoder of their own.
pretrain eurosat-cut --cut "$runs/eurosat-mae" 4 --epochs 1.5 --warmup-epochs 0.1 --blr 0.00133333

[ -d "$runs/eurosat-tiny" ] || nec fit "$runs/eurosat-cut" "$data" --out "$runs/eurosat-tiny" --split train --seed 0
# The same weights, embeddings being means over the eight symmetries of the square: of these the store is made.
[ -d "$runs/eurosat-symmetric" ] || nec fit "$runs/eurosat-tiny" "$data" --out "$runs/eurosat-symmetric" --symmetries 8 --split train --seed 0
[ -d "$runs/eurosat.zarr" ] || nec encode "$data" --model "$runs/eurosat-symmetric" --out "$runs/eurosat.zarr" --quality 0.25 --threads 1
nec verify "$runs/eurosat.zarr"
nec classify "$runs/eurosat.zarr"
( cd "$runs" && sha256sum eurosat-tiny/model.safetensors eurosat-tiny/codec.json eurosat-symmetric/codec.json ) | tee "$runs/SHA256SUMS"
echo "to ship them: copy $runs/eurosat-tiny and $runs/eurosat-symmetric to src/nec/assets/models/ and $runs/eurosat.zarr to src/nec/assets/stores/"
