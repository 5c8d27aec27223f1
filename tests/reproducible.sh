#!/usr/bin/env bash
# Makes the packages from two clones of the commit that is checked out, in two folders, and compares them byte by byte.
# As long as two builds from nothing. Needs what `cargo xtask package` needs; the processors are its argument.
#
#   tests/reproducible.sh [amd64,arm64]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

archs=${1:-amd64,arm64}
# Somebody may commit meanwhile.
commit=$(git rev-parse HEAD)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Paths of unlike lengths: one that gets into a file moves all that follows.
one=$work/one another=$work/another/one/deeper
for clone in "$one" "$another"; do
    git clone --quiet --no-hardlinks . "$clone"
    git -C "$clone" checkout --quiet "$commit"
    # Programs that setup would build again, which are no part of what is compared.
    mkdir -p "$clone/.tools"
    for tool in bin bpf-toolchain; do
        [ ! -e ".tools/$tool" ] || cp -a ".tools/$tool" "$clone/.tools/"
    done
    (cd "$clone" && env -u CARGO_TARGET_DIR cargo xtask package --arch "$archs" >"$work/sums")
done
cat "$work/sums"
count=0
for file in "$one"/target/package/*; do
    [ -f "$file" ] || continue
    cmp "$file" "$another/target/package/${file##*/}" || { echo "differs: ${file##*/}" && exit 1; }
    count=$((count + 1))
done
# A deb, an rpm and an archive at least, the image, the sums.
[ "$count" -ge 5 ] || { echo "only $count files were made" && exit 1; }
echo "$count files are the same from two folders"
