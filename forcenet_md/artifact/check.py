"""Is the program in a model file one of ours? Decided by reading it, before it is loaded.

A TorchScript file is a program: a scripted `__setstate__` runs while it loads, and operators can
write files. So every name in its code is held against an allow-list of tensor arithmetic, and
its pickles may only name its own classes and tensors.
"""

from __future__ import annotations

import ast
import pickletools
import re
from functools import cache

import torch

from forcenet_md.errors import ModelFileError

# Operators on tensors and numbers alone: none reads or writes anything else.
TORCH = frozenset(
    """
    Tensor abs acos add add_ addmm addmm_ all any append arange atan2 bmm bincount cat ceil chunk
    clamp clamp_min clamp_max clone contiguous copy_ cos cross cumsum detach device div div_ dim
    einsum embedding empty empty_like eq exp expand expand_as extend fill_ flatten floor
    floor_divide floordiv full full_like gather ge gelu group_norm gt index_add index_add_
    index_copy_ index_select layer_norm le len linalg_cross linalg_inv linalg_vector_norm linear
    log log1p logical_and logical_not logical_or lt masked_fill masked_select matmul max maximum
    mean min minimum mm mul mul_ narrow ne neg new_empty new_full new_zeros norm nonzero numel
    ones ones_like permute pow reciprocal relu relu_ remainder repeat_interleave reshape round
    rsqrt rsub scatter_add scatter_add_ select sigmoid sigmoid_ sign silu silu_ sin sin_ sinh size
    slice softmax softplus split sqrt square squeeze stack sub sub_ sum t tanh tensor to transpose
    unbind unsqueeze view where zeros zeros_like zero_ __and__ __contains__ __is__ __isnot__
    __not__ __or__ __range_length __derive_index _set_item is_cuda dtype
    """.split()  # noqa: SIM905 (a list of words reads better)
)
OPS = frozenset({"ops.prim.device", "ops.prim.dtype", "ops.prim.is_cuda", "ops.prim.min",
                 "ops.prim.max", "ops.prim.NumToTensor", "ops.prim.unchecked_unwrap_optional",
                 "ops.prim.RaiseException"})  # fmt: skip
BUILTINS = frozenset(
    {"annotate", "getattr", "range", "int", "float", "bool", "uninitialized", "unchecked_cast"}
)
NAMESPACES = frozenset({"torch", "ops", "__torch__", "CONSTANTS"})
METHODS = frozenset({"__len__", "__contains__", "forward"})
STATEMENTS = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Return, ast.Assign,
    ast.AnnAssign, ast.For, ast.While, ast.If, ast.Expr, ast.Pass, ast.BoolOp, ast.BinOp,
    ast.UnaryOp, ast.IfExp, ast.Dict, ast.Compare, ast.Call, ast.Constant, ast.Attribute,
    ast.Subscript, ast.Name, ast.List, ast.Tuple, ast.Slice, ast.expr_context, ast.operator,
    ast.boolop, ast.unaryop, ast.cmpop, ast.keyword,
)  # fmt: skip
PICKLE_NAMES = frozenset(
    {"torch._utils _rebuild_tensor_v2", "collections OrderedDict",
     "torch.jit._pickle build_intlist", "torch.jit._pickle build_floatlist",
     "torch.jit._pickle build_doublelist",
     "torch.jit._pickle build_boollist", "torch.jit._pickle build_tensorlist",
     "torch.jit._pickle restore_type_tag"}
)  # fmt: skip
STORAGES = frozenset({"torch DoubleStorage", "torch FloatStorage", "torch LongStorage",
                      "torch IntStorage", "torch BoolStorage"})  # fmt: skip


def check_program(members: dict[str, bytes], where: str) -> None:
    """Raise ModelFileError naming the first operator, class or construct that is not allowed."""
    for name, content in members.items():
        if name.startswith("code/") and name.endswith(".py"):
            _check_code(content, where)
        elif name.endswith(".pkl"):
            _check_pickle(content, where)
        elif not name.startswith("data/") and not name.startswith("constants/") and name not in (
            "version", "byteorder",
        ):  # fmt: skip
            raise _refused(where, f"the member {name!r}")


def _refused(where: str, what: str) -> ModelFileError:
    return ModelFileError(
        f"{where} is refused before running it: its program holds {what}, which no exported"
        " model needs; if you wrote the file and trust it, pass --trust."
    )


def _check_code(content: bytes, where: str) -> None:
    try:
        tree = ast.parse(content.decode())
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _refused(where, "code that cannot be read") from None
    bases = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    for node in ast.walk(tree):
        if not isinstance(node, STATEMENTS):
            raise _refused(where, f"a construct ({type(node).__name__})")
        if isinstance(node, ast.FunctionDef) and (
            node.decorator_list or (node.name.startswith("__") and node.name not in METHODS)
        ):
            raise _refused(where, f"the method {node.name!r}")
        if isinstance(node, ast.Attribute):
            _check_attribute(node, where)
        # A namespace may only be looked into, never given another name.
        if isinstance(node, ast.Name) and node.id in NAMESPACES and id(node) not in bases:
            raise _refused(where, f"the bare name {node.id!r}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            _check_call(node, node.func.id, where)


def _chain(node: ast.expr) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


@cache
def _operators() -> frozenset[str]:
    """The short names of all operators torch has, `save` of `aten::save`."""
    return frozenset(s.name.rpartition("::")[2] for s in torch._C._jit_get_all_schemas())


def _check_attribute(node: ast.Attribute, where: str) -> None:
    chain = _chain(node) or ""
    root, _, rest = chain.partition(".")
    if root == "torch" and rest not in TORCH:
        raise _refused(where, f"the operator {chain!r}")
    if root == "ops":
        if rest.count(".") == 1 and chain not in OPS:
            raise _refused(where, f"the operator {chain!r}")
        return
    if chain.startswith("__torch__.torch.classes"):
        raise _refused(where, f"the class {chain!r}")
    _check_field(node.attr, where)


def _check_field(name: str, where: str) -> None:
    """`x.save(…)` is the operator `aten::save` too, so no field may bear such a name."""
    if name in _operators() and name not in TORCH:
        raise _refused(where, f"the operator {name!r}")


def _check_call(node: ast.Call, name: str, where: str) -> None:
    # Names like _0 hold functions of the same file (`_0 = __torch__.….silu`).
    if name not in BUILTINS and not re.fullmatch(r"_\d+", name):
        raise _refused(where, f"the call {name!r}")
    if name == "getattr":
        field = node.args[1] if len(node.args) == 2 else None
        if not isinstance(field, ast.Constant) or not isinstance(field.value, str):
            raise _refused(where, "a computed field name")
        _check_field(field.value, where)


def _check_pickle(content: bytes, where: str) -> None:
    try:
        operations = list(pickletools.genops(content))
    except Exception:
        raise _refused(where, "a pickle that cannot be read") from None
    for op, argument, _ in operations:
        if op.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise _refused(where, f"the pickle operation {op.name}")
        if op.name == "GLOBAL":
            name = str(argument)
            own = name.startswith("__torch__.") and not name.startswith("__torch__.torch.classes")
            if not own and name not in PICKLE_NAMES and name not in STORAGES:
                raise _refused(where, f"the pickled name {name!r}")
