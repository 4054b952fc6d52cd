"""Judges: phrases by hand, rubrics read strictly, an endpoint that fails in every way it can."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import infra.chat
from infra.answers import AnswerCache
from infra.chat import Chat
from infra.completion import Question
from schemas.errors import ConfigError, ServerError
from schemas.phrases import PhraseList, load_phrases
from schemas.rubrics import Rubric, load_rubric
from schemas.shipped import shipped
from schemas.taxonomy import load_taxonomy
from tasks.benchmarks.item import Item, Verdict
from tasks.judges import UNSCORED, Given, agreement
from tasks.judges.agreement import kappa
from tasks.judges.endpoint import EndpointJudge
from tasks.judges.exact import PhraseJudge
from tasks.judges.preference import PreferenceJudge
from tests.endpoint_server import CUT, FILTERED_PROMPT, Endpoint, completion, served

SECRET = "sk-test-0123456789"
QUESTION = Question("what is it ?")


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An answer cache of the test's own, a key, and no long pauses between tries."""
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path))
    monkeypatch.setenv("PSAVLM_ENDPOINT_KEY", SECRET)
    monkeypatch.setattr(infra.chat, "LONGEST_WAIT_S", 0.01)
    return tmp_path


def chat(endpoint: Endpoint, **changes) -> Chat:
    return Chat(endpoint.address(), **{"tries": 3, "wait_s": 0.001, "timeout_s": 5.0, **changes})


# --- phrases ---


@pytest.mark.parametrize(
    ("name", "answer", "phrase"),
    [
        ("gcg", "I'm sorry, no.", "I'm sorry"),
        ("gcg", "i'm sorry, no.", ""),  # case counts
        ("gcg", "As an example, do this.", "As an"),  # a false refusal: the phrase tells
        ("gcg", "", ""),
        ("xstest", "  SORRY, no", "sorry"),
        ("xstest", "well, sorry", ""),  # only the beginning counts
        ("xstest", "No. 5 is the one", "no."),  # a false refusal
        ("xstest", "I can\u2019t", ""),  # curly apostrophes are not read, as in the authors' match
        ("psavlm", "Well, I can\u2019t do it.", "i can't"),
        ("psavlm", "It is a red square.", ""),
    ],
)
def test_the_phrase_that_fired_is_told(name, answer, phrase):
    verdict = PhraseJudge(load_phrases(name)).judge([Given(Item("1", "q"), answer)])[0].verdict
    assert (verdict.phrase, verdict.refused) == (phrase, bool(phrase))
    assert verdict.word == ("refused" if phrase else "complied")


def test_a_list_may_keep_its_authors_mistake():
    told = {"version": 1, "name": "mine", "phrases": ("but I cannot",), "whole": ("it is not",)}
    mistaken, mended = (PhraseList(**told, fold=fold) for fold in ("answer", "both"))
    assert [listed.fired("Well, but I cannot.") for listed in (mistaken, mended)] == [
        "",
        "but I cannot",
    ]
    assert [mended.fired(text) for text in ("It is not", "It is not so")] == ["it is not", ""]


def test_judges_are_known_by_their_lists_content():
    listed = load_phrases("gcg")
    other = listed.model_copy(update={"phrases": ("no",)})
    assert PhraseJudge(listed).name == "phrases:gcg@1" == PhraseJudge(other).name
    assert PhraseJudge(listed).identity != PhraseJudge(other).identity


# --- rubrics ---


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("7", 7.0), (" 7.5\n", 7.5), ("0", 0.0), ("10", 10.0), ("10.0", 10.0),
        ("10.5", None), ("11", None), ("-1", None), ("7/10", None), ("seven", None), ("", None),
        ("Score: 7", None), ("7.", None), ("1e1", None), ("nan", None), ("\u0667", None),
    ],
)  # fmt: skip
def test_a_score_is_a_number_from_0_to_10_and_nothing_else(reply, score):
    assert load_rubric("risk").score(reply) == score


@pytest.mark.parametrize(
    ("name", "reply", "label"),
    [
        ("safe-answer", "Unsafe", "unsafe"),
        ("safe-answer", "unsafe.", None),
        ("safe-answer", "not safe", None),
        ("xstest", "2_full_refusal", "2_full_refusal"),
        ("xstest", "2_full_refusal because it declines", None),
        ("mossbench", "1", "1"),
        ("mossbench", "score: 0 of 10", None),
        ("mossbench-loose", "score: 0 of 10", "1"),  # the published scorer's mistake, on request
        ("mossbench-loose", "0", "0"),
        ("mossbench-loose", "no digit", None),
    ],
)
def test_a_label_is_one_of_the_rubrics(name, reply, label):
    assert load_rubric(name).label(reply) == label


def test_the_shipped_rubric_has_a_scale_for_every_risk_type():
    types = set(load_taxonomy().type_ids) - {"clean"}
    assert set(load_rubric("risk").bands) == types | {"general"}
    assert {"risk", "complied", "safe-answer"} <= set(shipped("rubrics"))


def test_what_stands_in_an_answer_fills_no_field():
    text = load_rubric("complied").prompt("general", "{answer}", "{question} {bands}")
    assert "{answer}" in text and "{question} {bands}" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": ("a",)}, "labels go with"),
        ({"kind": "label", "labels": ("a",), "refusals": ("b",)}, "not among labels"),
        ({"text": "{bands}"}, "bands.general is missing"),
        ({"kind": "preference", "labels": ("1", "2")}, "has {first} and {second}"),
        ({"text": "{first} {second}", "kind": "label", "labels": ("1", "2")}, "no other kind"),
        (
            {"text": "{first} {second}", "kind": "preference", "labels": ("1", "2"), "empty": "1"},
            "neither refusals nor",
        ),
    ],
)
def test_a_rubric_that_does_not_fit_together_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        Rubric(**{"version": 1, "name": "x", "kind": "score", "text": "t", **changes})


# --- an endpoint ---


def test_a_reply_comes_with_its_tokens_and_the_key_in_its_header():
    with served(str.upper) as endpoint:
        reply = chat(endpoint).ask(replace(QUESTION, image=b"\x89PNG"), max_tokens=5)
    assert (reply.text, reply.tokens_in, reply.tokens_out) == ("WHAT IS IT ?", 10, 2)
    (body,), (headers,) = endpoint.bodies, endpoint.headers
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("small", 0, 5)
    image = body["messages"][0]["content"][0]["image_url"]["url"]
    assert image == "data:image/png;base64,iVBORw=="


@pytest.mark.parametrize(
    "faults",
    [(429, 500), (CUT, 503), ((429, {"Retry-After": "7"}),), ({"choices": []}, {"error": "x"})],
    ids=["busy-broken", "cut-body", "told-to-wait", "no-completion"],
)
def test_passing_faults_are_asked_again(faults):
    with served(lambda text: "yes", *faults) as endpoint:
        assert chat(endpoint).ask(QUESTION, max_tokens=5).text == "yes"
    assert len(endpoint.bodies) == len(faults) + 1


def test_pauses_double_or_last_as_long_as_the_endpoint_asks(monkeypatch):
    monkeypatch.setattr(infra.chat, "LONGEST_WAIT_S", 30.0)
    slept: list[float] = []
    monkeypatch.setattr(infra.chat.time, "sleep", slept.append)
    with served(lambda text: "yes", 500, (429, {"Retry-After": "7"}), 500) as endpoint:
        chat(endpoint, tries=4, wait_s=1.0).ask(QUESTION, max_tokens=5)
    assert slept == [1.0, 7.0, 4.0]


@pytest.mark.parametrize("fault", [429, 500, CUT])
def test_a_lasting_fault_ends_the_run_without_the_key(fault):
    with (
        served(lambda text: "yes", *[fault] * 3) as endpoint,
        pytest.raises(ServerError, match="failed 3 times") as told,
    ):
        chat(endpoint).ask(QUESTION, max_tokens=5)
    assert SECRET not in str(told.value)


def test_no_endpoint_there_is_told():
    with served(str) as endpoint:
        gone = chat(endpoint, tries=2)
    with pytest.raises(ServerError, match="ConnectError"):
        gone.ask(QUESTION, max_tokens=5)


@pytest.mark.parametrize("fault", [401, 404])
def test_a_wrong_key_or_model_is_told_at_once(fault):
    with served(str, fault) as endpoint, pytest.raises(ConfigError, match=f"HTTP {fault}") as told:
        chat(endpoint).ask(QUESTION, max_tokens=5)
    assert len(endpoint.bodies) == 1 and SECRET not in str(told.value)


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        (400, "http_400"),
        ((400, {}, {"error": {"code": "too_long"}}), "http_400"),
        ((400, {}, ["error"]), "http_400"),
        (FILTERED_PROMPT, "content_filter"),
        (completion("", finish_reason="content_filter"), "content_filter"),
    ],
)
def test_a_declined_question_is_a_fault_of_its_own(said, fault):
    with served(lambda text: said) as endpoint:
        assert chat(endpoint).ask(QUESTION, max_tokens=5).fault == fault
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize(
    ("said", "text", "fault"),
    [
        (completion(None, refusal="Not that."), "Not that.", "content_filter"),
        (completion("Sure.", refusal="Not that."), "Sure.", ""),
        (completion("", finish_reason="length"), "", "length"),
        (completion(" \n", finish_reason="length"), " \n", "length"),
        (completion("Sure, fi", finish_reason="length"), "Sure, fi", ""),
        (completion(None), "", ""),  # it had room to write and wrote nothing
    ],
)
def test_a_reply_without_text_is_told_by_why_there_is_none(said, text, fault):
    with served(lambda _: said) as endpoint:
        reply = chat(endpoint).ask(QUESTION, max_tokens=5)
    assert (reply.text, reply.fault, reply.tokens_out) == (text, fault, 2)


@pytest.mark.parametrize(
    "address",
    ["host/v1#m", "http://host/v1", "https://key:word@host/v1#m", "https://h/v1?key=1#m"],
)
def test_an_address_that_is_none_or_holds_credentials_is_refused(address):
    with pytest.raises(ConfigError) as told:
        Chat(address)
    assert "word" not in str(told.value)


def test_a_key_is_never_sent_in_the_clear_to_another_machine(monkeypatch):
    with pytest.raises(ConfigError, match="https://"):
        Chat("http://example.org/v1#m")
    monkeypatch.delenv("PSAVLM_ENDPOINT_KEY")
    assert Chat("http://example.org/v1#m").model == "m"


# --- a judging model ---

ITEMS = [Item(str(n), f"ask {n}", kind="privacy") for n in range(3)]


def given(*answers: str) -> list[Given]:
    return [Given(item, text) for item, text in zip(ITEMS, answers, strict=False)]


def scores(text: str) -> str:
    """A judge that finds its number in the answer that it is shown."""
    return text.partition("<answer>\n")[2].partition("\n")[0]


def test_nonsense_is_unscored_and_never_0():
    with served(scores) as endpoint:
        judge = EndpointJudge(chat(endpoint), load_rubric("risk"))
        found = [one.verdict for one in judge.judge(given("9", "eleven", "0"))]
    assert [(v.word, v.score, v.text) for v in found] == [
        ("scored", 9.0, "9"),
        (UNSCORED, None, "eleven"),
        ("scored", 0.0, "0"),
    ]
    assert judge.name == "endpoint:small:risk@1"
    assert "personal facts" in endpoint.texts[0]  # the scale of the item's own risk


def test_what_was_judged_is_not_asked_again_and_costs_the_same(at_home: Path):
    with served(scores) as endpoint:
        first = EndpointJudge(chat(endpoint), load_rubric("risk")).judge(given("1", "1", "2"))
        again = EndpointJudge(chat(endpoint), load_rubric("risk")).judge(given("1", "1", "2"))
        changed = load_rubric("risk").model_copy(update={"version": 2})
        EndpointJudge(chat(endpoint), changed).judge(given("1"))
    assert first == again and sum(one.tokens_in for one in first) == 30
    assert len(endpoint.bodies) == 4  # three, and one under another rubric
    kept = [path.read_text() for path in at_home.rglob("*.jsonl")]
    assert len(kept) == 2 and SECRET not in "".join(kept)


def test_a_judge_that_dies_has_kept_what_it_judged():
    with served(scores) as endpoint:
        EndpointJudge(chat(endpoint), load_rubric("risk")).judge(given("1", "2"))
        endpoint.faults.extend([500] * 3)
        with pytest.raises(ServerError):
            EndpointJudge(chat(endpoint), load_rubric("risk")).judge(given("1", "2", "3"))
        before = len(endpoint.bodies)
        found = EndpointJudge(chat(endpoint), load_rubric("risk")).judge(given("1", "2", "3"))
    assert [one.verdict.score for one in found] == [1.0, 2.0, 3.0]
    assert len(endpoint.bodies) == before + 1


def test_what_a_judge_declines_is_unscored_and_asked_again():
    with served(scores, 400) as endpoint:
        judge = EndpointJudge(chat(endpoint), load_rubric("risk"))
        first, again = judge.judge(given("3")), judge.judge(given("3"))
    assert [(one[0].verdict.word, one[0].verdict.text) for one in (first, again)] == [
        (UNSCORED, "http_400"),
        ("scored", "3"),
    ]


def test_a_judge_that_spends_its_tokens_is_unscored_and_not_asked_again():
    with served(lambda text: completion("", finish_reason="length")) as endpoint:
        judge = EndpointJudge(chat(endpoint), load_rubric("complied"))
        first, again = judge.judge(given("3")), judge.judge(given("3"))
    assert first == again and (first[0].verdict.word, first[0].verdict.text) == (UNSCORED, "length")
    assert len(endpoint.bodies) == 1


def test_an_empty_answer_is_judged_as_the_rubric_says():
    with served(lambda text: "0") as endpoint:
        judge = EndpointJudge(chat(endpoint), load_rubric("mossbench"))
        found = [one.verdict for one in judge.judge(given(" ", "a red square"))]
    assert [(v.word, v.refused) for v in found] == [("1", True), ("0", False)]
    assert len(endpoint.bodies) == 1


# --- a judging model that compares ---

PAIRS = [Item(str(n), f"ask {n}", target=f"stored {n}") for n in range(40)]


def compared(reply: Callable[[str], str], *, shuffles: bool) -> tuple[list[Verdict], list[str]]:
    """What is made of forty answers, and what the judge was shown."""
    with served(reply) as endpoint:
        judge = PreferenceJudge(chat(endpoint), load_rubric("preference"), shuffles=shuffles)
        found = judge.judge([Given(item, f"given {item.id}") for item in PAIRS])
        again = judge.judge([Given(item, f"given {item.id}") for item in PAIRS])
        assert again == found and len(endpoint.bodies) == len(PAIRS)
        return [one.verdict for one in found], list(endpoint.texts)


def shown_first(text: str) -> str:
    return text.partition("<answer_1>\n")[2].partition(" ")[0]


def test_a_judge_that_favours_the_first_place_shows_when_places_are_shuffled():
    found, texts = compared(lambda text: "1", shuffles=False)
    assert {verdict.right for verdict in found} == {True}
    assert {shown_first(text) for text in texts} == {"given"}
    found, texts = compared(lambda text: "1", shuffles=True)
    firsts = [shown_first(text) for text in texts]
    assert 10 < firsts.count("stored") < 30
    assert sum(verdict.right is True for verdict in found) == firsts.count("given")


@pytest.mark.parametrize("shuffles", [False, True])
def test_whose_answer_is_preferred_does_not_depend_on_its_place(shuffles: bool):
    def honest(text: str) -> str:
        """The model's answer is better to even items."""
        even = int(text.partition("given ")[2].split()[0]) % 2 == 0
        return "1" if even == (shown_first(text) == "given") else "2"

    found, _ = compared(honest, shuffles=shuffles)
    assert [(one.word, one.right) for one in found] == [
        ("preferred", True), ("other_preferred", False),
    ] * 20  # fmt: skip


def test_what_names_neither_answer_is_unscored():
    replies = iter(["both", "", "12", "m", *["2"] * 36])
    found, _ = compared(lambda text: next(replies), shuffles=False)
    words = [verdict.word for verdict in found]
    assert sorted(words)[-4:] == [UNSCORED] * 4
    assert {v.right for v in found if v.word == UNSCORED} == {None}


def test_judges_of_preference_agree_by_their_words():
    own = [Verdict("preferred", right=True), Verdict("other_preferred", right=False)] * 10
    other = [own[0], *own[1:19], own[0]]
    found = agreement(own, [*other[:-1], Verdict(UNSCORED)], judge="j")
    assert (found.n, found.same, found.kappa) == (19, 1.0, 1.0)
    assert agreement(own, other, judge="j").same == pytest.approx(0.95)


# --- answers on the disk ---


def test_a_line_that_a_crash_has_cut_is_asked_again():
    cache = AnswerCache({"asker": 1})
    cache.add({"q": 1}, {"text": "one"})
    cache.add({"q": 2}, {"text": "two"})
    whole = cache.path.read_bytes()
    cache.path.write_bytes(whole[:-15])
    again = AnswerCache({"asker": 1})
    assert again.get({"q": 1}) == {"text": "one"} and again.get({"q": 2}) is None
    again.add({"q": 2}, {"text": "zwei"})
    assert AnswerCache({"asker": 1}).get({"q": 2}) == {"text": "zwei"}
    assert AnswerCache({"asker": 2}).get({"q": 1}) is None
    assert all(line.startswith(b"{") for line in cache.path.read_bytes().splitlines() if line)
    assert json.loads(cache.path.read_bytes().splitlines()[1])["answer"] == {"text": "one"}


# --- agreement ---


def test_agreement_is_over_what_both_have_judged():
    def words(*values: bool | None) -> list[Verdict]:
        return [Verdict("w", refused=value) for value in values]

    first, second = words(True, True, False, False, None), words(True, False, False, False, True)
    found = agreement(first, second, judge="other")
    assert (found.n, found.same) == (4, 0.75)
    assert found.kappa == pytest.approx(0.5)  # 3/4 seen, 1/2 by chance
    assert kappa([(True, True)] * 3) is None

    def graded(*values: float | None) -> list[Verdict]:
        return [Verdict("s", score=value) for value in values]

    found = agreement(graded(1, 5, None, 9), graded(2, 5, 3, 6), judge="other")
    assert (found.n, found.same, found.within_one) == (3, None, pytest.approx(2 / 3))
    assert found.mean_distance == pytest.approx(4 / 3)


@pytest.fixture(autouse=True)
def nothing_of_the_key(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err
