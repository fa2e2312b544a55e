"""The serial line to a board: numbered frames with a checksum, repeated until answered (docs/board.md)."""

from __future__ import annotations

import struct
import time
from enum import IntEnum
from types import TracebackType

import serial

from axlora.isa.errors import Error

BAUDS = (3000000, 2000000, 1000000, 500000, 115200)
"""Rates that a bitstream may have: it takes the first that its clock divides, and a host tries them in this order."""
TRIES = 5
"""How often a request is sent before the board counts as silent."""
FRAME_BYTES = 256
"""Most memory bytes of one frame, and what no frame crosses."""


class BoardError(Error):
    """The board does not answer, answers nonsense, was reset, or is another machine."""


class Operation(IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    FILL = 2
    READ_REGISTERS = 3
    WRITE_REGISTERS = 4


_STATUS = {1: "the request is not legal", 2: "the memory answered with an error", 3: "the machine is running"}
_BAD_CRC = 4


def crc16(data: bytes) -> int:
    """CRC-16, polynomial 0x1021, initial value 0xFFFF, most significant bit first (CRC-16/IBM-3740)."""
    crc = 0xFFFF
    for byte in data:
        x = (crc >> 8) ^ byte
        x ^= x >> 4
        crc = (crc << 8 ^ x << 12 ^ x << 5 ^ x) & 0xFFFF
    return crc


class Link:
    """A serial port with a board at its end.

    Args:
        port: device, for example `/dev/ttyUSB0`.
        baud: bits a second; must be the bitstream's.
        patience: seconds to wait for one answer before the request is sent again.

    Raises:
        BoardError: the port cannot be opened.
    """

    def __init__(self, port: str, baud: int, patience: float = 1.0) -> None:
        self.port, self.baud, self.patience = port, baud, patience
        self.resent = 0
        self._sequence = 0
        try:
            self._serial = serial.Serial(port, baud, timeout=min(0.05, patience), write_timeout=10 * patience, exclusive=True)
        except (OSError, ValueError) as error:
            raise BoardError(f"cannot open {port}: {error}", port, "is the board plugged in, and is the port free?") from None

    def close(self) -> None:
        """Close the port."""
        self._serial.close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def hello(self) -> None:
        """One request, to hear whether a board answers at this rate.

        Raises:
            BoardError: none does.
        """
        self.request(Operation.READ_REGISTERS, 0x1000, 1, answer=4, tries=1)

    def request(
        self, operation: Operation, address: int, count: int, payload: bytes = b"", answer: int = 0, tries: int = TRIES
    ) -> bytes:
        """Send a request until it is answered.

        Args:
            address: byte address in memory or of a register.
            count: beats, registers, or blocks of 256 bytes (FILL).
            payload: what is written.
            answer: bytes that are read.
            tries: how often it is sent.

        Raises:
            BoardError: no answer in `tries` times `patience`, or a refusal.
        """
        heard = 0
        for attempt in range(tries):
            self.resent += attempt > 0
            self._sequence = (self._sequence + 1) & 0xFF
            body = struct.pack("<BBIH", self._sequence, operation, address, count) + payload
            try:
                self._serial.reset_input_buffer()
                self._serial.write(b"\xa5" + body + crc16(body).to_bytes(2, "big"))
                status, data, bytes_heard = self._answer(answer)
            except (OSError, serial.SerialException) as error:
                raise BoardError(f"the port failed: {error}", self.port, "was the board unplugged?") from None
            heard += bytes_heard
            if status == 0:
                return data
            if status in _STATUS:
                raise BoardError(f"{_STATUS[status]} ({operation.name.lower()} of {count} at {address:#x})", self.port, "")
        seconds = tries * self.patience
        if heard:
            found = f"{tries} requests in {seconds:.0f} s brought {heard} bytes and no whole answer"
            raise BoardError(found, self.port, f"is {self.baud} the bitstream's baud rate? does the line lose bytes?")
        raise BoardError(f"no answer in {seconds:.0f} s", self.port, "is it this port, and is the bitstream loaded?")

    def _answer(self, size: int) -> tuple[int, bytes, int]:
        """(status, data, bytes heard); status -1 if no whole answer came in time."""
        wire = (5 + size) * 10 / self.baud
        end = time.monotonic() + self.patience + 2 * wire
        got = b""
        while time.monotonic() < end:
            got += self._serial.read(max(1, self._serial.in_waiting))
            start = got.find(bytes([0x5A, self._sequence]))
            if start < 0 or len(got) < start + 5:
                continue
            frame = got[start:]
            length = 5 + (size if frame[2] == 0 else 0)
            if len(frame) < length:
                continue
            if crc16(frame[1 : length - 2]) != int.from_bytes(frame[length - 2 : length], "big"):
                return -1, b"", len(got)
            return (-1 if frame[2] == _BAD_CRC else frame[2]), frame[3 : length - 2], len(got)
        return -1, b"", len(got)
