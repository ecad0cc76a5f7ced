"""What `compress inspect` found, as tables for a person: MB of 10^6 bytes, GMAC of 10^9 multiply-accumulates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from compress.jobs.inspect_model import Report, macs_of
from compress.kit.ship.anatomy import Anatomy, Port
from compress.kit.ship.arithmetic import Work
from compress.kit.ship.halves import LARGEST, HalfRange

_WIDE = 44  # letters of a cell that may be long
_SIDE = 20  # letters of a side
_FLAGGED = 0.01  # share of a tensor's numbers below float16's normal range that is worth a line


def tables(report: Report, targets: Sequence[dict[str, str]], top: int) -> str:
    """Write a report down.

    Args:
        report: What was found.
        targets: What each target says to it: "target", "runs", "here" and "why".
        top: Lines of the longest tables at most.
    """
    parts = (
        _head(report),
        _content(report.anatomy),
        _operators(report),
        _largest(report.anatomy, top),
        _compression(report),
        _arithmetic(report, top),
        _redundant(report),
        _float16(report, top),
        _grid("targets", ("", "runs", "here", "why not"),
              [(each["target"], each["runs"], each["here"], each["why"]) for each in targets], texts=4),
    )  # fmt: skip
    return "\n\n".join("\n".join(part) for part in parts)


def _head(report: Report) -> list[str]:
    subject, anatomy = report.subject, report.anatomy
    artifact = subject.artifact
    name = f"{artifact.name} ({artifact.id})" if artifact.id else artifact.name
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in anatomy.opsets.items())
    lines = [
        f"{name}: {subject.path}, {subject.origin}",
        f"opset {opsets}; IR version {anatomy.ir_version}; written by {anatomy.producer or 'nobody who says so'}",
        f"{sum(anatomy.operators.values())} nodes, {len(anatomy.tensors)} tensors, {anatomy.values:,} learned values",
    ]
    ports = [("input", port) for port in anatomy.inputs] + [("output", port) for port in anatomy.outputs]
    lines += [f"{kind:<6} {port.name}: {port.dtype} {_sides(port)}{_free(port)}" for kind, port in ports]
    lines += [f"external data: {_cut(name)}, {_mb(size)} MB" for name, size in anatomy.external.items()]
    return lines


def _sides(port: Port) -> str:
    return " x ".join(map(_side, port.shape)) or "scalar"


def _free(port: Port) -> str:
    return f", free: {', '.join(dict.fromkeys(map(_side, port.free)))}" if port.free else ", all sides fixed"


def _side(side: int | str) -> str:
    """A side; exporters write whole formulas for those that follow from others."""
    text = str(side)
    return text if len(text) <= _SIDE else f"{text[: _SIDE - 1]}…"


def _content(anatomy: Anatomy) -> list[str]:
    kinds: dict[tuple[str, str], list[int]] = {}
    for tensor in anatomy.tensors:
        kinds.setdefault((tensor.role, tensor.dtype), []).append(tensor.bytes)
    order = sorted(kinds.items(), key=lambda entry: -sum(entry[1]))
    rows = [(role, dtype, str(len(sizes)), *_share(sum(sizes), anatomy.file_bytes)) for (role, dtype), sizes in order]
    rows += [(name, "", "", *_share(size, anatomy.file_bytes)) for name, size in anatomy.overhead.items()]
    rows.append(("file", "", str(len(anatomy.tensors)), *_share(anatomy.file_bytes, anatomy.file_bytes)))
    lines = _grid("bytes", ("", "dtype", "tensors", "MB", "share"), rows, texts=2)
    by_dtype = ", ".join(f"{name} {_mb(size)}" for name, size in anatomy.bytes_by("dtype").items())
    return [*lines, f"MB by dtype: {by_dtype}"]


def _operators(report: Report) -> list[str]:
    anatomy, total = report.anatomy, macs_of(report.works)
    sizes = anatomy.bytes_by("operator")
    names = sorted({*anatomy.operators, *sizes}, key=lambda name: (-sizes.get(name, 0), name))
    rows, rest = [], Counter[str]()
    for name in names:
        works = [work for work in report.works if work.operator == name]
        if not works and sizes.get(name, 0) < 0.001 * anatomy.file_bytes:
            rest[name] = anatomy.operators.get(name, 0)
            continue
        integer = str(sum(work.integer for work in works)) if works else ""
        rows.append((name, str(anatomy.operators.get(name, "")), integer, _mb(sizes.get(name, 0)),
                     *_macs(works, total)))  # fmt: skip
    height, width = report.size
    title = f"operators, one image of {height} x {width}"
    lines = _grid(title, ("", "nodes", "in 8 bits", "MB", "GMAC", "of work"), rows)
    others = ", ".join(f"{name} {count}" for name, count in rest.most_common() if count)
    return [*lines, f"without work or weights to speak of: {others}"] if others else lines


def _macs(works: Sequence[Work], total: int | None) -> tuple[str, str]:
    macs = macs_of(works)
    if not works or macs == 0:
        return "", ""
    if macs is None or total is None:
        return ("?", "?") if macs is None else (f"{macs / 1e9:.3f}", "?")
    return f"{macs / 1e9:.3f}", f"{macs / total:.1%}" if total else ""


def _largest(anatomy: Anatomy, top: int) -> list[str]:
    rows = [
        (_cut(tensor.name), _cut(tensor.layer), tensor.role, tensor.dtype, "x".join(map(str, tensor.shape)) or "1",
         *_share(tensor.bytes, anatomy.file_bytes))
        for tensor in anatomy.tensors[:top]
    ]  # fmt: skip
    more = max(len(anatomy.tensors) - top, 0)
    lines = _grid("largest tensors", ("", "of node", "is", "dtype", "shape", "MB", "share"), rows, texts=5)
    return [*lines, f"and {more} more; --top {2 * top} shows more of them, --json all"] if more else lines


def _compression(report: Report) -> list[str]:
    anatomy, parent = report.anatomy, report.subject.parent
    rows = [
        ("learned values as float32", anatomy.float32_bytes, ""),
        ("the same at the bits they are stored in", anatomy.stored_bytes, f"{anatomy.theoretical:.3f}x in theory"),
        ("the file", anatomy.file_bytes, f"{anatomy.real:.3f}x real"),
    ]
    if parent is not None:
        label = f"its parent {_cut(parent.name)} ({parent.format})"
        rows.append((label, parent.bytes, f"{parent.bytes / anatomy.file_bytes:.3f}x the file"))
    for kind, size in report.download.items():
        rows.append((f"download, {kind}", size, f"{anatomy.float32_bytes / size:.3f}x real"))
    return _grid("compression", ("", "MB", ""), [(name, _mb(size), times) for name, size, times in rows])


def _arithmetic(report: Report, top: int) -> list[str]:
    floats = [work for work in report.works if not work.integer]
    total, macs = macs_of(report.works), macs_of([work for work in report.works if work.integer])
    layers = [work for work in report.works if work.macs != 0]
    lines = ["arithmetic"]
    if not report.quantized:
        narrow = {tensor.dtype for tensor in report.anatomy.tensors if tensor.role == "weights" and tensor.bits < 32}
        widened = f", weights stored as {', '.join(sorted(narrow))} are widened first" if narrow else ""
        lines.append(f"  all of it is in float: no map is rounded to integers{widened}")
    else:
        share = f", {macs / total:.1%} of the multiply-accumulates" if total and macs is not None else ""
        whole = sum(work.integer for work in layers)
        lines.append(f"  in 8 bits by the file: {whole} of {len(layers)} convolutions and products{share}")
        if not report.refused:
            lines.append(f"  fused by ONNX Runtime: {sum(bool(work.fused) for work in layers)} of {len(layers)}")
    if report.refused:
        lines.append(f"  ONNX Runtime can't load the file: {report.refused}")
    lines += [f"  {line}" for line in _disagreements(report, top)]
    if report.quantized and floats:
        lines += _left(floats, total, top)
    return lines


def _disagreements(report: Report, top: int) -> Iterator[str]:
    """Where ONNX Runtime made of an operator something else than the file lets one expect."""
    for work in [work for work in report.works if work.fused is not None and work.fused != work.integer][:top]:
        became = "an integer kernel of it all the same" if work.fused else "no integer kernel of it"
        yield f"{work.name} ({work.operator}): ONNX Runtime made {became}"


def _left(floats: Sequence[Work], total: int | None, top: int) -> list[str]:
    reasons = Counter(work.why for work in floats)
    rows = []
    for why, count in reasons.most_common():
        works = [work for work in floats if work.why == why]
        operators = ", ".join(dict.fromkeys(work.operator for work in works))
        rows.append((operators, str(count), *_macs(works, total), f"  {why}"))
    lines = _grid("left in float", ("", "nodes", "GMAC", "of work", "  why"), rows, last=True)
    heaviest = sorted((work for work in floats if work.macs != 0), key=lambda work: -(work.macs or 0))[:top]
    rows = [(_cut(work.name), work.operator, *_macs([work], total), f"  {work.why}") for work in heaviest]
    return ["", *lines, *(["", *_grid("heaviest in float", ("", "operator", "GMAC", "of work", "  why"), rows,
                                      texts=2, last=True)] if rows else [])]  # fmt: skip


def _redundant(report: Report) -> list[str]:
    if not report.findings:
        return ["redundant", "  nothing found"]
    kinds = Counter(finding.kind for finding in report.findings)
    rows = []
    for kind, count in kinds.most_common():
        found = [finding for finding in report.findings if finding.kind == kind]
        rows.append((kind, str(count), _mb(sum(finding.bytes for finding in found)), f"  {_cut(found[0].name)}"))
    return _grid("redundant", ("", "count", "MB", "  such as"), rows, last=True)


def _float16(report: Report, top: int) -> list[str]:
    lines = ["float16", *(f"  {line}" for line in _half_weights(report, top))]
    ranges = report.ranges
    if ranges is None:
        return [*lines, "  values and sums: --data DIR runs photos through it and looks"]
    height, width = ranges.size
    risky = [each for each in ranges.tensors if each.risk != "none"]
    over = sum(each.risk == "over" for each in risky)
    lines.append(
        f"  over {ranges.photos} photos at {height} x {width} in {ranges.graph}: of {len(ranges.tensors)} tensors "
        f"{over} pass {LARGEST:g}, {len(risky) - over} come within half of it"
    )
    rows = [_range(each) for each in risky[:top] or ranges.tensors[:3]]
    head = ("made by", "of type", "summed by", "risk", "largest", "sum", "squares")
    return [*lines, *_grid("", head, rows, texts=4)[1:]]


def _half_weights(report: Report, top: int) -> list[str]:
    weights = report.weights
    values = sum(each.values for each in weights)
    if not values:
        return ["no float32 weights are stored"]
    beyond, small, lost = (sum(getattr(each, field) for each in weights) for field in ("beyond", "subnormal", "lost"))
    told = (
        f"of {values:,} float32 values stored, {beyond} are beyond {LARGEST:g}, {small / values:.3%} below 6.1e-5 lose "
        f"digits, {lost / values:.3%} below 3e-8 vanish"
    )
    odd = [each for each in weights if each.beyond or each.subnormal > _FLAGGED * each.values]
    odd.sort(key=lambda each: (-each.beyond, -each.subnormal))
    roles = {tensor.name: tensor.role for tensor in report.anatomy.tensors}
    rows = [
        (_cut(each.name), roles.get(each.name, ""), f"{each.largest:.4g}", str(each.beyond),
         f"{each.subnormal / each.values:.1%}")
        for each in odd[:top]
    ]  # fmt: skip
    table = _grid("", ("", "is", "largest", "beyond", "lose digits"), rows, texts=2)[1:] if rows else []
    more = [f"and {len(odd) - top} more such tensors"] if len(odd) > top else []
    return [told, *table, *more]


def _range(each: HalfRange) -> tuple[str, ...]:
    numbers = ("" if value is None else f"{value:.4g}" for value in (each.largest, each.sum, each.squares))
    risk = "" if each.risk == "none" else each.risk
    return (_cut(each.node or each.name), each.operator or "input", _cut(each.summed_by), risk, *numbers)


def _share(size: int, whole: int) -> tuple[str, str]:
    return _mb(size), f"{size / whole:.2%}" if whole else ""


def _mb(size: int) -> str:
    return f"{size / 1e6:.4f}"


def _cut(text: str, width: int = _WIDE) -> str:
    """A name in at most so many letters: its end tells more than its start."""
    return text if len(text) <= width else f"…{text[1 - width :]}"


def _grid(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1, last: bool = False
          ) -> list[str]:  # fmt: skip
    """Lay cells out in columns: the first ``texts``, and with ``last`` the last one, set left, the others right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    left = {*range(texts), *((len(head) - 1,) if last else ())}
    told = ("  ".join(cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(line))
            for line in lines)  # fmt: skip
    return [title, *(f"  {line}".rstrip() for line in told)]
