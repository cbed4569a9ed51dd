"""A LangChain agent with memory: ``python examples/langchain_agent.py``. Needs ``memkit-llm[langchain]``.

Any chat model can take the place of nano, which keeps the example offline.
"""

from __future__ import annotations

import tempfile

from langchain.agents import create_agent

import memkit
from memkit.integrations.langchain import ChatMemkit, MemkitMiddleware

MESSAGES = ["Simsem lives in Lasces.", "Where does Simsem live?", "Where does Simsem live?"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, memkit.Memory(folder, user="mira") as memory:
        # The model itself has no memories: the middleware adds them.
        model = ChatMemkit(memory=memory.for_user("nobody"))
        agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
        for text in MESSAGES:  # separate conversations: each starts without the earlier ones
            state = agent.invoke({"messages": [{"role": "user", "content": text}]})
            print(f"{text} {state['messages'][-1].content}")
        (log,) = memory.list_memories()
        print("remembered:", [entry.text for entry in memory.bank.logs.entries(memory.owner, log.id)])


if __name__ == "__main__":
    main()
