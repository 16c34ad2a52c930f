#!/bin/sh
# Swift 6 and ONNX Runtime on any Debian or Ubuntu: sets the toolchain up once, in a folder of its own, and runs the tests.
#
#   platforms/swift/test.sh                 swift test
#   platforms/swift/test.sh prepare         only the toolchain
#   platforms/swift/test.sh run COMMAND...  any command with the toolchain, in the root of the project
#
# EDGEKIT_SWIFT_ROOT     the folder; 3.3 GB, by default in the user's cache
# EDGEKIT_SWIFT_SCRATCH  where it builds, by default beside the toolchain
# EDGEKIT_SWIFT_BUNDLES  a folder of converted bundles to test with (tests/test_platform_swift.py makes them)
#
# Where `swift` 6 is installed already, as on macOS, that is taken and nothing is set up.
set -eu

project=$(cd "$(dirname "$0")/../.." && pwd)
root=${EDGEKIT_SWIFT_ROOT:-${XDG_CACHE_HOME:-$HOME/.cache}/edgekit/swift}

fail() {
    echo "test.sh: $*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# The Debian mirror that apt uses here, or Debian's own.
mirror() {
    found=$(sed -n -E 's|^(URIs:\|deb( \[[^]]*\])?) *(https?://[^ ]*debian) *.*|\3|p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)
    echo "${found:-http://deb.debian.org/debian}"
}

prepare() {
    [ -e "$root/.edgekit-ready" ] && return
    command -v debootstrap > /dev/null || fail "needs debootstrap (apt-get install debootstrap), or Swift 6 (https://swift.org/install)" \
        "with ONNX Runtime's library and headers (libonnxruntime-dev, or brew install onnxruntime)"
    [ "$(id -u)" = 0 ] || command -v sudo > /dev/null || fail "needs root or sudo, to set up a folder with Debian's Swift"
    echo "setting up Swift in $root (3.3 GB, some minutes)" >&2
    mkdir -p "$(dirname "$root")"
    as_root mkdir -p "$root"
    log="$root.log"
    {
        [ -e "$root/usr/bin/swift" ] || as_root debootstrap --variant=minbase --include=swiftlang,ca-certificates trixie "$root" "$(mirror)"
        [ ! -e /etc/resolv.conf ] || as_root cp /etc/resolv.conf "$root/etc/resolv.conf"
        as_root unshare --mount sh -ec 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"' "$root" \
            apt-get install -y --no-install-recommends libc6-dev libstdc++-14-dev libonnxruntime-dev pkgconf
        as_root touch "$root/.edgekit-ready"
    } > "$log" 2>&1 || { tail -20 "$log" >&2; fail "could not set Swift up; the whole log is $log"; }
}

# A command with the toolchain: the project and the bundles lie where they lie outside.
with_toolchain() {
    if command -v swift > /dev/null; then
        (cd "$project" && env EDGEKIT_SWIFT_BUNDLES="${EDGEKIT_SWIFT_BUNDLES:-}" "$@")
        return
    fi
    prepare
    # Mounts of this command's own, which end with it.
    as_root unshare --mount sh -euc '
        root=$1 project=$2 bundles=$3
        shift 3
        mount -t proc proc "$root/proc"
        for folder in "$project" "$bundles"; do
            [ -z "$folder" ] && continue
            mkdir -p "$root$folder"
            mount --bind "$folder" "$root$folder"
        done
        exec chroot "$root" env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 EDGEKIT_SWIFT_BUNDLES="$bundles" \
            sh -euc "cd \"\$0\" && exec \"\$@\"" "$project" "$@"
    ' sh "$root" "$project" "${EDGEKIT_SWIFT_BUNDLES:-}" "$@"
}

scratch=${EDGEKIT_SWIFT_SCRATCH:-/var/tmp/edgekit-swift}

case "${1:-test}" in
    prepare) command -v swift > /dev/null || prepare ;;
    run) shift; with_toolchain "$@" ;;
    test) [ $# -eq 0 ] || shift; with_toolchain swift test --scratch-path "$scratch" "$@" ;;
    *) fail "'$1' is not one of: test, prepare, run" ;;
esac
