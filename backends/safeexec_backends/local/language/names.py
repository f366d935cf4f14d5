"""Which attribute names are read directly, which are guarded, which never lead anywhere.

A program without third-party modules can only reach objects of the built-in types, of the standard library classes that the
facades show, and of its own classes. Real modules, frames and code objects are reached from those by a finite set of attribute
names. So three kinds of names need no call at run time:

* those in `DIRECT`, which were reviewed: a test walks everything that can be reached and asserts that none of them yields anything dangerous;
* those of the program's own classes, unless they are in `SUSPECT` or are names of standard library modules;
* the double-underscore names in `DUNDER_DIRECT`.

All others go through `guards.read`, which refuses by the result as well.
"""

import sys

from .direct import DIRECT as DIRECT

NEVER_BOUND = frozenset(["__builtins__", "__build_class__", "__loader__", "__spec__"])
"""Without ``__builtins__`` in its globals a function gets the real ones."""
NEVER_READ = NEVER_BOUND
ONLY_METHOD = "__class__"
"""Zero-argument ``super()`` takes its class from a variable of this name."""
NOT_GLOBAL = frozenset(["__name__"])
"""Identity of this object in a class's ``__module__`` marks the class as the program's own (`identity.is_guest_class`)."""

FORMATS = frozenset(["format", "format_map"])

SUSPECT = frozenset(
    """
    gi_frame gi_code gi_yieldfrom cr_frame cr_code cr_await cr_origin ag_frame ag_code ag_await
    tb_frame f_back f_builtins f_code f_globals f_locals f_trace f_generator f_trace_lines f_trace_opcodes
    co_code co_consts co_names co_linetable co_lnotab co_exceptiontable co_lines co_positions cell_contents
    func_globals func_code func_closure func_defaults func_dict im_func im_self im_class
    format format_map mro obj raw buffer detach parser connection modules manager
    get_loop get_stack print_stack get_coro get_context from_callable from_function evaluate
    load_extension enable_load_extension set_authorizer setconfig blobopen create_module exec_module load_module find_spec find_module
    system popen spawn fork execv execve posix_spawn startfile settrace setprofile meta_path path_hooks
    path_importer_cache reset_tzpath walk_stack walk_tb currentframe getframe findCaller
    global_enum register_at_fork open_code FileIO get_type_hints
    """.split()
)
"""Names that lead, or once led, from ordinary objects to frames, code, modules, loops and unguarded machinery. Never read directly."""

SOFT = frozenset("obj raw buffer parser connection modules manager get_context get_coro".split())
"""Of those, the ones that are read after a look at the result; the others only where the program defined them itself."""

MODULES = frozenset(sys.stdlib_module_names)
"""An attribute of such a name may be a module that another module imported."""

SPECIAL = frozenset(["format", "format_map", "mro", "detach", "get_stack", "print_stack", "from_callable"])
"""Guarded even on instances of the program's own classes, which may inherit them."""

PRIVATE_OK = frozenset(
    """
    _asdict _fields _field_defaults _make _replace _value_ _name_ _missing_ _generate_next_value_ _ignore_ _order_
    _member_names_ _member_map_ _value2member_map_ _member_type_ _sort_order_ _numeric_repr_ _repr_html_ _repr_png_ _repr_svg_
    _repr_markdown_ _repr_latex_ _repr_json_ _repr_jpeg_ _init _qsize _put _get
    """.split()
)
"""Single-underscore names that are public by their modules' documentation; the last four are what a queue of one's own is made by."""

DUNDER_DIRECT = frozenset(
    """
    __name__ __qualname__ __doc__ __module__ __class__ __call__ __len__ __iter__ __next__ __reversed__
    __getitem__ __setitem__ __delitem__ __contains__ __missing__ __length_hint__ __index__ __int__ __float__ __complex__ __bool__
    __repr__ __str__ __bytes__ __hash__ __format__ __fspath__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__
    __add__ __radd__ __iadd__ __sub__ __rsub__ __isub__ __mul__ __rmul__ __imul__ __matmul__ __rmatmul__ __imatmul__
    __truediv__ __rtruediv__ __itruediv__ __floordiv__ __rfloordiv__ __ifloordiv__ __mod__ __rmod__ __imod__
    __divmod__ __rdivmod__ __pow__ __rpow__ __ipow__ __lshift__ __rlshift__ __ilshift__ __rshift__ __rrshift__ __irshift__
    __and__ __rand__ __iand__ __or__ __ror__ __ior__ __xor__ __rxor__ __ixor__ __neg__ __pos__ __abs__ __invert__
    __round__ __trunc__ __floor__ __ceil__ __enter__ __exit__ __aenter__ __aexit__ __await__ __aiter__ __anext__
    __init_subclass__ __set_name__ __class_getitem__ __instancecheck__ __subclasscheck__ __subclasshook__ __prepare__
    __mro_entries__ __del__ __post_init__ __suppress_context__ __notes__ __traceback__ __cause__ __context__
    __isabstractmethod__ __abstractmethods__ __slots__ __match_args__ __members__ __version__ __all__ __sizeof__ __copy__ __deepcopy__
    """.split()
)
"""Operators, the data model's hooks and plain data: what they yield is reachable by syntax anyway, or is text."""

DUNDER_READ = DUNDER_DIRECT | frozenset(
    """
    __init__ __new__ __self__ __func__ __wrapped__ __origin__ __args__ __parameters__ __annotations__ __defaults__ __kwdefaults__ __objclass__
    __dataclass_fields__ __dataclass_params__ __type_params__ __value__ __bound__ __constraints__ __covariant__ __contravariant__
    __signature__ __text_signature__ __dir__ __file__ __path__ __package__ __metadata__ __supertype__ __total__
    __required_keys__ __optional_keys__ __static_attributes__ __firstlineno__ __orig_bases__ __orig_class__ __unpacked__
    __forward_arg__ __final__ __override__ __bases__ __base__ __mro__ __array__ __len__ __default__ __author__ __infer_variance__
    __date__ __flags__ __basicsize__ __itemsize__ __dictoffset__ __weakref__ __debug__ __test__ __callback__
    """.split()
)
"""Readable after a look at the result."""

DUNDER_OWN = frozenset(
    """
    __getattr__ __getstate__ __setstate__ __reduce__ __reduce_ex__ __getnewargs__ __getnewargs_ex__
    """.split()
)
"""Readable where the program itself defined them."""

FUNCTION_DUNDERS = frozenset(
    """
    __name__ __qualname__ __doc__ __module__ __defaults__ __kwdefaults__ __annotations__ __wrapped__ __isabstractmethod__
    __signature__ __type_params__ __final__ __override__ __deprecated__ __dict__ __test__
    """.split()
)
"""What a program may set on its functions; not the code, the globals or the closure."""

EXCEPTION_DUNDERS = frozenset(["__traceback__", "__cause__", "__context__", "__suppress_context__", "__notes__"])
