"""An agent of LangChain with memory: ``python examples/langchain_agent.py``. Needs ``memkit-llm[langchain]``.

Any chat model will do in the place of nano, which this example takes so that it needs no network.
"""

from __future__ import annotations

import tempfile

from langchain.agents import create_agent

import memkit
from memkit.integrations.langchain import ChatMemkit, MemkitMiddleware

SAID = ["Simsem lives in Lasces.", "Where does Simsem live?", "Where does Simsem live?"]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, memkit.Memory(folder, user="mira") as memory:
        # The model itself has no memories: all that it knows comes from the middleware.
        model = ChatMemkit(memory=memory.for_user("nobody"))
        agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
        for text in SAID:  # conversations of their own: none of them knows anything of those before
            state = agent.invoke({"messages": [{"role": "user", "content": text}]})
            print(f"{text} {state['messages'][-1].content}")
        (log,) = memory.list_memories()
        print("remembered:", [entry.text for entry in memory.bank.logs.entries(memory.owner, log.id)])


if __name__ == "__main__":
    main()
