#!/usr/bin/env bash
# (Model, seed, steps) names one picture: two trained students as integers, of one channel and of three, 16 seeds by one and
# by four steps, on every instruction set and number of threads of this machine, on ARM with NEON (QEMU), in WebAssembly (Node),
# and on every board of firmware-demo that has the memory for them (QEMU).
#
#   tests/digests.sh      some minutes; TRAFLOW_PROGRAMS is a folder with traflow-export and traflow-run, which are built without it
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tests/toolchain.sh
need qemu-aarch64 qemu-user
need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
need qemu-system-arm qemu-system-arm
need qemu-system-aarch64 qemu-system-arm
need qemu-system-riscv32 qemu-system-misc
need node nodejs

scratch=$(mktemp -d)
trap 'rm -r "$scratch"' EXIT
programs=${TRAFLOW_PROGRAMS:-}
if [ -z "$programs" ]; then
    cargo build --quiet --package traflow-export --package traflow-run --bins
    programs=${CARGO_TARGET_DIR:-target}/debug
fi
programs=$(cd "$programs" && pwd)

# The lines of a program that prints steps, seed and digest, against those that are expected.
compare() {
    diff "$scratch/expected" "$scratch/found" >"$scratch/diff" ||
        { cat "$scratch/diff" >&2; printf 'error: %s on %s: other pictures\n' "$student" "$1" >&2; exit 1; }
    printf '%-16s %-34s %d pictures\n' "$student" "$1" "$(wc -l <"$scratch/found")"
}
pictures() {
    for steps in 1 4; do
        "$@" "$model" --count 16 --steps $steps --digest | awk -v steps=$steps '{ print steps, $3, $1 }'
    done
}

find_cargo aarch64-unknown-linux-gnu std,panic_abort
CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc "${cargo[@]}" build --quiet --package traflow-run \
    --target aarch64-unknown-linux-gnu
arm64=${CARGO_TARGET_DIR:-target}/aarch64-unknown-linux-gnu/debug/traflow-run
[ -e web/traflow-simd128.wasm ] || web/build >/dev/null
cat >"$scratch/pictures.mjs" <<SCRIPT
import { readFileSync } from "node:fs";
import { TraFlow } from "$PWD/web/traflow.js";
const [, , path, variant] = process.argv;
const model = await TraFlow.load(readFileSync(path), { variant });
for (const steps of [1, 4]) {
  for (let seed = 0; seed < 16; seed++) console.log(steps, seed, model.generate({ seed, steps }).digest);
}
SCRIPT

for student in fashion-tiny emoji-student; do
    model=$scratch/$student.traflow
    "$programs/traflow-export" "models/$student.safetensors" --int8 --island-share 1 --steps 1,4 -o "$model" >/dev/null
    pictures env TRAFLOW_ISA=scalar "$programs/traflow-run" >"$scratch/expected"
    for isa in avx2 avxvnni avx512 vnni amx; do
        if ! TRAFLOW_ISA=$isa "$programs/traflow-run" "$model" --digest >/dev/null 2>"$scratch/err"; then
            # One that the processor does not have is said to be that; anything else is a failure.
            grep -q "^error: TRAFLOW_ISA=$isa: " "$scratch/err" || { cat "$scratch/err" >&2; exit 1; }
            printf '%-16s %-34s %s\n' "$student" "$isa" "$(head -n 1 "$scratch/err")"
            continue
        fi
        for threads in 1 2 3; do
            pictures env TRAFLOW_ISA=$isa "$programs/traflow-run" --threads $threads >"$scratch/found"
            compare "$isa, threads: $threads"
        done
    done
    for isa in scalar neon dotprod; do
        pictures env TRAFLOW_ISA=$isa qemu-aarch64 -L /usr/aarch64-linux-gnu "$arm64" >"$scratch/found"
        compare "aarch64 $isa, QEMU"
    done
    for variant in scalar simd128; do
        node "$scratch/pictures.mjs" "$model" $variant >"$scratch/found"
        compare "wasm $variant, Node"
    done
    for board in lm3s6965evb an386 an500 an505 an547 rv32 virt64; do
        if ! TRAFLOW_MODEL=$model BUILD_ONLY=1 firmware-demo/run.sh $board pictures >/dev/null 2>"$scratch/err"; then
            grep -q 'overflowed\|will not fit' "$scratch/err" || { cat "$scratch/err" >&2; exit 1; }
            printf '%-16s %-34s does not fit\n' "$student" $board
            continue
        fi
        # The board also says how much of its stack was used.
        TRAFLOW_MODEL=$model timeout 600 firmware-demo/run.sh $board pictures 2>"$scratch/err" | grep '^[14] ' >"$scratch/found" ||
            cat "$scratch/err"
        compare "$board, QEMU"
    done
done
