# What scripts need that compile for other processors; to be sourced.

# need PROGRAM PACKAGE...: installs Debian's packages unless there is the program.
need() { command -v "$1" >/dev/null || { apt-get update && apt-get install -y --no-install-recommends "${@:2}"; } >&2; }

# find_cargo TARGET [PARTS]: sets the array `cargo` to a cargo with a standard library for the target. It is rustup's, or one of
# these parts (core, unless named) that is compiled from the sources of a Rust which the system has, or gets: Debian's.
find_cargo() {
    local target=$1 sources=/usr/lib/rustlib/src/rust/library/Cargo.lock
    cargo=(cargo)
    if rustup target list --installed 2>/dev/null | grep -qx "$target" || rustup target add "$target" >/dev/null 2>&1; then
        return
    fi
    [ -e "$sources" ] || need /usr/lib/rustlib/src rustc-web cargo-web rust-web-src || true
    if [ ! -e "$sources" ]; then
        printf 'error: there is no standard library for %s: rustup target add %s, or on Debian apt-get install rustc-web cargo-web rust-web-src\n' \
            "$target" "$target" >&2
        return 1
    fi
    # The linker is that of rustup's toolchain.
    local linker; linker=$(rustc --print sysroot)/lib/rustlib/x86_64-unknown-linux-gnu/bin
    cargo=(env -u RUSTUP_TOOLCHAIN RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 "PATH=/usr/bin:$PATH:$linker"
        /usr/bin/cargo "-Zbuild-std=${2:-core}")
    printf '%s: the standard library is compiled by %s\n' "$target" "$(/usr/bin/rustc --version)" >&2
}
