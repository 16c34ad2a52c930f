#!/usr/bin/env bash
# An aarch64 Python 3.11 with edgekit's device dependencies in the folder $1, for qemu-user: about 400 MB.
# Needs Debian's or Ubuntu's apt-get (no root: nothing is installed, only unpacked) and qemu-user.
set -euo pipefail
folder=$(realpath -m "$1")
python=$2
here=$(dirname "$(realpath "$0")")

command -v qemu-aarch64 >/dev/null || { echo "install qemu-user first: apt-get install qemu-user" >&2; exit 2; }
mkdir -p "$folder"/{lists/partial,cache/archives/partial,debs,wheels,site,root}

# apt with state of its own, so that the host's architectures and package lists stay as they are.
apt=(apt-get -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User= -o Debug::NoLocking=1
    -o Dir::State::Lists="$folder/lists" -o Dir::Cache="$folder/cache" -o Dir::State::status=/dev/null)
"${apt[@]}" update -qq
(cd "$folder/debs" && "${apt[@]}" download -qq python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 \
    libstdc++6 libgcc-s1 libgomp1 zlib1g libexpat1 libffi8 libssl3 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1)
for deb in "$folder"/debs/*.deb; do dpkg-deb -x "$deb" "$folder/root"; done

platforms=()
for glibc in 17 24 27 28 31; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
"$python" -m pip download --quiet --no-deps --only-binary=:all: "${platforms[@]}" --platform manylinux2014_aarch64 \
    --python-version 3.11 --dest "$folder/wheels" --requirement "$here/requirements.txt"
for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder/site"; done

rm -rf "$folder"/{lists,cache,debs,wheels}
touch "$folder/.installed"
