#!/usr/bin/env bash
# Makes the environment in which the tests start a real SGLang on a machine without a GPU, and prints where
# it is. It is made once and kept:
#
#     tests/sglang_env.sh [FOLDER]
#
# FOLDER defaults to $MEMKIT_SGLANG_VENV, then to ~/.cache/memkit/sglang-VERSION. It takes some 3 minutes and
# 2.6 GB, and needs Python 3.11 (PYTHON), g++ and OpenSSL's headers (Debian: g++, libssl-dev), with which
# SGLang compiles its page hashes. TORCH_INDEX names the index of PyTorch's CPU builds where pip's own
# configuration has none. memkit itself is not put in it: the tests add the checkout's.
set -euo pipefail
VERSION=0.5.23
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=${1:-${MEMKIT_SGLANG_VENV:-${XDG_CACHE_HOME:-$HOME/.cache}/memkit/sglang-$VERSION}}
recipe=$(cat "$here/sglang_env.sh" "$here"/sglang_cpu/*/*.py "$here/sglang_cpu/pyproject.toml" | sha256sum | cut -d' ' -f1)
if [ "$(cat "$folder/.memkit" 2> /dev/null)" = "$recipe" ]; then
	echo "$folder"
	exit
fi
if ! command -v g++ > /dev/null || ! echo '#include <openssl/sha.h>' | g++ -E -x c++ - > /dev/null 2>&1; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
		echo "SGLang needs g++ and OpenSSL's headers here: apt install g++ libssl-dev" >&2
		exit 1
	fi
	{ apt-get update && apt-get install -y --no-install-recommends g++ libssl-dev; } >&2
fi

install() { "$folder/bin/python" -m pip install -q --disable-pip-version-check "$@" >&2; }

mkdir -p "$(dirname "$folder")"
"${PYTHON:-python3.11}" -m venv --clear "$folder" >&2
install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
if ! "$folder/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then
	echo "pip installed PyTorch for a GPU; set TORCH_INDEX to the index of its CPU builds" >&2
	exit 1
fi
# SGLang's own requirements are for a GPU; these are the ones that a small dense model needs.
install --no-deps "sglang==$VERSION" torchvision==0.28.0 compressed-tensors==0.18.0 xgrammar==0.2.7 \
	apache-tvm-ffi==0.1.11 triton==3.9.0 gguf
install transformers==5.19.0 tokenizers==0.23.2 numpy aiohttp fastapi 'uvicorn>=0.51' uvloop orjson pydantic \
	'pyzmq>=25.1.2' requests psutil setproctitle pillow huggingface_hub safetensors regex pyyaml tqdm packaging \
	msgspec einops 'prometheus-client>=0.20' pybase64 python-multipart xxhash zstandard IPython dill \
	sentencepiece==0.2.1 loguru openai==2.8.0 partial_json_parser jsonschema soundfile pybind11 ninja msgpack
# torchvision from PyPI is built for a GPU: its operators do not load beside PyTorch for a CPU, but SGLang
# imports the module that registers more about two of them. Declaring those two is enough.
extension=$("$folder/bin/python" -c \
	'import importlib.util as u, pathlib as p; print(p.Path(u.find_spec("torchvision").origin).parent / "extension.py")')
cat >> "$extension" << 'PY'

if not _has_ops():
    for _name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{_name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PY
copy=$(mktemp -d) # setuptools writes beside what it builds
trap 'rm -rf "$copy"' EXIT
cp -r "$here/sglang_cpu" "$copy"
install --no-deps "$copy/sglang_cpu"
echo "$recipe" > "$folder/.memkit"
echo "$folder"
