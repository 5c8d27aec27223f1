#!/usr/bin/env bash
# Builds each overlay of deploy/kubernetes, and checks it against the schemas of several versions of Kubernetes, without a
# cluster. Needs `kubectl` and python3; the schemas come with the package kubernetes-validate, once, into .tools.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

command -v kubectl >/dev/null || { echo "there is no kubectl here: install the one of Kubernetes (kustomize 5)" && exit 1; }
tool=.tools/kubernetes-validate
if [ ! -x "$tool/bin/kubernetes-validate" ]; then
    python3 -m venv "$tool"
    "$tool/bin/pip" --quiet install kubernetes-validate==1.37.0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
check() { "$tool/bin/kubernetes-validate" -k "$1" --strict "$2" >"$work/said" 2>&1; }
for folder in deploy/kubernetes/base deploy/kubernetes/overlays/*; do
    kubectl kustomize "$folder" >"$work/all.yaml"
    for version in 1.25 1.29 1.33 1.37; do
        check "$version" "$work/all.yaml" || { cat "$work/said"; exit 1; }
        echo "$folder is right for Kubernetes $version"
    done
done
# A field that is misspelt is found.
sed s/readOnlyRootFilesystem/readOnlyRootFileSystem/ "$work/all.yaml" >"$work/wrong.yaml"
! check 1.33 "$work/wrong.yaml" || { echo "the check finds nothing"; exit 1; }
