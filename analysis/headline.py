"""The three measured claims in words: what was claimed, what was measured, and whether it holds."""

from dataclasses import dataclass
from typing import Literal

from analysis.front import front_members, knee
from analysis.records import Front, Headline, TrialRecord
from analysis.text import MISSING, config_summary, loss_text, percent_text
from search.units import format_memory

# What is commonly said of LoRA against full fine-tuning, and what this project set out to measure. Figures are
# judged as they are shown, to two decimals: 89.9 % reads 90 %.
CLAIMED_RETENTION = 0.90
CLAIMED_MEMORY_RATIO = 1 / 3
CLAIMED_SPEEDUP = 2.0

Verdict = Literal["met", "missed", "unknown"]


@dataclass(frozen=True)
class Claim:
    """One of the three figures: ``value`` is the measurement as text, ``sentence`` says what it means."""

    title: str
    value: str
    claimed: str
    sentence: str
    verdict: Verdict


def recommended(front: Front) -> TrialRecord | None:
    """The knee of the front, None while nothing has completed."""
    members = front_members(front)
    return knee(members) if members else None


def claims(front: Front, full_trial: TrialRecord | None = None) -> list[Claim]:
    """Retention, memory and speed of the recommended trial, in this order, measured or not.

    ``full_trial`` is the full fine-tuning record in whatever state: it says why there is no baseline.
    """
    trial = recommended(front)
    headline = front.headlines.get("knee")
    if trial is None or headline is None or headline.speedup is None:
        why = _why_unknown(front, trial, full_trial)
        memory = Claim("of full fine-tuning's memory", MISSING, "claimed: one third", why, "unknown")
        if trial is not None and headline is not None:
            memory = _predicted_memory_claim(front, trial, headline.memory_ratio)
        return [
            Claim("of full fine-tuning's gain kept", MISSING, "claimed: 90 %", why, "unknown"),
            memory,
            Claim("the training speed", MISSING, "claimed: 2 to 3 ×", why, "unknown"),
        ]
    return [
        _retention_claim(front, trial, headline),
        _memory_claim(front, trial, headline.memory_ratio),
        _speed_claim(front, trial, headline.speedup),
    ]


def headline_lines(front: Front, full_trial: TrialRecord | None = None) -> list[str]:
    """The headline as plain sentences for a terminal: three, or fewer when figures are not known."""
    trial = recommended(front)
    if trial is None:
        return [_why_unknown(front, trial, full_trial)]
    figures = claims(front, full_trial)
    if front.baseline is None or figures[1].verdict == "unknown":
        memory = format_memory(trial.peak_memory_bytes or 0)
        loss = loss_text(trial.eval_loss, trial.eval_loss_stderr)
        found = f"Recommended: {trial.trial_id} ({config_summary(trial.config)}), loss {loss}, {memory}."
        return [found, *dict.fromkeys(claim.sentence for claim in figures)]
    return [f"{claim.sentence.removesuffix('.')} ({claim.claimed})." for claim in figures]


def _retention_claim(front: Front, trial: TrialRecord, headline: Headline) -> Claim:
    title, claimed = "of full fine-tuning's gain kept", "claimed: 90 %"
    retention = headline.retention
    if retention is None:
        why = (
            "The untouched model was not evaluated, so what fine-tuning gains is unknown."
            if front.base is None
            else "Full fine-tuning did not improve on the untouched model here, so there is no gain to keep."
        )
        return Claim(title, MISSING, claimed, why, "unknown")
    share = percent_text(retention)
    losses = f"{trial.trial_id} reaches loss {loss_text(trial.eval_loss)}"
    if front.base and front.baseline:
        losses += f", full fine-tuning {loss_text(front.baseline.eval_loss)}, the untouched model"
        losses += f" {loss_text(front.base.eval_loss)}"
    if retention < 0:
        meaning = "Quality: worse than the untouched model."
    elif retention > 1:
        meaning = f"Quality: {share} of full fine-tuning's gain, so better than full fine-tuning did here."
    else:
        meaning = f"Quality: {share} of full fine-tuning's gain is kept."
    verdict: Verdict = "met" if round(retention, 2) >= CLAIMED_RETENTION else "missed"
    if headline.test_retention is not None:
        tested = percent_text(headline.test_retention)
        losses += f"; on test examples and with new seeds {tested}"
        if headline.test_retention_interval is not None:
            low, high = map(percent_text, headline.test_retention_interval)
            losses += f", with 95 % confidence {low} to {high}"
    return Claim(title, share, claimed, f"{meaning[:-1]}: {losses}.", verdict)


def _predicted_memory_claim(front: Front, trial: TrialRecord, ratio: float) -> Claim:
    """Where full fine-tuning was not run, its memory is known from a prediction alone."""
    own, full = (
        format_memory(memory or 0) for memory in (trial.peak_memory_bytes, front.predicted_full_memory_bytes)
    )
    sentence = f"Memory: {own} against {full} that full fine-tuning is predicted to need, {percent_text(ratio)} of it."
    verdict: Verdict = "met" if round(ratio, 2) <= CLAIMED_MEMORY_RATIO else "missed"
    return Claim(
        "of full fine-tuning's memory, predicted",
        percent_text(ratio),
        "claimed: one third",
        sentence,
        verdict,
    )


def _memory_claim(front: Front, trial: TrialRecord, ratio: float) -> Claim:
    full = format_memory(front.baseline.peak_memory_bytes if front.baseline else 0)
    own = format_memory(trial.peak_memory_bytes or 0)
    comparison = "no less than" if ratio >= 1 else "against"
    sentence = f"Memory: {own} {comparison} {full} for full fine-tuning, {percent_text(ratio)} of it."
    verdict: Verdict = "met" if round(ratio, 2) <= CLAIMED_MEMORY_RATIO else "missed"
    return Claim("of full fine-tuning's memory", percent_text(ratio), "claimed: one third", sentence, verdict)


def _speed_claim(front: Front, trial: TrialRecord, speedup: float) -> Claim:
    full = front.baseline.tokens_per_second if front.baseline else 0.0
    slower = " (slower)" if round(speedup, 2) < 1 else ""
    sentence = (
        f"Speed: {trial.tokens_per_second or 0:,.0f} training tokens per second against {full:,.0f}, "
        f"{speedup:.2f} times full fine-tuning's{slower}."
    )
    verdict: Verdict = "met" if round(speedup, 2) >= CLAIMED_SPEEDUP else "missed"
    return Claim("the training speed", f"{speedup:.2f} ×", "claimed: 2 to 3 ×", sentence, verdict)


def _why_unknown(front: Front, trial: TrialRecord | None, full_trial: TrialRecord | None) -> str:
    if trial is None:
        return "No trial has completed, so there is nothing to recommend yet."
    if front.baseline is not None:
        return f"{trial.trial_id} has no training speed on record to compare with full fine-tuning."
    if full_trial is None:
        return "Full fine-tuning was not run, so there is nothing to compare with."
    reason = f" ({full_trial.error})" if full_trial.error else ""
    return (
        f"The full fine-tuning baseline is {full_trial.status}{reason}, so there is nothing to compare with."
    )
