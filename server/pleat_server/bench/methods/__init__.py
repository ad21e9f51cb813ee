"""Methods: every recipe on one fleet of five classes of device, side by side: accuracy, bytes both ways, multiply-adds.

A *setting* says which data, net, fleet and budgets (`setting.py`), a *contender* is a recipe with what is laid over it
(`contenders.py`), `runs.py` carries one of them out at one seed and keeps what came of it, `table.py` tells of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pleat.nets.build import initial
from pleat.nets.trace import model_map
from pleat_server.bench.methods import table
from pleat_server.bench.methods.contenders import contenders, shares
from pleat_server.bench.methods.runs import net_of, results
from pleat_server.bench.methods.setting import SETTINGS, named, numbers

__all__ = ["SETTINGS", "run"]


def run(options: Mapping[str, str], out: Path) -> dict[str, Any]:
    """Every contender of the setting at every seed, from the cache where it was run before; the table as JSON.

    Options: `setting` (s, s-macs, s-iid), `data` (an .npz; scikit-learn's digits without), `only` (contenders, with
    ; between), `seeds` (0,1,2), `rounds`, `jobs` (processes at a time), `part` (test, or validation: a fifth of
    the training data, for choosing numbers). Raises UseError for what it does not know.
    """
    setting = named(options)
    chosen = contenders(setting, options.get("only", ""))
    seeds, jobs = numbers("methods", options, "seeds", "0"), numbers("methods", options, "jobs", "2", least=1)[0]
    found = results(setting, chosen, seeds, jobs, out / "methods")
    figures = table.figures(setting, found)
    devices, test = setting.shards(seeds[0])
    classes = 1 + max(int(s.y.max()) for s in (*devices, test))
    for contender in (c for c in chosen if c.name in found):
        net = net_of(setting, contender, test.input_shape, classes)
        sizes = shares(setting, contender, model_map(net), initial(net, seeds[0]))
        figures["methods"][contender.name]["shares"] = sizes
    table.show(figures)
    table.draw(figures, out / f"methods-{setting.name}.png")
    return figures
