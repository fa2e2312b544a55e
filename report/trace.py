"""A trace for ui.perfetto.dev: slices on tracks, arrows between slices, and counters, as Perfetto's protobufs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt
from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

Int64 = npt.NDArray[np.int64]
_SEQUENCE = 1
_BATCH = 1 << 14
"""Packets that are serialized at once."""


@dataclass(frozen=True)
class Slices:
    """Slices of all tracks, in any order: int64 arrays [n]."""

    track: Int64
    begin: Int64
    """In cycles; a cycle is written as a nanosecond."""
    end: Int64
    depth: Int64
    """Slices around it on its track."""
    name: Int64
    """Its place among the names."""
    args: Mapping[str, Int64]
    """What it says when it is clicked; a 0 is left out."""

    def __len__(self) -> int:
        return len(self.begin)

    @classmethod
    def joined(cls, parts: Sequence[Slices]) -> Slices:
        """The slices of all parts, in order."""
        keys = dict.fromkeys(key for part in parts for key in part.args)
        none = [np.zeros(len(part), np.int64) for part in parts]
        args = {key: np.concatenate([p.args.get(key, n) for p, n in zip(parts, none, strict=True)]) for key in keys}
        columns = ([p.track, p.begin, p.end, p.depth, p.name] for p in parts)
        track, begin, end, depth, name = map(np.concatenate, zip(*columns, strict=True))
        return cls(track, begin, end, depth, name, args)


@dataclass(frozen=True)
class Counter:
    """A value over time: what it is from each cycle of `times` on."""

    name: str
    times: Int64
    values: npt.NDArray[np.float64]


class _Writer:
    """Packets of one sequence."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._batch, self._first = file, proto.Trace(), True

    def packet(self) -> proto.TracePacket:
        """A new packet of the sequence."""
        if len(self._batch.packet) >= _BATCH:
            self.flush()
        packet = self._batch.packet.add()
        packet.trusted_packet_sequence_id = _SEQUENCE
        cleared, needs = proto.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED, proto.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE
        packet.sequence_flags = cleared if self._first else needs
        self._first = False
        return packet

    def event(self, cycle: int, kind: proto.TrackEvent.Type, track: int) -> proto.TrackEvent:
        """A new event of a track."""
        packet = self.packet()
        packet.timestamp = cycle
        packet.track_event.type, packet.track_event.track_uuid = kind, track
        return packet.track_event

    def flush(self) -> None:
        """Write the packets so far."""
        self._file.write(self._batch.SerializeToString())
        self._batch = proto.Trace()


def write(
    file: IO[bytes],
    title: str,
    tracks: Sequence[str],
    names: Sequence[str],
    slices: Slices,
    flows: Int64,
    counters: Sequence[Counter],
) -> None:
    """Write a trace.

    Args:
        file: binary, open for writing.
        title: of the group of all tracks.
        tracks: their names, from above; counters stand below.
        names: of slices.
        slices: on each track properly nested.
        flows: [m, 2] arrows from one slice to another that begins later.
        counters: on tracks of their own.
    """
    w = _Writer(file)
    _interned(w.packet().interned_data, names, list(slices.args))
    root = w.packet().track_descriptor
    root.uuid, root.name, root.child_ordering = 1, title, proto.TrackDescriptor.EXPLICIT
    for n, name in enumerate([*tracks, *(counter.name for counter in counters)]):
        track = w.packet().track_descriptor
        track.uuid, track.parent_uuid, track.name, track.sibling_order_rank = 2 + n, 1, name, n
        if n >= len(tracks):
            track.counter.unit = proto.CounterDescriptor.UNIT_UNSPECIFIED
    _slices(w, slices, flows)
    for n, counter in enumerate(counters, 2 + len(tracks)):
        for cycle, value in zip(counter.times.tolist(), counter.values.tolist(), strict=True):
            w.event(cycle, proto.TrackEvent.TYPE_COUNTER, n).double_counter_value = value
    w.flush()


def _interned(data: proto.InternedData, names: Sequence[str], args: Sequence[str]) -> None:
    for n, name in enumerate(names, 1):
        event = data.event_names.add()
        event.iid, event.name = n, name
    for n, name in enumerate(args, 1):
        arg = data.debug_annotation_names.add()
        arg.iid, arg.name = n, name


def _slices(w: _Writer, s: Slices, flows: Int64) -> None:
    """Begins and ends of each track in order of time, an end before what begins in its cycle."""
    leaving: dict[int, list[int]] = {}
    arriving: dict[int, list[int]] = {}
    for n, (one, other) in enumerate(flows.tolist(), 1):
        leaving.setdefault(one, []).append(n)
        arriving.setdefault(other, []).append(n)
    args = list(s.args.values())
    stack: list[tuple[int, int]] = []

    def close(track: int, cycle: int) -> None:
        while stack and (stack[-1][0] != track or stack[-1][1] <= cycle):
            on, end = stack.pop()
            w.event(end, proto.TrackEvent.TYPE_SLICE_END, 2 + on)

    for n in np.lexsort((s.depth, -s.end, s.begin, s.track)).tolist():
        track, begin, end = int(s.track[n]), int(s.begin[n]), int(s.end[n])
        close(track, begin)
        assert begin < end, f"slice {n} has no cycles"
        assert len(stack) == s.depth[n], f"slice {n} is {len(stack)} deep"
        assert not stack or end <= stack[-1][1], f"slice {n} ends after what it is in"
        event = w.event(begin, proto.TrackEvent.TYPE_SLICE_BEGIN, 2 + track)
        event.name_iid = int(s.name[n]) + 1
        event.flow_ids.extend(leaving.get(n, []))
        event.terminating_flow_ids.extend(arriving.get(n, []))
        for key, values in enumerate(args, 1):
            if value := int(values[n]):
                event.debug_annotations.add(name_iid=key, int_value=value)
        stack.append((track, end))
    close(-1, 0)
