"""The commands, by the headings of ``memkit --help``."""

from __future__ import annotations

from collections.abc import Mapping

from memkit.cli.lazy_loading import Command, Commands, Group

_KEYS: Commands = {
    "create": Command(
        "keys_limits", "create_key", "Make a key. It is shown now and never again: only its hash is kept."
    ),
    "list": Command("keys_limits", "list_keys", "List the keys of a tenant or a user, oldest first."),
    "revoke": Command("keys_limits", "revoke_key", "Let a key open nothing any more."),
}
_BENCHES: Commands = {
    "compile": Command(
        "bench",
        "bench_compile",
        "Measure what a compilation costs: the fast recipe beside the paper's, and by length.",
    ),
    "route": Command(
        "bench",
        "bench_route",
        "Measure what finding memories costs, exactly and approximately, beside raw FAISS; no embedding.",
    ),
    "gate": Command(
        "bench", "bench_gate", "Measure what probing candidates costs beside reading the text of one of them."
    ),
    "bank": Command(
        "bench",
        "bench_bank",
        "Measure the bank beside raw files and SQLite, under several processes, and with many memories.",
    ),
    "forget": Command(
        "bench",
        "bench_forget",
        "Forget facts, and look for them by every route, version, export, backup and byte.",
    ),
    "year": Command(
        "bench",
        "bench_year",
        "Simulate running memories over many nights, and ask what is current in the end.",
    ),
    "recompile": Command(
        "bench",
        "bench_recompile",
        "Measure how many memories one process compiles, several do, and Ray does.",
    ),
    "crash": Command(
        "bench",
        "bench_crash",
        "Kill writers at random instants and fault points, and count what is lost, damaged or left over.",
    ),
    "ttft": Command(
        "bench",
        "bench_ttft",
        "Measure the time to the first token, from an artifact and from the text, beside what FLOPs allow.",
    ),
    "fuzz": Command(
        "bench_server",
        "bench_fuzz",
        "Send the HTTP server requests that fit its description, and others; count what it fails at.",
    ),
    "load": Command(
        "bench_server",
        "bench_load",
        "Let many clients stream answers, remember and forget; count errors and what the server adds.",
    ),
    "growth": Command(
        "bench_server",
        "bench_growth",
        "Ask many users' memories in one process; tell whether it grows.",
    ),
    "start": Command(
        "bench",
        "bench_start",
        "Measure what importing memkit and starting its command cost beside bare Python.",
    ),
    "bytes": Command(
        "bench", "bench_bytes", "Measure what artifacts of bfloat16, int8 and int4 lose, and what they save."
    ),
    "lora": Command(
        "bench",
        "bench_lora",
        "Measure what reading the teacher's prefix once saves, and training documents side by side.",
    ),
    "codec": Command(
        "bench",
        "bench_codec",
        "Decode damaged artifact files, and count those that are not refused as they should be.",
    ),
    "serve": Command(
        "bench",
        "bench_serve",
        "Compare answers through SGLang with those in this process, under mixed load, and measure its cost.",
    ),
    "peers": Command(
        "bench_peers",
        "bench_peers",
        "Measure memkit beside mem0, LangGraph's stores and retrieval by hand, on the same work.",
    ),
}
COMMANDS: Mapping[str, Commands] = {
    "Begin": {
        "demo": Command(
            "demo",
            "demo",
            "See memkit work: remember, ask, compile, ask again, forget. Takes about a minute, offline.",
        ),
        "init": Command("config", "init", "Write a file with every setting, commented out, to be edited."),
        "config": Command(
            "config",
            "config",
            "Show every setting, and whether the environment, the file or a default decides it.",
        ),
        "doctor": Command(
            "doctor",
            "doctor",
            "Check versions, model, bank, disk and SGLang servers; exits with 1 if any check fails.",
        ),
    },
    "Remember and ask": {
        "remember": Command(
            "remember_ask", "remember", "Remember a document, or add to a running memory (--memory)."
        ),
        "ask": Command("remember_ask", "ask", "Ask a question."),
        "chat": Command(
            "chat",
            "chat",
            "Talk with the model. What you tell it is remembered; questions are answered from all memories.",
        ),
        "list": Command("memories", "list_memories", "List a user's memories, oldest first."),
        "show": Command("memories", "show", "Show one memory and what its artifact says about itself."),
        "search": Command(
            "search", "search", "Find memories by words: the best passage of each, the best memory first."
        ),
        "advise": Command(
            "advise",
            "advise",
            "Say whether a memory is worth compiling, and after how many questions that has paid for itself.",
        ),
        "explain": Command(
            "advise",
            "advise",
            "Say whether a memory is worth compiling, and after how many questions that has paid for itself.",
            instead="advise",
        ),
        "forget": Command(
            "forget",
            "forget",
            "Forget one memory, a part of it, or all of a user: text, vectors and artifacts of all versions.",
        ),
    },
    "Versions": {
        "history": Command(
            "versions", "history", "Show the versions of a memory's artifact that are kept, oldest first."
        ),
        "diff": Command(
            "versions",
            "diff",
            "Compare two versions: what each was compiled from, and what it showed when it was admitted.",
        ),
        "rollback": Command(
            "versions", "rollback", "Let an earlier (or later) version answer. Its source does not change."
        ),
        "pin": Command(
            "versions",
            "pin",
            "Let the current version answer until it is unpinned, whatever is compiled meanwhile.",
        ),
        "verify": Command(
            "memories",
            "verify",
            "Re-read artifacts: check every byte and the model, and test their answers again.",
        ),
        "export": Command(
            "versions", "export_bundle", "Write a memory with its source and artifact to one signed file."
        ),
        "import": Command(
            "versions",
            "import_bundle",
            "Take a memory from a bundle that a trusted key signed, compiled for this model and user.",
        ),
        "keygen": Command(
            "memories",
            "keygen",
            "Make a key pair (Ed25519) to sign artifacts with: MEMKIT_SIGNING_KEY=FILE memkit remember ...",
        ),
    },
    "Every night": {
        "recompile": Command(
            "recompile",
            "recompile",
            "Compile what changed, from its source: safe to run every night, to interrupt and to run again.",
        ),
        "schedule": Command(
            "recompile",
            "schedule",
            "Stay here and recompile at those times, one run after the other, until interrupted.",
        ),
        "cron": Command(
            "recompile",
            "cron",
            "Print a ready file for the system's scheduler, which calls `memkit recompile`.",
        ),
    },
    "Run it for others": {
        "serve": Command(
            "serve",
            "serve",
            "Serve memories over HTTP: an OpenAI-compatible proxy, a memory API and a dashboard.",
        ),
        "mcp": Command(
            "mcp",
            "mcp",
            "Serve memories to agents by the Model Context Protocol.",
        ),
        "sglang-args": Command(
            "sglang", "sglang_args", "Prepare a bank for SGLang, and print the flags of a server for it."
        ),
        "limit": Command(
            "keys_limits", "limit", "Show or change what a user, or a tenant, may keep, and for how long."
        ),
        "backup": Command(
            "backup",
            "backup",
            "Write the whole bank, all users', to one file. Others may go on reading and writing.",
        ),
        "restore": Command(
            "backup", "restore", "Make a bank from a backup, in a folder that is empty or not there yet."
        ),
        "keys": Group(
            "API keys, each of which lets its holder act for a tenant and its users, or for one user.", _KEYS
        ),
    },
    "Train and measure": {
        "eval": Command(
            "evaluate",
            "evaluate",
            "Measure compilers against baselines on the same questions. Uses no bank of yours.",
        ),
        "calibrate": Command(
            "calibrate", "calibrate", "Calibrate the gate of a bank for a model and a compiler."
        ),
        "train-compressor": Command(
            "train",
            "train_compressor",
            "Train the mean-pool compressor for a model, one stage after the other.",
        ),
        "bench": Group("Measure costs.", _BENCHES),
    },
}
