#!/usr/bin/env bash
# What the boards have to pass: `check.sh` builds for every board and runs M3, M4F, M33 and RV32; `check.sh all` runs the
# others too, and feeds damaged models to a device.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
need() {
    local missing=()
    for pair in "$@"; do command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}"); done
    [ ${#missing[@]} -eq 0 ] || { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; }
}
need qemu-system-arm=qemu-system-arm qemu-system-aarch64=qemu-system-arm qemu-system-riscv32=qemu-system-misc \
    arm-none-eabi-objdump=binutils-arm-none-eabi
rustup target add thumbv7m-none-eabi >/dev/null 2>&1 || [ -d /usr/lib/rustlib/src ] ||
    { apt-get update && apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src; }

fail() { printf 'error: %s\n' "$1" >&2; exit 1; }
log=$(mktemp -d)
trap 'rm -r "$log"' EXIT

# The host's pictures are what every board has to make.
cargo run --quiet --release --bin self_test >"$log/host"
# And they are those of `traflow-run tests/golden/gray-int8-v2.traflow --count 2 --digest`.
diff - <(grep '^picture' "$log/host") <<'END' || fail "the host's pictures are not those of traflow-run"
picture: seed 0 941df8ad8079e5ff034d670504b0bae762ca88b0efd653979e8f454870a76b20
picture: seed 1 ba64416247c86def836e23e9125bd0700f5030d65bd46016adb8051608c69c94
END
boards=(lm3s6965evb an386 an505 rv32)
[ "${1:-}" != all ] || boards=(an500 an547 virt64)
for board in "${boards[@]}"; do
    timeout 120 ./run.sh "$board" self_test >"$log/$board" || { cat "$log/$board"; fail "$board: the self-test fails"; }
    diff <(grep '^\(self-test\|picture\)' "$log/host") <(grep '^\(self-test\|picture\)' "$log/$board") ||
        fail "$board: its pictures are not the host's"
    printf '%-12s %s; %s\n' "$board" "$(grep -o '^instructions: [0-9]*' "$log/$board")" "$(grep '^stack' "$log/$board")"
done

if [ "${1:-}" != all ]; then
    # Integers alone: no routine of floating point on a core without it, no instruction of it on one that has them. The
    # words that a record holds as f32 are moved, never computed with.
    soft=$(BUILD_ONLY=1 QUIET=1 ./run.sh lm3s6965evb self_test)
    ! arm-none-eabi-nm "$soft" | grep -E '__aeabi_(f|d|i2|ui2|l2|ul2)|__(add|sub|mul|div)[sd]f' ||
        fail "the integer engine links routines of floating point"
    hard=$(BUILD_ONLY=1 QUIET=1 ./run.sh an386 self_test)
    ! arm-none-eabi-objdump -d --no-show-raw-insn "$hard" |
        grep -E '[[:space:]]v(add|sub|mul|div|fma|fms|mla|mls|sqrt|cvt|neg|abs)[a-z]*\.f' ||
        fail "the integer engine has instructions of floating point"
    for board in an500 an547 virt64; do BUILD_ONLY=1 QUIET=1 ./run.sh "$board" self_test >/dev/null; done
    BUILD_ONLY=1 QUIET=1 ./run.sh lm3s6965evb clothes >/dev/null
    BUILD_ONLY=1 QUIET=1 ./run.sh virt64 screen >/dev/null
    exit
fi

# A model that is wrong is an error that is said, with its exit code.
load() {
    local expected=$1 text=$2 status=0
    RUN_IN=$log timeout 120 ./run.sh an500 load >"$log/out" 2>"$log/err" || status=$?
    [ "$status" = "$expected" ] && grep -qF "$text" "$log/out" ||
        { cat "$log/out" "$log/err"; fail "a model that gives exit code $status, not $expected and: $text"; }
    printf 'load         %d %s\n' "$status" "$(head -n 1 "$log/out")"
}
model=../tests/golden/gray-int8-v2.traflow
cp "$model" "$log/model.traflow" && load 0 "self-test: passed"
printf '{}' >"$log/model.traflow" && load 1 "it is not a TraFlow model file"
head -c 50000 "$model" >"$log/model.traflow" && load 1 "where its header says"
{ head -c 60000 "$model"; printf '\377\377'; tail -c +60003 "$model"; } >"$log/model.traflow" && load 1 "the file is damaged"
cp ../tests/golden/tiny-v3.traflow "$log/model.traflow" && load 2 "which this engine does not run"
head -c 300000 /dev/zero >"$log/model.traflow" && load 4 "the model has more than"
rm "$log/model.traflow" && load 4 "there is no model.traflow"
