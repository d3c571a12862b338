#!/usr/bin/env bash
# The program that is handed out: how large it is, how much memory a picture of the preset 3m takes it, and how soon the first
# one of 16m is there: tests/program.sh, after `cargo build --workspace`. The first two have limits; a time has none in a test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-target}"
cargo build --quiet --profile dist --package traflow-runtime
program="$target/dist/traflow-run"
scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT

# At most, in bytes.
limit() {
    printf '%-42s %9d bytes, at most %d\n' "$1" "$2" "$3"
    [ "$2" -le "$3" ] || { printf 'error: %s: too much\n' "$1" >&2 && exit 1; }
}
number() { sed -E "s/.*\"$1\":([0-9.]+).*/\1/"; }

limit "traflow-run" "$(stat -c %s "$program")" 1500000
for preset in 3m 16m; do
    "$target/debug/traflow" init --preset "$preset" -o "$scratch/$preset.safetensors" >/dev/null
    "$target/debug/traflow-export" "$scratch/$preset.safetensors" --fp16 -o "$scratch/$preset.traflow" >/dev/null
done
bench=$("$program" "$scratch/3m.traflow" --bench --json)
limit "its memory at the peak, 3m in fp16" "$(number peak_resident_bytes <<<"$bench")" 20000000
bench=$("$program" "$scratch/16m.traflow" --bench --json)
printf '16m in fp16: the first picture after %s ms, the others %s ms each\n' \
    "$(number ms_first <<<"$bench")" "$(number ms_per_image <<<"$bench")"
