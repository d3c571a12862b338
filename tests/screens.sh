#!/usr/bin/env bash
# One picture on three screens: a model and a seed, drawn on the OLED of a Cortex-M3, on the screen of a Cortex-A53 (both QEMU's) and
# by the playground in Chromium, each with the digest that traflow-run prints.
#
#   tests/screens.sh [FOLDER]      keeps oled.png, ramfb.png and browser.png there; TRAFLOW_PROGRAMS is a folder with
#                                  traflow-export and traflow-run, which are built without it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/toolchain.sh
need qemu-system-arm qemu-system-arm
need qemu-system-aarch64 qemu-system-arm
need chromium chromium
need npm nodejs npm

scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
folder=${1:-$scratch}
mkdir -p "$folder"
folder=$(realpath "$folder")
if [ -z "${TRAFLOW_PROGRAMS:-}" ]; then
    cargo build --quiet --package traflow-export --package traflow-run --bins
    TRAFLOW_PROGRAMS=${CARGO_TARGET_DIR:-target}/debug
fi
TRAFLOW_PROGRAMS=$(realpath "$TRAFLOW_PROGRAMS")
export TRAFLOW_PROGRAMS TRAFLOW_MODEL=$scratch/fashion-tiny.traflow
seed=1
"$TRAFLOW_PROGRAMS/traflow-export" models/fashion-tiny.safetensors --int8 --island-share 1 -o "$TRAFLOW_MODEL" >/dev/null
expected=$("$TRAFLOW_PROGRAMS/traflow-run" "$TRAFLOW_MODEL" --seed $seed --digest | awk '{ print $1 }')
printf '%-12s %s\n' traflow-run "$expected"

# The digest that a board prints of the picture.
shown() { awk -v seed=$seed '/^shown: seed / && $3 == seed && $5 == 0 && !found++ { print $6 }'; }
compare() {
    [ "$2" = "$expected" ] || { printf 'error: %s shows %s\n' "$1" "${2:-nothing}" >&2; exit 1; }
    printf '%-12s %s\n' "$1" "$2"
}
compare lm3s6965evb "$(firmware-demo/pictures.py lm3s6965evb clothes "shown: seed $seed at 0 " "$folder/oled.png" | shown)"
# All twelve pictures.
compare virt64 "$(firmware-demo/pictures.py virt64 screen 'screen: 0 to' "$folder/ramfb.png" | shown)"

[ -e web/dist/playground/index.html ] || web/build playground >/dev/null
cd web
[ -e node_modules/playwright-core ] || npm ci --silent
compare Chromium "$(node test/screen.js "$TRAFLOW_MODEL" $seed "$folder/browser.png")"
