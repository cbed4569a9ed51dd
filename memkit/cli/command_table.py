"""The commands, by the headings of ``memkit --help``."""

from __future__ import annotations

from collections.abc import Mapping

from memkit.cli.lazy_loading import Command, Commands, Group

_KEYS: Commands = {
    "create": Command(
        "keys_limits", "create_key", "Create a key. It is shown only now: the bank stores its hash."
    ),
    "list": Command("keys_limits", "list_keys", "List the keys of a tenant or a user, oldest first."),
    "revoke": Command("keys_limits", "revoke_key", "Revoke a key."),
}
_BENCHES: Commands = {
    "compile": Command(
        "bench",
        "bench_compile",
        "Measure the cost of a compilation: the fast recipe against the paper's, and by length.",
    ),
    "route": Command(
        "bench",
        "bench_route",
        "Measure the cost of retrieval, exact and approximate, against raw FAISS; without embedding.",
    ),
    "gate": Command(
        "bench",
        "bench_gate",
        "Measure the cost of probing candidates against reading the text of one of them.",
    ),
    "bank": Command(
        "bench",
        "bench_bank",
        "Measure the bank against raw files and SQLite, with several processes and many memories.",
    ),
    "forget": Command(
        "bench",
        "bench_forget",
        "Forget facts, and search for them in every route, version, export, backup and byte.",
    ),
    "year": Command(
        "bench",
        "bench_year",
        "Simulate running memories over many nights, and ask for the latest facts at the end.",
    ),
    "recompile": Command(
        "bench",
        "bench_recompile",
        "Measure how many memories one process, several processes and Ray compile per hour.",
    ),
    "crash": Command(
        "bench",
        "bench_crash",
        "Kill writers at random instants and fault points, and count what is lost, damaged or left over.",
    ),
    "compact": Command(
        "bench",
        "bench_compact",
        "Measure compact memories beside the prefilled text: FLOPs, seconds, peak memory, answers.",
    ),
    "step": Command(
        "bench", "bench_step", "Measure a training step of a memory against the rate of a matrix product."
    ),
    "ttft": Command(
        "bench",
        "bench_ttft",
        "Measure the time to the first token, from an artifact and from the text, against its FLOPs.",
    ),
    "fuzz": Command(
        "bench_server",
        "bench_fuzz",
        "Send the HTTP server valid and invalid requests, and count its failures.",
    ),
    "load": Command(
        "bench_server",
        "bench_load",
        "Let many clients stream answers, remember and forget; count errors and the server's overhead.",
    ),
    "growth": Command(
        "bench_server",
        "bench_growth",
        "Ask the memories of many users in one process, and check that it does not grow.",
    ),
    "start": Command(
        "bench",
        "bench_start",
        "Measure the cost of importing memkit and starting its command, against bare Python.",
    ),
    "bytes": Command(
        "bench",
        "bench_bytes",
        "Measure what artifacts in bfloat16, int8 and int4 lose in quality and save in bytes.",
    ),
    "lora": Command(
        "bench",
        "bench_lora",
        "Measure the savings of one teacher prefill, and of training documents side by side.",
    ),
    "codec": Command(
        "bench",
        "bench_codec",
        "Decode damaged artifact files, and count those that are not refused.",
    ),
    "serve": Command(
        "bench",
        "bench_serve",
        "Compare answers from SGLang with those in this process, under mixed load, and measure its cost.",
    ),
    "peers": Command(
        "bench_peers",
        "bench_peers",
        "Measure memkit against mem0, LangGraph's stores and hand-written retrieval, on the same work.",
    ),
}
COMMANDS: Mapping[str, Commands] = {
    "Begin": {
        "demo": Command(
            "demo",
            "demo",
            "See memkit at work: remember, ask, compile, ask again, forget. Half a minute, offline.",
        ),
        "init": Command(
            "config", "init", "Write a configuration file that lists every setting, commented out."
        ),
        "config": Command(
            "config",
            "config",
            "Show every setting, and whether it comes from the environment, the file or the default.",
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
            "Chat with the model. It remembers your statements and answers questions from all memories.",
        ),
        "list": Command("memories", "list_memories", "List a user's memories, oldest first."),
        "show": Command("memories", "show", "Show a memory and the manifest of its artifact."),
        "search": Command(
            "search", "search", "Search memories: the best passage of each, the best memory first."
        ),
        "advise": Command(
            "advise",
            "advise",
            "Say whether compiling a memory is worthwhile, and after how many questions it pays off.",
        ),
        "explain": Command(
            "advise",
            "advise",
            "Say whether compiling a memory is worthwhile, and after how many questions it pays off.",
            instead="advise",
        ),
        "forget": Command(
            "forget",
            "forget",
            "Forget a memory, part of it, or all of a user's: text, vectors and artifacts of all versions.",
        ),
    },
    "Versions": {
        "history": Command(
            "versions", "history", "Show the stored versions of a memory's artifact, oldest first."
        ),
        "diff": Command(
            "versions",
            "diff",
            "Compare two versions: the sources each was compiled from, and its admission figures.",
        ),
        "rollback": Command(
            "versions", "rollback", "Answer from an earlier (or later) version. The source does not change."
        ),
        "pin": Command(
            "versions",
            "pin",
            "Keep answering from the current version until it is unpinned, whatever is compiled meanwhile.",
        ),
        "verify": Command(
            "memories",
            "verify",
            "Verify artifacts: check every byte and the model, and repeat the self-test.",
        ),
        "export": Command(
            "versions", "export_bundle", "Export a memory, with its source and artifact, to a signed file."
        ),
        "import": Command(
            "versions",
            "import_bundle",
            "Import a memory from a bundle that a trusted key has signed for this model and user.",
        ),
        "keygen": Command(
            "memories",
            "keygen",
            "Create a key pair (Ed25519) to sign artifacts: MEMKIT_SIGNING_KEY=FILE memkit remember ...",
        ),
    },
    "Every night": {
        "recompile": Command(
            "recompile",
            "recompile",
            "Compile what changed, from its source. Safe to run every night, to interrupt and to repeat.",
        ),
        "schedule": Command(
            "recompile",
            "schedule",
            "Keep running, and recompile at given times until interrupted.",
        ),
        "cron": Command(
            "recompile",
            "cron",
            "Print a file for the system's scheduler that calls `memkit recompile`.",
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
            "Serve memories to agents over the Model Context Protocol.",
        ),
        "sglang-args": Command(
            "sglang", "sglang_args", "Prepare a bank for SGLang, and print the flags of a server for it."
        ),
        "limit": Command(
            "keys_limits", "limit", "Show or change how much a user or a tenant may store, and for how long."
        ),
        "backup": Command(
            "backup",
            "backup",
            "Write the whole bank, of all users, to one file. Reading and writing may continue meanwhile.",
        ),
        "restore": Command(
            "backup", "restore", "Restore a backup into a folder that is empty or does not exist yet."
        ),
        "keys": Group("API keys. A key acts for a tenant and its users, or for one user.", _KEYS),
    },
    "Train and measure": {
        "eval": Command(
            "evaluate",
            "evaluate",
            "Measure compilers against baselines on the same questions. Your banks are not used.",
        ),
        "calibrate": Command(
            "calibrate", "calibrate", "Calibrate the gate of a bank for a model and a compiler."
        ),
        "train-compressor": Command(
            "train",
            "train_compressor",
            "Train the mean-pool compressor for a model, stage by stage.",
        ),
        "bench": Group("Measure costs.", _BENCHES),
    },
}
