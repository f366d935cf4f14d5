"""The loop: messages, model, code, sandbox, observation, memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safeexec import GuestError, Result, Session, SessionClosed
from safeexec_agent import prompts, telemetry, travel
from safeexec_agent.bridge import Slot
from safeexec_agent.errors import AgentBusy, AgentInterrupted, ModelError
from safeexec_agent.memory import (
    ActionStep,
    FinalAnswerStep,
    PlanningStep,
    StepError,
    SystemPromptStep,
    TaskStep,
    Timing,
    cut,
)
from safeexec_agent.models import ChatMessage, Delta, TokenUsage, ask, usage_dict
from safeexec_agent.observe import check_answer, hint, message_of, observation
from safeexec_agent.parsing import ParseError, parse_code, parse_structured
from safeexec_agent.parts import Parts
from safeexec_agent.values import describe, to_plain

if TYPE_CHECKING:
    from safeexec_agent.agent import CodeAgent

STUCK = 5
"""Identical failures in a row after which the agent stops asking for more."""
_FORMAT = {
    "type": "json_schema",
    "json_schema": {
        "name": "step",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"thought": {"type": "string"}, "code": {"type": "string"}},
            "required": ["thought", "code"],
            "additionalProperties": False,
        },
    },
}


@dataclass
class RunResult:
    """What ``run(…, return_full_result=True)`` returns. `state` is "success", "max_steps", "token_budget" or "stuck"."""

    output: Any
    state: str
    steps: list[Any]
    token_usage: TokenUsage
    timing: Timing

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        steps = [step.to_dict() for step in self.steps]
        return {"output": to_plain(self.output), "state": self.state, "steps": steps, "token_usage": usage_dict(self.token_usage),
                "duration": self.timing.duration}  # fmt: skip


@dataclass
class _Run:
    """What belongs to one run."""

    task: str
    max_steps: int
    kept: Path | None = None
    """Where it is kept, to be taken up by another process."""
    done: int = 0
    """Steps made before it was taken up."""
    started: float = field(default_factory=time.time)
    state: str = "success"
    output: Any = None
    failures: int = 0
    last_failure: tuple[Any, ...] = ()


class Loop(Parts):
    """How an agent runs. What it is made of is CodeAgent's."""

    def run(
        self,
        task: str,
        reset: bool = True,
        images: Sequence[bytes] | None = None,
        additional_args: Mapping[str, Any] | None = None,
        stream: bool = False,
        max_steps: int | None = None,
        return_full_result: bool = False,
        resume: str | Path | None = None,
    ) -> Any:
        """Do `task` and return the answer; an iterator of deltas and steps with `stream`; a :class:`RunResult` with `return_full_result`.

        `resume` names a file in which the run is kept after every step, with the sandbox's live state where it can be written down. If the file is
        there, the run goes on from it, in whatever process; it is removed when the run has ended. `reset` forgets earlier runs and takes a
        fresh session. `images` are files as bytes, for models that see. `additional_args` become variables.
        Raises ModelError when the model fails, AgentInterrupted, AgentBusy, BackendUnavailable.
        """
        if not isinstance(task, str) or not task.strip():
            raise ValueError("task must be a text that says what to do")
        run = _Run(task, self.max_steps if max_steps is None else max_steps, None if resume is None else Path(resume))
        events = self._run(run, reset, list(images or ()), dict(additional_args or {}))
        if stream:
            return events
        for _ in events:
            pass
        if return_full_result:
            steps = list(self.memory.steps)
            return RunResult(run.output, run.state, steps, self.memory.token_usage(), Timing(run.started, time.time()))
        return run.output

    async def arun(self, task: str, *, stream: bool = False, **options: Any) -> Any:
        """As :meth:`run`, awaited; with `stream` an asynchronous iterator. Cancelling it interrupts the run and waits for its end."""
        if stream:
            return self._astream(self.run(task, stream=True, **options))
        return await self._in_thread(lambda: self.run(task, **options))

    async def _astream(self, events: Iterator[Any]) -> AsyncIterator[Any]:
        end = object()
        while (event := await self._in_thread(lambda: next(events, end))) is not end:
            yield event

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        future = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.interrupt()
            await asyncio.wait([future])
            future.exception()
            raise

    def __call__(self, task: str, *, additional_args: Mapping[str, Any] | None = None) -> Any:
        """A run for another agent, which gets the bare answer. Calls at the same time wait for each other's end."""
        asked = prompts.fill(self.prompt_templates["managed_agent"], name=self.name, task=task)
        run = _Run(asked, self.max_steps)
        for _ in self._run(run, True, [], dict(additional_args or {}), wait=True):
            pass
        return run.output

    def _run(
        self, run: _Run, reset: bool, images: list[bytes], args: dict[str, Any], wait: bool = False
    ) -> Iterator[Any]:
        if not self._lock.acquire(blocking=wait):
            raise AgentBusy("the agent is running a task; it runs one at a time")
        self._interrupted.clear()
        hidden = sorted({*self.tools, *self.managed_agents} & set(args))
        if hidden:  # a manager could take a worker's way to answer from it
            self._lock.release()
            raise ValueError(f"additional_args must not have the names of tools: {', '.join(hidden)}")
        span = telemetry.start(
            "AGENT", self.name or "", gen__ai_agent_name=self.name or "CodeAgent", safeexec_sandbox=str(self.sandbox)
        )
        span.content(input_value=run.task)
        try:
            if reset:
                self.memory.reset()
                self.state = {}
                if self._session is not None:
                    self._session.close()
            resumed = run.kept is not None and run.kept.exists()
            if resumed:
                self._take_up(run)
                args, images = {}, []
            self.memory.system_prompt = SystemPromptStep(self.system_prompt)
            self.state.update(args)
            fresh = self._session is None or self._session.closed
            if args and not fresh:
                self.session.variables.update(args)
            prompt = prompts.fill(self.prompt_templates["task"], task=run.task)
            if args:
                shown = "\n".join(f"{name} = {describe(value, 500)}" for name, value in args.items())
                prompt += f"\n\nThese variables are there:\n{shown}"
            if not resumed:
                self.memory.steps.append(TaskStep(run.task, images, prompt))
            self._emit("run_start", agent=self, task=run.task)
            yield from self._steps(run, span)
            if run.kept is not None:
                run.kept.unlink(missing_ok=True)
            final = FinalAnswerStep(run.output)
            self.memory.steps.append(final)
            span.content(output_value=run.output)
            self._emit("final", agent=self, output=run.output, state=run.state, token_usage=self.memory.token_usage(),
                       duration=time.time() - run.started)  # fmt: skip
            self._call_back(final)
            yield final
        except Exception as error:
            span.fail(type(error).__name__, str(error))
            self._emit("failed", agent=self, error=error)
            raise
        finally:
            span.usage(self.memory.token_usage())
            span.end()
            self._lock.release()

    def _take_up(self, run: _Run) -> None:
        assert run.kept is not None
        travel.load(cast("CodeAgent", self), run.kept, run.task)
        task = max((i for i, step in enumerate(self.memory.steps) if isinstance(step, TaskStep)), default=0)
        run.done = sum(isinstance(step, ActionStep) for step in self.memory.steps[task:])
        if self._session is None and run.done:
            self._fresh_sandbox = True

    def _steps(self, run: _Run, span: telemetry.Span) -> Iterator[Any]:
        for number in range(run.done + 1, run.max_steps + 1):
            if self.planning_interval and (number - 1) % self.planning_interval == 0:
                yield self._plan(run, number, span)
            step = ActionStep(number, Timing(time.time()))
            self._emit("step_start", agent=self, step=step)
            failed: BaseException | None = None
            try:
                yield from self._act(run, step, span)
            except (ModelError, AgentInterrupted) as error:
                failed = error
                step.error = StepError(type(error).__name__, str(error))
            finally:
                step.timing.end_time = time.time()
                self.memory.steps.append(step)
            self._call_back(step)
            self._emit("step_end", agent=self, step=step)
            if failed is not None:
                raise failed
            if run.kept is not None and not step.is_final_answer:
                travel.save(cast("CodeAgent", self), run.kept, run.task)
            yield step
            if step.is_final_answer:
                run.output = step.action_output
                return
            if self.token_budget is not None and self.memory.token_usage().total_tokens >= self.token_budget:
                run.state = "token_budget"  # and no further request: an answer from memory would cost as much again
                return
            if run.failures >= STUCK:
                run.state = "stuck"
                break
        else:
            run.state = "max_steps"
        self._give_up(run, span)

    def _ask(self, messages: list[ChatMessage], span: telemetry.Span, formatted: bool = False) -> ChatMessage:
        self._check()

        def on_delta(piece: str) -> None:
            self._check()
            self._emit("delta", agent=self, text=piece)

        streams = self.stream_outputs or bool(getattr(self.model, "stream", False))
        model_id = str(getattr(self.model, "model_id", "") or type(self.model).__name__)
        with (
            telemetry.inside(span),
            telemetry.span("LLM", model_id, gen__ai_request_model=model_id, llm_model__name=model_id) as call,
        ):
            call.content(input_value=lambda: "\n\n".join(f"{m.role}: {m.text}" for m in messages))
            reply = ask(
                self.model, messages, ("Observation:",), _FORMAT if formatted else None, on_delta if streams else None
            )
            call.content(output_value=reply.text)
            call.usage(reply.token_usage)
        self._check()
        return reply

    def _act(self, run: _Run, step: ActionStep, span: telemetry.Span) -> Iterator[Delta]:
        step.model_input_messages = self.write_memory_to_messages()
        reply = self._ask(step.model_input_messages, span, self.use_structured_outputs)
        step.model_output, step.token_usage = cut(reply.text, 200_000), reply.token_usage
        if self.stream_outputs:
            yield Delta(reply.text, reply.token_usage)
        try:
            if self.use_structured_outputs:
                _, step.code_action = parse_structured(reply.text, reply.truncated)
            else:
                step.code_action = parse_code(reply.text, self.tags, reply.truncated)
        except ParseError as error:
            self._failed(run, step, StepError("ParseError", str(error)), str(error))
            return
        self._emit("code", agent=self, step=step)
        verdict = self.before_step(step) if self.before_step is not None else None
        if verdict is False or isinstance(verdict, str):
            reason = f": {verdict}" if isinstance(verdict, str) and verdict else ""
            text = f"The user did not let this code run{reason}. Try another way, or give your answer without it."
            self._failed(run, step, StepError("Refused", text), text)
            return
        self._execute(run, step, span)

    def _execute(self, run: _Run, step: ActionStep, span: telemetry.Span) -> None:
        assert step.code_action is not None
        slot = self._slot = Slot()
        restarted = self._fresh_sandbox or (
            self._session is not None and self._session.closed and len(self.memory.actions) > 0
        )
        self._fresh_sandbox = False
        with telemetry.inside(span), telemetry.span("CHAIN", "", safeexec_sandbox=self.executor.sandbox) as execution:
            execution.content(input_value=step.code_action)
            session = self.session
            self._check()
            try:
                result = session.run(
                    step.code_action, on_output=lambda piece: self._emit("output", agent=self, text=piece)
                )
            except SessionClosed as closed:  # its process died while the model was thinking
                result = Result(error=GuestError("crash", "SessionClosed", str(closed)))
            if result.error is not None and not slot.answers:
                execution.fail(result.error.type, result.error.message)
            execution.content(output_value=result.stdout)
        step.displays = result.displays
        step.files = [info.name for info in result.files]
        step.tool_calls = [
            {"name": c.tool, "arguments": dict(c.arguments), "error": c.error, "duration": c.duration}
            for c in result.tool_calls
        ]
        text = observation(result, self.max_print_outputs_length)
        if slot.answers:
            step.observations, step.action_output = text, slot.answers[0]
            problem = next(
                filter(None, (check_answer(c, step.action_output, self) for c in self.final_answer_checks)), None
            )
            step.is_final_answer = problem is None
            if problem is not None:
                self._failed(
                    run,
                    step,
                    StepError("FinalAnswerCheck", problem),
                    f"{text}\nYour answer was not accepted: {problem}".strip(),
                )
            return
        self._check()
        step.action_output = result.value
        if result.error is None:
            step.observations = text or "(no output)"
            run.failures, run.last_failure = 0, ()
        else:
            error = result.error
            self._failed(
                run,
                step,
                StepError(error.type, message_of(error), error.kind, error.line),
                text + self._advice(result, session, step.code_action),
            )
        if restarted:
            step.observations = "(The sandbox was new in this step: variables of earlier steps are gone.)\n" + (
                step.observations or ""
            )

    def _advice(self, result: Result, session: Session, code: str) -> str:
        assert result.error is not None
        text = hint(result, self._more_imports(), (*self.tools, *self.managed_agents), self.policy.limits)
        text = self._restored(result.error, session, code) or text
        if session.closed:
            kept = f" The variables {', '.join(self.state)} are there again." if self.state else ""
            text += f"\nThe sandbox starts anew with your next step: define and import again what you need.{kept}"
        elif result.rolled_back:
            text += "\nVariables and files are as they were before this step."
            if result.tool_calls:
                names = ", ".join(dict.fromkeys(call.tool for call in result.tool_calls))
                text += f" The calls of {names} were made all the same, and cannot be undone: do not make them twice without need."
        return text

    def _failed(self, run: _Run, step: ActionStep, error: StepError, text: str) -> None:
        step.error = error
        key = (step.code_action or step.model_output, error.type, error.message)
        run.failures = run.failures + 1 if key == run.last_failure else 1
        run.last_failure = key
        if run.failures > 1:
            text += f"\nThis is the same failure for the {run.failures}. time. Running it again will not help: do it in another way."
        step.observations = text

    def _plan(self, run: _Run, number: int, span: telemetry.Span) -> PlanningStep:
        started = time.time()
        text = prompts.fill(
            self.prompt_templates["plan"], tools=self._tools_text(), managed_agents=prompts.team(self.managed_agents.values()),
            remaining_steps=run.max_steps - number + 1, task=run.task,
        )  # fmt: skip
        reply = self._ask([*self.write_memory_to_messages(), ChatMessage("user", text)], span)
        step = PlanningStep(cut(reply.text, 50_000), Timing(started, time.time()), reply.token_usage)
        self.memory.steps.append(step)
        self._emit("plan", agent=self, step=step)
        self._call_back(step)
        return step

    def _give_up(self, run: _Run, span: telemetry.Span) -> None:
        """One last request: the answer as far as it is known."""
        text = prompts.fill(self.prompt_templates["final_answer"], task=run.task)
        try:
            reply = self._ask([*self.write_memory_to_messages(), ChatMessage("user", text)], span)
            run.output = cut(reply.text, 50_000)
        except ModelError as error:
            run.output = None
            self._emit("failed", agent=self, error=error)
