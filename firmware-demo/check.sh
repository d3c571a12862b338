#!/usr/bin/env bash
# What the boards have to pass: `check.sh` runs M3, M4F, M33 and RV32, proves that the engine of integers cannot panic and has
# no floating point, and feeds damaged models to a device; `check.sh all` runs the other boards too.
#
# TRAFLOW_PROGRAMS is a folder with traflow-run; without it that is built.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source ../tests/toolchain.sh
need qemu-system-arm qemu-system-arm
need qemu-system-aarch64 qemu-system-arm
need qemu-system-riscv32 qemu-system-misc
need arm-none-eabi-objdump binutils-arm-none-eabi

fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
log=$(mktemp -d)
trap 'rm -r "$log"' EXIT

programs=${TRAFLOW_PROGRAMS:-}
if [ -z "$programs" ]; then
    cargo build --quiet --manifest-path ../Cargo.toml --package traflow-run
    programs=${CARGO_TARGET_DIR:-../target}/debug
fi

# Every board makes the pictures of traflow-run.
boards=(rv32 lm3s6965evb an386 an505)
[ "${1:-}" != all ] || boards+=(an500 an547 virt64)
model=../tests/golden/gray-int8-v3.traflow
"$programs/traflow-run" "$model" --count 2 --digest | awk '{ print "picture: seed", $3, $1 }' >"$log/expected"
for board in "${boards[@]}"; do
    # Building takes what it takes, running does not.
    BUILD_ONLY=1 ./run.sh "$board" self_test >/dev/null
    timeout 120 ./run.sh "$board" self_test >"$log/$board" || { cat "$log/$board"; fail "$board: the self-test fails"; }
    grep -qx 'self-test: passed' "$log/$board" || fail "$board: there was no self-test"
    diff "$log/expected" <(grep '^picture' "$log/$board") || fail "$board: its pictures are not those of traflow-run"
    printf '%-12s %s; %s\n' "$board" "$(grep -o '^instructions: [0-9]*' "$log/$board")" "$(grep '^stack' "$log/$board")"
done

# The engine alone. That it links is the proof that nothing in it panics: see bare.rs.
for board in lm3s6965evb an386 an505 an547; do
    bare=$(BUILD_ONLY=1 ./run.sh "$board" bare) || fail "$board: the engine can panic"
    # Integers alone: no routine of floating point on a core without it, no instruction of it on one that has them.
    ! arm-none-eabi-nm "$bare" | grep -E '__aeabi_(f|d|i2|ui2|l2|ul2)|__(add|sub|mul|div)[sd]f' ||
        fail "$board: the engine links routines of floating point"
    ! arm-none-eabi-objdump -d --no-show-raw-insn "$bare" |
        grep -E '[[:space:]]v(add|sub|mul|div|fma|fms|mla|mls|sqrt|cvt|neg|abs|cmp|max|min|rint)[a-z]*\.f(16|32|64)' ||
        fail "$board: the engine has instructions of floating point"
    # Of the runtime what is not the check of a file, which is `traflow_graph` and what is compiled into `run`.
    arm-none-eabi-nm -S --radix=d "$bare" | awk -v board="$board" '
        # Some functions have several names.
        tolower($3) == "t" && !seen[$1]++ { all += $2; if (/traflow_graph/ || /4bare3run/) check += $2 }
        END {
            printf "%-12s %d bytes of code without panics: %d to check a file, %d to run it\n", board, all, check, all - check
            exit board == "an386" && all - check > 20480
        }' || fail "$board: the runtime has more than 20 KB of code for this core"
done
timeout 120 ./run.sh an386 bare || fail "an386: the engine alone fails"

# Code that is compiled to be fast has Winograd's convolutions besides. It cannot panic either, and makes the same pictures.
(
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=3
    for board in an386 rv32; do
        BUILD_ONLY=1 ./run.sh "$board" self_test >/dev/null
        timeout 120 ./run.sh "$board" self_test >"$log/$board" || { cat "$log/$board"; fail "$board: fast code fails"; }
        diff "$log/expected" <(grep '^picture' "$log/$board") || fail "$board: fast code makes other pictures"
        printf '%-12s fast: %s; %s\n' "$board" "$(grep -o '^instructions: [0-9]*' "$log/$board")" "$(grep '^stack' "$log/$board")"
    done
    BUILD_ONLY=1 ./run.sh an386 bare >/dev/null || fail "an386: fast code can panic"
)

# A model that is wrong is an error that is said, with its exit code.
load() {
    local expected=$1 text=$2 status=0
    RUN_IN=$log timeout 120 ./run.sh an500 load >"$log/out" 2>"$log/err" || status=$?
    [ "$status" = "$expected" ] && grep -qF "$text" "$log/out" ||
        { cat "$log/out" "$log/err"; fail "a model that gives exit code $status, not $expected and: $text"; }
    printf 'load         %d %s\n' "$status" "$(head -n 1 "$log/out")"
}
cp "$model" "$log/model.traflow" && load 0 "self-test: passed"
printf '{}' >"$log/model.traflow" && load 1 "it is not a TraFlow model file"
: >"$log/model.traflow" && load 1 "it is not a TraFlow model file"
head -c 50000 "$model" >"$log/model.traflow" && load 1 "where its header says"
{ head -c 60000 "$model"; printf '\377\377'; tail -c +60003 "$model"; } >"$log/model.traflow" && load 1 "the file is damaged"
cp ../tests/golden/tiny-v4.traflow "$log/model.traflow" && load 2 "which this engine does not run"
head -c 300000 /dev/zero >"$log/model.traflow" && load 4 "the model does not fit"
# Whole, by its checksum, but wrong: an arena of a megabyte, and a flipped bit of the first weight.
forge() {
    python3 - "$model" "$1" >"$log/model.traflow" <<'PYTHON'
import struct, sys
data = bytearray(open(sys.argv[1], "rb").read())
if sys.argv[2] == "arena":
    struct.pack_into("<I", data, 40, 1 << 20)
else:
    after = lambda at, count: (at + 8 * count + 63) // 64 * 64
    schedules, moments = struct.unpack_from("<II", data, 24)
    weights = (struct.unpack_from("<I", data, node + 44)[0] for node in range(after(after(64, schedules), moments), len(data), 64))
    data[next(filter(None, weights))] ^= 0x40
data[48:64] = bytes(16)
total = running = 0
for (word,) in struct.iter_unpack("<I", data):
    total += word
    running += total
struct.pack_into("<QQ", data, 48, total % 2**64, running % 2**64)
sys.stdout.buffer.write(data)
PYTHON
}
forge arena && load 2 "the arena has 65536 bytes, this model needs 1048"
forge weight && load 3 "self-test: node"
rm "$log/model.traflow" && load 4 "there is no model.traflow"

# What is not run here is built.
for board in an500 an547 virt64; do BUILD_ONLY=1 ./run.sh "$board" self_test >/dev/null; done
BUILD_ONLY=1 ./run.sh lm3s6965evb clothes >/dev/null
BUILD_ONLY=1 ./run.sh virt64 screen >/dev/null
