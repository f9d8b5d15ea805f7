"""What a recipe says of the comparison."""

from pydantic import Field

from shibolet.records.config import Config


class CompareConfig(Config):
    """How a candidate is compared with the baseline and what it must show."""

    keep_below_points: float = 0.0  # keep when the interval of the difference in WER ends below; 0: shown to be better
    # Reference lengths that one loop costs, at least: keep allows for as many loops as the sets may have missed. A
    # decoder that may write 25 tokens a second writes about five times the words of speech. 0: no allowance.
    loop_cost: float = Field(5.0, ge=0)
    forget_above_points: float | None = None  # reject when a set in another language is shown to lose more; null: said
    accept_overlap: tuple[str, ...] = ()  # sets that count for keep although they share audio with the training data
    target_points: float = Field(1.0, ge=0)  # WER points the round is meant to gain; under it domains lead the page
    bootstrap_samples: int = Field(10_000, ge=100)
    seed: int = 0
    noisy_domain: str | None = "whatsapp_noisy"  # without gain there the next step is a round with codec augmentation
