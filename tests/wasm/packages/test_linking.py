"""Side modules linked into a small interpreter: what they compute afterwards, and what is refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from time import monotonic

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeexec_backends.wasm.abi import Engine, EngineError, Trap
from safeexec_backends.wasm.image import dylink, packages
from safeexec_backends.wasm.image.binary import MAGIC, FormatError, FunctionType, encode_name, encode_unsigned
from safeexec_backends.wasm.image.exceptions import Types, translate
from safeexec_backends.wasm.image.merge import merge

from .modules import HEAP, library, linked, live, side
from .modules import dylink as info

ENTRY = '(func (export "PyInit_x") (param i32) (result i32) {0})'


def test_a_library_calls_the_interpreter(tmp_path: Path) -> None:
    text = '(import "env" "double" (func $double (param i32) (result i32)))' + ENTRY.format(
        "(i32.add (call $double (local.get 0)) (i32.const 1))"
    )
    assert live(tmp_path, side("x.so", text)).entry("x.so", "PyInit_x", 20) == 41


def test_data_lies_at_its_base_and_relocations_and_constructors_run_in_order(tmp_path: Path) -> None:
    text = """
      (data (global.get $memory_base) "abcd")
      (func (export "__wasm_apply_data_relocs")
        (i32.store offset=8 (global.get $memory_base) (i32.add (global.get $memory_base) (i32.const 2))))
      (func (export "__wasm_call_ctors")
        (i32.store offset=12 (global.get $memory_base) (i32.load8_u (i32.load offset=8 (global.get $memory_base)))))
    """ + ENTRY.format("(i32.add (global.get $memory_base) (local.get 0))")
    running = live(tmp_path, side("a.so", text), side("b.so", text, info(alignment=8)))
    first, second = running.entry("a.so", "PyInit_x"), running.entry("b.so", "PyInit_x")
    assert HEAP <= first < first + 64 <= second and second % 256 == 0
    for base in (first, second):
        assert running.host.memory.read(base, 4) == b"abcd"
        assert running.call("load", base + 12) == ord("c")
    assert running.merged.reserved[0] == HEAP and running.merged.reserved[1] >= second + 64


def test_function_pointers_are_the_interpreters_own_or_new_slots(tmp_path: Path) -> None:
    text = """
      (import "GOT.func" "double" (global $double (mut i32)))
      (import "GOT.func" "triple" (global $triple (mut i32)))
      (func $triple (export "triple") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 3)))
    """ + ENTRY.format(
        """(i32.add (i32.mul (global.get $double) (i32.const 1000))
           (call_indirect (param i32) (result i32) (local.get 0) (global.get $triple)))"""
    )
    # `double` keeps the index 1 that the interpreter gave it: pointers to one function are equal on both sides.
    assert live(tmp_path, side("x.so", text)).entry("x.so", "PyInit_x", 5) == 1015


def test_table_elements_lie_at_the_librarys_base(tmp_path: Path) -> None:
    text = """
      (func $plus (param i32) (result i32) (i32.add (local.get 0) (i32.const 9)))
      (elem (global.get $table_base) func $plus)
    """ + ENTRY.format("(call_indirect (param i32) (result i32) (local.get 0) (global.get $table_base))")
    running = live(tmp_path, side("x.so", text), side("y.so", text))
    assert [running.entry(path, "PyInit_x", 1) for path in ("x.so", "y.so")] == [10, 10]


def test_symbols_come_from_the_interpreter_then_the_library_then_those_it_needs(tmp_path: Path) -> None:
    base = """
      (func (export "double") (param i32) (result i32) (i32.const -1))
      (func (export "half") (param i32) (result i32) (i32.div_u (local.get 0) (i32.const 2)))
      (global (export "far") i32 (i32.const 4))
      (data (i32.add (global.get $memory_base) (i32.const 4)) "far!")
    """
    text = """
      (import "env" "double" (func $double (param i32) (result i32)))
      (import "env" "half" (func $half (param i32) (result i32)))
      (import "GOT.mem" "a_datum" (global $datum (mut i32)))
      (import "GOT.mem" "far" (global $far (mut i32)))
      (func (export "address") (result i32) (global.get $far))
    """ + ENTRY.format("(i32.add (call $half (call $double (local.get 0))) (global.get $datum))")
    running = live(tmp_path, side("pkg/x.so", text, info(needed=("libbase.so",))), side("usr/lib/libbase.so", base))
    assert running.entry("pkg/x.so", "PyInit_x", 21) == 21 + 1024
    far = HEAP + 64 + 4  # the second library's base, as both have 64 bytes
    assert running.host.memory.read(far, 4) == b"far!"


def test_a_symbol_of_a_library_that_is_not_needed_is_not_seen(tmp_path: Path) -> None:
    stranger = '(func (export "half") (param i32) (result i32) (i32.const 1))'
    text = '(import "env" "half" (func $half (param i32) (result i32)))' + ENTRY.format("(call $half (local.get 0))")
    running = live(tmp_path, side("x.so", text), side("y.so", stranger))
    with pytest.raises(LookupError, match="half"):
        running.entry("x.so", "PyInit_x", 1)


def test_a_name_that_nobody_has_stops_the_guest_when_it_is_called(tmp_path: Path) -> None:
    text = """
      (import "env" "launch" (func $launch (param i32) (result i32)))
      (import "GOT.func" "land" (global $land (mut i32)))
      (import "GOT.func" "maybe" (global $maybe (mut i32)))
      (import "GOT.mem" "perhaps" (global $perhaps (mut i32)))
      (func (export "PyInit_weak") (param i32) (result i32) (i32.add (global.get $maybe) (global.get $perhaps)))
      (func (export "PyInit_land") (param i32) (result i32)
        (call_indirect (param i32) (result i32) (local.get 0) (global.get $land)))
    """ + ENTRY.format("(if (result i32) (local.get 0) (then (call $launch (local.get 0))) (else (i32.const 5)))")
    weak = info(weak=(("GOT.func", "maybe"), ("GOT.mem", "perhaps")))
    running = live(tmp_path, side("x.so", text, weak))
    assert running.entry("x.so", "PyInit_x", 0) == 5
    assert running.entry("x.so", "PyInit_weak") == 0
    with pytest.raises(LookupError, match="launch"):
        running.entry("x.so", "PyInit_x", 1)
    with pytest.raises(Trap, match="signature"):
        running.entry("x.so", "PyInit_land", 1)


def test_what_the_interpreter_asks_of_the_host_a_library_may_ask_too(tmp_path: Path) -> None:
    text = '(import "env" "emscripten_date_now" (func $now (result f64)))' + ENTRY.format(
        "(i32.trunc_f64_u (call $now))"
    )
    assert live(tmp_path, side("x.so", text)).entry("x.so", "PyInit_x") == 1000


@pytest.mark.parametrize("name", ["safeexec_secret", "emscripten_run_script", "fd_write", "system"])
def test_nothing_else_of_the_host_is_to_be_had(name: str, tmp_path: Path) -> None:
    text = f'(import "env" "{name}" (func $it (result i32)))' + ENTRY.format("(call $it)")
    with pytest.raises(LookupError, match=name):
        live(tmp_path, side("x.so", text)).entry("x.so", "PyInit_x")


def test_exceptions_of_one_library_are_caught_in_another(tmp_path: Path) -> None:
    thrower = """
      (import "env" "__cpp_exception" (tag $cpp (param i32)))
      (func (export "toss") (param i32) (throw $cpp (i32.add (local.get 0) (i32.const 1))))
    """
    text = """
      (import "env" "toss" (func $toss (param i32)))
      (import "env" "__cpp_exception" (tag $cpp (param i32)))
    """ + ENTRY.format("(block $h (result i32) (try_table (catch $cpp $h) (call $toss (local.get 0))) (i32.const 0))")
    running = live(tmp_path, side("x.so", text, info(needed=("y.so",))), side("y.so", thrower))
    assert running.entry("x.so", "PyInit_x", 6) == 7


def test_mutable_globals_are_the_librarys_own(tmp_path: Path) -> None:
    text = """
      (global $n (mut i32) (i32.const 3))
      (func $start (global.set $n (i32.add (global.get $n) (i32.const 100))))
      (start $start)
    """ + ENTRY.format("(global.set $n (i32.add (global.get $n) (local.get 0))) (global.get $n)")
    running = live(tmp_path, side("x.so", text), side("y.so", text))
    assert running.entry("x.so", "PyInit_x", 10) == 113
    assert running.entry("y.so", "PyInit_x", 1) == 104


def test_recursion_that_checks_itself_pays_for_its_stack(tmp_path: Path) -> None:
    text = '(import "env" "Py_EnterRecursiveCall" (func $check (param i32) (result i32)))' + ENTRY.format(
        "(call $check (i32.const 0))"
    )
    assert live(tmp_path, side("x.so", text)).entry("x.so", "PyInit_x") == 2048 - 64


def test_draws_of_randomness_by_libraries_are_counted(tmp_path: Path) -> None:
    from safeexec_backends.wasm.image.growing import DRAWS

    text = '(import "env" "getentropy" (func $e (param i32 i32) (result i32)))' + ENTRY.format(
        "(call $e (i32.const 0) (i32.const 16))"
    )
    running = live(tmp_path, side("x.so", text))
    for _ in range(3):
        running.entry("x.so", "PyInit_x")
    assert running.host.instance.global_value(DRAWS) == 3


REFUSED = {
    "a data segment before its memory": ('(data (i32.const 1024) "evil")', info(), "outside the library's memory"),
    "a data segment behind its memory": (
        '(data (i32.add (global.get $memory_base) (i32.const 61)) "evil")', info(), "outside the library's memory"
    ),
    "a passive data segment": ('(data "evil")', info(), "not active"),
    "elements outside its table": (
        "(func $f) (elem (i32.const 1) func $f)", info(), "outside the library's table"
    ),
    "too many elements": ("(func $f) (elem (global.get $table_base) func $f $f)", info(table=1), "outside the library's table"),
    "another memory": ('(import "env" "memory2" (memory 1))', info(), "no memory or table"),
    "a wrong type": (
        '(import "env" "double" (func (param i64) (result i32)))', info(), "calls double with other arguments"
    ),
    "an unknown tag": ('(import "env" "own_exception" (tag (param i32)))', info(), "own_exception"),
    "a tag of another type": ('(import "env" "__cpp_exception" (tag (param i64)))', info(), "__cpp_exception"),
    "an unknown global": ('(import "env" "secret" (global i32))', info(), "env.secret"),
    "data that nobody has": ('(import "GOT.mem" "nowhere" (global (mut i32)))', info(), "'nowhere'"),
    "a table of its own": ("(table 1 funcref)", info(), "table or a memory of its own"),
    "a wide mutable global": ("(global (mut i64) (i64.const 0))", info(), "mutable global"),
    "a constructor with arguments": ('(func (export "__wasm_call_ctors") (param i32))', info(), "constructor"),
    "a library that is not there": ("", info(needed=("libgone.so",)), "libgone.so, which is in none of the packages"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_with_the_files_name_and_a_reason(what: str) -> None:
    text, section, reason = REFUSED[what]
    with pytest.raises(FormatError, match=reason) as caught:
        merge(linked(), [side("pkg/x.so", text, section)])
    assert "pkg/x.so cannot be linked" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x01\xff\xff\xff\xff\x0f", "beyond the section"),
        (b"\x01\x02\x00\x00", "ends too early"),
        (b"\x01\x05\x00\x00\x00\x00\x00", "longer than its content"),
        (b"\x01\x04\x00\x1f\x00\x00", r"alignment of 2\*\*31"),
        (b"\x01\x08\xff\xff\xff\xff\x0f\x00\x00\x00", "bytes of static memory"),
        (b"\x01\x08\x00\x00\xff\xff\xff\xff\x0f\x00", "table elements"),
        (b"\x01\x04\x00\x00\x00\x00" * 2, "comes twice"),
        (b"\x02\x05\xff\xff\xff\xff\x0f", "items in"),
        (b"\x02\x02\x01\x09", "beyond its section"),
        (b"\x02\x03\x01\x01\xff", "not UTF-8"),
        (b"\x01\x80\x80\x80\x80\x80\x80\x01", "more than 32 bits"),
        (b"\x09\x00", "unknown"),
    ],
)
def test_malformed_dylink_sections_are_refused(content: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        dylink.parse(content)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x7fELF\x02\x01\x01" + bytes(60), "another platform"),
        (b"", "another platform"),
        (b"\0asm\1\0\0\0", "no dylink.0"),
        (b"\0asm\1\0\0\0\x00\xff\xff\xff\xff\x0f", "ends after the module"),
        (b"\0asm\1\0\0\0\x00" + b"\x80" * 100_000, "more than 64 bits"),
        (b"\0asm\1\0\0\0\x00", "too early"),
    ],
)
def test_files_that_are_no_side_modules_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        dylink.read("x.so", data)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_dylink_section_is_read_or_refused(content: bytes) -> None:
    try:
        found = dylink.parse(content)
    except FormatError:
        return
    assert found.memory_size <= dylink.MAX_MEMORY and found.table_size <= dylink.MAX_TABLE


_SAMPLE = library(
    """
    (import "env" "double" (func $double (param i32) (result i32)))
    (import "env" "__cpp_exception" (tag $cpp (param i32)))
    (import "GOT.func" "own" (global $own (mut i32)))
    (global $n (mut i32) (i32.const 3))
    (func $own (export "own") (param i32) (result i32) (local $k i32)
      (loop $l (result i32) (br_if $l (local.get $k)) (call_indirect (param i32) (result i32) (local.get 0) (global.get $own))))
    (func (export "PyInit_x") (param i32) (result i32)
      (block $h (result i32) (try_table (catch $cpp $h) (throw $cpp (call $double (global.get $n)))) (i32.const 0)))
    (data (global.get $memory_base) "abcdefgh") (elem (global.get $table_base) func $own)
    """
)


@given(
    st.lists(st.tuples(st.integers(8, len(_SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 40),
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_library_is_refused_or_is_a_valid_module(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(_SAMPLE)
    for place, byte in changes:
        data[place] = byte
    try:
        made = merge(linked(), [dylink.read("x.so", bytes(data[: len(data) - cut]))])
    except FormatError as error:
        assert "x.so cannot be linked" in str(error)
        return
    try:
        _ENGINE.compile(made.module)
    except EngineError:
        pass  # wasmtime's own validation is the last to look


_ENGINE = Engine(1 << 20)


@pytest.mark.parametrize("count", [501, 20_000])
def test_handlers_nested_without_end_are_refused(count: int) -> None:
    kind = FunctionType((), ())
    body = b"\x00" + b"\x06\x40" * count + b"\x18\x00" * count + b"\x0b"  # try ... delegate 0
    with pytest.raises(FormatError, match="nested too deep"):
        translate(body, kind, [], Types([kind]), [])


def test_counts_in_the_thousand_millions_are_refused_before_they_are_counted() -> None:
    """A section that claims four thousand million items, and has none."""
    for kind in (1, 2, 3, 4, 6, 7, 9, 10, 11):
        claim = encode_unsigned(0xFFFFFFFF)
        body = bytes((kind,)) + encode_unsigned(len(claim)) + claim
        data = library("")
        tail = data.index(b"dylink.0") - 2
        size = data[tail] + 1
        with pytest.raises(FormatError):
            merge(linked(), [dylink.read("x.so", data[: tail + size] + body)])


def _with_section(kind: int, content: bytes) -> bytes:
    custom = encode_name("dylink.0") + info()
    sections = ((0, custom), (kind, content))
    return MAGIC + b"".join(bytes((number,)) + encode_unsigned(len(data)) + data for number, data in sections)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_with_section(1, encode_unsigned(2_000_000) + b"\x60\0\0" * 2_000_000), "2000000 items"),
        (_with_section(2, encode_unsigned(2_000_000) + b"\0\0\0\0" * 2_000_000), "2000000 items"),
        (_with_section(1, b"\1\x60" + encode_unsigned(8_000_000) + b"\x7f" * 8_000_000 + b"\0"), "8000000 parameters"),
        (_with_section(0, b"") + b"\0\0" * 4_000_000, "custom sections without end"),
    ],
    ids=["types", "imports", "parameters", "custom"],
)
def test_what_is_read_of_a_library_takes_no_more_memory_than_its_file(data: bytes, reason: str) -> None:
    """Of a megabyte of wheel: a hundred and twenty-eight of a module, and ten gigabytes of what it says that there is in it."""
    main = linked()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=reason):
            merge(main, [dylink.read("x.so", data)])
        assert tracemalloc.get_traced_memory()[1] < 3 * len(data)
    finally:
        tracemalloc.stop()


def test_libraries_are_counted_before_they_are_read() -> None:
    made = library("")
    few = {f"{number}.so": made for number in range(3)}
    assert len(packages.libraries(few)) == 3
    with pytest.raises(FormatError, match="1001 libraries"):
        packages.libraries({f"{number}.so": b"" for number in range(1001)})


def test_imports_ahead_end_at_their_time() -> None:
    refused = packages._import(None, ["one", "two"], monotonic() - 1)  # type: ignore[arg-type]
    assert list(refused) == ["one", "two"] and "took more than" in refused["one"]
