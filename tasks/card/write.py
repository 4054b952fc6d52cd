"""The model card: what a model is, what it scored on which items, and under which licences.

A README.md as the Hugging Face hub reads it: metadata between `---` lines, then Markdown. Every
number has its n and interval, and the command that makes it again stands below it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError
from schemas.report import INTERVALS, LOWER, ArmReport, Metric, better, in_order, in_words
from tasks.base_model import FOLDER, known_as
from tasks.card.licences import OTHER, licence_words, licences_of, rolled_up
from tasks.compare.sides import samples_of
from tasks.evaluate.step import read_report
from tasks.export import NOTE, README, readme
from tasks.report.markdown import NOTE as TINY
from tasks.report.markdown import table
from tasks.report.rows import from_world


@dataclass(frozen=True)
class Scored:
    """A model, its base, the judged answers of both, and the items that were asked.

    `trained_on` is the labelled snapshot that the model learnt from; None where it does not say.
    """

    name: str
    model: Artifact
    base: Artifact
    evaluated: Artifact
    base_evaluated: Artifact
    items: Artifact
    trained_on: Artifact | None


def write_card(scored: Scored, out: Path, *, preset: str) -> dict[str, Any]:
    """Write the card into an exported folder as its README.md, or as a new .md file.

    Returns:
        `out`, `license` and the metrics by name.

    Raises:
        ConfigError: `out` is neither, exists already, belongs to another model, or is not writable.
    """
    path, exported = _place(out)
    if exported and exported["artifact"] != _address(scored.model):
        raise ConfigError(
            f"--out {str(out)!r} holds {exported['artifact']}, not {_address(scored.model)}: name "
            "that model, or export this one"
        )
    stores = {a.uri: Store(a.uri.rsplit("/", 2)[0]) for a in vars(scored).values() if is_made(a)}
    reports = [
        read_report(one, store=stores[one.uri]) for one in (scored.base_evaluated, scored.evaluated)
    ]
    licences = licences_of(scored.trained_on)
    base, revision = known_as(stores[scored.base.uri], scored.base)
    head = _head(scored, reports[1], licence=rolled_up(licences), base=base)
    parts = [
        head,
        f"# {scored.name}",
        _what(scored, stores[scored.model.uri], base, revision),
        "## Evaluation",
        _numbers(scored, reports, preset),
        "## Licences",
        licence_words(licences),
    ]
    if exported:
        parts += ["## Use", readme(exported).split("\n\n", 2)[2]]
    try:
        path.write_text("\n\n".join(parts).rstrip() + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--out {str(path)!r} cannot be written: {error.strerror}; give another place"
        ) from error
    values = {name: metric.value for name, metric in reports[1].metrics.items()}
    return {"out": str(path), "license": rolled_up(licences), "metrics": values}


def is_made(value: object) -> bool:
    """Whether a value is an artifact."""
    return isinstance(value, Artifact)


def _place(out: Path) -> tuple[Path, dict[str, Any]]:
    """Where the card goes, and what an exported folder says of itself."""
    if (out / NOTE).is_file():
        told: dict[str, Any] = json.loads((out / NOTE).read_text(encoding="utf-8"))
        return out / README, told
    if out.suffix != ".md" or out.exists():
        raise ConfigError(
            f"--out {str(out)!r}: give a folder that psavlm export has written, or a new .md file"
        )
    return out, {}


def _head(scored: Scored, report: ArmReport, *, licence: str, base: str) -> str:
    """The hub's metadata; JSON values are YAML."""
    results = [
        {
            "type": name,
            "name": f"{in_words(name)}, n = {metric.n}, 95 % [{metric.low:.4f}, {metric.high:.4f}]",
            "value": round(metric.value, 4),
        }
        for name, metric in report.metrics.items()
        if metric.n
    ]
    told: dict[str, Any] = {"license": licence}
    if licence == OTHER:
        told["license_name"] = "of-the-training-data"
    if "/" not in base or not base.startswith("base_model/"):
        told["base_model"] = base
    told |= {
        "pipeline_tag": "image-text-to-text",
        "tags": ["safety", "vision-language", "psavlm"],
        "model-index": [
            {
                "name": scored.name,
                "results": [
                    {
                        "task": {"type": "image-text-to-text"},
                        "dataset": {"type": _address(scored.items), "name": "held-out items"},
                        "metrics": results,
                    }
                ],
            }
        ],
    }
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in told.items()]
    return "\n".join(["---", *lines, "---"])


def _what(scored: Scored, store: Store, base: str, revision: str) -> str:
    from model.checkpoint import load_card

    card = load_card(store.local(scored.model) / FOLDER)
    commit = store.manifest(scored.model).provenance.get("commit") or "not known"
    method = {key: value for key, value in card.method.model_dump().items() if key != "hints"}
    parts = ", ".join(f"{key} {value}" for key, value in method.items() if isinstance(value, str))
    return (
        f"A vision-language model aligned by psavlm. Base: {base}"
        f"{' at ' + revision if revision else ''}. Artifact `{_address(scored.model)}`, built by "
        f"commit `{commit}`. Taxonomy {card.taxonomy.name}. Method: {parts}."
    )


def _numbers(scored: Scored, reports: list[ArmReport], preset: str) -> str:
    rows = [
        {
            "in % [95 % interval]": in_words(name).removesuffix(LOWER),
            "better": better(name) or "-",
            "n": str(reports[1].metrics[name].n),
            **{
                side: _cell(report.metrics.get(name))
                for side, report in zip(("base", "this model"), reports, strict=True)
            },
        }
        for name in in_order(reports[1].metrics)
        if reports[1].metrics[name].n
    ]
    judges = ", ".join(f"{count} by {judge}" for judge, count in reports[1].judges.items())
    root = Store(scored.items.uri.rsplit("/", 2)[0])
    tiny = [f"*{TINY}*"] if from_world(root.manifest(samples_of(scored.items))) else []
    command = (
        f"psavlm card --artifact $ROOT/{_address(scored.model)} \\\n"
        f"  --items $ROOT/{_address(scored.items)} --preset {Path(preset).name} --out card.md"
    )
    told = [
        *tiny,
        f"Held-out items of `{_address(scored.items)}`, judged: {judges}. Rates have "
        f"{INTERVALS[reports[1].interval]} intervals, means a bootstrap over images.",
        table(rows),
        "The same numbers again, where `$ROOT` is the store's root:",
        f"```bash\n{command}\n```",
    ]
    return "\n\n".join(told)


def _cell(metric: Metric | None) -> str:
    if metric is None or not metric.n:
        return "-"
    return f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"


def _address(artifact: Artifact) -> str:
    return f"{artifact.step}/{artifact.fingerprint}"
