#!/bin/sh
# Builds a stand-in for the image `rust`, for machines that cannot pull it: this machine's own Rust toolchain with
# the targets that the build needs, a linker, a handful of shell tools, and the crates of the lock file. A build in
# it needs no network.
#
#   rust-image.sh TAG REPOSITORY
set -eu
tag=$1
repository=$2

rustup target add "$(uname -m)-unknown-linux-musl" wasm32-wasip1
sysroot=$(rustc --print sysroot)
rustup_home=$(dirname "$(dirname "$sysroot")")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
list=$work/files

# A program, and the shared libraries that it loads.
program() {
    path=$(command -v "$1")
    echo "$path"
    ldd "$path" 2>/dev/null | grep -o '/[^ ]*' || true
}

# What a link with the C compiler reads, as it finds it by itself.
compiler_file() {
    path=$(gcc -print-file-name="$1")
    case $path in
        /*) echo "$path" ;;
    esac
}

{
    for name in /bin/sh cc cp gcc ld mkdir rm rustup touch uname; do
        program "$name"
    done
    for name in collect2 lto-wrapper; do
        program "$(gcc -print-prog-name=$name)"
    done
    find "$(dirname "$(gcc -print-libgcc-file-name)")" -maxdepth 1 \
        \( -name 'crt*.o' -o -name 'libgcc*' -o -name 'liblto_plugin.so' \)
    for name in crt1.o Scrt1.o crti.o crtn.o libgcc_s.so.1 \
        libc.so libm.so libdl.a libdl.so.2 libpthread.a libpthread.so.0 librt.a librt.so.1 libutil.a libutil.so.1; do
        compiler_file "$name"
    done
    # These two are linker scripts that name further files.
    grep -ho '/[^ ]*\.\(so\|a\)[.0-9]*' "$(gcc -print-file-name=libc.so)" "$(gcc -print-file-name=libm.so)"
    for name in cargo rustc; do
        program "$sysroot/bin/$name"
    done
    ldd "$sysroot"/lib/librustc_driver-*.so | grep -o '/[^ ]*'
    find "$sysroot/lib" -type f
    echo "$rustup_home/settings.toml"
} | xargs realpath --no-symlinks | sed 's,^/,,' | sort -u >"$list"

# The crates, as directories that a build takes in place of the registry.
cargo_home=/usr/local/cargo
root=$work/root
mkdir -p "$root/tmp" "$root$cargo_home"
cargo vendor --quiet --locked --versioned-dirs --manifest-path "$repository/Cargo.toml" \
    "$root$cargo_home/vendor" >/dev/null
cat >"$root$cargo_home/config.toml" <<EOF
[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "$cargo_home/vendor"
EOF

# Links are followed: the image gets plain directories where this machine has /bin -> /usr/bin and the like.
tar --create --dereference --hard-dereference --owner=0 --group=0 \
    -C / --files-from "$list" -C "$root" tmp usr |
    docker import --message "stand-in for rust" \
        --change "ENV PATH=$sysroot/bin:$(dirname "$(command -v rustup)"):/usr/local/bin:/usr/bin:/bin" \
        --change "ENV RUSTUP_HOME=$rustup_home" \
        --change "ENV RUSTUP_TOOLCHAIN=$(basename "$sysroot")" \
        --change "ENV CARGO_HOME=$cargo_home" \
        - "$tag" >/dev/null
