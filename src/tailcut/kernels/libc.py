"""System calls for compiled code, and the types of the tables that it works on. Linux only (epoll)."""

import platform

from numba import types

EVENT_WORDS, EVENT_DATA = (3, 1) if platform.machine() == "x86_64" else (4, 2)  # int32: epoll.h packs it on x86-64 only
DONTWAIT, NOSIGNAL = 0x40, 0x4000  # bits/socket.h
MONOTONIC = 1  # time.h
ABSTIME = 1  # timerfd.h

_int, _long, _address = types.int32, types.int64, types.uintp
recv = types.ExternalFunction("recv", _long(_int, _address, _address, _int))
send = types.ExternalFunction("send", _long(_int, _address, _address, _int))
epoll_wait = types.ExternalFunction("epoll_wait", _int(_int, _address, _int, _int))
clock_gettime = types.ExternalFunction("clock_gettime", _int(_int, _address))
timerfd_settime = types.ExternalFunction("timerfd_settime", _int(_int, _int, _address, _address))
memcpy = types.ExternalFunction("memcpy", _address(_address, _address, _address))
memchr = types.ExternalFunction("memchr", _address(_address, _int, _address))
memcmp = types.ExternalFunction("memcmp", _int(_address, _address, _address))

BYTES, TEXTS, LONGS, TABLE, CUBE = "uint8[::1]", "uint8[:,::1]", "int64[::1]", "int64[:,::1]", "int64[:,:,::1]"
