"""The translation of legacy exceptions, by what the translated functions compute."""

from __future__ import annotations

import itertools

import pytest
import wasmtime

from safeexec_backends.wasm import abi
from safeexec_backends.wasm.image.binary import Module, encode_unsigned
from safeexec_backends.wasm.image.code import renumber_calls, skip_locals
from safeexec_backends.wasm.image.exceptions import Types, translate

# throw(1) throws $t with 41, throw(2) throws $u, anything else returns.
PROGRAM = """
(module
  (type $tt (func (param i32))) (type $tu (func)) (tag $t (type $tt)) (tag $u (type $tu))
  (func $throw (param i32)
    (if (i32.eq (local.get 0) (i32.const 1)) (then (throw $t (i32.const 41))))
    (if (i32.eq (local.get 0) (i32.const 2)) (then (throw $u))))

  (func (export "catches") (param i32) (result i32)
    try (result i32)
      local.get 0 call $throw i32.const 7
    catch $t
      i32.const 1 i32.add
    catch_all
      i32.const 99
    end)

  (func (export "rethrows") (param i32) (result i32) (local $x i32)
    try (result i32)
      try (result i32)
        local.get 0 call $throw i32.const 5
      catch_all
        i32.const 1000 local.set $x
        rethrow 0
      end
    catch $t
      local.get $x i32.add
    catch_all
      i32.const 3
    end)

  (func (export "rethrows_with_value") (param i32) (result i32)
    try (result i32)
      try (result i32)
        local.get 0 call $throw i32.const 5
      catch $t
        drop
        rethrow 0
      end
    catch $t
      i32.const 2 i32.mul
    catch_all
      i32.const 4
    end)

  (func (export "delegates_past_a_try") (param i32) (result i32)
    block $out (result i32)
      try $outer (result i32)
        try (result i32)
          try
            local.get 0 call $throw
          delegate $outer
          i32.const 8
          br $out
        catch_all
          i32.const 666
        end
      catch $t
        i32.const 2 i32.mul
      catch_all
        i32.const 4
      end
    end)

  (func (export "delegates_to_a_try_that_does_not_answer") (param i32) (result i32)
    try (result i32)
      try $middle (result i32)
        try (result i32)
          try (result i32)
            local.get 0 call $throw i32.const 6
          delegate $middle
        catch_all
          i32.const 666
        end
      catch $t
        i32.const 1 i32.add
      end
    catch_all
      i32.const 55
    end)

  (func $leaves (param i32) (result i32)
    try (result i32)
      try (result i32)
        local.get 0 call $throw i32.const 6
      delegate 1
    catch_all
      i32.const 555
    end)
  (func (export "delegates_out_of_the_function") (param i32) (result i32)
    try (result i32)
      local.get 0 call $leaves
    catch $t
      i32.const 3 i32.mul
    catch_all
      i32.const 77
    end)

  (func (export "loops") (param i32) (result i32) (local $sum i32)
    loop $again
      block $next
        try
          local.get 0 call $throw
          br $next
        catch $t
          local.get $sum i32.add local.set $sum
          br $next
        catch_all
          local.get $sum i32.const 1 i32.add local.set $sum
        end
      end
      local.get 0 i32.const 1 i32.sub local.set 0
      local.get 0 i32.const 0 i32.ge_s
      br_if $again
    end
    local.get $sum)

  (func (export "branches_by_table") (param i32) (result i32)
    block $a
      block $b
        try
          local.get 0 call $throw
          local.get 0
          br_table $a $b $b
        catch_all
          i32.const 12
          return
        end
      end
      i32.const 20
      return
    end
    i32.const 10)

  (func (export "has_no_handler") (param i32) (result i32)
    try (result i32)
      try (result i32)
        local.get 0 call $throw i32.const 1
      end
    catch_all
      i32.const 2
    end)
  (memory (export "memory") 1)
)
"""
EXPECTED = {
    "catches": (7, 42, 99),
    "rethrows": (5, 1041, 3),
    "rethrows_with_value": (5, 82, 4),
    "delegates_past_a_try": (8, 82, 4),
    "delegates_to_a_try_that_does_not_answer": (6, 42, 55),
    "delegates_out_of_the_function": (6, 123, 77),
    "loops": (0, 41, 42),
    "branches_by_table": (10, 12, 12),
    "has_no_handler": (1, 2, 2),
}


def translated(source: bytes) -> bytes:
    """The module with every body translated, as `link` does it."""
    module = Module(source)
    types = Types(module.read_types())
    kinds = module.read_functions()
    tags = [types.all[t] for t in module.read_tags()]
    numbers = [encode_unsigned(n) for n in range(len(kinds))]
    bodies = []
    for kind, body in zip(kinds, module.read_bodies(), strict=True):
        new, legacy, _ = renumber_calls(body, skip_locals(body)[2], numbers, frozenset())
        bodies.append(translate(body, types.all[kind], tags, types, numbers) if legacy else new)
    module.write_bodies(bodies)
    module.write_types(types.all)
    return module.dump()


@pytest.fixture(scope="module")
def instance() -> abi.Instance:
    engine = abi.Engine(1 << 20)
    program = abi.Program(engine, engine.load_wasm(translated(bytes(wasmtime.wat2wasm(PROGRAM)))), {})
    return abi.Instance(program, abi.Host(), 1 << 20)


@pytest.mark.parametrize(("name", "argument"), list(itertools.product(EXPECTED, range(3))))
def test_translated_function_computes_what_the_legacy_one_means(
    instance: abi.Instance, name: str, argument: int
) -> None:
    assert instance.call(name, argument) == EXPECTED[name][argument]


def test_throwing_costs_no_memory_that_stays(instance: abi.Instance) -> None:
    for _ in range(20_000):
        assert instance.call("catches", 1) == 42


def test_wasmtime_refuses_the_legacy_form() -> None:
    with pytest.raises(abi.EngineError):
        abi.Engine(1 << 20).load_wasm(bytes(wasmtime.wat2wasm(PROGRAM)))
