#!/usr/bin/env bash
# The tests of the packages that run on devices, on other processors than this one: ARM with NEON under QEMU, WebAssembly
# with simd128 under Node, and plain Rust under Miri, which sees wrong use of memory.
#
#   tests/targets.sh [aarch64] [wasm32] [miri]      all of them unless named
#
# The standard library comes from rustup; where that cannot have it, it is compiled from the sources of a Rust that the system
# has (Debian: rustc-web, cargo-web and rust-web-src). Miri comes from rustup alone, and is left out without it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/targets"
packages=(--package traflow-graph --package traflow-runtime)
source tests/toolchain.sh

aarch64() {
    need qemu-aarch64 qemu-user
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    find_cargo aarch64-unknown-linux-gnu std,panic_abort,test
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    "${cargo[@]}" test --target aarch64-unknown-linux-gnu "${packages[@]}" --no-default-features --features traflow-runtime/threads
}

wasm32() {
    need node nodejs
    find_cargo wasm32-wasip1 std,panic_abort,test
    local flags="-Ctarget-feature=+simd128"
    if [ "${cargo[0]}" = env ]; then
        need wasm-ld lld
        [ -e /usr/lib/wasm32-wasi/libc.a ] || { apt-get update && apt-get install -y --no-install-recommends wasi-libc; }
        flags+=" -Clink-self-contained=no -Clinker=wasm-ld -Lnative=/usr/lib/wasm32-wasi"
        flags+=" -Clink-arg=/usr/lib/wasm32-wasi/crt1-command.o -Clink-arg=--allow-undefined"
    fi
    export CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $PWD/tests/wasi.mjs"
    # The tests of programs start processes, which WebAssembly does not; nor has it a folder for temporary files, which those of
    # checkpoints want.
    RUSTFLAGS="$flags" "${cargo[@]}" test --target wasm32-wasip1 "${packages[@]}" --no-default-features -- \
        --skip checkpoint:: --skip file:: --skip formats::
}

miri() {
    if ! rustup toolchain list | grep -q nightly ||
        ! { cargo +nightly miri --version >/dev/null 2>&1 || rustup component add --toolchain nightly miri rust-src; }; then
        echo "miri: left out, rustup has no nightly toolchain with it"
        return
    fi
    # Miri cannot ask a processor for its vectors: it plays one of which none are used. What takes it hours is left out: hostile
    # files by the ten thousand, and kernels on many shapes.
    MIRIFLAGS=-Zmiri-disable-isolation cargo +nightly miri test --target riscv64gc-unknown-linux-gnu --package traflow-runtime \
        --no-default-features --features threads --lib -- simd:: padding_is_zero resampling_takes in_place_is \
        sums_and_concatenations concat:: border:: resample::
}

for target in "${@:-aarch64 wasm32 miri}"; do
    for name in $target; do
        case $name in
            aarch64 | wasm32 | miri) ("$name") ;;
            *) echo "error: no target $name, only aarch64, wasm32 and miri" >&2 && exit 2 ;;
        esac
    done
done
