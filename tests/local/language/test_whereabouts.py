"""What asyncio shows of tasks, futures, handles and what went wrong with them: the program's own lines."""

import sys

import pytest

SOURCE = """
import asyncio, gc
async def own(): await asyncio.sleep(0)
async def lost(): raise ValueError("nobody asks")
shown = []
async def main():
    loop = asyncio.get_running_loop()
    shown.extend(map(repr, (loop.call_later(0.001, len), loop.call_soon(own.__class__), loop.create_future())))
    for made in (own(), asyncio.sleep(0), asyncio.wait_for(own(), 1), asyncio.to_thread(len, "a")):
        task = asyncio.create_task(made)
        shown.append(repr(task))
        await asyncio.sleep(0)
        shown.append(repr(task))
        await task
        shown.append(repr(task))
    shown.append(repr(asyncio.gather(own(), own())))
    task = asyncio.create_task(lost())
    await asyncio.sleep(0.01)
    del task
    gc.collect()
    own()
asyncio.run(main(), debug=DEBUG)
shown
"""


@pytest.mark.parametrize("debug", [False, True])
def test_the_programs_own_lines_and_no_others(run, capsys, debug, recwarn):
    shown = run(SOURCE.replace("DEBUG", str(debug)))
    text = "\n".join([*shown, capsys.readouterr().err, *(str(warning.message) for warning in recwarn)])
    assert "/" not in text and ".py" not in text
    assert "coro=<own() running at <step 1>:3>" in text
    assert ("created at <step 1>:" in text) is debug
    if debug:
        assert shown[0].endswith("created at <step 1>:8>")
        assert any(item.endswith("created at <step 1>:10>") for item in shown)


def test_what_was_lost_is_told_with_the_programs_lines(run, capsys, caplog):
    run(SOURCE.replace("DEBUG", "True"))
    told = [record for record in caplog.records if "never retrieved" in record.getMessage()]
    assert len(told) == 1
    message = told[0].getMessage()
    assert "Object created at (most recent call last):" in message and 'File "<step 1>", line 17, in main' in message
    assert "/" not in message and ".py" not in message


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="n/a: an error there")
def test_a_warning_of_the_library_does_not_say_where_that_lies(run):
    source = """
import heapq, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    list(heapq.merge([1], [2], reverse=NotImplemented))
[warning.filename for warning in caught]
"""
    assert run(source) == ["heapq.py"]
