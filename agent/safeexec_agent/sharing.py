"""Agents as folders: plain data and the sources of tools, in the form smolagents publishes.

A folder of a stranger decides nothing about this machine: no address, key, sandbox or policy is taken from it, templates are filled in and not
evaluated, and the code of its tools runs in the sandbox.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safeexec import DEFAULT_IMPORTS, Executor, ToolError, whole
from safeexec.parsed import parse
from safeexec_agent import endpoints, prompts, toolbox
from safeexec_agent.bridge import SandboxTool
from safeexec_agent.errors import AgentError, NotInstalled
from safeexec_agent.tools import FunctionTool, Tool, as_tool

BUILT_IN = {
    kind.__name__: kind
    for kind in (toolbox.FinalAnswerTool, toolbox.DuckDuckGoSearchTool, toolbox.TavilySearchTool, toolbox.UserInputTool, toolbox.VisitWebpageTool)
}  # fmt: skip
"""Tools that are ours on both sides: their names stand for this package's code, never for what a folder holds under the name."""
MODELS = {
    name: getattr(endpoints, name)
    for name in (
        "OpenAIModel",
        "OpenAIServerModel",
        "InferenceClientModel",
        "HfApiModel",
        "LiteLLMModel",
        "TransformersModel",
    )
}
MAX_FILE = 1_000_000
"""Bytes; no file of an agent has more."""
_MAX_SOURCE = 200_000
_MAX_PROMPTS = 200_000
_MAX_AGENTS = 50
"""In one folder and all below it. With links a folder can hold itself: twenty of them are a million agents."""
_HEAD = "from typing import Any, Optional\nfrom smolagents.tools import Tool\n\n\n"
_APP = """import gradio as gr

from safeexec_agent import CodeAgent

agent = CodeAgent.from_folder(".")


def answer(task: str) -> str:
    return str(agent.run(task))


demo = gr.Interface(answer, gr.Textbox(label="Task"), gr.Textbox(label="Answer"), title=agent.name or "Agent")

if __name__ == "__main__":
    demo.launch()
"""


# -- writing ----------------------------------------------------------------------------------------------------------------


def save(agent: Any, folder: Path) -> None:
    """See CodeAgent.save_to_folder."""
    sources = {name: source_of(item) for name, item in agent.tools.items()}
    (folder / "tools").mkdir(parents=True, exist_ok=True)
    for name, source in sources.items():
        whole.write(folder / "tools" / f"{name}.py", source.encode())
    for name, member in agent.managed_agents.items():
        save(member, folder / "managed_agents" / name)
    more = [name for name in agent.authorized_imports if name not in DEFAULT_IMPORTS and not name.endswith(".*")]
    requirements = sorted({"safeexec[agent,hub]", "gradio", *(name.partition(".")[0] for name in more if name != "*")})
    model = agent.model
    data = {
        "class": "CodeAgent",
        "tools": list(agent.tools),
        "model": {"class": type(model).__name__, "data": model.to_dict() if hasattr(model, "to_dict") else {}},
        "managed_agents": dict.fromkeys(agent.managed_agents, "CodeAgent"),
        "max_steps": agent.max_steps, "verbosity_level": agent.verbosity_level, "planning_interval": agent.planning_interval,
        "name": agent.name, "description": agent.description, "instructions": agent.instructions, "requirements": requirements,
        "authorized_imports": more, "max_print_outputs_length": agent.max_print_outputs_length,
    }  # fmt: skip
    files = {
        "prompts.yaml": _yaml().safe_dump(dict(agent.prompt_templates), default_style="|", sort_keys=False),
        "requirements.txt": "".join(f"{line}\n" for line in requirements),
        "app.py": _APP,
        # Last: it is what makes the folder an agent, and half of one must not be taken for it.
        "agent.json": json.dumps(data, indent=4),
    }
    for file, text in files.items():
        whole.write(folder / file, text.encode())


def source_of(item: Any) -> str:
    """A file that defines the tool by itself. Raises ToolError when its source cannot be had, or needs what is outside it."""
    if isinstance(item, SandboxTool):
        return item.source
    kind = type(item)
    if BUILT_IN.get(kind.__name__) is kind:
        package = "safeexec_agent" if kind is toolbox.TavilySearchTool else "smolagents"
        return f"from {package} import {kind.__name__}\n"
    try:
        source = textwrap.dedent(inspect.getsource(item.function if isinstance(item, FunctionTool) else kind))
    except (OSError, TypeError) as error:
        raise ToolError(f"tool {item.name!r}: its source cannot be found ({error}); define it in a file") from None
    node = ast.parse(source).body[0]
    if isinstance(item, FunctionTool):
        if not isinstance(node, ast.FunctionDef):
            raise ToolError(f"tool {item.name!r}: only a plain function can be saved")
        node.name, node.decorator_list = "forward", []
        node.args.args.insert(0, ast.arg("self"))
        fields = {
            "name": item.name,
            "description": item.description,
            "inputs": dict(item.inputs),
            "output_type": item.output_type,
        }
        body = "\n".join(f"{key} = {value!r}" for key, value in fields.items()) + "\n\n" + ast.unparse(node)
        source = (
            "class "
            + "".join(part.title() for part in item.name.split("_"))
            + "Tool(Tool):\n"
            + textwrap.indent(body, "    ")
            + "\n"
        )
    missing = _outside(source)
    if missing:
        raise ToolError(
            f"tool {item.name!r} uses {', '.join(missing)} from outside; import or define that inside the function, so that the tool can be shared"
        )
    return _HEAD + source


def _outside(source: str) -> list[str]:
    """Names that the source uses and does not make."""
    made = {*dir(builtins), "Any", "Optional", "Tool", "self"}
    used: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            (made.add if not isinstance(node.ctx, ast.Load) else used.append)(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            made.add(node.name)
    return sorted(set(used) - made)


# -- reading ----------------------------------------------------------------------------------------------------------------


def load(
    cls: Any,
    folder: Path,
    trust: bool,
    changes: Mapping[str, Any],
    root: Path | None = None,
    seen: list[Path] | None = None,
) -> Any:
    """See CodeAgent.from_folder. Links may lead anywhere below `root`, which is the folder itself unless a cache has its files elsewhere."""
    root = (root or folder).resolve()
    seen = [] if seen is None else seen
    seen.append(folder)
    if len(seen) > _MAX_AGENTS:
        raise AgentError(f"{root} has more than {_MAX_AGENTS} agents in it")

    def read(path: Path) -> str:
        # A prompt that is a link to a file of the user's would be sent to the model.
        if not path.resolve().is_relative_to(root):
            raise ValueError(f"{path.name} is a link that leads out of {root}")
        return _read(path)

    try:
        data = json.loads(read(folder / "agent.json"))
        if not isinstance(data, dict):
            raise ValueError("agent.json is no object")
        options = _options(data, folder, trust, changes, read)
        members = data.get("managed_agents") or {}
        names = list(members) if isinstance(members, dict) else [m["name"] for m in members]
        if names and "managed_agents" not in changes:
            passed = {
                k: v
                for k, v in changes.items()
                if k in ("sandbox", "sandbox_options", "model", "verbosity_level", "policy")
            }
            options["managed_agents"] = [
                load(cls, folder / "managed_agents" / _name(n), trust, passed, root, seen) for n in names
            ]
    except (ValueError, KeyError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise AgentError(f"{folder} is no saved agent: {error}") from error
    return cls(**{**options, **changes})


def _options(
    data: Mapping[str, Any], folder: Path, trust: bool, changes: Mapping[str, Any], read: Callable[[Path], str]
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, kind in {
        "name": str,
        "description": str,
        "instructions": str,
        "max_steps": int,
        "planning_interval": int,
    }.items():
        if data.get(key) is not None:
            if type(data[key]) is not kind:
                raise ValueError(f"{key} must be {kind.__name__}")
            options[key] = data[key]
    options["max_steps"] = max(1, min(options.get("max_steps", 20), 100))
    if "tools" not in changes:
        entries = [t if isinstance(t, str) else t["name"] for t in data.get("tools", [])]
        options["tools"] = [read_tool(read(folder / "tools" / f"{_name(entry)}.py"), entry, trust) for entry in entries]
    if "additional_authorized_imports" not in changes:
        options["additional_authorized_imports"] = _imports(
            data.get("authorized_imports") or [], changes.get("sandbox", "wasm"), trust
        )
    if "model" not in changes:
        options["model"] = _model(data.get("model") or {})
    if (folder / "prompts.yaml").is_file() and "prompt_templates" not in changes:
        options["prompt_templates"] = templates(read(folder / "prompts.yaml"))
    return options


def _model(about: Mapping[str, Any]) -> Any:
    """The model by its name. Nothing else is taken: an address would get the key of whoever loads the agent."""
    kind, data = about.get("class"), about.get("data") or {}
    if kind not in MODELS or not isinstance(data.get("model_id"), str):
        raise AgentError(f"the agent's model is {kind!r:.80}, which cannot be made here; pass model=…")
    if kind == "TransformersModel":
        raise AgentError(
            f"the agent wants the local weights {data['model_id']!r:.80}; pass model=TransformersModel(…) if you want them too"
        )
    return MODELS[kind](data["model_id"])


def _imports(names: list[Any], sandbox: Any, trust: bool) -> list[str]:
    name = sandbox.sandbox if isinstance(sandbox, Executor) else sandbox
    found = [str(n) for n in names if re.fullmatch(r"\w+(\.\w+)*(\.\*)?", str(n))]
    # Where the language is the wall an import that nobody reviewed takes it down: that is the user's word to give, not the folder's.
    return found if trust or name != "local" else [n for n in found if n in DEFAULT_IMPORTS]


def read_tool(source: str, name: str, trust: bool) -> Any:
    """The tool a file defines: ours by class name, else one that runs in the sandbox; the class itself, made here, only with `trust`."""
    if len(source) > _MAX_SOURCE:  # the parser takes a thousand times as much
        raise ValueError(f"tools/{name}.py is longer than {_MAX_SOURCE} characters")
    tree = parse(source)
    kind = next((n for n in tree.body if isinstance(n, ast.ClassDef)), None)
    names = (
        [a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names] if kind is None else [kind.name]
    )
    for known in names:
        if known in BUILT_IN:
            return BUILT_IN[known]()
    if kind is None:
        raise ValueError(f"tools/{name}.py defines no class")
    if trust:
        return _made_here(source, kind.name)
    about: dict[str, Any] = {"output_type": "any"}
    for node in kind.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Name) and target.id in ("name", "description", "inputs", "output_type"):
                about[target.id] = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    if about.get("name") != name:
        raise ValueError(f"tools/{name}.py defines {about.get('name')!r:.80}")
    made = SandboxTool(name, about.get("description", ""), about.get("inputs", {}), about["output_type"], source)
    made.module()  # what cannot be written anew is refused now, and not in the middle of a run
    return as_tool(made)


def _made_here(source: str, name: str) -> Any:
    """Runs the source in this process: only by the user's word."""
    text = re.sub(r"(?m)^from smolagents(\.\w+)* import", "from safeexec_agent import", source)
    space: dict[str, Any] = {"Tool": Tool, "__name__": "safeexec_agent_loaded"}
    exec(compile(text, f"<tool {name}>", "exec"), space)
    return space[name]()


def templates(text: str) -> dict[str, str]:
    """Our own templates as they are; of smolagents', what this agent has a place for.

    Theirs are programs of Jinja. They are not run: what stands around the lists of tools is kept, the lists are put in by us.
    """
    yaml = _yaml()
    if len(text) > _MAX_PROMPTS:
        raise ValueError(f"prompts.yaml is longer than {_MAX_PROMPTS} characters")
    try:
        # Texts, lists and mappings: of its other features merging (<<) makes gigabytes of a hundred bytes.
        data = yaml.load(text, Loader=yaml.BaseLoader) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"prompts.yaml: {error}") from None
    if not isinstance(data, dict):
        raise ValueError("prompts.yaml is no mapping")
    ours = {k: v for k, v in data.items() if k in prompts.TEMPLATES and isinstance(v, str) and v not in _NOTHING}
    found = {key: _unjinja(value) for key, value in ours.items()}
    if isinstance(data.get("managed_agent"), dict) and isinstance(data["managed_agent"].get("task"), str):
        found["managed_agent"] = _unjinja(data["managed_agent"]["task"])
    return found


_NOTHING = ("", "~", "null")
_LOOP = re.compile(r"\{%-?\s*for\s+\w+\s+in\s+(tools|managed_agents)\.values\(\)\s*-?%\}")
_LOOP_END = re.compile(r"\{%-?\s*endfor\s*-?%\}")
_OTHER = re.compile(r"\{[%#]")
_OTHER_END = {"{%": re.compile(r"%\}"), "{#": re.compile(r"#\}")}


def _unjinja(text: str) -> str:
    text = _without(text, _LOOP, lambda _: _LOOP_END, lambda m: "{{" + m[1] + "}}")
    return _without(text, _OTHER, lambda m: _OTHER_END[m[0]], lambda _: "")


def _without(
    text: str,
    begin: re.Pattern[str],
    end_of: Callable[[re.Match[str]], re.Pattern[str]],
    put: Callable[[re.Match[str]], str],
) -> str:
    """`text` with all from each `begin` to its end replaced. Each end is looked for once: what never ends must not be read again from each beginning."""
    parts: list[str] = []
    endless: set[re.Pattern[str]] = set()
    at = place = 0
    while (found := begin.search(text, place)) is not None:
        end = end_of(found)
        place = found.end()
        last = None if end in endless else end.search(text, place)
        if last is None:
            endless.add(end)
            continue
        parts += (text[at : found.start()], put(found))
        at = place = last.end()
    return "".join((*parts, text[at:]))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise ValueError(f"{path.name} is larger than {MAX_FILE} bytes")
    return data.decode("utf-8")


def _name(name: Any) -> str:
    """A name that stays below the folder."""
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"{name!r:.80} is no name of a tool or an agent")
    return name


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise NotInstalled("this needs PyYAML: pip install 'safeexec[hub]'") from None
    return yaml
