"""The structs and functions of lammps_plugin/src/local.h, by which LAMMPS calls the model."""

from __future__ import annotations

import ctypes
from ctypes import CFUNCTYPE, POINTER, c_char, c_double, c_int, c_int32, c_int64, c_uint32, c_void_p


class StepHead(ctypes.Structure):
    """lammps_plugin/src/protocol.h"""

    _fields_ = (
        ("timestep", c_int64),
        ("kind", c_uint32),
        ("dt", c_double),
        ("cell", c_double * 9),
        ("origin", c_double * 3),
        ("periodic", c_uint32),
    )


class LocalStep(ctypes.Structure):
    """lammps_plugin/src/local.h"""

    _fields_ = (
        ("head", StepHead),
        ("fresh", c_int32),
        ("id_bytes", c_int32),
        ("owned", c_int64),
        ("all", c_int64),
        ("id", c_void_p),
        ("type", c_void_p),
        ("x", c_void_p),
        ("v", c_void_p),
        ("owner", c_void_p),
        ("skin", c_double),
        ("force", c_void_p),
    )


Reply = POINTER(c_char)
OPEN = CFUNCTYPE(c_int, POINTER(c_int), Reply, c_int)
HELLO = CFUNCTYPE(c_int, c_int, POINTER(c_char), c_int, Reply, c_int)
SHELL = CFUNCTYPE(c_int, c_int, c_double, POINTER(c_double), Reply, c_int)
FORCES = CFUNCTYPE(c_int, c_int, POINTER(LocalStep), Reply, c_int)
CLOSE = CFUNCTYPE(None, c_int)


class Evaluator(ctypes.Structure):
    """lammps_plugin/src/local.h"""

    _fields_ = (
        ("open", OPEN),
        ("hello", HELLO),
        ("shell", SHELL),
        ("forces", FORCES),
        ("close", CLOSE),
    )
