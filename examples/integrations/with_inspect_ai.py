"""inspect_ai: an evaluation whose model has a Python tool with a sandbox for each sample."""

import tempfile

from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools

from safeexec.integrations.inspect_ai import safeexec_python


async def length(text):
    return len(text)


programs = ["x = 41", "x + 1"]
outputs = [ModelOutput.for_tool_call("mock", "safeexec_python", {"code": code}) for code in programs]
model = get_model("mockllm/model", custom_outputs=[*outputs, ModelOutput.from_content("mock", "It is 42.")])
model.api.count_text_tokens = length  # its own way fetches a vocabulary
task = Task(
    dataset=[Sample(input="40 + 2?", target="42")],
    solver=[use_tools(safeexec_python("wasm")), generate()],
    scorer=includes(),
)
with tempfile.TemporaryDirectory() as folder:
    (log,) = eval(task, model=model, log_dir=folder, display="none")
    for message in log.samples[0].messages:
        if message.role == "tool":
            print("answer:", message.content)
    print("score:", log.samples[0].scores["includes"].value)
