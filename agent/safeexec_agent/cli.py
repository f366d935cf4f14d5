"""``safeexec agent``: a task, a model, a sandbox."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import click

from safeexec import DEFAULT_IMPORTS, Limits, Policy
from safeexec.cli import document, exits
from safeexec.cli.options import files, load_tool
from safeexec.cli.save import check_writable
from safeexec.cli.source import argument
from safeexec.text import neutralise
from safeexec_agent.errors import AgentError, AgentInterrupted, ModelError, NotInstalled

_OLLAMA = "http://127.0.0.1:11434/v1"
_OWN_TOOLS = {
    "web_search": ("DuckDuckGoSearchTool", "ddgs"),
    "tavily": ("TavilySearchTool", "httpx"),
    "visit_webpage": ("VisitWebpageTool", "markdownify"),
    "user_input": ("UserInputTool", "sys"),
}
"""Class, and the library it needs."""


_EXITS = """\b
Exit codes:
  0    the agent gave its answer
  1    the host could not carry on, or not save what was made
  2    usage: an option, a file or a key is wrong or missing
  3    the agent ended without an answer of its own: out of rounds, or stuck
  4    the sandbox, a library that is needed, or the model is not available
  130  interrupted with Ctrl-C
  141  whoever read the output went away
  129, 143  told to end by SIGHUP or SIGTERM"""


@click.command("agent", context_settings={"help_option_names": ["-h", "--help"]}, epilog=_EXITS)
@click.argument("task")
@click.option(
    "--sandbox",
    default="wasm",
    show_default=True,
    metavar="NAME",
    help="Where the model's code runs: wasm, local, docker, e2b…",
)
@click.option(
    "--model",
    "model_name",
    required=True,
    metavar="KIND:NAME",
    help="openai:NAME, hf:NAME, ollama:NAME, litellm:NAME or script:FILE.",
)
@click.option("--base-url", metavar="URL", help="The model's endpoint. [ollama: OLLAMA_BASE_URL, or port 11434 here]")
@click.option(
    "--tool",
    "tools",
    multiple=True,
    metavar="T",
    help="web_search, tavily, visit_webpage, user_input, or MODULE:NAME of your own.",
)
@click.option("--import", "imports", multiple=True, metavar="M", help="One more module that the code may import.")
@click.option("--package", "packages", multiple=True, metavar="P", help="A package to be present in the sandbox.")
@click.option(
    "--allow-net",
    "network",
    multiple=True,
    metavar="HOST",
    help="A host that the code may reach, with :PORT if only that.",
)
@click.option(
    "--helper",
    "helpers",
    multiple=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="A .py file that the code can import.",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    metavar="PATH",
    type=click.Path(),
    help="A file to place in the sandbox's working directory.",
)
@click.option("--instructions", metavar="TEXT", help="Said to the model beside the task.")
@click.option("--max-steps", type=click.IntRange(1), default=20, show_default=True, metavar="N", help="Rounds.")
@click.option(
    "--timeout",
    type=click.FloatRange(0.01),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds one step's code may run.",
)
@click.option("--approve", is_flag=True, help="Ask before each step's code runs.")
@click.option("--stream", is_flag=True, help="Show the model's words as they come.")
@click.option("--verbose", is_flag=True, help="Show the model's whole answers.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each event, on stdout.")
@click.option(
    "--save-files", metavar="DIR", type=click.Path(), help="Save the files and pictures that were made below DIR."
)
@click.option("--save-run", metavar="FILE", type=click.Path(), help="Save the run's memory as JSON.")
@click.option("--trace", "otlp", is_flag=True, help="Send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT.")
def command(task: str, **options: Any) -> int:
    """Have a model do TASK by writing Python, which runs in a sandbox.

    Keys are read from the environment (OPENAI_API_KEY, HF_TOKEN, TAVILY_API_KEY) or from a file .env in the current directory, and never enter the
    sandbox. The first Ctrl-C interrupts the agent; the next one ends it at once.
    """
    task = argument(task, "TASK")
    if not task.strip():
        raise exits.Failure("TASK is empty: say what is to be done")
    if options["save_run"]:
        check_writable(options["save_run"], "--save-run:")
    _dotenv(Path(".env"))
    try:
        agent = _agent(**options)
    except (AgentError, ValueError) as error:
        raise exits.Failure(
            str(error), exits.UNAVAILABLE if isinstance(error, NotInstalled) else exits.USAGE
        ) from error
    show = _Json(options["sandbox"]) if options["as_json"] else None
    if show is not None:
        agent.observers[:] = [show]
    provider = _telemetry() if options["otlp"] else None
    saver = _Saver(agent, options["save_files"])
    agent.observers.append(saver)
    code = exits.OK
    try:
        with agent:
            agent.executor  # noqa: B018  before a model is asked, and paid for: is there a sandbox at all?
            with _Interrupt(agent):
                code = _run(agent, task)
            if options["save_run"]:
                try:
                    agent.save(options["save_run"])
                except OSError as error:
                    said = f"--save-run: {options['save_run']} could not be written: {error.strerror}"
                    raise exits.Failure(f"{said}; the answer stands above", exits.GUEST) from error
    finally:
        if provider is not None:
            provider.shutdown()
    for line in saver.report():
        print(line, file=sys.stderr)
    return code or saver.code


def _run(agent: Any, task: str) -> int:
    try:
        result = agent.run(task, return_full_result=True)
    except AgentInterrupted:
        return exits.INTERRUPTED
    except ModelError:
        return exits.UNAVAILABLE  # the trace has said why
    return exits.OK if result.state == "success" else exits.LIMIT


def _agent(**options: Any) -> Any:
    from safeexec_agent.agent import CodeAgent

    limits = Limits(time=options["timeout"], tool_time=60.0, wall=None)
    policy = Policy(
        limits=limits,
        imports=DEFAULT_IMPORTS,
        packages=options["packages"],
        network=options["network"],
        files=files(options["files"]),
    )
    agent = CodeAgent(
        [_tool(text) for text in options["tools"]],
        _model(options["model_name"], options["base_url"]),
        sandbox=options["sandbox"], policy=policy, additional_authorized_imports=options["imports"], helpers=options["helpers"],
        max_steps=options["max_steps"], instructions=options["instructions"], before_step=_approve if options["approve"] else None,
        stream_outputs=options["stream"], verbosity_level=2 if options["verbose"] else 1,
    )  # fmt: skip
    return agent


def _model(text: str, base_url: str | None) -> Any:
    from safeexec_agent import endpoints, models

    kind, colon, name = text.partition(":")
    if not colon or not name:
        raise exits.Failure(f"--model: {text!r} is not of the form KIND:NAME, such as openai:gpt-4o-mini")
    if kind == "script":
        return models.ScriptedModel.from_file(name)
    if kind == "openai":
        return endpoints.OpenAIModel(name, api_base=base_url)
    if kind == "ollama":
        return endpoints.OpenAIModel(
            name, api_base=base_url or os.environ.get("OLLAMA_BASE_URL", _OLLAMA), api_key="ollama"
        )
    if kind == "hf":
        return endpoints.InferenceClientModel(name, base_url=base_url)
    if kind == "litellm":
        return endpoints.LiteLLMModel(name, api_base=base_url)
    raise exits.Failure(f"--model: there is no kind {kind!r}; there are openai, hf, ollama, litellm and script")


def _tool(text: str) -> Any:
    from safeexec_agent import toolbox, tools

    if text in _OWN_TOOLS:
        kind, library = _OWN_TOOLS[text]
        if importlib.util.find_spec(library) is None:  # said now: the model could do nothing about it
            raise NotInstalled(f"{text} needs {library}: pip install 'safeexec[agent]'")
        return getattr(toolbox, kind)()
    if ":" not in text:
        raise exits.Failure(f"--tool: {text!r} is none of {', '.join(_OWN_TOOLS)}, and not of the form module:function")
    found = load_tool(text)
    return tools.as_tool(found() if isinstance(found, type) and issubclass(found, tools.Tool) else found)


def _approve(step: Any) -> Any:
    """Asks on stderr; the code was shown just before, unless the output is JSON."""
    click.echo("Run this code? [y]es, [n]o, or what to tell the model: ", nl=False, err=True)
    answer = sys.stdin.readline()
    if not answer:
        return "nobody is there to allow it"
    text = answer.strip()
    return True if text.lower() in ("y", "yes") else False if text.lower() in ("n", "no", "") else text


def _dotenv(path: Path) -> None:
    """``NAME=value`` lines; what the environment has already stays."""
    try:
        if not path.is_file() or path.stat().st_size > 100_000:
            return
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise exits.Failure(f".env cannot be read: {error}") from None
    for line in lines:
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        name, value = name.strip(), value.strip()
        # Keys only: a .env that came with a checkout must not choose endpoints, proxies or libraries for this process.
        if equals and name.endswith(("_API_KEY", "_TOKEN", "_PUBLIC_KEY", "_SECRET_KEY")) and name.isidentifier():
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            if "\0" in value:
                raise exits.Failure(f".env: the value of {name} has a NUL, which no variable can have")
            os.environ.setdefault(name, value[1:-1] if quoted else value)


class _Interrupt:
    """The first Ctrl-C interrupts the agent, the next one raises KeyboardInterrupt."""

    def __init__(self, agent: Any) -> None:
        self._agent, self._count = agent, 0

    def __enter__(self) -> None:
        import signal

        self._old = signal.getsignal(signal.SIGINT)
        if self._old is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)

    def __exit__(self, *_: object) -> None:
        import signal

        signal.signal(signal.SIGINT, self._old)

    def _handle(self, *_: object) -> None:
        import threading

        self._count += 1
        if self._count > 1:
            raise KeyboardInterrupt
        # In a thread: this handler interrupts the very code that may hold the lock interrupt() takes.
        threading.Thread(target=self._agent.interrupt, daemon=True).start()


class _Saver:
    """Saves what each step made, at once: the next step may lose the session."""

    def __init__(self, agent: Any, directory: str | None) -> None:
        from safeexec.cli.save import make_saver

        self._agent, self._saver = agent, make_saver(directory)
        self._saved: list[Path] = []
        self._made = False
        self.code = exits.OK

    def __call__(self, event: str, **about: Any) -> None:
        if event != "step_end":
            return
        step = about["step"]
        self._made = self._made or bool(step.files or step.displays)
        if self._saver is None or not (step.files or step.displays):
            return
        from safeexec import FileInfo, Result

        result = Result(displays=step.displays, files=tuple(FileInfo(name, 0) for name in step.files))
        saved, trouble = self._saver.save(self._agent.session, result)
        self._saved += saved
        if trouble is not None:
            exits.complain(trouble)
            self.code = exits.GUEST

    def report(self) -> list[str]:
        """Lines for the user."""
        if self._saver is None:
            return ["safeexec: --save-files DIR saves files and pictures"] if self._made else []
        return [neutralise(f"safeexec: saved {path}") for path in dict.fromkeys(self._saved)]


class _Json:
    """Events as lines of strict JSON in ASCII."""

    def __init__(self, sandbox: str) -> None:
        self._sandbox = sandbox

    def __call__(self, event: str, **about: Any) -> None:
        from safeexec_agent.models import usage_dict

        agent = about.pop("agent")
        line: dict[str, Any] = {"event": event, "agent": agent.name}
        if event == "run_start":
            line |= {
                "sandbox": self._sandbox,
                "model": str(getattr(agent.model, "model_id", "")),
                "task": document.value(about["task"]),
            }
        elif event == "failed":
            line |= {"error": document.value(f"{type(about['error']).__name__}: {about['error']}")}
        elif event == "step_end":
            line |= {"step": about["step"].to_dict()}
        elif "step" in about:
            step = about["step"]
            line |= {
                k: document.value(getattr(step, k)) for k in ("step_number", "code_action", "plan") if hasattr(step, k)
            }
        else:
            line |= {
                k: usage_dict(v) if k == "token_usage" else document.value(str(v) if k == "text" else v)
                for k, v in about.items()
            }
        sys.stdout.write(document.dump(line) + "\n")
        sys.stdout.flush()


def _telemetry() -> Any:
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise exits.Failure(
            "--trace needs OpenTelemetry: pip install 'safeexec[telemetry]'", exits.UNAVAILABLE
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": "safeexec-agent"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return provider
