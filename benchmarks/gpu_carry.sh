#!/usr/bin/env bash
# Fills .gpu-carry/ with what benchmarks/gpu_check.sh needs on a machine with a GPU and no network: wheels of what the
# server needs beside torch and transformers, and real tokenizers and texts.
#
#   RR_TEST_DATA=FOLDER benchmarks/gpu_carry.sh    a folder with tokenizers/, pairs/ and collections/
#
# PYTHON: the interpreter whose pip fetches (.venv's by default). PYTHON_THERE: the version of Python there (3.12).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
carry=.gpu-carry
most_mib=60
data="${RR_TEST_DATA:?must name a folder with tokenizers/, pairs/ and collections/}"

rm -rf "$carry"
mkdir -p "$carry/data/pairs" "$carry/data/collections/scifact"
cp -r "$data/tokenizers" "$carry/data/"
cp "$data"/pairs/{squad_nqg,qed_nq}.jsonl.gz "$carry/data/pairs/"
cp "$data/collections/scifact/corpus.jsonl" "$carry/data/collections/scifact/"
chmod -R u+w "$carry"

# What comes with torch and transformers is theirs to choose.
grep -vE '^(#|-e|torch=|transformers=|tokenizers=|safetensors=|huggingface_hub=|numpy=)' requirements.txt > "$carry/requirements.txt"
grep -E '^httpx=' requirements-dev.txt >> "$carry/requirements.txt"
platforms=()
for name in manylinux_2_28 manylinux_2_17 manylinux2014; do
  platforms+=(--platform "${name}_x86_64")
done
"${PYTHON:-.venv/bin/python}" -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
  --implementation cp --python-version "${PYTHON_THERE:-3.12}" "${platforms[@]}" \
  --dest "$carry/wheels" -r "$carry/requirements.txt"

du -sh "$carry"
if [ "$(du -sm "$carry" | cut -f1)" -gt "$most_mib" ]; then
  echo "error: $carry has more than $most_mib MiB" >&2
  exit 1
fi
