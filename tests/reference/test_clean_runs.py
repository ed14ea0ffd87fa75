"""Runs without a mistake, in many precisions and forms: none may be called anything but within noise."""

import pytest
from support import needs

needs.module("torch", "transformers")

from support.independent.clean import WAYS, clean_run

from gpt2np.reference.comparison import compare

IN_THE_SUITE = 2 * len(WAYS)  # two of each; the page has those that follow
NARROW = [1666, 1732]  # two numbers wide: noise of logits far larger than 1, means far larger than deviations


def alarm(seed, folder):
    run = clean_run(seed, folder)
    found = compare(run.dump, run.model, run.ids, names=run.names, prefill=run.prefill)
    said = (found.verdict, found.site, found.mistake, found.refused)
    return None if said == ("within-noise", None, None, ()) else f"seed {seed}, {run}: {said}"


@pytest.mark.every(3)
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
@pytest.mark.parametrize("way", WAYS)
def test_no_false_alarm(tmp_path, way):
    seeds = range(list(WAYS).index(way), IN_THE_SUITE, len(WAYS))
    alarms = [alarm(seed, tmp_path / str(seed)) for seed in seeds]
    assert not any(alarms), "\n".join(filter(None, alarms))


@pytest.mark.parametrize("seed", NARROW)
def test_no_false_alarm_in_two_numbers_of_half_precision(tmp_path, seed):
    assert alarm(seed, tmp_path) is None


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
def test_no_false_alarm_in_five_hundred(tmp_path):
    alarms = [alarm(seed, tmp_path / str(seed)) for seed in range(1000, 1500)]
    assert not any(alarms), "\n".join(filter(None, alarms))
