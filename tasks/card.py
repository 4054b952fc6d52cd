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
from schemas.report import METRICS, ArmReport, Metric
from tasks.base_model import FOLDER, known_as
from tasks.compare.sides import samples_of
from tasks.evaluate.step import read_report
from tasks.export import NOTE, README, readme
from tasks.report.markdown import NOTE as TINY
from tasks.report.markdown import table
from tasks.report.rows import from_world

OTHER, UNNAMED = "other", "none named"
LOWER = " (lower is better)"


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
    licences = _licences(scored.trained_on)
    base, revision = known_as(stores[scored.base.uri], scored.base)
    head = _head(scored, reports[1], licence=rolled_up(licences), base=base)
    parts = [
        head,
        f"# {scored.name}",
        _what(scored, stores[scored.model.uri], base, revision),
        "## Evaluation",
        _numbers(scored, reports, preset),
        "## Licences",
        _licence_words(licences),
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


def rolled_up(licences: list[dict[str, Any]]) -> str:
    """One licence for all: that of every row if there is one, else `other`, told in the text."""
    names = {one["licence"] for one in licences}
    return names.pop().lower() if len(names) == 1 and "" not in names else OTHER


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
            "name": f"{METRICS[name]}, n = {metric.n}, 95 % [{metric.low:.4f}, {metric.high:.4f}]",
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
            "in % [95 % interval]": words.removesuffix(LOWER),
            "better": "lower" if words.endswith(LOWER) else "higher",
            "n": str(reports[1].metrics[name].n),
            **{
                side: _cell(report.metrics.get(name))
                for side, report in zip(("base", "this model"), reports, strict=True)
            },
        }
        for name, words in METRICS.items()
        if name in reports[1].metrics and reports[1].metrics[name].n
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
        f"Held-out items of `{_address(scored.items)}`, judged: {judges}. Rates have Wilson "
        "intervals, means a bootstrap over images.",
        table(rows),
        "The same numbers again, where `$ROOT` is the store's root:",
        f"```bash\n{command}\n```",
    ]
    return "\n\n".join(told)


def _cell(metric: Metric | None) -> str:
    if metric is None or not metric.n:
        return "-"
    return f"{100 * metric.value:.1f} [{100 * metric.low:.1f}, {100 * metric.high:.1f}]"


def _licences(labelled: Artifact | None) -> list[dict[str, Any]]:
    """Licence, source, rows and images of the snapshot that the model learnt from."""
    if labelled is None:
        return []
    store = Store(labelled.uri.rsplit("/", 2)[0])
    verdict = json.loads((store.local(labelled) / "verdict.json").read_bytes())
    found: list[dict[str, Any]] = verdict["licences"]
    return found


def _licence_words(licences: list[dict[str, Any]]) -> str:
    if not licences:
        return "The model does not say what it was trained on, so nothing is known of licences."
    rows = [
        {
            "licence": one["licence"] or UNNAMED,
            "source": one["source"],
            "rows": str(one["rows"]),
            "images": str(one["images"]),
        }
        for one in licences
    ]
    closed = sorted({one["licence"] for one in licences if one["non_commercial"]})
    told = []
    if closed:
        told.append(f"Part of the data forbids commercial use ({', '.join(closed)}).")
    if any(not one["named"] for one in licences):
        told.append("Part of the data names no licence: ask its source before you use the model.")
    told.append("The base model's own licence comes on top. The snapshot that it was trained on:")
    return f"{' '.join(told)}\n\n{table(rows)}"


def _address(artifact: Artifact) -> str:
    return f"{artifact.step}/{artifact.fingerprint}"
