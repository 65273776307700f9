#!/bin/sh
# Builds a stand-in for the image `envoyproxy/envoy`, for machines that cannot pull it: an Envoy binary and the
# shared libraries that it loads, at the path where the public image has it, and nothing else.
#
#   envoy-image.sh TAG ENVOY_BINARY
set -eu
tag=$1
envoy=$(readlink -f "$2")

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
install -D "$envoy" "$root/usr/local/bin/envoy"
# Lines such as `libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)` and `/lib64/ld-linux-x86-64.so.2 (0x…)`.
ldd "$envoy" | grep -o '/[^ ]*' | while read -r library; do
    install -D "$library" "$root$library"
done
tar -C "$root" -c . | docker import --message "stand-in for envoyproxy/envoy" - "$tag" >/dev/null
