"""What browser targets would have left in a store, and how their sections of the report read: for its tests."""

import re

from report_store import IMAGES, Reader, artifact, publish, row, score_rows, speed_rows

SWIFT = "ANGLE (Google, Vulkan 1.3.0 (SwiftShader Device (Subzero) (0x0000C0DE)), SwiftShader driver)"
CARD = "ANGLE (NVIDIA, NVIDIA GeForce RTX 4070, OpenGL 4.6)"
STALLED = "the page did not answer for 300 s"
NO_ADAPTER = "no adapter <script>alert(1)</script> | none"
NETWORKS = {"4g": (1.6e6, 0.150), "cable": (5e6, 0.028)}


def browser(backend="wasm", **told):
    """What a browser target tells of what ran it."""
    draws = backend in ("webgl", "webgpu")
    return dict(
        runtime="tfjs", version="4.22.0", backend=backend, provider="", threads=0 if draws else 2, simd=not draws,
        renderer=SWIFT, software=draws, browser="chromium", browser_version="141.0.7390.65", half=False,
        cross_origin_isolated=True,
    ) | told  # fmt: skip


def web_rows(model, seconds, seed, *, target="wasm", longest=12.0, runtime=None, **place):
    """Everything a browser target measures of one model, the rows of `speed_rows` among it."""
    told = browser(target.split("-")[0]) if runtime is None else runtime
    place = {"target": target, "run": f"run-{target}", "runtime": told} | place
    sent = {"runtime_gzip": 350_000}
    rows = speed_rows(model, seconds, seed, **place)
    known = {found.quantity: found.value for found in rows}
    downloads = {"": 1.0, "_gzip": 0.92, "_brotli": 0.9}
    rows += [
        row(model, f"download{how}", share * model.bytes, unit="B", **place, **sent) for how, share in downloads.items()
    ]
    kinds = {"js": 31e6, "gpu": 210e6} if told["backend"] in ("webgl", "webgpu") else {"js": 31e6, "wasm": 140e6}
    rows += [row(model, f"{kind}_memory", value, unit="B", **place) for kind, value in kinds.items()]
    for network, (speed, round_trip) in NETWORKS.items():
        transfer = 8 * (0.92 * model.bytes + 350_000) / speed + 2 * round_trip
        details = {"bits_per_second": speed, "round_trip": round_trip, "transfer": transfer}
        total = transfer + known["load"] + known["first"]
        rows.append(row(model, f"first_mask_{network}", total, unit="s", **place, **sent, **details))
    at = {"size": 768, "height": 768, "width": 1024, "threads": 1, "limit": 25.0}
    return [*rows, row(model, "longest", longest, unit="s", **(place | at))] if longest else rows


def parity_rows(model, largest, mae, *, limit=1e-3, reference=None, images=IMAGES, at="torch", **place):
    held = limit is None or largest <= limit
    told = {
        "images": images,
        "reference": (reference or model).id,
        "reference_target": at,
        "limit": limit,
        "passed": held,
    }
    place = {"target": "wasm", "runtime": browser()} | place
    return [
        row(model, "parity_max", largest, **place, **told),
        row(model, "parity_mae", mae, better="none", **place, **told),
    ]


def failed_row(model, reason, *, target="webgpu", **place):
    place = {"run": f"run-{target}", "runtime": {}} | place
    return row(model, "failed", 1, unit="count", better="none", target=target, reason=reason, **place)


def fill_web(store):
    """A teacher, a student and its uint8 export on wasm, software WebGL and a WebGPU that is not there."""
    teacher = publish(store, artifact("big", kind="teacher", created="2026-01-01T00:00:00"), 4000)
    small = publish(store, artifact("small", parent=teacher.id, method="quantize", dtype="int8"), 1000)
    stored = publish(
        store, artifact("small-uint8", parent=teacher.id, method="export", format="tfjs", dtype="uint8"), 500
    )
    rows = [*speed_rows(teacher, 0.4, 0), *speed_rows(small, 0.1, 1)]
    rows += [r for m, loss in ((teacher, 0.3), (small, 0.31), (stored, 0.32)) for r in score_rows(m, loss, 1)]
    rows += [
        *web_rows(teacher, 1.1, 2, longest=25.0),
        *web_rows(small, 0.3, 3, longest=25.1),
        *web_rows(stored, 0.35, 4, longest=3.0),
        *web_rows(teacher, 31.0, 5, target="webgl", longest=300.0),
        *web_rows(stored, 9.0, 6, target="webgl", longest=90.0),
        failed_row(small, STALLED, target="webgl"),
        *(failed_row(model, NO_ADAPTER) for model in (teacher, small, stored)),
        *parity_rows(teacher, 0.0, 0.0, target="torch", runtime={"runtime": "torch"}),
        *parity_rows(teacher, 3.1e-6, 1.2e-8),
        *parity_rows(teacher, 0.00101, -2e-4, target="webgl", runtime=browser("webgl")),
        *parity_rows(stored, 0.0042, 1e-4, limit=5e-3, reference=teacher),
        *parity_rows(stored, 0.5, 0.1, limit=None, reference=teacher, target="cpu", images=12, runtime={}),
    ]
    store.add_rows(rows)
    return {"big": teacher, "small": small, "small-uint8": stored}, rows


def section(page, name):
    """The part of the page below one heading, and its tables by the caption."""
    found = re.search(rf'<section id="[^"]*-{name}">(.*?)</section>', page, re.DOTALL)
    assert found, f"no section {name}"
    tables = re.findall(r'aria-label="([^"]*)">\n(<table.*?</table>)', found[1], re.DOTALL)
    return found[1], {caption: Reader(text).tables[0] for caption, text in tables}


def lines_of(rows):
    """Name -> the texts of each cell after it, by the heading of its column; the value first."""
    heads = ["".join(cell[:1]) for cell in rows[0]]
    found = {}
    for line in rows[1:]:
        pieces = iter(line[0])
        name = next(pieces)
        for piece in pieces:  # a name may break after a hyphen
            if " " in piece or not name.endswith("-"):
                break
            name += piece
        found[name] = dict(zip(heads[1:], line[1:], strict=False))
    return found
