"""Explain: what a trained model answers about one image, and where its safety head looked."""

import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import ConfigError
from schemas.taxonomy import CLEAN
from tasks.answer import check_question, in_words, load_guarded, read_picture, trained
from tasks.overlay import COLOURS, overlay, top_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from model.guard import Answer, GuardedVlm

SIDE = 448  # pixels of a picture in the drawing; small ones are enlarged without smoothing
SIZE = (10.4, 4.5)  # inches; places within it are left, bottom, width, height
SEEN, HEAT, SCALE = (
    (0.03, 0.05, 0.28, 0.647),
    (0.345, 0.05, 0.28, 0.647),
    (0.637, 0.05, 0.012, 0.647),
)
TYPES, LEVELS = (0.81, 0.35, 0.175, 0.347), (0.81, 0.05, 0.175, 0.2)
INK, QUIET, RISKY, SAFE = "#1f2933", "#66717d", "#d55e00", "#0072b2"
STYLE = {
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "text.color": INK,
    "axes.labelcolor": INK,
    "text.parse_math": False,  # a question may hold dollar signs
}


@dataclass(frozen=True)
class Look:
    """What is drawn: the picture [H, W, 3] as the encoder gets it, attention [h, w] over it."""

    picture: "np.ndarray"
    heat: "np.ndarray"
    on_tokens: float
    question: str


def explain_one(
    uri: str,
    image: Path,
    question: str,
    out: Path,
    *,
    policy: str = "",
    max_new_tokens: int = 64,
) -> dict[str, Any]:
    """Verdict, probabilities, action and answer as of `answer`, and the heat map as a PNG.

    `attention` holds the share on the image, the share on the head's own tokens, and the largest
    share of one patch. Where concept tokens told the language model what was seen,
    `type_contributions` and `level_contributions` hold what each concept added to the answer's
    log-probability.

    Raises:
        ConfigError: nothing is asked, the address is not that of a trained stage, no such policy,
            or `out` cannot be written.
        DataError: the file is no image.
    """
    check_question(question)
    artifact, picture = trained(uri), read_picture(image)
    if out.suffix.lower() != ".png" or not out.resolve().parent.is_dir():
        raise ConfigError(f"--out {str(out)!r}: give a .png file in a folder that exists")
    from model.attention import attention, heat_maps

    guarded, intervention = load_guarded(artifact, policy=policy)
    features = guarded.encode([picture])
    # Before the answer, which takes long: a method may have no attention to show.
    seen = attention(guarded.model, features, [question])
    (heat,) = heat_maps(guarded.model, features, seen)
    (found,) = guarded.answer_features(
        features, [question], intervention=intervention, max_new_tokens=max_new_tokens
    )
    look = Look(
        picture=guarded.model.backbone.as_seen(picture).permute(1, 2, 0).numpy(),
        heat=heat.float().cpu().numpy(),
        on_tokens=float(seen.tokens[0]),
        question=question,
    )
    words = {"model": f"{artifact.step}/{artifact.fingerprint}", **in_words(found)}
    words |= _contributions(guarded, features[0], found, question, intervention)
    _draw(look, words, out)
    shares = {
        "image": round(1 - look.on_tokens, 4),
        "tokens": round(look.on_tokens, 4),
        "largest_patch": round(float(look.heat.max()), 4),
    }
    return {**words, "attention": shares, "out": str(out)}


def _contributions(
    guarded: "GuardedVlm", image: Any, found: "Answer", question: str, intervention: str
) -> dict[str, dict[str, float]]:
    """By concept, in nats; nothing where no concept was told."""
    from model.contributions import contributions

    prompt = guarded.prompt(question, found.verdict, intervention=intervention)
    if prompt.concept is None:
        return {}
    types, levels = contributions(guarded.model, image, prompt, found.text)
    names = guarded.taxonomy.type_ids, [level.id for level in guarded.taxonomy.levels]
    return {
        f"{kind}_contributions": {
            name: round(added, 4) for name, added in zip(ids, values, strict=True)
        }
        for kind, ids, values in (("type", names[0], types), ("level", names[1], levels))
    }


def _draw(look: Look, words: dict[str, Any], out: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    levels = words["levels"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=150, facecolor="white")
        _headline(figure, look, words)
        _pictures(figure, look)
        _bars(figure.add_axes(TYPES), words["types"], "risk type", safe=CLEAN)
        _bars(figure.add_axes(LEVELS), levels, "risk level", safe=next(iter(levels)))
        try:
            figure.savefig(out, metadata={"Software": None})
        except OSError as error:
            raise ConfigError(
                f"--out {str(out)!r} cannot be written: {error.strerror}; give another file"
            ) from error


def _headline(figure: Any, look: Look, words: dict[str, Any]) -> None:
    flagged = words["verdict"] != CLEAN
    title = f"{words['verdict']}  ·  risk {words['risk']:.2f}  ·  {words['action']}"
    colour = RISKY if flagged else SAFE
    figure.text(0.03, 0.93, title, fontsize=15, fontweight="bold", color=colour)
    for height, name, text in ((0.875, "asked", look.question), (0.83, "answer", words["answer"])):
        line = textwrap.shorten(text, width=105, placeholder=" …")
        figure.text(0.03, height, name, fontsize=9.5, color=QUIET)
        figure.text(0.085, height, line or "(nothing)", fontsize=9.5)


def _pictures(figure: Any, look: Look) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    large = _enlarged(look.picture)
    left, right = figure.add_axes(SEEN), figure.add_axes(HEAT)
    left.set_title("what the encoder sees", fontsize=10, color=QUIET)
    left.imshow(large)
    right.set_title(
        f"where the head looks ({1 - look.on_tokens:.0%} on the image)",
        fontsize=10,
        color=QUIET,
    )
    right.imshow(overlay(large, look.heat))
    scale = ScalarMappable(Normalize(0, top_of(look.heat)), cmap=COLOURS)
    scale_axes, ticks = figure.add_axes(SCALE), MaxNLocator(5)
    bar = figure.colorbar(scale, cax=scale_axes, ticks=ticks, format=PercentFormatter(1))
    bar.set_label("share of attention per patch", fontsize=9)
    bar.ax.tick_params(labelsize=8.5)
    bar.outline.set_visible(False)
    for axes in (left, right):
        axes.set_xticks([])
        axes.set_yticks([])


def _bars(axes: "Axes", shares: dict[str, float], title: str, *, safe: str) -> None:
    names, values = list(shares), list(shares.values())
    colours = [SAFE if name == safe else RISKY for name in names]
    names = [textwrap.shorten(name, 16, placeholder="…") for name in names]
    axes.barh(range(len(names)), values, color=colours, height=0.66, tick_label=names)
    axes.set_title(f"{title}, probability", fontsize=10, color=QUIET, loc="left")
    axes.set_xlim(0, 1.22)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.tick_params(length=0, labelsize=9)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    for row, value in enumerate(values):
        axes.text(value + 0.02, row, f"{value:.2f}", va="center", fontsize=8.5, color=INK)


def _enlarged(picture: "np.ndarray") -> "np.ndarray":
    """Whole pixels, repeated: what a small image has is shown, nothing is made up."""
    times = max(1, SIDE // max(picture.shape[:2]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)
