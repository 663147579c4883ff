"""The pages of the reference that are made from the code: commands, detectors, memory, metrics, keys of YAML files."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docstrings

from nci_plugin import config
from nci_plugin.adapters import pytorch_ood
from nci_plugin.benchmarks.decoding import Preprocessing
from nci_plugin.cli.parser import make_parser
from nci_plugin.collapse import BEYOND, METRICS, CollapseMetrics
from nci_plugin.detectors import registry
from nci_plugin.detectors.base import FIT_MEMORY, SCORE_MEMORY, Detector, Sizes
from nci_plugin.features.bank import FitsOn
from nci_plugin.features.split import CHUNK_ROWS
from nci_plugin.metrics import METRIC_COLUMNS
from nci_plugin.report.diagnosis_tables import at_collapse

MARKUP = re.compile(r"[\\`*_{}\[\]<>#|~$^]")
ARGUMENT = re.compile(r" {4}(?P<name>\w+): (?P<text>.*)")


def write(folder: Path) -> None:
    """Write every generated page; one whose text is the same is left alone, so that Sphinx need not read it again."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        path, text = folder / f"{name}.md", "\n".join(page()) + "\n"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def plain(text: str) -> str:
    """A docstring's or help's text as MyST: `code` stays, everything else is no markup."""
    return docstrings.escaped(text, MARKUP, r"\\\g<0>").replace("``", "`")


def documented(item: Any) -> Iterator[str]:
    """A class's or function's docstring as MyST, its arguments as a list."""
    for line in inspect.cleandoc(item.__doc__ or "").splitlines():
        argument = ARGUMENT.fullmatch(line)
        if line == "Args:":
            yield from ("Hyper-parameters:", "")
        elif argument:
            yield f"- `{argument['name']}`: {plain(argument['text'])}"
        else:
            yield f"  {plain(line.strip())}" if line.startswith(" ") else plain(line)


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def header(*cells: str) -> list[str]:
    return [row(*cells), row(*["---"] * len(cells))]


# -------------------------------------------------------------------- the command line


def command_line() -> Iterator[str]:
    yield """\
# The command line

Every command of `nci-ood`, from its parser. `nci-ood COMMAND --help` prints the same. In parentheses stands the
default.

The exit code is 0 when all was done, 1 when a detector failed or a comparison differs, 2 when the input cannot
be used (one line on standard error says why) and 130 after an interruption.
"""
    for action in make_parser()._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from _commands(action, "##")


def _commands(action: argparse._SubParsersAction, level: str) -> Iterator[str]:
    helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
    for name, command in action.choices.items():
        yield ""
        yield f"{level} {command.prog}"
        yield ""
        yield plain(command.description or f"{helps.get(name, '').capitalize()}.")
        yield ""
        command.formatter_class = _wide
        yield f"```text\n{command.format_usage().strip()}\n```"
        yield ""
        inner = [each for each in command._actions if isinstance(each, argparse._SubParsersAction)]
        options = [each for each in command._actions if each not in inner and each.dest != "help"]
        if options:
            yield from header("argument", "what it is")
        for option in options:
            yield row(f"`{_signature(option)}`", plain(_help(option, command)))
        for each in inner:
            yield from _commands(each, f"{level}#")


def _wide(prog: str) -> argparse.HelpFormatter:
    return argparse.HelpFormatter(prog, width=84)


def _signature(option: argparse.Action) -> str:
    formatter = argparse.HelpFormatter("")
    if not option.option_strings:
        return formatter._metavar_formatter(option, option.dest)(1)[0]
    if option.nargs == 0:
        return ", ".join(option.option_strings)
    values = formatter._format_args(option, option.dest.upper())
    return f"{', '.join(option.option_strings)} {values}"


def _help(option: argparse.Action, command: argparse.ArgumentParser) -> str:
    text = (option.help or "") % {**vars(option), "prog": command.prog}
    return text.replace("\n", " ")


# -------------------------------------------------------------------- detectors


def detectors() -> Iterator[str]:
    yield """\
# Detectors

Every detector of this package, from its registry. The score is larger for in-distribution (ID) samples.

The symbols: h is the penultimate feature of a sample, of P numbers; W and b are the last linear layer, with a
row w\\_k for each of K classes; z = W h + b are the logits; c is the predicted class, that of the largest
logit; mu\\_k is the mean of the training features of a class, and mu\\_G a mean of all, of which each detector
says which.
"""
    yield from header("name", "paper", "fits on", "hyper-parameters")
    for name in registry.names():
        setup = config.load_detector(name)
        values = ", ".join(f"`{key}`" for key in setup.detector.hyperparameter_names()) or "none"
        yield row(f"[`{name}`](#{name})", plain(str(setup.detector.paper)), setup.fits_on.value, values)
    yield """
*Fits on* says what a detector must see of the training set: `nothing`; `statistics`, which are counts, means
and scatter of the classes and take one pass and little memory; `unit statistics`, the same of the features
scaled to length 1; or `bank`, all training features, which are stored only if a chosen detector asks for them.

How `nci_auto` and `nci_plus` were chosen is in [NCI without OOD images](../../nci_without_ood.md). Two families come
from elsewhere: `pytorch_ood:NAME`, [below](#pytorch-oods-detectors), and `openood:NAME`, OpenOOD's own postprocessors,
unmodified, which [run in one pass too](../../howto/openood.md)."""
    for name in registry.names():
        yield from _detector(name)
    yield from _pytorch_ood()


def _detector(name: str) -> Iterator[str]:
    setup = config.load_detector(name)
    detector, paper = setup.detector, setup.detector.paper
    yield ""
    yield f"({name})=\n## {name}"
    yield ""
    yield from documented(type(detector))
    yield ""
    fits = detector.fits_on.value
    yield f"Class `{type(detector).__module__}.{type(detector).__qualname__}`; fits on {fits}."
    if paper.url:
        yield f"Paper: {plain(paper.authors)}, [{plain(paper.title)}]({paper.url}), {plain(paper.venue)} {paper.year}."
    values = detector.get_hyperparameters()
    if values:
        yield ""
        yield from header("hyper-parameter", "value in the configuration", "values searched")
    for key, value in values.items():
        searched = ", ".join(f"`{each}`" for each in setup.sweep.get(key, ()))
        yield row(f"`{key}`", f"`{value}`", searched or "not searched")


def _pytorch_ood() -> Iterator[str]:
    yield """
## pytorch-ood's detectors

These are the implementations of [pytorch-ood](https://github.com/kkirchheim/pytorch-ood) on stored features and
logits, with the sign turned, searched over the library's own grids. They fit on the bank, or on nothing. So
`pytorch_ood:nci` tries other values of `alpha` than `nci`; OpenMax is searched over two values of `euclid_weight`
instead of the library's 150 combinations. [Most agree with OpenOOD's, some do not](../../studies/measured.md).
"""
    yield from header("name", "paper", "values searched")
    for name in pytorch_ood.names():
        setup = config.load_detector(name)
        grid = "; ".join(f"`{key}`: {', '.join(map(str, values))}" for key, values in setup.sweep.items())
        yield row(f"`{name}`", plain(str(setup.detector.paper)), grid or "none")
    yield ""
    yield "Those that are left out, and why:"
    yield ""
    yield from header("name", "why")
    for name, reason in pytorch_ood.EXCLUDED.items():
        yield row(f"`{name}`", plain(reason))


# -------------------------------------------------------------------- memory and time


def memory_and_time() -> Iterator[str]:
    measured = json.loads((Path(__file__).parent / "scale.json").read_text(encoding="utf-8"))
    sizes, rows = measured["sizes"], measured["detectors"]
    counts = {"N": sizes["train"], "V": measured["validation"], "P": sizes["features"], "K": sizes["classes"]}
    tested = sizes["test"]
    missing = ", ".join(f"`{name}`" for name in config.detector_names() if name not in rows)
    bank = ", ".join(f"{name} = {count}" for name, count in counts.items())
    yield f"""\
# Memory and time

N training rows, V rows of `id/val`, P features, K classes; R = {CHUNK_ROWS} rows are scored at a time.
*At most* is what fit and score may take, in bytes beside the features, which are read from where they are stored, with
F = {_formula(FIT_MEMORY)} to fit on statistics and S = {_formula(SCORE_MEMORY)} for the rows at work. Of pytorch-ood's
detectors it is what their fit takes at least. A detector that needs more than is free is refused before it
fits, with a line that says how much, and the others go on.

Measured with `python scripts/bench/scale.py --memory {sizes["memory"]:g}` on a synthetic bank of {bank} and
{tested} tested rows, with one thread, each detector in a process of its own, on a machine that was shared with other
work, so that seconds are of the process's CPU; {sizes["memory"]:g} GB were said to be free. *Private* is the peak of
private memory (RssAnon) above what the process had with the bank open. The largest resident peak, pages of the stored
features included, was {measured["largest_peak_MB"] / 1000:.1f} GB; what is in the table took
{measured["total_cpu_s"] / 60:.0f} minutes.
{f"Not measured: {missing}." if missing else ""}
{_together(measured.get("together"))}

The time of scoring grows with the tested rows times the product that is named, which follows from the equation; the
constant is the CPU time of the measured run, its search left out, divided by both.
"""
    columns = "at most, bytes", "here, MB", "private, MB", "CPU s", "grows with", "ns a row and unit"
    yield from header("name", *columns)
    for name in config.detector_names():
        yield row(f"`{name}`", *_costs(config.load_detector(name).detector, Sizes(**counts), tested, rows.get(name)))


def _together(taken: Mapping[str, Any] | None) -> str:
    """The sentences on the run of all detectors in one process, where it was made."""
    if taken is None:
        return ""
    minutes, clock = taken["cpu_s"] / 60, taken["wall_s"] / 60
    failed = ", ".join(f"`{name}`" for name in taken["failures"])
    return f"""
One after the other in a single process (`--together`), {len(taken["seconds"])} detectors took {minutes:.0f} minutes
of CPU with {taken["threads"]} threads, {clock:.0f} on the clock of a machine with other work. The resident peak was
{taken["peak_MB"] / 1000:.1f} GB, the private one {taken["peak_private_MB"] / 1000:.1f} GB.
{f"Not scored: {failed}, for the reason in the table." if failed else ""}"""


def _costs(detector: Detector, sizes: Sizes, tested: int, measured: Mapping[str, Any] | None) -> Iterator[str]:
    """The cells of a detector, empty where nothing was measured."""
    ours = not detector.name.startswith(pytorch_ood.PREFIX)
    base = [] if not ours else ["S"] if detector.fits_on is FitsOn.NOTHING else ["F", "S"]
    own = _formula(detector.memory if ours else detector.memory_terms)
    yield " + ".join(filter(None, [*base, own])) or "nothing"
    yield f"{sizes.of(detector.memory_terms) / 1e6:.0f}"
    parts = (measured or {}).get("seconds", {})
    if measured is None or not parts:
        yield from (plain((measured or {}).get("failure", "")), "", detector.per_row if ours else "", "")
        return
    yield f"{measured['peak_private_MB'] - measured['private_before_MB']:.0f}"
    yield f"{measured['cpu_s']:.1f}"
    units = tested * sizes.of({detector.per_row: 1})
    constant = 1e9 * measured["cpu_s"] * parts["score"] / sum(parts.values()) / units
    yield from (detector.per_row, f"{constant:.2g}") if ours else ("", "")


def _formula(terms: Mapping[str, float]) -> str:
    """Such as 48 P P + 24 K P."""
    return " + ".join(f"{count:.9g} {term}".strip() for term, count in terms.items())


# -------------------------------------------------------------------- collapse metrics


def collapse_metrics() -> Iterator[str]:
    yield """\
# Collapse metrics

Every metric of `nci_plugin.collapse.METRICS`, from its registration. `nci_plugin.collapse.measure` answers those of
the training set, `nci-ood diagnose` prints them, and `nci-ood dynamics` follows those of one number along training.
mu\\_G is the unweighted mean of the class means here, Sigma\\_W the covariance within classes and Sigma\\_B that of the
class means. Values at exact collapse are given for 10 classes where they depend on the number of classes.

Classes without training samples are masked: everything is of the other classes, K is their number, and a note says how
many there are. A metric that has no value on the features at hand (one class, equal class means, no direction) is None,
and a note gives the reason.
"""
    yield from header("field", "what", "at collapse", "more collapsed is", "of", "column", "computed by")
    for name, metric in METRICS.items():
        ideal = at_collapse(metric, 10)
        direction = "" if metric.ideal is None else "larger" if metric.larger else "smaller"
        column = metric.symbol if metric.along or "split" in metric.of else ""
        function = f"`{metric.function.__module__.rpartition('.')[2]}.{metric.function.__qualname__}`"
        label = " ".join(metric.label.split()) + (", for each class" if metric.per_class else "")
        of = ", ".join(metric.of).replace("_", " ")
        yield row(f"`{name}`", plain(label), plain(ideal), direction, plain(of), plain(column), function)
    yield """
## Beyond a balanced classifier

Functions of what stands in the third column, from `nci_plugin.collapse.BEYOND`: several targets (NRC), grades (ONC),
tokens of a language model, stages of a network, attacked images, inputs. [A study](../../studies/beyond.md) tries them.
"""
    yield from header("metric", "what", "of", "at collapse", "more collapsed is", "computed by")
    for name, metric in BEYOND.items():
        direction = "" if metric.ideal is None else "larger" if metric.larger else "smaller"
        function = f"`{metric.function.__module__.rpartition('.')[2]}.{metric.function.__qualname__}`"
        of = plain(", ".join(metric.of).replace("_", " "))
        yield row(f"`{name}`", plain(metric.label), of, plain(at_collapse(metric, 10)), direction, function)
    yield ""
    yield "## The equations"
    yield ""
    yield "Each function with its formula and its paper. All compute in float64, but for a network's own passes."
    yield ""
    for function in _equations():
        yield f"`{function.__module__.rpartition('.')[2]}.{function.__name__}`"
        yield ": " + "\n  ".join(documented(function))
        yield ""
    yield "## The other fields"
    yield ""
    names = [field.name for field in dataclasses.fields(CollapseMetrics) if field.name != "values"]
    yield f"About the measurement: {', '.join(f'`{name}`' for name in names)}."
    yield "{py:class}`~nci_plugin.collapse.CollapseMetrics` describes them."


def _equations() -> Iterable[Callable[..., Any]]:
    """The functions of the metrics, each after those that stand before it in its file, all public ones once."""
    found: dict[Callable[..., Any], None] = {}
    for function in [metric.function for metric in [*METRICS.values(), *BEYOND.values()]]:
        module = inspect.getmodule(function)
        beside = vars(module).values() if module and module.__name__.startswith("nci_plugin.collapse.") else ()
        mine = [each for each in beside if inspect.isfunction(each) and inspect.getmodule(each) is module]
        found.update(dict.fromkeys(each for each in mine if not each.__name__.startswith("_")))
        found[function] = None
    return found


# -------------------------------------------------------------------- metrics

SETS = {
    "ood": "ID samples against each OOD set",
    "csid_near": "covariate-shifted ID samples against each near-OOD set",
    "csid": "clean ID samples against each covariate-shifted set",
}


def metrics() -> Iterator[str]:
    yield """\
# Metrics

Every metric of ID against OOD scores, from the registry. `nci-ood eval --metrics NAME ...` prints them as columns,
`nci-ood compare --metric NAME` compares detectors by one. Larger score = ID. All are printed in percent, so the
ranges here are 0-100; the value of a group is the unweighted mean over its data sets. OpenOOD's four and the first FPR
on the side of ID are stored in every row of `results.jsonl`, the others are computed from the stored scores, so they
are there for older results too.
"""
    yield from header("name", "column", "better", "range", "of", "source")
    for name, metric in METRIC_COLUMNS.items():
        better = "high" if metric.higher_is_better else "low"
        cells = (plain(metric.label), better, plain(metric.range), SETS[metric.samples], plain(metric.source))
        yield row(f"[`{name}`](#metric-{name.replace('_', '-')})", *cells)
    yield """
`eval` prints those of covariate-shifted samples in the table of the full spectrum.
[How sure they are](../../compare.md) says how their intervals are made.
"""
    for name, metric in METRIC_COLUMNS.items():
        yield f"(metric-{name.replace('_', '-')})=\n## {name}"
        yield ""
        yield from documented(metric.function)
        yield ""
        failures = "; counts wrong predictions, at a stated share of OOD inputs" if metric.needs_wrong else ""
        yield f"{SETS[metric.samples].capitalize()}{failures}. Source: {plain(metric.source)}."
        yield ""


# -------------------------------------------------------------------- YAML


def postprocessor_files() -> Iterator[str]:
    yield """\
# The shipped detector files

The YAML of every detector, as it ships in `configs/postprocessors/`.
"""
    for path in sorted((config.config_directory() / "postprocessors").glob("*.yml")):
        yield ""
        yield f"## {path.name}"
        yield ""
        yield f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```"


def preprocessing_keys() -> Iterator[str]:
    yield from header("key", "type", "default")
    for field in dataclasses.fields(Preprocessing):
        default = "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
        yield row(f"`{field.name}`", f"`{field.type}`".replace("|", "or"), default)


PAGES = {
    "command_line": command_line,
    "detectors": detectors,
    "memory_and_time": memory_and_time,
    "collapse_metrics": collapse_metrics,
    "metrics": metrics,
    "postprocessor_files": postprocessor_files,
    "preprocessing_keys": preprocessing_keys,
}
