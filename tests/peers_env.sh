#!/usr/bin/env bash
# Makes the environments in which `memkit bench peers` and the tests marked `peers` run other memory systems,
# one for each, and prints where they are. They are made once and kept:
#
#     tests/peers_env.sh [FOLDER]
#
# FOLDER defaults to $MEMKIT_PEERS, then to ~/.cache/memkit/peers. It takes some 2 minutes and 500 MB, and needs
# Python 3.11 or newer (PYTHON). memkit itself is not put in them: their workers never import it.
set -euo pipefail
folder=${1:-${MEMKIT_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/memkit/peers}}

# environment NAME PIN...: what is not pinned here is what pip found when it was made; `pip freeze` tells.
environment() {
	local place=$folder/$1 recipe="${*:2}"
	if [ "$(cat "$place/.memkit" 2> /dev/null)" != "$recipe" ]; then
		"${PYTHON:-python3.11}" -m venv --clear "$place" >&2
		"$place/bin/python" -m pip install -q --disable-pip-version-check "${@:2}" >&2
		echo "$recipe" > "$place/.memkit"
	fi
	echo "$place"
}

mkdir -p "$folder"
environment mem0 mem0ai==2.2.1 faiss-cpu==1.15.1 openai==3.57.0
# Many builds of Python cannot load extensions into SQLite, which the vectors of SqliteStore need; pysqlite3 can.
# With numpy, InMemoryStore compares vectors faster.
environment langgraph langgraph==1.2.24 langgraph-checkpoint-sqlite==3.1.2 sqlite-vec==0.1.9 \
	pysqlite3-binary==0.5.4.post2 numpy==2.4.6
