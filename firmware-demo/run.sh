#!/usr/bin/env bash
# Builds a program for a board and runs it in QEMU, whose exit code is the program's result:
#   run.sh BOARD [PROGRAM] [QEMU'S OPTIONS...]
# Programs: self_test (default), pictures, load, clothes (lm3s6965evb), screen (virt64). With BUILD_ONLY=1 it prints the path of the
# program and does not run it. TRAFLOW_MODEL names the model file that goes into it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

board=${1:?name a board: lm3s6965evb, an386, an500, an505, an547, rv32 or virt64}
program=${2:-self_test}
shift; [ $# -eq 0 ] || shift
flags=
case $board in
lm3s6965evb) target=thumbv7m-none-eabi qemu=(qemu-system-arm -M lm3s6965evb) ;;
an386) target=thumbv7em-none-eabihf qemu=(qemu-system-arm -M mps2-an386 -cpu cortex-m4) ;;
an500) target=thumbv7em-none-eabihf flags=-Ctarget-cpu=cortex-m7 qemu=(qemu-system-arm -M mps2-an500 -cpu cortex-m7) ;;
an505) target=thumbv8m.main-none-eabihf flags=-Ctarget-cpu=cortex-m33 qemu=(qemu-system-arm -M mps2-an505) ;;
an547) target=thumbv8m.main-none-eabihf flags=-Ctarget-cpu=cortex-m55 qemu=(qemu-system-arm -M mps3-an547) ;;
rv32) target=riscv32imac-unknown-none-elf qemu=(qemu-system-riscv32 -M virt -cpu rv32 -bios none) ;;
virt64) target=aarch64-unknown-none flags="-Crelocation-model=static -Ctarget-feature=+strict-align"
    qemu=(qemu-system-aarch64 -M virt -cpu cortex-a53 -nic none) ;;
*) printf 'error: there is no board %s\n' "$board" >&2; exit 2 ;;
esac

cd "$here"
source ../tests/toolchain.sh
find_cargo "$target"

export CARGO_TARGET_DIR=$here/target
RUSTFLAGS=$flags "${cargo[@]}" build --quiet --release --target "$target" --features "$board" --bin "$program" >&2
elf=$CARGO_TARGET_DIR/$target/release/$program
if [ -n "${BUILD_ONLY:-}" ]; then
    echo "$elf"
    exit
fi
cd "${RUN_IN:-$here}"

exec "${qemu[@]}" -display none -monitor "${MONITOR:-none}" -serial none -icount shift=10 -semihosting-config enable=on,target=native \
    -kernel "$elf" "$@"
